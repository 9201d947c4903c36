"""Pure torch: no I/O, no model, no collective. Every formula is implemented once."""
