"""Who moves aliases is alone: threads and processes that start together, and one that died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
    MLFLOW_HTTP_REQUEST_BACKOFF_JITTER,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from pipelines import promote as pipeline
from pixelmodels.errors import UserError
from pixelmodels.promotion import lock as promotion_lock
from pixelmodels.promotion import promote as promote_run
from pixelmodels.promotion.lock import LEASE_TAG, lease, moving_aliases
from pixelmodels.promotion.outcome import Decision
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.source import process_identity
from tests.promotion.case import registered, state_of, trained, write_dataset

NUM = 4
PROGRAM = """
import sys
from tests.promotion.test_lock import promote_together

sys.exit(promote_together(*sys.argv[1:]))
"""


def promote_together(root: str, version: str) -> int:
    """Promote a version; no alias is moved before two processes have decided against the same champion."""
    carry_out = promote_run.carry_out

    def together(tracker: Tracker, decision: Decision) -> Decision:
        assert decision.outcome == "promoted", decision.reason
        Path(root, f"decided-{version}").touch()
        give_up_at = time.monotonic() + 200
        while len(list(Path(root).glob("decided-*"))) < 2 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return carry_out(tracker, decision)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promote_run, "carry_out", together)
        return pipeline.main(["--version", version, "--name", "together", "--storage", root])


@pytest.mark.parametrize("exclusive", [moving_aliases, lease], ids=["file", "lease"])
def test_never_two_at_once(
    exclusive: Callable[[Tracker, str], AbstractContextManager[None]], tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 1.5)
    name = f"exclusive {exclusive.__name__}"
    tracker.client.create_registered_model(name)
    inside, most, done = 0, 0, 0
    start = threading.Barrier(NUM)

    def work() -> None:
        nonlocal inside, most, done
        start.wait()
        with exclusive(tracker, name):
            inside += 1
            most = max(most, inside)
            time.sleep(0.1)
            inside -= 1
            done += 1

    threads = [threading.Thread(target=work) for _ in range(NUM)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (1, NUM), "never two at once, and everybody's turn comes"


def test_a_lease_of_a_process_that_died_is_taken_and_given_back(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 0.2)
    monkeypatch.setattr(promotion_lock, "LEASE_S", 1.0)
    tracker.client.create_registered_model("died")
    tracker.client.set_registered_model_tag("died", LEASE_TAG, "somebody")
    started = time.monotonic()
    with lease(tracker, "died"):
        assert time.monotonic() - started > 1.0
        assert tracker.client.get_registered_model("died").tags[LEASE_TAG] not in ("", "somebody")
    assert tracker.client.get_registered_model("died").tags[LEASE_TAG] == ""


def test_a_lease_outlasts_one_call_of_mlflow() -> None:
    tries = 1 + MLFLOW_HTTP_REQUEST_MAX_RETRIES.default
    retry = Retry(tries, backoff_factor=MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.default)
    pauses_s = 0.0
    for _ in range(tries - 1):
        retry = retry.increment("GET", "", error=ReadTimeoutError(None, "", ""))  # type: ignore[arg-type]
        pauses_s += retry.get_backoff_time() + MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.default
    one_call_s = tries * MLFLOW_HTTP_REQUEST_TIMEOUT.default + pauses_s
    assert one_call_s > 1000 and 1.1 * one_call_s < promotion_lock.LEASE_S < promotion_lock.PATIENCE_S


def test_a_lease_of_a_process_of_this_machine_that_died_is_taken_at_once(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 0.2)
    monkeypatch.setattr(promotion_lock, "PATIENCE_S", 1.0)
    tracker.client.create_registered_model("died here")
    program = "from pixelmodels.tracking.source import process_identity; print(process_identity())"
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    mine, elsewhere = process_identity(), ended.replace("@", "@elsewhere-", 1)
    for holder in (f"held {mine} a", f"held {elsewhere} b", f"{ended} a late claim", "held", "c", "held host 17 of an earlier version"):
        tracker.client.set_registered_model_tag("died here", LEASE_TAG, holder)
        with pytest.raises(UserError, match="other processes move the aliases"), lease(tracker, "died here"):
            pass
    tracker.client.set_registered_model_tag("died here", LEASE_TAG, f"held {ended} d")
    with lease(tracker, "died here"):
        assert tracker.client.get_registered_model("died here").tags[LEASE_TAG].startswith(f"held {mine} ")
    assert tracker.client.get_registered_model("died here").tags[LEASE_TAG] == ""


@pytest.mark.parametrize("inside", [None, KeyError("inside")])
def test_a_lease_that_cannot_be_given_back_hides_nothing(
    inside: Exception | None, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 0.2)
    name = f"not given back {inside}"
    tracker.client.create_registered_model(name)

    def lost(*_: object) -> str:
        raise ConnectionError("when it is given back")

    def hold() -> None:
        with lease(tracker, name):
            monkeypatch.setattr(promotion_lock, "_holder", lost)
            if inside is not None:
                raise inside

    if inside is None:
        hold()
    else:
        with pytest.raises(KeyError, match="inside"):
            hold()


def test_a_claim_that_comes_late_is_none(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 1.0)
    monkeypatch.setattr(promotion_lock, "LEASE_S", 8.0)
    tracker.client.create_registered_model("late")
    claim, saw_it_free, others_inside = promotion_lock._claim, threading.Event(), threading.Event()
    inside: list[str] = []

    def late(tracker: Tracker, name: str, value: str) -> None:
        if threading.current_thread().name == "late" and not saw_it_free.is_set():
            saw_it_free.set()
            assert others_inside.wait(60)
        claim(tracker, name, value)

    monkeypatch.setattr(promotion_lock, "_claim", late)

    def work() -> None:
        with lease(tracker, "late"):
            inside.append("late")

    thread = threading.Thread(target=work, name="late")
    thread.start()
    assert saw_it_free.wait(60)
    with lease(tracker, "late"):
        others_inside.set()
        time.sleep(4)  # the late one has written over this lease, and would be inside by now
        inside.append("first")
    thread.join()
    assert inside == ["first", "late"]


def test_of_two_processes_that_promote_at_once_one_wins(tracker: Tracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tracker.storage, "cccccccccccc")
    old = registered(tracker, data, "together", trained(data, 1), "old")
    tracker.client.set_registered_model_alias("together", "champion", old)
    versions = [registered(tracker, data, "together", trained(data, 25, seed=seed), f"seed {seed}") for seed in (1, 2)]
    root = tracker.storage.root
    other = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, root, versions[1]],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    status = {promote_together(root, versions[0]): versions[0]}
    out, errors = other.communicate(timeout=300)
    status[other.returncode] = versions[1]
    assert sorted(status) == [0, 1], errors
    winner, loser = status[0], status[1]
    state = state_of(tracker, "together")
    assert state["aliases"] == {"champion": winner, "previous": old, "challenger": loser}
    assert [state["versions"][one]["promotion.decision"] for one in (winner, loser)] == ["promoted", "refused"]
    reason = f"the aliases were moved while this was being decided, and version {winner} is champion now; decide again"
    assert state["versions"][loser]["promotion.reason"] == reason
    assert reason in (out if loser == versions[1] else capsys.readouterr().out)
    for version, outcome in ((winner, "promoted"), (loser, "refused")):
        run = tracker.client.get_run(state["versions"][version]["promotion.run_id"])
        assert (run.info.status, run.data.tags["outcome"], run.data.tags["model_version"]) == ("FINISHED", outcome, version)
        told = json.loads(Path(tracker.client.download_artifacts(run.info.run_id, "decision.json", str(tmp_path))).read_text())
        assert told["outcome"] == outcome
