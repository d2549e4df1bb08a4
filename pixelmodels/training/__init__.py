"""Recipes and suites, the per-worker loop, its wiring into Ray Train, checkpoints and exact evaluation."""
