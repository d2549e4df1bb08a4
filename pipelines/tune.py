"""Search for a better recipe: `python pipelines/tune.py --help`."""

from __future__ import annotations

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.tuning.options import Tune
from pixelmodels.tuning.tune import tune
from tune_spaces import SPACES


def main(argv: list[str] | None = None) -> int:
    """Print where the best recipe is; status 1 when no trial has a score."""
    best_file = tune(parse(Tune, argv), SPACES)
    if best_file is not None:
        print(best_file)
    return 0 if best_file is not None else 1


if __name__ == "__main__":
    exit_with(main)
