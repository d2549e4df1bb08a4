"""The service from a checkout: its options, a local Ray unless there is one, and the end of it."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from pixelmodels import internals, ray_cluster
from pixelmodels.errors import UserError
from pixelmodels.serving import keys
from pixelmodels.serving.settings import DEFAULT_MAX_N, Settings
from pixelmodels.serving.shelf import Shelf, is_folder
from pixelmodels.storage import DEFAULT_STORAGE, Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.client import tracking_failure
from pixelmodels.tracking.location import sqlite_path, tracking_uri

if TYPE_CHECKING:
    from ray.serve.config import HTTPOptions
    from ray.serve.handle import DeploymentHandle

    from pixelmodels.serving.replica import Sampler

logger = logging.getLogger(__name__)
NAME = "pixelmodels"  # of the application
# On a machine with much to do Serve's proxy takes longer than these are by themselves, and would be started anew for ever.
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30"}
MOST_SAMPLERS = 8  # unless more are asked for: each holds its own copies of the models
SLOTS_A_CORE, MOST_SLOTS = 32, 64  # twice as many on a core draw 15% more images a second, each in twice the time
ENDS_S = 60.0  # beyond the time that requests are given to finish, for Serve and Ray to end
SPARE_CPUS = 2  # logical CPUs of a local Ray beyond the samplers': Serve's own actors take none


@dataclass(frozen=True)
class Serve:
    """Serve trained models over HTTP: samples, completions and scores. Runs until ctrl-c, and finishes what it has begun."""

    model: str = "digits"  # registered name (its champion, else its best version), name@alias, name/version, or the folder of a run
    others: tuple[str, ...] = ()  # further registered names that requests may ask for
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix
    host: str = "127.0.0.1"  # address to listen on; another one than this machine's own needs --api-keys
    port: int = 8000  # TCP port; 0: a free one
    api_keys: Path | None = None  # file with a hash of a key on each line (see --new-key); PIXELMODELS_API_KEYS adds hashes
    cors_origins: tuple[str, ...] = ()  # whose pages may call the service from a browser, such as https://lab.example; '*': anybody's
    show_data: bool = False  # show images of the data sets that versions were trained on: in the studio, and under /v1/data
    new_key: bool = False  # print a new key and its hash, and end
    train: bool = False  # train a small model of the digits first, where no model 'digits' is registered
    replicas: int | None = None  # samplers; one for each --cpus of this machine's cores, 8 at most; 1 with --max-replicas or --gpus
    max_replicas: int | None = None  # samplers at most, added while images wait; they never change unless given
    cpus: int | None = None  # cores of a sampler; unless given 1 where that makes 8 samplers at most, else all cores shared out
    gpus: float = 0.0  # GPUs of a sampler
    compiled: bool = False  # compile models before they are loaded (a minute or some, kept for the next time), to draw faster on CPUs
    # Guess rows, and check the guesses all at once: on, off, or auto: for so many images at a time as that was measured to be faster.
    speculation: Literal["auto", "on", "off"] = "auto"
    slots: int | None = None  # images that a sampler draws at once; 32 for each of its cores, 64 at most or with --gpus, unless given
    max_waiting: int = 1024  # images that wait at a sampler beyond those; then requests are answered with 429
    max_models: int = 3  # versions that a sampler holds at a time
    max_n: int | None = None  # images of one request; 1024 unless given, or as many as may be unfinished where those are fewer
    timeout: float = 60.0  # seconds for an answer, unless the request says
    poll: float = 5.0  # seconds between looks at where the aliases point
    drain: float = 60.0  # seconds that requests are given to finish at the end

    def settings(self) -> Settings:
        """What the replicas are told; raises `UserError` for a number out of range, or an address without a key."""
        hashes = (*(keys.read_hashes(self.api_keys) if self.api_keys else ()), *keys.hashes_of_environment())
        if self.api_keys and not hashes:
            raise UserError(f"--api-keys '{self.api_keys}' holds no hash; make one with --new-key")
        if not hashes and not is_loopback(self.host):
            raise UserError(f"--host {self.host} lets other machines in; give --api-keys FILE (--new-key makes a key), or 127.0.0.1")
        if not 0 <= self.port < 1 << 16:
            raise UserError(f"--port {self.port} is out of range; give 0..65535")
        storage = Storage(self.storage)
        replicas, cpus = self._shared_out(ray_cluster.num_cores())
        slots = self.slots if self.slots is not None else MOST_SLOTS if self.gpus else min(MOST_SLOTS, SLOTS_A_CORE * max(1, cpus))
        max_n = self.max_n if self.max_n is not None else max(1, min(DEFAULT_MAX_N, slots + self.max_waiting))
        given: dict[str, Any] = {name: value for name, value in vars(self).items() if name in Settings.model_fields}
        given |= {
            "model": absolute(self.model, storage),
            "storage": storage.root,
            "replicas": replicas,
            "cpus": cpus,
            "slots": slots,
            "max_n": max_n,
        }
        given |= {"timeout_s": self.timeout, "max_timeout_s": max(600.0, self.timeout), "poll_s": self.poll, "drain_s": self.drain}
        given |= {"key_hashes": hashes, "require_key": not is_loopback(self.host)}
        try:
            return Settings(**given)
        except ValidationError as error:
            first = error.errors()[0]
            field, value = str(first["loc"][0]) if first["loc"] else "", first["input"]
            message = str(first["msg"]).removeprefix("Value error, ")
            if not field:  # of two numbers together: the message begins with the field
                field, _, message = message.partition(": ")
                value = given[field]
            flag = field.removesuffix("_s").replace("_", "-")
            raise UserError(f"--{flag} {value} cannot be used ({message}); see --help") from None

    def _shared_out(self, num_cores: int) -> tuple[int, int]:
        """Samplers, and cores of each: two of one core draw half as much again as one of two, whose threads wait for each other."""
        replicas, most = self.replicas, self.max_replicas or self.replicas
        if replicas is None:
            is_open = most is None and not self.gpus
            cpus = self.cpus or -(-num_cores // MOST_SAMPLERS)
            replicas = max(1, min(MOST_SAMPLERS, num_cores // max(1, cpus))) if is_open else 1
        return replicas, self.cpus if self.cpus is not None else max(1, num_cores // max(1, most or replicas))


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches an address."""
    with suppress(ValueError):
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    return False


def absolute(model: str, storage: Storage) -> str:
    """A model's folder as processes with other working directories find it, where it is there: in this one's, or in the storage root.

    Registered models are named as they are, without `models:/`.
    """
    model = model.removeprefix("models:/")
    if is_folder(model) and "://" not in model:
        inside = [] if Path(model).is_absolute() or ".." in model.split("/") else [storage.uri(model)]
        places = [Storage(model).root, *inside]
        return next((place for place in places if Storage(place).exists()), model)
    return model


def has_model(settings: Settings) -> bool:
    """Whether the default model is registered (a folder is, until it is looked at); raises `UserError` where MLflow cannot tell."""
    if is_folder(settings.model):
        return True
    tracker = Tracker(Storage(settings.storage))
    tracker.check()
    name = settings.model.partition("@")[0].partition("/")[0]
    try:
        return bool(tracker.client.search_model_versions(f"name = '{name}'", max_results=1))
    except Exception as error:
        raise tracking_failure(tracker.uri, error) from error


def check_model(settings: Settings) -> tuple[str, str, Settings]:
    """Load and check the default model before anything is started; raises `UserError` where it does not serve.

    Returns name/version, and where nobody made one champion a line that tells why it is this version, and how to change that; and the
    settings with which all samplers take the same version of a name that has no champion, whenever they start.
    """
    shelf = Shelf(settings)
    shelf.open()
    address, why = shelf.find(None).address, shelf.why_chosen.get(settings.model, "")
    if why:
        name, _, version = address.rpartition("/")
        command = f"python pipelines/promote.py --name {quote(name)} --version {version} --storage {quote(settings.storage)}"
        why = f"'{name}' has no champion: version {version} is served, {why}; to have it chosen by tests: {command}"
    return address, why, settings.model_copy(update={"chosen": shelf.choose()})


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; raises `UserError` where it cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            return int(listener.getsockname()[1])
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened on ({error.strerror or error}); give another --port or --host") from error


def connect(settings: Settings, num_services: int = 1) -> None:
    """Join the Ray of `RAY_ADDRESS`, or start a local one with room for the samplers of so many services."""
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # of this process itself, whatever the shell says: it has no event loop
    os.environ.setdefault("RAY_worker_niceness", "0")  # those who serve give way to nobody; a local Ray's workers would (15)
    ray_cluster.connect(num_cpus=num_services * (settings.max_replicas or settings.replicas) * settings.cpus + SPARE_CPUS)
    import ray

    needed, found = settings.replicas * settings.gpus, ray.cluster_resources().get("GPU", 0.0)
    if is_own() and needed > found:  # a cluster may get more; here Serve would wait for them for ever
        raise UserError(
            f"--gpus {settings.gpus:g} needs {needed:g} GPUs in all, and Ray finds {found:g} here; leave it out to serve on the CPU"
        )


def is_own() -> bool:
    """Whether the Ray that is connected was started here, for this service."""
    return os.environ.get("RAY_ADDRESS", "local") in ("", "local")


def start(settings: Settings, host: str, port: int, sampler: type[Sampler] | None = None, name: str = NAME) -> DeploymentHandle[Any]:
    """Start the application on the Ray that is connected; returns the ingress's handle once a sampler has its model. Raises `UserError`.

    One of another name is served beside the first, below a path of its name.
    """
    import ray
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.config import HTTPOptions

    from pixelmodels.serving.app import ENVIRONMENT, LOGGING, PROXIES, application, without_proxy
    from pixelmodels.serving.replica import Sampler

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Of Serve's proxies, and of replicas of other applications where they say nothing; the application's own say more.
    of_serve = {**(ENVIRONMENT if is_own() else PROXIES), **PATIENCE, **without_proxy(os.environ)}
    environment = dict(ray.get_runtime_context().runtime_env)  # of the Ray job that this process is
    environment["env_vars"] = {**environment.get("env_vars", {}), **registry_of(settings)}
    try:
        serve.start(
            http_options=HTTPOptions(host=host, port=port),
            logging_config=LOGGING,
            controller_options={"runtime_env": {"env_vars": of_serve}},
        )
        check_address(internals.serve_http_options(), host, port)  # a Serve that runs keeps its own
        made = application(settings, sampler or Sampler, environment)
        return serve.run(made, name=name, route_prefix="/" if name == NAME else f"/{name}")
    except (RuntimeError, RayError) as error:
        raise UserError(f"the service did not start ({reason_of(error)}); see the logs in {log_folder()}") from error


def registry_of(settings: Settings) -> dict[str, str]:
    """The variable that has processes with other working directories use the same database of models."""
    uri = tracking_uri(Storage(settings.storage))
    return {} if sqlite_path(uri) is None else {"MLFLOW_TRACKING_URI": uri}


def log_folder() -> Path:
    """Where Ray Serve writes its logs on this machine, now."""
    names = ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",)  # that Ray goes by
    folder = next((os.environ[name] for name in names if name in os.environ), "/tmp")
    return Path(folder) / "ray" / "session_latest" / "logs" / "serve"


def reason_of(error: Exception) -> str:
    """What a replica that did not start says itself, or the end of what Ray says about it."""
    said = re.findall(r"pixelmodels\.[\w.]+: (.*)", str(error))  # a `UserError`, or another of its kind
    return said[-1] if said else " ".join(str(error).split())[-600:]


def check_address(running: HTTPOptions, host: str, port: int) -> None:
    """Raise `UserError` where Serve listens on another address than it is to."""
    if (running.host, running.port) != (host, port):
        raise UserError(
            f"Serve runs on this Ray already and listens on {running.host}:{running.port}, not {host}:{port}; "
            "end it (serve shutdown), or deploy this application beside the others (serve deploy cluster/serve.yaml)"
        )


def stop(handle: DeploymentHandle[Any], drain_s: float, name: str = NAME) -> bool:
    """Take no more requests, let those there are finish, end the application; whether all were finished.

    On a Ray that was joined, and where it was served beside another one, Serve and its other applications go on.
    """
    import ray
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    began = time.monotonic()
    try:
        finished = bool(handle.drain.remote(drain_s).result(timeout_s=drain_s + 10))
    except (RayError, RayServeException, TimeoutError) as error:  # the ingress is gone, or does not answer
        logger.warning("the ingress did not say that all was finished (%s)", type(error).__name__)
        finished = False
    time.sleep(min(0.2, max(0.0, drain_s - (time.monotonic() - began))))  # for the last answers to leave
    if name == NAME and is_own():
        ray.shutdown()  # Serve, with all that belongs to it, ends with its Ray
    else:
        serve.delete(name)
    return finished


def end() -> None:
    """End Serve with all its applications, whatever they are doing."""
    from ray import serve

    serve.shutdown()


def greeting(host: str, port: int, *, needs_key: bool) -> str:
    """Where it is, and a line for a shell that draws sixteen images."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    body = '{"n": 16, "seed": 1, "format": "grid"}'
    return (
        f"serving on {url}, which is the studio in a browser; API documentation on {url}/docs; stop with ctrl-c\n"
        f"curl -s {url}/v1/samples{key} -H 'Content-Type: application/json' -d '{body}' -o samples.png"
    )
