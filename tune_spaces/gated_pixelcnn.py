"""Gated PixelCNN: what a PixelCNN's space has, and gating."""

from __future__ import annotations

from typing import Any, ClassVar

from pixelmodels.tuning.space import Ask
from tune_spaces.pixelcnn import PixelCNNSpace


class GatedPixelCNNSpace(PixelCNNSpace):
    """Recipes of `gated_pixelcnn`."""

    architectures: ClassVar[tuple[str, ...]] = ("gated_pixelcnn",)

    def own_fields(self, ask: Ask, model: Any) -> dict[str, Any]:
        """Gating, on or off."""
        return {"gating": ask.choice("gating", model.gating, (True, False))}
