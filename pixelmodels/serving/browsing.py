"""What is asked of the service besides samples and scores: which versions there are, how an image is fitted, images of the data set."""

from __future__ import annotations

from fastapi import FastAPI

from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.schemas import ERRORS, FitRequest, Fitted, ModelInfo, Versions


def add_routes(app: FastAPI, gateway: Gateway) -> None:
    """Add them to an application."""

    @app.get("/v1/versions", responses=ERRORS)
    async def versions() -> Versions:
        """All versions of the names that are served, their figures, and the decisions on them: the leaderboard."""
        return await gateway.versions()

    @app.get("/v1/models/{address:path}", responses=ERRORS)
    async def model(address: str) -> ModelInfo:
        """What one version takes; it is loaded where no sampler holds it."""
        return await gateway.model(address)

    @app.post("/v1/fits", responses=ERRORS)
    async def fits(asked: FitRequest) -> Fitted:
        """Images of any size and format as a model sees them: cropped, resized and quantized as data are prepared."""
        return await gateway.fit(asked)
