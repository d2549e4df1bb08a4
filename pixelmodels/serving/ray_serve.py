"""What Ray Serve asks of an application: which sampler gets a request, how many there are to be, where they listen for each other.

The first two count images, not requests: one may be of a thousand.
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any

import ray
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from pixelmodels.internals import bind_serve_replicas
from pixelmodels.serving.schemas import ExplanationRequest, SampleRequest, ScoreRequest

METRIC = "unfinished_images"  # what samplers tell of themselves, for `ImagesPolicy`


@cache  # once in a process
def listen_on_the_nodes_address() -> None:
    """To be called in a replica's constructor, before Serve opens its port: others find it by the address of its Ray node, there alone."""
    bind_serve_replicas(ray.util.get_node_ip_address())


class ImagesPolicy:
    """How many samplers there are to be, within the bounds and delays of the deployment's autoscaling configuration."""

    def __init__(self, images_per_replica: int = 128):
        self.images_per_replica = images_per_replica

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted, and no state."""
        images = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        wanted = math.ceil(images / self.images_per_replica)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}


class FewestImages(RequestRouter):
    """Gives a request to the sampler with the fewest unfinished images: what the one ingress has given it is all that it has to do."""

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
        if request_id not in self._given:  # it may be given up before it is sent anywhere
            pending_request.future.add_done_callback(lambda future: self._given.pop(request_id, None) if future.cancelled() else None)
        self._given[request_id] = replica_id, num_images


def images_of(args: Any) -> int:
    """Images of a call: those to draw, to score or to explain; 0 of a call about the sampler itself."""
    asked = args[0] if args else None
    if isinstance(asked, ScoreRequest | ExplanationRequest):
        return len(asked.images)
    return asked.n if isinstance(asked, SampleRequest) else 0
