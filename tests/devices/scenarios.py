"""Everything of an architecture, and the loop of a run, on a pretended GPU: each result beside the CPU's, and the waits of the host.

    python -m tests.devices.scenarios gated_pixelcnn     # or `loop`

For each thing that was done a line of JSON: what, whether it is equal bit by bit (or the error), and the waits by kind.
"""

from __future__ import annotations

from tests.devices import pretended  # before torch

# isort: split
import copy
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixelmodels.compression.arithmetic import usual
from pixelmodels.compression.codec import Codec
from pixelmodels.compression.conditions import kinds_of
from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.evaluation.dependence import dependence_by_gradient, dependence_by_occlusion
from pixelmodels.evaluation.expectations import expectations
from pixelmodels.evaluation.scores import score_rows
from pixelmodels.layers.dropout import Dropout, image_keys, use_keys
from pixelmodels.models import ContextBlend, ContextSpec, PixelModel, build
from pixelmodels.models.files import AVERAGE, WEIGHTS
from pixelmodels.models.orders import ensemble_log_prob, log_prob_map_of_order
from pixelmodels.recipes.recipe import OptimizerConfig
from pixelmodels.runs import checkpoints
from pixelmodels.sampling import Engine, Request, draw_all, reference_sample, sample
from pixelmodels.storage import Storage
from pixelmodels.training import loop
from pixelmodels.training.averaging import Average
from pixelmodels.training.optimization import load_moments, make_optimizer, moments
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.workers import LogProb
from tests.conformance.conftest import PAIRS, WITHOUT_SMALL, random_context, small_model
from tests.devices.mutants import IN_CHILDREN, Taken
from tests.devices.pretended import DEVICE, OnDevice, held, on_device, waits
from tests.training.tiny_run import Stop, stop_after, tiny_plan, tiny_recipe

HEIGHT, WIDTH, BATCH = 4, 4, 3
ONE_KIND = ("label", "vector", "image")  # of context; `mix` has them all
CONTEXTS = ("none", *ONE_KIND, "mix", "small")
Call = Callable[[PixelModel, Tensor, Any], Any]
taken = Taken()


def values(result: Any) -> Any:
    """Plain values of a result, to be compared."""
    if isinstance(result, Tensor):
        return held(result).detach().numpy()
    if isinstance(result, dict):
        return {name: values(one) for name, one in result.items()}
    if isinstance(result, list | tuple):
        return [values(one) for one in result]
    return result


def equal(one: Any, other: Any) -> bool:
    """Whether plain values are equal bit by bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(np.array_equal(one, other, equal_nan=True)) if isinstance(one, np.ndarray) else one == other


def tell(what: str, here: Callable[[], Any], there: Callable[[], Any]) -> None:
    """Do something on both sides, and print how it went."""
    taken.between()
    if taken.is_on and what.endswith(IN_CHILDREN):
        taken.tried(what, lambda: compared(there, done(here)))
        return
    expected = done(here)
    taken.tried(what, lambda: compared(there, expected))
    print(json.dumps({"what": what, **compared(there, expected)}), flush=True)
    taken.done(what)


def done(here: Callable[[], Any]) -> Any:
    """Plain values, or the error."""
    try:
        return values(here())
    except Exception as error:
        return error


def compared(there: Callable[[], Any], expected: Any) -> dict[str, Any]:
    """Do something on the pretended device: how often the host waits, and whether it is what is expected."""
    told: dict[str, Any] = {}
    try:
        if isinstance(expected, Exception):
            raise expected
        waits.clear()
        with OnDevice():
            found = there()
        told["waits"] = dict(+waits)
        told["equal"] = equal(values(found), expected)
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/pixelmodels/" in frame.filename]
        told["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        told["at"] = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return told


class Trained:
    """A model in training: one step of it is what a step of the loop does with a model."""

    def __init__(self, model: PixelModel):
        self.model = copy.deepcopy(model).train()
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.rate = 0.2
        self.module, self.average = LogProb(self.model), Average(self.model, 0.9)
        self.optimizer = make_optimizer(self.model, OptimizerConfig())

    def step(self, x: Tensor, context: Any, keys_B: Tensor) -> Tensor:
        """Weights after it are in the model, and in its average."""
        self.optimizer.zero_grad(set_to_none=True)
        use_keys(self.model, keys_B)
        nll_nats = -self.module(x, None if context is None else context.dropped(0.3, keys_B)).sum()
        nll_nats.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.model, 0)
        return nll_nats.detach()

    def state(self) -> dict[str, Tensor]:
        """Everything that a step changes."""
        weights = {name: value for module in (self.model, self.average.model) for name, value in module.named_parameters()}
        return {**weights, **moments(self.optimizer, self.model)}


def model_scenarios(architecture: str) -> None:
    """Everything of an architecture with every likelihood, and with every context: those of one kind with the first likelihood only."""
    pairs = [pair for pair in PAIRS if pair[0] == architecture]
    for pair in pairs:
        for kind in CONTEXTS:
            if (kind in ONE_KIND and pair != pairs[0]) or (kind == "small" and pair not in WITHOUT_SMALL):
                continue
            try:
                model = small_model(*pair, HEIGHT, WIDTH, context=kind)
            except UserError:  # a pair of them that is refused
                continue
            one_model(
                "-".join(map(str, (*pair, kind))), model, draws=kind in ("mix", "small"), also_requests=(pair, kind) == (pairs[-1], "mix")
            )


def one_model(name: str, model: PixelModel, *, draws: bool, also_requests: bool) -> None:
    """Everything of one model; of its images and of requests of all kinds where that is asked for."""
    x = torch.randint(model.spec.levels, (BATCH, *model.spec.shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    context = random_context(model, BATCH)
    if model.context_spec.small is not None:
        context = replace(context, small_BCHW=x[:, :, ::2, ::2].long())
    given = None if not model.context_spec else context
    keys_B = image_keys(0, 0, np.arange(BATCH))
    with OnDevice():
        there, there_x, there_keys = on_device(copy.deepcopy(model)), x.to(DEVICE), keys_B.to(DEVICE)
        there_given = None if given is None else given.to(DEVICE)

    def both(what: str, call: Call) -> None:
        tell(f"{name} {what}", lambda: call(model, x, given), lambda: call(there, there_x, there_given))

    trained = {}
    for key, one in (("here", model), ("there", there)):
        with OnDevice():
            trained[key] = Trained(one)
    tell(
        f"{name} training step",
        lambda: trained["here"].step(x, given, keys_B),
        lambda: trained["there"].step(there_x, there_given, there_keys),
    )
    tell(f"{name} trained state", trained["here"].state, trained["there"].state)
    tell(
        f"{name} moments put back",
        lambda: load_moments(trained["here"].optimizer, trained["here"].model, moments(trained["here"].optimizer, trained["here"].model)),
        lambda: load_moments(
            trained["there"].optimizer,
            trained["there"].model,
            {key: held(value).clone() for key, value in moments(trained["there"].optimizer, trained["there"].model).items()},
        ),
    )
    tell(
        f"{name} step after",
        lambda: (trained["here"].step(x, given, keys_B), trained["here"].state()),
        lambda: (trained["there"].step(there_x, there_given, there_keys), trained["there"].state()),
    )
    both("initialize", lambda of, images, told: of.initialize(images, told))
    with torch.no_grad():
        both("log_prob", lambda of, images, told: of.log_prob(images, told))
        both("features", lambda of, images, told: list(of.all_features(images, told).values()))
    if not draws:
        return
    both("compressed", compressed)
    both("sample", lambda of, images, told: sample(of, BATCH, seed=5, context=told))
    both("reference", lambda of, images, told: reference_sample(of, BATCH, seed=5, context=told, num_pixels=3))
    if not also_requests:
        return
    both("names", lambda of, images, told: list(of.feature_names()))
    both("masks of its own", with_masks_of_its_own)
    both("expectations", lambda of, images, told: list(vars(expectations(of, images, told)).values()))
    both("gradient", lambda of, images, told: dependence_by_gradient(of, images[:1], (2, 2), told.rows(slice(1))))
    both("occlusion", lambda of, images, told: dependence_by_occlusion(of, images[:1], (2, 2), told.rows(slice(1)), most_passes=9))
    known, mask = x.numpy(), np.zeros((BATCH, HEIGHT, WIDTH), bool)
    mask[0, :2], mask[1, 1:, 1] = True, True
    options: dict[str, Any] = {"context": given, "known_NCHW": torch.from_numpy(known), "known_mask_NHW": torch.from_numpy(mask)}
    both("known pixels", lambda of, images, told: draw_all(of, Request(BATCH, seed=5, **options)))
    both("options", lambda of, images, told: draw_all(of, Request(BATCH, seed=5, context=given, temperature=0.8, top_p=0.9)))
    both("guidance", lambda of, images, told: draw_all(of, Request(BATCH, seed=5, context=given, guidance=1.0)))
    blend = ContextBlend(context, context.rows(torch.tensor([1, 2, 0])), torch.rand(BATCH, generator=torch.Generator().manual_seed(2)))
    both("blend", lambda of, images, told: draw_all(of, Request(BATCH, seed=5, context=blend)))
    both("unlike requests", lambda of, images, told: unlike(of, given))
    both(
        "guessed rows",
        lambda of, images, told: draw_all(Engine(of, num_slots=2, speculates=lambda _: True), Request(BATCH, seed=5, context=given)),
    )


def with_masks_of_its_own(model: PixelModel, images: Tensor, context: Any) -> Tensor:
    """Log-probabilities in training, whose masks of dropout nobody gives keys for."""
    one = Trained(model).model
    torch.manual_seed(3)
    return one.log_prob(images, context).detach()


def several_orders() -> None:
    """What a model of several orders does besides."""
    model = small_model("gated_pixelcnn", "categorical", 1, HEIGHT, WIDTH)
    model = build(model.config, model.spec, model.likelihood.config, ContextSpec(num_orders=4)).double().eval()
    x = torch.randint(model.spec.levels, (BATCH, *model.spec.shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with OnDevice():
        there, there_x = on_device(copy.deepcopy(model)), x.to(DEVICE)

    def both(what: str, call: Call) -> None:
        tell(f"orders {what}", lambda: call(model, x, None), lambda: call(there, there_x, None))

    with torch.no_grad():
        both("mixture", lambda of, images, told: ensemble_log_prob(of, images))
        both("map", lambda of, images, told: log_prob_map_of_order(of, images, order=2))
    both("compressed", compressed)
    both("sample", lambda of, images, told: sample(of, BATCH, seed=5))
    both("expectations", lambda of, images, told: list(vars(expectations(of, images, order=3)).values()))
    both("occlusion", lambda of, images, told: dependence_by_occlusion(of, images[:1], (2, 2), order=3, most_passes=9))


def compressed(model: PixelModel, images: Tensor, context: Any) -> Any:
    """The bytes of images, and what they decode to."""
    if context is not None and context.vector_BV is not None:
        context = replace(context, vector_BV=context.vector_BV.float())
    codec = Codec(model, usual(model, BATCH + 1), kinds_of(context))
    block = codec.encode(held(images).numpy(), context)
    decoded_NCHW, _ = codec.decode(block)
    return [list(block.payload), decoded_NCHW]


def unlike(model: PixelModel, context: Any) -> list[Tensor]:
    """Requests with options of their own, more than there are slots."""
    engine = Engine(model, num_slots=2)
    some = Request(2, seed=1, context=context.rows(slice(0, 1)), guidance=1.0)
    asked = [
        some,
        Request(2, seed=2, context=context.rows(slice(0, 1)), temperature=0.7),
        Request(1, seed=3, context=context.rows(slice(0, 1))),
    ]
    return list(draw_all(engine, *asked))


def loop_scenarios() -> None:
    """The loop of a run: parts of a step, autocast, activations computed again, stopped and gone on with."""
    loop.made_ahead = lambda items: items  # type: ignore[assignment, attr-defined]  # in the thread that believes in the device
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "parts": {"accumulate": 2, "condition_on": ()},
        "bfloat16": {"precision": "bfloat16"},
        "checkpointing": {"activation_checkpointing": True},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, change in changes.items():
            plans = {key: tiny_plan(Storage(f"{folder}/{name}-{key}"), tiny_recipe(**change)) for key in ("here", "there")}
            stopped = tiny_plan(Storage(f"{folder}/{name}-stopped"), tiny_recipe(**change), checkpoint_every_s=1e-9)
            tell(f"{name} run", partial(run, plans["here"]), partial(run, plans["there"], DEVICE))
            tell(f"{name} resumed", partial(weights, plans["here"]), partial(run_twice, stopped))
    several_orders()
    tell("scores", lambda: scored(torch.device("cpu")), lambda: scored(DEVICE))


def scored(device: torch.device) -> Any:
    """Nats of some rows."""
    model = small_model("gated_pixelcnn", "bernoulli", 1, HEIGHT, WIDTH)
    model = model if device.type == "cpu" else on_device(model)
    images = np.random.default_rng(0).integers(0, 2, (5, 1, HEIGHT, WIDTH)).astype(np.uint8)
    return score_rows(model, Rows(images), device)


def run(plan: RunPlan, device: torch.device | None = None) -> dict[str, Tensor]:
    """Train, and the weights at the end."""
    loop.train(plan, device=device, say=lambda _: None)
    return weights(plan)


def run_twice(plan: RunPlan) -> dict[str, Tensor]:
    """Stopped in the middle, and gone on with."""
    with suppress(Stop):
        loop.train(plan, device=DEVICE, say=lambda _: None, after_step=stop_after(7))
    return run(plan, DEVICE)


def weights(plan: RunPlan) -> dict[str, Tensor]:
    """Of the last checkpoint."""
    last = checkpoints.latest(plan.storage, plan.folder, print)
    assert last is not None
    return {f"{file}/{name}": value for file in (WEIGHTS, AVERAGE) for name, value in last.tensors(file).items()}


def itself() -> None:
    """What the pretended device refuses and counts."""
    with OnDevice():
        there, number = torch.ones(2, device=DEVICE), torch.ones(())
        tell("adds a number", lambda: torch.full((2,), 2.0), lambda: there + number)
        tell("is added to a number of the CPU", lambda: 0, lambda: torch.zeros(()).add_(there.sum()))
        tell("adds a tensor of the CPU", lambda: 0, lambda: there + torch.ones(2))
        tell("is indexed by the CPU", lambda: torch.ones(1), lambda: there[torch.tensor([1])])
        tell("is put into a tensor of the CPU", lambda: 0, lambda: torch.zeros(3)[there.long()])
        tell("is waited for", lambda: 2.0, lambda: there.sum().item())
        tell("is told", lambda: [1.0, 1.0], lambda: there.tolist())
        tell("is copied", lambda: torch.ones(2), lambda: there.cpu())


def main() -> None:
    """One architecture, the loop, or itself."""
    (name,) = sys.argv[1:]
    pretended.begin()
    torch.set_num_threads(1)
    with sdpa_kernel(SDPBackend.MATH):  # both sides by the same kernel: a CPU has a fused one
        {"loop": loop_scenarios, "itself": itself}.get(name, lambda: model_scenarios(name))()
    taken.between()


if __name__ == "__main__":
    main()
