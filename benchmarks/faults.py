"""What a fault costs a training on a cluster: seconds until it trains again, work done twice, metrics that are lost or doubled.

    python -m benchmarks.faults                                    # all faults, about an hour; goes on where it was stopped
    python -m benchmarks.faults --only node_killed --times 1       # one of them, once: 3 minutes with the start of the cluster

A cluster of a head and two workers, each a host of its own in network namespaces (`cluster/local_cluster.py`: Linux, root), with an S3
server and MLflow on PostgreSQL. A small net trains on the digits in two workers, submitted as a job, and a fault happens in the middle
of an epoch:

    worker_killed     a training worker's process is killed
    node_killed       a node is killed on which a worker trains
    node_cut_off      such a node is cut off, and runs on
    helpers_killed    the processes that bring the run's lines to the terminal are killed
    driver_killed     the job's own process is killed, and the same command is submitted again
    head_restarted    the head is killed and started again, its nodes join it, and the same command is submitted again
    node_taken_away   a node's cloud tells it that it will be taken away in 60 s (a spot notice), and then it is
    mlflow_away       the MLflow server is cut off for a minute
    service_node_killed   a host with one of two samplers is killed while clients ask the service (a cluster of its own)

`back_s` is from the fault to the first line of an epoch that was trained after it; `repeated` counts runs that went on from an older
checkpoint than the newest one that was whole when the fault came; `lost` and `doubled` count epochs that MLflow has not, or twice,
`open` MLflow runs of its own that were left open; `same_bits` is whether the test's nats are those of a run without a fault to the last
bit (the number of workers is two at both ends). Of the service `lost` counts
requests that got neither their images nor a reason. The last thing printed is one JSON object; it is written to `benchmarks/results/`
with the date after each fault.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.service_faults import service_node_killed, started_service
from cluster import network, servers
from cluster.hosts import Host, wait_until
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, check_at_least, exit_with, unknown
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.files import recipe_text
from pixelmodels.recipes.suites import suite
from pixelmodels.runs import checkpoints
from pixelmodels.runs.result import RUNS, RunResult, finished
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.source import git_state

RESULTS = Path(__file__).parent / "results"
SERVICE = "service_node_killed"
# How often each fault is measured, and the seconds within which the median has to train again.
FAULTS = {
    "worker_killed": (5, 60),
    "node_killed": (5, 60),
    "node_cut_off": (5, 120),
    "helpers_killed": (2, 0),
    "driver_killed": (2, 120),
    "head_restarted": (2, 180),
    "node_taken_away": (2, 60),
    "mlflow_away": (2, 0),
    SERVICE: (2, 120),
}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
EPOCHS = {"mlflow_away": 60}  # of the training: it has to outlast the fault
OTHER_EPOCHS = 16
FAULT_AFTER = 4  # epochs that are whole when the fault comes
# What tells a machine of Amazon's about itself: a token for who asks for one, and a notice once a file has it.
CLOUD = """
import http.server, os, sys
class Cloud(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        self.answer(200, b"token")
    def do_GET(self):
        known = self.headers["X-aws-ec2-metadata-token"] == "token" and self.path == "/latest/meta-data/spot/instance-action"
        there = known and os.path.exists(sys.argv[2])
        self.answer(200, open(sys.argv[2], "rb").read()) if there else self.answer(404, b"")
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Cloud).serve_forever()
"""
_PATIENCE_S = 600.0
_EPOCH = re.compile(r"\bepoch (\d+)/\d+  train")
_GOING_ON = re.compile(r"going on from step (\d+)")
_ENDED = re.compile(r"^(\d+ (trained|finished before|failed).*) in ")


@dataclasses.dataclass(frozen=True)
class FaultOptions:
    """Measure what faults cost a training on a cluster of hosts on this machine."""

    only: tuple[str, ...] = ()  # faults to measure; all unless given
    times: int | None = None  # how often each; as often as is said above unless given
    fresh: bool = False  # measure again what today's file has already
    output: str | None = None  # the file that results go to; benchmarks/results/faults-DATE.json unless given

    def __post_init__(self) -> None:
        check_at_least(self, times=1)
        for name in self.only:
            if name not in FAULTS:
                raise unknown("fault", name, FAULTS)


class Job:
    """A training that is submitted to a cluster as a job: its lines, with the moment at which each was seen, and its files."""

    def __init__(self, cluster: LocalCluster, name: str, *, num_workers: str = "2", epochs: int = OTHER_EPOCHS) -> None:
        assert cluster.bucket is not None
        self.cluster, self.name, self.epochs = cluster, name, epochs
        self.storage = Storage(f"{cluster.bucket.storage}/{name}")
        self.lines: list[tuple[float, str]] = []
        self._log: Path | None = None
        self._read, self._attempt = 0, 0
        self.began_ms = int(1000 * time.time())
        recipe_file = cluster.folder / f"{name}.yaml"
        recipe_file.write_text(recipe_text(_recipe(epochs)))
        recipe_file.chmod(0o644)
        words = f"pipelines/train_all.py --recipe-file {recipe_file} --storage {self.storage.root} --num-workers {num_workers}"
        self.command = ["python", *words.split(), "--checkpoint-every-s", "2", "--max-failures", "5"]

    def submit(self) -> None:
        """Submit the command; once more after a driver that ended."""
        self._attempt += 1
        job = f"{self.name}-{self._attempt}"
        words = [*RAY, "job", "submit", "--no-wait", "--submission-id", job, "--", *self.command]
        self.cluster.head.run(words, variables={"RAY_ADDRESS": self.cluster.ray.dashboard}, timeout_s=_PATIENCE_S)
        self._log, self._read = self.cluster.head.folder / "ray" / "session_latest" / "logs" / f"job-driver-{job}.log", 0

    def seen(self) -> int:
        """How many lines there are by now."""
        self._poll()
        return len(self.lines)

    def wait_for(self, pattern: re.Pattern[str], since: int = 0) -> tuple[int, float, re.Match[str]]:
        """Wait for a line: its number, when it was seen, and what matched. Raises `RuntimeError` where the job ends, or is silent."""
        give_up, begin = time.monotonic() + _PATIENCE_S, since
        while time.monotonic() < give_up:
            self._poll()
            for number, (seen, line) in enumerate(self.lines[begin:], begin):
                found = pattern.search(line)
                if found is not None:
                    return number, seen, found
                if _ENDED.search(line) or line.startswith("error:"):
                    raise RuntimeError(f"the job ended without a line like {pattern.pattern!r}; its last lines:\n{self.tail()}")
            begin = len(self.lines)
            time.sleep(0.1)
        raise RuntimeError(f"no line like {pattern.pattern!r} within {_PATIENCE_S:.0f} s; the job's last lines:\n{self.tail()}")

    def wait_for_epoch(self, number: int, since: int = 0) -> tuple[int, float]:
        """Wait until an epoch is whole: the number of the first line that tells of it or a later one, and when that was seen."""
        at = since
        while True:
            at, seen, found = self.wait_for(_EPOCH, at)
            if int(found[1]) >= number:
                return at, seen
            at += 1

    def end(self) -> RunResult:
        """Wait for the job's end, and return what came of the run."""
        self.wait_for(_ENDED)
        result = finished(self.storage, self.folder)
        if result is None:
            raise RuntimeError(f"the run has no result; the job's last lines:\n{self.tail()}")
        return result

    def tail(self, count: int = 12) -> str:
        """The last lines."""
        return "\n".join(line for _, line in self.lines[-count:])

    @property
    def folder(self) -> str:
        """The run's folder below the storage root."""
        (name,) = [name for name in self.storage.list(RUNS) if name.startswith("faults-")]
        return f"{RUNS}/{name}"

    def newest(self) -> int:
        """The step of the newest checkpoint."""
        return max(checkpoints.steps(self.storage, self.folder), default=0)

    def watch(self, seconds: float) -> None:
        """See the lines of some seconds as they come."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._poll()
            time.sleep(0.1)

    def _poll(self) -> None:
        if self._log is None or not self._log.exists():
            return
        with open(self._log, errors="replace") as stream:
            stream.seek(self._read)
            text = stream.read()
        whole, mark, _ = text.rpartition("\n")
        if mark:
            self._read += len((whole + mark).encode(errors="replace"))
            self.lines += [(time.monotonic(), line) for line in whole.split("\n")]


def _recipe(epochs: int) -> Any:
    """A small net with dropout: some seconds an epoch on two workers."""
    recipe = next(one for one in suite("digits") if one.name == "pixelcnn")
    model = PixelCNNConfig(num_layers=2, num_features=16, first_kernel_size=5, head_features=16, dropout=0.2)
    return dataclasses.replace(recipe, name="faults", model=model, epochs=epochs, patience=0, batch_size=16, num_samples=0)


# ---- the faults, each done to a job that trains


def worker_killed(job: Job) -> None:
    """Kill a training worker's process."""
    _, pid = next(training_workers(job.cluster))
    os.kill(pid, signal.SIGKILL)


def node_killed(job: Job) -> None:
    """Kill a node on which a worker trains; not the head."""
    _training_node(job.cluster).kill()


def node_cut_off(job: Job) -> None:
    """Cut such a node off."""
    _training_node(job.cluster).cut_off()


def helpers_killed(job: Job) -> None:
    """Kill the driver's helper actors, beside it on the head."""
    helpers = [pid for pid, line in job.cluster.head.pids().items() if re.match(r"ray::(Lines|Verdicts)\b", line)]
    if not helpers:
        raise RuntimeError(f"the driver has no helpers: {sorted(job.cluster.head.pids().values())}")
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)


def driver_killed(job: Job) -> None:
    """Kill the job's process, and submit the same command again."""
    drivers = [pid for pid, line in job.cluster.head.pids().items() if re.match(r"\S*python\S* pipelines/train_all.py", line)]
    for pid in drivers:
        os.kill(pid, signal.SIGKILL)
    job.submit()


def head_restarted(job: Job) -> None:
    """Kill the head, start it again, have its nodes join it, and submit the same command again."""
    cluster = job.cluster
    cluster.head.kill()
    cluster.head.bring_back()
    for worker in cluster.workers:
        worker.kill()  # as whoever restarts a head restarts its nodes: they belong to the one before
        worker.bring_back()
    job.submit()


def node_taken_away(job: Job) -> None:
    """Have its cloud tell a node that it will be taken away in 60 s (`cluster/notice.py` hears it there), and take it away then."""
    cluster, host = job.cluster, _training_node(job.cluster)
    since, notice, port = len(job.lines), host.folder / f"notice-{len(job.lines)}-{job.name}", host.free_port(8169)
    host.spawn([sys.executable, "-c", CLOUD, str(port), str(notice)], host.folder / "cloud.log")
    hears = [sys.executable, "cluster/notice.py", f"{cluster.head.address}:{cluster.ray.port}"]
    host.spawn([*hears, "--metadata", f"http://127.0.0.1:{port}"], host.folder / "notice.log")
    told = time.monotonic()
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    notice.write_text(json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}))
    job.wait_for(_GOING_ON, since)  # what follows the checkpoint
    job.watch(told + 60 - time.monotonic())
    host.kill()


def mlflow_away(job: Job) -> None:
    """Cut the MLflow server off for a minute."""
    assert job.cluster.mlflow is not None
    host = job.cluster.host_of(job.cluster.mlflow)
    host.cut_off()
    job.watch(60)
    host.bring_back()


DOING: dict[str, Callable[[Job], None]] = {
    function.__name__: function
    for function in (worker_killed, node_killed, node_cut_off, helpers_killed, driver_killed, head_restarted, node_taken_away, mlflow_away)
}
KEEPS_TRAINING = ("helpers_killed", "mlflow_away")


def training_workers(cluster: LocalCluster) -> Iterator[tuple[Host, int]]:
    """Host and process id of each worker that trains, those of other nodes than the head first."""
    for host in (*cluster.workers, cluster.head):
        for pid, line in host.pids().items():
            if line.startswith("ray::") and "TrainWorker" in line:
                yield host, pid


def _training_node(cluster: LocalCluster) -> Host:
    host, _ = next(training_workers(cluster))
    if host is cluster.head:
        raise RuntimeError("all workers train on the head")
    return host


# ---- what a fault cost


def measure(job: Job, fault: str) -> dict[str, Any]:
    """Train with a fault in the middle of an epoch; what it cost."""
    job.submit()
    job.wait_for_epoch(FAULT_AFTER)
    time.sleep(0.3)  # into the next one
    newest, began, since = job.newest(), time.monotonic(), job.seen()
    DOING[fault](job)
    found: dict[str, Any] = {}
    if fault in KEEPS_TRAINING:
        _, seen = job.wait_for_epoch(1, since)
        found["back_s"] = round(seen - began, 1)
    else:
        at, _, going_on = job.wait_for(_GOING_ON, since)
        _, seen = job.wait_for_epoch(1, at)
        found["back_s"] = round(seen - began, 1)
        found["repeated"] = int(newest > int(going_on[1]))
    result = job.end()
    if fault in KEEPS_TRAINING:
        found["repeated"] = sum(bool(_GOING_ON.search(line)) for _, line in job.lines)
    return {**found, **told_by_mlflow(job), "num_workers": result.num_workers, "test_nll_nats": result.test_nll_nats}


def told_by_mlflow(job: Job) -> dict[str, int]:
    """Epochs that MLflow lacks or has twice, and runs of the job that are open still."""
    tracker = Tracker(job.storage)
    result = finished(job.storage, job.folder)
    assert result is not None and result.mlflow_run_id is not None
    steps = [point.step for point in tracker.client.get_metric_history(result.mlflow_run_id, "val/bits_per_dim")]
    still = tracker.client.search_runs(
        [tracker.experiment_id], f"attributes.status = 'RUNNING' and attributes.start_time >= {job.began_ms}"
    )
    return {"lost": len(set(range(1, job.epochs + 1)) - set(steps)), "doubled": len(steps) - len(set(steps)), "open": len(still)}


@contextmanager
def started_cluster() -> Iterator[LocalCluster]:
    """A head, two workers, a bucket and an MLflow server; this process knows both, too. Raises `UserError` where there cannot be one."""
    for reason in (network.lacks(), servers.lacks_bucket()):
        if reason is not None:
            raise UserError(f"faults need hosts of their own and an S3 server, and here they cannot be: {reason}")
    with LocalCluster(LocalClusterOptions(workers=2, s3=True, mlflow=True)) as cluster:
        assert cluster.bucket is not None and cluster.mlflow is not None
        ours = cluster.bucket.variables | cluster.mlflow.variables
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield cluster
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def make_whole(cluster: LocalCluster) -> None:
    """Bring back what a fault took away, and wait until all nodes are there."""
    for host in cluster.hosts:
        host.bring_back()
    wanted = sorted(host.address for host in (cluster.head, *cluster.workers))
    if not wait_until(lambda: sorted(cluster.alive().values()) == wanted, 120.0):
        raise RuntimeError(f"nodes at {wanted} were to be there, and there are {cluster.alive()}")


def main(argv: list[str] | None = None) -> int:
    """Measure all faults that are asked for and not measured yet today; status 1 where a goal is missed."""
    options = parse(FaultOptions, argv)
    path = Path(options.output or RESULTS / f"faults-{datetime.date.today()}.json")
    report = json.loads(path.read_text()) if path.exists() and not options.fresh else {}
    report.setdefault("machine", {"cores": num_cores(), "processor": platform.machine(), "python": platform.python_version()})
    measured: dict[str, list[dict[str, Any]]] = report.setdefault("measured", {})
    times = {name: options.times or FAULTS[name][0] for name in options.only or FAULTS}

    def keep(name: str, found: dict[str, Any]) -> None:
        measured.setdefault(name, []).append({**found, "commit": git_state()[0]})
        print(f"{name}: {found}", flush=True)
        report["summary"] = summary(measured)
        path.write_text(json.dumps(report, indent=1) + "\n")

    def left(name: str) -> range:
        return range(len(measured.get(name, [])), times.get(name, 0))

    if any(left(name) for name in DOING):
        with started_cluster() as cluster:
            for name in times:
                for number in left(name):
                    epochs = EPOCHS.get(name, OTHER_EPOCHS)
                    expected = report.setdefault(f"undisturbed, {epochs} epochs", {}) or undisturbed(cluster, epochs)
                    report[f"undisturbed, {epochs} epochs"] = expected
                    found = measure(Job(cluster, f"{name.replace('_', '-')}-{number}-{os.getpid()}", epochs=epochs), name)
                    keep(name, {**found, "same_bits": found["test_nll_nats"] == expected["test_nll_nats"]})
                    make_whole(cluster)
    if left(SERVICE):
        with started_service() as cluster:
            for _ in left(SERVICE):
                keep(SERVICE, service_node_killed(cluster))
                make_whole(cluster)
    report["summary"] = summary(measured)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["summary"]))
    return 0 if all(one["kept"] for one in report["summary"].values()) else 1


def undisturbed(cluster: LocalCluster, epochs: int) -> dict[str, Any]:
    """A training that nothing happens to."""
    job, began = Job(cluster, f"undisturbed-{epochs}", epochs=epochs), time.monotonic()
    job.submit()
    result = job.end()
    found = {"test_nll_nats": result.test_nll_nats, "seconds": round(time.monotonic() - began, 1), **told_by_mlflow(job)}
    print(f"undisturbed, {epochs} epochs: {found}", flush=True)
    return found


def summary(measured: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Median and worst of each fault, and whether it kept what it has to keep."""
    found = {}
    for name, times in measured.items():
        if not times:
            continue
        _, within_s = FAULTS[name]
        back = [one["back_s"] for one in times]
        sums = {what: sum(one.get(what, 0) for one in times) for what in ("repeated", "lost", "doubled", "open")}
        kept = (
            (not within_s or statistics.median(back) <= within_s)
            and not any(sums.values())
            and all(one.get("same_bits", True) for one in times)
        )
        times_s = {"back_s": statistics.median(back), "worst_s": max(back), "within_s": within_s}
        found[name] = {"times": len(times), **times_s, **sums, "kept": kept}
    return found


if __name__ == "__main__":
    exit_with(main)
