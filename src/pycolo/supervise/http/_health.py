"""Whether pairs are as they are wanted, and the status of each, as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from pycolo._json import JsonObject, JsonValue
from pycolo._printable import brief
from pycolo.supervise._events import PairStatus


def problem(status: PairStatus) -> str:
    """Why a pair is not as it is wanted, without a full stop; empty if it is, or is paused."""
    if status.paused is not None:
        return ""
    if status.person:
        return brief(status.person)
    state, text = ("unknown", "it was not observed yet")
    if status.standing is not None:
        state, text = status.standing.state, status.standing.text
    is_met = status.is_protected if status.want == "protected" else state == status.want
    return "" if is_met else brief(f"{status.want} is wanted: {text}")


def health_to_json(statuses: Sequence[PairStatus]) -> JsonObject:
    """Whether every pair is as it is wanted, and the problem of each pair that is not."""
    found: dict[str, JsonValue] = {s.pair: problem(s) for s in statuses if problem(s)}
    return {"format_version": 1, "healthy": not found, "problems": found}


def pairs_to_json(statuses: Sequence[PairStatus]) -> JsonObject:
    """The status of each pair, for programs."""
    pairs: list[JsonValue] = [_pair(status) for status in statuses]
    return {"format_version": 1, "pairs": pairs}


def _pair(status: PairStatus) -> JsonObject:
    standing, record = status.standing, status.record
    return {
        "pair": status.pair,
        "want": status.want,
        "paused": status.paused,
        "protected": status.is_protected,
        "state": None if standing is None else standing.state,
        "text": None if standing is None else standing.text,
        "phases": dict(status.phases),
        "holder": None if record is None else record.holder,
        "epoch": None if record is None else record.epoch,
        "busy": status.is_busy,
        "person": status.person,
        "problem": problem(status),
    }
