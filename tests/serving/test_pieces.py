"""Keys, options, the autoscaling policy and the cluster's configuration, without a service."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from ray._common.utils import get_default_ray_temp_dir

from pixelmodels import ray_cluster
from pixelmodels.errors import UserError
from pixelmodels.serving import keys, replica, serve
from pixelmodels.serving.client import Client, ServiceError
from pixelmodels.serving.ray_serve import METRIC, ImagesPolicy
from pixelmodels.serving.settings import Settings
from pixelmodels.serving.shelf import is_folder

CONFIGURATION = Path(__file__).parents[2] / "cluster" / "serve.yaml"


def test_keys_are_known_by_their_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = keys.new_key(), keys.new_key()
    file = tmp_path / "keys"
    file.write_text(f"# those who may ask\n{keys.hash_of(first)} of the first\n\n")
    hashes = keys.read_hashes(file)
    assert keys.is_known(first, hashes) and not keys.is_known(second, hashes) and not keys.is_known("", hashes)
    monkeypatch.setenv(keys.VARIABLE, f"{keys.hash_of(first)}, {keys.hash_of(second)}")
    assert keys.is_known(second, keys.hashes_of_environment())
    file.write_text(first)
    with pytest.raises(UserError, match="no SHA-256 hash") as error:
        keys.read_hashes(file)
    assert first not in str(error.value)  # a key that was put there by mistake is not shown
    with pytest.raises(UserError, match="cannot be read"):
        keys.read_hashes(tmp_path / "none")


def test_other_machines_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--api-keys"):
        serve.Serve(host="0.0.0.0").settings()
    file = tmp_path / "keys"
    file.write_text(keys.hash_of("key"))
    assert serve.Serve(host="0.0.0.0", api_keys=file).settings().key_hashes == (keys.hash_of("key"),)
    assert serve.Serve(host="0.0.0.0", api_keys=file).settings().require_key and Settings().require_key
    assert serve.Serve().settings().key_hashes == () and not serve.Serve().settings().require_key
    file.write_text("")
    with pytest.raises(UserError, match="holds no hash"):
        serve.Serve(host="0.0.0.0", api_keys=file).settings()
    for host, loopback in (
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("::", False),
        ("10.0.0.1", False),
    ):
        assert serve.is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"slots": 0}, "--slots 0"),
        ({"port": 70_000}, "--port 70000"),
        ({"timeout": 0.5}, "--timeout 0.5"),
        ({"max_n": 9999}, "--max-n 9999"),
        ({"replicas": 3, "max_replicas": 2}, "--max-replicas 2 cannot be used .* 3"),
        ({"max_n": 200, "max_waiting": 100, "slots": 64}, "--max-n 200 cannot be used .* 164 images"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        serve.Serve(**options).settings()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "num_cores", "samplers", "cores", "slots"),
    [
        ({}, 1, 1, 1, 32),
        ({}, 2, 2, 1, 32),
        ({}, 15, 7, 2, 64),
        ({}, 64, 8, 8, 64),
        ({"cpus": 2}, 8, 4, 2, 64),
        ({"cpus": 4}, 2, 1, 4, 64),
        ({"slots": 7}, 2, 2, 1, 7),
        ({"replicas": 1}, 2, 1, 2, 64),
        ({"max_replicas": 4}, 8, 1, 2, 64),
        ({"replicas": 2, "max_replicas": 4}, 2, 2, 1, 32),
        ({"gpus": 1.0}, 1, 1, 1, 64),
    ],
)
def test_cores_are_shared_out(
    options: dict[str, Any], num_cores: int, samplers: int, cores: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "num_cores", lambda: num_cores)
    found = serve.Serve(**options).settings()
    assert (found.replicas, found.cpus, found.slots, found.max_replicas) == (samplers, cores, slots, options.get("max_replicas"))


def test_a_request_without_numbers_of_its_own_can_be_answered(tmp_path: Path) -> None:
    found = serve.Serve(max_waiting=100, cpus=1).settings()
    assert (found.max_n, found.slots + found.max_waiting) == (132, 132) and serve.Serve().settings().max_n == 1024
    found = serve.Serve(timeout=900.0).settings()
    assert found.timeout_s == found.max_timeout_s == 900
    with pytest.raises(ValidationError, match="max_n: at most slots"):
        Settings(max_waiting=100)
    with pytest.raises(ValidationError, match="timeout_s: a request may ask for max_timeout_s = 30"):
        Settings(max_timeout_s=30)
    with pytest.raises(ValidationError, match="compiled: passes are compiled for CPUs; leave compiled out, or gpus"):
        Settings(compiled=True, gpus=0.5)
    with pytest.raises(UserError, match="entry 2 of key_hashes is no SHA-256 hash"):
        Settings(key_hashes=(keys.hash_of("one"), "pm_another"))
    assert Settings(key_hashes=(keys.hash_of("one").upper(),)).key_hashes == (keys.hash_of("one"),)


def test_a_port_that_is_taken_is_named() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(UserError, match="cannot be listened on"):
            serve.free_port("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("digits", False),
        ("digits@champion", False),
        ("digits/3", False),
        ("digits/latest", False),
        ("storage/runs/a", True),
        ("/a/b", True),
        ("./digits", True),
        ("./3", True),
        ("../7", True),
        (".", True),
        ("s3://bucket/runs/a", True),
    ],
)
def test_folders_are_told_from_addresses(model: str, folder: bool) -> None:
    assert is_folder(model) is folder


def test_folders_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command line is read: replicas may work in another folder."""
    for place in ("work/near", "work/3", "storage/runs/far"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    for given, found in (
        ("./near", tmp_path / "work" / "near"),
        ("./3", tmp_path / "work" / "3"),
        ("../storage/runs/far", f"{tmp_path}/work/../storage/runs/far"),
        ("runs/far", f"{tmp_path}/work/../storage/runs/far"),
        (str(tmp_path / "work" / "near"), tmp_path / "work" / "near"),
        ("runs/nowhere", "runs/nowhere"),  # is told as it was given
        ("digits", "digits"),
        ("near/3", "near/3"),  # a version of a registered model
        ("s3://bucket/runs/a", "s3://bucket/runs/a"),
    ):
        settings = serve.Serve(model=given, storage="../storage").settings()
        assert (settings.model, settings.storage) == (str(found), str(tmp_path / "work" / ".." / "storage"))


@pytest.mark.parametrize(
    ("uri", "told"), [("sqlite:///my.db", "sqlite:///{}/my.db"), (None, "sqlite:///{}/s/mlflow.db"), ("http://h:1", None)]
)
def test_replicas_are_told_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None, told: str | None) -> None:
    """That of this working directory, in whatever directory they work; of a server they know as others do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = serve.registry_of(serve.Serve(storage="s").settings())
    assert found == ({} if told is None else {"MLFLOW_TRACKING_URI": told.format(tmp_path)})


def test_a_sampler_that_was_given_a_gpu_draws_on_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert replica.device_of(0.0) == torch.device("cpu")
    for version, said in ((None, "has no CUDA"), ("13.0", r"sees none \(CUDA_VISIBLE_DEVICES='7'")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        monkeypatch.setattr(torch.version, "cuda", version)
        for gpus in (1.0, 0.25):
            with pytest.raises(UserError, match=f"gpus {gpus:g} is asked for, and torch .* {said}.* with gpus 0"):
                replica.device_of(gpus)
    with pytest.raises(UserError, match="gpus 1 is asked for"):  # before anything is loaded, so that it is never healthy
        replica.Sampler(Settings(model="nobody", gpus=1.0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (replica.device_of(0.5), replica.device_of(0.0)) == (torch.device("cuda"), torch.device("cpu"))


def test_what_a_replica_says_is_the_reason_that_is_told() -> None:
    error = RuntimeError("Deploying failed: Traceback (most recent call last):\n  x\npixelmodels.errors.UserError: no GPU; mend it\n\nmore")
    assert serve.reason_of(error) == "no GPU; mend it"
    error = RuntimeError("Deploying failed:\n  x\n\x1b[36mpixelmodels.serving.shelf.NotLoaded: tiny/1 could not be loaded\n\nmore")
    assert serve.reason_of(error) == "tiny/1 could not be loaded"
    assert serve.reason_of(RuntimeError("Deploying\n failed")) == "Deploying failed"


def test_the_logs_are_where_ray_was_told_to_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    assert str(serve.log_folder()) == "/tmp/ray/session_latest/logs/serve"
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, f"/scratch/{name}")
        assert str(serve.log_folder()) == f"{get_default_ray_temp_dir()}/session_latest/logs/serve"


@pytest.mark.parametrize(
    "origin", ["lab.example", "https://lab.example/", "https://lab.example/app", "ftp://a", "https://*.example", "null", ""]
)
def test_what_is_no_origin_is_named(origin: str) -> None:
    with pytest.raises(UserError, match=rf"--cors-origins .* cannot be used \('{re.escape(origin)}' is no origin; give one such as"):
        serve.Serve(cors_origins=("*", origin)).settings()
    assert serve.Serve(cors_origins=("https://lab.example:8443", "http://[::1]:3000", "*")).settings().cors_origins[0].endswith("8443")


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for model in ("nobody", str(tmp_path / "none")):
        with pytest.raises(UserError, match="none"):
            serve.check_model(Settings(model=model, storage=str(tmp_path / "storage")))


@pytest.mark.parametrize(("images", "wanted"), [((), 1), ((0, 0), 1), ((10, 20), 1), ((100, 29), 2), ((400, 100), 4), ((9999,), 5)])
def test_samplers_are_added_by_images(images: tuple[float, ...], wanted: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics={METRIC: dict(enumerate(images))}, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=5
    )
    assert ImagesPolicy(images_per_replica=128)(context) == (wanted, {})


def test_the_clusters_configuration_is_that_of_the_application() -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built_by_serve
    from ray.serve.schema import ServeDeploySchema

    from pixelmodels.serving.app import INGRESS, SAMPLER, build
    from pixelmodels.serving.ray_serve import FewestImages

    text = yaml.safe_load(CONFIGURATION.read_text())
    schema = ServeDeploySchema.model_validate(text)
    (application,) = schema.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    settings = Settings(**text["applications"][0]["args"])
    assert settings.require_key
    ingress = built_by_serve(build, application.args)._bound_deployment
    assert ingress.init_args[1] == settings == build(settings)._bound_deployment.init_args[1]
    (sampler,) = [arg._bound_deployment for arg in ingress.init_args if hasattr(arg, "_bound_deployment")]
    assert (ingress.name, sampler.name) == (INGRESS, SAMPLER)
    scaling = sampler._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (settings.replicas, settings.max_replicas)
    policy = scaling.policy.get_policy()
    assert policy.__name__ == "ImagesPolicy"
    assert sampler._deployment_config.request_router_config.get_request_router_class() is FewestImages
    with pytest.raises(ValidationError, match="nobody"):
        built_by_serve(build, {"nobody": 1})


def test_the_program_makes_keys_and_refuses_what_is_unsafe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from pipelines.serve import main

    assert main(["--new-key"]) == 0
    key, one_hash = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    assert keys.hash_of(key) == one_hash
    for flags, named in ((["--host", "0.0.0.0"], "--api-keys"), (["--port", "-1"], "--port -1"), (["--ports", "1"], "--port")):
        with pytest.raises(UserError, match=named):
            main([*flags, "--storage", str(tmp_path)])


def test_a_serve_that_runs_elsewhere_is_told() -> None:
    from ray.serve.config import HTTPOptions

    serve.check_address(HTTPOptions(host="127.0.0.1", port=81), "127.0.0.1", 81)
    for host, port in (("127.0.0.1", 82), ("0.0.0.0", 81)):
        with pytest.raises(UserError, match=r"listens on 127\.0\.0\.1:81, not"):
            serve.check_address(HTTPOptions(host="127.0.0.1", port=81), host, port)


@pytest.mark.parametrize(("address", "ended"), [(None, "everything"), ("local", "everything"), ("10.0.0.1:6379", "pixelmodels")])
def test_the_end_leaves_other_applications_of_a_ray_that_was_joined(
    monkeypatch: pytest.MonkeyPatch, address: str | None, ended: str
) -> None:
    import ray.serve

    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    found: list[str] = []
    monkeypatch.setattr(ray, "shutdown", lambda: found.append("everything"))
    monkeypatch.setattr(ray.serve, "delete", found.append)
    drained = SimpleNamespace(result=lambda timeout_s: True)
    assert serve.stop(SimpleNamespace(drain=SimpleNamespace(remote=lambda drain_s: drained)), 0.0)  # type: ignore[arg-type]
    assert found == [ended]


def test_a_registry_that_does_not_answer_is_not_one_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="digits", storage=str(tmp_path / "storage"))
    assert not serve.has_model(settings) and serve.has_model(Settings(model=str(tmp_path)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        serve.has_model(settings)


def test_a_client_is_told_the_status_of_an_error_in_a_stream() -> None:
    error = {"status": 504, "code": "deadline", "message": "not finished within 3 s", "field": "timeout_s"}

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'event: start\ndata: {{"n": 1}}\n\nevent: error\ndata: {json.dumps(error)}\n\n'.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        events = Client(f"http://127.0.0.1:{server.server_port}", timeout_s=60).stream(1)
        assert next(events).kind == "start"
        with pytest.raises(ServiceError) as refused:
            next(events)
    assert (refused.value.status, refused.value.code, refused.value.field) == (504, "deadline", "timeout_s")


def test_the_line_for_a_shell_is_of_the_address() -> None:
    assert "http://127.0.0.1:81/v1/samples -H" in serve.greeting("0.0.0.0", 81, needs_key=False)
    assert "http://[::1]:81/v1/samples" in serve.greeting("::1", 81, needs_key=False)
    assert "Bearer $KEY" in serve.greeting("127.0.0.1", 81, needs_key=True)
