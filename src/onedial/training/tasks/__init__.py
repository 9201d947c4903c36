"""Tasks: where prompts come from and how their completions are judged."""

from onedial.training.tasks.registry import TASKS, open_task
from onedial.training.tasks.task import EndlessSource, FiniteSource, Task, TaskSource, split_of, verify
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
    "split_of",
    "verify",
]
