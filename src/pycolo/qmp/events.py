"""QEMU's events, as values.

``event_from_qmp`` parses every event. An event that pycolo does not use becomes an OtherEvent.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar, Final, Literal, TypeAlias, final, get_args

import attrs
from typing_extensions import override

from pycolo._forms import Anything
from pycolo._json import at, object_at, object_of
from pycolo._mapping import read_only_mappings
from pycolo.errors import ParseError
from pycolo.qmp._base import QmpRecord, QmpValue
from pycolo.qmp.replies import ColoMode, ColoReason

__all__ = [
    "BlockExportDeletedEvent",
    "BlockJobCancelledEvent",
    "BlockJobCompletedEvent",
    "BlockJobErrorEvent",
    "BlockJobReadyEvent",
    "ColoExitEvent",
    "Event",
    "GuestPanickedEvent",
    "JobStatusChangeEvent",
    "MigrationEvent",
    "OtherEvent",
    "QuorumReportBadEvent",
    "ResetEvent",
    "ResumeEvent",
    "ShutdownEvent",
    "StopEvent",
    "event_from_qmp",
]


class _EventData(QmpRecord):
    """An event. Its fields are the members of ``data``; its wire form is the whole message."""

    __slots__ = ()

    qmp_name: ClassVar[str]
    qmp_open: ClassVar[bool] = True

    @override
    def to_qmp(self) -> dict[str, QmpValue]:
        """Give the wire form, without a time stamp; without ``data`` if there is none."""
        data = super().to_qmp()
        return {"event": self.qmp_name, "data": data} if data else {"event": self.qmp_name}


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class StopEvent(_EventData):
    """The guest stopped; in COLO, a checkpoint begins."""

    qmp_name: ClassVar[str] = "STOP"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ResumeEvent(_EventData):
    """The guest runs; in COLO, a checkpoint ended."""

    qmp_name: ClassVar[str] = "RESUME"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrationEvent(_EventData):
    """The migration's state changed; sent only with the capability ``events``.

    Source: qemu-behaviour 4.2.
    """

    qmp_name: ClassVar[str] = "MIGRATION"

    status: str
    """The new state, such as ``active``, ``colo`` or ``failed``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ColoExitEvent(_EventData):
    """COLO ended or broke: the guest is unprotected, whatever the reason (qemu-behaviour 13.8)."""

    qmp_name: ClassVar[str] = "COLO_EXIT"

    mode: ColoMode
    """The side that this QEMU was in COLO."""
    reason: ColoReason
    """Why COLO ended, as QEMU reports it; it may be wrong (qemu-behaviour 8.5)."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class JobStatusChangeEvent(_EventData):
    """A job's state changed."""

    qmp_name: ClassVar[str] = "JOB_STATUS_CHANGE"

    id: str
    """The job's id."""
    status: str
    """The new state, such as ``ready`` or ``concluded``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockJobReadyEvent(_EventData):
    """A mirror has caught up."""

    qmp_name: ClassVar[str] = "BLOCK_JOB_READY"

    id: str = attrs.field(metadata={"qmp_name": "device"})
    """The job's id."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockJobCompletedEvent(_EventData):
    """A block job ended."""

    qmp_name: ClassVar[str] = "BLOCK_JOB_COMPLETED"

    id: str = attrs.field(metadata={"qmp_name": "device"})
    """The job's id."""
    error: str | None = None
    """The error; None if there was none."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockJobCancelledEvent(_EventData):
    """A block job was aborted; the copy of a mirror is then incomplete (qemu-behaviour 5.16)."""

    qmp_name: ClassVar[str] = "BLOCK_JOB_CANCELLED"

    id: str = attrs.field(metadata={"qmp_name": "device"})
    """The job's id."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockJobErrorEvent(_EventData):
    """A block job met an error on a disk."""

    qmp_name: ClassVar[str] = "BLOCK_JOB_ERROR"

    id: str = attrs.field(metadata={"qmp_name": "device"})
    """The job's id."""
    operation: str
    """``read`` or ``write``."""
    action: str
    """How the job reacted, such as ``report``, ``ignore`` or ``stop``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QuorumReportBadEvent(_EventData):
    """A child of a quorum failed: the NBD node of the peer's disk, or the local disk.

    Source: qemu-behaviour 5.11.
    """

    qmp_name: ClassVar[str] = "QUORUM_REPORT_BAD"

    node_name: str
    """The child's node name: `names.nbd` of a disk if the peer's disk failed, else the name of a
    local node."""
    type: Literal["read", "write", "flush"]
    """What failed."""
    error: str | None = None
    """Why; None if the child only disagreed."""
    sector_num: int
    """The first sector, in units of 512 bytes."""
    sectors_count: int
    """The number of sectors; 0 for a flush."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockExportDeletedEvent(_EventData):
    """An export is gone."""

    qmp_name: ClassVar[str] = "BLOCK_EXPORT_DELETED"

    id: str
    """The export's id."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ShutdownEvent(_EventData):
    """The guest is shut down, or QEMU ends."""

    qmp_name: ClassVar[str] = "SHUTDOWN"

    guest: bool
    """Whether the guest asked for it."""
    reason: str
    """Such as ``guest-shutdown`` or ``host-qmp-quit``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ResetEvent(_EventData):
    """The guest was reset."""

    qmp_name: ClassVar[str] = "RESET"

    guest: bool
    """Whether the guest asked for it."""
    reason: str
    """Such as ``guest-reset`` or ``host-qmp-system-reset``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class GuestPanickedEvent(_EventData):
    """The guest's kernel reported by a device that it has panicked."""

    qmp_name: ClassVar[str] = "GUEST_PANICKED"

    action: str
    """What QEMU does about it: ``pause``, ``poweroff`` or ``run``."""


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class OtherEvent:
    """An event that pycolo does not use."""

    name: str
    """Its name in QMP."""
    data: Mapping[str, QmpValue] = attrs.field(factory=dict)
    """Its data as QEMU gave them."""

    def to_qmp(self) -> dict[str, QmpValue]:
        """Give the wire form, without a time stamp; without ``data`` if there is none."""
        return {"event": self.name, "data": dict(self.data)} if self.data else {"event": self.name}


_Known: TypeAlias = (
    StopEvent
    | ResumeEvent
    | MigrationEvent
    | ColoExitEvent
    | JobStatusChangeEvent
    | BlockJobReadyEvent
    | BlockJobCompletedEvent
    | BlockJobCancelledEvent
    | BlockJobErrorEvent
    | QuorumReportBadEvent
    | BlockExportDeletedEvent
    | ShutdownEvent
    | ResetEvent
    | GuestPanickedEvent
)

Event: TypeAlias = _Known | OtherEvent
"""Every event; a closed union."""

_DATA: Final = "data"


@functools.cache
def _events_by_name() -> dict[str, type[_Known]]:
    kinds: tuple[type[_Known], ...] = get_args(_Known)
    return {kind.qmp_name: kind for kind in kinds}


@functools.cache
def _bare_events() -> dict[str, _Known]:
    """The events without members, by name; each parse returns the same value.

    A pair sends two of them at every checkpoint.
    """
    kinds = _events_by_name().items()
    return {name: kind.from_qmp({}) for name, kind in kinds if not attrs.fields(kind)}


def event_from_qmp(value: object, path: str = "") -> Event:
    """Parse an event's wire form; its time stamp is left out.

    Args:
        value: The decoded JSON: ``{"event": ..., "data": {...}}``.
        path: Where ``value`` stands in its document, for the error.

    Raises:
        ParseError: ``value`` is not an event, or the data of an event that pycolo uses lack a
            member or have one of the wrong type.
    """
    message = object_at(value, path)
    name = message.get("event")
    if not isinstance(name, str):
        raise ParseError(at(path, "event"), "be a string", name)
    data = object_at(message.get(_DATA, {}), at(path, _DATA))
    bare = _bare_events().get(name)
    if bare is not None:
        return bare
    kind = _events_by_name().get(name)
    if kind is None:
        return OtherEvent(name=name, data=object_of(Anything().read(data, at(path, _DATA))))
    return kind.from_qmp(data, at(path, _DATA))
