"""Training images are moved and mirrored as told, by seed, step and place alone, and for as many steps as told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.training.ahead import StepInputs
from pixelmodels.training.augmentation import Augmentation, moved
from pixelmodels.training.loop import Loop
from tests.training.tiny_run import tiny_plan, tiny_recipe


def images(num: int, channels: int = 3, height: int = 5, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, channels, height, width)).astype(np.uint8)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-2, 1), (0, -1), (2, -2), (7, -9)])
def test_a_moved_image_is_a_cut_of_it_with_its_edges_continued(down: int, right: int) -> None:
    x_NCHW = images(3)
    padded = np.pad(x_NCHW, [(0, 0), (0, 0), (9, 9), (9, 9)], mode="edge")
    expected = padded[:, :, 9 - down : 9 - down + 5, 9 - right : 9 - right + 4]
    assert np.array_equal(moved(x_NCHW, np.full(3, down), np.full(3, right)), expected)


def test_each_image_has_moves_of_its_own() -> None:
    x_NCHW = images(4)
    down_N, right_N = np.array([0, 1, -1, 2]), np.array([1, 0, -2, -1])
    each = [moved(x_NCHW[n : n + 1], down_N[n : n + 1], right_N[n : n + 1]) for n in range(4)]
    assert np.array_equal(moved(x_NCHW, down_N, right_N), np.concatenate(each))


def test_all_moves_and_both_sides_come_about_equally_often() -> None:
    """20,000 images of one pixel in the middle; counts within five standard deviations."""
    num = 20_000
    x_NCHW = np.zeros((num, 1, 3, 5), np.uint8)
    x_NCHW[:, 0, 1, 1] = 1  # not in the middle of the width, so that a mirrored one is seen
    change = Augmentation(shift=1, mirror=True, num_steps=1)
    found = change(Rows(x_NCHW), 0, 0, np.arange(num)).images_NCHW
    counts = found.sum((0, 1)).astype(float)
    share = num / 18  # nine moves, each of two sides
    expected = np.array([[1, 1, 2, 1, 1]] * 3) * share  # columns 0..2 and 2..4 are reached from the two sides
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected)), counts


def test_what_is_done_to_an_image_depends_on_its_place_and_not_on_who_has_it() -> None:
    x_NCHW, change = images(7), Augmentation(shift=2, mirror=True, num_steps=9)
    whole = change(Rows(x_NCHW), 5, 3, np.arange(7)).images_NCHW
    parts = [change(Rows(x_NCHW[part]), 5, 3, np.arange(7)[part]).images_NCHW for part in (slice(0, 3), slice(3, 7))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(change(Rows(x_NCHW), 5, 4, np.arange(7)).images_NCHW, whole)
    assert not np.array_equal(change(Rows(x_NCHW), 6, 3, np.arange(7)).images_NCHW, whole)


def test_labels_stay_and_nothing_is_done_after_the_steps_or_without_being_asked() -> None:
    rows = Rows(images(6), np.arange(6, dtype=np.int32))
    places = np.arange(6)
    assert np.array_equal(Augmentation(1, True, 4)(rows, 0, 3, places).labels_N, rows.labels_N)
    assert Augmentation(1, True, 4)(rows, 0, 4, places) is rows
    assert Augmentation(0, False, 4)(rows, 0, 0, places) is rows
    none = rows.part(0, 0)
    assert len(Augmentation(1, True, 4)(none, 0, 0, places[:0])) == 0


def test_so_many_sub_pixels_are_mutated_and_to_every_level_equally_often() -> None:
    """A million sub-pixels of level 0, of 5 levels; counts within five standard deviations."""
    num, share, levels = 1_000_000, 0.3, 5
    change = Augmentation(mutated_share=share, levels=levels)
    found = change(Rows(np.zeros((1000, 1, 25, 40), np.uint8)), 0, 10**6, np.arange(1000)).images_NCHW
    counts = np.bincount(found.ravel(), minlength=levels)
    expected = np.full(levels, num * share / levels)
    expected[0] += num * (1 - share)
    assert len(counts) == levels
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(num * share)), counts


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_are_mutated(share: float) -> None:
    rows, places = Rows(images(64), np.arange(64, dtype=np.int32)), np.arange(64)
    found = Augmentation(mutated_share=share)(rows, 0, 3, places)
    same = (found.images_NCHW == rows.images_NCHW).mean()
    assert found.labels_N is rows.labels_N
    assert found is rows if share == 0 else 0 < same < 0.02  # by chance: 1 of 256


def test_mutations_depend_on_the_place_and_are_others_in_each_step_and_of_each_image() -> None:
    x_NCHW, change = np.repeat(images(1), 7, axis=0), Augmentation(mutated_share=0.5)
    whole = change(Rows(x_NCHW), 5, 3, np.arange(7)).images_NCHW
    parts = [change(Rows(x_NCHW[part]), 5, 3, np.arange(7)[part]).images_NCHW for part in (slice(0, 3), slice(3, 7))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole.reshape(7, -1), axis=0)) == 7
    assert not np.array_equal(change(Rows(x_NCHW), 5, 4, np.arange(7)).images_NCHW, whole)


def test_moves_are_the_same_with_mutations_and_both_are_done() -> None:
    x_NCHW, places = images(50), np.arange(50)
    moved_only = Augmentation(2, True, 9)(Rows(x_NCHW), 5, 3, places).images_NCHW
    both = Augmentation(2, True, 9, mutated_share=0.1)(Rows(x_NCHW), 5, 3, places).images_NCHW
    assert 0.85 < (both == moved_only).mean() < 0.95


def test_a_run_mutates_in_all_steps_with_levels_of_its_data(tmp_path: Path) -> None:
    recipe = tiny_recipe(batch_size=4, epochs=2, condition_on=(), augmented_share=0.5, mutated_share=1.0)
    loop = Loop(tiny_plan(Storage(str(tmp_path)), recipe), torch.device("cpu"), say=lambda _: None)
    seen = torch.cat([part.batch.x_BCHW for step in [*loop.inputs(0, 0, 0), *loop.inputs(1, 0, 6)] for part in step.parts])
    assert sorted(seen.unique().tolist()) == [0, 1, 2, 3]
    alike = (seen[:, :, 1:] == seen[:, :, :-1]).all(dim=(1, 2, 3))  # rows of an image, which are the same in the data set
    assert not alike.any()


def test_a_run_moves_the_images_of_the_share_of_steps_that_its_recipe_tells(tmp_path: Path) -> None:
    """Of 23 images in steps of 4, 2 epochs are 12 steps: half of them are 6, an epoch."""

    def steps(**changes: object) -> list[StepInputs]:
        recipe = tiny_recipe(batch_size=4, epochs=2, condition_on=(), **changes)
        loop = Loop(tiny_plan(Storage(str(tmp_path)), recipe), torch.device("cpu"), say=lambda _: None)
        return [*loop.inputs(0, 0, 0), *loop.inputs(1, 0, 6)]

    plain, augmented = steps(), steps(shift=1, augmented_share=0.5)
    same = [torch.equal(mine.parts[0].batch.x_BCHW, other.parts[0].batch.x_BCHW) for mine, other in zip(plain, augmented, strict=True)]
    assert not any(same[:6])
    assert all(same[6:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": -1}, "shift is -1; give 0 or more"),
        ({"mutated_share": -0.1}, "mutated_share is -0.1; give a share of the sub-pixels, 0 to 1"),
        ({"mutated_share": float("nan")}, "mutated_share is nan; give a share of the sub-pixels, 0 to 1"),
        ({"augmented_share": 1.5}, "augmented_share is 1.5; give a share of the steps, 0 to 1"),
    ],
)
def test_nonsense_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny_recipe(**change)
