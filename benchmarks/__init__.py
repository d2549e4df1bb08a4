"""Scripts that measure, and the dated results that they wrote."""
