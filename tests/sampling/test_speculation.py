"""Guessed rows: what a round takes in, when an image goes on to its next row, and at which widths rows are guessed."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from pixelmodels.models import PixelModel
from pixelmodels.sampling import Engine, Request, calibration, draw_all, reference_sample
from pixelmodels.sampling.calibration import guessed_widths, is_worth_measuring, rounds_a_row
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.compiled import CompiledPasses
from pixelmodels.sampling.engine import NotFinite
from pixelmodels.sampling.lane import runs
from pixelmodels.sampling.passes import Passes
from tests.conformance.conftest import random_context, small_model

KINDS = {
    "binary": ("gated_pixelcnn", "bernoulli", 1, 6, 9),
    "rgb": ("gated_pixelcnn", "categorical", 3, 4, 5),
    "strided": ("pixelcnn_pp", "discretized_logistic_mixture", 3, 6, 9),
    "lstm": ("pixelrnn_diagonal_bilstm", "categorical", 1, 5, 6),
    "attention": ("pixelsnail", "discretized_logistic_mixture", 1, 4, 6),
}


@cache
def strong(kind: str) -> PixelModel:
    """A model in which pixels depend much on those before, so that a guess is wrong where it is made from others."""
    model = small_model(*KINDS[kind], levels=2 if kind == "binary" else 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if kind == "lstm" else 3)
    return model


class Watched(Passes):
    """Passes that tell what rounds take in."""

    def __init__(self, model: PixelModel):
        super().__init__(model)
        self.rounds: list[tuple[int, list[int], list[int]]] = []  # first column, and what was settled before and after

    def settle(self, canvas: Canvas, first: int) -> None:
        before = canvas.guesses["settled"].tolist()
        super().settle(canvas, first)
        self.rounds.append((first, before, canvas.guesses["settled"].tolist()))


def guessing(model: PixelModel, num_slots: int) -> tuple[Engine, Watched]:
    made: list[Watched] = []

    def make_passes(of: PixelModel) -> Passes:
        made.append(Watched(of))
        return made[-1]

    return Engine(model, num_slots=num_slots, make_passes=make_passes, speculates=lambda width: True), made[0]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_guessed_wrong_at_first_are_those_of_the_reference(kind: str) -> None:
    model = strong(kind)
    for seed in range(5):  # where an image has drawn its last row, others go on beside it
        engine, passes = guessing(model, 3)
        assert torch.equal(draw_all(engine, Request(n=3, seed=seed)), reference_sample(model, 3, seed=seed))
        assert len(passes.rounds) > model.spec.height  # some are wrong at first


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_settles_a_step_at_least_and_takes_in_what_is_open_only(kind: str) -> None:
    model = strong(kind)
    engine, passes = guessing(model, 1)
    draw_all(engine, Request(seed=2))
    for first, (before,), (after,) in passes.rounds:
        assert before < after <= model.spec.width * model.num_groups
        column = max(0, before // model.num_groups - 1)  # one to the left of what is open
        assert column - model.period < first <= column and first % model.period == 0
    assert len(passes.rounds) > model.spec.height


def test_an_image_goes_on_as_soon_as_its_own_row_is_settled() -> None:
    model = strong("binary")
    rounds = {}
    for n in (1, 2):
        engine, passes = guessing(model, 2)
        x_NCHW = reference_sample(model, 2, seed=1)
        known = {"known_NCHW": x_NCHW[1:], "known_mask_NHW": torch.ones(1, *model.spec.shape[1:], dtype=torch.bool)}
        known["known_mask_NHW"][:, :, -1] = False  # so that its rows are not wholly known: each takes one round
        fast = engine.submit(Request(seed=1, first=1, **known))
        if n == 2:
            engine.submit(Request(seed=1))
        while not any(row.request_id == fast and row.is_last for row in engine.step_row()):
            pass
        rounds[n] = len(passes.rounds)
    assert rounds[1] <= model.spec.height + 2
    assert rounds[2] <= rounds[1] + model.spec.width  # at most the other's row, that the last step waits for


def test_a_parameter_that_is_not_finite_ends_its_request_alone() -> None:
    model = strong("binary")
    engine, passes = guessing(model, 2)
    first = next(layer for layer in model.layers() if "pending" in passes.start(1).states[layer])
    good, bad = engine.submit(Request(seed=1)), engine.submit(Request(seed=2))
    row = passes.row

    def spoiled(canvas: Canvas) -> None:
        row(canvas)
        if len(canvas.row_B) == 2:
            canvas.states[first]["pending"][1, 4] = torch.nan

    passes.row = spoiled  # type: ignore[method-assign]
    with pytest.raises(NotFinite) as caught:
        engine.step_row()
    assert caught.value.request_ids == {bad}
    done = [one.image_CHW for _ in range(model.spec.height) if not engine.is_idle for one in engine.step_row() if one.is_last]
    assert len(done) == 1 and torch.equal(done[0], reference_sample(model, 1, seed=1)[0]) and good != bad


WIDE = {
    "binary": ("gated_pixelcnn", "bernoulli", 1, 3, 20),
    "rgb": ("gated_pixelcnn", "categorical", 3, 3, 18),
    "strided": ("pixelcnn_pp", "discretized_logistic_mixture", 3, 5, 20),
}


@pytest.mark.compiled
@pytest.mark.parametrize("kind", WIDE)
def test_compiled_rounds_of_a_part_of_the_row_settle_what_others_do(kind: str, compiled_functions: Path) -> None:
    model = small_model(*WIDE[kind], levels=2 if kind == "binary" else 5, context="mix")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    passes, context = CompiledPasses(model, compiled_functions, speculates=True), random_context(model, 3)
    for n in (1, 3):
        engine = Engine(model, num_slots=n, reserve=0, make_passes=lambda model: passes, speculates=lambda width: True)
        for seed in range(2):
            expected = reference_sample(model, n, seed=seed, context=context.rows(slice(0, n)))
            assert torch.equal(draw_all(engine, Request(n=n, seed=seed, context=context.rows(slice(0, n)))), expected)


def test_rows_that_were_known_are_not_counted_as_drawn() -> None:
    model = strong("binary")
    mask_1HW = torch.zeros(1, *model.spec.shape[1:], dtype=torch.bool)
    mask_1HW[:, :3] = True
    for guesses in (False, True):
        engine = Engine(model, num_slots=2, reserve=0, speculates=lambda width, guesses=guesses: guesses)
        engine.submit(Request(n=2, known_NCHW=torch.ones(1, *model.spec.shape, dtype=torch.uint8), known_mask_NHW=mask_1HW))
        rows = engine.step_row()
        assert len(rows) - 6 == engine.num_rows_drawn > 0


def test_runs_of_slots() -> None:
    assert list(runs([4, 0, 1, 2, 6, 5])) == [range(3), range(4, 7)]
    assert list(runs([])) == []


def test_guesses_are_measured_where_rows_settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    model = strong("binary")
    engine, passes = guessing(model, 1)
    draw_all(engine, Request(seed=3))
    assert rounds_a_row(model, 3) == len(passes.rounds) / model.spec.height
    assert rounds_a_row(model, 3, most=1.1) == math.inf == rounds_a_row(model, 3, most_s=0)
    for rounds, is_worth in ((4.5, True), (4.6, False)):  # of rows of 9 pixels
        monkeypatch.setattr(calibration, "rounds_a_row", lambda model, rounds=rounds, **bounds: rounds)
        assert is_worth_measuring(model) == is_worth


def test_the_widths_are_those_at_which_guesses_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tried = strong("binary"), list[int]()

    def ratio(of: PixelModel, width: int, make_passes: object, until: float) -> float:
        tried.append(width)
        return {1: 0.5, 2: 1.1, 4: 0.9, 8: 1.4, 12: 0.1}[width]

    monkeypatch.setattr(calibration, "_times_passes", ratio)
    assert guessed_widths(model, 12) == (1, 4)
    assert tried == [1, 2, 4, 8]
