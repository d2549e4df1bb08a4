"""Sets of which nearly nothing is to be told: no bits below 0, no -0, and boards that can be read."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.evaluation.baselines import baseline_rows
from pixelmodels.evaluation.leaderboard import LeaderboardRow, leaderboard_files
from pixelmodels.evaluation.scores import score_rows, summarize
from pixelmodels.likelihoods import LIKELIHOODS
from pixelmodels.shapes import ImageSpec
from tests.conformance.conftest import small_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("lit", [False, True])
@pytest.mark.parametrize(
    "spec",
    [ImageSpec(1, 1, 9, 2), ImageSpec(1, 1, 1, 2), ImageSpec(3, 7, 5, 256), ImageSpec(1, 9, 1, 17)],
    ids=lambda spec: "x".join(map(str, spec.shape)),
)
def test_baselines_of_80_images_of_which_one_has_one_lit_pixel(spec, lit):
    x_NCHW = np.zeros((80, *spec.shape), np.uint8)
    x_NCHW[70, 0, -1, -1] = (spec.levels - 1) * lit
    rows = baseline_rows(x_NCHW[:60], x_NCHW[60:], spec)
    assert len(rows) == 4
    for row in rows:
        numbers = (row.test_bits_per_dim, row.test_nll_nats, row.test_bits_per_dim_stderr or 0.0)
        assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert is_readable(rows)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_what_is_certain_costs_nothing_and_is_told_as_nothing(likelihood):
    """A model that is certain of blank images, to the last digit."""
    model = small_model("pixelcnn", likelihood, 1, 3, 4).float()
    bias = {
        "bernoulli": [-300.0],
        "categorical": [300.0, -300.0, -300.0],
        "discretized_logistic_mixture": [0.0, 1.0, -9.0, -9.0, -7.0, -7.0],
    }
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(torch.tensor(bias[likelihood]))
    nll_nats_N = score_rows(model, Rows(np.zeros((7, 1, 3, 4), np.uint8), None, None), CPU)
    assert (nll_nats_N == 0).all() and not np.signbit(nll_nats_N).any()
    scores = summarize(nll_nats_N, 12)
    assert f"{scores.bits_per_dim:.4f} {scores.nll_nats:.2f} {scores.bits_per_dim_stderr:.4f}" == "0.0000 0.00 0.0000"
    row = LeaderboardRow("model", likelihood, 5, scores.bits_per_dim, scores.bits_per_dim_stderr, scores.nll_nats, None, None, 1.0)
    assert is_readable([row])


def is_readable(rows: list[LeaderboardRow]) -> bool:
    """Whether the files are made without a warning and tell no -0 and nothing that is no number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = leaderboard_files(rows, "board")
    text = " ".join(content.decode() for name, content in files.items() if not name.endswith(".png")).lower()
    return not any(word in text for word in ("nan", "inf", "-0.0", "| -0"))
