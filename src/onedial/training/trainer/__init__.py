"""Training: packing, models, the optimiser step, checkpoints and the loop."""
