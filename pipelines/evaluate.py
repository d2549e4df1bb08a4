"""Score a trained model on a prepared data set: `python pipelines/evaluate.py --help`."""

from __future__ import annotations

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.evaluation.evaluate import Evaluate, evaluate
from pixelmodels.evaluation.explanation_page import PAGE
from pixelmodels.evaluation.probes import print_probes


def main(argv: list[str] | None = None) -> int:
    """Print bits/dim with its standard error, the probes where they are asked for, and where the rest is; status 0."""
    options = parse(Evaluate, argv)
    found = evaluate(options)
    scores = found.scores
    bits_per_dim = f"{scores.bits_per_dim:z.4f} +- {scores.bits_per_dim_stderr:z.4f} bits/dim"
    print(f"{bits_per_dim}, {scores.nll_nats:z.2f} nats an image, {found.num_images} images")
    if found.probe:
        print_probes(found.probe, found.probe_title)
    if options.explain is not None:
        print(f"what the model expects: {found.folder}/{PAGE}")
    print(found.folder)
    return 0


if __name__ == "__main__":
    exit_with(main)
