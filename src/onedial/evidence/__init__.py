"""Evidence: paired comparisons, claims of the literature measured again, an interactive page, and our speed."""
