"""A host of the cluster on one machine: what runs on it, how it fails, and how it comes back.

A `LoopbackHost` is only a group of processes that are told by a mark in their environment; `network.NetworkHost` is as good as a machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pixelmodels.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # where commands run: a checkout, as on every host of a real cluster
MARK = "PIXELMODELS_HOST"  # variable of every process of a host: the name of its cluster and its own
_SESSIONS = "sessions"  # file in the folder of a host on loopback: a line for each session of processes that was begun for it
_END_S = 10.0  # processes that were killed are gone by then
_POLL_S = 0.05
_WORKER_PORTS_FROM, _WORKER_PORTS = 20000, 200  # of the first host on loopback, and how many each of them has


class Service(Protocol):
    """What a host is there for: a Ray node, or a server."""

    def start(self, host: Host) -> None:
        """Start it, and return when it answers; raises `UserError` where it does not."""

    def is_running(self, host: Host) -> bool:
        """Whether it still answers, waiting for that as long as it may take after the host was cut off."""


def wait_until(is_so: Callable[[], bool], timeout_s: float, poll_s: float = _POLL_S) -> bool:
    """Whether something came true within `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(poll_s)
    return True


def tail(log: Path, num_characters: int = 400) -> str:
    """The end of a log on one line, for messages."""
    return " ".join(log.read_text(errors="replace").split())[-num_characters:] if log.exists() else "nothing"


def processes() -> list[int]:
    """Ids of all processes of this machine that run."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid: int) -> str:
    """The command of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def is_of(pid: int, mark: str, folder: Path) -> bool:
    """Whether a process was started for a host on loopback: it bears its mark; or, as Ray's write their title over that, it is in a session
    that was begun for the host, and has a file in its folder open.
    """
    try:
        if f"\0{MARK}={mark}\0".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
            return True
        known = (folder / _SESSIONS).read_text().split()
        return str(os.getsid(pid)) in known and any(_is_below(link, folder) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended, or is another user's
        return False


def _is_below(link: Path, folder: Path) -> bool:
    with suppress(OSError):
        return os.readlink(link).startswith(f"{folder}/")
    return False


def signal_if(is_ours: Callable[[int], bool], pid: int, number: signal.Signals) -> None:
    """Signal a process that is ours: never another one that has taken its id meanwhile."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if is_ours(pid):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def kill_all(is_ours: Callable[[int], bool]) -> bool:
    """Kill processes until none is left, those too that they start meanwhile; whether that was reached."""
    looks_in_vain = 0

    def none_left() -> bool:
        nonlocal looks_in_vain
        left = [pid for pid in processes() if is_ours(pid)]
        for pid in left:
            signal_if(is_ours, pid, signal.SIGKILL)
        looks_in_vain = 0 if left else looks_in_vain + 1
        return looks_in_vain == 2  # a process that is just becoming another program has no mark for a moment

    return wait_until(none_left, _END_S)


def _places(lines: list[str]) -> list[tuple[str, int]]:
    """Address and port of each line of `ss`."""
    places = [line.split()[3].rpartition(":") for line in lines]
    return sorted((address.strip("[]").partition("%")[0], int(port)) for address, _, port in places)


class Host(ABC):
    """One host: off until it is started.

    Args: `cluster` and `name`, which its processes are told by; `address`, at which its ports are; `folder`, its disk, which is made
    and stays whatever happens to it; `environment`, variables of all that runs on it; `service`, what it is there for, if anything.
    """

    def __init__(
        self, cluster: str, name: str, address: str, folder: Path, environment: Mapping[str, str], service: Service | None = None
    ) -> None:
        self.cluster, self.name, self.address, self.folder, self.service = cluster, name, address, folder, service
        self.environment = {**environment, MARK: f"{cluster}/{name}"}
        self._spawned: list[subprocess.Popen[bytes]] = []
        folder.mkdir(mode=0o711)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.address!r})"

    def start(self) -> None:
        """Switch it on, and start what it is there for."""
        self._boot()
        if self.service is not None:
            self.service.start(self)

    def stop(self, grace_s: float = 20.0) -> None:
        """Shut it down: SIGTERM to all that runs on it, and after `grace_s` it is off."""
        for pid in self.pids():
            signal_if(self._owns, pid, signal.SIGTERM)
        wait_until(lambda: not self.pids(), grace_s)
        self.kill()

    @abstractmethod
    def kill(self) -> None:
        """Switch it off: SIGKILL to all that runs on it, at once."""

    @abstractmethod
    def cut_off(self) -> None:
        """Pull its cable: it runs, and nothing comes to it or from it."""

    @abstractmethod
    def slow_down(self, kilobits_per_s: int, queue_ms: int = 400) -> None:
        """Limit what comes to it and what it sends, each; a packet that would wait for longer than `queue_ms` is lost."""

    def bring_back(self) -> None:
        """Make it whole, whatever was done to it: its link, its speed, and what it is there for."""
        self._mend_link()
        if not self._is_on():
            self.start()
        elif self.service is not None and not self.service.is_running(self):
            self.kill()
            self.start()

    def pids(self) -> dict[int, str]:
        """Command line of each process that runs on it, by its id as this machine knows it."""
        return {pid: line for pid in processes() if self._owns(pid) and (line := command_line(pid))}

    def open_ports(self) -> list[tuple[str, int]]:
        """Address and port of each TCP socket on it that listens."""
        return _places(self.run(["ss", "-ltnH"]).stdout.splitlines())

    def run(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str] | None = None,
        folder: Path = ROOT,
        timeout_s: float = 120.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end. Raises `subprocess.CalledProcessError` (unless not `check`) and `subprocess.TimeoutExpired`."""
        environment = {**self.environment, **(variables or {})}
        inside = self.inside(command, folder)
        return subprocess.run(
            inside, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=check, start_new_session=True
        )

    def spawn(self, command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None, folder: Path = ROOT) -> None:
        """Start a program on it that runs until the host ends; what it prints goes to `log`."""
        with open(log, "ab") as output:
            environment = {**self.environment, **(variables or {})}
            inside = self.inside(command, folder)
            self._spawned.append(
                subprocess.Popen(
                    inside, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            )

    @abstractmethod
    def inside(self, command: Sequence[str], folder: Path = ROOT) -> list[str]:
        """A command as this machine runs it so that it runs on the host, in a folder."""

    worker_ports: tuple[int, int] = (10002, 19999)  # least and most of those that Ray's workers have on it

    @abstractmethod
    def free_port(self, usual: int) -> int:
        """The port that it has, whenever it starts, for what usually has this one: the same where all ports are its own."""

    @abstractmethod
    def _boot(self) -> None: ...

    @abstractmethod
    def _is_on(self) -> bool: ...

    @abstractmethod
    def _owns(self, pid: int) -> bool: ...

    @abstractmethod
    def _mend_link(self) -> None: ...

    def _reap(self) -> None:
        """Take note of the end of what was spawned."""
        for process in self._spawned:
            process.wait()
        self._spawned.clear()


class LoopbackHost(Host):
    """Processes of this machine that pass for a host; it has no link of its own. Args: `number`, which no other host of the cluster has."""

    def __init__(
        self,
        cluster: str,
        name: str,
        number: int,
        folder: Path,
        environment: Mapping[str, str],
        service: Service | None = None,
    ) -> None:
        # Not 127.0.0.1: Ray takes that for the machine's address on its network.
        super().__init__(cluster, name, f"127.0.0.{2 + number}", folder, environment, service)
        self._ports: dict[int, int] = {}
        first = _WORKER_PORTS_FROM + number * _WORKER_PORTS
        self.worker_ports = (first, first + _WORKER_PORTS - 1)

    def kill(self) -> None:
        kill_all(self._owns)
        self._reap()

    def cut_off(self) -> None:
        raise self._lacks("cut off")

    def slow_down(self, kilobits_per_s: int, queue_ms: int = 400) -> None:
        raise self._lacks("slowed down")

    def open_ports(self) -> list[tuple[str, int]]:
        if shutil.which("ss") is None:
            raise UserError("open ports cannot be listed without ss; install iproute2")
        ours = [f"pid={pid}," for pid in self.pids()]
        return _places([line for line in self.run(["ss", "-ltnpH"]).stdout.splitlines() if any(pid in line for pid in ours)])

    def inside(self, command: Sequence[str], folder: Path = ROOT) -> list[str]:
        return ["sh", "-c", 'echo $$ >> "$0"; exec "$@"', str(self.folder / _SESSIONS), *command]

    def free_port(self, usual: int) -> int:
        if usual not in self._ports:
            with socket.socket() as free:
                free.bind(("", 0))  # Ray listens with some on every address
                self._ports[usual] = int(free.getsockname()[1])
        return self._ports[usual]

    def _boot(self) -> None:
        pass

    def _is_on(self) -> bool:
        return bool(self.pids())

    def _owns(self, pid: int) -> bool:
        return is_of(pid, self.environment[MARK], self.folder)

    def _mend_link(self) -> None:
        pass

    def _lacks(self, what: str) -> UserError:
        return UserError(
            f"host '{self.name}' cannot be {what}: it is processes on loopback, as this machine has no network namespaces for us; "
            "be root and install iproute2"
        )
