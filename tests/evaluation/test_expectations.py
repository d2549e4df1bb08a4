"""What a model expects, against the table of all images; the dependence of a pixel against the same table with one sub-pixel summed out."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.evaluation import expectations as module
from pixelmodels.evaluation.dependence import Occlusion, dependence_by_gradient, dependence_by_occlusion
from pixelmodels.evaluation.expectations import Expectations, expectations
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.context import Given
from pixelmodels.models.orders import log_prob_of_order, turned
from tests.conformance.checks import all_images
from tests.conformance.conftest import random_context, small_model

CASES = {  # architecture, likelihood, channels, height, width, levels, context, order
    "grey": ("gated_pixelcnn", "categorical", 1, 2, 3, 3, "none", None),
    "bernoulli": ("pixelsnail", "bernoulli", 1, 3, 3, 2, "label", None),
    "rgb ordered by masks": ("pixelcnn", "categorical", 3, 1, 3, 2, "none", None),
    "rgb ordered by the mixture": ("gated_pixelcnn", "discretized_logistic_mixture", 3, 2, 1, 3, "mix", None),
    "two scales": ("multiscale_pixelrnn", "categorical", 1, 3, 3, 2, "none", None),
    "a small image is given": ("gated_pixelcnn", "categorical", 1, 2, 4, 2, "small", None),
    "an order by rows": ("gated_pixelcnn", "categorical", 1, 3, 3, 2, "orders", 3),
    "an order by columns": ("gated_pixelcnn", "categorical", 1, 3, 3, 2, "orders", 6),
}


class Case:
    """A model, every image that there is, and its probability."""

    def __init__(self, name: str) -> None:
        architecture, likelihood, channels, height, width, levels, kind, self.order = CASES[name]
        self.model = small_model(architecture, likelihood, channels, height, width, levels=levels, context=kind)
        self.x_NCHW = all_images(self.model)
        self.context = random_context(self.model, 1) if kind in ("label", "mix", "small") else None
        self.contexts = None if self.context is None else self.context.rows(torch.zeros(len(self.x_NCHW), dtype=torch.long))
        with torch.no_grad():
            self.p_N = log_prob_of_order(self.model, self.x_NCHW, self.contexts, order=self.order or 0).exp()
        assert abs(float(self.p_N.sum()) - 1) < 1e-9
        rank_HW = self.model.pixel_ranks()
        self.rank_HW = rank_HW if self.order is None else self._rank_of_image(rank_HW)

    def _rank_of_image(self, rank_HW: Tensor) -> Tensor:
        place_P = turned(torch.arange(rank_HW.numel()).view(1, *rank_HW.shape), torch.tensor([self.order]))[0].flatten()
        found = torch.empty(rank_HW.numel(), dtype=torch.long)
        found[place_P] = rank_HW.flatten()
        return found.view_as(rank_HW)

    def maps(self) -> Expectations:
        return expectations(self.model, self.x_NCHW, self.contexts, order=self.order)

    def an_image(self) -> Tensor:
        """A likely one, which the context allows."""
        return self.x_NCHW[int(self.p_N.argmax())][None]

    def without(self, x_CHW: Tensor, target: tuple[int, int], place: tuple[int, int, int] | None) -> list[Tensor]:
        """Of each channel of the target its distribution given all sub-pixels before it, as the image has them, but `place`."""
        _, height, width = self.model.spec.shape
        found = []
        for k in range(self.model.spec.channels):
            keep_N = torch.ones(len(self.x_NCHW), dtype=torch.bool)
            for c, r, w in itertools.product(range(self.model.spec.channels), range(height), range(width)):
                is_before = self.rank_HW[r, w] < self.rank_HW[target] or ((r, w) == target and c < k)
                if is_before and (c, r, w) != place:
                    keep_N &= self.x_NCHW[:, c, r, w] == x_CHW[c, r, w]
            p_L = torch.zeros(self.model.spec.levels, dtype=torch.float64)
            p_L.index_add_(0, self.x_NCHW[keep_N][:, k, *target].long(), self.p_N[keep_N])
            found.append(p_L / p_L.sum())
        return found


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_surprise_sums_to_the_log_probability(case: Case) -> None:
    likely_N = case.p_N > 0
    bits_N = case.maps().surprise_bits_BHW.sum((1, 2))[likely_N]
    torch.testing.assert_close(bits_N, -case.p_N[likely_N].log2(), rtol=1e-9, atol=1e-12)


def test_surprise_of_float32_sums_to_the_log_probability_within_a_millionth() -> None:
    model = small_model("gated_pixelcnn", "discretized_logistic_mixture", 3, 16, 16, levels=256).float()
    x_BCHW = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nats_B = -model.log_prob(x_BCHW).double()
    torch.testing.assert_close(expectations(model, x_BCHW).surprise_bits_BHW.sum((1, 2)) * math.log(2), nats_B, rtol=1e-6, atol=0)


def test_entropy_is_the_mean_of_the_surprise_and_the_expected_image_that_of_the_images(case: Case) -> None:
    """Over all images that there are, weighed by their probabilities, at every pixel."""
    maps, p_N = case.maps(), case.p_N
    weighed = torch.where(p_N[:, None, None] > 0, p_N[:, None, None] * maps.surprise_bits_BHW, 0.0)
    torch.testing.assert_close(weighed.sum(0), (p_N[:, None, None] * maps.entropy_bits_BHW).sum(0), rtol=1e-9, atol=1e-12)
    mean_CHW = (p_N[:, None, None, None] * case.x_NCHW).sum(0)
    torch.testing.assert_close(mean_CHW, (p_N[:, None, None, None] * maps.expected_BCHW).sum(0), rtol=1e-9, atol=1e-12)


def test_expected_and_likeliest_are_of_the_conditional_of_each_sub_pixel(case: Case) -> None:
    x_1CHW = case.an_image()
    maps = expectations(case.model, x_1CHW, case.context, order=case.order)
    _, height, width = case.model.spec.shape
    levels_L = torch.arange(case.model.spec.levels, dtype=torch.float64)
    for row, column in itertools.product(range(height), range(width)):
        tables = case.without(x_1CHW[0], (row, column), None)
        entropies = [-float(torch.xlogy(p_L, p_L).sum()) / math.log(2) for p_L in tables]
        assert float(maps.entropy_bits_BHW[0, row, column]) == pytest.approx(sum(entropies), abs=1e-9)
        for k, p_L in enumerate(tables):
            assert float(maps.expected_BCHW[0, k, row, column]) == pytest.approx(float(p_L @ levels_L), abs=1e-9)
            assert int(maps.likeliest_BCHW[0, k, row, column]) == int(p_L.argmax())


def test_occlusion_is_the_divergence_from_the_prediction_without_the_sub_pixel(case: Case) -> None:
    x_1CHW = case.an_image()
    channels, height, width = case.model.spec.shape
    last = divmod(int(case.rank_HW.flatten().argmax()), width)
    middle = divmod(int((case.rank_HW.flatten() - height * width // 2).abs().argmin()), width)
    for target in {last, middle}:
        bits_CHW = dependence_by_occlusion(case.model, x_1CHW, target, case.context, order=case.order)
        full = case.without(x_1CHW[0], target, None)
        given = case.model.given_pixels(case.context)
        for place in itertools.product(range(channels), range(height), range(width)):
            if given is not None and given.mask_BHW[0, place[1:][0], place[1:][1]]:
                continue  # these have no probability of their own in the table
            if place[1:] == target:
                assert bits_CHW[place] == 0
                continue
            without = case.without(x_1CHW[0], target, place)
            divergence = sum(float((p_L * (p_L / q_L).log2())[p_L > 0].sum()) for p_L, q_L in zip(full, without, strict=True))
            assert float(bits_CHW[place]) == pytest.approx(divergence, abs=1e-9), (target, place)
        gradient_CHW = dependence_by_gradient(case.model, x_1CHW, target, case.context, order=case.order)
        for map_CHW in (bits_CHW, gradient_CHW):
            assert (map_CHW[:, case.rank_HW >= case.rank_HW[target]] == 0).all()
        assert (gradient_CHW > 0).any() or target == middle


def test_gradient_is_that_of_a_small_change_of_the_input() -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 3, 4, levels=5)
    x_1CHW = torch.randint(5, (1, 1, 3, 4), generator=torch.Generator().manual_seed(0))
    found = dependence_by_gradient(model, x_1CHW, (2, 1))
    image_BHWC, step = model.inputs(x_1CHW), 1e-5

    def bits(row: int, column: int, change: float) -> float:
        changed_BHWC = image_BHWC.clone()
        changed_BHWC[0, row, column, 0] += change
        with torch.no_grad():
            return -float(model.likelihood.log_prob_map(model.network(changed_BHWC, None), x_1CHW)[0, 2, 1]) / math.log(2)

    for row, column in itertools.product(range(3), range(4)):
        slope = abs(bits(row, column, step) - bits(row, column, -step)) / (2 * step) * model.spec.step
        assert float(found[0, row, column]) == pytest.approx(0 if (row, column) == (2, 1) else slope, abs=1e-7)


def test_later_pixels_are_nothing_to_the_network_too(case: Case) -> None:
    """Not only because they are not looked at: a pass with another level there gives the same table (but for the batch's rounding)."""
    target = divmod(int((case.rank_HW.flatten() - (case.rank_HW.numel() - 1) // 2).abs().argmin()), case.rank_HW.shape[1])
    occlusion = Occlusion(case.model, case.an_image(), target, case.context, order=case.order)
    later_HW = ~occlusion._before_HW
    later_HW[occlusion._target] = False
    given = case.model.given_pixels(case.context)
    if given is not None:
        later_HW &= ~given.mask_BHW[0]
    reach_CHW = torch.zeros_like(occlusion._reach_CHW)
    reach_CHW[:, later_HW] = True
    occlusion._reach_CHW, occlusion._places_NK = reach_CHW, reach_CHW.nonzero()
    parts = occlusion.passes(0, occlusion.num_passes)
    assert len(parts) > 1
    np.testing.assert_allclose(parts, np.broadcast_to(parts[0], parts.shape), rtol=0, atol=1e-12)


def test_tables_are_held_of_a_few_pixels_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    case, sizes, of_levels = Case("rgb ordered by the mixture"), list[int](), module._of_levels

    def counted(log_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes.append(len(log_NL))
        return of_levels(log_NL)

    monkeypatch.setattr(module, "MOST_ENTRIES", 5 * 3)
    monkeypatch.setattr(module, "_of_levels", counted)
    case.maps()
    assert max(sizes) == 5 and sum(sizes) == 3 * len(case.x_NCHW) * 2


def sizes_of(model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the network will have been given, each time."""
    sizes, forward = list[int](), model.forward

    def counted(x_BCHW: Tensor, context: Given = None) -> Tensor:
        sizes.append(len(x_BCHW))
        return forward(x_BCHW, context)

    monkeypatch.setattr(model, "forward", counted)
    return sizes


def test_passes_may_be_done_in_pieces_and_those_left_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("pixelsnail", "categorical", 1, 4, 4, levels=4)
    x_1CHW = torch.randint(4, (1, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    whole = Occlusion(model, x_1CHW, (3, 3))
    assert whole.num_passes == 1 + 15 * 3 and whole.is_whole
    pieces = whole.bits([whole.passes(at, min(at + 7, 46)) for at in range(0, 46, 7)])
    torch.testing.assert_close(pieces, whole.bits([whole.passes(0, 46)]), rtol=1e-12, atol=1e-15)
    few, sizes = Occlusion(model, x_1CHW, (3, 3), at_once=5), sizes_of(model, monkeypatch)
    torch.testing.assert_close(few.bits([few.passes(0, 46)]), pieces, rtol=1e-12, atol=1e-15)
    assert sizes == [5] * 9 + [1]  # each of the network once
    some = Occlusion(model, x_1CHW, (3, 3), most_passes=12)
    assert some.num_passes == 1 + 3 * 3 and not some.is_whole
    bits_HW = some.bits([some.passes(0, 10)])[0]
    near = [(3, 2), (2, 3), (2, 2)]
    assert {tuple(place) for place in (~bits_HW.isnan()).nonzero().tolist()} == {*near, (3, 3)}
    assert all(float(bits_HW[at]) == pytest.approx(float(pieces[0][at]), abs=1e-12) for at in near)


def test_no_table_of_all_pixels_by_all_is_made_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """There all pixels before the target are looked at, and those that the network cannot see are 0 for that."""
    model = small_model("pixelcnn", "categorical", 1, 5, 5, levels=3)
    x_1CHW = torch.randint(3, (1, 1, 5, 5), generator=torch.Generator().manual_seed(1))
    wanted, seen = dependence_by_occlusion(model, x_1CHW, (4, 0)), Occlusion(model, x_1CHW, (4, 0))
    monkeypatch.setattr("pixelmodels.evaluation.dependence.MOST_DECLARED", 24)
    monkeypatch.setattr(model, "reach", None)
    blind = Occlusion(model, x_1CHW, (4, 0))
    assert blind.num_passes == 1 + 20 * 2 > seen.num_passes
    torch.testing.assert_close(dependence_by_occlusion(model, x_1CHW, (4, 0)), wanted, rtol=1e-9, atol=1e-12)


def test_one_image_after_the_other_is_looked_at_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 3, 3, levels=3, context="orders")
    x_NCHW = torch.randint(3, (2, 1, 3, 3), generator=torch.Generator().manual_seed(2))
    first = Occlusion(model, x_NCHW[:1], (1, 1), order=2, most_passes=6)
    wanted = dependence_by_occlusion(model, x_NCHW[1:], (1, 1), order=2, most_passes=6)
    monkeypatch.setattr(model, "reach", None)  # it is not asked again
    second = Occlusion(model, x_NCHW[1:], (1, 1), order=2, like=first)
    torch.testing.assert_close(second.bits([second.passes(0, second.num_passes)]), wanted, equal_nan=True)


def test_pixels_of_a_given_small_image_are_certain() -> None:
    case = Case("a small image is given")
    given = case.model.given_pixels(case.context)
    assert given is not None
    maps, mask_HW = expectations(case.model, case.an_image(), case.context), given.mask_BHW[0]
    assert (maps.surprise_bits_BHW[0, mask_HW] == 0).all() and (maps.entropy_bits_BHW[0, mask_HW] == 0).all()
    assert (maps.entropy_bits_BHW[0, ~mask_HW] > 0).all()
    for kind in (maps.expected_BCHW, maps.likeliest_BCHW):
        assert torch.equal(kind[0, 0, mask_HW].long(), given.x_BCHW[0, 0, mask_HW])
    at = tuple(mask_HW.nonzero()[-1].tolist())
    assert not dependence_by_gradient(case.model, case.an_image(), at, case.context).any()
    assert not dependence_by_occlusion(case.model, case.an_image(), at, case.context).any()
    target = (1, 3)
    assert dependence_by_gradient(case.model, case.an_image(), target, case.context)[0, 0, 0] > 0  # by way of the small image alone
    assert dependence_by_occlusion(case.model, case.an_image(), target, case.context)[0, 0, 0] > 0


def test_a_given_pixel_that_is_later_or_far_away_counts() -> None:
    """All that is before the second pixel is given: nothing weighs the levels of the third one, so that both count alike."""
    case, target, later = Case("a small image is given"), (0, 1), (0, 2)
    x_1CHW, tables = case.an_image(), []
    assert case.context is not None and case.context.small_BCHW is not None
    own = int(x_1CHW[0, 0, *later])
    for level in (own, 1 - own):
        x_1CHW[0, 0, *later] = level
        context = replace(case.context, small_BCHW=x_1CHW[..., ::2, ::2])
        with torch.no_grad():
            params_1P = case.model(x_1CHW, context)[..., *target]
        tables.append(case.model.likelihood.table(params_1P, 0, x_1CHW[..., *target])[0].exp())
    x_1CHW[0, 0, *later] = own
    wanted = float((tables[0] * (tables[0] / torch.stack(tables).mean(0)).log2()).sum())
    assert float(dependence_by_occlusion(case.model, x_1CHW, target, case.context)[0, *later]) == pytest.approx(wanted, abs=1e-12) != 0
    assert dependence_by_gradient(case.model, x_1CHW, target, case.context)[0, *later] > 0
    wide = small_model("pixelcnn", "categorical", 1, 2, 40, levels=2, context="small")
    given = random_context(wide, 1)
    known = wide.given_pixels(given)
    assert known is not None and not wide.reach()[0, 39, 0, 0, 0]
    occlusion = Occlusion(wide, known.x_BCHW, (0, 39), given)
    assert occlusion._reach_CHW[0, known.mask_BHW[0]].all()


def test_tables_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("rgb ordered by the mixture")
    whole = case.maps()
    monkeypatch.setattr(module, "MOST_ENTRIES", 7)
    for one, other in zip(whole.each(), case.maps().each(), strict=True):
        torch.testing.assert_close(one.entropy_bits_BHW, other.entropy_bits_BHW, rtol=0, atol=1e-14)
        assert torch.equal(one.likeliest_BCHW, other.likeliest_BCHW)


def test_a_model_in_training_is_left_as_it_was_and_expects_the_same() -> None:
    model: PixelModel = small_model("gated_pixelcnn", "categorical", 1, 3, 3)
    x_BCHW = torch.zeros(1, 1, 3, 3, dtype=torch.long)
    before = expectations(model, x_BCHW)
    model.train()
    again = expectations(model, x_BCHW)
    assert model.training and torch.equal(before.entropy_bits_BHW, again.entropy_bits_BHW)
    assert dependence_by_gradient(model, x_BCHW, (2, 2)).isfinite().all() and not any(p.grad is not None for p in model.parameters())


def test_what_does_not_fit_is_told_in_one_line() -> None:
    several = small_model("gated_pixelcnn", "categorical", 1, 3, 3, context="orders")
    x_BCHW = torch.zeros(2, 1, 3, 3, dtype=torch.long)
    with pytest.raises(UserError, match=r"in one order only, not in a mixture of 8; give order, 0\.\.7"):
        expectations(several, x_BCHW)
    with pytest.raises(UserError, match=r"order 8 is out of range"):
        expectations(several, x_BCHW, order=8)
    one = small_model("gated_pixelcnn", "categorical", 1, 3, 3)
    with pytest.raises(UserError, match=r"pixel \(3, 0\) is outside an image of 3 x 3; give 0\.\.2 and 0\.\.2"):
        dependence_by_gradient(one, x_BCHW[:1], (3, 0))
    with pytest.raises(UserError, match=r"2 images given; .* give one"):
        Occlusion(one, x_BCHW, (0, 0))
    with pytest.raises(UserError, match="level 3 is out of range"):
        expectations(one, x_BCHW + 3)
    with pytest.raises(UserError, match="label 3 is out of range"):
        expectations(small_model("pixelcnn", "categorical", 1, 3, 3, context="label"), x_BCHW, Context(label_B=torch.tensor([0, 3])))
