"""Calls between the service's processes go past the proxies that the environment names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pixelmodels.serving import app


@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({}, ""),
        ({"http_proxy": "http://10.0.0.1:3128"}, ""),
        ({"no_proxy": "a.example,10.0.0.0/8"}, "a.example,10.0.0.0/8,"),
        ({"no_grpc_proxy": "b.example", "no_proxy": "a.example"}, "b.example,"),
        ({"no_grpc_proxy": "", "no_proxy": "a.example"}, "a.example,"),
    ],
)
def test_addresses_are_called_without_a_proxy(environ: dict[str, str], kept: str) -> None:
    assert app.without_proxy(environ) == {"no_grpc_proxy": f"{kept}0.0.0.0/0,::/0"}


GRPC = """
import sys
from concurrent import futures
import grpc

class Answers(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"answered")

server = grpc.server(futures.ThreadPoolExecutor(1))
server.add_generic_rpc_handlers((Answers(),))
port = server.add_insecure_port(f"{sys.argv[1]}:0")
server.start()
try:
    print(grpc.insecure_channel(f"{sys.argv[1]}:{port}").unary_unary("/a/b")(b"", timeout=20).decode())
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_grpc_heeds_it(name: str, host: str) -> None:
    environ = {**os.environ, name: "http://127.0.0.1:9", "no_proxy": "example.com"}
    environ |= app.without_proxy(environ)
    ran = subprocess.run([sys.executable, "-c", GRPC, host], env=environ, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "answered"
