"""One module per claim; each holds a `CLAIM`, and the catalog lists them."""
