from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import promote as pipeline
from pixelmodels.data import Dataset
from pixelmodels.errors import UserError
from pixelmodels.models import ARCHITECTURES, PixelModel
from pixelmodels.promotion.options import Promote
from pixelmodels.promotion.promote import promote
from pixelmodels.promotion.report import samples_png
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from tests.promotion.case import SMALL, decide, files_of, make_champion, nats_of, registered, state_of, trained, write_dataset
from tests.promotion.leaky import LeakyConfig


@pytest.fixture(scope="module", autouse=True)
def leaky() -> Iterator[None]:
    """A model with a bug, registered as a user registers one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "leaky", "tests.promotion.leaky:Leaky")
        yield


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs are told to be started from, in a checkout or not."""
    monkeypatch.setattr("pixelmodels.tracking.source.git_state", lambda: (COMMIT, False))


@pytest.fixture(scope="module")
def data(tracker: Tracker) -> Dataset:
    return write_dataset(tracker.storage, "aaaaaaaaaaaa")


@pytest.fixture(scope="module")
def models(data: Dataset) -> dict[str, PixelModel]:
    return {"good": trained(data, 60), "poor": trained(data, 12), "leaky": trained(data, 60, LeakyConfig(**SMALL))}


def test_a_better_version_takes_the_place_of_the_champion(
    tracker: Tracker, data: Dataset, models: dict[str, PixelModel], tmp_path: Path
) -> None:
    poor, good = (registered(tracker, data, "better", models[name], name) for name in ("poor", "good"))
    first = decide(tracker, "better", poor)
    assert (first.outcome, first.comparison, first.failed) == ("promoted", None, ())
    assert state_of(tracker, "better")["aliases"] == {"champion": poor}

    before = state_of(tracker, "better")
    dry = decide(tracker, "better", good, dry_run=True)
    assert (dry.outcome, dry.run_id) == ("promoted", None)
    assert state_of(tracker, "better") == before, "a dry run changes nothing"

    decision = decide(tracker, "better", best=True)
    assert (decision.outcome, decision.challenger.number) == ("promoted", good)
    after = state_of(tracker, "better")
    assert after["aliases"] == {"champion": good, "previous": poor} and after["runs"] == before["runs"] + 1
    compared = decision.comparison
    assert compared is not None
    expected_N = (nats_of(models["good"], data) - nats_of(models["poor"], data)) / np.log(2) / 12
    np.testing.assert_allclose(np.sort(compared.bits_N), np.sort(expected_N), rtol=1e-9)
    assert compared.mean == pytest.approx(expected_N.mean()) and compared.low < compared.mean < compared.high < 0

    run = tracker.client.get_run(decision.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["outcome"] == "promoted" and run.data.params["best"] == "True"
    assert run.data.metrics["difference/high"] == compared.high
    files = files_of(tracker, str(decision.run_id), tmp_path)
    assert sorted(files) == ["decision.json", "differences.png", "report.md", "samples.png"]
    assert all(files[name].startswith(b"\x89PNG") for name in ("differences.png", "samples.png"))
    told = json.loads(files["decision.json"])
    assert told["outcome"] == "promoted" and told["comparison"]["high"] == compared.high and told["champion"]["version"] == poor
    tags = after["versions"][good]
    assert tags["promotion.decision"] == "promoted" and tags["promotion.against"] == poor
    assert tags["promotion.run_id"] == decision.run_id and tags["promotion.failed_checks"] == ""
    assert {"architecture", "recipe", "dataset", "dataset_fingerprint", "test_bits_per_dim", "test_nats"} <= tags.keys()
    assert tags["git_commit"] == told["challenger"]["git_commit"] == COMMIT and tags["condition_on"] == ""
    assert f"version {good} promoted against version {poor}" in after["tags"]["promotion.last"]


def test_a_worse_an_equal_and_a_hardly_better_version_are_refused(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> None:
    good = registered(tracker, data, "worse", models["good"], "good")
    poor = registered(tracker, data, "worse", models["poor"], "poor")
    again = registered(tracker, data, "worse", models["good"], "again")
    assert again != good
    assert decide(tracker, "worse", good).outcome == "promoted"
    worse = decide(tracker, "worse", poor)
    assert worse.outcome == "refused" and worse.failed == () and worse.comparison is not None and worse.comparison.low > 0
    assert "it is worse than the champion, the interval [+" in worse.reason
    assert state_of(tracker, "worse")["aliases"] == {"champion": good, "challenger": poor}
    equal = decide(tracker, "worse", again)
    assert equal.outcome == "refused" and equal.comparison is not None
    assert (equal.comparison.low, equal.comparison.high) == (0.0, 0.0)
    assert "not shown to be better" in equal.reason
    assert state_of(tracker, "worse")["aliases"] == {"champion": good, "challenger": again}
    itself = decide(tracker, "worse", good)
    assert (itself.outcome, itself.reason) == ("refused", "it is champion already")
    assert state_of(tracker, "worse")["versions"][good]["promotion.decision"] == "promoted"

    make_champion(tracker, "worse", poor)
    gain = -decide(tracker, "worse", good, dry_run=True).comparison.mean  # type: ignore[union-attr]
    outcomes = [decide(tracker, "worse", good, dry_run=True, min_gain=least).outcome for least in (gain, gain / 10)]
    assert outcomes == ["refused", "promoted"], "not by its mean: by the whole interval"


def test_rounding_is_no_gain(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> None:
    truth_N, tolerance = nats_of(models["good"], data), 1e-4
    # Each record is nearly as far off as it may be, and to its own version's advantage.
    first = registered(tracker, data, "rounding", models["good"], "first", truth_N * (1 + 0.9 * tolerance))
    second = registered(tracker, data, "rounding", models["good"], "second", truth_N * (1 - 0.9 * tolerance))
    make_champion(tracker, "rounding", first)
    decision = decide(tracker, "rounding", second, dry_run=True)
    assert decision.comparison is not None and decision.comparison.high < 0 and decision.failed == ()
    assert decision.outcome == "refused"
    assert decision.required == pytest.approx(2 * tolerance * truth_N.mean() / np.log(2) / 12, rel=1e-9)


def test_other_data_is_refused(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> None:
    other = write_dataset(tracker.storage, "bbbbbbbbbbbb", seed=1)
    poor = registered(tracker, data, "other", models["poor"], "poor")
    foreign = registered(tracker, other, "other", models["good"], "foreign")
    make_champion(tracker, "other", poor)
    decision = decide(tracker, "other", foreign)
    assert decision.outcome == "refused"
    assert decision.reason == "it was trained on data set 'tiny-bbbbbbbbbbbb' and the champion on 'tiny-aaaaaaaaaaaa'"
    # Tags that claim the same data do not help: the images are joined by their keys.
    tracker.client.set_model_version_tag("other", foreign, "dataset", "tiny-aaaaaaaaaaaa")
    lying = decide(tracker, "other", foreign)
    assert lying.outcome == "refused" and lying.failed == ("likelihood",)
    assert "48 only in the recorded (such as 'test/1/0', " in lying.reason and "48 only in the data set's" in lying.reason
    assert state_of(tracker, "other")["aliases"] == {"champion": poor}


def doctored(truth_N: np.ndarray) -> np.ndarray:
    return truth_N - 3 * (np.arange(len(truth_N)) == 7)


@pytest.fixture(scope="module")
def unsound(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> str:
    """The champion of a registered model whose other versions are unsound."""
    poor = registered(tracker, data, "unsound", models["poor"], "poor")
    make_champion(tracker, "unsound", poor)
    return poor


@pytest.mark.parametrize(
    ("kind", "check", "says"),
    [
        ("leaky", "causality", r"\d+ of 76 changes reach parameters that are due before what was changed, by up to [\d.]+; "),
        ("doctored", "likelihood", r"1 of 48 test images scored again do not have the recorded nats: 'test/0/7' has"),
        ("weights of NaN", "likelihood", r"nats of 48 of 48 test images are not finite"),
        ("NaN, doctored", "likelihood", r"likelihoods of 48 of 48 test images are not finite"),
        ("tag", "likelihood", r"the tag test_bits_per_dim says 0\.1"),
        ("truncated", "model", r"cannot be read"),
    ],
)
def test_an_unsound_version_is_refused_whatever_its_score(
    kind: str, check: str, says: str, unsound: str, tracker: Tracker, data: Dataset, models: dict[str, PixelModel]
) -> None:
    name, poor = "unsound", unsound
    truth_N = nats_of(models["good"], data)
    if kind == "leaky":
        bad = registered(tracker, data, name, models["leaky"], kind)
    elif kind == "doctored":
        bad = registered(tracker, data, name, models["good"], kind, doctored(truth_N))
    elif "NaN" in kind:
        broken = trained(data, 0)
        broken.output.bias.data.fill_(torch.nan)  # type: ignore[union-attr, operator]
        bad = registered(tracker, data, name, broken, kind, truth_N if "doctored" in kind else None)
    else:
        bad = registered(tracker, data, name, models["good"], kind)
        if kind == "tag":
            tracker.client.set_model_version_tag(name, bad, "test_bits_per_dim", "0.1")
        else:
            weights = registry.model_folder(tracker, f"models:/{name}/{bad}") / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-99])
    decision = decide(tracker, name, bad)
    assert decision.outcome == "refused" and check in decision.failed
    assert re.search(says, decision.reason), decision.reason
    if kind == "leaky":
        assert decision.comparison is not None and decision.comparison.high < -0.5, "its score alone would win"
    state = state_of(tracker, name)
    assert state["aliases"] == {"champion": poor} and check in state["versions"][bad]["promotion.failed_checks"]
    assert decide(tracker, name, best=True, dry_run=True).challenger.number == poor, "the best is not one that failed a check"


def test_a_champion_with_false_nats_is_no_measure(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> None:
    champion = registered(tracker, data, "false", models["good"], "false", doctored(nats_of(models["good"], data)))
    make_champion(tracker, "false", champion)
    decision = decide(tracker, "false", registered(tracker, data, "false", models["good"], "true"), dry_run=True)
    assert decision.outcome == "refused" and decision.reason.startswith(f"the champion, version {champion} (false), is no measure: 1 of 48")


def test_rollback_swaps(
    tracker: Tracker, data: Dataset, models: dict[str, PixelModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor, good = (registered(tracker, data, "rollback", models[name], name) for name in ("poor", "good"))
    storage = ["--storage", tracker.storage.root, "--dataset", "rollback"]
    make_champion(tracker, "rollback", poor)
    with pytest.raises(UserError, match=f"'rollback' has no previous champion \\(the champion is version {poor}\\)"):
        decide(tracker, "rollback", rollback=True)
    decide(tracker, "rollback", good)
    before = state_of(tracker, "rollback")
    assert pipeline.main(["--rollback", "--dry-run", *storage]) == 0
    assert state_of(tracker, "rollback") == before
    assert pipeline.main(["--rollback", *storage]) == 0
    said = capsys.readouterr().out.splitlines()
    told = f"rolled back to version {poor} (poor); it is champion again, and version {good} (good) is 'previous' now"
    assert said[0] == f"rollback: would be {told}" and said[2] == f"rollback: {told}"
    assert state_of(tracker, "rollback")["aliases"] == {"champion": poor, "previous": good}
    assert decide(tracker, "rollback", best=True).reason == "it is champion already", "what was rolled back does not come again by itself"
    again = decide(tracker, "rollback", rollback=True)
    assert again.outcome == "rolled back" and sorted(files_of(tracker, str(again.run_id), tmp_path)) == ["decision.json", "report.md"]
    assert state_of(tracker, "rollback")["aliases"] == {"champion": good, "previous": poor}
    (registry.model_folder(tracker, f"models:/rollback/{poor}") / "model.json").unlink()
    assert decide(tracker, "rollback", rollback=True).outcome == "refused"
    assert state_of(tracker, "rollback")["aliases"] == {"champion": good, "previous": poor}


def test_no_rollback_leads_to_other_data(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> None:
    other = write_dataset(tracker.storage, "dddddddddddd", seed=1)
    good = registered(tracker, data, "anew", models["good"], "good")
    foreign = registered(tracker, other, "anew", models["good"], "foreign")
    # The data set is prepared anew: its first champion leaves no way back to the old one's.
    tracker.client.set_registered_model_alias("anew", "previous", good)
    assert decide(tracker, "anew", foreign).outcome == "promoted"
    assert state_of(tracker, "anew")["aliases"] == {"champion": foreign}
    with pytest.raises(UserError, match=f"'anew' has no previous champion \\(the champion is version {foreign}\\)"):
        decide(tracker, "anew", rollback=True)
    # Aliases that were moved by hand lead nowhere else either.
    tracker.client.set_registered_model_alias("anew", "previous", good)
    decision = decide(tracker, "anew", rollback=True)
    assert (decision.outcome, decision.challenger.number) == ("refused", good)
    assert decision.reason == "it was trained on data set 'tiny-aaaaaaaaaaaa' and the champion on 'tiny-dddddddddddd'"
    assert state_of(tracker, "anew")["aliases"] == {"champion": foreign, "previous": good}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --version N, --best and --rollback"),
        (["--best", "--version", "1"], "give one of --version N, --best and --rollback"),
        (["--best"], "several registered models: .*; choose one with --name"),
        (["--best", "--name", "mistakez"], "registered model 'mistakez' unknown; have .*; did you mean 'mistakes'"),
        (["--version", "7", "--name", "mistakes"], "version of registered model 'mistakes' '7' unknown; have 1"),
        (["--version", "0"], "--version 0 is too few"),
        (
            ["--best", "--level", "0.99", "--resamples", "1999"],
            "--resamples 1999 is too few for --level 0.99; give 2000",
        ),
        (["--best", "--level", "1"], "--level 1.0 is no share"),
        (["--best", "--min-gain", "-0.1"], "--min-gain -0.1 is out of range"),
        (["--best", "--use-gpu", "--name", "mistakes"], "--use-gpu given, and torch finds no GPU here"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, tracker: Tracker, data: Dataset, models: dict[str, PixelModel]
) -> None:
    if not [found for found in tracker.client.search_registered_models() if found.name == "mistakes"]:
        registered(tracker, data, "mistakes", models["poor"], "poor")
        tracker.client.create_registered_model("mistakes too")
    with pytest.raises(UserError, match=message):
        pipeline.main([*arguments, "--storage", tracker.storage.root])


@pytest.mark.parametrize(("level", "resamples"), [(0.8, 100), (0.9, 200), (0.95, 400), (0.99, 2000), (0.999, 20_000)])
def test_ten_resamples_beyond_each_end_are_enough(level: float, resamples: int) -> None:
    assert Promote(best=True, level=level, resamples=resamples).resamples == resamples
    with pytest.raises(UserError, match=f"--resamples {resamples - 1} is too few.*; give {resamples} or more"):
        Promote(best=True, level=level, resamples=resamples - 1)


def test_pictures_show_names_as_they_are() -> None:
    """What stands between dollars would be set as a formula, and this is none."""
    assert samples_png({"digits$_$/2": None, "": np.zeros((4, 4, 3), np.uint8)}).startswith(b"\x89PNG")


def test_an_empty_storage_root_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no registered model in"):
        promote(Promote(best=True, storage=str(tmp_path / "empty")))
    assert not Storage(str(tmp_path / "empty")).list()
