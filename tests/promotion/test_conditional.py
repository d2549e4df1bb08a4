"""Models that are given different things do not compare: one that is told some of the pixels is likelier by that alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pixelmodels.data import Dataset
from pixelmodels.errors import UserError
from pixelmodels.models import ContextSpec, PixelModel
from pixelmodels.models.context_images import told
from pixelmodels.promotion.candidates import best_of
from pixelmodels.shapes import ImageSpec
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.versions import Version, condition_tag, versions_of
from tests.promotion.case import SPEC, decide, files_of, make_champion, registered, state_of, trained, write_dataset

GIVEN = ContextSpec(small=dataclasses.replace(SPEC, height=2, width=2))


@pytest.fixture(scope="module")
def data(tracker: Tracker) -> Dataset:
    return write_dataset(tracker.storage, "eeeeeeeeeeee")


@pytest.fixture(scope="module")
def models(data: Dataset) -> dict[str, PixelModel]:
    return {"plain": trained(data, 12), "given": trained(data, 1, context=GIVEN), "given, better": trained(data, 5, context=GIVEN)}


def test_a_model_that_is_told_pixels_does_not_beat_one_that_is_not(
    tracker: Tracker, data: Dataset, models: dict[str, PixelModel], tmp_path: Path
) -> None:
    plain = registered(tracker, data, "told", models["plain"], "plain")
    given = registered(tracker, data, "told", models["given"], "given", condition_on=("small",))
    tags = state_of(tracker, "told")["versions"]
    assert (tags[plain]["condition_on"], tags[given]["condition_on"]) == ("", "small/2")
    assert float(tags[given]["test_bits_per_dim"]) < float(tags[plain]["test_bits_per_dim"])

    make_champion(tracker, "told", plain)
    decision = decide(tracker, "told", given)
    assert (decision.outcome, decision.failed, decision.comparison) == ("refused", (), None)
    assert decision.reason == (
        "it is given its pixels sub-sampled to 2x2 of each image and the champion nothing, so their likelihoods do not compare; "
        "to begin anew with other models, remove the alias 'champion'"
    )
    assert state_of(tracker, "told")["aliases"]["champion"] == plain
    assert sorted(files_of(tracker, str(decision.run_id), tmp_path)) == ["decision.json", "report.md", "samples.png"]
    assert decide(tracker, "told", best=True, dry_run=True).challenger.number == plain, "the best of what compares"

    make_champion(tracker, "told", given)
    assert "it is given nothing of each image and the champion its pixels" in decide(tracker, "told", plain, dry_run=True).reason
    better = registered(tracker, data, "told", models["given, better"], "given, better", condition_on=("small",))
    assert decide(tracker, "told", best=True, dry_run=True).challenger.number == better
    assert decide(tracker, "told", better).outcome == "promoted", "those that are given the same compare"


def test_the_kinds_of_an_older_version_are_those_of_its_run(tracker: Tracker, data: Dataset, models: dict[str, PixelModel]) -> None:
    number = registered(tracker, data, "older", models["given"], "given", condition_on=("small",))
    tracker.client.delete_model_version_tag("older", number, "condition_on")
    (found,) = versions_of(tracker, "older")
    assert found.condition_on == "", "its run says nothing either"
    for key, value in (("condition_on", '["small", "label"]'), ("small_factor", "4")):
        tracker.client.log_param(found.run_id, key, value)
    assert versions_of(tracker, "older")[0].condition_on == "label,small/4"


@pytest.mark.parametrize(
    ("kinds", "factor", "tag"), [((), 2, ""), (("label",), 2, "label"), (("small", "grey", "label"), 4, "grey,label,small/4")]
)
def test_one_tag_for_the_same_kinds(kinds: tuple[str, ...], factor: int, tag: str) -> None:
    assert condition_tag(kinds, factor) == condition_tag(reversed(kinds), factor) == tag


def test_what_is_given_is_told_in_words() -> None:
    grey, small = ImageSpec(1, 8, 8, 256), ImageSpec(3, 4, 4, 256)
    assert told(ContextSpec()) == "nothing"
    every = ContextSpec(num_classes=10, vector_size=3, image=grey, small=small)
    assert told(every) == "its class of 10 and its vector of 3 numbers and its grey image and its pixels sub-sampled to 4x4"


def version(number: int, bits: float, kinds: str) -> Version:
    return Version("m", str(number), "", "", "", "d", bits, None, kinds)


def test_the_best_is_one_that_is_given_what_the_champion_is_given() -> None:
    versions = [version(1, 3.0, ""), version(2, 2.0, "label"), version(3, 1.0, "small/2"), version(4, 0.5, "small/4")]
    assert best_of(versions, None).number == "1"
    for champion in versions:
        assert best_of(versions, champion) is champion
    for left, of, champion in ((versions[1:], "nothing", None), (versions[:2], "small/2", versions[2])):
        with pytest.raises(UserError, match=f"no version conditioned on {of} on data set 'd' .*; choose one with --version N"):
            best_of(left, champion)
