"""Which images are unlike those that a model was trained on, by several scores, each with its false-alarm rate."""
