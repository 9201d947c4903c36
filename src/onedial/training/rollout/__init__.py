"""From prompts to judged groups: engines that generate completions, and the collector that assembles groups."""
