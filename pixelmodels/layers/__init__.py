"""Causal layers, each with its passes side by side: the whole image, one row, one pixel, a row that is known."""
