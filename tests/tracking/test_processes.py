"""Several processes write to one SQLite database that none of them has made before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from tests.tracking.conftest import model_files

NUM_PROCESSES, NUM_STEPS = 3, 25
PROGRAM = """
import json
import sys
from pathlib import Path
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker

root, model, number = sys.argv[1:]
tracker = Tracker(Storage(root))
run_id = tracker.start_or_resume_child(f"model {number}", parent_run_id=None, run_key=number, params={"number": number})
for step in range(NUM_STEPS):
    tracker.log_metrics(run_id, {"val/bits_per_dim": float(step), "number": float(number)}, step)
version = tracker.register(run_id, Path(model), "together")
tracker.finish(run_id)
print(json.dumps({"run_id": run_id, "version": version}))
""".replace("NUM_STEPS", str(NUM_STEPS))


def test_processes_make_the_database_and_write_to_it_at_once(tmp_path: Path) -> None:
    _, folder = model_files(tmp_path / "model")
    root = tmp_path / "storage"
    root.mkdir()
    for left_by_a_killed_process in (".mlflow.db.making", ".mlflow.db.making-journal"):
        (root / left_by_a_killed_process).write_bytes(b"half a database" * 99)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(root), str(folder), str(number)],
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
    assert sorted(one["version"] for one in told) == ["1", "2", "3"]
    client = Tracker(Storage(str(root))).client
    for number, one in enumerate(told):
        run = client.get_run(one["run_id"])
        assert run.info.status == "FINISHED" and run.data.params == {"number": str(number)}
        history = client.get_metric_history(one["run_id"], "val/bits_per_dim")
        assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(NUM_STEPS)]
        assert client.get_model_version("together", one["version"]).run_id == one["run_id"]
    assert len(client.search_runs([run.info.experiment_id])) == NUM_PROCESSES
