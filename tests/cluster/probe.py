"""Runs on a host: what each port of an address answers to somebody without the token, or with the one that is given.

Prints JSON: for each port the status of its HTTP answer, or the code of its gRPC answer.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc

# One call of each of Ray's services: a server answers UNIMPLEMENTED to those of others.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.serve.ASGIService/HandleRequest",
)


def http(address: str, port: int, token: str | None) -> str | None:
    """Status of an HTTP answer (with `metrics` where it is figures for Prometheus); None where it is no HTTP."""
    request = urllib.request.Request(f"http://{address}:{port}/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return f"{answer.status} metrics" if b"# HELP" in answer.read() else str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except Exception:  # what is gRPC answers with something else, or not at all
        return None


def rpc(address: str, port: int, token: str | None) -> str:
    """Code of the first answer that is not UNIMPLEMENTED."""
    code = "UNIMPLEMENTED"
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        for call in CALLS:
            method = channel.unary_unary(call, request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
            try:
                method(b"", timeout=10, metadata=[("authorization", f"Bearer {token}")] if token else None)
                return "OK"
            except grpc.RpcError as error:
                code = error.code().name
                if code != "UNIMPLEMENTED":
                    return code
    return code


def main() -> None:
    address, ports = sys.argv[1], [int(port) for port in sys.argv[2].split(",")]
    token = Path(sys.argv[3]).read_text().strip() if len(sys.argv) > 3 else None
    print(json.dumps({port: http(address, port, token) or rpc(address, port, token) for port in ports}))


if __name__ == "__main__":
    main()
