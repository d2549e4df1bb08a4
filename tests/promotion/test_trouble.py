"""Trouble of the machine, of MLflow or of a store is nobody's defect: it is told, and nothing is written down of a version."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
import torch
from mlflow.exceptions import MlflowException

from pipelines import promote as pipeline
from pixelmodels.data import Dataset
from pixelmodels.errors import UserError, lacks_memory
from pixelmodels.evaluation.nats import read_nats
from pixelmodels.promotion import promote as promote_run
from pixelmodels.promotion.candidates import recorded_nats
from pixelmodels.promotion.outcome import Decision
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.versions import version_of
from tests.promotion.case import decide, make_champion, registered, state_of, trained, write_dataset

NAME = "trouble"
FEW = {"probes": 1, "rescore": 1, "resamples": 400}
MORE_MEMORY = "that is no fault of a version: give it more memory, and try again"
NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
]


@pytest.fixture(scope="module")
def data(tracker: Tracker) -> Dataset:
    return write_dataset(tracker.storage, "111111111111")


@pytest.fixture(scope="module")
def version(tracker: Tracker, data: Dataset) -> str:
    return registered(tracker, data, NAME, trained(data, 2), "sound")


def raising(error: BaseException) -> Any:
    def fails(*_: object, **__: object) -> NoReturn:
        raise error

    return fails


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_a_lack_of_memory_is_known(error: BaseException) -> None:
    assert lacks_memory(error) and not lacks_memory(RuntimeError("size mismatch")) and not lacks_memory(OSError("not enough memory"))


@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        *[("pixelmodels.promotion.checks.sample", error, MORE_MEMORY) for error in NO_MEMORY],
        ("pixelmodels.promotion.checks.score_rows", ConnectionResetError("by peer"), "ConnectionResetError: by peer"),
        ("pixelmodels.promotion.checks.copy.deepcopy", RuntimeError("CUDA error"), "RuntimeError: CUDA error"),
        ("pixelmodels.models.files.from_description", NO_MEMORY[2], MORE_MEMORY),
        ("pixelmodels.models.files.load_file", PermissionError("denied"), "PermissionError: denied"),
        ("pixelmodels.tracking.artifacts._repository", ValueError("no JSON"), "ValueError: no JSON"),
        ("pixelmodels.promotion.candidates.download", MlflowException("request failed"), "MlflowException: request failed"),
        ("pixelmodels.promotion.promote.choose_name", MlflowException("API request failed"), "MlflowException: API request failed"),
        ("pixelmodels.promotion.promote.start_record", MlflowException("API request failed"), "MlflowException: API request failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_trouble_is_no_failed_check(
    place: str, error: BaseException, says: str, tracker: Tracker, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_of(tracker, NAME)
    with monkeypatch.context() as patch:
        patch.setattr(place, raising(error))
        with pytest.raises(UserError, match=f"nothing was decided or changed: .*{says}") as caught:
            decide(tracker, NAME, version, **FEW)
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)
    assert state_of(tracker, NAME) == before, "nothing is written down"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("head"), ZeroDivisionError("by zero")], ids=repr)
def test_a_model_whose_code_raises_fails_its_check(
    error: Exception, tracker: Tracker, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixelmodels.models.pixelcnn.PixelCNN.network", raising(error))
    decision = decide(tracker, NAME, version, **FEW, dry_run=True)
    assert decision.outcome == "refused" and decision.failed == ("causality", "likelihood", "samples")
    assert decision.reason.startswith(f"it fails the check 'causality': {type(error).__name__}: ")


def test_a_version_to_go_back_to_is_not_blamed_either(
    tracker: Tracker, data: Dataset, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = registered(tracker, data, NAME, trained(data, 1), "other")
    for alias, number in (("champion", other), ("previous", version)):
        tracker.client.set_registered_model_alias(NAME, alias, number)
    before = state_of(tracker, NAME)
    monkeypatch.setattr("pixelmodels.models.files.from_description", raising(MemoryError()))
    with pytest.raises(UserError, match="nothing was decided or changed"):
        decide(tracker, NAME, rollback=True)
    assert state_of(tracker, NAME) == before
    for alias in ("champion", "previous"):
        tracker.client.delete_registered_model_alias(NAME, alias)


@pytest.mark.parametrize("rollback", [False, True])
def test_a_cache_that_cannot_be_written_is_no_fault_of_a_version(
    rollback: bool, tracker: Tracker, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cache {rollback}"
    first, second = (registered(tracker, data, name, trained(data, 1, seed=seed), f"{name} {seed}") for seed in range(2))
    for alias, number in (("champion", first), ("previous", second)):
        tracker.client.set_registered_model_alias(name, alias, number)
    before = state_of(tracker, name)
    (tmp_path / "file").touch()
    monkeypatch.setattr(registry, "local_path", lambda _: None)  # as of a server, whose models are fetched
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder that can be written"):
        decide(tracker, name, None if rollback else second, **FEW, rollback=rollback)
    assert state_of(tracker, name) == before, "nothing is written down"


def test_files_that_are_gone_or_damaged_are_a_versions_own(tracker: Tracker, data: Dataset) -> None:
    name = "files"
    champion, *numbers = (registered(tracker, data, name, trained(data, 1, seed=seed), f"seed {seed}") for seed in range(4))
    make_champion(tracker, name, champion)
    found = {number: tracker.client.get_model_version(name, number) for number in numbers}
    gone, damaged, no_model = numbers
    folder = {number: Path(tracker.client.get_run(one.run_id).info.artifact_uri) for number, one in found.items()}
    (folder[gone] / "test_nats.parquet").unlink()
    (folder[damaged] / "test_nats.parquet").write_bytes(b"PAR1")
    (registry.model_folder(tracker, f"models:/{name}/{no_model}") / "model.json").unlink()
    for number, says in (
        (gone, f"test_nats.parquet of run {found[gone].run_id} is gone from '{folder[gone]}'"),
        (damaged, f"test_nats.parquet of run {found[damaged].run_id} is damaged: it is no table of keys and nats"),
        (no_model, f"the files of 'models:/{name}/{no_model}' are gone from '"),
    ):
        decision = decide(tracker, name, number, **FEW)
        assert (decision.outcome, decision.failed) == ("refused", ("model",))
        assert decision.reason.startswith(f"it fails the check 'model': {says}"), decision.reason
        assert state_of(tracker, name)["versions"][number]["promotion.failed_checks"] == "model"
    version = version_of(tracker, name, champion)
    assert len(recorded_nats(tracker, version).keys) == 48
    for run_id, says in (("0" * 32, f"its run {'0' * 32}, .*, is gone"), ("", "names no run")):
        with pytest.raises(UserError, match=says):
            recorded_nats(tracker, dataclasses.replace(version, run_id=run_id))


def test_arrows_lack_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", raising(pa.ArrowMemoryError("malloc of size 9 failed")))
    with pytest.raises(MemoryError):
        read_nats(b"PAR1")


def test_a_report_that_cannot_be_written_undoes_nothing(
    tracker: Tracker,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = registered(tracker, data, "report", trained(data, 2), "good")
    carry_out = promote_run.carry_out
    (tmp_path / "taken").touch()

    def and_spoil_the_report(tracker: Tracker, decision: Decision) -> Decision:
        folder = Path(tracker.client.get_run(str(decision.run_id)).info.artifact_uri)
        folder.parent.mkdir(parents=True)
        folder.touch()  # a file where the run's artifacts belong
        return carry_out(tracker, decision)

    monkeypatch.setattr(promote_run, "carry_out", and_spoil_the_report)
    status = pipeline.main(["--version", good, "--name", "report", "--storage", tracker.storage.root, "--out", str(tmp_path / "taken")])
    state = state_of(tracker, "report")
    assert status == 0 and state["aliases"] == {"champion": good}
    run_id = state["versions"][good]["promotion.run_id"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"report: version {good} (good) promoted: ")
    assert said[-1].startswith(f"  report not written, the decision stands: MLflow run {run_id}: ")
    assert f"; --out {tmp_path / 'taken'}: FileExistsError: " in said[-1]
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", "promoted")
