"""A model's card: what was trained, on what, how well it does, what it cannot do, and how to load it, as Markdown with a picture.

After Mitchell et al., "Model Cards for Model Reporting" (arXiv:1810.03993), as far as a run knows the answers by itself.
"""

from __future__ import annotations

import datetime
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pixelmodels.evaluation.sample_grids import sample_grid
from pixelmodels.models import PixelModel, architecture_class
from pixelmodels.models.class_names import told as told_name
from pixelmodels.pictures import png_bytes
from pixelmodels.progress import duration
from pixelmodels.runs.result import RunResult
from pixelmodels.sampling.engine import NotFinite
from pixelmodels.tracking.registry import CARD, PICTURE
from pixelmodels.training.plan import RunPlan

_NUM_SAMPLES = 16  # in the picture, where the recipe draws none
_TOLD = {"name", "dataset", "model", "likelihood", "optimizer", "num_samples", "sample_every", "evaluation_batch_size"}


def card_files(plan: RunPlan, result: RunResult, model: PixelModel) -> dict[str, bytes]:
    """The card of a finished run and its picture, by the names that they have beside the model's weights."""
    told = card(plan, result, model)
    try:
        picture_HWC = sample_grid(plan.dataset, model, plan.recipe.num_samples or _NUM_SAMPLES, seed=plan.recipe.seed)
    except NotFinite as error:  # of broken weights: promotion refuses such a version, and says so
        return {CARD: told.replace(f"![samples]({PICTURE})", f"No picture: {error}.").encode()}
    return {CARD: told.encode(), PICTURE: png_bytes(picture_HWC)}


def card(plan: RunPlan, result: RunResult, model: PixelModel) -> str:
    """The card as Markdown; it names no version's number, because it is written before there is one."""
    recipe, dataset, spec = plan.recipe, plan.dataset, plan.dataset.spec
    about = (inspect.getdoc(architecture_class(result.architecture)) or "").partition("\n")[0]
    registered = plan.registered_name or dataset.name
    folder = plan.storage.uri(plan.folder)
    parts = [
        f"# {result.name} of {dataset.name}",
        f"`{result.architecture}`: {about} Likelihood: `{result.likelihood}`. {result.parameters:,} parameters. "
        f"Trained {_today()} from commit {_commit(plan)}.",
        "## Figures",
        _table(("", "value"), _figures(result, math.log2(spec.levels))),
        "Bits/dim are exact negative log-likelihoods of all test images, of the averaged weights that validated best; ± is the standard "
        "error over the images.",
        "## Samples",
        f"![samples]({PICTURE})",
        f"Drawn with seed {recipe.seed}, not chosen."
        + (" Where the model is given an image, that and the test image are beside them." if recipe.condition_on else ""),
        "## Data",
        _table(("", "value"), _data(plan)),
        "## Recipe",
        _table(("setting", "value"), _recipe(plan)),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(plan, result, model)),
        "## To load it",
        "```python\nimport pixelmodels\nfrom pixelmodels.sampling import sample\n\n"
        f'model = pixelmodels.load("models:/{registered}/N")  # N: this version\'s number; or pixelmodels.load("{folder}")\n'
        "x_NCHW = sample(model, 16, seed=0)  # uint8 levels\nnats_N = model.log_prob(x_NCHW)\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(result: RunResult, uniform_bits: float) -> dict[str, str]:
    figures = {
        "test bits/dim": f"{result.test_bits_per_dim:z.4f} ± {result.test_bits_per_dim_stderr:z.4f}",
        "test nats an image": f"{result.test_nll_nats:z.2f}",
        "validation bits/dim": f"{result.val_bits_per_dim:z.4f}",
        "bits/dim if all levels were equally likely": f"{uniform_bits:z.4f}",
        "epochs, steps": f"{result.epochs}, {result.steps}",
        "training": f"{duration(result.seconds)}, {result.train_images_per_second:.0f} images/s with {result.num_workers} worker(s)",
        "samples": f"{result.samples_per_second:.0f} images/s, one worker",
    }
    if result.test_raster_bits_per_dim is not None:
        figures["test bits/dim by the raster order alone"] = f"{result.test_raster_bits_per_dim:z.4f}"
    return figures


def _data(plan: RunPlan) -> dict[str, str]:
    dataset, spec = plan.dataset, plan.dataset.spec
    channels = "grey" if spec.channels == 1 else "RGB" if spec.channels == 3 else f"{spec.channels} channels"
    told = {
        "data set": f"{dataset.name}-{dataset.fingerprint}",
        "images": f"{spec.height} x {spec.width}, {channels}, {spec.levels} levels",
        "train, validation, test": ", ".join(f"{dataset.num_images(split):,}" for split in ("train", "validation", "test")),
        "put aside": f"{dataset.num_skipped:,} inputs that are no images",
    }
    if dataset.num_classes:
        names = ", ".join(map(told_name, dataset.label_names[:10])) + (", ..." if dataset.num_classes > 10 else "")
        told["classes"] = f"{dataset.num_classes}: {names}"
    return told


def _recipe(plan: RunPlan) -> dict[str, str]:
    plain = plan.recipe.to_dict()
    settings = {f"model: {name}": value for name, value in plain["model"]["config"].items()}
    settings |= {f"likelihood: {name}": value for name, value in plain["likelihood"].items() if name != "name"}
    settings |= {f"optimizer: {name}": value for name, value in plain["optimizer"].items()}
    settings |= {name: value for name, value in plain.items() if name not in _TOLD}
    return {name: _value(value) for name, value in settings.items()}


def _limits(plan: RunPlan, result: RunResult, model: PixelModel) -> Iterable[str]:
    dataset, spec = plan.dataset, plan.dataset.spec
    yield f"Images of {spec.height} x {spec.width} with {spec.levels} levels only; other sizes are refused, not resized."
    yield (
        f"It knows images like the {dataset.num_images('train'):,} that it was trained on, with what is one-sided in them; of others its "
        "likelihood says how unlike these they are, and nothing of what they show."
    )
    num_test, smallest = dataset.num_images("test"), 2 * result.test_bits_per_dim_stderr
    if num_test > 1 and math.isfinite(smallest):
        yield f"The test has {num_test:,} images: unpaired differences below {smallest:.4f} bits/dim say nothing."
    else:
        yield f"Test images: {num_test:,}; how certain the figures are cannot be told."
    if result.epochs < plan.recipe.epochs:
        yield f"Training stopped after {result.epochs} of {plan.recipe.epochs} epochs, as validation became no better."
    if not plan.recipe.condition_on:
        yield "It is given no class and no image: what is drawn cannot be chosen."
    order = "any of its orders' first pixels" if model.context_spec.num_orders > 1 else "pixels that come first in its order"
    yield f"Images are completed exactly from {order}; other known pixels stay, but are not taken into account before they come."
    yield "It may give training images back; `pipelines/inspect_data.py` finds copies between splits, not in samples."


def _commit(plan: RunPlan) -> str:
    known = plan.tracker is not None and plan.mlflow_run_id is not None and plan.tracker.commit_of(plan.mlflow_run_id)
    return f"`{known[:12]}`" if isinstance(known, str) and known else "unknown"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|:---|:---|", *(f"| {name} | {_escaped(value)} |" for name, value in rows.items())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _escaped(text: str) -> str:
    """Names of classes are whatever folders are called."""
    return re.sub(r"[\\|`*\[\]]", r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")
