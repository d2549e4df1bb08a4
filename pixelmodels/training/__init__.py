"""One run, and all runs of a suite: the workers' loop, Ray Train around it, what it costs, and the command."""
