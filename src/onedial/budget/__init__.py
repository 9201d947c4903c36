"""How many tries which prompt gets: beliefs about solve rates, allocators for training, and the planner."""

from __future__ import annotations

from onedial.budget.planner import Plan, plan
from onedial.budget.posterior import Beliefs, PromptCounts, believe

__all__ = ["Beliefs", "Plan", "PromptCounts", "believe", "plan"]
