"""The loop of one worker: train, validate, save, test. Called by Ray Train, or bare in a process of one's own.

All workers hold the same weights and take the same decisions; the first one writes, prints and looks at the clock.
A checkpoint holds all that the rest of the run depends on, so that a run which goes on from it ends where it would
have ended anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial, reduce
from operator import add

import numpy as np
import torch
from torch import nn

from pixelmodels.data import Dataset
from pixelmodels.data.feeds import Feed, SizedFeed, first_rows
from pixelmodels.data.rows import Rows
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.evaluation.sample_grids import sample_grid
from pixelmodels.evaluation.scores import mixed_nats, score_orders, summarize_orders
from pixelmodels.layers.dropout import use_keys
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import PixelModel
from pixelmodels.products import products
from pixelmodels.progress import Say, Standing, duration
from pixelmodels.ray_cluster import num_cores
from pixelmodels.runs.result import RunResult, finished
from pixelmodels.training.ahead import InputMaker, StepInputs, StepPart, made_ahead
from pixelmodels.training.augmentation import Augmentation
from pixelmodels.training.averaging import Average
from pixelmodels.training.finish import write_result
from pixelmodels.training.finite import FiniteCheck
from pixelmodels.training.optimization import autocast, checkpoint_activations, make_optimizer, moments
from pixelmodels.training.orders import drawn_orders, turned_rows
from pixelmodels.training.outbox import Epoch, Outbox
from pixelmodels.training.plan import RunPlan, build_model
from pixelmodels.training.state import Position, RunState
from pixelmodels.training.workers import Workers, averaging_gradients, data_parallel, keep_compiled, keep_freed_memory
from pixelmodels.training.writer import Writer

Report = Callable[[dict[str, float]], None]
Leave = Callable[[], str | None]
Stand = Callable[[Standing], None]

_LOOK_EVERY_S = 0.5  # about how often the clock is looked at, in steps agreed on by all workers
_LINE_EVERY_S = 30.0  # seconds between lines inside an epoch


class Left(Exception):
    """Raised in every worker of a run that was asked to leave before its end, after a checkpoint."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def train(
    plan: RunPlan,
    *,
    device: torch.device | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    say: Say = print,
    report: Report | None = None,
    after_step: Callable[[int], None] | None = None,
    leave: Leave | None = None,
    stand: Stand | None = None,
) -> RunResult:
    """Train one run to its end, from its newest checkpoint if it has one, and test it.

    Args: `device` of this worker (CPU if not given); `wrap` makes a module data-parallel (torch's own if not given);
    `say` prints a line; `report` tells Ray Train how far the run is; `after_step(step)` is called after each step;
    `leave`, of the first worker, says between steps why all of them should save and leave (raises `Left`), None: go on;
    `stand`, of the first worker, is told how far the run is, in place of the lines that say it.
    Call it in every worker, inside the process group if there is one.
    """
    return Loop(plan, device or torch.device("cpu"), wrap, say, report, after_step, leave, stand).run()


class Loop:
    """One worker's side of a run."""

    def __init__(
        self,
        plan: RunPlan,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        say: Say = print,
        report: Report | None = None,
        after_step: Callable[[int], None] | None = None,
        leave: Leave | None = None,
        stand: Stand | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        if plan.recipe.compile:
            keep_compiled()
        if plan.num_threads:
            torch.set_num_threads(min(plan.num_threads, num_cores()))
        self.plan, self.recipe, self.device, self.after_step = plan, plan.recipe, device, after_step
        self.workers = Workers(device)
        self.say = say if self.workers.is_first else lambda _: None
        self.report, self.leave = report, leave
        self.stand = stand if self.workers.is_first else None
        seed, batch_size = self.recipe.seed, self.recipe.batch_size
        self.feed: Feed = SizedFeed(plan.dataset, self.workers, seed=seed, batch_size=batch_size, shared=self.workers.share_tasks)
        self.num_images = plan.dataset.num_images("train")
        self.steps_per_epoch = -(-self.num_images // self.recipe.batch_size)
        self.total_steps = self.steps_per_epoch * self.recipe.epochs
        self.outbox = Outbox(plan, self.say)
        self.finite = FiniteCheck(plan.dataset, self.feed, self.workers, self.steps_per_epoch)

        self.model = build_model(plan).to(device)
        self.average = Average(self.model, self.recipe.optimizer.average_decay)
        if self.recipe.activation_checkpointing:
            checkpoint_activations(self.model)
        self.optimizer = make_optimizer(self.model, self.recipe.optimizer)
        self.writer = Writer()  # an epoch's checkpoint is whole only when MLflow was told of the epoch, or what it is to be told is kept
        self.state = RunState(plan, self.workers, device, self.model, self.average, self.optimizer, self.writer)
        self._restore()
        self.parallel = data_parallel(self.model, self.workers, wrap, self.recipe.compile)
        if self.recipe.compile and self.position.epoch < self.recipe.epochs:
            self.say(f"{self.recipe.name}: the training step is compiled first, which takes some minutes where it was not before")
        num_moved = round(self.recipe.augmented_share * self.total_steps)
        levels, mutated_share = plan.dataset.spec.levels, self.recipe.mutated_share
        augmentation = Augmentation(self.recipe.shift, self.recipe.mirror, num_moved, mutated_share, levels)
        stand_in, spec = _one_image(plan.dataset), self.model.context_spec
        self._make_inputs = InputMaker(device, spec, stand_in, seed, self.recipe.accumulate, augmentation)

        now = time.monotonic()
        self._clock = self._reported = self._saved = self._said = now
        self._session_start, self._session_first_step = now, self.position.step
        self._next_look = self.position.step + 1

    @property
    def position(self) -> Position:
        """How far the run is."""
        return self.state.position

    def run(self) -> RunResult:
        """Train to the end and test."""
        with closing(self.writer):
            self.train()
            return self._finish()

    def train(self) -> None:
        """Train to the end, without the test and what comes with it; however it ends, what was to be written is."""
        try:
            while self.position.epoch < self.recipe.epochs and not self._out_of_patience():
                self._train_epoch()
                self._end_epoch()
        except BaseException:
            self.writer.close()
            raise
        self.writer.wait()

    # ---- one epoch

    def _train_epoch(self) -> None:
        position, started = self.position, time.monotonic()
        self.model.train()
        step_nats: list[torch.Tensor] = []  # of this worker, not yet in the position
        with closing(made_ahead(self.inputs(position.epoch, position.epoch_step, position.step))) as steps:
            for inputs in steps:
                step_nats.append(self._step(inputs))
                position.step += 1
                position.epoch_step += 1
                position.epoch_images += inputs.num_images
                position.train_images += inputs.num_images
                if self.after_step is not None:
                    self.after_step(position.step)
                if position.step >= self._next_look:
                    started = self._look(step_nats, started)
        self._collect(step_nats, started)

    def inputs(self, epoch: int, epoch_step: int, step: int) -> Iterator[StepInputs]:
        """What this worker takes in each step of an epoch, from one of its steps on, which is step `step` of the run."""
        with self._make_inputs.copying():
            for number, (rows, step_images) in enumerate(self.feed.training_rows(epoch, epoch_step), step):
                yield self._make_inputs(rows, step_images, self.workers.share(0, step_images)[0], number)

    def _step(self, inputs: StepInputs) -> torch.Tensor:
        """One optimizer step on this worker's images of it; returns the sum of their nats."""
        config = self.recipe.optimizer
        learning_rate = config.learning_rate_at(self.position.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with products("tf32" if self.recipe.precision == "tf32" else "ieee", self.device):
            nats = self._gradient(inputs)
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.average.update(self.model, self.position.step)
        return nats

    def _gradient(self, inputs: StepInputs) -> torch.Tensor:
        """The gradient of a step, of all workers' images; returns the sum of the nats of this worker's images."""
        inputs.arrive()
        self.optimizer.zero_grad(set_to_none=True)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in inputs.parts:
            nats += self._backward(part, inputs.num_images, is_last=part is inputs.parts[-1])
        return nats

    def _backward(self, part: StepPart, step_images: int, *, is_last: bool) -> torch.Tensor:
        """Add the gradient of some images' nats a sub-pixel, divided by the images of the whole step.

        Workers average their gradients, hence the factor: the sum over workers is the gradient of the step's mean
        whatever each one's number of images. A worker without any scores one that stands in with weight zero, because
        all workers must take part.
        """
        scale = self.workers.count / (step_images * self.plan.dataset.spec.num_subpixels)
        context = part.context(self.model.context_spec, self.recipe.context_drop_rate)
        use_keys(self.model, part.keys_B)
        with averaging_gradients(self.parallel, is_last):
            with autocast(self.device, self.recipe.precision):
                nll_nats = -self.parallel(part.batch.x_BCHW, context).sum()
            (nll_nats * (scale * part.weight)).backward()
        return nll_nats.detach().double() * part.weight

    def _end_epoch(self) -> None:
        """Validate, keep what is best, save, and say how it stands."""
        position, recipe, spec = self.position, self.recipe, self.plan.dataset.spec
        train_bits_per_dim = self._train_bits_per_dim()
        self._check_weights()
        if position.epoch + 1 < recipe.epochs:
            self.feed.begin(position.epoch + 1)  # while this one is validated
        nats_NK = self._score("validation")
        self.finite.scores("validation", mixed_nats(nats_NK), f"in epoch {position.epoch + 1}")
        scores = summarize_orders(nats_NK, spec.num_subpixels)
        images_per_second = position.epoch_images / max(1e-9, position.epoch_seconds)
        position.epoch, position.epoch_step = position.epoch + 1, 0
        position.epoch_nats, position.epoch_images, position.epoch_seconds = 0.0, 0, 0.0
        position.val_bits_per_dim.append(scores.bits_per_dim)
        if scores.bits_per_dim < position.best_bits_per_dim:
            position.best_step, position.best_epoch = position.step, position.epoch
            position.best_bits_per_dim = scores.bits_per_dim
        self._count_seconds()
        metrics = {
            "train/bits_per_dim": train_bits_per_dim,
            "val/bits_per_dim": scores.bits_per_dim,
            "val/nll_nats": scores.nll_nats,
            "images_per_second": images_per_second,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if scores.raster_bits_per_dim is not None:
            metrics["val/raster_bits_per_dim"] = scores.raster_bits_per_dim
        if self.workers.is_first:
            self.plan.check_held()
            self._track(metrics, position.epoch)
        self._save()
        if self.stand is not None:
            self.stand(self._standing(images_per_second))
        else:
            self.say(
                f"{recipe.name}: epoch {position.epoch}/{recipe.epochs}  "
                f"train {train_bits_per_dim:z.4f}  val {scores.bits_per_dim:z.4f} bits/dim  "
                f"{images_per_second:.0f} images/s  {self._left()} left"
            )
        self._said = time.monotonic()
        if self._decide(report=self.plan.report_epochs or self._said - self._reported >= self.plan.report_every_s)[0]:
            self._report(metrics)

    def _check_weights(self) -> None:
        """See that a checkpoint of now would be finite."""
        trained: dict[str, Mapping[str, torch.Tensor]] = {
            "weight": dict(self.model.named_parameters()),
            "averaged weight": dict(self.average.model.named_parameters()),
            "the optimizer's moment": moments(self.optimizer, self.model),
        }
        self.finite.tensors(trained, self.position.step)

    # ---- looking at the clock, together

    def _look(self, step_nats: list[torch.Tensor], started: float) -> float:
        """Save or report where the first worker's clock says so; returns when the training clock goes on from.

        After an epoch's last step that comes by itself, and only who has to leave does not wait for what follows it.
        """
        now, plan, position = time.monotonic(), self.plan, self.position
        goes_on = position.epoch_step < self.steps_per_epoch
        save_due = goes_on and plan.checkpoint_every_s > 0 and now - self._saved >= plan.checkpoint_every_s
        report_due = goes_on and not plan.report_epochs and now - self._reported >= plan.report_every_s
        steps = max(1, int(_LOOK_EVERY_S / max(1e-4, self._seconds_per_step())))
        if 0 < plan.checkpoint_every_s < _LOOK_EVERY_S:
            steps = 1
        why = self.leave() if self.leave is not None else None
        report, save, steps, leave = self._decide(report=report_due, save=save_due or why is not None, steps=steps, leave=why is not None)
        self._next_look = position.step + steps
        if save or report:
            started = self._collect(step_nats, started)
            self._check_weights()
        if save:
            self._count_seconds()
            self._save()
        if leave:
            self.writer.wait()
            raise Left(why or "the first worker leaves")
        if report:
            self._report({"train/bits_per_dim": self._train_bits_per_dim()})
        if self.stand is not None:
            done = (position.step - self._session_first_step) * self.recipe.batch_size
            self.stand(self._standing(done / max(1e-9, now - self._session_start)))
        elif now - self._said >= _LINE_EVERY_S and self.workers.is_first:
            self._said = now
            share = position.epoch_step / self.steps_per_epoch
            self.say(f"{self.recipe.name}: epoch {position.epoch + 1}/{self.recipe.epochs} {share:.0%}  {self._left()} left")
        return time.monotonic() if save or report else started

    def _decide(self, *, report: bool, save: bool = False, steps: int = 1, leave: bool = False) -> tuple[bool, bool, int, bool]:
        """The first worker's decisions, known to all."""
        reported, saved, agreed, left = self.workers.told_by_first([float(report), float(save), float(steps), float(leave)])
        return bool(reported), bool(saved), int(agreed), bool(left)

    def _collect(self, step_nats: list[torch.Tensor], started: float) -> float:
        """Add all workers' training nats to the position and the time since `started` to the training time."""
        of_steps = torch.stack(step_nats).tolist() if step_nats else []
        total = float(self.workers.sum(np.array([reduce(add, of_steps, 0.0)]))[0])
        self.finite.steps(of_steps, total, self.position.step)
        self.position.epoch_nats += total
        step_nats.clear()
        now = time.monotonic()
        self.position.epoch_seconds += now - started
        self.position.train_seconds += now - started
        return now

    def _train_bits_per_dim(self) -> float:
        return float(bits_per_dim(self.position.epoch_nats / self.position.epoch_images, self.plan.dataset.spec.num_subpixels))

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self._clock
        self._clock = now

    def _seconds_per_step(self) -> float:
        """Of this session, with all that goes on between steps."""
        return (time.monotonic() - self._session_start) / max(1, self.position.step - self._session_first_step)

    def _left_s(self) -> float:
        """Seconds that all steps to come will take."""
        return (self.total_steps - self.position.step) * self._seconds_per_step()

    def _left(self) -> str:
        return duration(self._left_s())

    def _standing(self, images_per_second: float) -> Standing:
        """How far the run is, with the speed of late."""
        position, epochs = self.position, self.recipe.epochs
        bits = position.val_bits_per_dim[-1] if position.val_bits_per_dim else None
        share = position.step / max(1, self.total_steps)
        return Standing(self.recipe.name, share, position.epoch, epochs, bits, images_per_second, self._left_s())

    def _out_of_patience(self) -> bool:
        waited = self.position.epoch - self.position.best_epoch
        return self.recipe.patience > 0 and self.position.best_epoch >= 0 and waited >= self.recipe.patience

    # ---- checkpoints

    def _save(self) -> None:
        self.state.save()
        self._saved = time.monotonic()

    def _restore(self) -> None:
        self.state.restore(self.say)
        position, epochs = self.position, self.recipe.epochs
        if position.step == 0:
            self._initialize()
            return
        where = f"epoch {position.epoch + 1}/{epochs}, {position.epoch_step}/{self.steps_per_epoch} steps of it done"
        if position.epoch == epochs:
            where = "all epochs done"
        self.say(f"{self.recipe.name}: going on from step {position.step} ({where})")

    def _initialize(self) -> None:
        """What the architecture takes from the images of the first step, whoever scores them later; the same in all workers."""
        if type(self.model).initialize is PixelModel.initialize:
            return  # it takes nothing: leave the images unread
        if self.workers.is_first:
            rows = first_rows(self.plan.dataset, seed=self.recipe.seed, batch_size=self.recipe.batch_size)
            order_N, num_orders = None, self.model.context_spec.num_orders
            if num_orders > 1:  # turned as the first step has them, whoever scores them
                order_N = drawn_orders(num_orders, self.recipe.seed, 0, np.arange(len(rows)))
                rows = turned_rows(rows, order_N)
            self.model.initialize(*to_tensors(rows, self.device, self.model.context_spec, order_N))
        self.workers.copy_from_first(self.model.parameters())
        self.average.model.load_state_dict(self.model.state_dict())

    # ---- the end

    def _finish(self) -> RunResult:
        """Test the weights that validated best, draw from them, and write what came of the run."""
        plan, position, spec = self.plan, self.position, self.plan.dataset.spec
        self.state.restore_best(self.say)
        nats_NK = self._score("test")
        self.finite.scores("test", mixed_nats(nats_NK), f"after {position.epoch} epoch(s)")
        scores = summarize_orders(nats_NK, spec.num_subpixels)
        self._count_seconds()
        result = None
        if self.workers.is_first:
            self.writer.wait()
            result = write_result(plan, position, self.average.model, scores, nats_NK, self.workers.count, self.outbox)
        self.workers.wait()
        self._report({"test/bits_per_dim": scores.bits_per_dim, "val/bits_per_dim": position.best_bits_per_dim})
        result = result or finished(plan.storage, plan.folder)
        if result is None:
            raise RuntimeError(f"the first worker wrote no result in {plan.storage.uri(plan.folder)}")
        return result

    # ---- small parts

    def _score(self, split: str) -> np.ndarray:
        """Nats of each image of a split by each order under the averaged weights, N K."""
        batches = self.feed.rows_in_order(split, self.recipe.evaluation_batch_size)
        num_images = self.plan.dataset.num_images(split)
        return score(self.average.model, batches, num_images, self.workers, self.device)

    def _track(self, metrics: Mapping[str, float], epoch: int) -> None:
        if self.plan.tracker is None:
            return
        time_ms, picture_HWC = int(time.time() * 1000), None
        if self.recipe.draws_grid(epoch):
            picture_HWC = sample_grid(self.plan.dataset, self.average.model, self.recipe.num_samples, seed=self.recipe.seed)
        self.writer.bring(partial(self.outbox.tell, Epoch(epoch, time_ms, metrics, picture_HWC)))

    def _report(self, metrics: dict[str, float]) -> None:
        if self.report is not None:
            self.report({**metrics, "epoch": float(self.position.epoch), "step": float(self.position.step)})
        self._reported = time.monotonic()


def _one_image(dataset: Dataset) -> Rows:
    """An image that stands in where a worker has none."""
    vectors_NV = np.zeros((1, dataset.vector_size), np.float32)
    return Rows(np.zeros((1, *dataset.spec.shape), np.uint8), np.zeros(1, np.int32), vectors_NV)


def score(model: PixelModel, batches: Iterator[Rows], num_images: int, workers: Workers, device: torch.device) -> np.ndarray:
    """Nats of each image of a split given its whole context, by each order of the model, known to every worker: float64, N K.

    Args: `batches`, this worker's share of the split's `num_images`, one after the other (see `Feed.rows_in_order`).
    """
    nats_NK = np.zeros((num_images, model.context_spec.num_orders))
    position, _ = workers.share(0, num_images)
    for rows in batches:
        nats_NK[position : position + len(rows)] = score_orders(model, rows, device)
        position += len(rows)
    return workers.sum(nats_NK)  # each entry is one worker's value and the others' zeros: exact
