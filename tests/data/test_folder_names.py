"""Splits and classes by the names of folders."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import Any

import pytest

from pixelmodels.data.folder_names import arrange, in_order, reading_of
from pixelmodels.errors import UserError


@dataclass(frozen=True)
class Arranged:
    """What `arrange` says of each of some files, by their folders."""

    splits: list[str | None]
    labels: list[int | None]
    label_names: tuple[str, ...]
    news: dict[str, Any]
    remarks: tuple[str, ...] = field(default=(), compare=False)


def arranged(*paths: str, labels: bool | None = None, own_splits: bool = True) -> Arranged:
    examples = {posixpath.dirname(path): path for path in sorted(paths, reverse=True)}
    found = arrange(dict(sorted(examples.items(), key=lambda example: example[1])), labels, own_splits, "pictures")
    assert found.splits.keys() == found.labels.keys() == examples.keys()
    folders = [posixpath.dirname(path) for path in paths]
    splits, labels = ([by_group[folder] for folder in folders] for by_group in (found.splits, found.labels))
    return Arranged(splits, labels, found.label_names, found.news, found.remarks)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training", "val", "testing"),
        ("Training", "Validation", "Testing"),
        ("tRaIn", "vAl", "TESTING"),
        ("train", "dev", "test"),
        ("train", "eval", "test"),
        ("train2017", "val2017", "test2017"),
        ("training_set", "Dev Set", "test-set"),
        ("Train set 2012", "VALSET_2012", "test-1999"),
    ],
)
@pytest.mark.parametrize("around", ["", "archive/", "archive/data set/", "train/"])
def test_splits_in_any_case_and_form(train: str, validation: str, test: str, around: str) -> None:
    paths = [f"{around}{train}/cat/1.png", f"{around}{train}/dog/2.png", f"{around}{validation}/cat/3.png", f"{around}{test}/dog/4.png"]
    found = arranged(*paths)
    assert found.splits == ["train", "train", "validation", "test"]
    assert found.label_names == ("cat", "dog") and found.labels == [0, 1, 0, 1]
    is_as_ever = (around, train, validation) == ("", "train", "validation")  # what is spelled as it always was keeps its fingerprint
    assert found.news == ({} if is_as_ever else {"split_folders": sorted(f"{around}{split}" for split in (train, validation, test))})
    two = arranged(*paths[:2], paths[3], labels=False)
    assert two.splits == ["train", "train", "test"] and two.label_names == () and two.labels == [None] * 3


def test_names_that_are_no_splits_alone_are_classes() -> None:
    for paths in (
        ["Train/1.png", "Bus/2.png"],
        ["test/1.png", "Val/2.png", "bus/3.png"],
        ["trains/1.png", "tests/2.png"],
        ["train/1.png", "contest/2.png"],
        ["training/1.png", "Train/2.png", "valley/3.png", "TESTS/4.png", "device/5.png"],
    ):
        found = arranged(*paths)
        assert found.splits == [None] * len(paths) and sorted(found.label_names) == sorted(path.split("/")[0] for path in paths)
    with pytest.raises(
        UserError, match=r"'pictures' has splits of its own \(test, train\), but 'extra/3.png' is in none; move it .* --splits hash"
    ):
        arranged("Train/1.png", "TEST/2.png", "extra/3.png")


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test_images"),
        ("test_images", "train_images"),
        ("testA", "trainA"),
        ("test", "training_1"),
        ("seg_test", "seg_train"),
        ("dev-clean", "train-clean"),
        ("Val", "test"),  # of what?
    ],
)
def test_names_that_may_mean_splits_are_told_and_never_mixed(folders: tuple[str, str]) -> None:
    for around in ("", "archive/"):
        paths = [f"{around}{folder}/1.png" for folder in folders]
        for labels in (None, True, False):
            with pytest.raises(
                UserError, match=rf"may be splits, .* \({', '.join(sorted(folders))}\); name them train, validation and test"
            ):
                arranged(*paths, labels=labels)
        by_hash = arranged(*paths, own_splits=False)
        assert by_hash.label_names == () and by_hash.splits == [None, None] and not by_hash.news
    classes = arranged(*(f"{folder}/1.png" for folder in folders), labels=True, own_splits=False)  # as they are when that is asked for
    assert classes.label_names == tuple(sorted(folders)) and not classes.news


def test_a_split_that_is_not_wanted_is_no_class() -> None:
    """Beside other folders too, where the remedy for these is to split by hash."""
    for paths in (["train/1.png", "test/2.png", "more/3.png"], ["Train/cat/1.png", "Train/dog/2.png", "Test/cat/3.png", "extra/cat/4.png"]):
        with pytest.raises(UserError, match=r"is in none; move it into one, or give --splits hash$"):
            arranged(*paths)
        for labels in (None, False):
            found = arranged(*paths, labels=labels, own_splits=False)
            assert found == Arranged([None] * len(paths), [None] * len(paths), (), {})
        with pytest.raises(UserError, match=rf"'{paths[-1]}' is in none, so its class is in doubt; move it into one, or leave labels out"):
            arranged(*paths, labels=True, own_splits=False)
        with pytest.raises(UserError, match=r"is in none; move it into one, or give --splits hash without labels$"):
            arranged(*paths, labels=True)
    in_no_class = arranged("train/cat/1.png", "test/dog/2.png", "3.png", labels=True, own_splits=False)
    assert in_no_class.label_names == ("cat", "dog") and in_no_class.labels == [0, 1, None] and in_no_class.news


def test_classes_are_below_splits_that_are_not_wanted() -> None:
    found = arranged("Train/cat/1.png", "Test/dog/2.png", own_splits=False)
    assert found.splits == [None, None] and found.label_names == ("cat", "dog") and found.news
    lower = arranged("train/cat/1.png", "test/dog/2.png", labels=True, own_splits=False)
    assert lower.label_names == ("cat", "dog") and lower.news  # earlier versions made classes `test` and `train` of it
    assert not arranged("train/cat/1.png", "test/dog/2.png", labels=False, own_splits=False).news
    assert arranged("train/1.png", "test/2.png", "3.png", own_splits=False).label_names == ()


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ([str(i) for i in range(12)], [str(i) for i in range(12)]),
        (["10", "9", "1"], ["1", "9", "10"]),
        (["1", "01", "001", "2", "10"], ["001", "01", "1", "2", "10"]),
        (["1", "-1", "0", "-10"], ["-10", "-1", "0", "1"]),
        (["1.5", "1.25", "10", "2"], ["1.25", "1.5", "2", "10"]),
        (
            ["2000", "0", "100000000000000000000001", "100000000000000000000000"],
            ["0", "2000", "100000000000000000000000", "100000000000000000000001"],
        ),
        # Not all are numbers: by text.
        (["10", "9", "cat"], ["10", "9", "cat"]),
        (["10", "9", "1e3"], ["10", "1e3", "9"]),
        (["10", "9", "+1"], ["+1", "10", "9"]),
        (["10", "9", "٣"], ["10", "9", "٣"]),
        (["10", "9", "²"], ["10", "9", "²"]),
        (["10", "9", ".5"], [".5", "10", "9"]),
        (["class 10", "class 9"], ["class 10", "class 9"]),
        (["b", "a", "B", "é"], ["B", "a", "b", "é"]),
    ],
)
def test_classes_that_are_numbers_are_in_their_order(names: list[str], ordered: list[str]) -> None:
    for given in (names, names[::-1]):
        assert in_order(given) == tuple(ordered)
    found = arranged(*(f"{name}/1.png" for name in names))
    assert [found.label_names[label or 0] for label in found.labels] == names
    assert bool(found.news) == (ordered != sorted(names))


def test_labels_are_there_where_every_image_has_one_of_several() -> None:
    assert arranged("a/1.png", "b/2.png").label_names == ("a", "b")
    for paths in (["1.png", "2.png"], ["all/1.png", "all/2.png"], ["a/1.png", "b/2.png", "3.png"], ["train/1.png", "test/2.png"]):
        assert arranged(*paths).label_names == () and arranged(*paths).labels == [None] * len(paths)
    assert arranged("a/1.png", "b/2.png", labels=False).label_names == ()
    asked = arranged("b/1.png", "2.png", "a/deep/3.png", labels=True)
    assert asked.labels == [1, None, 0] and asked.label_names == ("a", "b") and not asked.news
    assert arranged("all/1.png", labels=True).label_names == ("all",)
    with pytest.raises(UserError, match="no sub-folders to take labels from"):
        arranged("1.png", labels=True)


def test_what_was_noted_is_relied_upon_where_names_mean_what_they_did() -> None:
    second, third = "folder names", "folder names, set and year"
    fourth = f"{third}, around classes"
    for paths in (["a/1.png", "b/2.png"], ["train/a/1.png", "test/b/2.png"], ["1.png"], ["a/7/1.png", "b/8/2.png"]):
        for labels in (True, False):
            assert reading_of(paths, labels, True) == (fourth if labels and paths[0] == "a/7/1.png" else "")
    assert reading_of(["train/7/1.png", "test/8/2.png"], True, True) == second
    for paths, without in (
        (["archive/a/1.png"], ""),
        (["train/images/a/1.png", "test/images/a/2.png"], ""),
        (["a/deep/1.png", "b/2.png"], ""),
        (["train/train_images/1.png", "test/test_images/2.png"], third),
    ):
        for labels in (None, True):
            assert reading_of(paths, labels, True) == fourth
        assert reading_of(paths, False, True) == without
    for labels in (None, True, False):
        assert reading_of(["test/1.png", "val/2.png"], labels, True) == fourth
        assert reading_of(["test/1.png", "val/2.png", "train/3.png"], labels, True) == ("" if labels is not None else second)
    assert reading_of(["1.png", "2.png"], None, True) == ""
    for paths in (["a/1.png"], ["train/1.png", "test/2.png"], ["Train/a/1.png", "testing/b/2.png"]):
        assert reading_of(paths, None, True) == second
    assert reading_of(["train/a/1.png", "train/b/2.png", "test/all/3.png"], None, True) == fourth
    assert reading_of(["Train/1.png", "test/2.png"], True, True) == second
    assert reading_of(["train/1.png", "test/2.png"], True, False) == third
    assert reading_of(["train/1.png", "test/2.png", "more/3.png"], None, False) == third
    assert reading_of(["train/1.png", "test/2.png"], False, False) == ""
    for folders in (("train2017", "val2017"), ("train", "dev"), ("archive/train", "archive/test"), ("train_images", "test_images")):
        for labels in (None, True, False):
            wanted = fourth if labels is not False and "/" in folders[0] else third
            assert reading_of([f"{folder}/1.png" for folder in folders], labels, True) == wanted


# --- as people have them ---


@pytest.mark.parametrize("labels", [None, True])
@pytest.mark.parametrize(
    ("paths", "around"),
    [
        (["archive/cat/1.png", "archive/dog/2.png"], ["archive/"]),
        (["a/b/cat/1.png", "a/b/dog/2.png"], ["a/b/"]),
        (["train/cat/1.png", "train/dog/2.png"], ["train/"]),
        (["train/images/cat/1.png", "train/images/dog/2.png", "test/images/cat/3.png"], ["images/"]),
        (["train/train_images/cat/1.png", "train/train_images/dog/2.png", "test/test_images/cat/3.png"], ["test_images/", "train_images/"]),
        (["train/train/cat/1.png", "test/test/dog/2.png"], ["test/", "train/"]),
        (["Data/Train/x/cat/1.png", "Data/Test/x/dog/2.png"], ["x/"]),
        (["archive/cat/more/1.png", "archive/dog/2.png"], ["archive/"]),
    ],
)
def test_folders_around_classes_are_looked_through(paths: list[str], around: list[str], labels: bool | None) -> None:
    found = arranged(*paths, labels=labels)
    assert found.label_names == ("cat", "dog") and None not in found.labels
    assert all(found.label_names[label or 0] in path.split("/") for label, path in zip(found.labels, paths, strict=True))
    assert found.news["around_classes"] == around
    assert found.remarks[0] == f"classes are looked for inside {', '.join(around)}: 'cat', 'dog'"
    assert "around_classes" not in arranged(*paths, labels=False).news


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["cat/day/1.png", "dog/night/2.png"], ("cat", "dog")),  # classes with folders of their own
        (["train/cat/day/1.png", "train/dog/2.png", "test/cat/3.png"], ("cat", "dog")),
        (["train/cat/a/1.png", "test/dog/b/2.png"], ("cat", "dog")),
        (["train/train/1.png", "train/bus/2.png", "test/train/3.png"], ("bus", "train")),  # a class called `train`
        (["train/1.png", "bus/2.png", "car/3.png"], ("bus", "car", "train")),
        ([" cat/1.png", "hot dog/2.png"], (" cat", "hot dog")),
        (["\U0001f600/1.png", "\u9ce5/2.png", "caf\udce9/3.png"], ("caf\udce9", "\u9ce5", "\U0001f600")),
        (["0_cat/1.png", "10_dog/2.png", "9_owl/3.png"], ("0_cat", "10_dog", "9_owl")),
    ],
)
def test_classes_stay_where_they_were(paths: list[str], names: tuple[str, ...]) -> None:
    found = arranged(*paths)
    assert found.label_names == names and not found.news
    assert arranged(*paths, labels=True) == found


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png"], "cat/test, cat/train"),
        (["bottle/train/good/1.png", "bottle/test/broken/2.png", "cable/train/good/3.png"], "bottle/test, bottle/train"),
        (["left/train/1.png", "left/val/2.png", "fine/train/3.png"], "fine/train, left/val"),
    ],
)
def test_splits_inside_other_folders_are_told(paths: list[str], told: str) -> None:
    with pytest.raises(UserError, match=rf"splits inside its folders \({told}\), where they are not taken; .* or give --splits hash"):
        arranged(*paths)
    assert len(arranged(*paths, own_splits=False).label_names) == len({path.partition("/")[0] for path in paths})


@pytest.mark.parametrize(
    ("test", "folder"),
    [(["val/images/3.png", "test/images/4.png"], "images"), (["test/test/3.png", "test/test/4.png"], "test"), (["test/all/3.png"], "all")],
)
def test_a_split_in_one_folder_that_is_no_class_has_no_labels(test: list[str], folder: str) -> None:
    """Tiny ImageNet's and Kaggle's ways: folders that only hold the files."""
    found = arranged("train/cat/1.png", "train/dog/2.png", *test)
    assert found.label_names == ("cat", "dog") and found.labels == [0, 1, *[None] * len(test)]
    splits = sorted({{"val": "validation"}.get(top, top) for top in (path.split("/")[0] for path in test)})
    assert found.news == {"without_labels": splits}
    end = f"images have no labels: all are in '{folder}', which is no class of train"
    assert found.remarks == tuple(f"the {split} {end}" for split in splits)
    assert arranged("train/cat/1.png", "train/dog/2.png", "test/cat/3.png").labels == [0, 1, 0]
    assert arranged("train/cat/1.png", "train/dog/2.png", *test, labels=True).label_names == tuple(sorted({"cat", "dog", folder}))


def test_one_class_is_no_reason_to_look_further_in() -> None:
    for paths in (["all/1.png", "all/2.png"], ["all/1.png", "all/deep/2.png"], ["a/b/1.png"], ["train/all/1.png", "test/all/2.png"]):
        assert arranged(*paths).label_names == () and not arranged(*paths).news
        assert arranged(*paths, labels=True).label_names == ("all" if "all" in paths[0] else "a",)


def test_names_of_splits_in_splits_are_no_classes() -> None:
    paths = ["train/train_images/1.png", "test/test_images/2.png"]
    assert arranged(*paths) == Arranged(["train", "test"], [None, None], (), {}) == arranged(*paths, labels=False)
    with pytest.raises(UserError, match=r"in them test_images, train_images, which may be splits, too, and no classes; put .*, or leave"):
        arranged(*paths, labels=True)


def test_what_may_not_have_been_meant_is_said() -> None:
    assert arranged("a/1.png", "b/2.png").remarks == () == arranged("1.png", "2.png").remarks
    assert arranged("cat/1.png", "dog/2.png", "3.png").remarks == (
        "no labels are taken: some images are in no folder of a class, such as '3.png'; move or remove them, or give --labels True, with "
        "which they have none",
    )
    assert arranged("cat/1.png", "dog/2.png", "3.png", labels=False).remarks == ()
    (both,) = arranged("Cat/1.png", "cat/2.png", "dog/3.png").remarks
    assert both.endswith("are several: 'Cat', 'cat'")
    (composed,) = arranged("caf\u00e9/1.png", "cafe\u0301/2.png").remarks
    assert composed.endswith("are several: 'cafe\u0301', 'caf\u00e9'")
    unseen = ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/c/4.png", "test/d/5.png"]
    assert arranged(*unseen).remarks == ("no training image is of the classes 'c', 'd'",)
    assert arranged(*unseen[:4]).remarks == ("no training image is of the class 'c'",)
    assert arranged(*unseen, own_splits=False).remarks == () == arranged(*unseen, labels=False).remarks


@pytest.mark.parametrize(
    ("paths", "lone", "around"),
    [
        (["archive/cat/1.png", "archive/dog/2.png"], ["archive/cover.png"], ["archive/"]),
        (["archive/cat/1.png", "archive/dog/2.png"], ["cover.png"], ["archive/"]),
        (["a/b/cat/1.png", "a/b/dog/2.png"], ["0.png", "a/1.png", "a/b/2.png"], ["a/b/"]),
        (["train/images/cat/1.png", "train/images/dog/2.png", "test/images/cat/3.png"], ["train/images/4.png"], ["images/"]),
        (["train/images/cat/1.png", "train/images/dog/2.png"], ["test/images/3.png"], ["images/"]),
    ],
)
def test_images_beside_classes_inside_other_folders(paths: list[str], lone: list[str], around: list[str]) -> None:
    """They are told, as they are where no folder is around: nothing is lost without a word."""
    found = arranged(*paths, *lone)
    assert found.label_names == () and not found.news
    (remark,) = found.remarks
    assert remark.startswith(f"no labels are taken: some images are in no folder of a class, such as '{min(lone)}'; move or remove them")
    asked = arranged(*paths, *lone, labels=True)
    assert asked.label_names == ("cat", "dog") and asked.news == {"around_classes": around}
    assert asked.labels == [*arranged(*paths, labels=True).labels, *[None] * len(lone)]
    assert arranged(*paths, *lone, labels=False).remarks == ()
    earlier = reading_of(paths, True, True)  # what was noted when the folder around was the one class does not count
    assert reading_of([*paths, *lone], True, True) not in (earlier, "") and reading_of([*paths, *lone], None, True) == earlier


def test_several_folders_of_one_split_are_told() -> None:
    paths = ["train/cat/1.png", "train/dog/2.png", "valid/cat/3.png", "val2017/dog/4.png"]
    found = arranged(*paths)
    assert found.splits == ["train", "train", "validation", "validation"] and found.label_names == ("cat", "dog")
    assert found.remarks == ("the folders 'val2017', 'valid' are all of split validation",)
    assert arranged(*paths, own_splits=False).remarks == () == arranged(*paths[:3]).remarks


def test_splits_that_are_not_wanted_are_no_classes_inside_other_folders_either() -> None:
    paths = ["cover.png", *(f"archive/{split}/{name}/1.png" for split in ("train", "test") for name in ("cat", "dog"))]
    assert arranged(*paths, labels=True, own_splits=False).label_names == ("archive",)
    assert arranged(*paths, own_splits=False).label_names == ()
    with pytest.raises(
        UserError, match=r"splits inside its folders \(archive/test, archive/train\).* give the folder that holds the splits"
    ):
        arranged(*paths)
