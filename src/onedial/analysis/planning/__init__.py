"""How many tries which prompt gets: beliefs about solve rates, allocators for training, and the planner."""

from __future__ import annotations

from onedial.analysis.planning.planner import Plan, plan
from onedial.analysis.planning.posterior import Beliefs, PromptCounts, believe

__all__ = ["Beliefs", "Plan", "PromptCounts", "believe", "plan"]
