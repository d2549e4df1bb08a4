"""Trained models behind HTTP: samples, completions and scores from batched samplers on Ray Serve."""
