"""The `python` of the workshop: `quick_python.py REAL_PYTHON ARGUMENTS...`; see `workshop.py`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

STATE = Path(os.environ.get("PIXELMODELS_DOCS", "."))
# What is added to a command's flags: the last one given counts. A function of the flags that are there.
PORT = os.environ.get("PIXELMODELS_DOCS_PORT", "8000")
MODELS = {"digits": "gated_pixelcnn", "digits_by_class": "gated_pixelcnn_by_class"}
READY_S = 180
NEWEST = "newest"  # file of the state: the model that was last trained, or was asked to be
_TRAINED = re.compile(r": finished.*; it is (\S+?)(?:;|$)", re.MULTILINE)


def quick(program: str, words: list[str]) -> list[str]:
    """The quick settings of a command."""
    if program == "train_all.py":
        suite = words[words.index("--suite") + 1] if "--suite" in words else "digits"
        one = [] if {"--only", "--recipe-file"} & set(words) or suite not in MODELS else ["--only", MODELS[suite]]
        return ["--epochs", "1", *one]
    if program == "tune.py":
        return ["--num-samples", "1", "--epochs", "1"]
    if program == "sample.py":
        return ["--n", "4"] if "--n" in words and int(words[words.index("--n") + 1]) > 16 else []
    if program == "promote.py":
        return [] if "--rollback" in words else ["--probes", "1", "--rescore", "16", "--resamples", "400"]
    if program == "serve.py" and "--new-key" not in words:
        return ["--port", PORT, "--replicas", "1"]
    return []


def main(real: str, words: list[str]) -> int:
    """Run a command, or tell again what it told; status as its own."""
    at = next((number for number, word in enumerate(words) if word.startswith("pipelines/")), None)
    program = "" if at is None else Path(words[at]).name
    flags = words + ([] if "--help" in words else quick(program, words))
    if not program:
        os.execv(real, [real, *words])
    if program == "serve.py" and "--new-key" not in words:
        return serve([real, *flags])
    known = STATE / hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:16]
    if not known.exists():
        done = subprocess.run([real, *flags], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(done.stdout, end="")
            return done.returncode
        known.write_text(done.stdout)
    told = known.read_text()
    if program == "train_all.py" and (trained := _TRAINED.findall(told)):
        (STATE / NEWEST).write_text(trained[-1])
    print(told, end="")
    return 0


def serve(command: list[str]) -> int:
    """Start the service beside what follows, in place of another one, and wait until it answers; it ends with the workshop."""
    record = STATE / "service.json"
    if record.exists():
        earlier = json.loads(record.read_text())
        if earlier["command"] == command:
            return 0
        end(record)
    with (STATE / "service.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    record.write_text(json.dumps({"command": command, "pid": process.pid}))
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5):
                return 0
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    print((STATE / "service.log").read_text())
    return 1


def end(record: Path) -> None:
    """End the service that a record tells of, and wait for its end."""
    pid = json.loads(record.read_text())["pid"]
    record.unlink()
    try:
        os.kill(pid, signal.SIGTERM)
        for _ in range(600):
            os.kill(pid, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
