"""The methods of `Host` in terms of the helper's requests, shared by every kind of host."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias, assert_never

import attrs

from pycolo import helper, record
from pycolo._forms import Anything, Forms
from pycolo._json import JsonObject, JsonValue, kebab
from pycolo.errors import CommandUnknown, HostRefused, ParseError
from pycolo.evidence import Evidence, Victim
from pycolo.facts import ClockFacts, HostFacts, NoFacts, Part
from pycolo.hosts import HostState
from pycolo.model.pair import ColoPair
from pycolo.plan import (
    CheckDevices,
    CheckPorts,
    CreateImage,
    HostAction,
    LaunchQemu,
    StopQemu,
)
from pycolo.qmp.replies import Version
from pycolo.record import Change, NoRecord, RecordState, UnreadRecord
from pycolo.snapshot import Running

Ask: TypeAlias = Callable[[str, JsonObject, float], Awaitable[Mapping[str, object]]]
"Performs one operation of the helper; raises `Refused`, `Uncertain` or `OutOfReach`."

_RECORD: Final = "write-record"
HOST_FACTS: Final = Forms(known={JsonValue: Anything()}, omits="defaults").record(HostFacts)
"Reads and writes `HostFacts` as JSON."


class Refused(Exception):
    """The helper refused an operation, which had no effect; see `HostRefused`."""


class Uncertain(Exception):
    """It is not known whether an operation of the helper was done."""


class OutOfReach(Exception):
    """The host cannot be reached; no request was sent."""


FAILED: Final = (Refused, Uncertain, OutOfReach)
"The exceptions that an operation of the helper raises."


async def observe(ask: Ask, pair: ColoPair, node: str, limit_s: float) -> HostState:
    """Read a node's record, and find out whether its QEMU runs; see `Host.observe`."""
    request: JsonObject = {
        **helper.kept_by(pair, node),
        "process": pair.process_path(node),
        "image_folder": pair.node(node).image_folder,
        "monitors": [helper.monitor_json(monitor) for _, monitor in pair.node(node).monitors],
    }
    try:
        found = await ask("observe", request, limit_s)
    except (Refused, Uncertain, OutOfReach) as error:
        return HostState(record=UnreadRecord(why=str(error)))
    return HostState(record=_record(found), folder=str(found["folder"]), running=_running(found))


def _running(found: Mapping[str, object]) -> Running | None:
    how = str(found["how"])
    return Running(instance=str(found["instance"]), how=how) if how else None


def _record(found: Mapping[str, object]) -> RecordState:
    unread, data = found["unread"], found["record"]
    if isinstance(unread, str):
        return UnreadRecord(why=unread, is_host_reached=True)
    if data is None:
        return NoRecord(lost=None if found["lost"] is None else str(found["lost"]))
    return record.loads(base64.b64decode(str(data)))


async def write(ask: Ask, pair: ColoPair, node: str, change: Change, limit_s: float) -> None:
    """Replace a node's record durably, if it is the expected one; see `Host.write`."""
    request: JsonObject = {
        **helper.kept_by(pair, node),
        "expects": record.digest(change.expects),
        "data": base64.b64encode(record.dumps(change.becomes).encode()).decode(),
        "limit_s": limit_s,
    }
    found = await _asked(ask, node, _RECORD, ("swap", request), limit_s)
    if found["written"] is not True:
        why = "the record is not what it was: somebody else has changed it; compile again"
        raise HostRefused(node, _RECORD, why)


async def run(ask: Ask, pair: ColoPair, node: str, action: HostAction, limit_s: float) -> str:
    """Perform an action, such as to start or end a QEMU; see `Host.run`."""
    asked = helper.request_of(pair, node, action, limit_s)
    found = await _asked(ask, node, kebab(type(action)), asked, limit_s)
    match action:
        case CreateImage():
            return "it is there, as declared" if found["there"] is True else ""
        case LaunchQemu():
            return ""
        case CheckPorts() | CheckDevices():
            return str(found["note"])
        case StopQemu():
            return str(found["how"])
        case _:
            assert_never(action)


async def death(ask: Ask, pair: ColoPair, victim: Victim, limit_s: float) -> Evidence | None:
    """Ask for evidence that a QEMU has ended; None if there is none; see `Host.death`."""
    return await _evidence(ask, pair, victim, "death", limit_s)


async def watch(ask: Ask, pair: ColoPair, victim: Victim, limit_s: float) -> Evidence | None:
    """Wait for one QEMU to end; None if the limit passes, or the host does not know it."""
    return await _evidence(ask, pair, victim, "watch", limit_s)


async def _evidence(
    ask: Ask, pair: ColoPair, victim: Victim, name: str, limit_s: float
) -> Evidence | None:
    request: JsonObject = {
        "process": pair.process_path(victim.node),
        "instance": victim.instance,
        "limit_s": limit_s,
    }
    try:
        found = await ask(name, request, limit_s)
    except (Refused, Uncertain, OutOfReach):
        return None
    return evidence_of(victim, found)


def evidence_of(victim: Victim, found: Mapping[str, object]) -> Evidence | None:
    """Turn the helper's answer about a QEMU's end into evidence; None if it has not ended.

    Args:
        victim: The QEMU.
        found: The answer of the operation `death` or `watch`.
    """
    if found["dead"] is not True:
        return None
    return Evidence.of(
        victim, kind="exit", who=str(found["who"]), how=str(found["how"]), when=now()
    )


def now() -> str:
    """The current UTC time as ISO 8601 text, as evidence records it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


async def version(ask: Ask, pair: ColoPair, node: str, limit_s: float) -> Version:
    """Ask the QEMU binary for its version; see `Host.version`."""
    binary = pair.node(node).qemu_binary
    request: JsonObject = {"binary": binary, "limit_s": limit_s}
    found = await _asked(ask, node, "launch-qemu", ("version", request), limit_s)
    told = re.search(r"version (\d+\.\d+\.\d+)", str(found["text"]))
    if told is None:
        raise HostRefused(node, "launch-qemu", f"{binary} tells no version")
    return Version.parse(told[1])


async def facts(
    ask: Ask, pair: ColoPair, node: str, parts: Collection[Part], limit_s: float
) -> HostFacts | NoFacts:
    """Read the facts that a preflight needs; see `Host.facts`."""
    request = helper.facts_request(pair, node, parts, limit_s)
    sent_s = time.time()
    try:
        found = dict(await ask("facts", request, limit_s))
    except FAILED as error:
        return NoFacts(why=str(error))
    received_s = time.time()
    try:
        clock_s, worked_s = (float(str(found.pop(key))) for key in ("clock_s", "worked_s"))
        # The host read its clock at some moment between `sent_s` and `received_s`, and not before
        # it had worked for `worked_s`.
        clock = ClockFacts(
            least_s=clock_s - received_s, most_s=clock_s - min(sent_s + worked_s, received_s)
        )
        read = HOST_FACTS.read({name: found[name] for name in found if name != "forwarding"}, "")
    except (ParseError, ValueError, KeyError) as error:
        return NoFacts(why=f"its helper says what nobody knows: {error}")
    return attrs.evolve(read, clock=clock)


async def _asked(
    ask: Ask, node: str, action: str, asked: tuple[str, JsonObject], limit_s: float
) -> Mapping[str, object]:
    try:
        return await ask(*asked, limit_s)
    except (Refused, OutOfReach) as error:
        raise HostRefused(node, action, str(error)) from error
    except Uncertain as error:
        raise CommandUnknown(node, action, str(error)) from error
