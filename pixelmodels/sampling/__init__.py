"""Exact samples: the engine, which draws all of them, and the slow reference sampler that it is tested against."""

from pixelmodels.sampling.engine import Engine, QueueFull, Request, RowDone, draw_all, sample
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.reference import reference_sample

__all__ = ["Engine", "QueueFull", "Request", "RowDone", "draw_all", "noise", "reference_sample", "sample"]
