"""What the names of the folders that images lie in mean: splits, and classes.

- **Splits.** Where the top folders are `train` (or `training`) and one or both of `validation` (`valid`, `val`, `dev`, `eval`) and `test`
  (`testing`), in any case of letters, these are the splits, and an image elsewhere is an error. `set` and a year may follow
  (`Train set`, `test_set`, `val2017`). Folders around all images are looked through where there are splits in them (`archive/train`).
  Names that may mean splits, and are none of these (`train_images` beside `test_images`), are an error, too; otherwise there are none.
- **Classes.** A class is the first folder, below the split's where there is one: the folder of a split is no class, wanted or not. Names
  that are all numbers (digits 0..9, with `-` in front or a decimal point) are in the order of the numbers, so that label 10 of folders
  `0` to `11` is folder `10`; equal ones, such as `1` and `01`, are two classes in the order of their text. All other names are in the
  order of their text, by code point. A data set's manifest has the names in the order of the labels, whatever order that was when it
  was made.
- **Whether there are labels**, unless that is asked for: where every image lies in a folder of a class, there are two classes or more, and
  no folder of splits, or of what may be some, leaves that in doubt.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from pixelmodels.data.encoded import Arrangement
from pixelmodels.errors import UserError

_WORDS = {
    **dict.fromkeys(("training", "train"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("testing", "test"), "test"),
}
_WORD = f"({'|'.join(_WORDS)})"
_SPLIT = re.compile(rf"{_WORD}([ _-]?set)?([ _-]?(19|20)[0-9][0-9])?")
# What may mean a split, by the first word of a name or the last one: `test_images`, `trainA`, `seg_train`; not `trains`, `contest`.
_BEGINS = re.compile(rf"(?i:{_WORD})($|[\W\d_]|(?<=[a-z])[A-Z])")
_ENDS = re.compile(rf"(?:^|[\W\d_]|(?<=[a-z])(?=[A-Z]))(?i:{_WORD})[\W\d_]*$")
_FIRST_NAMES = ("train", "validation", "valid", "val", "test")  # as spelled, all that the first version took for splits
_SECOND_NAMES = (*_FIRST_NAMES, "training", "testing")  # in any case of letters, all that the second one did
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def arrange(examples: Mapping[str, str], with_labels: bool | None, own_splits: bool, root: str) -> Arrangement:
    """Splits and labels of files by the folders below `root` that they lie in; raises `UserError`.

    Args: `examples`, one file of each folder that holds any itself, sorted by path. `with_labels` None: where there are some.
    `own_splits`: whether folders that are named like splits are the splits; where they are not wanted, classes are still looked for
    below them.
    """
    groups, paths = list(examples), list(examples.values())
    around = posixpath.join(posixpath.commonpath(groups), "")
    inner = [path.removeprefix(around) for path in paths]
    tops = [_top(path) for path in inner]
    split_of = {top: _split_of(top) for top in tops}
    found = set(filter(None, split_of.values()))
    has_splits = "train" in found and len(found) > 1
    alike = [] if has_splits else _alike(split_of)
    strays = {path: top for path, top in zip(paths, tops, strict=True) if has_splits and not split_of[top]}
    has_own = f"folder '{root}' has splits of its own ({', '.join(sorted(found))})"
    if own_splits and strays:
        without = " without labels" if with_labels else ""
        raise UserError(f"{has_own}, but '{next(iter(strays))}' is in none; move it into one, or give --splits hash{without}")
    if own_splits and alike:
        remedy = "name them train, validation and test, or give --splits hash (and --labels True where they are classes)"
        raise UserError(f"folder '{root}' has folders that may be splits, and nothing says which ({', '.join(alike)}); {remedy}")
    below = [path.partition("/")[2] if split_of[top] else path for path, top in zip(inner, tops, strict=True)] if has_splits else paths
    classes = [_top(path) or None for path in below]
    names = in_order({name for name in classes if name is not None})
    beside = [path for path, top in strays.items() if top]
    if with_labels and beside:
        raise UserError(f"{has_own}, and '{beside[0]}' is in none, so its class is in doubt; move it into one, or leave labels out")
    if with_labels and not names:
        no_labels = f"folder '{root}' has no sub-folders to take labels from"
        raise UserError(f"{no_labels}; leave labels out, or sort the files into sub-folders")
    if with_labels is False or (with_labels is None and (len(names) < 2 or None in classes or beside or alike)):
        names = ()
    index = {name: i for i, name in enumerate(names)}
    news: dict[str, Any] = {}
    folders = {around + top for top in split_of}
    if has_splits and (names or own_splits) and (not own_splits or not folders <= set(_FIRST_NAMES)):
        news["split_folders"] = sorted(folders)
    if list(names) != sorted(names):
        news["label_names"] = list(names)
    splits = [split_of[top] if has_splits and own_splits else None for top in tops]
    labels = [index.get(name) if name is not None else None for name in classes]
    return Arrangement(dict(zip(groups, splits, strict=True)), dict(zip(groups, labels, strict=True)), names, news)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels."""
    ordered = sorted(names)
    if all(_NUMBER.fullmatch(name) for name in ordered):
        ordered.sort(key=Decimal)
    return tuple(ordered)


def reading_of(paths: Iterable[str], with_labels: bool | None, own_splits: bool) -> str:
    """What is noted of files with these paths beside the files: empty where the first version made the same data set of them.

    Another text where it may have made another, and again another where the second one may have: what they noted says nothing then.
    """
    above = [folder.split("/") for folder in {posixpath.dirname(path) for path in paths} if folder]
    tops = {folders[0] for folders in above if folders}
    deeper = {folder for folders in above for folder in folders[1:]}
    known = {top for top in tops if own_splits and top.casefold() in _SECOND_NAMES}
    if (own_splits or with_labels is not False) and any(_BEGINS.match(name) or _ENDS.search(name) for name in tops - known | deeper):
        return "folder names, set and year"
    if with_labels is None and tops:
        return "folder names"
    seen = {folder for folders in above for folder in folders[:2]}
    like_splits = {folder for folder in seen if folder.casefold() in _SECOND_NAMES}
    has_other_splits = not like_splits <= set(_FIRST_NAMES) if own_splits else bool(with_labels and like_splits)
    return "folder names" if has_other_splits or (with_labels and any(_NUMBER.fullmatch(folder) for folder in seen)) else ""


def _top(path: str) -> str:
    """The first folder of a path; empty where the file is in none."""
    return path.partition("/")[0] if "/" in path else ""


def _split_of(folder: str) -> str | None:
    """The split that the name of a folder says; None where it says none."""
    found = _SPLIT.fullmatch(folder.casefold())
    return _WORDS[found[1]] if found else None


def _alike(folders: Iterable[str]) -> list[str]:
    """Names that may mean train beside others that may mean another split, in the same place of the name; none where there are no such."""
    for find in (_BEGINS.match, _ENDS.search):
        means = {folder: _WORDS[found[1].casefold()] for folder in folders if (found := find(folder))}
        if "train" in means.values() and len(set(means.values())) > 1:
            return sorted(means)
    return []
