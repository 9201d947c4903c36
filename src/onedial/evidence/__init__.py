"""Evidence: paired comparisons, claims of the field measured again, a page of sliders, and our speed."""
