"""Ray Train around the loop: a group of workers for one run, started again from our own checkpoints when one dies."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from pixelmodels.errors import UserError, first_line, lacks_memory
from pixelmodels.internals import found_no_room
from pixelmodels.progress import Say, sayer, teller
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.runs import checkpoints
from pixelmodels.runs.lock import Lost
from pixelmodels.runs.result import FAILURE, RunResult, finished
from pixelmodels.training.elastic import CLAIMS, SETTLE_S, Departure, Wanted, say_who_has_the_room, saying_what_it_waits_for
from pixelmodels.training.loop import Left, train
from pixelmodels.training.plan import Hopeless, RunPlan
from pixelmodels.training.workers import OPTIONS, Workers

RAY_FILES = "ray"  # folder of the storage root for the small files that Ray Train itself writes

T = TypeVar("T")


class RunFailed(Exception):
    """A run that ended without a result; the message is the reason in one line."""


class NoRoom(Exception):
    """Workers that did not begin, because there was no room for so many in time."""


def fit(
    plan: RunPlan,
    needs: WorkerNeeds,
    progress_actor: Any,
    *,
    max_failures: int = 2,
    say: Say = print,
    settle_s: float = SETTLE_S,
    is_live: bool = False,
) -> RunResult:
    """Train one run on the cluster, in as many workers as there is room for, and wait for its result. Safe to call from several threads.

    Args: `max_failures`, how often in a row workers that die before they have saved anything are replaced; `say` prints a line;
    `settle_s`, seconds that workers train before they make way for more of them; `is_live`, whether the first worker tells through
    the actor how far it is, in place of lines.
    What another try would only repeat (a mistake of the user's, a likelihood that is no number) is not tried again. Workers that
    find no room in time are no failure: how many there may be is looked at again.
    Raises `RunFailed` with the reason, and `Lost` where another process has taken the run over.
    """
    config = {"plan": plan, "progress": progress_actor, "needs": needs, "settle_s": settle_s, "is_live": is_live}
    with saying_what_it_waits_for(plan.recipe.name, needs, say) as wanted:
        return _fit(plan, needs, config, wanted, max_failures, say)


def _fit(plan: RunPlan, needs: WorkerNeeds, config: dict[str, Any], wanted: Wanted, max_failures: int, say: Say) -> RunResult:
    import ray

    name, failures, had = plan.recipe.name, 0, 0
    is_told = False
    while True:
        step = _newest(plan)
        try:
            with CLAIMS.workers_now(needs) as num_workers:
                if had and num_workers not in (had, wanted.num_workers):
                    say(f"{name}: {'grows' if num_workers > had else 'shrinks'} from {had} to {num_workers} worker(s) at step {step}")
                wanted.num_workers = num_workers
                left = run_group(run_worker, config, dataclasses.replace(needs, num_workers=num_workers))
        except NoRoom:
            plan.check_held()
            if not ray.is_initialized():
                raise RunFailed("its workers did not start") from None
            is_told = is_told or say_who_has_the_room(name, needs, num_workers, say)
            continue
        except RunFailed as error:
            plan.check_held()
            newest = _newest(plan)
            failures = failures + 1 if newest == step else 1
            if failures > max_failures or failure_of(plan) is not None or not ray.is_initialized():
                raise
            say(f"{name}: {error}; goes on from {f'step {newest}' if newest else 'its beginning'}")
            had, is_told = num_workers, False
            continue
        had, is_told = num_workers, False
        result = finished(plan.storage, plan.folder)
        if result is not None:
            return result
        if left is None:
            raise RunFailed("its workers ended without writing a result")
        failures = 0


def _newest(plan: RunPlan) -> int:
    """The step of a run's newest checkpoint; 0 where there is none."""
    return checkpoints.newest(plan.storage, plan.folder)


def run_group(
    worker: Callable[[dict[str, Any]], str | None],
    config: dict[str, Any],
    needs: WorkerNeeds,
    *,
    max_failures: int = 0,
    callbacks: Sequence[Any] = (),
) -> str | None:
    """Run `worker(config)` in each of a run's workers on the cluster, and wait for their end; returns what the first one returned.

    Args: `config`, whose entry "plan" is the run's plan; `needs`, of which it gets the smaller number of workers; `max_failures`, how
    often Ray Train itself replaces them; `callbacks`, of Ray Train.
    Raises `RunFailed` and `Lost` as `fit` does, and `NoRoom` where they find no room in time.
    """
    import ray.train
    import ray.train.torch

    plan: RunPlan = config["plan"]
    plan.check_held()
    plan.storage.delete(f"{plan.folder}/{FAILURE}")

    trainer = ray.train.torch.TorchTrainer(
        worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=needs.num_workers, use_gpu=needs.use_gpu, resources_per_worker=needs.per_worker),
        # NCCL refuses two workers on one GPU.
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if needs.gpus == 1 else "gloo"),
        run_config=ray.train.RunConfig(
            name=_ray_name(plan),
            **plan.storage.for_ray(RAY_FILES),
            failure_config=ray.train.FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures),
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            callbacks=list(callbacks),
        ),
    )
    try:
        returned = trainer.fit().return_value
    except Exception as error:  # of any kind: Ray wraps what happened in a worker, whatever it was
        if found_no_room(error):
            raise NoRoom from error
        raise RunFailed(failure_of(plan) or reason(error)) from error
    failure = failure_of(plan)
    if failure is not None:
        raise RunFailed(failure)
    return None if returned is None else str(returned)


def ray_files(plan: RunPlan) -> str:
    """The folder below the storage root where Ray Train writes what it needs of a run."""
    return f"{RAY_FILES}/{_ray_name(plan)}"


def _ray_name(plan: RunPlan) -> str:
    return f"{plan.recipe.name}-{plan.run_key}"


def run_worker(config: dict[str, Any]) -> str | None:
    """What each worker runs: the loop, with Ray Train's device, wrapping and reports; returns why it left before the run's end."""
    import ray

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that goes away is not waited for: `Outbox` tries again

    def work(plan: RunPlan, device: torch.device) -> str | None:
        workers = Workers(device)
        nodes = workers.all_said(ray.get_runtime_context().get_node_id())
        departure = Departure(config["needs"], nodes, config["settle_s"]) if workers.is_first else None
        try:
            stand = teller(config["progress"]) if config["is_live"] else None
            train(plan, device=device, wrap=wrap, say=sayer(config["progress"]), report=report, leave=departure, stand=stand)
        except Left as left:
            return left.why
        finally:
            if departure is not None:
                departure.close()
        return None

    return guarded(config["plan"], work)


def guarded(plan: RunPlan, work: Callable[[RunPlan, torch.device], T]) -> T | None:
    """Do a worker's work on its device, unless the run is known to be hopeless.

    A hopeless failure is written down before it is raised: the workers that Ray then starts anew return at once. (To return from
    here instead would leave the others waiting for this worker, where it alone has failed.) Not where another process has taken the run
    over, whose workers would return then.
    """
    import ray.train.torch

    if failure_of(plan) is not None:
        return None
    try:
        return work(plan, ray.train.torch.get_device())
    except Exception as error:
        lack = "out of memory: give a smaller batch_size, --accumulate, or --activation-checkpointing" if lacks_memory(error) else None
        if lack is not None or (isinstance(error, (UserError, Hopeless)) and not isinstance(error, Lost)):
            plan.check_held()
            plan.storage.write_bytes(f"{plan.folder}/{FAILURE}", json.dumps({"reason": lack or str(error)}).encode())
        raise


def reason(error: BaseException) -> str:
    """Why a run failed, in one line: the first failed worker's own error, or that it died."""
    failures = getattr(error, "worker_failures", None) or {}
    if (early := getattr(error, "controller_failure", None)) is not None:
        return f"workers could not begin ({first_line(early)})"
    inner = next(iter(failures.values()), error)
    if isinstance(inner, UserError | RunFailed):
        return " ".join(str(inner).split())
    line, kind = first_line(inner), type(inner).__name__
    if hasattr(inner, "health_check_failure"):  # it no longer answers
        return f"a worker died, out of memory or with its machine ({line})"
    return line if isinstance(inner, RuntimeError) or line == kind else f"{kind}: {line}"


def failure_of(plan: RunPlan) -> str | None:
    """Why the run cannot but fail, where a worker has written that down."""
    try:
        return str(json.loads(plan.storage.read_bytes(f"{plan.folder}/{FAILURE}"))["reason"])
    except FileNotFoundError:
        return None


def wrap(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose gradients are averaged over Ray Train's workers."""
    import ray.train.torch

    wrapped: torch.nn.Module = ray.train.torch.prepare_model(module, parallel_strategy_kwargs=OPTIONS)
    return wrapped


def report(metrics: dict[str, float]) -> None:
    """Tell Ray Train how far the run is."""
    import ray.train

    # asynchronous: otherwise the workers wait until the controller polls, about 2 s
    ray.train.report(metrics, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC)
