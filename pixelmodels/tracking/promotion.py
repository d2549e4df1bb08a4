"""Which version of a registered model is champion: what was decided of a version, carried out on aliases and tags.

Aliases: `champion`, what is served; `previous`, the champion before; `challenger`, the newest sound version that was not shown better.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from pixelmodels.tracking.client import patiently
from pixelmodels.tracking.promotion_lock import moving_aliases
from pixelmodels.tracking.promotion_statistics import Comparison
from pixelmodels.tracking.promotion_versions import DECISION_TAG, FAILED_TAG, ROLLED_BACK, Version, aliases_of
from pixelmodels.tracking.runs import Tracker

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
MAX_TAG_CHARACTERS = 500
Outcome = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True)
class Check:
    """What came of one check of a version."""

    name: str
    passed: bool
    says: str  # figures, or what is wrong


@dataclass(frozen=True)
class Decision:
    """What was decided of a version, and why."""

    outcome: Outcome
    reason: str
    challenger: Version
    champion: Version | None  # whom it was compared with; None: there was none
    checks: tuple[Check, ...] = ()
    comparison: Comparison | None = None  # None: it did not come to that
    required: float = 0.0  # bits/dim that the interval must lie below minus this
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNG files by name
    run_id: str | None = None  # MLflow run that holds the report; None: a dry run
    unreported: str = ""  # why the report could not be written (the decision stands); empty: it was

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that the challenger failed."""
        return tuple(check.name for check in self.checks if not check.passed)


def carry_out(tracker: Tracker, decision: Decision) -> Decision:
    """Move the aliases and write the tags as decided, unless others have moved the champion since: then it is refused.

    Of two processes that decide at once against the same champion one finds the other's version in its place, and has lost. In a
    promotion `previous` is moved first, in a rollback `champion`: a process that is killed in between leaves a champion that was
    meant to be one. A first champion has no `previous`: one that is left, of another data set perhaps, is removed. Returns what became
    of the decision.
    """
    name, number, client = decision.challenger.name, decision.challenger.number, tracker.client
    with moving_aliases(tracker, name):
        aliases = aliases_of(tracker, name)
        now, old = aliases.get(CHAMPION), decision.champion
        if decision.outcome != "refused" and (
            now != (old.number if old else None) or (decision.outcome == ROLLED_BACK and aliases.get(PREVIOUS) != number)
        ):
            decision = dataclasses.replace(decision, outcome="refused", reason=_overtaken(now))
        moves = [(CHAMPION, number)] + ([(PREVIOUS, old.number)] if old else [])
        if decision.outcome != "refused":
            if old is None and PREVIOUS in aliases:
                patiently(lambda: client.delete_registered_model_alias(name, PREVIOUS))
            for alias, to in moves if decision.outcome == ROLLED_BACK else reversed(moves):
                patiently(partial(client.set_registered_model_alias, name, alias, to))
        if decision.outcome == "refused" and decision.checks and not decision.failed and number != now:
            patiently(lambda: client.set_registered_model_alias(name, CHALLENGER, number))
        elif aliases.get(CHALLENGER) == number:
            patiently(lambda: client.delete_registered_model_alias(name, CHALLENGER))
        if decision.outcome != "refused" or number != now:  # what is said of a champion stays, whatever is asked of it again
            _tag_version(tracker, decision)
        against = f" against version {old.number}" if old else ""
        last = f"{_now()} version {number} {decision.outcome}{against}: {decision.reason}"[:MAX_TAG_CHARACTERS]
        patiently(lambda: client.set_registered_model_tag(name, "promotion.last", last))
    return decision


def _overtaken(now: str | None) -> str:
    said = f"version {now} is champion now" if now is not None else "there is no champion any more"
    return f"the aliases were moved while this was being decided, and {said}; decide again"


def _tag_version(tracker: Tracker, decision: Decision) -> None:
    """Write a decision to the version's tags; of a rollback also to those of the version that is champion no more."""
    challenger, champion = decision.challenger, decision.champion
    tags = {
        DECISION_TAG: decision.outcome,
        "promotion.reason": decision.reason,
        "promotion.against": champion.number if champion else "",
        "promotion.run_id": decision.run_id or "",
        "promotion.time": _now(),
    }
    if decision.checks:  # else it was decided without them, and what is known of them stays
        tags[FAILED_TAG] = ",".join(decision.failed)
    if decision.outcome != ROLLED_BACK:
        _set_tags(tracker, challenger, tags)
        return
    _set_tags(tracker, challenger, {**tags, DECISION_TAG: "promoted"})
    if champion is not None:
        _set_tags(tracker, champion, {**tags, "promotion.against": challenger.number})


def _set_tags(tracker: Tracker, version: Version, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        patiently(partial(tracker.client.set_model_version_tag, version.name, version.number, key, value[:MAX_TAG_CHARACTERS]))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
