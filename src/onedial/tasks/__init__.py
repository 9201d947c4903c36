"""Tasks: where prompts come from and how their completions are judged."""

from onedial.tasks.registry import TASKS, open_task
from onedial.tasks.task import EndlessSource, FiniteSource, Task, TaskSource, split_of, verify

__all__ = ["TASKS", "EndlessSource", "FiniteSource", "Task", "TaskSource", "open_task", "split_of", "verify"]
