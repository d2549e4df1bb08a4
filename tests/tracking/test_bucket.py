"""Artifacts and models in a bucket: fetched once, and told apart when they are gone or out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch
from botocore.exceptions import EndpointConnectionError
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from moto.server import ThreadedMotoServer

from pixelmodels.errors import UserError
from pixelmodels.evaluation.nats import TEST_NATS
from pixelmodels.models.files import load_model
from pixelmodels.promotion.candidates import recorded_nats
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.versions import version_of
from tests.tracking.conftest import model_files


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="models")
    _cached_get_s3_client.cache_clear()  # MLflow would go on with the server of another test
    yield "s3://models/root"
    server.stop()


def test_artifacts_and_models_in_a_bucket(bucket: str, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = Tracker(Storage(bucket), experiment="bucket")
    there.check()
    run_id = there.start_parent("bucket", {})
    (tmp_path / "hello.txt").write_text("hello")
    there.log_artifact(run_id, tmp_path / "hello.txt", "notes")
    assert there.storage.read_bytes(f"artifacts/{run_id}/artifacts/notes/hello.txt") == b"hello"
    model, folder = model_files(tmp_path / "model", seed=3)
    version = registry.register(there, run_id, folder, "bucket")
    local = registry.model_folder(there, f"models:/bucket/{version}")
    assert local.is_relative_to(tmp_path / "cache")
    again = load_model(local).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())
    there.storage.delete("artifacts")
    assert registry.model_folder(there, f"models:/bucket/{version}") == local, "fetched once"


def test_models_that_are_gone_from_a_bucket_are_told_and_one_that_cannot_be_reached_is_not_gone(
    bucket: str, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    there = Tracker(Storage(bucket), experiment="bucket")
    run_id = there.start_parent("bucket", {})
    (tmp_path / "test_nats.parquet").write_bytes(b"PAR1")
    there.log_artifact(run_id, tmp_path / "test_nats.parquet")
    _, folder = model_files(tmp_path / "model", seed=4)
    number = registry.register(there, run_id, folder, "gone from a bucket")
    uri = f"models:/gone from a bucket/{number}"
    version = version_of(there, "gone from a bucket", number)
    with pytest.raises(UserError, match=f"{TEST_NATS} of run {run_id} is damaged"):
        recorded_nats(there, version)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
        _cached_get_s3_client.cache_clear()
        for fetch in (lambda: registry.model_folder(there, uri), lambda: recorded_nats(there, version)):
            with pytest.raises(EndpointConnectionError):
                fetch()
    _cached_get_s3_client.cache_clear()
    location = there.client.get_model_version_download_uri("gone from a bucket", number)
    for gone in ("model.safetensors", "model.json", ""):  # a part of it, and all
        there.storage.delete(f"{location.removeprefix(bucket)}/artifacts/model/{gone}")
        with pytest.raises(UserError, match=f"the files of '{uri}' are gone from '{location}'; register the model again"):
            registry.model_folder(there, uri)
        assert not list((tmp_path / "cache").rglob("*.json")), "nothing incomplete is kept"
    there.storage.delete(f"artifacts/{run_id}")
    with pytest.raises(UserError, match=f"{TEST_NATS} of run {run_id} is gone from '{bucket}/artifacts/{run_id}/artifacts'"):
        recorded_nats(there, version)
    boto3.resource("s3").Bucket("models").objects.delete()
    boto3.client("s3").delete_bucket(Bucket="models")
    with pytest.raises(UserError, match="is gone from"):
        recorded_nats(there, version)
