"""Pure torch: no I/O, no model, no collective. Every formula of the family, once."""
