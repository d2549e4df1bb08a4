"""A model held against a data set: likelihoods of each image, pictures, probes, tables of results."""
