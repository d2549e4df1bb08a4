"""How fast models train: images a second, share of the machine's matmul peak, and what Ray Train costs.

    python benchmarks/training.py            # every architecture at 64 channels on 28x28 images; over a minute each way
    python benchmarks/training.py --quick    # two architectures, fewer layers and steps: under 3 minutes

Images a second are those of the training steps of the loop (without validation), first bare in a process of its own,
then the same recipe through TorchTrainer with one worker. FLOPs utilization is 3 x the floating-point operations of
one forward pass that the masks keep (a backward pass costs two), times images a second, over the peak of a float32
matrix product measured before and after in the same process. Peak memory per image is what one more image in a batch
adds to the peak of the resident memory of a training step, in a fresh process. `step_over_row_lstm` compares the time
of a training step with the Row LSTM's at the same width and depth, the two in turn in one process. The last thing
printed is one JSON object; it is also written to `benchmarks/results/` with the date, beside a plot.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pixelmodels import ray_cluster
from pixelmodels.commandline import parse
from pixelmodels.data import DatasetConfig, find_dataset, prepare
from pixelmodels.errors import exit_with
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ARCHITECTURES, active_flops_per_image, architecture_class, config_class
from pixelmodels.progress import Progress
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe, run_key
from pixelmodels.runs.result import RunResult
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan, build_model
from pixelmodels.training.trainer import fit

RESULTS = Path(__file__).parent / "results"
IMAGE_SIZE = 28
QUICK = ("gated_pixelcnn", "pixelcnn")
# where `num_layers` counts the layers of one block or resolution of several
LAYERS = {"pixelcnn_pp": 1, "pixelsnail": 3}
MEMORY_BATCHES = (4, 20)  # the fewer images first: the peak of a process only grows
RECURRENT = ("pixelrnn_row_lstm", "pixelrnn_diagonal_bilstm")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure training speed."""

    quick: bool = False  # two architectures of two layers and few steps, to see that it works; the figures are rough
    only: tuple[str, ...] = ()  # architectures to measure; all (with --quick: gated_pixelcnn, pixelcnn) unless given
    num_features: int = 64  # channels of each model
    num_layers: int = 8  # layers of each model (2 with --quick)
    ray: bool = True  # also through TorchTrainer; without it a measurement takes half as long, and ray_over_bare is null
    min_seconds: float = 60.0  # of training steps that each measurement covers (6 with --quick)
    out: Path = RESULTS  # folder for the JSON and the plot
    bare: str | None = None  # internal: measure one recipe bare and print its result
    memory: str | None = None  # internal: measure one architecture's memory and print it

    def architectures(self) -> tuple[str, ...]:
        """Names of the architectures to measure; raises `UserError` for an unknown one."""
        for name in self.only:
            architecture_class(name)
        return self.only or (QUICK if self.quick else tuple(ARCHITECTURES))

    def layers(self) -> int:
        """Layers of the models measured."""
        return 2 if self.quick else self.num_layers

    def seconds(self) -> float:
        """Least seconds of training steps."""
        return min(self.min_seconds, 6.0) if self.quick else self.min_seconds


def matmul_peak(num_tries: int = 5) -> float:
    """Best floating-point operations a second of float32 matrix products with all of torch's threads."""
    best = 0.0
    for size in (512, 1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        for _ in range(num_tries):
            started = time.perf_counter()
            a @ b
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def recipe_of(architecture: str, arguments: Arguments, epochs: int) -> Recipe:
    """The recipe that is timed: digits enlarged to 28x28."""
    kind = config_class(architecture)
    wanted = {"num_features": arguments.num_features, "num_layers": arguments.layers(), "head_features": arguments.num_features}
    wanted["num_layers"] = min(LAYERS.get(architecture, arguments.layers()), arguments.layers())
    model = kind(**{name: value for name, value in wanted.items() if name in {field.name for field in dataclasses.fields(kind)}})
    return Recipe(
        name=architecture,
        dataset=DatasetConfig(source="digits", name="digits-28", size=(IMAGE_SIZE, IMAGE_SIZE)),
        model=model,
        likelihood=LikelihoodConfig("categorical"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=32,
        epochs=epochs,
        num_samples=0,
    )


def plan_of(recipe: Recipe, storage: Storage) -> RunPlan:
    """A run that tracks nothing and saves at the end of epochs only."""
    dataset = find_dataset(storage, "digits-28")
    return RunPlan(recipe, dataset, storage, run_key(recipe, dataset.fingerprint), num_threads=ray_cluster.num_cores())


def measure_bare(arguments: Arguments, architecture: str, epochs: int, root: str) -> dict[str, float]:
    """Train in this process without Ray; images a second and the matmul peak before and after."""
    plan = plan_of(recipe_of(architecture, arguments, epochs), Storage(root))
    torch.set_num_threads(plan.num_threads)
    before = matmul_peak()
    result = train(plan, say=lambda line: print(line, file=sys.stderr))
    return {"images_per_second": result.train_images_per_second, "peak_flops": max(before, matmul_peak())}


def peak_resident_bytes() -> int:
    """This process's own peak (a resource usage's maximum would begin with that of the process which started it)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def memory_per_image(arguments: Arguments, architecture: str, storage: Storage) -> float:
    """Bytes that one more image adds to the peak of a training step's resident memory; for a process of its own."""
    plan = plan_of(recipe_of(architecture, arguments, 1), storage)
    torch.set_num_threads(plan.num_threads)
    model, images = build_model(plan), torch.from_numpy(plan.dataset.read("validation").images_NCHW)
    peaks = []
    for batch in MEMORY_BATCHES:
        for _ in range(2):
            (-model.log_prob(images[:batch]).mean()).backward()
        peaks.append(peak_resident_bytes())
    return (peaks[1] - peaks[0]) / (MEMORY_BATCHES[1] - MEMORY_BATCHES[0])


def step_over_row_lstm(arguments: Arguments, storage: Storage, num_steps: int = 5) -> dict[str, float]:
    """Best time of a training step over the Row LSTM's, for the recurrent architectures."""
    models = {name: build_model(plan_of(recipe_of(name, arguments, 1), storage)) for name in RECURRENT}
    x_BCHW = torch.from_numpy(find_dataset(storage, "digits-28").read("validation").images_NCHW[:32])
    torch.set_num_threads(ray_cluster.num_cores())
    best = dict.fromkeys(models, float("inf"))
    for _ in range(num_steps):
        for name, model in models.items():
            started = time.perf_counter()
            (-model.log_prob(x_BCHW).mean()).backward()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: round(seconds / best["pixelrnn_row_lstm"], 3) for name, seconds in best.items()}


def in_own_process(arguments: Arguments, flag: str, values: list[Any]) -> Any:
    """What this script prints last when one of its internal flags is given."""
    command = [sys.executable, __file__, flag, json.dumps(values)]
    command += ["--num-features", str(arguments.num_features), "--num-layers", str(arguments.layers())]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def calibrate(arguments: Arguments, architecture: str, storage: Storage) -> int:
    """Epochs that take at least the seconds asked for, from the time of a few steps."""
    plan = plan_of(recipe_of(architecture, arguments, 1), storage)
    torch.set_num_threads(plan.num_threads)
    model = build_model(plan)
    x_BCHW = torch.from_numpy(plan.dataset.read("validation").images_NCHW[:32])
    times = []
    for _ in range(4):
        started = time.perf_counter()
        (-model.log_prob(x_BCHW).mean()).backward()
        times.append(time.perf_counter() - started)
    steps_per_epoch = plan.dataset.num_images("train") / 32
    return max(1, -(-int(arguments.seconds() * 1.2) // max(1, int(min(times) * steps_per_epoch))))


def measure(architecture: str, arguments: Arguments, storage: Storage, progress: Progress) -> dict[str, Any]:
    """One row: bare in a fresh process, then through TorchTrainer, the same recipe on the same images."""
    epochs = calibrate(arguments, architecture, storage)
    with tempfile.TemporaryDirectory() as folder:
        # the same data, other runs: neither finds the other's checkpoints
        roots = [Path(folder) / way for way in ("bare", "ray")]
        for root in roots:
            root.mkdir()
            (root / "datasets").symlink_to(Path(storage.root) / "datasets")
        bare = in_own_process(arguments, "--bare", [architecture, epochs, str(roots[0])])
        memory = in_own_process(arguments, "--memory", [architecture, str(roots[0])])
        plan = plan_of(recipe_of(architecture, arguments, epochs), Storage(str(roots[1])))
        through_ray: RunResult | None = fit(plan, WorkerNeeds(1, ray_cluster.num_cores(), False), progress.actor) if arguments.ray else None
    model = build_model(plan)
    flops = 3 * active_flops_per_image(model)
    return {
        "model": architecture,
        "images_per_second": round(bare["images_per_second"], 2),
        "ray_images_per_second": through_ray and round(through_ray.train_images_per_second, 2),
        "flops_utilization": round(flops * bare["images_per_second"] / bare["peak_flops"], 3),
        "ray_over_bare": through_ray and round(through_ray.train_images_per_second / bare["images_per_second"], 3),
        "seconds_of_steps": round(epochs * plan.dataset.num_images("train") / bare["images_per_second"], 1),
        "peak_memory_per_image_mib": round(memory / 2**20, 2),
        "parameters": model.num_parameters,
        "layers": plan.recipe.to_dict()["model"]["config"].get("num_layers"),
        "train_gflops_per_image": round(flops / 1e9, 3),
        "peak_gflops_per_second": round(bare["peak_flops"] / 1e9, 1),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Utilization and the cost of Ray Train, a pair of bars for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 1.6 + 0.7 * len(rows)))
    places = range(len(rows))
    for offset, key, label in ((0.2, "flops_utilization", "FLOPs utilization"), (-0.2, "ray_over_bare", "Ray Train over bare loop")):
        if all(row[key] is None for row in rows):
            continue
        bars = axes.barh([place + offset for place in places], [row[key] for row in rows], 0.36, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks(list(places), [f"{row['model']}\n{row['images_per_second']:.0f} images/s" for row in rows])
    axes.set_xlim(0, 1.3)
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"training, {IMAGE_SIZE}x{IMAGE_SIZE} grey, {ray_cluster.num_cores()} CPU cores, float32", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> int:
    """Measure every registered architecture; the last thing printed is one JSON object."""
    arguments = parse(Arguments)
    if arguments.bare is not None:
        print(json.dumps(measure_bare(arguments, *json.loads(arguments.bare))))
        return 0
    if arguments.memory is not None:
        architecture, root = json.loads(arguments.memory)
        print(memory_per_image(arguments, architecture, Storage(root)))
        return 0
    architectures = arguments.architectures()
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        ray_cluster.connect()
        prepare(recipe_of(architectures[0], arguments, 1).dataset, storage)
        progress = Progress(lambda line: print(line, file=sys.stderr))
        rows = [measure(architecture, arguments, storage, progress) for architecture in architectures]
        if set(RECURRENT) <= set(architectures):
            ratios = step_over_row_lstm(arguments, storage)
            rows = [{**row, **({"step_over_row_lstm": ratios[row["model"]]} if row["model"] in ratios else {})} for row in rows]
    today = datetime.date.today().isoformat()
    report = {
        "benchmark": "training",
        "date": today,
        "quick": arguments.quick,
        "num_features": arguments.num_features,
        "num_layers": arguments.layers(),
        "image_size": IMAGE_SIZE,
        "cores": ray_cluster.num_cores(),
        "load_average_at_end": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rows": rows,
    }
    name = f"training-{today}" + ("-quick" if arguments.quick else "")
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot(rows, arguments.out / f"{name}.png")
    (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    exit_with(main)
