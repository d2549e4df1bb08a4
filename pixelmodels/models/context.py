"""What images are conditioned on, and how it reaches the layers: as feature maps, made once for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelmodels.errors import UserError


@dataclass(frozen=True)
class ContextSpec:
    """The kinds of context that a model is built for."""

    num_classes: int = 0  # labels are 0..num_classes-1; 0: not conditioned on a label

    def __bool__(self) -> bool:
        return self.num_classes > 0


@dataclass(frozen=True)
class Context:
    """What the images of a batch are conditioned on."""

    label_B: Tensor | None = None  # class labels, integers, one for each image


class ContextEncoder(nn.Module):
    """Context to features `c_BHWD`, where H and W are 1 for what holds for the whole image."""

    def __init__(self, spec: ContextSpec, num_features: int):
        super().__init__()
        self.spec = spec
        self.label = nn.Embedding(spec.num_classes, num_features)

    def forward(self, context: Context | None, batch: int) -> Tensor:
        """Raises `UserError` where a label is missing or out of range."""
        label_B = self.check_labels(context, batch)
        c_B11D: Tensor = self.label(label_B)[:, None, None]
        return c_B11D

    def check_labels(self, context: Context | None, batch: int) -> Tensor:
        """The labels of a batch, checked."""
        known = f"0..{self.spec.num_classes - 1}"
        if context is None or context.label_B is None:
            raise UserError(f"this model is conditioned on a class label; give one of {known} for each image")
        label_B = torch.as_tensor(context.label_B, device=self.label.weight.device).long()
        if label_B.shape != (batch,):
            raise UserError(f"labels of shape {tuple(label_B.shape)} given for {batch} images; give one for each image")
        wrong = label_B[(label_B < 0) | (label_B >= self.spec.num_classes)]
        if len(wrong):
            raise UserError(f"label {int(wrong[0])} is out of range; this model knows {known}")
        return label_B


class ContextProjection(nn.Linear):
    """What one layer takes of the context (V of section 2.3, arXiv:1606.05328); a bias at each position."""

    def __init__(self, num_context: int, num_features: int):
        super().__init__(num_context, num_features, bias=False)


def projection(spec: ContextSpec, num_context: int, num_features: int) -> ContextProjection | None:
    """A layer's projection, or None for a model that is not conditioned."""
    return ContextProjection(num_context, num_features) if spec else None
