"""Models of Inspect."""
