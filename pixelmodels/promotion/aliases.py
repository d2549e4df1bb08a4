"""Decisions on versions carried out: aliases moved, tags written.

Aliases: `champion`, what is served; `previous`, the champion before; `challenger`, the newest sound version that was not shown better.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pixelmodels.promotion.lock import moving_aliases
from pixelmodels.promotion.outcome import Decision, Outcome
from pixelmodels.tracking.runs import Tracker
from pixelmodels.tracking.versions import CHALLENGER, CHAMPION, DECISION_TAG, FAILED_TAG, PREVIOUS, REASON_TAG, ROLLED_BACK, Version

UNFINISHED_TAG = "promotion.unfinished"  # of the registered model: a move of its champion that is under way, or was interrupted
MAX_TAG_CHARACTERS = 500


@dataclass(frozen=True)
class Move:
    """A version that becomes champion, noted with the registered model from before the first change until after the last."""

    outcome: Outcome  # promoted or rolled back
    to: str  # number of the version
    instead_of: str | None  # the champion before; None: there was none

    @classmethod
    def of(cls, decision: Decision) -> Move:
        """The move that a decision asks for."""
        return cls(decision.outcome, decision.challenger.number, decision.champion.number if decision.champion else None)


@dataclass(frozen=True)
class Standing:
    """What the versions of a registered model are."""

    aliases: Mapping[str, str]  # number of the version that each stands for
    unfinished: Move | None = None  # it was interrupted, before, among or after its changes

    def before_rollback(self) -> Mapping[str, str]:
        """The aliases, and where a rollback was interrupted as they were before it: done again, it ends as it would have."""
        move, aliases = self.unfinished, self.aliases
        if move is None or move.outcome != ROLLED_BACK or move.instead_of is None:
            return aliases
        if not {aliases.get(CHAMPION), aliases.get(PREVIOUS)} <= {move.to, move.instead_of}:  # moved since
            return aliases
        return {**aliases, CHAMPION: move.instead_of, PREVIOUS: move.to}

    def awaits(self, decision: Decision) -> bool:
        """Whether the aliases are as they were when this was decided, or as the same move left them where it was interrupted."""
        now, move = self.aliases.get(CHAMPION), Move.of(decision)
        if self.unfinished == move and now in (move.to, move.instead_of):
            return True
        return now == move.instead_of and (move.outcome != ROLLED_BACK or self.aliases.get(PREVIOUS) == move.to)


def standing_of(tracker: Tracker, name: str) -> Standing:
    """What the versions of a registered model are now."""
    found = tracker.client.get_registered_model(name)
    try:
        unfinished = Move(**json.loads(found.tags.get(UNFINISHED_TAG, "")))
    except (ValueError, TypeError):  # there is none
        unfinished = None
    return Standing({alias: str(number) for alias, number in found.aliases.items()}, unfinished)


def carry_out(tracker: Tracker, decision: Decision) -> Decision:
    """Write the tags and move the aliases as decided, unless others have moved the champion since: then it is refused.

    Of two processes that decide at once against the same champion one finds the other's version in its place, and has lost; the
    aliases are read once more when they are moved. A process that is killed in between leaves a note of the move: the same decision,
    carried out again, ends as it would have. Returns what became of the decision.
    """
    name, number = decision.challenger.name, decision.challenger.number
    with moving_aliases(tracker, name):
        standing, noted = standing_of(tracker, name), None
        if decision.outcome != "refused" and not standing.awaits(decision):
            decision = _overtaken(decision, standing)
        if decision.outcome != "refused":
            noted = Move.of(decision)
            tracker.client.set_registered_model_tag(name, UNFINISHED_TAG, json.dumps(dataclasses.asdict(noted)))
            _tag_version(tracker, decision)
            _move(tracker, decision, standing)
            standing = standing_of(tracker, name)
            if standing.aliases.get(CHAMPION) != number:
                decision = _overtaken(decision, standing)
        if decision.outcome == "refused":
            _refuse(tracker, decision, standing)
        against = f" against version {decision.champion.number}" if decision.champion else ""
        last = f"{_now()} version {number} {decision.outcome}{against}: {decision.reason}"[:MAX_TAG_CHARACTERS]
        tracker.client.set_registered_model_tag(name, "promotion.last", last)
        if noted is not None and standing.unfinished == noted:
            with suppress(Exception):  # all is as decided: a note that stays is written over by the next move
                tracker.client.delete_registered_model_tag(name, UNFINISHED_TAG)
    return decision


def _move(tracker: Tracker, decision: Decision, standing: Standing) -> None:
    """Move the aliases; in an order in which, whatever comes in between, the champion is a version that was meant to be one.

    A first champion has no `previous`: one that is left, of another data set perhaps, is removed.
    """
    name, number, client, old = decision.challenger.name, decision.challenger.number, tracker.client, decision.champion
    gone = [CHALLENGER] if standing.aliases.get(CHALLENGER) == number else []
    gone += [PREVIOUS] if old is None and PREVIOUS in standing.aliases else []
    for alias in gone:
        client.delete_registered_model_alias(name, alias)
    moves = [(CHAMPION, number)] if old is None else [(PREVIOUS, old.number), (CHAMPION, number)]
    for alias, to in reversed(moves) if decision.outcome == ROLLED_BACK else moves:
        client.set_registered_model_alias(name, alias, to)


def _refuse(tracker: Tracker, decision: Decision, standing: Standing) -> None:
    """Say it in the version's tags, but for the champion's, of which what is said stays; a sound version is the challenger now."""
    name, number, client = decision.challenger.name, decision.challenger.number, tracker.client
    is_champion = standing.aliases.get(CHAMPION) == number
    if decision.checks and not decision.failed and not is_champion:
        client.set_registered_model_alias(name, CHALLENGER, number)
    elif standing.aliases.get(CHALLENGER) == number:
        client.delete_registered_model_alias(name, CHALLENGER)
    if not is_champion:
        _tag_version(tracker, decision)


def _overtaken(decision: Decision, standing: Standing) -> Decision:
    now = standing.aliases.get(CHAMPION)
    said = f"version {now} is champion now" if now is not None else "there is no champion any more"
    reason = f"the aliases were moved while this was being decided, and {said}; decide again"
    return dataclasses.replace(decision, outcome="refused", reason=reason)


def _tag_version(tracker: Tracker, decision: Decision) -> None:
    """Write a decision to the version's tags; of a rollback first to those of the version that is champion no more."""
    challenger, champion = decision.challenger, decision.champion
    tags = {
        DECISION_TAG: decision.outcome,
        REASON_TAG: decision.reason,
        "promotion.against": champion.number if champion else "",
        "promotion.run_id": decision.run_id or "",
        "promotion.time": _now(),
    }
    if decision.checks:  # else it was decided without them, and what is known of them stays
        tags[FAILED_TAG] = ",".join(decision.failed)
    if decision.outcome == ROLLED_BACK:
        if champion is not None:
            _tag(tracker, champion, {**tags, "promotion.against": challenger.number})
        tags[DECISION_TAG] = "promoted"
    _tag(tracker, challenger, tags)


def _tag(tracker: Tracker, version: Version, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        tracker.client.set_model_version_tag(version.name, version.number, key, value[:MAX_TAG_CHARACTERS])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
