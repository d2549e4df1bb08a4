"""Train every model of a suite, and compare them: `python pipelines/train_all.py --help`."""

from __future__ import annotations

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.training.dry_run import dry_run
from pixelmodels.training.options import TrainAll
from pixelmodels.training.train_all import train_all


def main(argv: list[str] | None = None) -> int:
    """Status 0 when every model was trained, 1 when one failed; with --dry-run nothing is trained."""
    options = parse(TrainAll, argv)
    if options.dry_run:
        dry_run(options)
        return 0
    outcome = train_all(options)
    print(outcome.leaderboard)
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    exit_with(main)
