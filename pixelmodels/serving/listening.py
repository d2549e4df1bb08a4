"""Where replicas listen for calls of each other: on the address of their Ray node, not on every network of the machine."""

from __future__ import annotations

from functools import cache
from typing import Any

EVERYWHERE = "[::]:0"  # where Ray Serve would listen


@cache  # once in a process
def listen_on_the_nodes_address() -> None:
    """To be called in a replica's constructor, before Serve opens its port.

    Every replica of Ray Serve has a gRPC port for calls from other deployments, which are pickles; Ray's token guards it where there is
    one. Serve opens it on all interfaces, also where the Ray it belongs to is reached over 127.0.0.1 alone. Others find it by the
    address of the replica's Ray node: there, and nowhere else, it listens.
    """
    import ray
    from ray.serve._private import replica

    host = ray.util.get_node_ip_address()
    bind = replica.add_port_to_grpc_server

    def bind_to_node(server: Any, address: str) -> int:
        if address != EVERYWHERE:
            raise RuntimeError(f"Ray Serve wants to listen on {address}, not on {EVERYWHERE}: this version of it is not known here")
        return int(bind(server, f"[{host}]:0" if ":" in host else f"{host}:0"))

    replica.add_port_to_grpc_server = bind_to_node
