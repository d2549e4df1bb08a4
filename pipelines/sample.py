"""Draw samples of a trained model: `python pipelines/sample.py --help`."""

from __future__ import annotations

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.runs.loading import find_model
from pixelmodels.samples.sample import Sample, draw_samples
from pixelmodels.storage import Storage


def main(argv: list[str] | None = None) -> int:
    """Print where the files are, `--out` last; status 0."""
    options = parse(Sample, argv)
    storage = Storage(options.storage)
    for path in draw_samples(options, find_model(options.model, storage), storage):
        print(path)
    return 0


if __name__ == "__main__":
    exit_with(main)
