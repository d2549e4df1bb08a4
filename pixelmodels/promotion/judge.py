"""How a registered version is judged: its checks, and its likelihoods beside the champion's on the same test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pixelmodels.data import Dataset
from pixelmodels.errors import MachineTrouble, UserError, device_failed, lacks_memory, one_line
from pixelmodels.evaluation.batches import check_context_fits, check_images_fit
from pixelmodels.evaluation.nats import ImageNats, compare
from pixelmodels.evaluation.sample_grids import sample_grid
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import PixelModel
from pixelmodels.models.context_images import told
from pixelmodels.models.files import load_model
from pixelmodels.promotion import checks
from pixelmodels.promotion.candidates import recorded_nats
from pixelmodels.promotion.outcome import Check, Decision
from pixelmodels.promotion.report import HISTOGRAM, SAMPLES, histogram_png, samples_png
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.versions import CHAMPION, Version

if TYPE_CHECKING:
    from pixelmodels.promotion.options import Promote

MODEL = "model"  # the check that it can be loaded and fits the data set
_GRID_SAMPLES = 36


@dataclass(frozen=True)
class _Loaded:
    """A version with all that its checks need."""

    version: Version
    model: PixelModel
    nats: ImageNats  # as its run recorded them


class Judge:
    """Checks and compares versions on one data set; needs no lock and changes nothing.

    A version fails by what its checks find, by what its own code raises in them, and by files of its own that are gone or damaged. What the
    machine raises, a store or the network, is no finding, and goes through.
    """

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
            decided, reason = by_score(decided)
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
            model = load_model(registry.model_folder(self._tracker, version.uri))
            check_images_fit(model, self._dataset)
            check_context_fits(model.context_spec, self._dataset, ("test",), "train it on this one")
            loaded = _Loaded(version, model, recorded_nats(self._tracker, version))
        except (MachineTrouble, OSError):
            raise
        except UserError as error:
            return Check(MODEL, False, str(error)), None
        return Check(MODEL, True, f"{version.architecture}, {model.num_parameters:,} parameters"), loaded

    def _scored_again(self, loaded: _Loaded) -> Check:
        tagged, device = loaded.version.test_bits_per_dim, "cuda" if self._options.use_gpu else "cpu"
        arguments = (self._dataset, self._test, loaded.nats, tagged, self._positions, self._options.tolerance, device)
        return _tried(checks.LIKELIHOOD, lambda: checks.check_likelihood(loaded.model, *arguments))

    def _compared(self, decided: Decision, mine: _Loaded, theirs: _Loaded) -> tuple[Decision, str]:
        """With the comparison, or why there is none."""
        options, num_subpixels = self._options, self._dataset.spec.num_subpixels
        if mine.model.context_spec != theirs.model.context_spec:
            ours, other = (told(one.model.context_spec) for one in (mine, theirs))
            remedy = f"to begin anew with other models, remove the alias '{CHAMPION}'"
            return decided, f"it is given {ours} of each image and the champion {other}, so their likelihoods do not compare; {remedy}"
        try:
            found = compare(mine.nats, theirs.nats, num_subpixels, level=options.level, num_resamples=options.resamples, seed=options.seed)
        except ValueError as error:
            return decided, str(error)
        # Either record may be as far off as its check lets it be: a difference that this could make shows nothing.
        nats = sum(float(checks.allowed_nats(one.nats.nll_nats_N, options.tolerance).mean()) for one in (mine, theirs))
        by_rounding = float(bits_per_dim(nats, num_subpixels))
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
        except Exception:  # a report is no check
            return None


def _tried(name: str, check: Callable[[], Check]) -> Check:
    """What came of a check; a model whose code raises does not pass it."""
    try:
        return check()
    except Exception as error:
        if isinstance(error, (OSError, UserError)) or lacks_memory(error) or device_failed(error):
            raise
        return Check(name, False, one_line(error))


def by_score(decided: Decision) -> tuple[Decision, str]:
    """The decision on a sound version, by its comparison with the champion."""
    compared = decided.comparison
    if compared is None:
        return dataclasses.replace(decided, outcome="promoted"), "it passes its checks, and there was no champion"
    interval, bound = f"the interval [{compared.low:+z.4f}, {compared.high:+z.4f}] bits/dim", f"{-decided.required:+z.4f}"
    if compared.high < -decided.required:
        return dataclasses.replace(decided, outcome="promoted"), f"it is better than the champion, {interval} lies below {bound}"
    how = "it is worse than the champion" if compared.low > 0 else "it is not shown to be better than the champion"
    return decided, f"{how}, {interval} does not lie below {bound}"
