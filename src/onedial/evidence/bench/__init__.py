"""Measures our speed and memory, those of other libraries, and the limits of the machine, in one run."""
