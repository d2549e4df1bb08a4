"""Ray Train around the loop: a group of workers for one run, started again from our own checkpoints when one dies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pixelmodels.errors import UserError, lacks_memory
from pixelmodels.training.loop import train
from pixelmodels.training.plan import FAILURE, Hopeless, RunPlan, RunResult, finished
from pixelmodels.training.preflight import WorkerNeeds
from pixelmodels.training.progress import sayer

RAY_FILES = "ray"  # folder of the storage root for the small files that Ray Train itself writes


class RunFailed(Exception):
    """A run that ended without a result; the message is the reason in one line."""


def fit(plan: RunPlan, needs: WorkerNeeds, progress_actor: Any, *, max_failures: int = 2) -> RunResult:
    """Train one run on the cluster and wait for its result. Safe to call from several threads.

    Args: `max_failures`, how often dead workers are replaced, going on from the newest checkpoint.
    What another try would only repeat (a mistake of the user's, a likelihood that is no number) is not tried again.
    Raises `RunFailed` with the reason.
    """
    run_group(run_worker, {"plan": plan, "progress": progress_actor}, needs, max_failures=max_failures)
    result = finished(plan.storage, plan.folder)
    if result is None:
        raise RunFailed("its workers ended without writing a result")
    return result


def run_group(
    worker: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    needs: WorkerNeeds,
    *,
    max_failures: int = 2,
    callbacks: Sequence[Any] = (),
) -> None:
    """Run `worker(config)` in each of a run's workers on the cluster, and wait for their end.

    Args: `config`, whose entry "plan" is the run's plan; `callbacks`, of Ray Train. Raises `RunFailed` as `fit` does.
    """
    import ray.train
    import ray.train.torch

    plan: RunPlan = config["plan"]
    plan.storage.delete(f"{plan.folder}/{FAILURE}")

    trainer = ray.train.torch.TorchTrainer(
        worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=needs.num_workers, use_gpu=needs.use_gpu, resources_per_worker=needs.per_worker),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if needs.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=_ray_name(plan),
            storage_path=plan.storage.uri(RAY_FILES),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            callbacks=list(callbacks),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # of any kind: Ray wraps what happened in a worker, whatever it was
        raise RunFailed(failure_of(plan) or reason(error)) from error
    failure = failure_of(plan)
    if failure is not None:
        raise RunFailed(failure)


def ray_files(plan: RunPlan) -> str:
    """The folder below the storage root where Ray Train writes what it needs of a run."""
    return f"{RAY_FILES}/{_ray_name(plan)}"


def _ray_name(plan: RunPlan) -> str:
    return f"{plan.recipe.name}-{plan.run_key}"


def run_worker(config: dict[str, Any]) -> None:
    """What each worker runs: the loop, with Ray Train's device, wrapping and reports."""

    def work(plan: RunPlan, device: torch.device) -> None:
        train(plan, device=device, wrap=wrap, say=sayer(config["progress"]), report=report)

    guarded(config["plan"], work)


def guarded(plan: RunPlan, work: Callable[[RunPlan, torch.device], Any]) -> None:
    """Do a worker's work on its device, unless the run is known to be hopeless.

    A hopeless failure is written down before it is raised: the workers that Ray then starts anew return at once. (To return from
    here instead would leave the others waiting for this worker, where it alone has failed.)
    """
    import ray.train.torch

    if failure_of(plan) is not None:
        return
    try:
        work(plan, ray.train.torch.get_device())
    except Exception as error:
        lack = "out of memory: give a smaller batch_size, --accumulate, or --activation-checkpointing" if lacks_memory(error) else None
        if lack is not None or isinstance(error, (UserError, Hopeless)):
            plan.storage.write_bytes(f"{plan.folder}/{FAILURE}", json.dumps({"reason": lack or str(error)}).encode())
        raise


def reason(error: BaseException) -> str:
    """Why a run failed, in one line: the first failed worker's own error, or that it died."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()] or [""]
    if hasattr(inner, "health_check_failure"):  # it no longer answers
        return f"a worker died, out of memory or with its machine ({lines[0]})"
    told = isinstance(inner, (UserError, RuntimeError)) and lines[0]  # messages that say enough by themselves
    return lines[0] if told else f"{type(inner).__name__}: {lines[0]}"


def failure_of(plan: RunPlan) -> str | None:
    """Why the run cannot but fail, where a worker has written that down."""
    try:
        return str(json.loads(plan.storage.read_bytes(f"{plan.folder}/{FAILURE}"))["reason"])
    except FileNotFoundError:
        return None


def wrap(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose gradients are averaged over Ray Train's workers."""
    import ray.train.torch

    wrapped: torch.nn.Module = ray.train.torch.prepare_model(module)
    return wrapped


def report(metrics: dict[str, float]) -> None:
    """Tell Ray Train how far the run is."""
    import ray.train

    # asynchronous: otherwise the workers wait until the controller polls, about 2 s
    ray.train.report(metrics, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC)
