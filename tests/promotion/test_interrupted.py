"""MLflow that is lost in the middle of a decision: what was begun is told, never the way back for a bad version, and ended by a rerun."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipelines import promote as pipeline
from pixelmodels.data import Dataset
from pixelmodels.errors import UserError
from pixelmodels.promotion import aliases as promotion
from pixelmodels.promotion import lock as promotion_lock
from pixelmodels.promotion import promote as promote_run
from pixelmodels.promotion.candidates import best_of
from pixelmodels.promotion.lock import LEASE_TAG, lease
from pixelmodels.promotion.outcome import Decision
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.versions import Version, version_of, versions_of
from tests.promotion.case import decide, registered, state_of, trained, write_dataset

NAME = "interrupted"
FEW = {"probes": 1, "rescore": 1, "resamples": 400}
NEVER = 1000


class Client:
    """MLflow's client, which counts the calls and is lost with one of them: that one and all that come after it fail."""

    def __init__(self, client: Any, lost_at: int = NEVER, after: Callable[[Any, str, tuple[Any, ...]], None] = lambda *_: None) -> None:
        self.client, self.lost_at, self.after = client, lost_at, after
        self.calls: list[tuple[Any, ...]] = []  # name, and of which model and version

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, *arguments[:2]) if name == "set_model_version_tag" else (name,))
            if len(self.calls) >= self.lost_at:
                raise MlflowException("the connection was lost")
            found = method(*arguments, **options)
            self.after(self.client, name, arguments)
            return found

        return call


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """The clients that decisions are carried out with: each takes the place of the tracker's own from then on."""
    carry_out, given = promote_run.carry_out, []

    def with_client(tracker: Tracker, decision: Decision) -> Decision:
        if not given:
            return carry_out(tracker, decision)
        client = given.pop()
        client.client = tracker.client
        tracker._client = client
        return carry_out(tracker, decision)

    monkeypatch.setattr(promote_run, "carry_out", with_client)
    return given


@pytest.fixture(scope="module")
def versions(tracker: Tracker) -> dict[str, str]:
    data: Dataset = write_dataset(tracker.storage, "ffffffffffff")
    return {name: registered(tracker, data, NAME, trained(data, steps), name) for name, steps in (("poor", 12), ("good", 60))}


def start_anew(tracker: Tracker, aliases: dict[str, str]) -> None:
    """Only these aliases, and nothing that was said of a decision."""
    state = state_of(tracker, NAME)
    for alias in state["aliases"]:
        tracker.client.delete_registered_model_alias(NAME, alias)
    for alias, number in aliases.items():
        tracker.client.set_registered_model_alias(NAME, alias, number)
    for key in state["tags"]:
        tracker.client.delete_registered_model_tag(NAME, key)
    for number, tags in state["versions"].items():
        for key in [key for key in tags if key.startswith("promotion.")]:
            tracker.client.delete_model_version_tag(NAME, number, key)


def decided(tracker: Tracker) -> dict[str, Any]:
    """The state without what no two decisions have alike."""
    state = state_of(tracker, NAME)
    for tags in state["versions"].values():
        for key in ("promotion.time", "promotion.run_id"):
            tags.pop(key, None)
    tags = {key: value.split(" ", 1)[1] if key == "promotion.last" else value for key, value in state["tags"].items()}
    return {"aliases": state["aliases"], "tags": tags, "versions": state["versions"]}


CASES = {
    "promotion": ({"champion": "poor", "challenger": "good"}, {"version": "good"}, "promoted"),
    "first promotion": ({"previous": "poor"}, {"version": "good"}, "promoted"),
    "refusal": ({"champion": "good"}, {"version": "poor"}, "refused"),
    "rollback": ({"champion": "good", "previous": "poor", "challenger": "poor"}, {"rollback": True}, "rolled back"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rerun_ends_what_was_interrupted_at_any_call(
    case: str, tracker: Tracker, versions: dict[str, str], clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, options, outcome = CASES[case]
    aliases = {alias: versions[name] for alias, name in before.items()}
    arguments: dict[str, Any] = {key: versions.get(value, value) for key, value in options.items()} | FEW

    decide_anew, known = promote_run._decide, {}

    def decide_once(options: Any, tracker: Tracker, challenger: Version, champion: Version | None) -> Decision:
        key = (challenger.number, champion and champion.number)
        if key not in known:
            known[key] = decide_anew(options, tracker, challenger, champion)
        return known[key]

    monkeypatch.setattr(promote_run, "_decide", decide_once)  # it decides the same each time: once is enough

    def command() -> Decision:
        return decide(tracker, NAME, **arguments)

    start_anew(tracker, aliases)
    clients.append(whole := Client(None))
    assert command().outcome == outcome
    calls, expected = list(itertools.takewhile(lambda call: call != ("log_batch",), whole.calls)), decided(tracker)  # before the report
    moves = calls[-1] == ("delete_registered_model_tag",)  # the note of the move, at last
    assert moves == (outcome != "refused") and "promotion.unfinished" not in expected["tags"]

    for n in range(1, len(calls) + (not moves)):
        if calls[n - 2 : n + 1] == 3 * [calls[n - 1]]:
            continue  # among a version's tags: their first and their last are enough
        start_anew(tracker, aliases)
        clients.append(Client(None, n))
        with pytest.raises(
            UserError, match=f"the aliases of '{NAME}' may have moved .*the connection was lost.*give the same command again"
        ):
            command()
        champion = state_of(tracker, NAME)["aliases"].get("champion")
        assert champion in (aliases.get("champion"), expected["aliases"]["champion"])
        if outcome == "rolled back" and champion == versions["poor"]:
            best = best_of(versions_of(tracker, NAME), version_of(tracker, NAME, champion))
            assert best.number == versions["poor"], (n, "the bad version would come back")
        assert command().outcome == outcome, n
        assert decided(tracker) == expected, (n, calls[n - 1])

    if not moves:
        return
    # All is done when the note of the move is taken away: that is no matter.
    start_anew(tracker, aliases)
    clients.append(Client(None, len(calls)))
    assert command().outcome == outcome
    left = decided(tracker)
    assert left["tags"].pop("promotion.unfinished") and left == expected
    if outcome == "rolled back":
        assert command().outcome == outcome and decided(tracker) == expected, "it does not go forward again"


def test_what_is_moved_meanwhile_is_no_rerun(tracker: Tracker, versions: dict[str, str], clients: list[Client]) -> None:
    poor, good = versions["poor"], versions["good"]
    start_anew(tracker, {"champion": good, "previous": poor})

    def lost(client: Any, name: str, arguments: tuple[Any, ...]) -> None:
        if "champion" in arguments:
            raise ConnectionError("between the two")

    clients.append(Client(None, after=lost))
    with pytest.raises(UserError, match=r"may have moved .*between the two"):
        decide(tracker, NAME, rollback=True)
    state = state_of(tracker, NAME)
    assert state["aliases"] == {"champion": poor, "previous": poor} and "promotion.unfinished" in state["tags"]
    data = write_dataset(tracker.storage, "ffffffffffff")
    third = registered(tracker, data, NAME, trained(data, 40, seed=1), "third")
    assert decide(tracker, NAME, third, **FEW).outcome == "promoted"
    assert state_of(tracker, NAME)["aliases"] == {"champion": third, "previous": poor}
    assert decide(tracker, NAME, rollback=True).outcome == "rolled back"
    assert state_of(tracker, NAME)["aliases"] == {"champion": poor, "previous": third}


def test_a_champion_that_is_overtaken_while_it_is_set_is_refused(
    tracker: Tracker, versions: dict[str, str], clients: list[Client], capsys: pytest.CaptureFixture[str]
) -> None:
    poor, good = versions["poor"], versions["good"]
    start_anew(tracker, {"champion": poor})

    def others(client: Any, name: str, arguments: tuple[Any, ...]) -> None:
        if (name, *arguments) == ("set_registered_model_alias", NAME, "champion", good):
            client.set_registered_model_alias(NAME, "champion", poor)

    clients.append(Client(None, after=others))
    arguments = ["--version", good, "--name", NAME, "--storage", tracker.storage.root, "--resamples", "400", "--rescore", "1"]
    assert pipeline.main(arguments) == 1
    reason = f"the aliases were moved while this was being decided, and version {poor} is champion now; decide again"
    assert f"refused: {reason}" in capsys.readouterr().out
    state = state_of(tracker, NAME)
    assert state["aliases"] == {"champion": poor, "previous": poor, "challenger": good}
    tags = state["versions"][good]
    assert (tags["promotion.decision"], tags["promotion.reason"]) == ("refused", reason)
    assert f"version {good} refused against version {poor}: {reason}" in state["tags"]["promotion.last"]
    assert "promotion.unfinished" not in state["tags"]


def test_the_first_trouble_is_told_whatever_fails_after_it(
    tracker: Tracker, versions: dict[str, str], clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "moving_aliases", lease)
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 0.5)
    start_anew(tracker, {"champion": versions["poor"]})

    def lost(client: Any, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "set_registered_model_alias":
            clients_used[0].lost_at = 0
            raise ConnectionError("the first trouble")

    clients_used = [Client(None, after=lost)]
    clients.append(clients_used[0])
    with pytest.raises(UserError, match=r"may have moved \(ConnectionError: the first trouble\)"):
        decide(tracker, NAME, versions["good"], **FEW)
    assert state_of(tracker, NAME)["tags"][LEASE_TAG], "nobody could give it back"
    monkeypatch.setattr(promotion_lock, "LEASE_S", 1.0)
    assert decide(tracker, NAME, versions["good"], **FEW).outcome == "promoted"
    state = state_of(tracker, NAME)
    assert state["aliases"] == {"champion": versions["good"], "previous": versions["poor"]} and state["tags"][LEASE_TAG] == ""
