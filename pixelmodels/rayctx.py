"""How a pipeline comes by Ray: it joins the cluster it runs in, or starts one on this machine.

The library itself never starts Ray. Ray is imported inside `connect`, after the variables that it reads when it is
imported are set; import this module before anything that imports Ray.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from pixelmodels.errors import UserError

OBJECT_STORE_BYTES = 1 << 30  # shared memory of a local Ray; images pass through it in blocks

# Read by Ray when it is imported or started; what the user has set is kept.
_QUIET = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this interpreter, not a new environment each
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives a shutdown does not start another Ray
}
# For a Ray that is started here. Ray caches both when it is imported, so they cannot be set later than that.
_LOCAL = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too, this makes every one of Ray's servers listen on loopback only
    "RAY_worker_maximum_startup_concurrency": "8",  # Ray warns of a process that only waits as if it took a core
}


def connect(num_cpus: int | None = None, *, log_to_driver: bool = False) -> None:
    """Join the cluster of `RAY_ADDRESS` (set inside a Ray job), else start a local Ray; a second call does nothing.

    Args: `num_cpus`, logical CPUs of a local Ray (cores + 1 unless given: one for Ray Data while training workers hold
    the others); `log_to_driver`, whether a local Ray's workers print to this terminal.
    Raises `UserError` when the cluster of `RAY_ADDRESS` cannot be reached.
    """
    address = os.environ.get("RAY_ADDRESS")
    address = None if address == "local" else address
    if "ray" not in sys.modules:
        for name, value in (_QUIET if address else _QUIET | _LOCAL).items():
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    quiet_logs()
    if address:
        try:
            _check_reachable(address)
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=log_to_driver)
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"Ray at RAY_ADDRESS '{address}' cannot be joined ({reason}); start it, or unset RAY_ADDRESS") from error
        return
    folder = Path.home() / ".ray"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # Ray writes its token here, readable by everybody
        ray.init(
            address="local",
            num_cpus=num_cpus or num_cores() + 1,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"a local Ray cannot be started ({reason}); free memory, disk or processes and try again") from error
    token = folder / "auth_token"
    if token.is_file():
        token.chmod(0o600)


def _check_reachable(address: str) -> None:
    """Raise `OSError` when nobody answers at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quiet_logs() -> None:
    """Keep Ray's own progress notes off the terminal; warnings and errors stay, and the files of its session keep all."""
    import ray.data  # sets up its loggers when it is imported

    for name in ("ray", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logger = logging.getLogger("ray.data")
    for handler in logger.handlers:
        if type(handler).__name__ == "PlainRayHandler":  # the terminal's
            handler.setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "Progress bars disabled"
    ray.data.DataContext.get_current().enable_progress_bars = False
