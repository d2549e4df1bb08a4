"""What the names of the folders that images lie in mean: splits, and classes.

- **Splits.** Where the top folders are `train` (or `training`) and one or both of `validation` (`valid`, `val`, `dev`, `eval`) and `test`
  (`testing`), in any case of letters, these are the splits, and an image elsewhere is an error. `set` and a year may follow
  (`Train set`, `test_set`, `val2017`). Folders around all images are looked through where there are splits in them (`archive/train`).
  Several folders of one split (`valid` and `val2017`) are put together, and that is said.
  Names that may mean splits, and are none of these (`train_images` beside `test_images`), or `test` beside `val` and nothing else, are an
  error, too, as are splits below several top folders (`cat/train`); otherwise there are none.
- **Classes.** A class is the first folder, below the split's where there is one: the folder of a split is no class, wanted or not. A folder
  that all images (of a split) lie in is looked through where there are two classes or more further in (`archive/cat`, `train/images/cat`);
  images beside such a folder, or in it and in no class, are in none.
  A class is its name as it is spelled: `Cat` and `cat` are two, and that is said. A folder without images is none. Names
  that are all numbers (digits 0..9, with `-` in front or a decimal point) are in the order of the numbers, so that label 10 of folders
  `0` to `11` is folder `10`; equal ones, such as `1` and `01`, are two classes in the order of their text. All other names are in the
  order of their text, by code point. A data set's manifest has the names in the order of the labels, whatever order that was when it
  was made.
- **Whether there are labels**, unless that is asked for: where every image lies in a folder of a class, there are two classes or more, and
  no folder of splits, or of what may be some, leaves that in doubt. Where it is only a few images that lie in none, that is said. A test or
  validation split whose images all lie in one folder that is no class of train (`test/images`, `test/test`) has none, and that is said.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pixelmodels.data.encoded import Arrangement
from pixelmodels.errors import UserError, listed

SPLIT_WORDS = {
    **dict.fromkeys(("training", "train"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("testing", "test"), "test"),
}
_WORD = f"({'|'.join(SPLIT_WORDS)})"
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
    alike = [] if has_splits else sorted(split_of) if len(found) > 1 and None not in split_of.values() else _alike(split_of)
    strays = {path: top for path, top in zip(paths, tops, strict=True) if has_splits and not split_of[top]}
    has_own = f"folder '{root}' has splits of its own ({', '.join(sorted(found))})"
    if own_splits and strays:
        without = " without labels" if with_labels else ""
        raise UserError(f"{has_own}, but '{next(iter(strays))}' is in none; move it into one, or give --splits hash{without}")
    if own_splits and alike:
        remedy = "name them train, validation and test, or give --splits hash (and --labels True where they are classes)"
        raise UserError(f"folder '{root}' has folders that may be splits, and nothing says which ({', '.join(alike)}); {remedy}")
    if own_splits and not has_splits and (inner_splits := _splits_inside(inner)):
        remedy = "give the folder that holds the splits as --path, sort them to the top (train/cat), or give --splits hash"
        raise UserError(f"folder '{root}' has splits inside its folders ({', '.join(inner_splits)}), where they are not taken; {remedy}")
    below = [path.partition("/")[2] if split_of[top] else path for path, top in zip(inner, tops, strict=True)] if has_splits else paths
    inside, around_classes, in_doubt = _looked_through(below, [split_of[top] if has_splits else None for top in tops])
    classes = [_top(path) or None for path in inside]
    unlabelled = _without_labels(classes, [split_of[top] for top in tops]) if has_splits and with_labels is None else {}
    classes = [None if split_of[top] in unlabelled else name for name, top in zip(classes, tops, strict=True)]
    names = in_order({name for name in classes if name is not None})
    beside = [path for path, top in strays.items() if top]
    if with_labels and beside:
        raise UserError(f"{has_own}, and '{beside[0]}' is in none, so its class is in doubt; move it into one, or leave labels out")
    if with_labels and in_doubt:
        remedy = "put the folders of the classes into these, or leave labels out"
        raise UserError(f"{has_own}, and in them {', '.join(in_doubt)}, which may be splits, too, and no classes; {remedy}")
    if with_labels and not names:
        no_labels = f"folder '{root}' has no sub-folders to take labels from"
        raise UserError(f"{no_labels}; leave labels out, or sort the files into sub-folders")
    in_none = [path for path, name, top in zip(paths, classes, tops, strict=True) if name is None and split_of[top] not in unlabelled]
    remarks: list[str] = []
    if with_labels is None and 0 < len(in_none) < len(paths) and len(names) > 1 and not beside and not alike and not in_doubt:
        many = f"some images are in no folder of a class, such as '{in_none[0]}'"
        remarks.append(f"no labels are taken: {many}; move or remove them, or give --labels True, with which they have none")
    if with_labels is False or (with_labels is None and (len(names) < 2 or in_none or beside or alike or in_doubt)):
        names = ()
    index = {name: i for i, name in enumerate(names)}
    news: dict[str, Any] = {}
    if names and unlabelled:
        news["without_labels"] = sorted(unlabelled)
        for split, folder in sorted(unlabelled.items()):
            remarks.append(f"the {split} images have no labels: all are in '{folder}', which is no class of train")
    folders = {around + top for top in split_of}
    if has_splits and (names or own_splits) and (not own_splits or not folders <= set(_FIRST_NAMES)):
        news["split_folders"] = sorted(folders)
    if list(names) != sorted(names):
        news["label_names"] = list(names)
    if names and around_classes:
        news["around_classes"] = around_classes
        remarks.append(f"classes are looked for inside {', '.join(around_classes)}: {listed(names)}")
    splits = [split_of[top] if has_splits and own_splits else None for top in tops]
    labels = [index.get(name) if name is not None else None for name in classes]
    remarks += _oddities(names, labels, splits)
    if has_splits and own_splits:
        of_split = {split: sorted({top for top in tops if split_of[top] == split}) for split in sorted(found)}
        remarks += [f"the folders {listed(several)} are all of split {split}" for split, several in of_split.items() if len(several) > 1]
    return Arrangement(dict(zip(groups, splits, strict=True)), dict(zip(groups, labels, strict=True)), names, news, tuple(remarks))


def _looked_through(below: Sequence[str], splits: Sequence[str | None]) -> tuple[Sequence[str], list[str], list[str]]:
    """Paths without the folders that all of a split lie in, where there are two classes or more further in; else the paths as they are.

    Also these folders' paths, and names that may be those of splits again, so that they are no classes: of `train/train_images/1.png` and
    `test/test_images/2.png`.
    """
    inner, walked, in_doubt = list(below), [""] * len(below), list[str]()
    while any(firsts := [_top(path) for path in inner]):  # an image beside a folder, not in it, stays where it is: in no class
        of_split: dict[str | None, set[str]] = {}
        for split, first in zip(splits, firsts, strict=True):
            of_split.setdefault(split, set()).update([first] if first else [])
        found = set().union(*of_split.values())
        is_shared = all(len(names) < 2 for names in of_split.values())
        alike = _alike(found) if is_shared else []
        if not is_shared and set(splits) == {None} and {"train"} < {_split_of(name) for name in found} - {None}:
            return below, [], in_doubt  # splits that are not wanted, beside an image that is in none: no classes
        if len(found) > 1 and not alike:
            return inner, sorted({folder for folder, first in zip(walked, firsts, strict=True) if folder and first}), []
        in_doubt = in_doubt or alike
        walked = [f"{folder}{first}/" if first else folder for folder, first in zip(walked, firsts, strict=True)]
        inner = [path.partition("/")[2] if first else path for path, first in zip(inner, firsts, strict=True)]
    return below, [], in_doubt


def _without_labels(classes: Sequence[str | None], splits: Sequence[str | None]) -> dict[str, str]:
    """The one folder of each split whose images all lie in it, and it is no class of train, of which there are several: no class either."""
    of_split: dict[str | None, set[str | None]] = {}
    for name, split in zip(classes, splits, strict=True):
        of_split.setdefault(split, set()).add(name)
    trained = of_split.get("train", set())
    if len(trained) < 2 or None in trained:
        return {}
    alone = {split: next(iter(names)) for split, names in of_split.items() if split is not None and len(names) == 1}
    return {split: name for split, name in alone.items() if name is not None and name not in trained}


def _splits_inside(paths: Sequence[str]) -> list[str]:
    """Folders of splits below several top folders, such as `cat/train`; none where no train is among them, or no other split."""
    found: dict[str, str] = {}
    for path in paths:
        folders = path.split("/")[:-1]
        if len(folders) > 1 and (split := _split_of(folders[1])):
            found.setdefault(split, "/".join(folders[:2]))
    return sorted(found.values()) if "train" in found and len(found) > 1 else []


def _oddities(names: Sequence[str], labels: Sequence[int | None], splits: Sequence[str | None]) -> list[str]:
    """Sentences about classes that are spelled alike, and about those that there are no training images of."""
    remarks, spelled = [], dict[str, list[str]]()
    for name in names:
        spelled.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    if twice := [listed(several) for several in spelled.values() if len(several) > 1]:
        alike = f"{twice[0]}{f', and {len(twice) - 1} more such' if len(twice) > 1 else ''}"
        remarks.append(f"classes whose names differ in the case of letters, or in how these are composed, are several: {alike}")
    trained = {label for label, split in zip(labels, splits, strict=True) if split in (None, "train")}
    if names and (unseen := [name for label, name in enumerate(names) if label not in trained]):
        remarks.append(f"no training image is of the class{'es' if len(unseen) > 1 else ''} {listed(unseen)}")
    return remarks


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels."""
    ordered = sorted(names)
    if all(_NUMBER.fullmatch(name) for name in ordered):
        ordered.sort(key=Decimal)
    return tuple(ordered)


def reading_of(paths: Iterable[str], with_labels: bool | None, own_splits: bool) -> str:
    """What is noted of files with these paths beside the files: empty where the first version made the same data set of them.

    Another text where it may have made another, and others where a later one may have: what they noted says nothing then.
    """
    holding = {posixpath.dirname(path) for path in paths}
    above = [folder.split("/") for folder in holding if folder]
    tops = {folders[0] for folders in above if folders}
    deeper = {folder for folders in above for folder in folders[1:]}
    known = {top for top in tops if own_splits and top.casefold() in _SECOND_NAMES}
    alike, alike_deeper = (any(_BEGINS.match(name) or _ENDS.search(name) for name in some) for some in (tops - known, deeper))
    in_two = any(len(folders) - (folders[0] in known) > 1 for folders in above if folders)
    inside: dict[str, set[str]] = {}
    for folders in above:
        if len(folders) > 1 and folders[0] in known:
            inside.setdefault(SPLIT_WORDS[folders[0].casefold()], set()).add(folders[1])
    in_one = with_labels is None and len(inside.get("train", ())) > 1 and any(len(names) == 1 for names in inside.values())
    no_train = {SPLIT_WORDS[top.casefold()] for top in known} == {"validation", "test"}
    below = [tuple(folders[1:] if folders[0] in known else folders) for folders in (folder.split("/") for folder in holding)]
    around = {folders[:depth] for folders in below for depth in range(len(folders))} | {("",)}
    if with_labels and in_two and any(folders in around for folders in below):
        return "folder names, set and year, around classes, images beside"
    if (with_labels is not False and (in_two or in_one or alike_deeper)) or no_train:
        return "folder names, set and year, around classes"
    if (own_splits or with_labels is not False) and (alike or alike_deeper):
        return "folder names, set and year"
    if with_labels is None and tops:
        return "folder names"
    seen = {folder for folders in above for folder in folders[:2]}
    like_splits = {folder for folder in seen if folder.casefold() in _SECOND_NAMES}
    has_other_splits = not like_splits <= set(_FIRST_NAMES) if own_splits else bool(with_labels and like_splits)
    return "folder names" if has_other_splits or (with_labels and any(_NUMBER.fullmatch(folder) for folder in seen)) else ""


def splits_of_files(paths: Sequence[str], root: str) -> list[str | None]:
    """The split of each file of many images, by its path below `root`; raises `UserError` for a file that says none beside others that do.

    Of the folders below those that all files lie in, and of the file's own name, the last one decides that says a split: one word for a
    split among its words (`train-00000-of-00005.parquet`, `imagenet-val-000001.tar`, `split=test/`). There are splits where some files
    are of train and others of another one; where all say the same, none has one. Splits without train are an error.
    """
    around = posixpath.join(posixpath.commonpath([posixpath.dirname(path) for path in paths]), "")
    splits = [_split_in(path.removeprefix(around)) for path in paths]
    found = sorted({split for split in splits if split is not None})
    if len(found) > 1 and "train" not in found:
        no_train = f"files of '{root}' have splits of their own ({', '.join(found)}), and none is train"
        raise UserError(f"{no_train}; give the others, too, or give --splits hash")
    for path, split in zip(paths, splits, strict=True):
        if split is None and found:
            stray = f"files of '{root}' have splits of their own ({', '.join(found)}), but the name of '{path}' says none, or several"
            raise UserError(f"{stray}; name it train-..., validation-... or test-..., take it out, or give --splits hash")
    return splits if len(found) > 1 else [None] * len(paths)


def _split_in(path: str) -> str | None:
    """The split that the last part of a path says that says any; None where that says several."""
    for part in reversed(path.split("/")):
        words = {SPLIT_WORDS[word] for word in re.split("[^a-z]+", part.casefold()) if word in SPLIT_WORDS}
        if split := _split_of(part.partition(".")[0]):
            words.add(split)
        if words:
            return words.pop() if len(words) == 1 else None
    return None


def _top(path: str) -> str:
    """The first folder of a path; empty where the file is in none."""
    return path.partition("/")[0] if "/" in path else ""


def _split_of(folder: str) -> str | None:
    """The split that the name of a folder says; None where it says none."""
    found = _SPLIT.fullmatch(folder.casefold())
    return SPLIT_WORDS[found[1]] if found else None


def _alike(folders: Iterable[str]) -> list[str]:
    """Names that may mean train beside others that may mean another split, in the same place of the name; none where there are no such."""
    for find in (_BEGINS.match, _ENDS.search):
        means = {folder: SPLIT_WORDS[found[1].casefold()] for folder in folders if (found := find(folder))}
        if "train" in means.values() and len(set(means.values())) > 1:
            return sorted(means)
    return []
