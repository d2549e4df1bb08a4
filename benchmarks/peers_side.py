"""One side of a comparison with public code: a process that trains for as long as a line of its input says, then waits for the next.

    python -m benchmarks.peers_side --case C --precision P                 # this project: the loop of a run, data and all
    python -m benchmarks.peers_side --case C --precision P --peer FOLDER   # the network and loss of the peer, Adam, the images in memory

An answer is `[images, seconds]` of the steps that were begun within the seconds asked for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from pixelmodels.commandline import parse
from pixelmodels.data import DatasetConfig, prepare
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import config_class
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.recipe import OptimizerConfig, Precision, Recipe, run_key
from pixelmodels.storage import Storage
from pixelmodels.training.loop import Loop
from pixelmodels.training.plan import RunPlan

EPOCHS = 10_000  # nobody waits for the last one


@dataclass(frozen=True)
class PeerCase:
    """The same network here and there."""

    peer: str  # whose code: pytorch_generative or pixel_cnn_pp
    architecture: str
    model: dict[str, Any]  # its config here
    theirs: dict[str, Any]  # the arguments of the peer's class
    likelihood: str = "bernoulli"
    channels: int = 1
    levels: int = 2
    size: int = 28
    batch: int = 16

    def recipe(self, precision: Precision) -> Recipe:
        """As it is trained here."""
        binarize = {"binarize": "threshold"} if self.levels == 2 else {"levels": self.levels}
        data: dict[str, Any] = {"source": "digits", "size": (self.size, self.size), "channels": self.channels, **binarize}
        return Recipe(
            name=self.architecture,
            dataset=DatasetConfig(name="peers", **data),
            model=config_class(self.architecture)(**self.model),
            likelihood=LikelihoodConfig(self.likelihood),
            optimizer=OptimizerConfig(learning_rate=1e-3),
            batch_size=self.batch,
            epochs=EPOCHS,
            num_samples=0,
            precision=precision,
        )


_PP: dict[str, Any] = {
    "architecture": "pixelcnn_pp",
    "likelihood": "discretized_logistic_mixture",
    "channels": 3,
    "levels": 256,
    "size": 32,
}
CASES = {
    "gated": PeerCase(
        "pytorch_generative",
        "gated_pixelcnn",
        {"num_layers": 8, "num_features": 64, "head_features": 64},
        {"n_gated": 8, "gated_channels": 64, "head_channels": 64},
    ),
    "pixelsnail": PeerCase(
        "pytorch_generative",
        "pixelsnail",
        {"num_blocks": 4, "num_layers": 2, "num_features": 64, "key_features": 4, "value_features": 32},
        {"n_channels": 64, "n_pixel_snail_blocks": 4, "n_residual_blocks": 2, "attention_key_channels": 4, "attention_value_channels": 32},
    ),
    "pixelcnn_pp": PeerCase(
        "pixel_cnn_pp", model={"num_layers": 2, "num_features": 40, "dropout": 0.5}, theirs={"nr_resnet": 2, "nr_filters": 40}, **_PP
    ),
    "pixelcnn_pp_paper": PeerCase(
        "pixel_cnn_pp",
        model={"num_layers": 5, "num_features": 160, "dropout": 0.5},
        theirs={"nr_resnet": 5, "nr_filters": 160},
        batch=4,
        **_PP,
    ),
}


@dataclass
class Turns:
    """Lets steps run for as long as it is asked to."""

    batch: int
    images: int = 0
    begun: float = field(default_factory=time.perf_counter)
    end: float = 0.0

    def after_step(self, _: int) -> None:
        """Called after each step; waits once the time is over."""
        self.images += self.batch
        if time.perf_counter() >= self.end:
            print(json.dumps([self.images, time.perf_counter() - self.begun]), flush=True)
            self.wait()

    def wait(self) -> None:
        """For the next line, or the end."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        self.images, self.begun = 0, time.perf_counter()
        self.end = self.begun + float(line)


def ours(case: PeerCase, precision: Precision) -> None:
    """Train here."""
    with tempfile.TemporaryDirectory() as folder:
        storage, recipe = Storage(folder), case.recipe(precision)
        dataset = prepare(recipe.dataset, storage)
        turns = Turns(case.batch)
        plan = RunPlan(recipe, dataset, storage, run_key(recipe, dataset.fingerprint), num_threads=num_cores())
        loop = Loop(plan, torch.device("cpu"), say=lambda _: None, after_step=turns.after_step)
        turns.wait()
        loop.train()


class _Nothing(type):
    """Has every attribute: a class of nothing."""

    def __getattr__(cls, name: str) -> Any:
        return attribute_of_nothing(name)


def attribute_of_nothing(name: str) -> Any:
    """Whatever is asked for, but for what Python itself asks."""
    if name.startswith("__"):
        raise AttributeError(name)
    return _Nothing("nothing", (), {})


def module_of_nothing(name: str) -> None:
    """Stands for a package that a peer imports and its networks do not use, where it is not installed."""
    try:
        __import__(name)
    except ImportError:
        for number in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:number])
            module = types.ModuleType(part)
            module.__dict__.update(__getattr__=attribute_of_nothing, __path__=[])
            sys.modules.setdefault(part, module)


def module_of(folder: str, name: str) -> types.ModuleType:
    """A module of the port, which was written for Python 2 in part."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    source = Path(folder, f"{name}.py").read_text().replace("print e", "print(e)")
    exec(compile(source, f"{folder}/{name}.py", "exec"), module.__dict__)
    return module


def pytorch_generative(
    folder: str, name: str, **arguments: Any
) -> tuple[torch.nn.Module, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """A network of pytorch-generative for binary images, and its loss: mean nats of an image."""
    sys.path.insert(0, folder)
    for missing in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torch.utils.tensorboard"):
        module_of_nothing(missing)
    from pytorch_generative import models  # type: ignore[import-not-found]

    network = getattr(models, name)(in_channels=1, out_channels=1, **arguments)
    return network, lambda x, y: F.binary_cross_entropy_with_logits(y, x, reduction="none").sum((1, 2, 3)).mean()


def peer_of(case: PeerCase, folder: str) -> tuple[torch.nn.Module, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """The peer's network, and the loss of images on [-1, 1] (0 and 1 of binary ones)."""
    if case.peer == "pytorch_generative":
        return pytorch_generative(folder, {"gated_pixelcnn": "GatedPixelCNN", "pixelsnail": "PixelSNAIL"}[case.architecture], **case.theirs)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # the loss asks for a GPU
    utils, _, port = (module_of(folder, name) for name in ("utils", "layers", "model"))
    return port.PixelCNN(input_channels=case.channels, nr_logistic_mix=10, **case.theirs), utils.discretized_mix_logistic_loss


def theirs(case: PeerCase, precision: Precision, folder: str) -> None:
    """Train the peer's network as its script does: forward, loss, backward, Adam."""
    torch.set_num_threads(num_cores())
    network, loss_of = peer_of(case, folder)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    levels = torch.randint(case.levels, (64 * case.batch, case.channels, case.size, case.size), generator=torch.Generator().manual_seed(0))
    x_BCHW = levels.float() if case.levels == 2 else levels.float() * 2 / 255 - 1
    turns, number = Turns(case.batch), 0
    turns.wait()
    while True:
        batch = x_BCHW[number % 64 * case.batch :][: case.batch]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(batch, network(batch))
        loss.backward()
        optimizer.step()
        number += 1
        turns.after_step(number)


@dataclass(frozen=True)
class Arguments:
    """Train on one side."""

    case: str
    precision: str
    peer: Path | None = None  # folder of the peer's code; this project's unless given


def main() -> None:
    """One side."""
    arguments = parse(Arguments)
    case, precision = CASES[arguments.case], cast(Precision, arguments.precision)
    if arguments.peer is None:
        ours(case, precision)
    else:
        theirs(case, precision, str(arguments.peer.resolve()))


if __name__ == "__main__":
    main()
