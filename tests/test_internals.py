"""What is used of other packages though they do not promise it: there, and doing what it is used for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pixelmodels import internals
from pixelmodels.errors import UserError


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ray.serve.context", "_get_global_client"),
        ("ray.serve._private.replica", "add_port_to_grpc_server"),
        ("starlette._utils", "get_route_path"),
    ],
)
def test_they_are_there(module: str, name: str) -> None:
    assert callable(internals.private(module, name, "to test it"))


@pytest.mark.parametrize(("module", "name"), [("ray.serve.context", "_nobody"), ("ray.serve._nothing", "a"), ("starlette._none.such", "b")])
def test_one_that_is_gone_is_told_in_a_line(module: str, name: str) -> None:
    with pytest.raises(UserError) as error:
        internals.private(module, name, "to test it")
    package = module.partition(".")[0]
    assert str(error.value).startswith(f"{package} ") and f"has no {module}.{name}, which is needed to test it; install" in str(error.value)


@pytest.mark.parametrize(
    ("path", "prefix", "wanted"),
    [
        ("/v1/samples", "", "/v1/samples"),
        ("/second/v1/samples", "/second", "/v1/samples"),
        ("/secondary/v1", "/second", "/secondary/v1"),
        ("/second", "/second", ""),
    ],
)
def test_the_path_is_that_below_the_prefix(path: str, prefix: str, wanted: str) -> None:
    assert internals.route_path({"path": path, "root_path": prefix}) == wanted


REPLICA = """
import asyncio, sys
from ray.serve._private import replica
from pixelmodels.internals import EVERYWHERE, bind_serve_replicas

class Server:
    def add_insecure_port(self, address):
        print(address)
        return 50051

bind_serve_replicas(sys.argv[1])
print(replica.add_port_to_grpc_server(Server(), EVERYWHERE))
try:
    replica.add_port_to_grpc_server(Server(), "0.0.0.0:0")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(("host", "shown"), [("10.0.0.7", "10.0.0.7:0"), ("::1", "[::1]:0")])
def test_replicas_listen_where_they_are_told(host: str, shown: str) -> None:
    """In a process of its own, in which Serve's function stays replaced."""
    ran = subprocess.run([sys.executable, "-c", REPLICA, host], capture_output=True, text=True, timeout=120)
    address, port, other = ran.stdout.splitlines()[-3:]
    assert (address, port) == (shown, "50051") and "wants to listen on 0.0.0.0:0" in other


def test_where_serve_listens_is_what_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.serve.context
    from ray.serve.config import HTTPOptions

    class Client:
        http_config = HTTPOptions(host="127.0.0.1", port=81)

    found: list[Any] = []
    monkeypatch.setattr(ray.serve.context, "_get_global_client", lambda: found.append(1) or Client())
    assert (internals.serve_http_options().port, found) == (81, [1])
    from ray.serve._private.client import ServeControllerClient

    assert isinstance(ServeControllerClient.http_config, property)


CLUSTER = """
from ray._private import worker
from pixelmodels.internals import shorten_cluster_messages
shorten_cluster_messages()
shorten_cluster_messages()
died = {"lines": ["\\nA node died.\\nlast lines of a log\\nand more"], "pid": "raylet", "is_err": False}
worker.print_to_stdstream(died, ignore_prefix=False)
worker.print_to_stdstream({"lines": ["a worker's line", "and another"], "pid": 17, "ip": "10.0.0.1", "is_err": False}, ignore_prefix=True)
"""


def test_of_what_ray_tells_of_its_cluster_the_first_line_is_shown() -> None:
    done = subprocess.run([sys.executable, "-c", CLUSTER], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "A node died." in lines[0] and [line for line in lines if "a worker's line" in line or "and another" in line] == lines[1:]
    assert "log" not in done.stdout
