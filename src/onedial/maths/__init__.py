"""Pure functions of tensors: groups, advantages, surrogates, losses, dispersion, evaluation."""
