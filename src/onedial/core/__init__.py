"""What the other parts share: types, the algorithm table, settings, formulas, and the files of a run."""
