"""Names written beside the images of a grid, in letters of one size, whatever the images are enlarged by.

Letters are those of DejaVu Sans, which comes with matplotlib, white and without shades. A name stands once where it is that of all
images, else above each column or beside each row where it is that of all images there, else above each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

SIZE = 13  # pixels of the letters
LINE = 18  # rows of pixels of a line of them
MARGIN = 3  # pixels on either side of a name
LONGEST = 220  # pixels of a name; of a longer one both ends are shown
LEAST_CELL = 72  # columns of pixels for an image that has a name of its own above it
INK = 255
UInt8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def can_write(name: str) -> bool:
    """Whether there are letters for all of a name."""
    covered = _covered()
    return all(ord(letter) in covered for letter in name)


def place_of(captions: Sequence[str], columns: int) -> str:
    """Where captions of images in rows of `columns` go: "all", "columns", "rows" or "each"; empty where there are none.

    An image without a caption goes with any.
    """
    alike = {"all": [captions], "columns": [captions[i::columns] for i in range(columns)]}
    alike["rows"] = [captions[i : i + columns] for i in range(0, len(captions), columns)]
    if not any(captions):
        return ""
    return next((place for place, groups in alike.items() if all(len({*group} - {""}) < 2 for group in groups)), "each")


def least_cell(place: str) -> tuple[int, int]:
    """Rows and columns of pixels that each image of a grid must have for its captions."""
    return {"columns": (1, LINE), "rows": (LINE, 1), "each": (1, LEAST_CELL)}.get(place, (1, 1))


def with_captions(picture_HWC: UInt8, captions: Sequence[str], columns: int, cell: tuple[int, int], background: int) -> UInt8:
    """A grid with its captions in further rows and columns of pixels; the images keep theirs.

    Args: `cell`, rows and columns of pixels from one image of the grid to the next; `background`, grey.
    """
    place = place_of(captions, columns)
    if place == "all":
        name_HW = _drawn(next(filter(None, captions)), LONGEST)
        missing = max(0, name_HW.shape[1] + 2 * MARGIN - picture_HWC.shape[1])
        wide_HWC = np.pad(picture_HWC, ((LINE, 0), (0, missing), (0, 0)), constant_values=background)
        _ink(wide_HWC[:, MARGIN:], name_HW)
        return wide_HWC
    rows = [captions[i : i + columns] for i in range(0, len(captions), columns)]
    if place == "rows":
        names = [_drawn(next(filter(None, row), ""), LONGEST) for row in rows]
        left = max(name_HW.shape[1] for name_HW in names) + 2 * MARGIN
        wide_HWC = np.pad(picture_HWC, ((0, 0), (left, 0), (0, 0)), constant_values=background)
        for row, name_HW in enumerate(names):
            _ink(wide_HWC[row * cell[0] + (cell[0] - LINE + 1) // 2 :, MARGIN:], name_HW)
        return wide_HWC
    if place == "columns":
        rows = [[next(filter(None, captions[i::columns]), "") for i in range(columns)]]
    room = cell[1] - MARGIN
    is_upwards = place == "columns" and max(_drawn(name, LONGEST).shape[1] for name in rows[0]) > room
    parts: list[UInt8] = []
    for row, texts in enumerate(rows):
        names = [np.rot90(_drawn(text, LONGEST)) if is_upwards else _drawn(text, room) for text in texts]
        height = max(name_HW.shape[0] for name_HW in names) + (2 * MARGIN if is_upwards else 0)
        strip_HWC = np.full((height, *picture_HWC.shape[1:]), background, np.uint8)
        for column, name_HW in enumerate(names):
            top = height - MARGIN - name_HW.shape[0] if is_upwards else 0
            left = column * cell[1] + max(0, (cell[1] - name_HW.shape[1] + 1) // 2)
            _ink(strip_HWC[top:, left:], name_HW)
        below = slice(row * cell[0], None if row == len(rows) - 1 else (row + 1) * cell[0])
        parts += [strip_HWC, picture_HWC[below]]
    return np.concatenate(parts)


def _ink(place_HWC: UInt8, name_HW: Mask) -> None:
    """Write a name at the upper left of a place; what does not fit is cut off."""
    inside_HWC = place_HWC[: name_HW.shape[0], : name_HW.shape[1]]
    inside_HWC[name_HW[: inside_HWC.shape[0], : inside_HWC.shape[1]]] = INK


@lru_cache(1024)
def _drawn(name: str, most: int) -> Mask:
    """A name in one line (LINE, W), at most so many pixels wide, else without its middle, as ends often tell names apart: where is ink."""
    font, text = _font(), name
    if font.getlength(name) > most:
        kept = range(min(len(name), most) - 1, 0, -1)
        cuts = (f"{name[: num - num // 2].rstrip()}…{name[len(name) - num // 2 :].lstrip()}" for num in kept)
        text = next((cut for cut in cuts if font.getlength(cut) <= most), "")
    image = Image.new("1", (max(1, min(most, round(font.getlength(text)) + 1)), LINE))
    ImageDraw.Draw(image).text((0, 1), text, fill=1, font=font)
    return np.asarray(image)


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_file()), SIZE)


@lru_cache
def _covered() -> frozenset[int]:
    """Code points that the letters are there for."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_file())).get_charmap())


def _file() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
