"""A run's folder in the storage root: checkpoints, result, who trains in it, and how it is found again."""
