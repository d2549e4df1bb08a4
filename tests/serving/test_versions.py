"""Which versions a replica holds, on a real registry and without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.models.files import save_model
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.settings import Settings
from pixelmodels.serving.versions import Loaded, Shelf
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
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


def test_a_name_is_its_latest_version_until_it_has_a_champion(own: Registry) -> None:
    with pytest.raises(UserError, match=r"4 is refused: the weights .* are not finite"):
        opened(own)
    own.point("champion", "1")
    shelf = opened(own)
    assert shelf.find(None).address == "tiny/1" and shelf.find("champion") is shelf.find(None)


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

    monkeypatch.setattr("pixelmodels.serving.versions.find_version", fails)
    shelf.follow()
    assert shelf.find(None).address == "tiny/2"
    with pytest.raises(Refused) as refused:
        shelf.find("3")
    assert (refused.value.status, refused.value.code) == (503, "not_loaded")


def test_only_what_is_unsound_is_remembered(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    shelf = opened(own)
    load, fails = shelf._load, [OSError("storage does not answer"), MemoryError()]

    def flaky(name: str, version: str) -> Loaded:
        if fails:
            raise fails.pop()
        return load(name, version)

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


def test_a_mistake_of_the_programs_is_not_the_registrys(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own.point("champion", "1")
    shelf = opened(own)

    def wrong(*_: object) -> None:
        raise KeyError("tiny")

    monkeypatch.setattr("pixelmodels.serving.versions.find_version", wrong)
    with pytest.raises(KeyError):
        shelf.find("2")
    shelf.follow()
    assert shelf.find(None).address == "tiny/1"


def test_what_requests_keep_is_taken_up_again_and_bounds_what_is_loaded(own: Registry) -> None:
    own.point("champion", "1")
    shelf = opened(own, max_models=1)
    kept = shelf.find("2")  # beside the champion, which always stays
    assert [one.version for one in shelf.loaded()] == ["1"] and shelf.find("2") is kept
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
        assert {loaded.version for loaded in shelf.loaded()} == held


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
