"""Tasks: where prompts come from and how their completions are judged."""

from onedial.training.tasks.registry import TASKS, open_task
from onedial.training.tasks.task import EndlessSource, FiniteSource, Task, TaskSource, assign_split, verify
from onedial.training.verify.answer import boxed, last_number, last_word

__all__ = [
    "TASKS",
    "EndlessSource",
    "FiniteSource",
    "Task",
    "TaskSource",
    "boxed",
    "last_number",
    "last_word",
    "open_task",
    "assign_split",
    "verify",
]
