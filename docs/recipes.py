"""Makes `docs/recipes.md` and, beside it, `recipes.json` with the activations' bytes, which take a few minutes to find.

python docs/recipes.py            # measure all
python docs/recipes.py --stored   # take the bytes of recipes.json, which do not change with words and assumptions
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from pixelmodels.recipes.papers import Published, PublishedData
from pixelmodels.recipes.suites import PUBLISHED, published
from pixelmodels.training.cost import GPU, HEADROOM, LAUNCH_S, PEAK_FLOPS, UTILIZATION, Activations, Cost, batch_of_a_part, cost

HERE = Path(__file__).parent
GIB, MIB = 1 << 30, 1 << 20
Find = Callable[[str, Published, PublishedData], Cost]  # of an entry, by its suite's name

_HEAD = f"""# Published recipes

Recipes with the hyperparameters of papers, as far as these give them. `pipelines/train_all.py --suite cifar10 --data-path FOLDER` trains
those of a suite; `--dry-run` says first what they cost on the cluster at hand. Made by `docs/recipes.py` from the models themselves.

- **Published**: the paper's test likelihood. *Unverified*: from memory, not read again in the source.
- **Parameters**: trained numbers here; in brackets those of the published model, where they are known.
- **GFLOPs an image**: one forward pass, of the operations that the masks keep. Training takes three times as many, four times with
  activations computed again.
- **MiB an image**: activations that autograd keeps for each image of a batch, in the recipe's precision.
- **GPU memory**: weights, gradients, moments and running average in float32, and the activations of the recipe's batch on one GPU
  ({HEADROOM} times, for what lives shorter). More GPUs (`--num-workers`), `--accumulate` and `--activation-checkpointing` take less each.
- **GPU hours**: an estimate for all epochs on one {GPU}: operations at {UTILIZATION:.0%} of {PEAK_FLOPS["bfloat16"] / 1e12:.0f} TFLOP/s
  in bfloat16 or {PEAK_FLOPS["float32"] / 1e12:.0f} in float32, or {LAUNCH_S * 1e6:.0f} microseconds for each kernel where that is longer
  (networks that go row by row or diagonal by diagonal, and small ones).
"""


def page(find: Find) -> str:
    """The page, with the costs that `find` gives."""
    parts = [_HEAD]
    for name in PUBLISHED:
        suite = published(name)
        assert suite is not None
        image, data = suite.data.image, suite.data
        shape = f"{image.height}x{image.width}, {'RGB' if image.channels == 3 else 'grey'}, {image.levels} levels"
        lines = [
            f"## {name}",
            "",
            f"{shape}; {data.num_train:,} training images, {data.num_test:,} test images.",
            "",
            "| model | paper | published | parameters | GFLOPs an image | MiB an image | batch | GPU memory, GiB | epochs | GPU hours |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(row(entry, data, find(name, entry, data)) for entry in suite.entries),
            "",
            *(open_points(entry) for entry in suite.entries),
            "",
        ]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def row(entry: Published, data: PublishedData, spent: Cost) -> str:
    """An entry's row of the table."""
    recipe = entry.recipe
    value = "none" if entry.value is None else f"{entry.value:.2f} {entry.unit}"
    value += "" if entry.status == "read" else ", *unverified*"
    parameters = f"{spent.parameters:,}" + (f" ({entry.parameters:,})" if entry.parameters is not None else "")
    hours = spent.gpu_hours(recipe.epochs * data.num_training(recipe), recipe)
    cells = (
        f"`{recipe.name}`",
        f"arXiv:{entry.paper}",
        value,
        parameters,
        f"{spent.forward_flops / 1e9:.4g}",
        f"{spent.image_bytes / MIB:.1f}",
        f"{recipe.batch_size}",
        f"{spent.worker_bytes(batch_of_a_part(recipe, 1)) / GIB:.1f}",
        f"{recipe.epochs}",
        f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def open_points(entry: Published) -> str:
    """What the paper leaves open, in one item of a list."""
    recipe = entry.recipe
    parts = [f"{recipe.precision}" + (", activations computed again" if recipe.activation_checkpointing else "")]
    parts += [f"chosen here: {_fields(entry.gaps)}"] if entry.gaps else []
    parts += [f"unverified: {_fields(entry.unverified)}"] if entry.unverified else []
    parts += [entry.note] if entry.note else []
    return f"- `{recipe.name}`: {'; '.join(parts)}."


def _fields(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def stored(suite: str, entry: Published, data: PublishedData) -> Cost:
    """An entry's cost with the bytes of `recipes.json`."""
    kept = json.loads((HERE / "recipes.json").read_text())[f"{suite}/{entry.recipe.name}"]
    return cost(entry.recipe, data.image, data.context(entry.recipe), activations=Activations(**kept))


def main() -> None:
    """Measure, and write both files beside this one."""
    if sys.argv[1:] == ["--stored"]:
        (HERE / "recipes.md").write_text(page(stored))
        return
    kept: dict[str, dict[str, int]] = {}

    def measure(suite: str, entry: Published, data: PublishedData) -> Cost:
        spent = cost(entry.recipe, data.image, data.context(entry.recipe))
        kept[f"{suite}/{entry.recipe.name}"] = {field.name: getattr(spent, field.name) for field in dataclasses.fields(Activations)}
        print(f"{suite}/{entry.recipe.name}: {spent}", flush=True)
        return spent

    text = page(measure)
    (HERE / "recipes.json").write_text(json.dumps(kept, indent=1) + "\n")
    (HERE / "recipes.md").write_text(text)


if __name__ == "__main__":
    main()
