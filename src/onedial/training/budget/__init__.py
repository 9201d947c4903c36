"""Which prompts are sampled next, and how many rollouts each gets."""
