"""Samples for a person or a file: what is drawn, in blocks, and as which files."""
