"""Which versions a replica holds, on a real registry and without Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.exceptions import MlflowException

from pixelmodels.errors import MachineTrouble, UserError
from pixelmodels.models import PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.sampling.engine import Request, draw_all, slot_widths
from pixelmodels.serving import serve
from pixelmodels.serving import shelf as shelves
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.settings import Settings
from pixelmodels.serving.shelf import Loaded, NotLoaded, Shelf
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.versions import Version, best_without_champion
from tests.serving.conftest import NAME, Registry, settings_of, small_model


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry of this module's own: its aliases move."""
    folder = tmp_path_factory.mktemp("versions")
    tracker = Tracker(Storage(str(folder / "storage")))
    tracker.check()
    made = Registry(tracker, tracker.start_parent("versions", {}), folder, {})
    for seed in range(3):
        made.add(small_model(seed))
    broken = small_model(9)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("inf"))
    made.add(broken)
    return made


def opened(own: Registry, **changes: object) -> Shelf:
    shelf = Shelf(settings_of(own, **changes))
    shelf.open()
    return shelf


def test_a_name_is_its_latest_version_where_nothing_else_is_known(own: Registry) -> None:
    with pytest.raises(UserError, match=r"4 is refused: the weights .* are not finite"):
        opened(own)
    own.point("champion", "1")
    shelf = opened(own)
    assert shelf.find(None).address == "tiny/1" and shelf.find("champion") is shelf.find(None)


def version(number: int, bits: float, dataset: str = "d-1", given: str = "", aside: bool = False) -> Version:
    return Version("d", str(number), "", "a", "r", dataset, bits, None, condition_on=given, put_aside=aside)


NAN = float("nan")


@pytest.mark.parametrize(
    ("versions", "number", "why"),
    [
        ([version(1, 1.0), version(2, 3.0)], "1", "the best of 2 on 'd-1' by its 1.0000 bits/dim"),  # a short training later
        ([version(1, 1.0), version(2, 1.0)], "2", "the best of 2"),
        ([version(1, 1.0, "d-0"), version(2, 3.0), version(3, 4.0)], "2", "the best of 2 on 'd-1'"),  # of other data
        ([version(1, 1.0, given="label"), version(2, 3.0)], "2", "the best of 1"),  # it is told more
        ([version(1, 2.0, given="label"), version(2, 3.0, given="label")], "1", "the best of 2"),
        ([version(1, 1.0, aside=True), version(2, 2.0), version(3, 3.0)], "2", "the best of 2"),
        ([version(1, NAN), version(2, NAN)], "2", "the newest"),
        ([version(1, NAN), version(2, 2.0), version(3, NAN)], "2", "the best of 1"),
        ([version(1, float("inf")), version(2, NAN)], "2", "the newest"),
        ([version(1, 1.0, ""), version(2, 3.0, "")], "2", "the newest"),  # nobody knows whether they compare
        ([version(9, 3.0), version(10, 2.0), version(11, 4.0)], "10", "the best of 3"),
        ([version(1, 1.0, aside=True), version(2, 2.0, aside=True)], "1", "the best of 2"),
    ],
)
def test_a_name_without_a_champion_is_its_best_version(versions: list[Version], number: str, why: str) -> None:
    chosen, said = best_without_champion(versions)
    assert chosen.number == number and said.startswith(why)


def test_which_version_serves_without_a_champion_is_told(tmp_path: Path) -> None:
    """And stays, where a better one is registered, until a champion is made."""
    tracker = Tracker(Storage(str(tmp_path / "storage")))
    tracker.check()
    run_id = tracker.start_parent("versions", {})

    def register(seed: int, bits: float) -> None:
        save_model(tmp_path / f"model-{seed}", small_model(seed))
        tags = {"dataset": "tiny-1", "test_bits_per_dim": str(bits), "condition_on": "label", "architecture": "a", "git_commit": "c"}
        registry.register(tracker, run_id, tmp_path / f"model-{seed}", NAME, tags)

    for seed, bits in enumerate((2.5, 1.5, 3.5)):
        register(seed, bits)
    settings = Settings(model=NAME, storage=tracker.storage.root)
    address, why, told = serve.check_model(settings)
    assert address == "tiny/2"
    assert why == (
        "'tiny' has no champion: version 2 is served, the best of 3 on 'tiny-1' by its 1.5000 bits/dim of the test images; to have it "
        f"chosen by tests: python pipelines/promote.py --name tiny --version 2 --storage {tracker.storage.root}"
    )
    shelf = Shelf(settings)
    shelf.open()
    register(3, 0.5)
    shelf.follow()
    assert shelf.find(None).address == "tiny/2"
    later, unsettled = Shelf(told), Shelf(settings)  # of samplers that start now
    for one in (later, unsettled):
        one.open()
    assert (later.find(None).address, unsettled.find(None).address) == ("tiny/2", "tiny/4")
    tracker.client.set_registered_model_alias(NAME, "champion", "3")
    shelf.follow()
    assert shelf.find(None).address == "tiny/3"
    later.follow()
    assert later.find(None).address == "tiny/3"
    assert serve.check_model(settings) == ("tiny/3", "", settings)
    assert serve.check_model(settings.model_copy(update={"model": f"{NAME}/1"}))[:2] == ("tiny/1", "")


def test_further_names_without_a_champion_are_settled_too(own: Registry) -> None:
    """A version that is gone, or does not pass, is none that was chosen."""
    own.point("champion", "1")
    for name in ("further", "third"):
        own.add(small_model(7), name)
    given = settings_of(own, others=("further", "third", "absent"))
    *_, told = serve.check_model(given)
    assert told == given.model_copy(update={"chosen": {"further": "1", "third": "1"}})
    own.add(small_model(8), "further")
    shelf, unsettled = Shelf(told), Shelf(given)
    assert (shelf.find("further").address, unsettled.find("further").address) == ("further/1", "further/2")
    shelf = Shelf(told.model_copy(update={"chosen": {"further": "9"}}))
    assert shelf.find("further").address == "further/2"
    shelf = Shelf(told)
    shelf.refused["further/1"] = "its weights are not finite"
    assert shelf.find("further").address == "further/2"


def test_aliases_are_followed_and_versions_stay(own: Registry) -> None:
    own.point("champion", "1")
    shelf = opened(own, max_models=3)
    kept, pinned = shelf.find(None), shelf.find("2")
    own.point("champion", "3")
    shelf.follow()
    assert shelf.find(None).address == "tiny/3" and shelf.find("2") is pinned
    assert kept.engine.is_idle  # who still has it may go on with it
    own.point("champion", "4")
    shelf.follow()
    shelf.follow()
    assert shelf.find(None).address == "tiny/3" and list(shelf.refused) == ["tiny/4"]
    with pytest.raises(Refused) as refused:
        shelf.find("4")
    assert refused.value.status == 404
    own.point("champion", "1")
    shelf.follow()
    assert shelf.find(None).address == "tiny/1"


def test_the_one_before_serves_where_the_champion_cannot(own: Registry) -> None:
    own.point("champion", "4")
    own.point("previous", "2")
    shelf = opened(own)
    assert shelf.find(None).address == "tiny/2"
    own.point("champion", "3")
    shelf.follow()
    assert shelf.find(None).address == "tiny/3"
    own.point("champion", "4")
    for asked in ("tiny/99", "tiny/4", "tiny@nobody"):  # who names a version gets no other one
        with pytest.raises(UserError):
            opened(own, model=asked)
    assert opened(own, model="tiny@champion").find(None).address == "tiny/2"
    own.tracker.client.delete_registered_model_alias(NAME, "previous")


def test_what_is_served_stays_when_its_alias_is_removed_or_the_registry_fails(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    shelf = opened(own, max_models=3)
    shelf.find("champion")
    own.tracker.client.delete_registered_model_alias(NAME, "champion")
    shelf.follow()
    assert shelf.find(None).address == shelf.find("champion").address == "tiny/1"
    own.point("champion", "2")
    shelf.follow()
    assert shelf.find(None).address == "tiny/2"

    def fails(*_: object) -> None:
        raise ConnectionError("no registry")

    monkeypatch.setattr("pixelmodels.serving.shelf.find_version", fails)
    shelf.follow()
    assert shelf.find(None).address == "tiny/2"
    with pytest.raises(Refused) as refused:
        shelf.find("3")
    assert (refused.value.status, refused.value.code) == (503, "not_loaded")


def test_only_what_is_unsound_is_remembered(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    shelf = opened(own)
    load, fails = shelf._load, [OSError("storage does not answer"), MemoryError()]

    def flaky(key: str) -> Loaded:
        if fails:
            raise fails.pop()
        return load(key)

    monkeypatch.setattr(shelf, "_load", flaky)
    with pytest.raises(Refused, match="MemoryError") as refused:
        shelf.find("2")
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "not_loaded", 5.0)
    own.point("champion", "3")
    shelf.follow()  # and storage does not answer
    assert shelf.find(None).address == "tiny/1" and shelf.refused == {}
    shelf.follow()
    assert shelf.find(None).address == "tiny/3" and shelf.find("2").address == "tiny/2"
    own.point("champion", "1")


@pytest.mark.parametrize(
    "error", [MachineTrouble("nothing can be written"), MlflowException("the bucket is not there"), OSError(5, "input")]
)
def test_why_nothing_can_be_loaded_at_the_start_is_one_line(
    error: Exception, own: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise error

    own.point("champion", "1")
    own.point("previous", "2")
    monkeypatch.setattr(registry, "model_folder", fails)
    with pytest.raises(NotLoaded, match=re.escape(str(error))) as told:
        serve.check_model(settings_of(own))
    assert "\n" not in str(told.value) and not caplog.records
    own.tracker.client.delete_registered_model_alias(NAME, "previous")


def test_what_the_machine_lacks_is_remembered_of_no_version(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    shelf = opened(own)

    def fails(*_: object) -> None:
        raise MachineTrouble("nothing can be written; set XDG_CACHE_HOME")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "model_folder", fails)
        with pytest.raises(Refused, match="set XDG_CACHE_HOME") as refused:
            shelf.find("2")
    assert (refused.value.status, refused.value.code) == (503, "not_loaded")
    assert shelf.find("2").address == "tiny/2"


def test_a_registry_that_refuses_is_told_with_its_address(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise MlflowException("PERMISSION_DENIED: no")

    monkeypatch.setattr("pixelmodels.serving.shelf.find_version", refuses)
    with pytest.raises(UserError, match=r"^the tracking database '.*mlflow.db' cannot be used \(PERMISSION_DENIED: no\); give another"):
        opened(own)


def test_a_mistake_of_the_programs_is_not_the_registrys(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    shelf = opened(own)

    def wrong(*_: object) -> None:
        raise KeyError("tiny")

    monkeypatch.setattr("pixelmodels.serving.shelf.find_version", wrong)
    with pytest.raises(KeyError):
        shelf.find("2")
    shelf.follow()
    assert shelf.find(None).address == "tiny/1"


def test_what_requests_keep_is_taken_up_again_and_bounds_what_is_loaded(own: Registry) -> None:
    own.point("champion", "1")
    shelf = opened(own, max_models=1)
    kept = shelf.find("2")  # beside the champion, which always stays
    assert [one.address for one in shelf.loaded()] == ["tiny/1"] and shelf.find("2") is kept
    with pytest.raises(Refused, match="tiny/2") as refused:
        shelf.find("3")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 5.0)
    own.point("champion", "3")
    shelf.follow()
    assert shelf.find(None).address == "tiny/1" and shelf.refused == {}
    del kept, refused
    shelf.follow()
    assert shelf.find(None).address == "tiny/3"
    own.point("champion", "1")


def test_what_is_held_under_another_name_does_not_wait_for_a_load(own: Registry) -> None:
    own.point("champion", "1")
    shelf = opened(own)
    with shelf._loading:
        assert shelf.found("1") is shelf.found("champion") is shelf.held(None) is shelf.held("1")
        assert shelf.found("2") is None and shelf.found("99") is None


def test_a_version_that_is_unloaded_while_it_is_looked_up_stays_so(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    own.point("challenger", "2")
    shelf = opened(own)
    shelf.find("challenger")
    hold = shelf._hold

    def forget(address: str, *, anew: bool = False) -> Loaded:
        shelf._names.pop("tiny@challenger", None)  # as a request of another thread would
        return hold(address, anew=anew)

    monkeypatch.setattr(shelf, "_hold", forget)
    shelf.follow()
    assert list(shelf._names) == ["tiny"]
    own.tracker.client.delete_registered_model_alias(NAME, "challenger")


def test_the_least_recently_used_is_unloaded_but_never_the_default(own: Registry) -> None:
    own.point("champion", "1")
    shelf = opened(own, max_models=2)
    for asked, held in (("2", {"1", "2"}), ("3", {"1", "3"}), (None, {"1", "3"}), ("2", {"1", "2"})):
        shelf.find(asked)
        assert {loaded.address.removeprefix("tiny/") for loaded in shelf.loaded()} == held


@pytest.mark.parametrize("asked", ["nobody", "99", "other/1", "other@champion", "tiny@nobody"])
def test_what_is_not_served_is_refused(own: Registry, asked: str) -> None:
    own.point("champion", "1")
    with pytest.raises(Refused) as refused:
        opened(own).find(asked)
    assert (refused.value.status, refused.value.field) == (404, "model")


def test_a_folder_is_served_under_no_other_name(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model(0))
    shelf = Shelf(Settings(model=str(tmp_path / "model"), storage=str(tmp_path)))
    shelf.open()
    shelf.follow()
    assert shelf.find(None).address == "local/model" and shelf.available() == {"local": []}
    with pytest.raises(Refused):
        shelf.find("champion")


def test_the_widths_at_which_rows_are_guessed_are_kept_with_the_version(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    measured: list[tuple[int, ...]] = []

    def found(model: PixelModel, num_slots: int, make_passes: object) -> tuple[int, ...]:
        assert num_slots == 8
        measured.append((1, 4) if not measured else (8,))
        return measured[-1]

    monkeypatch.setattr(shelves, "guessed_widths", found)
    monkeypatch.setattr(shelves, "is_worth_measuring", lambda model: True)
    for _ in range(2):  # the second replica takes what the first one has found
        engine = opened(own, speculation="auto").find(None).engine
        assert [width for width in slot_widths(8, 1) if engine._lanes[0]["plain"].speculates(width)] == [1, 4]
    assert measured == [(1, 4)]
    opened(own, speculation="auto", slots=8, compiled=False, cpus=2)  # on other cores it may be otherwise
    assert len(measured) == 2
    for speculation, widths in (("on", [1, 2, 4, 7, 8]), ("off", [])):
        engine = opened(own, speculation=speculation).find(None).engine
        assert [width for width in slot_widths(8, 1) if engine._lanes[0]["plain"].speculates(width)] == widths
    assert len(measured) == 2


def test_another_replica_may_have_measured_meanwhile(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "2")

    def found(model: PixelModel, num_slots: int, make_passes: object) -> tuple[int, ...]:
        monkeypatch.setattr(shelves, "guessed_widths", lambda *arguments: (1, 2))
        opened(own, speculation="auto", slots=8)
        return (4,)

    monkeypatch.setattr(shelves, "guessed_widths", found)
    monkeypatch.setattr(shelves, "is_worth_measuring", lambda model: True)
    engine = opened(own, speculation="auto", slots=8).find(None).engine
    assert [width for width in (1, 2, 4, 8) if engine._lanes[0]["plain"].speculates(width)] == [1, 2]


def test_passes_are_made_again_where_another_replica_found_guesses_worth_while(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "2")
    loads: list[str] = []
    load = Shelf._load

    def is_worth_measuring(model: PixelModel) -> bool:
        monkeypatch.setattr(shelves, "is_worth_measuring", lambda model: True)
        opened(own, speculation="auto", slots=7)
        loads.clear()
        return False

    monkeypatch.setattr(Shelf, "_load", lambda self, key: loads.append(key) or load(self, key))
    monkeypatch.setattr(shelves, "guessed_widths", lambda *arguments: (4,))
    monkeypatch.setattr(shelves, "is_worth_measuring", is_worth_measuring)
    engine = opened(own, speculation="auto", slots=7).find(None).engine
    assert [width for width in (1, 2, 4, 7) if engine._lanes[0]["plain"].speculates(width)] == [4]
    assert loads == ["tiny/2"]  # those that were made for no guesses have no rounds


def test_rows_that_settle_late_are_not_guessed(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "3")
    monkeypatch.delattr(shelves, "guessed_widths")
    monkeypatch.setattr(shelves, "is_worth_measuring", lambda model: False)
    for _ in range(2):
        engine = opened(own, speculation="auto", slots=9).find(None).engine
        assert not any(engine._lanes[0]["plain"].speculates(width) for width in range(10))
        monkeypatch.delattr(shelves, "is_worth_measuring", raising=False)  # it is known now


def test_a_tag_that_says_no_widths_is_measured_anew(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    monkeypatch.setattr(shelves, "guessed_widths", lambda *arguments: (2,))
    monkeypatch.setattr(shelves, "is_worth_measuring", lambda model: True)
    shelf = opened(own, speculation="auto", slots=5)
    own.tracker.client.set_model_version_tag("tiny", "1", shelf._widths_tag, "1,two")
    engine = opened(own, speculation="auto", slots=5).find(None).engine
    assert [width for width in range(6) if engine._lanes[0]["plain"].speculates(width)] == [2]
    assert own.tracker.client.get_model_version("tiny", "1").tags[shelf._widths_tag] == "2"


def test_a_registry_that_keeps_nothing_is_told(own: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def may_not(*arguments: object) -> None:
        raise MlflowException("read only")

    own.point("champion", "1")
    monkeypatch.setattr(shelves, "guessed_widths", lambda *arguments: (1,))
    monkeypatch.setattr(shelves, "is_worth_measuring", lambda model: True)
    monkeypatch.setattr("mlflow.MlflowClient.set_model_version_tag", may_not)
    engine = opened(own, speculation="auto", slots=6).find(None).engine
    assert engine._lanes[0]["plain"].speculates(1)
    assert "tiny/1 does not keep at which widths its rows are guessed (MlflowException: read only)" in caplog.text


def test_the_service_decides_by_itself_whether_rows_are_guessed(own: Registry) -> None:
    own.point("champion", "1")
    shelf = opened(own, speculation="auto", slots=3)
    text = own.tracker.client.get_model_version("tiny", "1").tags[shelf._widths_tag]
    assert {int(width) for width in text.split()} <= {1, 2, 3}
    x_NCHW = draw_all(shelf.find(None).engine, Request(n=3, seed=4))
    assert torch.equal(x_NCHW, draw_all(shelf.find(None).model, Request(n=3, seed=4)))


@pytest.mark.parametrize(("text", "found"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_words_of_yaml_say_whether_rows_are_guessed(text: str, found: str) -> None:
    assert Settings(**yaml.safe_load(f"speculation: {text}")).speculation == found


def test_registered_models_may_be_named_as_everywhere_else(tmp_path: Path) -> None:
    settings = Settings(model="models:/digits/2", others=("models:/photos", "birds"))
    assert (settings.model, settings.others) == ("digits/2", ("photos", "birds"))
    assert serve.absolute("models:/digits@champion", Storage(tmp_path)) == "digits@champion"
    (tmp_path / "runs").mkdir()
    assert serve.absolute("runs/", Storage(tmp_path)) == Storage(tmp_path / "runs").root
