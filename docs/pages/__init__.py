"""Pages of the site that nobody writes: made of docstrings, of `--help`, of the service's own schema and of benchmark results."""
