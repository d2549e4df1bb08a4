"""What is seen to before anything is scored, and what is told of what is certain."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pixelmodels import ray_cluster
from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.evaluation import evaluate as evaluation
from pixelmodels.evaluation.evaluate import Evaluate, evaluate
from pixelmodels.evaluation.leaderboard import LeaderboardRow, leaderboard_files, rich_table
from pixelmodels.evaluation.nats import ImageNats, compare
from pixelmodels.evaluation.scores import score_rows, summarize
from pixelmodels.models.files import save_model
from pixelmodels.promotion.outcome import Decision
from pixelmodels.promotion.report import markdown, plain, summary
from pixelmodels.storage import Storage
from pixelmodels.tracking.versions import Version
from tests.conformance.conftest import small_model
from tests.training.tiny_run import SPEC, TinyDataset


class Connected(Exception):
    """Ray would be joined now, and images scored."""


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise Connected

    monkeypatch.setattr(ray_cluster, "connect", connect)
    monkeypatch.setattr(evaluation, "find_dataset", lambda *_: TinyDataset())


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("spoiled", ["a file in the way", "no folder can be made", "a link that leads nowhere"])
def test_a_folder_that_takes_no_scores_is_told_before_there_are_any(spoiled: str, storage: Storage, tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model("pixelcnn", "categorical", SPEC.channels, SPEC.height, SPEC.width, levels=SPEC.levels))
    storage.write_bytes("evaluations" if spoiled == "a file in the way" else "any", b"")
    if spoiled != "a file in the way":
        os.symlink("/proc" if spoiled == "no folder can be made" else "nowhere/at/all", storage.uri("evaluations"))
    with pytest.raises(UserError, match=r"evaluations/.*' cannot be written \(") as error:
        evaluate(Evaluate(str(tmp_path / "model"), "tiny", storage=storage.root))
    assert "\n" not in str(error.value) and storage.root in str(error.value)


@pytest.mark.usefixtures("no_ray")
def test_long_names_of_models_are_no_trouble(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*("x" * 70 for _ in range(4)))
    save_model(folder, small_model("pixelcnn", "categorical", SPEC.channels, SPEC.height, SPEC.width, levels=SPEC.levels))
    with pytest.raises(Connected):
        evaluate(Evaluate(str(folder), "tiny", storage=storage.root))


@pytest.mark.usefixtures("no_ray")
def test_nothing_is_left_of_what_was_tried(storage: Storage, tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model("pixelcnn", "categorical", SPEC.channels, SPEC.height, SPEC.width, levels=SPEC.levels))
    with pytest.raises(Connected):
        evaluate(Evaluate(str(tmp_path / "model"), "tiny", storage=storage.root))
    assert storage.list("evaluations") == []


def test_only_the_one_remark_is_kept_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    remark = b"[x] core_worker.cc:2465: Actor with class name: 'A' and ID: 'b' has constructor arguments in the object store and "
    with ray_cluster.without_remarks():
        os.write(2, b"before\n" + remark + b"max_restarts > 0. If they are lost, it fails.\nbetween\n")
        os.write(2, b"no end of a line")
    os.write(2, b", after\n")
    assert capfd.readouterr().err == "before\nbetween\nno end of a line, after\n"
    with pytest.raises(ZeroDivisionError), ray_cluster.without_remarks():
        _ = 1 // 0
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


class Certain(torch.nn.Module):
    """Gives every image the likelihood 1: of a data set of blank images that is true."""

    context_spec = small_model("pixelcnn", "categorical", 1, 2, 2, levels=2).context_spec

    def log_prob(self, x_BCHW: torch.Tensor, context: object) -> torch.Tensor:
        return torch.zeros(len(x_BCHW))


def test_what_is_certain_has_zero_nats_and_not_minus_zero() -> None:
    rows = Rows(np.zeros((3, 1, 2, 2), np.uint8))
    nll_nats_N = score_rows(Certain(), rows, torch.device("cpu"))  # type: ignore[arg-type]
    scores = summarize(nll_nats_N, 4)
    assert not np.signbit(nll_nats_N).any() and not np.signbit([scores.nll_nats, scores.bits_per_dim]).any()


@pytest.mark.parametrize("bits", [-0.0, -1e-9, -4e-5])
def test_no_table_says_minus_zero(bits: float) -> None:
    rows = [
        LeaderboardRow("m", "categorical", 5, bits, 0.0, bits, 1.0, 1.0, 1.0),
        LeaderboardRow("b", "baseline", None, bits, None, bits, None, None, 0.0),
    ]
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(rich_table(rows, "blank"))
    files = leaderboard_files(rows, "blank")
    for text in (console.export_text(), files["leaderboard.md"].decode()):
        assert "0.0000" in text and "-0" not in text


@pytest.mark.parametrize("difference", [0.0, -0.0, -1e-9])
def test_no_decision_says_minus_zero(difference: float) -> None:
    keys, nll_nats_N = ("a", "b", "c"), np.array([1.0, 2.0, 3.0])
    mine, theirs = (ImageNats(keys, values_N, values_N) for values_N in (nll_nats_N + difference, nll_nats_N))
    versions = [Version("blank", number, "run", "pixelcnn", "m", "blank-1", -0.0, None) for number in "12"]
    compared = compare(mine, theirs, 4, num_resamples=100)
    decision = Decision("refused", "it is no better", versions[0], versions[1], comparison=compared, required=0.0)
    assert "-0.0000" not in summary(decision) and "-0.0000" not in markdown(decision)
    assert "+0.0000 bits/dim [+0.0000, +0.0000]" in summary(decision) and "below +0.0000" in summary(decision)
    assert "-0.0" not in json.dumps(plain(decision)["required_bits_per_dim"])
    assert versions[0].to_tags()["test_bits_per_dim"] == "0.000000"
