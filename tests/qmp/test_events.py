"""Events."""

from __future__ import annotations

import pytest

from pycolo.errors import ParseError
from pycolo.qmp import (
    BlockExportDeletedEvent,
    BlockJobCancelledEvent,
    BlockJobCompletedEvent,
    BlockJobErrorEvent,
    BlockJobReadyEvent,
    ColoExitEvent,
    Event,
    GuestPanickedEvent,
    JobStatusChangeEvent,
    MigrationEvent,
    OtherEvent,
    QuorumReportBadEvent,
    ResetEvent,
    ResumeEvent,
    ShutdownEvent,
    StopEvent,
    event_from_qmp,
)

_STAMP = {"seconds": 1, "microseconds": 2}
_JOB = {"device": "resync", "type": "mirror", "len": 2, "offset": 2, "speed": 0}

SEEN: list[tuple[str, dict[str, object], Event]] = [
    ("STOP", {}, StopEvent()),
    ("RESUME", {}, ResumeEvent()),
    ("MIGRATION", {"status": "colo"}, MigrationEvent(status="colo")),
    (
        "COLO_EXIT",
        {"mode": "primary", "reason": "error"},
        ColoExitEvent(mode="primary", reason="error"),
    ),
    (
        "JOB_STATUS_CHANGE",
        {"id": "resync", "status": "ready"},
        JobStatusChangeEvent(id="resync", status="ready"),
    ),
    ("BLOCK_JOB_READY", _JOB, BlockJobReadyEvent(id="resync")),
    ("BLOCK_JOB_COMPLETED", _JOB, BlockJobCompletedEvent(id="resync")),
    (
        "BLOCK_JOB_COMPLETED",
        {**_JOB, "error": "I/O"},
        BlockJobCompletedEvent(id="resync", error="I/O"),
    ),
    ("BLOCK_JOB_CANCELLED", _JOB, BlockJobCancelledEvent(id="resync")),
    (
        "BLOCK_JOB_ERROR",
        {"device": "resync", "operation": "write", "action": "report"},
        BlockJobErrorEvent(id="resync", operation="write", action="report"),
    ),
    (
        "QUORUM_REPORT_BAD",
        {"type": "flush", "error": "I/O", "node-name": "nbd0", "sector-num": 0, "sectors-count": 0},
        QuorumReportBadEvent(
            type="flush", error="I/O", node_name="nbd0", sector_num=0, sectors_count=0
        ),
    ),
    ("BLOCK_EXPORT_DELETED", {"id": "e0"}, BlockExportDeletedEvent(id="e0")),
    (
        "SHUTDOWN",
        {"guest": False, "reason": "host-qmp-quit"},
        ShutdownEvent(guest=False, reason="host-qmp-quit"),
    ),
    (
        "RESET",
        {"guest": True, "reason": "guest-reset"},
        ResetEvent(guest=True, reason="guest-reset"),
    ),
    (
        "GUEST_PANICKED",
        {"action": "poweroff", "info": {"type": "s390", "core": 0, "psw-mask": 0}},
        GuestPanickedEvent(action="poweroff"),
    ),
    (
        "NIC_RX_FILTER_CHANGED",
        {"path": "/p"},
        OtherEvent(name="NIC_RX_FILTER_CHANGED", data={"path": "/p"}),
    ),
    ("WAKEUP", {}, OtherEvent(name="WAKEUP")),
]


@pytest.mark.parametrize(("name", "data", "event"), SEEN)
def test_an_event_is_read(name: str, data: dict[str, object], event: Event) -> None:
    """Each event pycolo uses has a class; the rest keep name and data."""
    message: dict[str, object] = {"timestamp": _STAMP, "event": name}
    assert event == event_from_qmp({**message, "data": data} if data else message)


@pytest.mark.parametrize(("name", "data", "event"), SEEN)
def test_an_event_can_be_written(name: str, data: dict[str, object], event: Event) -> None:
    """What stands in for a QEMU can send every event."""
    assert name == event.to_qmp()["event"]
    assert event == event_from_qmp(event.to_qmp())
    assert bool(event.to_qmp().get("data")) <= bool(data)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ([], ""),
        ({"data": {}}, "event"),
        ({"event": "STOP", "data": []}, "data"),
        ({"event": "MIGRATION"}, "data.status"),
        ({"event": "COLO_EXIT", "data": {"mode": "both", "reason": "none"}}, "data.mode"),
        ({"event": "BLOCK_JOB_READY", "data": {"device": 1}}, "data.device"),
        ({"event": "WAKEUP", "data": {"a": {1}}}, "data.a"),
    ],
)
def test_what_is_no_event_is_refused(message: object, path: str) -> None:
    """The error says where."""
    with pytest.raises(ParseError) as caught:
        event_from_qmp(message)
    assert path == caught.value.path


def test_event_without_members_is_one_value() -> None:
    """A checkpoint is two of them; nothing is made anew for each."""
    stop = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}
    assert event_from_qmp(stop) is event_from_qmp({**stop, "data": {}})
