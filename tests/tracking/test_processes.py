"""Several processes write to one SQLite database that none of them has made before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pixelmodels.data import Dataset
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from tests.tracking.conftest import model_files

NUM_PROCESSES, NUM_STEPS = 2, 25
PROGRAM = """
import json
import sys
import time
from pathlib import Path
from sqlalchemy import Engine, event
from pixelmodels.data import Dataset
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry

root, model, number, manifest = sys.argv[1:]


@event.listens_for(Engine, "before_cursor_execute")
def insert_together(connection, cursor, statement, *arguments):
    # No process adds the data set before all have looked for it, and found nothing.
    here = Path(root) / f"inserting-{number}"
    if statement.startswith("INSERT INTO datasets") and not here.exists():
        here.touch()
        give_up_at = time.monotonic() + 100
        while len(list(Path(root).glob("inserting-*"))) < NUM_PROCESSES and time.monotonic() < give_up_at:
            time.sleep(0.01)


tracker = Tracker(Storage(root))
dataset = Dataset(tracker.storage, "datasets/tiny", json.loads(manifest))
run_id = tracker.start_or_resume_child(f"model {number}", parent_run_id=None, run_key=number, params={"number": number}, dataset=dataset)
for step in range(NUM_STEPS):
    tracker.log_metrics(run_id, {"val/bits_per_dim": float(step), "number": float(number)}, step)
version = registry.register(tracker, run_id, Path(model), "together")
tracker.finish(run_id)
print(json.dumps({"run_id": run_id, "version": version}))
""".replace("NUM_PROCESSES", str(NUM_PROCESSES)).replace("NUM_STEPS", str(NUM_STEPS))


def test_processes_make_the_database_and_write_to_it_at_once(tmp_path: Path, dataset: Dataset) -> None:
    _, folder = model_files(tmp_path / "model")
    root = tmp_path / "storage"
    root.mkdir()
    for left_by_a_killed_process in (".mlflow.db.making", ".mlflow.db.making-journal"):
        (root / left_by_a_killed_process).write_bytes(b"half a database" * 99)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(root), str(folder), str(number), json.dumps(dataset.manifest)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(NUM_PROCESSES)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
        assert errors == "", "a quiet program stays quiet"
    told = [json.loads(out) for out, _ in outputs]
    assert sorted(one["version"] for one in told) == [str(number + 1) for number in range(NUM_PROCESSES)]
    assert len(list(root.glob("inserting-*"))) == NUM_PROCESSES
    client = Tracker(Storage(str(root))).client
    for number, one in enumerate(told):
        run = client.get_run(one["run_id"])
        assert run.info.status == "FINISHED" and run.data.params == {"number": str(number)}
        assert [given.dataset.digest for given in run.inputs.dataset_inputs] == [dataset.fingerprint]
        history = client.get_metric_history(one["run_id"], "val/bits_per_dim")
        assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(NUM_STEPS)]
        assert client.get_model_version("together", one["version"]).run_id == one["run_id"]
    assert len(client.search_runs([run.info.experiment_id])) == NUM_PROCESSES
