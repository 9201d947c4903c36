"""Prompts to judged groups: engines that write completions, and the collector that gathers groups."""
