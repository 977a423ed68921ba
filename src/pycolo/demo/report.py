"""What the demo found out, as values; all times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo._forms import Forms
from pycolo._json import JsonObject
from pycolo._mapping import read_only_mappings
from pycolo.demo.messages import Waited

Role: TypeAlias = Literal["alone", "primary", "secondary", "joining"]
"""What a node is for a while; `joining` is a secondary that is not in lock-step yet."""

Fault: TypeAlias = Literal["kill primary", "kill secondary", "stop primary", "stop secondary"]
"""What happens to whose QEMU: SIGKILL ends it, SIGSTOP has it stop responding."""


@final
@attrs.frozen(kw_only=True)
class Span:
    """What a node was for a while."""

    node: str
    role: Role
    from_s: float
    "Since the demo began."
    to_s: float


@final
@attrs.frozen(kw_only=True)
class Moment:
    """Something that happened."""

    at_s: float
    "Since the demo began."
    text: str


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Protection:
    """How a guest on one node came to run on both."""

    primary: str
    secondary: str
    at_s: float
    "Since the demo began, when the new QEMU was launched."
    launched_s: float
    "Until the new QEMU could be spoken to."
    protected_s: float
    "From then until both guests ran in lock-step."
    proven_s: float
    "From then until a checkpoint had been seen on both and the plan ended."
    stops_s: tuple[float, ...]
    "How long the guest was paused, each time, before it was protected."
    waits_s: Mapping[str, float]
    "The longest wait of each of the client's streams until it was protected, if notable."
    steps: int
    "Steps of the plan."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Failover:
    """How the guest outlived a QEMU. Durations count from the fault unless told otherwise."""

    fault: Fault
    victim: str
    survivor: str
    at_s: float
    "Since the demo began, when the signal was sent."
    seen_s: float
    "Until the supervisor had evidence of the end of the process."
    resumed_s: float | None
    "Until QEMU's last RESUME before service was restored; None if it said none."
    restored_s: float
    "Until the executor saw the guest running outside COLO."
    finished_s: float
    "Until the last step of the plan."
    outages_s: Mapping[str, float]
    "How long each of the client's streams waited, if notable."
    connections: int
    "Connections with a request in flight or now and then, before."
    survived: int
    "How many of them answered again."
    acknowledged: int
    "Disk writes acknowledged before the disk was read back, through the guest."
    missing: int
    "How many of these the guest's disk does not hold."
    checkpoints: int
    "Checkpoints since the guest was protected."
    protected_s: float
    "How long it had been protected."
    steps: int
    "Steps of the plan."


@final
@attrs.frozen(kw_only=True)
class LifeReport:
    """The whole life of a pair."""

    qemu: str
    "QEMU's version."
    checkpoint_delay_ms: int
    isolated: bool
    "Whether hosts and client had network namespaces of their own."
    not_shown: tuple[str, ...]
    "What could not be shown here, and why."
    failovers_wanted: int
    protections: tuple[Protection, ...]
    failovers: tuple[Failover, ...]
    spans: tuple[Span, ...]
    moments: tuple[Moment, ...]
    waits: tuple[Waited, ...]
    "All notable waits of the client, since the demo began."
    took_s: float
    acknowledged: int
    "Disk writes acknowledged in all."
    lost_writes: int | None
    "How many of them the survivor's image does not hold at the end; None if it was not read."
    error: str | None
    "Why the life ended early."
    logs: str | None
    "Folder with the logs, kept if something went wrong."

    @property
    def ok(self) -> bool:
        """Whether every failover and resume was done and nothing acknowledged was lost."""
        return (
            self.error is None
            and self.lost_writes == 0
            and all(failover.missing == 0 for failover in self.failovers)
            and len(self.failovers) == len(self.protections) == self.failovers_wanted
        )

    def to_json(self) -> JsonObject:
        """Give it as JSON, with `format_version` and `ok`."""
        return {"format_version": 1, "ok": self.ok, **_FORM.write(self)}


_FORM: Final = Forms(omits="nothing").record(LifeReport)
