"""How many samplers there are to be: by the images that are unfinished, not by requests (one may be of a thousand images)."""

from __future__ import annotations

import math
from typing import Any

METRIC = "unfinished_images"


class ImagesPolicy:
    """A policy of Ray Serve; its bounds and delays are those of the deployment's autoscaling configuration."""

    def __init__(self, images_per_replica: int = 128):
        self.images_per_replica = images_per_replica

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted, and no state."""
        images = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        wanted = math.ceil(images / self.images_per_replica)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}
