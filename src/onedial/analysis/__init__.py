"""The analysis wing: readers of rollout logs, figures and findings, the planner and the page. It needs no torch."""
