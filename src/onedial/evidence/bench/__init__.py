"""Measuring our speed and memory beside the peers' and the machine's own ceiling, in one run."""
