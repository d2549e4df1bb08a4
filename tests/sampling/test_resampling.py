"""Pixels drawn again: by the exact conditional of the order that was drawn, from the image's own seed, and never a known one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.models.orders import in_order, log_prob_of_order, turned, turned_back
from pixelmodels.products import products
from pixelmodels.sampling import Engine, Request, draw_all
from pixelmodels.sampling.choosing import Choice, choose
from pixelmodels.sampling.request import checked
from pixelmodels.sampling.resampling import MOST_OF_SWEEP, Dream, Redraw, redraw_noise, sweeps_over
from tests.conformance.checks import all_images
from tests.conformance.conftest import random_context, small_model

HOLE = np.zeros((5, 5), bool)
HOLE[1:4, 2:5] = True


def hole_request(model: PixelModel, n: int = 3, seed: int = 5, **options: object) -> Request:
    rng = torch.Generator().manual_seed(3)
    known_NCHW = torch.randint(model.spec.levels, (n, *model.spec.shape), generator=rng, dtype=torch.uint8)
    return Request(n=n, seed=seed, known_NCHW=known_NCHW, known_mask_NHW=torch.from_numpy(~HOLE)[None], **options)  # type: ignore[arg-type]


def redrawn_by_forward(model: PixelModel, x_CHW: Tensor, request: Request, image: int, number: int, redraw: Redraw) -> Tensor:
    """One redraw the slow way: a forward pass of the whole image for each sub-pixel, as the reference sampler draws."""
    index = request.first + image
    shape = (*model.spec.shape[1:], model.likelihood.num_uniforms)
    u_HWU = torch.from_numpy(redraw_noise(shape, request.seed, index, number))
    order_1 = torch.tensor([redraw.order])
    region_HW = turned(torch.from_numpy(redraw.region(request.free_of(model, image)))[None], order_1)[0]
    x_1CHW = turned(x_CHW[None], order_1)
    given = None if request.context is None else request.context.rows(slice(image, image + 1))
    given = in_order(given, order_1) if model.context_spec.num_orders > 1 else given
    choice = Choice.of([request.options], model.device)
    with torch.no_grad(), products("ieee", model.device):
        for place in torch.argsort(model.pixel_ranks().flatten()).tolist():
            r, c = divmod(place, model.spec.width)
            for k in range(model.spec.channels) if region_HW[r, c] else ():
                params = model(x_1CHW, given)
                params = params[:, model.params_of_group[k]] if model.num_groups > 1 else params
                x_1CHW[:, k, r, c] = choose(model.likelihood, [params[..., r, c]], k, x_1CHW[:, :, r, c], u_HWU[r, c][None], choice).to(
                    torch.uint8
                )
    return turned_back(x_1CHW, order_1)[0]


MODELS = {
    "gated": ("gated_pixelcnn", "categorical", 1, 5, 5, 5, "orders"),
    "rgb": ("pixelcnn", "categorical", 3, 5, 5, 3, "mix_and_orders"),
    "two scales": ("multiscale_pixelrnn", "categorical", 1, 5, 5, 4, "orders"),
    "strides": ("pixelcnn_pp", "discretized_logistic_mixture", 1, 5, 5, 6, "orders"),
    "one order": ("gated_pixelcnn", "categorical", 1, 5, 5, 5, "none"),
}


def model_of(name: str) -> PixelModel:
    architecture, likelihood, channels, height, width, levels, kind = MODELS[name]
    return small_model(architecture, likelihood, channels, height, width, levels=levels, context=kind)


@pytest.mark.parametrize("speculates", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_each_redraw_is_that_of_the_chosen_order_and_every_step_is_told(name: str, speculates: bool) -> None:
    model = model_of(name)
    context = random_context(model, 3) if name == "rgb" else None
    several = model.context_spec.num_orders > 1
    again = {"sweeps": 1} if several else {"dream": Dream(4, 2)}
    request = checked(model, replace(hole_request(model), context=context, temperature=0.8, first=2, **again))  # type: ignore[arg-type]
    engine = Engine(model, num_slots=2, speculates=lambda width: speculates)
    engine.submit(request)
    steps: dict[tuple[int, int], Tensor] = {}
    last: set[int] = set()
    while not engine.is_idle:
        for row in engine.step_row():
            assert not row.is_last or row.image_CHW is not None
            if row.image_CHW is not None:
                assert (row.image, row.redraw) not in steps
                steps[row.image, row.redraw] = row.image_CHW
                last |= {row.image} if row.is_last else set()
    first_NCHW = draw_all(model, replace(request, sweeps=0, dream=None))
    assert last == {0, 1, 2}
    for image in range(3):
        redraws = request.redraws_of(model, image)
        assert [number for one, number in sorted(steps) if one == image] == list(range(len(redraws) + 1)) and len(redraws) > 1
        assert torch.equal(steps[image, 0], first_NCHW[image])  # no sweep: what is drawn without any
        assert not several or len({redraw.order for redraw in redraws}) > 1
        for number, redraw in enumerate(redraws):
            expected_CHW = redrawn_by_forward(model, steps[image, number], request, image, number, redraw)
            assert torch.equal(steps[image, number + 1], expected_CHW), (image, number, redraw)


@pytest.mark.parametrize("again", [{"sweeps": 3}, {"dream": Dream(12, 3)}])
def test_known_pixels_never_change_and_images_are_those_of_their_seed(again: dict) -> None:
    model = model_of("gated")
    request = hole_request(model, n=4, **again)
    x_NCHW = draw_all(model, request)
    assert request.known_NCHW is not None
    assert torch.equal(x_NCHW[:, :, ~HOLE], request.known_NCHW[:, :, ~HOLE])
    assert torch.equal(draw_all(model, request), x_NCHW)
    alone = replace(request, n=1, first=2, known_NCHW=request.known_NCHW[2:3])
    beside = Request(n=7, seed=1)
    assert torch.equal(draw_all(model, beside, alone)[-1], x_NCHW[2])  # whoever is drawn beside it
    assert not torch.equal(draw_all(model, replace(request, seed=6)), x_NCHW)
    none = replace(request, sweeps=0, dream=None)
    assert not torch.equal(draw_all(model, none), x_NCHW)
    assert torch.equal(draw_all(model, replace(none, sweeps=0)), draw_all(model, none))


def test_a_sweep_of_one_pixel_has_the_exact_conditional_of_its_order() -> None:
    """Against the table of all images: the middle pixel given those before it in the order that was drawn, others summed out."""
    model = small_model("gated_pixelcnn", "categorical", 1, 3, 3, levels=2, context="orders")
    known_1CHW, hole_HW = torch.tensor([[[[0, 1, 1], [1, 0, 0], [0, 1, 0]]]], dtype=torch.uint8), torch.zeros(3, 3, dtype=torch.bool)
    hole_HW[1, 1] = True
    n = 2000
    request = checked(model, Request(n=n, seed=1, known_NCHW=known_1CHW, known_mask_NHW=~hole_HW[None], sweeps=1))
    drawn_N = draw_all(model, request)[:, 0, 1, 1]
    orders = [redraw.order for image in range(n) for redraw in request.redraws_of(model, image)]
    assert len(orders) == n
    x_MCHW = all_images(model)
    for order in range(8):
        places = turned(torch.arange(9).view(1, 3, 3), torch.tensor([order]))[0].flatten().tolist()
        before = places[: places.index(4)]
        fits_M = (x_MCHW.flatten(1)[:, before] == known_1CHW.flatten(1)[:, before]).all(1)
        with torch.no_grad():
            p_M = log_prob_of_order(model, x_MCHW[fits_M], order=order).exp()
        p = float(p_M[x_MCHW[fits_M][:, 0, 1, 1] == 1].sum() / p_M.sum())
        mine_M = drawn_N[torch.tensor(orders) == order].double()
        assert abs(float(mine_M.mean()) - p) < 4.5 * math.sqrt(p * (1 - p) / len(mine_M)), order
    counts = Counter(orders)
    assert all(abs(counts[order] - n / 8) < 5 * math.sqrt(n / 8) for order in range(8))


def test_a_sweep_draws_every_unknown_pixel_once_in_a_few_squares() -> None:
    rng = np.random.default_rng(0)
    for free_HW in (HOLE, rng.random((7, 9)) < 0.3, np.eye(6, dtype=bool), np.ones((4, 4), bool), np.ones((1, 1), bool)):
        for sweep in (sweeps_over(free_HW, 1, 8, seed, 3) for seed in range(20)):
            regions = [redraw.region(free_HW) for redraw in sweep]
            assert np.array_equal(sum(region_HW.astype(int) for region_HW in regions), free_HW.astype(int))
            assert 1 <= len(sweep) <= MOST_OF_SWEEP and all(region_HW.any() for region_HW in regions)
    assert sweeps_over(np.zeros((3, 3), bool), 2, 8, 0, 0) == []
    three = sweeps_over(HOLE, 3, 8, 0, 0)
    assert three[: len(sweeps_over(HOLE, 1, 8, 0, 0))] == sweeps_over(HOLE, 1, 8, 0, 0)  # more sweeps go on from fewer
    assert len({(one.top, one.left) for one in three}) > 4


def test_a_dream_begins_with_the_images_it_is_given_and_draws_squares_of_its_size() -> None:
    model = small_model("pixelcnn", "categorical", 3, 5, 4, levels=4, context="label")
    start_NCHW = torch.randint(4, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    context = random_context(model, 2)
    request = Request(n=2, seed=1, context=context, dream=Dream(6, 2), start_NCHW=start_NCHW, temperature=0.5)
    engine = Engine(model, num_slots=2)
    engine.submit(request)
    frames: list[list[Tensor]] = [[], []]
    while not engine.is_idle:
        for row in engine.step_row():
            if row.image_CHW is not None:
                frames[row.image].append(row.image_CHW)
    for image, of_image in enumerate(frames):
        assert len(of_image) == 7 and torch.equal(of_image[0], start_NCHW[image])
        for redraw, before, after in zip(request.redraws_of(model, image), of_image, of_image[1:], strict=False):
            changed_HW = (before != after).any(0).numpy()
            assert not (changed_HW & ~redraw.region(np.ones((5, 4), bool))).any() and redraw.order == 0
        assert not torch.equal(of_image[0], of_image[-1])
    known = {"known_NCHW": 3 - start_NCHW, "known_mask_NHW": torch.zeros(1, 5, 4, dtype=torch.bool)}
    known["known_mask_NHW"][0, :2] = True
    kept = draw_all(model, replace(request, **known))
    assert torch.equal(kept[:, :, :2], (3 - start_NCHW)[:, :, :2])
    shorter = draw_all(model, replace(request, dream=Dream(3, 2)))
    assert torch.equal(shorter, torch.stack([of_image[3] for of_image in frames]))
    by_one = draw_all(model_of("gated"), Request(n=1, seed=1, order=5, dream=Dream(3, 2)))
    assert by_one.shape == (1, 1, 5, 5)
    assert {redraw.order for redraw in Request(seed=1, order=5, dream=Dream(9, 2)).redraws_of(model_of("gated"), 0)} == {5}


@pytest.mark.parametrize("reserve", [0, 1])
def test_a_dream_gives_its_slots_to_others_in_turn(reserve: int) -> None:
    model = model_of("one order")
    engine = Engine(model, num_slots=2, reserve=reserve)
    dreaming = engine.submit(Request(n=3, dream=Dream(1000, 2)))
    for _ in range(17):
        engine.step_row()
    others = {engine.submit(Request(n=2, seed=seed)) for seed in (1, 2)}
    rows, finished = 0, set()
    while len(finished) < 4:
        finished |= {(row.request_id, row.image) for row in engine.step_row() if row.is_last}
        rows += 1
        assert rows < 10 * model.spec.height, "they wait for the dream"
    assert {request_id for request_id, _ in finished} == others
    assert engine.num_active + engine.num_waiting == 3 and not engine.is_idle
    engine.cancel(dreaming)
    assert engine.num_active + engine.num_waiting == 0 and engine.is_idle
    again = engine.submit(Request(n=1, seed=1))
    while not engine.is_idle:
        assert {row.request_id for row in engine.step_row()} <= {again}


def test_images_that_wait_to_be_drawn_again_are_no_reason_to_refuse_others() -> None:
    engine = Engine(model_of("one order"), num_slots=2, reserve=0, max_waiting=2)
    engine.submit(Request(n=2, dream=Dream(5, 2)))
    engine.step_row()
    assert engine.num_waiting == 0
    while engine.num_waiting < 2:
        engine.step_row()
    engine.submit(Request(n=2, seed=1))
    assert engine.num_waiting == 4 and engine.num_active == 0 and not engine.is_idle
    finished = 0
    while not engine.is_idle:
        finished += sum(row.is_last for row in engine.step_row())
    assert finished == 4


def test_nothing_is_drawn_again_where_all_is_known() -> None:
    model = model_of("gated")
    request = replace(hole_request(model, sweeps=2), known_mask_NHW=torch.ones(1, 5, 5, dtype=torch.bool))
    assert torch.equal(draw_all(model, request), request.known_NCHW)
    assert torch.equal(draw_all(model, replace(request, sweeps=0, dream=Dream(5, 2))), request.known_NCHW)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("one order", {"sweeps": 1}, "1 sweeps asked for, which are by several orders, and the model has one; leave sweeps out"),
        ("gated", {"sweeps": -1}, r"-1 sweeps asked for; give 0\.\."),
        ("gated", {"sweeps": 1, "known_NCHW": None, "known_mask_NHW": None}, "over the unknown pixels of a completion; say what is known"),
        ("gated", {"sweeps": 1, "dream": Dream(1, 1)}, "sweeps and a dream are two ways"),
        ("gated", {"start_NCHW": torch.zeros(3, 1, 5, 5, dtype=torch.uint8)}, "without a dream"),
        ("gated", {"dream": Dream(1, 1), "start_NCHW": torch.zeros(2, 1, 5, 5, dtype=torch.uint8)}, "2 images to begin with given for 3"),
        ("gated", {"dream": Dream(1, 1), "start_NCHW": torch.full((3, 1, 5, 5), 9, dtype=torch.uint8)}, "level 9 is out of range"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(name: str, changes: dict, told: str) -> None:
    model = model_of(name)
    with pytest.raises(UserError, match=told):
        draw_all(model, replace(hole_request(model), **changes))


def test_a_dream_without_steps_or_squares_is_told() -> None:
    with pytest.raises(UserError, match=r"0 steps of a dream asked for; give 1\.\."):
        Dream(0, 2)
    with pytest.raises(UserError, match="in squares of 0 pixels"):
        Dream(1, 0)
