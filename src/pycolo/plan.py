"""A plan: steps in total order, inert data, exactly what runs.

Nothing in here can be called. A plan can be compared, printed, saved and executed, and each of
these readers sees the same value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo._mapping import read_only_mappings
from pycolo.conditions import Condition
from pycolo.errors import DeclarationError
from pycolo.evidence import Victim
from pycolo.model import _rules as rules
from pycolo.model.disk import ImageFormat
from pycolo.model.hardware import GuestDevice
from pycolo.model.pair import ColoPair
from pycolo.qmp.commands import Command, Yank
from pycolo.qmp.replies import Version
from pycolo.record import Change, PairRecord
from pycolo.snapshot import Snapshot

Procedure: TypeAlias = Literal[
    "launch",
    "start",
    "set-checkpoint-delay",
    "failover",
    "resume",
    "stop",
    "converge",
    "switch-over",
    "shutdown",
    "checkpoint",
    "forget",
]
DialectName: TypeAlias = Literal["auto", "doc"]


@final
@attrs.frozen(kw_only=True)
class Refusal:
    """A refusal that means the goal is reached already."""

    text: str
    "Words that QEMU's message contains."
    error_class: str = "GenericError"
    "QEMU's error class."


@final
@attrs.frozen(kw_only=True)
class Execute:
    """Send one command and take its reply."""

    address: str
    "Unique in the plan: node, command and what it acts on."
    node: str
    "The node that gets it."
    command: Command
    why: str
    "The reason, with the fact or section behind it."
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    "How long the reply may take."
    oob: bool = False
    "Out of band: past a main loop that may be stuck."
    accepts: tuple[Refusal, ...] = ()
    "Refusals that count as done."
    rescue: tuple[Yank, ...] = ()
    "Sent out of band, one by one, when the limit passes."
    batch: str | None = None
    "Consecutive steps of one batch are sent together and all awaited before the next step."
    may_fail: bool = False
    "Execution continues even if this step fails."


@final
@attrs.frozen(kw_only=True)
class Wait:
    """Wait until a condition holds."""

    address: str
    node: str
    "The node it is mostly about."
    until: Condition
    why: str
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    "How long it may take."
    unless: Condition | None = None
    "What makes further waiting pointless."
    stall_s: float | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.seconds))
    )
    "How long the copy that it waits for may continue without a byte arriving."
    may_fail: bool = False
    "Execution continues even if this step fails."


@final
@attrs.frozen(kw_only=True)
class Check:
    """Require that a condition holds now."""

    address: str
    node: str
    condition: Condition
    why: str
    batch: str | None = None
    "See `Execute.batch`."


@final
@attrs.frozen(kw_only=True)
class CreateImage:
    """Create an image on the node's host; one that exists is checked and never overwritten."""

    path: str
    image_format: ImageFormat
    size_bytes: int
    argv: tuple[str, ...]
    "The command line, derived from the declaration."


@final
@attrs.frozen(kw_only=True)
class LaunchQemu:
    """Start a QEMU on the node's host, in a session of its own, unless one runs there."""

    role: Literal["primary", "secondary"]
    "What it is started as; secondaries wait for an incoming state."
    instance: str
    "The identity it gets."
    argv: tuple[str, ...]
    "The command line, derived from the declaration."
    record: PairRecord | None = None
    "What the node's own file must still say when the process is made; None for a secondary."


@final
@attrs.frozen(kw_only=True)
class StopQemu:
    """End one QEMU on the node's host, and see it end; that is evidence of its death."""

    instance: str
    "Its identity: no other one is ended."
    at_once: bool = False
    "Send SIGKILL at once: it gets no time to end by itself, and may be unable to."


@final
@attrs.frozen(kw_only=True)
class CheckPorts:
    """See from the node's host that TCP ports of another host are let through; changes nothing.

    One that is closed is let through: the other host says so. Name no port on which a QEMU listens
    already: it takes the connection for its peer's (qemu-behaviour 19.8).
    """

    host: str
    "The other host's address."
    ports: tuple[int, ...]
    "What this node's QEMU will connect to there."


@final
@attrs.frozen(kw_only=True)
class CheckDevices:
    """See that the QEMU installed on the node's host knows devices and their properties.

    A process of its own is asked, which has no guest: there are devices about which a QEMU cannot
    be asked and live (qemu-behaviour 23.1). Those are left to the launch.
    """

    devices: tuple[GuestDevice, ...]
    "What the guest is to have."


HostAction: TypeAlias = CreateImage | LaunchQemu | StopQemu | CheckPorts | CheckDevices


@final
@attrs.frozen(kw_only=True)
class RunHost:
    """Do something on the node's host; typed, never a free command line."""

    address: str
    node: str
    action: HostAction
    why: str
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    may_fail: bool = False
    "Execution continues even if this step fails."


@final
@attrs.frozen(kw_only=True)
class Record:
    """Write one node's own file of the pair's record, by compare-and-swap, durably."""

    address: str
    node: str
    "The node whose file it is."
    change: Change
    "What must be there and what replaces it."
    why: str
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    needs: Victim | None = None
    "The QEMU whose end must be shown by evidence, which is written into the record."
    batch: str | None = None
    "See `Execute.batch`."
    may_fail: bool = False
    "Execution continues even if this step fails."


Step: TypeAlias = Execute | Wait | Check | RunHost | Record


OFFLINE_BIRTH: Final = "00000000"
"The birth in a launch that was compiled offline: like its identities it is not drawn by chance."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Options:
    """What a plan was asked for besides its procedure: with it the same plan is compiled again.

    Each procedure uses some of them; the others have their defaults.
    """

    survivor: str | None = None
    "The node that survives, in `failover`; None for the one that answers."
    peer: str | None = None
    "Who shall protect the guest, in `start`, `resume` and `converge`; None for whom records name."
    checkpoint_delay_ms: int | None = None
    "For `set-checkpoint-delay`, 1 to 4294967295; the declared one if None."
    nodes: tuple[str, ...] = ()
    "Which nodes `launch` starts; both if empty."
    newest: str | None = None
    "Who holds the newest data by an operator's statement, in `launch`."
    gone: str | None = None
    "The node that `forget` takes out of the record."
    instances: Mapping[str, str] = attrs.field(factory=dict)
    "Node to the identity its QEMU gets in `launch`."
    birth: str = ""
    "What tells a new pair from others of its name, in `launch`."
    qemu: Mapping[str, Version] = attrs.field(factory=dict)
    "Node to the version of the QEMU installed there, in `launch`."
    assume_good: tuple[Version, ...] = ()
    "Versions the operator vouches for."


@final
@attrs.frozen(kw_only=True)
class Recovery:
    """What brings the guest back when execution ends inside a range of steps."""

    first: str
    "Address of the first step of the range."
    last: str
    "Address of the last one; when it is done, the range is left."
    steps: tuple[Execute, ...]
    "Sent in order, each whatever became of the one before."
    why: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that its steps act on, each once."""
        return tuple(dict.fromkeys(step.node for step in self.steps))


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Plan:
    """An ordered procedure across both nodes.

    Raises:
        DeclarationError: Two steps have the same address, a step names a node that the pair does
            not have, or a range or `restored_after` names a step that is not there.
    """

    procedure: Procedure
    pair: ColoPair
    "The declaration it was compiled from."
    qemu: Mapping[str, Version]
    "Node to the QEMU version it was compiled for."
    dialect: DialectName
    prior_state: Snapshot
    "What it was compiled from."
    planned_state: Snapshot
    "What is there after the last step: the fold of the steps' effects over `prior_state`."
    steps: tuple[Step, ...]
    options: Options = attrs.field(factory=Options)
    "What it was asked for besides its procedure."
    restored_after: str | None = None
    "Address of the step after which the guest serves again; None if it never stops serving."
    recoveries: tuple[Recovery, ...] = ()

    @override
    def __str__(self) -> str:
        """The plan as `pycolo plan` prints it, without colours."""
        from pycolo.render.text import render  # noqa: PLC0415 - a reader; it imports plans

        return render(self)

    def __attrs_post_init__(self) -> None:
        named = [(f"steps[{n}].address", step.address) for n, step in enumerate(self.steps)]
        rules.distinct("Plan", named, "an address is given once")
        self._check_nodes()
        self._check_ranges([step.address for step in self.steps])

    def _check_nodes(self) -> None:
        known = self.pair.names
        acting = [(f"steps[{n}].node", step.node) for n, step in enumerate(self.steps)]
        for n, recovery in enumerate(self.recoveries):
            acting += [
                (f"recoveries[{n}].steps[{k}].node", s.node) for k, s in enumerate(recovery.steps)
            ]
        for field, name in acting:
            if name not in known:
                raise DeclarationError(f"Plan.{field}", name, f"be one of {', '.join(known)}")

    def _check_ranges(self, addresses: list[str]) -> None:
        named = [] if self.restored_after is None else [("restored_after", self.restored_after)]
        for n, recovery in enumerate(self.recoveries):
            named += [
                (f"recoveries[{n}].first", recovery.first),
                (f"recoveries[{n}].last", recovery.last),
            ]
        for field, address in named:
            if address not in addresses:
                rule = "be the address of one of the plan's steps"
                raise DeclarationError(f"Plan.{field}", address, rule)
        for n, recovery in enumerate(self.recoveries):
            if addresses.index(recovery.first) > addresses.index(recovery.last):
                rule = f"not stand behind {recovery.last}, where the range ends"
                raise DeclarationError(f"Plan.recoveries[{n}].first", recovery.first, rule)

    def step(self, address: str) -> Step:
        """The step at an address.

        Raises:
            DeclarationError: The plan has no step of that address.
        """
        for step in self.steps:
            if step.address == address:
                return step
        raise DeclarationError("address", address, "be the address of a step of the plan")

    def nodes(self) -> tuple[str, ...]:
        """The nodes its steps act on, each once, in the plan's order."""
        return tuple(dict.fromkeys(step.node for step in self.steps))

    def for_node(self, name: str) -> tuple[Step, ...]:
        """The steps that act on one node, in the plan's order.

        Args:
            name: A node of the pair, a spare included.

        Raises:
            DeclarationError: The pair has no such node.
        """
        self.pair.node(name)
        return tuple(step for step in self.steps if step.node == name)

    @property
    def digest(self) -> str:
        """The SHA-256 of the plan as JSON, in hexadecimal digits; an approval can name it."""
        from pycolo.wire import dumps, plan_to_json  # noqa: PLC0415 - a reader; it imports plans

        return hashlib.sha256(dumps(plan_to_json(self)).encode()).hexdigest()

    @property
    def acts(self) -> bool:
        """Whether it does more than check; the plan of a finished procedure does not."""
        return any(not isinstance(step, Check) for step in self.steps)

    def victims(self) -> tuple[Victim, ...]:
        """The QEMUs whose end must be shown by evidence before the plan does anything."""
        needed = [step.needs for step in self.steps if isinstance(step, Record)]
        return tuple(dict.fromkeys(victim for victim in needed if victim is not None))
