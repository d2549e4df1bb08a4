"""The cluster on one machine: its hosts fail as machines do, nobody else reaches them, and nothing is left of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.service_faults import IMPATIENT
from cluster import network, servers
from cluster.hosts import ROOT, Host, LoopbackHost, processes, wait_until
from cluster.local_cluster import LocalCluster, LocalClusterOptions, remove_leftovers
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking.location import check_reachable

PROBE = str(Path(__file__).with_name("probe.py"))
# A program that tells of its end, where it is asked to end.
TELLING = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path(sys.argv[1]).with_suffix(".ended").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).touch()
time.sleep(1000)
"""
# A cluster of one host in a process of its own, on which a program runs.
DRIVER = """
import sys, threading
from pathlib import Path
from cluster.local_cluster import LocalCluster, LocalClusterOptions
with LocalCluster(LocalClusterOptions(workers=0, loopback=sys.argv[1] == "loopback"), with_ray=False) as cluster:
    host = cluster.add_host("a")
    host.spawn(["sleep", "987"], host.folder / "log")
    while not any("sleep 987" in line for line in host.pids().values()):
        pass
    print(cluster.name, *host.pids(), flush=True)
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def hosts_possible() -> None:
    """Leaves out what needs hosts of their own, where this machine cannot have them."""
    reason = network.lacks()
    if reason is not None:
        pytest.skip(f"no hosts in network namespaces: {reason}")


@pytest.fixture
def bare(hosts_possible: None) -> Iterator[LocalCluster]:
    """A network without any host yet."""
    with LocalCluster(LocalClusterOptions(workers=0), with_ray=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(hosts_possible: None) -> Iterator[LocalCluster]:
    """A head, two workers, a bucket, an MLflow server, and a stranger who does not know the token."""
    lacks = servers.lacks_bucket()
    if lacks is not None:
        pytest.skip(f"no S3 server: {lacks}")
    with LocalCluster(LocalClusterOptions(workers=2, s3=True, mlflow=True), variables=IMPATIENT) as cluster:
        cluster.add_host("stranger", knows_token=False)
        yield cluster


def listening(host: Host, port: int = 8000) -> None:
    """Have a web server listen on a host."""
    host.spawn([sys.executable, "-m", "http.server", str(port), "--bind", host.address], host.folder / "log")
    assert wait_until(lambda: (host.address, port) in host.open_ports(), 20.0)


def reaches(host: Host, address: str, port: int = 8000, timeout_s: float = 1.0) -> bool:
    """Whether a host is let in at a port."""
    script = f"import socket; socket.create_connection(({address!r}, {port}), timeout={timeout_s})"
    return host.run([sys.executable, "-I", "-S", "-c", script], check=False).returncode == 0


def probed(host: Host, node: Host, *token: str) -> dict[int, str]:
    """What each port of a node that is open to others answers to a host, which presents a token or none."""
    ports = sorted({port for address, port in node.open_ports() if not address.endswith("127.0.0.1")})
    answers = host.run([sys.executable, PROBE, node.address, ",".join(map(str, ports)), *token]).stdout
    return {int(port): answer for port, answer in json.loads(answers).items()}


def telling(host: Host, *, name: str = "told") -> Path:
    """Start the program that tells of its end; the file that it makes when it is asked to."""
    started = host.folder / name
    host.spawn([sys.executable, "-c", TELLING, str(started)], host.folder / "log")
    assert wait_until(started.exists, 20.0)
    return started.with_suffix(".ended")


def left_of(name: str) -> list[str]:
    """What there is of a cluster on this machine."""
    names = [*os.listdir("/tmp"), *os.listdir("/sys/class/net"), *(os.listdir("/run/netns") if Path("/run/netns").is_dir() else [])]
    return [one for one in names if one.startswith(name)]


def test_hosts_are_machines_of_their_own(bare: LocalCluster) -> None:
    first, second = bare.add_host("first"), bare.add_host("second")
    listening(second)
    assert first.run(["hostname"]).stdout.strip() == "first"
    assert reaches(first, second.address) and reaches(first, "second")
    assert second.open_ports() == [(second.address, 8000)] and first.open_ports() == []
    assert not set(first.pids()) & set(second.pids())
    assert "http.server" not in first.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"], check=False).stdout


def test_only_the_network_reaches_a_host(bare: LocalCluster) -> None:
    host = bare.add_host("host")
    listening(host)
    with LocalCluster(LocalClusterOptions(workers=0), with_ray=False) as others:
        other = others.add_host("other")
        gateway = other.address.rpartition(".")[0] + ".1"  # this machine, which both networks reach
        other.run(["ip", "route", "add", "default", "via", gateway])
        listening(other)
        assert not reaches(other, host.address)
        assert not reaches(host, other.address)
    assert host.run(["ip", "route"]).stdout.count("\n") == 1  # to its own network: no answer gets out


def test_a_host_is_cut_off_slowed_down_and_brought_back(bare: LocalCluster) -> None:
    near, far = bare.add_host("near"), bare.add_host("far")
    (far.folder / "megabyte").write_bytes(bytes(1 << 20))
    far.spawn([sys.executable, "-m", "http.server", "8000", "--bind", far.address], far.folder / "log", folder=far.folder)
    assert wait_until(lambda: reaches(near, far.address), 20.0)
    script = f"import urllib.request as u; assert len(u.urlopen('http://{far.address}:8000/megabyte').read()) == 1 << 20"

    def seconds() -> float:
        start = time.monotonic()
        near.run([sys.executable, "-c", script])
        return time.monotonic() - start

    before = far.pids()
    far.slow_down(4000)
    assert seconds() > 1.5  # 8.4 megabits, of which 64 KiB go at full speed
    far.cut_off()
    assert not reaches(near, far.address) and far.pids() == before
    far.bring_back()
    assert reaches(near, far.address, timeout_s=10.0) and far.pids() == before
    assert "tbf" not in far.run(["tc", "qdisc"]).stdout + near.run(["tc", "qdisc"]).stdout
    seconds()
    with pytest.raises(UserError, match="8 or more"):
        far.slow_down(1)


def test_a_host_is_shut_down_and_killed(bare: LocalCluster) -> None:
    host = bare.add_host("host")
    ended = telling(host)
    host.stop()
    assert ended.exists() and not host.pids()
    with pytest.raises(UserError, match="host 'host' is off"):
        host.run(["true"])
    host.bring_back()
    ended = telling(host, name="killed")
    host.kill()
    assert not ended.exists() and not host.pids()
    host.bring_back()
    assert host.run(["hostname"]).stdout.strip() == "host"


def test_processes_on_loopback_are_killed_and_have_no_link() -> None:
    with LocalCluster(LocalClusterOptions(workers=0, loopback=True), with_ray=False) as cluster:
        first, second = cluster.add_host("first"), cluster.add_host("second")
        listening(first)
        telling(second)
        first.kill()
        assert not first.pids() and len(second.pids()) == 1
        for fail, what in ((second.cut_off, "cut off"), (lambda: second.slow_down(1000), "slowed down")):
            with pytest.raises(UserError, match=f"host 'second' cannot be {what}: .* be root"):
                fail()
    assert not second.pids() and not left_of(cluster.name)


def test_who_is_not_root_has_loopback_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with LocalCluster(LocalClusterOptions(workers=0), with_ray=False) as cluster:
        assert isinstance(cluster.add_host("host"), LoopbackHost)
        assert cluster.lacks_hosts == "that needs root"


@pytest.mark.faults
@pytest.mark.parametrize("place", ["hosts", "loopback"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_driver_ends(place: str, number: signal.Signals, request: pytest.FixtureRequest) -> None:
    if place == "hosts":
        request.getfixturevalue("hosts_possible")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, place], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert driver.stdout is not None
    name, *pids = driver.stdout.readline().split()
    assert left_of(name) and set(map(int, pids)) <= set(processes())
    driver.send_signal(number)
    driver.wait(timeout=30)
    if number == signal.SIGKILL:
        remove_leftovers()  # as the next cluster does
    assert not left_of(name) and wait_until(lambda: not set(map(int, pids)) & set(processes()), 10.0)


def test_nothing_is_left_when_a_part_does_not_start(hosts_possible: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: servers.Bucket, host: Host) -> None:
        listening(host)
        raise UserError("it does not")

    monkeypatch.setattr(servers.Bucket, "start", fail)
    cluster = LocalCluster(LocalClusterOptions(s3=True))
    with pytest.raises(UserError, match="it does not"):
        cluster.__enter__()
    assert not left_of(cluster.name) and not cluster.hosts[0].pids()


@pytest.mark.parametrize(("option", "value"), [("workers", -1), ("workers", 91), ("cpus", 0)])
def test_numbers_that_cannot_be_are_refused(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{option} {value} is too"):
        LocalClusterOptions(**{option: value})


@pytest.mark.faults
def test_ray_refuses_who_has_no_token_on_every_port(cluster: LocalCluster) -> None:
    stranger, token = cluster.hosts[-1], cluster.variables["RAY_AUTH_TOKEN_PATH"]
    assert os.stat(token).st_mode & 0o777 == 0o600
    # Workers and drivers have ports, too.
    actor = "ray.remote(type('A', (), {})).options(name=name, num_cpus=1, lifetime='detached').remote()"
    script = f"import ray; ray.init(log_to_driver=False); ray.get([{actor}.__ray_ready__.remote() for name in 'abc'])"
    cluster.head.run([sys.executable, "-c", script], variables={"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}"})
    for node in (cluster.head, *cluster.workers):
        without = probed(stranger, node)
        assert any(10002 <= port <= 19999 for port in without)
        # For Prometheus, which has no token: figures, and nothing else is there.
        figures = {port for port, answer in without.items() if answer == "200 metrics"}
        assert len(figures) == (3 if node is cluster.head else 1)
        let_in = {port: answer for port, answer in without.items() if port not in figures and answer not in ("401", "UNAUTHENTICATED")}
        assert not let_in, node.run(["ss", "-ltnp"]).stdout
        knowing = probed(cluster.head, node, token)
        assert not {"401", "403", "UNAUTHENTICATED"} & set(knowing.values()), knowing
    assert not reaches(stranger, cluster.head.address, cluster.ray.dashboard_port)
    assert reaches(cluster.head, "127.0.0.1", cluster.ray.dashboard_port)


@pytest.mark.faults
def test_the_bucket_serves_a_storage_root(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.bucket is not None
    for name, value in cluster.bucket.variables.items():
        monkeypatch.setenv(name, value)
    root = Storage(f"{cluster.bucket.storage}/below")
    root.check_writable()
    data = bytes(range(256)) * 4096
    root.write_bytes("folder/large", data)
    root.write_bytes("folder/deeper/small", b"small")
    assert root.read_bytes("folder/large") == data and root.size("folder/large") == len(data)
    with root.open_input("folder/large") as stream:
        stream.seek(1000)
        assert stream.read(100) == data[1000:1100]
    assert root.list("folder") == ["deeper", "large"]
    assert {(entry.path, entry.size) for entry in root.files()} == {("folder/large", len(data)), ("folder/deeper/small", 5)}
    root.delete("folder")
    assert not root.exists("folder/large") and list(root.files()) == []
    answers = probed(cluster.hosts[-1], cluster.host_of(cluster.bucket))
    assert sorted(answers.values()) == ["403", "UNIMPLEMENTED"]  # S3, and its own gRPC, which has none of Ray's calls
    cluster.host_of(cluster.bucket).kill()
    cluster.host_of(cluster.bucket).bring_back()
    root.write_bytes("again", b"")
    assert root.list() == ["again"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "wrong")
            with pytest.raises(UserError, match=r"cannot be written .* check the bucket's name, its region and your credentials"):
                Storage(cluster.bucket.storage).check_writable()


@pytest.mark.faults
def test_mlflow_wants_a_login(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.mlflow is not None
    host = cluster.host_of(cluster.mlflow)
    on_postgres = any(line.startswith("postgres:") for line in host.pids().values())
    assert on_postgres == (servers.lacks_postgres() is None)
    assert [place for place in host.open_ports() if place[0] != "127.0.0.1"] == [(host.address, 5000)]
    for name, value in cluster.mlflow.variables.items():
        monkeypatch.setenv(name, value)
    check_reachable(cluster.mlflow.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(UserError, match=r"refuses the call \(401"):
        check_reachable(cluster.mlflow.uri)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(UserError, match=r"refuses the call \(401"):
        check_reachable(cluster.mlflow.uri)


@pytest.mark.faults
def test_a_job_finds_all_that_the_cluster_has(cluster: LocalCluster) -> None:
    assert cluster.bucket is not None and cluster.mlflow is not None
    script = "import os; print(*sorted({'AWS_ENDPOINT_URL', 'MLFLOW_TRACKING_URI'} & set(os.environ)), os.getcwd())"
    job = ["job", "submit", "--", "python", "-c", script]
    words = [sys.executable, "-m", "ray.scripts.scripts", *job]
    done = cluster.head.run(words, variables={"RAY_ADDRESS": cluster.ray.dashboard}, timeout_s=200.0)
    assert f"AWS_ENDPOINT_URL MLFLOW_TRACKING_URI {ROOT}" in done.stdout
    told = "\n".join(cluster.told())
    assert cluster.bucket.endpoint in told and cluster.mlflow.uri in told and f"export RAY_ADDRESS={cluster.ray.dashboard}" in told
    assert "job submit -- python pipelines/train_all.py --storage s3://pixelmodels --num-workers 2" in told


@pytest.mark.faults
def test_a_checkout_travels_with_a_job(cluster: LocalCluster) -> None:
    """As `ray job submit --working-dir .` sends it: every node runs its code, not what is installed, and keys stay at home."""
    checkout = cluster.folder / "checkout"
    for name in ("pixelmodels", "pipelines", "tune_spaces"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".rayignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "pixelmodels" / "travelled.py").write_text("FAR = 'indeed'\n")
    (checkout / "my_auth_token").write_text("secret")
    (checkout / "storage").mkdir()
    (checkout / "storage" / "large").write_bytes(bytes(1 << 20))
    script = """
import os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False)
def seen():
    from pixelmodels import preflight, travelled
    return ray.util.get_node_ip_address(), travelled.FAR, sorted(os.listdir()), preflight.versions()["pixelmodels' code"]
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
far = ray.remote(num_cpus=0)(seen)
for found in [seen(), *ray.get([far.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes])]:
    print("seen", *found, flush=True)
"""
    (checkout / "look.py").write_text(script)
    words = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".", "--", "python", "look.py"]
    done = cluster.head.run(words, variables={"RAY_ADDRESS": cluster.ray.dashboard}, timeout_s=200.0, folder=checkout)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("seen ")]
    assert {line[1] for line in lines} == {node.address for node in (cluster.head, *cluster.workers)} and len(lines) == 4
    told = {line[2] for line in lines}
    assert len(told) == 1 and told.pop().startswith(
        "indeed ['.gitignore', '.rayignore', 'look.py', 'pipelines', 'pixelmodels', 'pyproject.toml', 'tune_spaces'] "
    )


@pytest.mark.faults
def test_ray_notices_hosts_that_are_killed_cut_off_and_back(cluster: LocalCluster) -> None:
    first, second = cluster.workers

    def ids(host: Host) -> list[str]:
        return [node for node, address in cluster.alive().items() if address == host.address]

    killed, kept = ids(first), ids(second)
    assert len(killed) == len(kept) == 1
    first.kill()
    assert wait_until(lambda: not ids(first), 60.0)
    first.bring_back()
    assert len(ids(first)) == 1 and ids(first) != killed and ids(second) == kept
    second.cut_off()
    time.sleep(0.5)  # shorter than Ray waits
    second.bring_back()
    assert ids(second) == kept
    second.cut_off()
    assert wait_until(lambda: not ids(second), 60.0)
    assert second.pids()
    second.bring_back()
    assert wait_until(lambda: len(ids(second)) == 1, 60.0) and ids(second) != kept
    first.stop()
    assert wait_until(lambda: not ids(first), 60.0)


def test_ray_notices_a_host_that_is_killed_and_back(hosts_possible: None) -> None:
    """The least of the faults, for who does not run the others."""
    with LocalCluster(LocalClusterOptions(workers=1, cpus=1), variables=IMPATIENT) as cluster:
        (worker,) = cluster.workers
        assert set(cluster.alive().values()) == {cluster.head.address, worker.address}
        worker.kill()
        assert wait_until(lambda: set(cluster.alive().values()) == {cluster.head.address}, 120.0)
        worker.bring_back()
        assert wait_until(lambda: set(cluster.alive().values()) == {cluster.head.address, worker.address}, 120.0)


@pytest.mark.faults
def test_raylets_on_loopback_are_noticed_dead_and_leave_nothing() -> None:
    with LocalCluster(LocalClusterOptions(workers=1, loopback=True), variables=IMPATIENT) as cluster:
        worker = cluster.workers[0]
        with socket.create_connection((cluster.head.address, cluster.ray.port), timeout=5):
            assert sorted(cluster.alive().values()) == [cluster.head.address, worker.address]
        worker.kill()
        assert wait_until(lambda: list(cluster.alive().values()) == [cluster.head.address], 60.0)
        worker.bring_back()
        assert len(cluster.alive()) == 2
        assert next(cluster.told()).startswith("raylets on loopback, not hosts of their own (--loopback is given)")
    assert not left_of(cluster.name)
    open_there = [pid for pid in processes() if _opens(pid, f"/tmp/{cluster.name}/")]
    assert open_there == []


def _opens(pid: int, folder: str) -> bool:
    """Whether a process has a file below a folder open."""
    try:
        return any(os.readlink(link).startswith(folder) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
