"""Makes `docs/recipes.md`, `scaling.md` and, beside them, `recipes.json` with the activations' bytes, which take a few minutes to find.

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
from pixelmodels.training.scale import GPUS, NUMBERS, Scale

HERE = Path(__file__).parent
GIB, MIB = 1 << 30, 1 << 20
Find = Callable[[str, Published, PublishedData], Cost]  # of an entry, by its suite's name

_BF16, _TF32, _FP32 = (PEAK_FLOPS[precision] / 1e12 for precision in ("bfloat16", "tf32", "float32"))
_HEAD = f"""# Published recipes

Recipes with the hyperparameters of papers, as far as these give them. `pipelines/train_all.py --suite cifar10 --data-path FOLDER` trains
those of a suite; `--dry-run` says first what they cost on the cluster at hand. Made by `docs/recipes.py` from the models themselves.

- **Published**: the paper's test likelihood. *Unverified*: from memory, not read again in the source.
- **Parameters**: trained numbers here; in brackets those of the published model, where they are known.
- **GFLOPs an image**: one forward pass, of the operations that the masks keep. Training takes three times as many, four times with
  activations computed again.
- **MiB an image**: activations that autograd keeps for each image of a batch, in the recipe's precision.
- **GPU memory**: weights, gradients, moments, running average and masks in float32, and the activations of the recipe's batch on one GPU
  ({HEADROOM} times, for what lives shorter). More GPUs (`--num-workers`), `--accumulate` and `--activation-checkpointing` take less each.
- **GPU hours**: an estimate for all epochs on one {GPU}: operations at {UTILIZATION:.0%} of {_BF16:.0f} TFLOP/s
  in bfloat16, {_TF32:.0f} in tf32 or {_FP32:.1f} in float32, or {LAUNCH_S * 1e6:.0f} microseconds for each kernel where that is longer
  (networks that go row by row or diagonal by diagonal, and small ones).
"""

_SCALING = f"""# How training scales

What a step costs on 1, 8 and 64 GPUs, by the model of `pixelmodels/training/scale.py`. **No row is measured: nobody has run this on such
machines yet.** A script compares the same model with CPUs (at the end). Made by `docs/recipes.py`;
`pipelines/train_all.py --suite cifar10 --dry-run` says the same of recipes as one has changed them.

What is assumed of the machines, {GPUS.devices} GPUs ({GPUS.name}) in each:

- operations at {UTILIZATION:.0%} of {_BF16:.0f} TFLOP/s in bfloat16, {_TF32:.0f} in tf32 or {_FP32:.1f} in float32 (dense),
  or {LAUNCH_S * 1e6:.0f} microseconds for each kernel where that is longer;
- weights, moments and averages are changed at {GPUS.memory_bytes_per_s / 1e12:.1f} TB/s;
- gradients go at {GPUS.link_bytes_per_s / 1e9:.0f} GB/s each way to a GPU of the same machine, and at
  {GPUS.network_bytes_per_s / 1e9:.0f} GB/s to another machine (100 Gbit/s); a message takes {GPUS.message_s * 1e6:.0f} microseconds;
- images are read beside the work, and come as fast as they are wanted: **MB/s read** is what all GPUs together want of the
  storage, decoded (shards are smaller); one connection to a bucket gives some 50 to 100.

The batch is the recipe's, whatever the number of GPUs; there is no figure for more GPUs than a step has images.
**Worth** is what each GPU does of what one alone does in a second; **up to** is the largest power of two of GPUs
that are worth half or more.
"""
_WHERE = """## Where it stops, and why

- **Kernels.** A pass is at least as long as its kernels take to start, one after another, however few images there are. That is
  all that most of these recipes wait for on one such GPU already: their batches are of 2016, and a step of 16 to 64 small images
  is little work for it. Networks that go row by row or diagonal by diagonal (`pixelrnn_*`, `multiscale_pixelrnn`) start
  thousands. More GPUs shorten nothing there; what helps is a larger `--batch-size`, which is another training, whose learning
  rate has to be found again.
- **Gradients.** A worker sends nearly twice the gradients' bytes, whatever the number of workers. Inside a machine that is hidden
  behind the backward pass but for the last bucket; between machines the large nets (`gated_pixelcnn` of ImageNet) wait for it as
  soon as each GPU has two images. Nothing else goes over the network in a step: buffers are constants, and are not sent.
- **Checkpoints** take little of a step's time: one worker copies what they hold, and a thread of it writes them while training goes on.

Memory: activations are shared out among the GPUs, weights are not. `--accumulate` and `--activation-checkpointing` trade time for
memory.

## What is measured

Of GPUs nothing. `python -m benchmarks.scale_model` (Linux, root) finds a machine's speed with one small net (a step of 64 and of 16
images, alone and beside another), and that of its network, and predicts from these steps of that net with two workers on two hosts,
and of a larger one (PixelCNN++) with one worker and with two, with the network as it is and slowed down to 24 Mbit/s. On two cores
(`benchmarks/results/scale_model-2026-11-29.json`) the small net's steps came within 2%, the larger one's took 20% to 26% longer than
predicted (the goal: predictions within a quarter of what is measured): it is made of other operations, some of which these cores do
more slowly. What two workers and two hosts bring on two cores is: `benchmarks/results/scaling-*.json`.
"""


def scaling_page(find: Find) -> str:
    """The page about scaling, with the costs that `find` gives."""
    parts = [_SCALING]
    for name in PUBLISHED:
        suite = published(name)
        assert suite is not None
        more = {number: " | MB sent | worth" if number > 1 else "" for number in NUMBERS}
        cells = " | ".join(f"{number} GPU{'s' * (number > 1)}: ms a step | GiB | MB/s read{end}" for number, end in more.items())
        head = f"| model | batch | {cells} | up to |"
        lines = [f"## {name}", "", head, "|" + "---|" * (head.count("|") - 1)]
        lines += [scaling_row(entry, suite.data, find(name, entry, suite.data)) for entry in suite.entries]
        parts.append("\n".join([*lines, ""]))
    return "\n".join([*parts, _WHERE])


def scaling_row(entry: Published, data: PublishedData, spent: Cost) -> str:
    """An entry's row of a table about scaling."""
    scale = Scale(entry.recipe, spent, data.image)
    cells = [f"`{entry.recipe.name}`", f"{entry.recipe.batch_size}"]
    for number in NUMBERS:
        if number > entry.recipe.batch_size:
            cells += ["-"] * 5
            continue
        step = scale.step(number)
        cells += [f"{1e3 * step.seconds:.3g}", f"{step.memory_bytes / GIB:.1f}", f"{step.read_bytes_per_s / 1e6:.3g}"]
        cells += [f"{step.sent_bytes / 1e6:.3g}", f"{scale.efficiency(number):.0%}"] if number > 1 else []
    return f"| {' | '.join([*cells, str(scale.most_workers())])} |"


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
        (HERE / "scaling.md").write_text(scaling_page(stored))
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
    (HERE / "scaling.md").write_text(scaling_page(stored))


if __name__ == "__main__":
    main()
