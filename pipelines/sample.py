"""Draw samples of a trained model: `python pipelines/sample.py --help`."""

from __future__ import annotations

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.training.sample_run import Sample, draw_samples


def main(argv: list[str] | None = None) -> int:
    """Print where the files are, `--out` last; status 0."""
    for path in draw_samples(parse(Sample, argv)):
        print(path)
    return 0


if __name__ == "__main__":
    exit_with(main)
