"""A plan: the steps of a procedure in order, as plain data.

A plan contains no functions. It can be compared, printed, saved and executed; exactly the steps
that are printed and saved are executed.
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
    """A refusal by QEMU that means that the step's goal has already been reached."""

    text: str
    "A part of QEMU's message."
    error_class: str = "GenericError"
    "QEMU's error class."


@final
@attrs.frozen(kw_only=True)
class Execute:
    """Send one command and wait for its reply."""

    address: str
    "The step's name, unique in the plan: node, command and the object that the command acts on."
    node: str
    "The node to which the command is sent."
    command: Command
    why: str
    "The reason, with the entry of qemu-behaviour that it relies on."
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    "How long the reply may take, in seconds."
    oob: bool = False
    "Whether to send the command out of band, so that a stuck main loop does not delay it."
    accepts: tuple[Refusal, ...] = ()
    "Refusals that count as done."
    rescue: tuple[Yank, ...] = ()
    "Yanks that are sent out of band, one by one, if the limit passes; then the wait is repeated."
    batch: str | None = None
    "Consecutive steps of one batch are sent together; the next step waits for all of them."
    may_fail: bool = False
    "Execution continues even if this step fails."


@final
@attrs.frozen(kw_only=True)
class Wait:
    """Wait until a condition is true."""

    address: str
    node: str
    "The node that the condition is mainly about."
    until: Condition
    why: str
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    "How long the wait may take, in seconds."
    unless: Condition | None = None
    "A condition that ends the wait as refused: if it is true, waiting longer is pointless."
    stall_s: float | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.seconds))
    )
    "How long the copy that is waited for may make no progress, in seconds; None for no limit."
    answer_s: float | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.seconds))
    )
    """How long a QEMU may give no answer during the wait, in seconds; None for the pair's
    `Timeouts.command_s`."""
    may_fail: bool = False
    "Execution continues even if this step fails."


@final
@attrs.frozen(kw_only=True)
class Check:
    """Require that a condition is true now; if it is not, execution ends."""

    address: str
    node: str
    condition: Condition
    why: str
    batch: str | None = None
    "See `Execute.batch`."


@final
@attrs.frozen(kw_only=True)
class CreateImage:
    """Create a file on the node's host: a disk's image, an overlay, or the firmware's variables.

    If a file exists at that path, it is checked and not written to. The step is refused if the
    existing file has another format, size or encryption. A later step that copies a disk to this
    node overwrites the data in the disk's image, also in one that existed.
    """

    path: str
    "The file's path on the node's host."
    image_format: ImageFormat
    "The format of the file."
    size_bytes: int
    "The virtual size; of the firmware's variables, the size of the file."
    argv: tuple[str, ...]
    "The command line, derived from the declaration."


@final
@attrs.frozen(kw_only=True)
class LaunchQemu:
    """Start a QEMU on the node's host, detached from this process, unless one runs there.

    The host waits until the first monitor answers. The step is refused, and no QEMU is started, if
    a QEMU of this node runs already, a port is in use, or the node's record is not `record`.
    """

    role: Literal["primary", "secondary"]
    "The role that the QEMU is started in; a secondary waits for an incoming migration."
    instance: str
    "The identity of the new QEMU."
    argv: tuple[str, ...]
    "The command line, derived from the declaration."
    record: PairRecord | None = None
    "The record that the node's file must still hold when QEMU is started; None for a secondary."


@final
@attrs.frozen(kw_only=True)
class StopQemu:
    """End one QEMU on the node's host and wait for its end, which is evidence of its death.

    The host sends SIGTERM, and SIGKILL if the process still exists after half of the step's limit.
    A QEMU that has ended already counts as ended by this. The step is refused, and no process
    is signalled, if the host does not know this QEMU, and its outcome is unknown if the QEMU does
    not end within the limit.
    """

    instance: str
    "The identity of the QEMU; no other QEMU is ended."
    at_once: bool = False
    "Whether to send SIGKILL at once, for a QEMU that may be unable to end by itself."


@final
@attrs.frozen(kw_only=True)
class CheckPorts:
    """Check from the node's host that no firewall blocks TCP ports of another host.

    Nothing is changed. A closed port is not blocked: the other host refuses the connection. Do not
    name a port on which a QEMU listens already: it would take the connection for its peer's
    (qemu-behaviour 19.8).
    """

    host: str
    "The other host's address."
    ports: tuple[int, ...]
    "The ports of the other host to which this node's QEMU will connect."


@final
@attrs.frozen(kw_only=True)
class CheckDevices:
    """Check that the QEMU installed on the node's host knows devices and their properties.

    A separate QEMU process without a guest is asked, because QEMU aborts if it is asked about some
    devices (qemu-behaviour 23.1). Those devices are only tested by the launch.
    """

    devices: tuple[GuestDevice, ...]
    "The devices that the guest will have."


HostAction: TypeAlias = CreateImage | LaunchQemu | StopQemu | CheckPorts | CheckDevices


@final
@attrs.frozen(kw_only=True)
class RunHost:
    """Execute one of the known actions on the node's host; never an arbitrary command line."""

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
    """Write one node's own record file, by compare-and-swap, and flush it to the disk."""

    address: str
    node: str
    "The node whose file is written."
    change: Change
    "The content that the file must have, and the new content."
    why: str
    limit_s: float = attrs.field(validator=rules.Valid(rules.seconds))
    needs: Victim | None = None
    "The QEMU that evidence must show to have ended; the evidence is written into the record."
    may_fail: bool = False
    "Execution continues even if this step fails."


Step: TypeAlias = Execute | Wait | Check | RunHost | Record


OFFLINE_BIRTH: Final = "00000000"
"The birth in a launch that was compiled offline; like its identities, it is not random."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Options:
    """The options of a plan's procedure; with them the same plan can be compiled again.

    Each procedure uses some of the options; the others have their defaults.
    """

    survivor: str | None = None
    "The node that survives, in `failover`; None for the one that answers."
    peer: str | None = None
    "The node to protect the guest, in `start`, `resume`, `converge`; None for the record's choice."
    checkpoint_delay_ms: int | None = None
    "For `set-checkpoint-delay`, 1 to 4294967295; the declared one if None."
    nodes: tuple[str, ...] = ()
    "Which nodes `launch` starts; both if empty."
    newest: str | None = None
    "The node that holds the newest data by an operator's statement, in `launch`."
    gone: str | None = None
    "The node that `forget` removes from the record."
    # Left out of the text if None, so that plans of earlier versions stay valid.
    left_to: str | None = attrs.field(default=None, metadata={"sparse": True})
    """The secondary, if its own agent does the failover of a `switch-over`.

    The plan then ends the primary's QEMU and waits. None if the plan does the failover as well.
    """
    instances: Mapping[str, str] = attrs.field(factory=dict)
    "Node name to the identity that its QEMU gets in `launch`."
    birth: str = ""
    "A random text that tells a new pair from others of the same name, in `launch`."
    qemu: Mapping[str, Version] = attrs.field(factory=dict)
    "Node name to the version of the QEMU installed there, in `launch`."
    assume_good: tuple[Version, ...] = ()
    "QEMU versions that the operator vouches for."


@final
@attrs.frozen(kw_only=True)
class Recovery:
    """The steps that bring the guest back if execution ends inside a range of steps."""

    first: str
    "Address of the first step of the range."
    last: str
    "Address of the last step of the range; when it is done, the recovery is no longer needed."
    steps: tuple[Execute, ...]
    "The recovery steps, executed in order; each is executed even if the one before failed."
    why: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that the recovery steps act on, each once."""
        return tuple(dict.fromkeys(step.node for step in self.steps))


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Plan:
    """The steps of a procedure on the nodes of a pair, in order.

    Raises:
        DeclarationError: Two steps have the same address, a step names a node that the pair does
            not have, or a range or `restored_after` names a step that is not there.
    """

    procedure: Procedure
    pair: ColoPair
    "The declaration that the plan was compiled from."
    qemu: Mapping[str, Version]
    "Node name to the QEMU version that the plan was compiled for."
    dialect: DialectName
    prior_state: Snapshot
    "The state that the plan was compiled from."
    planned_state: Snapshot
    "The state after the last step: the effects of all steps applied to `prior_state`."
    steps: tuple[Step, ...]
    options: Options = attrs.field(factory=Options)
    "The options of the procedure."
    restored_after: str | None = None
    "Address of the step after which the guest serves again; None if it never stops serving."
    recoveries: tuple[Recovery, ...] = ()

    @override
    def __str__(self) -> str:
        """The plan as `pycolo plan` prints it, without colours."""
        from pycolo.render.text import render  # noqa: PLC0415 - that module imports this one

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
        """The step with an address; the steps of recoveries are not searched.

        Args:
            address: The step's `address`, such as `alpha/launch-qemu/primary`.

        Raises:
            DeclarationError: None of `steps` has that address.
        """
        for step in self.steps:
            if step.address == address:
                return step
        raise DeclarationError("address", address, "be the address of a step of the plan")

    def nodes(self) -> tuple[str, ...]:
        """The nodes that the steps act on, each once, in the plan's order."""
        return tuple(dict.fromkeys(step.node for step in self.steps))

    def for_node(self, name: str) -> tuple[Step, ...]:
        """The steps of one node, checks included, in the plan's order; empty if it has none.

        Args:
            name: A node of the pair, a spare included.

        Raises:
            DeclarationError: The pair has no such node.
        """
        self.pair.node(name)
        return tuple(step for step in self.steps if step.node == name)

    @property
    def digest(self) -> str:
        """The SHA-256 of the plan as JSON, in hexadecimal digits; an approval can refer to it."""
        from pycolo.wire import dumps, plan_to_json  # noqa: PLC0415 - that module imports this one

        return hashlib.sha256(dumps(plan_to_json(self)).encode()).hexdigest()

    @property
    def acts(self) -> bool:
        """Whether a step is not a check; the plan of a procedure that is done has only checks."""
        return any(not isinstance(step, Check) for step in self.steps)

    def victims(self) -> tuple[Victim, ...]:
        """The QEMUs that evidence must show to have ended before a record of the plan is written.

        The plan may end such a QEMU itself, as that of `switch-over` does.
        """
        needed = [step.needs for step in self.steps if isinstance(step, Record)]
        return tuple(dict.fromkeys(victim for victim in needed if victim is not None))
