"""Lossless files of images, coded by a model's exact tables: about as many bits as its negative log-likelihood."""
