"""`promote`: a registered version is checked, compared with the champion on the same test images, and promoted or refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from pixelmodels.data import Dataset, find_dataset
from pixelmodels.errors import UserError
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import PixelModel
from pixelmodels.models.files import load_model
from pixelmodels.storage import DEFAULT_STORAGE, Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.promotion import CHAMPION, PREVIOUS, Check, Decision, carry_out
from pixelmodels.tracking.promotion_report import HISTOGRAM, SAMPLES, finish_record, histogram_png, report_files, samples_png, start_record
from pixelmodels.tracking.promotion_statistics import ImageNats, compare
from pixelmodels.tracking.promotion_versions import Version, aliases_of, best_of, choose_name, recorded_nats, version_of, versions_of
from pixelmodels.training import promotion_checks as checks
from pixelmodels.training.conditioning import check_context_fits, check_images_fit
from pixelmodels.training.sample_grids import sample_grid

MODEL = "model"  # the check that it can be loaded and fits the data set
_GRID_SAMPLES = 36
_MIN_BEYOND = 10  # resamples beyond each end of the interval: an end that hangs on fewer is chance


@dataclass(frozen=True)
class Promote:
    """Make a registered version champion if it is sound and better than the champion; status 0 promoted, 1 refused, 2 bad input."""

    version: int | None = None  # of the registered model: the challenger
    best: bool = False  # the challenger is the version with the fewest test bits/dim that never failed a check
    rollback: bool = False  # make the previous champion champion again; the two change places
    name: Annotated[str | None, tyro.conf.arg(aliases=["--dataset"])] = None  # registered model (called as its data set); the only one
    dry_run: bool = False  # decide, and change nothing
    min_gain: float = 0.0  # bits/dim by which the whole interval must be better than the champion
    level: float = 0.95  # of the bootstrap interval: the share of such intervals that hold the true mean
    resamples: int = 10_000  # of the bootstrap
    seed: int = 0  # of the bootstrap, the changed sub-pixels, the samples and which images are scored again
    rescore: int | None = None  # test images scored again, to see that the recorded nats are true; all of them unless given
    tolerance: float = 1e-4  # share by which nats scored again may be off; a mean difference as small is no gain either
    probes: int = 64  # random sub-pixels changed to see that nothing before them does; corners and edges come first in any case
    use_gpu: bool = False  # score on a GPU
    out: Path | None = None  # folder for the report too; it is kept in MLflow in any case (but for a dry run)
    storage: str = DEFAULT_STORAGE  # storage root: a local folder or s3://bucket/prefix

    def __post_init__(self) -> None:
        if (self.version is not None) + self.best + self.rollback != 1:
            raise UserError("give one of --version N, --best and --rollback")
        if not 0 < self.level < 1:
            raise UserError(f"--level {self.level} is no share; give more than 0, less than 1, such as 0.95")
        for name, least in (("version", 1), ("resamples", 100), ("rescore", 1), ("probes", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value} is too few; give {least} or more")
        if round(self.resamples * (1 - self.level) / 2, 6) < _MIN_BEYOND:
            enough = math.ceil(round(2 * _MIN_BEYOND / (1 - self.level), 6))
            raise UserError(f"--resamples {self.resamples} is too few for --level {self.level}; give {enough} or more, or a lower level")
        for name in ("min_gain", "tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is out of range; give 0 or more, less than 1")


def promote(options: Promote) -> Decision:
    """Decide on a version, carry it out and record it; raises `UserError` when there is no such model, version or data set."""
    tracker = Tracker(Storage(options.storage))
    name = choose_name(tracker, options.name)
    aliases = aliases_of(tracker, name)
    champion = version_of(tracker, name, aliases[CHAMPION]) if CHAMPION in aliases else None
    if options.rollback:
        decision = _rollback(tracker, name, champion, aliases.get(PREVIOUS))
    else:
        if options.version is not None:
            challenger = version_of(tracker, name, str(options.version))
        else:
            challenger = best_of(versions_of(tracker, name), champion)
        decision = _decide(options, tracker, challenger, champion)
    if not options.dry_run:
        decision = dataclasses.replace(decision, run_id=start_record(tracker, decision, _params(options)))
        try:
            decision = carry_out(tracker, decision)
        except BaseException:
            assert decision.run_id is not None
            tracker.finish(decision.run_id, "FAILED")
            raise
    return _reported(options, tracker, decision)


def _reported(options: Promote, tracker: Tracker, decision: Decision) -> Decision:
    """The decision with its report written. The aliases are moved by now: what cannot be written is told, and changes no outcome."""
    troubles = []
    if decision.run_id is not None:
        try:
            finish_record(tracker, decision)
        except Exception as error:  # of as many kinds as there are stores
            troubles.append(f"MLflow run {decision.run_id}: {_one_line(error)}")
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            for file, data in report_files(decision).items():
                (options.out / file).write_bytes(data)
        except OSError as error:
            troubles.append(f"--out {options.out}: {_one_line(error)}")
    return dataclasses.replace(decision, unreported="; ".join(troubles))


@dataclass(frozen=True)
class _Loaded:
    """A version with all that its checks need."""

    version: Version
    model: PixelModel
    nats: ImageNats  # as its run recorded them


class _Judge:
    """Checks and compares versions on one data set; needs no lock and changes nothing."""

    def __init__(self, options: Promote, tracker: Tracker, dataset: Dataset) -> None:
        self._options, self._tracker, self._dataset = options, tracker, dataset
        self._test = dataset.read("test")
        count = len(self._test)
        chosen = count if options.rescore is None else min(count, options.rescore)
        self._positions = np.sort(np.random.default_rng(options.seed).permutation(count)[:chosen])

    def decide(self, challenger: Version, champion: Version | None) -> Decision:
        """The decision, with its figures and pictures."""
        found, mine = self._checked(challenger)
        decided = Decision("refused", "", challenger, champion, tuple(found), required=self._options.min_gain)
        theirs, trouble = None, ""
        if champion is not None:
            check, theirs = self._champion(champion)
            if not check.passed:
                trouble = f"the champion, {champion}, is no measure: {check.says}; roll it back, or remove the alias '{CHAMPION}'"
            elif mine is not None and theirs is not None:
                decided, trouble = self._compared(decided, mine, theirs)
        reason = trouble
        if decided.failed:
            reason = "; ".join(f"it fails the check '{check.name}': {check.says}" for check in decided.checks if not check.passed)
        elif not trouble:
            decided, reason = _by_score(decided)
        decided = dataclasses.replace(decided, reason=reason)
        if self._options.dry_run and self._options.out is None:
            return decided
        return dataclasses.replace(decided, pictures=self._pictures(decided, mine, theirs))

    def _checked(self, version: Version) -> tuple[list[Check], _Loaded | None]:
        check, loaded = self._load(version)
        if loaded is None:
            return [check], None
        model, seed = loaded.model, self._options.seed
        return [
            check,
            _tried(checks.CAUSALITY, lambda: checks.check_causality(model, self._test, self._options.probes, seed)),
            self._scored_again(loaded),
            _tried(checks.SAMPLES, lambda: checks.check_samples(model, self._dataset, self._test, seed)),
        ], loaded

    def _champion(self, version: Version) -> tuple[Check, _Loaded | None]:
        """Whether the champion's recorded nats are true."""
        check, loaded = self._load(version)
        return (check, None) if loaded is None else (self._scored_again(loaded), loaded)

    def _load(self, version: Version) -> tuple[Check, _Loaded | None]:
        try:
            model = load_model(self._tracker.model_folder(version.uri))
            check_images_fit(model, self._dataset)
            check_context_fits(model.context_spec, self._dataset, ("test",), "train it on this one")
            loaded = _Loaded(version, model, recorded_nats(self._tracker, version))
        except (UserError, ValueError) as error:
            return Check(MODEL, False, str(error)), None
        return Check(MODEL, True, f"{version.architecture}, {model.num_parameters:,} parameters"), loaded

    def _scored_again(self, loaded: _Loaded) -> Check:
        tagged, device = loaded.version.test_bits_per_dim, "cuda" if self._options.use_gpu else "cpu"
        arguments = (self._dataset, self._test, loaded.nats, tagged, self._positions, self._options.tolerance, device)
        return _tried(checks.LIKELIHOOD, lambda: checks.check_likelihood(loaded.model, *arguments))

    def _compared(self, decided: Decision, mine: _Loaded, theirs: _Loaded) -> tuple[Decision, str]:
        """With the comparison, or why there is none."""
        options, num_subpixels = self._options, self._dataset.spec.num_subpixels
        try:
            found = compare(mine.nats, theirs.nats, num_subpixels, level=options.level, num_resamples=options.resamples, seed=options.seed)
        except ValueError as error:
            return decided, str(error)
        # Nats differ by rounding from one machine to another: a difference that this could make shows nothing.
        by_rounding = options.tolerance * float(bits_per_dim(float(theirs.nats.nll_nats_N.mean()), num_subpixels))
        return dataclasses.replace(decided, comparison=found, required=max(options.min_gain, by_rounding)), ""

    def _pictures(self, decided: Decision, mine: _Loaded | None, theirs: _Loaded | None) -> dict[str, bytes]:
        grids = {f"challenger: {decided.challenger}": self._grid(mine)}
        if decided.champion is not None:
            grids[f"champion: {decided.champion}"] = self._grid(theirs)
        pictures = {SAMPLES: samples_png(grids)}
        if decided.comparison is not None:
            title = f"{decided.challenger.name}: {decided.challenger} against {decided.champion}"
            pictures[HISTOGRAM] = histogram_png(decided.comparison, title)
        return pictures

    def _grid(self, loaded: _Loaded | None) -> np.ndarray | None:
        if loaded is None:
            return None
        try:
            return sample_grid(self._dataset, loaded.model, _GRID_SAMPLES, seed=self._options.seed)
        except Exception:  # the checks have told it
            return None


def _decide(options: Promote, tracker: Tracker, challenger: Version, champion: Version | None) -> Decision:
    if champion is not None and champion.number == challenger.number:
        return Decision("refused", "it is champion already", challenger, champion)
    if champion is not None and champion.dataset != challenger.dataset:
        return _other_data(challenger, champion)
    if options.use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu given, and torch finds no GPU here; leave it out")
    return _Judge(options, tracker, find_dataset(tracker.storage, challenger.dataset)).decide(challenger, champion)


def _other_data(version: Version, champion: Version) -> Decision:
    reason = f"it was trained on data set '{version.dataset}' and the champion on '{champion.dataset}'"
    return Decision("refused", reason, version, champion)


def _by_score(decided: Decision) -> tuple[Decision, str]:
    """The decision on a sound version, by its comparison with the champion."""
    compared = decided.comparison
    if compared is None:
        return dataclasses.replace(decided, outcome="promoted"), "it passes its checks, and there was no champion"
    interval, bound = f"the interval [{compared.low:+.4f}, {compared.high:+.4f}] bits/dim", f"{-decided.required:+.4f}"
    if compared.high < -decided.required:
        return dataclasses.replace(decided, outcome="promoted"), f"it is better than the champion, {interval} lies below {bound}"
    how = "it is worse than the champion" if compared.low > 0 else "it is not shown to be better than the champion"
    return decided, f"{how}, {interval} does not lie below {bound}"


def _rollback(tracker: Tracker, name: str, champion: Version | None, previous: str | None) -> Decision:
    """The decision to go back; refused when the version to go back to is of another data set or cannot be loaded."""
    if champion is None or previous is None or previous == champion.number:
        have = f"the champion is version {champion.number}" if champion else "there is no champion"
        raise UserError(f"registered model '{name}' has no previous champion ({have}); promote a version with --version N")
    back = version_of(tracker, name, previous)
    if back.dataset != champion.dataset:
        return _other_data(back, champion)
    try:
        load_model(tracker.model_folder(back.uri))
    except UserError as error:
        return Decision("refused", f"it cannot be champion again: {error}", back, champion, (Check(MODEL, False, str(error)),))
    return Decision("rolled back", f"it is champion again, and {champion} is '{PREVIOUS}' now", back, champion)


def _tried(name: str, check: Callable[[], Check]) -> Check:
    """What came of a check; any failure of the model under it is the version's own."""
    try:
        return check()
    except Exception as error:
        return Check(name, False, _one_line(error))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _params(options: Promote) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    return {key: value for key, value in values.items() if value is not None and key not in ("out", "dry_run")}
