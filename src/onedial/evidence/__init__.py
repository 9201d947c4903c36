"""Evidence: what the documents of the field say, made visible and checkable. It needs no torch."""
