"""The training wing: models, rollouts, verification, tasks, allocators and the trainer."""
