"""How many tries each prompt should get: beliefs about solve rates, and the planner that spends a budget by them."""

from __future__ import annotations

from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.planner import BudgetPlan, plan
from onedial.analysis.planning.posterior import Beliefs, believe

__all__ = ["Beliefs", "BudgetPlan", "PromptCounts", "believe", "plan"]
