"""How one model is trained: learning rate, schedule, batch, averaging of the weights, clipping."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, cast, get_args

from pixelmodels.recipes.recipe import Recipe, Schedule
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults


class OptimizerSpace:
    """The default recipe with another optimizer."""

    architectures: ClassVar[tuple[str, ...]] = ()

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """The learning rate up to 5 times as high or low; the decay only of the schedule that has one."""
        default = defaults.first
        now = default.optimizer
        schedule = cast(Schedule, ask.choice("schedule", now.schedule, get_args(Schedule)))
        optimizer = dataclasses.replace(
            now,
            learning_rate=ask.real("learning_rate", now.learning_rate, now.learning_rate / 5, now.learning_rate * 5, log=True),
            schedule=schedule,
            decay=1 - ask.real("decay_a_step", 1 - now.decay, 1e-6, 1e-2, log=True) if schedule == "exponential" else now.decay,
            average_decay=ask.choice("average_decay", now.average_decay, (0.0, 0.99, 0.999)),
            clip_norm=ask.choice("clip_norm", now.clip_norm, (0.0, 0.1, 1.0)),
        )
        return dataclasses.replace(default, optimizer=optimizer, batch_size=ask.count("batch_size", default.batch_size, least=1))
