"""Evidence: claims of the field measured again, a page on which the algorithms can be tried, and our speed."""
