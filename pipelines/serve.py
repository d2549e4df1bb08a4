"""Serve trained models over HTTP: `python pipelines/serve.py --help`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.serving import keys, serve
from pixelmodels.serving.ending import Ending, say

DIGITS = "digits"  # data set and model that can be trained from nothing
EPOCHS = 5


def train(storage: str) -> None:
    """Train and register a model of the digits, in a process (and a Ray) of its own; raises `UserError` where that fails."""
    program = Path(__file__).with_name("train_all.py")
    flags = ["--suite", DIGITS, "--only", "gated_pixelcnn", "--epochs", str(EPOCHS), "--storage", storage]
    if subprocess.run([sys.executable, str(program), *flags]).returncode:
        raise UserError("the training failed (see above); train a model with pipelines/train_all.py, or give --model")


def main(argv: list[str] | None = None) -> int:
    """Serve until ctrl-c; status 0 when every request that was begun was finished, else 1."""
    options = parse(serve.Serve, argv)
    if options.new_key:
        key = keys.new_key()
        print(f"key, for those who ask: {key}\nhash, for --api-keys:   {keys.hash_of(key)}")
        return 0
    settings = options.settings()
    if options.train and options.model == DIGITS and not serve.has_model(settings):
        print(f"no model '{DIGITS}' is registered in {settings.storage}: training a small one first, for {EPOCHS} epochs", flush=True)
        train(settings.storage)
    model, why, settings = serve.check_model(settings)
    if why:
        print(why, flush=True)
    port = serve.free_port(options.host, options.port)
    ending = Ending(settings.drain_s + serve.ENDS_S)
    with ending.kept_from_children():
        serve.connect(settings)
    print(f"starting samplers of {model}", flush=True)
    handle = serve.start(settings, options.host, port)
    ending.is_up = True
    print(serve.greeting(options.host, port, needs_key=bool(settings.key_hashes)), flush=True)
    ending.wait()
    say("\nfinishing what was begun; no new requests are taken", sys.stdout)
    finished = serve.stop(handle, settings.drain_s)
    if not finished:
        say("some requests were not finished in time", sys.stderr)
    return 0 if finished else 1


if __name__ == "__main__":
    exit_with(main)
