"""Which sampler a request is given to; the router as Serve makes it, of replicas that are names."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID

from pixelmodels.serving.ray_serve import FewestImages
from pixelmodels.serving.schemas import CompletionRequest, SampleRequest, ScoreRequest

REPLICAS: Any = [SimpleNamespace(replica_id=name) for name in "abc"]


def router() -> FewestImages:
    made = FewestImages(DeploymentID("Sampler", "pixelmodels"), DeploymentHandleSource.REPLICA)
    made.initialize_state()
    return made


class Routed:
    """Requests on their way through a router."""

    def __init__(self) -> None:
        self.router, self.num = router(), 0

    async def give(self, *args: Any) -> tuple[str, Any]:
        """The sampler that is asked first, and the request."""
        self.num += 1
        pending = SimpleNamespace(
            args=args,
            metadata=SimpleNamespace(internal_request_id=str(self.num)),
            future=asyncio.get_running_loop().create_future(),
            routing_context=SimpleNamespace(should_backoff=False),
        )
        ranks = await self.router.choose_replicas(REPLICAS, pending)  # type: ignore[arg-type]
        assert sorted(replica.replica_id for (replica,) in ranks) == ["a", "b", "c"] and pending.routing_context.should_backoff
        return ranks[0][0].replica_id, pending


def test_the_sampler_with_the_fewest_images_is_asked_first() -> None:
    async def run() -> None:
        routed = Routed()
        large = [await routed.give(SampleRequest(n=50), 60.0) for _ in range(3)]
        assert {name for name, _ in large} == {"a", "b", "c"}
        routed.router.on_request_completed(*large[1][:1], large[1][1].metadata.internal_request_id)
        for _ in range(49):  # many requests of one image go where there is no large one
            assert (await routed.give(ScoreRequest(images=["x"]), 60.0))[0] == large[1][0]
        assert (await routed.give())[0] == large[1][0]  # what is asked about a sampler itself is no image
        assert (await routed.give(CompletionRequest(n=2, image="x", known_rows=1), 60.0))[0] == large[1][0]
        assert (await routed.give(SampleRequest(), 60.0))[0] != large[1][0]

    asyncio.run(run())


@pytest.mark.parametrize("how", ["completed", "given up", "moved"])
def test_images_count_until_their_request_has_ended(how: str) -> None:
    async def run() -> None:
        routed = Routed()
        name, pending = await routed.give(SampleRequest(n=5), 60.0)
        if how == "completed":
            routed.router.on_request_completed(name, pending.metadata.internal_request_id)  # type: ignore[arg-type]
            routed.router.on_request_routed(pending, name, None)  # type: ignore[arg-type]
        elif how == "given up":
            pending.future.cancel()
            await asyncio.sleep(0)
        else:  # another sampler took it
            routed.router.on_request_routed(pending, "abc".replace(name, "")[0], None)  # type: ignore[arg-type]
        assert sum(images for _, images in routed.router._given.values()) == (5 if how == "moved" else 0)
        assert name not in [replica_id for replica_id, _ in routed.router._given.values()]

    asyncio.run(run())
