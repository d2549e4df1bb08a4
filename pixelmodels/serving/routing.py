"""Which sampler a request is given to: the one with the fewest unfinished images, as one request may be of a thousand."""

from __future__ import annotations

import random
from asyncio import Future
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from pixelmodels.serving.schemas import SampleRequest, ScoreRequest


class FewestImages(RequestRouter):
    """A request router of Ray Serve. There is one ingress, so that what it has given to a sampler is all that this one has to do."""

    def initialize_state(self, **_: Any) -> None:
        """Called by Serve before the first request."""
        self._given: dict[str, tuple[ReplicaID, int]] = {}  # of each request that is not answered: whose it is, and its images

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All of them, the one with the fewest images first; of equal ones any."""
        images = dict.fromkeys((replica.replica_id for replica in candidate_replicas), 0)
        for replica_id, num_images in list(self._given.values()):
            if replica_id in images:
                images[replica_id] += num_images
        ranked = sorted(candidate_replicas, key=lambda replica: (images[replica.replica_id], random.random()))
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            if ranked:
                self._give(pending_request, ranked[0].replica_id)
        return [[replica] for replica in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """The sampler has it: nearly always the first that was chosen."""
        if pending_request.metadata.internal_request_id in self._given:  # it may be answered already
            self._give(pending_request, replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It is answered, was given up, or its sampler ended."""
        self._given.pop(internal_request_id, None)

    def _give(self, pending_request: PendingRequest, replica_id: ReplicaID) -> None:
        """Its images count from the moment of the choice: others are routed before the sampler has said that it has them."""
        request_id, num_images = pending_request.metadata.internal_request_id, images_of(pending_request.args)
        if not num_images:
            return
        if request_id not in self._given:

            def given_up(future: Future[Any]) -> None:
                if future.cancelled():  # before it was sent anywhere
                    self._given.pop(request_id, None)

            pending_request.future.add_done_callback(given_up)
        self._given[request_id] = replica_id, num_images


def images_of(args: Any) -> int:
    """Images of a call: those to draw or to score; 0 of a call about the sampler itself."""
    asked = args[0] if args else None
    if isinstance(asked, ScoreRequest):
        return len(asked.images)
    return asked.n if isinstance(asked, SampleRequest) else 0
