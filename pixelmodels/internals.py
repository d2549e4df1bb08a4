"""Names of other packages that are no promise of theirs: each here, in a function that says why, and that says so where it is gone.

A new version of a package may drop them; `tests/test_internals.py` then fails before anything else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pixelmodels.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from ray.serve.config import HTTPOptions

EVERYWHERE = "[::]:0"  # where Ray Serve has its replicas listen


def private(module: str, name: str, use: str) -> Any:
    """A private name of a package; raises `UserError` where this version does not have it. Args: `use`, what it is needed for."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        package = module.partition(".")[0]
        raise UserError(
            f"{package} {version(package)} has no {module}.{name}, which is needed {use}; install the version in requirements.lock"
        ) from error


def serve_http_options() -> HTTPOptions:
    """Where the Ray Serve that runs listens: one that was there before keeps its own address, and `serve.start` only logs that."""
    return private("ray.serve.context", "_get_global_client", "to see where Ray Serve listens")().http_config


def bind_serve_replicas(host: str) -> None:
    """Have the gRPC ports of this process's replicas opened on `host`, not on every network of the machine: Serve has no option for it.

    What comes there are pickles, which Ray's token guards where there is one.
    """
    module, name = "ray.serve._private.replica", "add_port_to_grpc_server"
    bind = private(module, name, "to choose where replicas listen")

    def bind_to_host(server: Any, address: str) -> int:
        if address != EVERYWHERE:
            raise RuntimeError(f"Ray Serve wants to listen on {address}, not on {EVERYWHERE}: this version of it is not known here")
        return int(bind(server, f"[{host}]:0" if ":" in host else f"{host}:0"))

    setattr(import_module(module), name, bind_to_host)


def route_path(scope: Mapping[str, Any]) -> str:
    """The path that Starlette looks its routes up by, below the prefix that an application is served under.

    Who guards paths has to see the same one as who serves them.
    """
    return str(private("starlette._utils", "get_route_path", "to see which path is asked for")(scope))


def has_autoscaler() -> bool:
    """Whether an autoscaler may add nodes to the cluster that is joined, as `ray up` and KubeRay start one: no public name tells."""
    return bool(private("ray.autoscaler.v2.utils", "is_autoscaler_v2", "to see whether the cluster may grow")(fetch_from_server=True))


def free_resources() -> list[dict[str, float]]:
    """What is free on each node that lives and stays: Ray's public function tells the sum over all of them only."""
    state, going = private("ray._private.state", "state", "to see which node has room"), draining_nodes()
    return [dict(free) for node, free in state.available_resources_per_node().items() if node not in going]


def draining_nodes() -> set[str]:
    """The ids of nodes that are about to go: taken away by their cloud, or given back. Ray's public function waits for all workers."""
    return set(private("ray._private.state", "state", "to see which node is about to go").get_draining_nodes())


def found_no_room(error: BaseException) -> bool:
    """Whether Ray Train gave up waiting for room for a group of workers."""
    kind = private("ray.train.v2._internal.exceptions", "WorkerGroupStartupTimeoutError", "to see why no worker began")
    return isinstance(getattr(error, "controller_failure", None), kind)


def shorten_cluster_messages() -> None:
    """Show the first line of what Ray tells drivers of its cluster: of a node that died it tells the last lines of a log, too."""
    module, name = "ray._private.worker", "print_to_stdstream"
    show = private(module, name, "to show what Ray tells of its cluster")
    if getattr(show, "shortened", False):
        return

    def shorter(data: Mapping[str, Any], **options: Any) -> None:
        if data.get("pid") == "raylet":
            first = next((line for text in data["lines"] for line in str(text).splitlines() if line.strip()), "")
            data = {**data, "lines": [first]}
        show(data, **options)

    shorter.shortened = True  # type: ignore[attr-defined]
    setattr(import_module(module), name, shorter)


def fake_tensors() -> AbstractContextManager[Any]:
    """A context in which torch makes tensors that know their shapes only: a model of any size is built without memory."""
    mode: AbstractContextManager[Any] = private("torch._subclasses.fake_tensor", "FakeTensorMode", "to build models without memory")()
    return mode


def dispatch_mode() -> type[Any]:
    """The class from which a context derives that sees every operation of torch."""
    kind: type[Any] = private("torch.utils._python_dispatch", "TorchDispatchMode", "to count operations")
    return kind


def storage_address(storage: torch.UntypedStorage) -> int:
    """What tells a tensor's storage from others, of a fake tensor too, which has no memory whose address could be asked for."""
    return int(storage._cdata)
