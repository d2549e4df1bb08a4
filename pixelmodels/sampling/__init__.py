"""Exact samples: the engine and the plain sampler over the passes, and the slow reference sampler that they are tested against."""

from pixelmodels.sampling.engine import Engine, QueueFull, Request, RowDone, draw_all
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.raster import sample
from pixelmodels.sampling.reference import reference_sample

__all__ = ["Engine", "QueueFull", "Request", "RowDone", "draw_all", "noise", "reference_sample", "sample"]
