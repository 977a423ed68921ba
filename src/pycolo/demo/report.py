"""The results of the demonstration, as values; all times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo._forms import Forms
from pycolo._json import JsonObject
from pycolo._mapping import read_only_mappings
from pycolo.demo.messages import Waited

Role: TypeAlias = Literal["alone", "primary", "secondary", "joining"]
"""The role of a node; `joining` is a secondary that is not in lock-step yet."""

Fault: TypeAlias = Literal[
    "kill primary", "kill secondary", "stop primary", "stop secondary", "cut cable"
]
"""A fault and what it happens to: `kill` sends SIGKILL to a QEMU, `stop` sends SIGSTOP. `cut cable`
cuts the cable between the hosts until one of the nodes has continued alone."""


@final
@attrs.frozen(kw_only=True)
class Span:
    """A role of a node, from one time to another."""

    node: str
    role: Role
    from_s: float
    "Seconds since the demo began."
    to_s: float


@final
@attrs.frozen(kw_only=True)
class Moment:
    """A line of text about something that happened, with its time."""

    at_s: float
    "Seconds since the demo began."
    text: str


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Protection:
    """How a guest that ran alone on one node became protected by a second one."""

    primary: str
    secondary: str
    at_s: float
    "When the launch of the new QEMU began, in seconds since the demo began."
    launched_s: float
    "How long the launch took, until the new QEMU answered on its monitor."
    protected_s: float
    "The time from the end of the launch until both guests ran in lock-step."
    proven_s: float
    "The time from then until both QEMUs had made a checkpoint and the plan had ended."
    stops_s: tuple[float, ...]
    "The length of each pause of the guest, until it was protected."
    waits_s: Mapping[str, float]
    "Stream name to its longest notable wait until the guest was protected."
    steps: int
    "The number of steps of the plan."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Failover:
    """How the guest survived a fault.

    Durations count from the fault, unless a field says otherwise.
    """

    fault: Fault
    victim: str
    "The node whose QEMU the fault happened to, or ended after a cut."
    survivor: str
    at_s: float
    "When the signal was sent or the cable was cut, in seconds since the demo began."
    seen_s: float
    "Until the supervisor had evidence that the victim has ended, and began the failover."
    resumed_s: float | None
    "Until the survivor's last RESUME event before service was restored; None if there was none."
    restored_s: float
    "Until the plan's step that saw the guest run outside COLO had ended."
    finished_s: float
    "Until the plan had ended."
    outages_s: Mapping[str, float]
    "Stream name to its longest notable wait."
    connections: int
    "How many of the client's lasting connections there were before the fault."
    survived: int
    "How many of these connections were still the same after the failover."
    acknowledged: int
    "How many disk writes were acknowledged before the disk was read through the guest."
    missing: int | None
    """How many of these the guest did not read back; None if it could not read its disk.

    Under TCG a promoted guest may answer wrongly (qemu-behaviour 1.12): see
    `LifeReport.lost_writes`.
    """
    checkpoints: int
    "How many checkpoints the primary made while the guest was protected."
    protected_s: float
    "How long the guest had been protected before the fault."
    steps: int
    "The number of steps of the plan."


@final
@attrs.frozen(kw_only=True)
class LifeReport:
    """The results of one run of the demonstration."""

    qemu: str
    "QEMU's version."
    checkpoint_delay_ms: int
    isolated: bool
    "Whether hosts and client had network namespaces of their own."
    not_shown: tuple[str, ...]
    "What cannot be shown on this machine, and why."
    failovers_wanted: int
    protections: tuple[Protection, ...]
    failovers: tuple[Failover, ...]
    spans: tuple[Span, ...]
    moments: tuple[Moment, ...]
    waits: tuple[Waited, ...]
    "All notable waits of the client; times count from the beginning of the demo."
    took_s: float
    acknowledged: int
    "How many disk writes were acknowledged in all."
    lost_writes: int | None
    "How many of these the last image lacks at the end; None if it was not read."
    error: str | None
    "Why the demonstration ended early; None if it did not."
    logs: str | None
    "The folder with the logs if something went wrong; else None."

    @property
    def ok(self) -> bool:
        """Whether the life went as planned.

        That is: no error ended it, there were as many failovers and resumes as were wanted, and no
        acknowledged write was lost.
        """
        return (
            self.error is None
            and self.lost_writes == 0
            and len(self.failovers) == len(self.protections) == self.failovers_wanted
        )

    def to_json(self) -> JsonObject:
        """Return the report as JSON, with `format_version` and `ok`."""
        return {"format_version": 1, "ok": self.ok, **_FORM.write(self)}


_FORM: Final = Forms(omits="nothing").record(LifeReport)
