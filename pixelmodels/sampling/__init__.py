"""Exact samples: the raster sampler over the passes, and the slow reference sampler that it is tested against."""

from pixelmodels.sampling.interpolation import interpolate
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.raster import sample
from pixelmodels.sampling.reference import reference_sample

__all__ = ["interpolate", "noise", "reference_sample", "sample"]
