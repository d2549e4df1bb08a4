"""What the names of the folders that images lie in mean: splits, and classes.

- **Splits.** Where the top folders are `train` (or `training`) and one or both of `validation` (`valid`, `val`) and `test`
  (`testing`), in any case of letters, these are the splits, and an image elsewhere is an error. Otherwise there are none.
- **Classes.** A class is the first folder, below the split's where there is one. Names that are all numbers (digits 0..9, with `-`
  in front or a decimal point) are in the order of the numbers, so that label 10 of folders `0` to `11` is folder `10`; equal ones, such as
  `1` and `01`, are two classes in the order of their text. All other names are in the order of their text, by code point. A data
  set's manifest has the names in the order of the labels, whatever order that was when it was made.
- **Whether there are labels**, unless that is asked for: where every image lies in a folder of a class, and there are two classes or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pixelmodels.errors import UserError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FIRST_NAMES = ("train", "validation", "valid", "val", "test")  # as spelled, all that earlier versions took for splits
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Arrangement:
    """What the folders of some files say of each; the lists run in parallel to the files."""

    splits: list[str | None]
    labels: list[int | None]  # index into `label_names`
    label_names: tuple[str, ...]  # empty: no labels
    news: dict[str, Any]  # where earlier versions understood the same names in another way; part of the fingerprint


def arrange(paths: Sequence[str], with_labels: bool | None, own_splits: bool, root: str) -> Arrangement:
    """Splits and labels of files by their paths below `root`; raises `UserError`.

    Args: `with_labels` None: where there are some. `own_splits`: whether folders that are named like splits are the splits; where
    they are not wanted, classes are still looked for below them.
    """
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    own = [SPLIT_FOLDERS.get(top.casefold()) for top in tops]
    found = {split for split in own if split is not None}
    has_splits = "train" in found and len(found) > 1
    if has_splits and own_splits and None in own:
        stray = f"folder '{root}' has splits of its own ({', '.join(sorted(found))}), but '{paths[own.index(None)]}' is in none"
        raise UserError(f"{stray}; move it into one, or give --splits hash")
    has_splits = has_splits and None not in own
    below = [path.partition("/")[2] for path in paths] if has_splits else paths
    classes = [path.partition("/")[0] if "/" in path else None for path in below]
    names = in_order({name for name in classes if name is not None})
    if with_labels and not names:
        no_labels = f"folder '{root}' has no sub-folders to take labels from"
        raise UserError(f"{no_labels}; leave labels out, or sort the files into sub-folders")
    if with_labels is False or (with_labels is None and (len(names) < 2 or None in classes)):
        names = ()
    index = {name: i for i, name in enumerate(names)}
    news: dict[str, Any] = {}
    if has_splits and (names or own_splits) and (not own_splits or not set(tops) <= set(_FIRST_NAMES)):
        news["split_folders"] = sorted(set(tops))
    if list(names) != sorted(names):
        news["label_names"] = list(names)
    splits: list[str | None] = own if has_splits and own_splits else [None] * len(paths)
    return Arrangement(splits, [index.get(name) if name is not None else None for name in classes], names, news)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels."""
    ordered = sorted(names)
    if all(_NUMBER.fullmatch(name) for name in ordered):
        ordered.sort(key=Decimal)
    return tuple(ordered)


def may_be_news(paths: Iterable[str], with_labels: bool | None, own_splits: bool) -> bool:
    """Whether earlier versions may have made another data set of files with these paths: then what they noted of it says nothing."""
    folders = {folder for path in paths for folder in path.split("/")[:-1][:2]}
    if with_labels is None and folders:
        return True
    like_splits = {folder for folder in folders if folder.casefold() in SPLIT_FOLDERS}
    has_other_splits = not like_splits <= set(_FIRST_NAMES) if own_splits else bool(with_labels and like_splits)
    return has_other_splits or bool(with_labels and any(_NUMBER.fullmatch(folder) for folder in folders))
