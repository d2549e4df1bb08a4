"""Where a registered version's card is: beside its weights, and, as far as there is room, as the version's description in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pixelmodels.tracking.registry import CARD, PICTURE, model_folder

if TYPE_CHECKING:
    from pixelmodels.tracking.runs import Tracker


@dataclass(frozen=True)
class Card:
    """What is told of a version."""

    markdown: str  # names the picture as `samples.png`
    picture: bytes | None  # PNG: samples


def card_of(tracker: Tracker, uri: str) -> Card | None:
    """The card of `models:/name/3` or `models:/name@alias`; none where it was registered before there were cards.

    Raises what `registry.model_folder` raises.
    """
    folder = model_folder(tracker, uri)
    if not (folder / CARD).is_file():
        return None
    picture = folder / PICTURE
    return Card((folder / CARD).read_text(encoding="utf-8"), picture.read_bytes() if picture.is_file() else None)
