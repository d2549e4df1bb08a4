"""What the driver tells every worker of a run, and what a finished run says of itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pixelmodels.data import Dataset
from pixelmodels.models import PixelModel, build
from pixelmodels.recipes.context import context_spec
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.runs.lock import Hold, Lost
from pixelmodels.runs.result import RUNS, run_folder
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker


class Hopeless(RuntimeError):
    """A failure that another try would only repeat; the message is the reason and the remedy, in one line."""


@dataclass(frozen=True)
class RunPlan:
    """One run as its workers need it; sent to them by Ray, never stored."""

    recipe: Recipe  # what to train
    dataset: Dataset  # its images
    storage: Storage  # where checkpoints and the result go
    run_key: str  # the run's hash
    tracker: Tracker | None = None  # MLflow; None tracks nothing
    mlflow_run_id: str | None = None  # the child run that is written
    registered_name: str | None = None  # registered model that the result becomes a version of
    checkpoint_every_s: float = 0.0  # seconds between checkpoints inside an epoch; 0: at the end of epochs only
    report_every_s: float = 10.0  # least seconds between reports to Ray Train
    report_epochs: bool = False  # report to Ray Train at the end of every epoch, and at no other time
    num_threads: int = 0  # torch's threads in each worker; 0 leaves them alone
    place: str = RUNS  # folder of the storage root in which the run's own folder is
    hold: Hold | None = None  # by which the driver holds the run's folder, or its sweep's; None: nobody else may come

    @property
    def folder(self) -> str:
        """The run's folder below the storage root."""
        return run_folder(self.recipe.name, self.run_key, self.place)

    def check_held(self) -> None:
        """Raise `Lost` where another process has taken the run over: what is written from here on would spoil its files."""
        why = self.hold.lost_to(self.storage) if self.hold is not None else None
        if why is not None:
            raise Lost(f"{why}: this one was not seen for some time, and was taken for dead; follow that one, or give the command again")


def build_model(plan: RunPlan) -> PixelModel:
    """The model of a run with the weights that its seed gives; raises `UserError` where recipe and data do not fit."""
    recipe, dataset = plan.recipe, plan.dataset
    context = context_spec(recipe, dataset)
    torch.manual_seed(recipe.seed)
    return build(recipe.model, dataset.spec, recipe.likelihood, context)
