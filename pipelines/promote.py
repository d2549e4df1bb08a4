"""Make a registered version champion, if it is sound and better: `python pipelines/promote.py --help`."""

from __future__ import annotations

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.promotion.options import Promote
from pixelmodels.promotion.promote import promote
from pixelmodels.promotion.report import summary


def main(argv: list[str] | None = None) -> int:
    """Print what was decided and why; status 0 when the champion was moved (or would be, in a dry run), 1 when it was refused."""
    options = parse(Promote, argv)
    decision = promote(options)
    print(summary(decision, dry_run=options.dry_run))
    if options.dry_run:
        print("  dry run: nothing was changed")
    if decision.unreported:
        print(f"  report not written, the decision stands: {decision.unreported}")
    elif decision.run_id is not None:
        print(f"  report: MLflow run {decision.run_id}")
    return 1 if decision.outcome == "refused" else 0


if __name__ == "__main__":
    exit_with(main)
