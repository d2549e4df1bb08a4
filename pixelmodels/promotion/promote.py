"""`promote`: a registered version is checked, compared with the champion on the same test images, and promoted or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from pixelmodels.data import find_dataset
from pixelmodels.errors import MachineTrouble, UserError, lacks_memory, one_line
from pixelmodels.models.files import load_model
from pixelmodels.promotion.aliases import Standing, carry_out, standing_of
from pixelmodels.promotion.candidates import best_of, choose_name
from pixelmodels.promotion.judge import MODEL, Judge
from pixelmodels.promotion.options import Promote
from pixelmodels.promotion.outcome import Check, Decision
from pixelmodels.promotion.report import finish_record, report_files, start_record
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.versions import CHAMPION, PREVIOUS, Version, version_of, versions_of


def promote(options: Promote) -> Decision:
    """Decide on a version, carry it out and record it.

    Raises `UserError` when there is no such model, version or data set, and when the machine, MLflow or a store fails: before anything
    is changed, or in the middle of it, where the same command given again ends what was begun.
    """
    tracker = Tracker(Storage(options.storage))
    try:
        decision = _decision(options, tracker)
        if options.dry_run:
            return _reported(options, tracker, decision)
        decision = dataclasses.replace(decision, run_id=start_record(tracker, decision, _params(options)))
    except UserError:
        raise
    except Exception as error:
        raise _undecided(options, error) from error
    try:
        decision = carry_out(tracker, decision)
    except BaseException as error:
        with suppress(Exception):  # what went wrong first is what is told
            tracker.check_reachable()  # MLflow itself would try again for minutes
            tracker.finish(str(decision.run_id), "FAILED")
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(
            f"MLflow failed while it was written down that {decision.challenger} is {decision.outcome}: the aliases of "
            f"'{decision.challenger.name}' may have moved ({one_line(error)}); give the same command again, which does what is missing"
        ) from error
    return _reported(options, tracker, decision)


def _undecided(options: Promote, error: Exception) -> UserError:
    """What to say of trouble that is no finding on a version."""
    remedy = "see to it"
    if lacks_memory(error):
        remedy = "give it more memory, or leave out --use-gpu" if options.use_gpu else "give it more memory"
    return UserError(f"nothing was decided or changed: {one_line(error)}; that is no fault of a version: {remedy}, and try again")


def _decision(options: Promote, tracker: Tracker) -> Decision:
    name = choose_name(tracker, options.name)
    standing = standing_of(tracker, name)
    if options.rollback:
        return _rollback(tracker, name, standing.before_rollback())
    aliases = standing.aliases
    champion = version_of(tracker, name, aliases[CHAMPION]) if CHAMPION in aliases else None
    if options.version is not None:
        challenger = version_of(tracker, name, str(options.version))
    else:
        challenger = best_of(versions_of(tracker, name), champion)
    return _interrupted(tracker, challenger, standing) or _decide(options, tracker, challenger, champion)


def _interrupted(tracker: Tracker, version: Version, standing: Standing) -> Decision | None:
    """The decision by which a version became champion, where it was interrupted after that: there is something left to do."""
    move = standing.unfinished
    if move is None or (move.outcome, move.to) != ("promoted", version.number) or standing.aliases.get(CHAMPION) != version.number:
        return None
    old = None if move.instead_of is None else version_of(tracker, version.name, move.instead_of)
    return Decision("promoted", version.reason or "its promotion was interrupted", version, old)


def _reported(options: Promote, tracker: Tracker, decision: Decision) -> Decision:
    """The decision with its report written. The aliases are moved by now: what cannot be written is told, and changes no outcome."""
    troubles = []
    if decision.run_id is not None:
        try:
            finish_record(tracker, decision)
        except Exception as error:  # of as many kinds as there are stores
            troubles.append(f"MLflow run {decision.run_id}: {one_line(error)}")
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            for file, data in report_files(decision).items():
                (options.out / file).write_bytes(data)
        except OSError as error:
            troubles.append(f"--out {options.out}: {one_line(error)}")
    return dataclasses.replace(decision, unreported="; ".join(troubles))


def _decide(options: Promote, tracker: Tracker, challenger: Version, champion: Version | None) -> Decision:
    if champion is not None and champion.number == challenger.number:
        return Decision("refused", "it is champion already", challenger, champion)
    if champion is not None and champion.dataset != challenger.dataset:
        return _other_data(challenger, champion)
    if options.use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu given, and torch finds no GPU here; leave it out")
    return Judge(options, tracker, find_dataset(tracker.storage, challenger.dataset)).decide(challenger, champion)


def _other_data(version: Version, champion: Version) -> Decision:
    reason = f"it was trained on data set '{version.dataset}' and the champion on '{champion.dataset}'"
    return Decision("refused", reason, version, champion)


def _rollback(tracker: Tracker, name: str, aliases: Mapping[str, str]) -> Decision:
    """The decision to go back; refused when the version to go back to is of another data set or cannot be loaded."""
    previous = aliases.get(PREVIOUS)
    if CHAMPION not in aliases or previous is None or previous == aliases[CHAMPION]:
        have = f"the champion is version {aliases[CHAMPION]}" if CHAMPION in aliases else "there is no champion"
        raise UserError(f"registered model '{name}' has no previous champion ({have}); promote a version with --version N")
    champion, back = (version_of(tracker, name, number) for number in (aliases[CHAMPION], previous))
    if back.dataset != champion.dataset:
        return _other_data(back, champion)
    try:
        load_model(registry.model_folder(tracker, back.uri))
    except (MachineTrouble, OSError):
        raise
    except UserError as error:
        return Decision("refused", f"it cannot be champion again: {error}", back, champion, (Check(MODEL, False, str(error)),))
    return Decision("rolled back", f"it is champion again, and {champion} is '{PREVIOUS}' now", back, champion)


def _params(options: Promote) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    return {key: value for key, value in values.items() if value is not None and key not in ("out", "dry_run")}
