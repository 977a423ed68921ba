"""A plan being written: the steps so far, and the snapshot they lead to.

Every procedure asks the draft what is there *now*, after its own steps, and emits what is missing.
That is why a procedure that stopped half-way is finished by compiling it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import final

from pycolo import effects
from pycolo.conditions import Condition, InstanceIs, PartsAre
from pycolo.errors import compile_error
from pycolo.evidence import Victim
from pycolo.model.pair import ColoPair, Timeouts
from pycolo.plan import (
    Check,
    DialectName,
    Execute,
    HostAction,
    Options,
    Plan,
    Procedure,
    Record,
    Recovery,
    Refusal,
    RunHost,
    Step,
    Wait,
)
from pycolo.qmp.commands import Command, Yank
from pycolo.qmp.replies import Version
from pycolo.record import NOT_READ, Change, PairRecord, UnreadRecord
from pycolo.snapshot import Live, Snapshot


@final
class Range:
    """A range of steps with a recovery; made by `Draft.range`."""

    def __init__(self) -> None:
        """Begin a range that has no steps yet."""
        self.first: int | None = None
        "The number of its first step; None if none has begun it."

    def drop(self) -> None:
        """Cancel the range: its steps get no recovery."""
        self.first = None


@final
class Draft:
    """Collects steps; the only thing in the compiler that changes."""

    def __init__(
        self,
        procedure: Procedure,
        pair: ColoPair,
        snapshot: Snapshot,
        options: Options,
        *,
        qemu: Mapping[str, Version],
        dialect: DialectName,
    ) -> None:
        """Begin an empty plan."""
        self.pair = pair
        self.now = snapshot
        self._prior_state = snapshot
        self.procedure = procedure
        self._qemu = qemu
        self._dialect: DialectName = dialect
        self._options = options
        self._batch: str | None = None
        self._steps: list[Step] = []
        self._addresses: dict[str, int] = {}
        self._recoveries: list[Recovery] = []
        self._ranges: list[Range] = []
        self._restored_after: str | None = None

    @property
    def timeouts(self) -> Timeouts:
        """The declared limits."""
        return self.pair.timeouts

    def live(self, node: str) -> Live:
        """What the node shows now.

        Raises:
            CompileError: No QEMU answers there.
        """
        live = self.now.live(node)
        if live is None:
            raise compile_error(
                "no-answer", f"{node} does not answer", "launch its QEMU", node=node
            )
        return live

    def execute(
        self,
        node: str,
        command: Command,
        why: str,
        *,
        accepts: tuple[Refusal, ...] = (),
        rescue: tuple[Yank, ...] = (),
        oob: bool = False,
        may_fail: bool = False,
    ) -> str:
        """Add a command; returns its address.

        Raises:
            CompileError: The node's QEMU does not accept it.
        """
        self._check_accepted(node, command, oob=oob)
        step = Execute(
            address=self._address(node, command.qmp_name, command.subject),
            node=node,
            command=command,
            why=why,
            limit_s=self.timeouts.command_s,
            oob=oob,
            accepts=accepts,
            rescue=rescue,
            batch=self._batch,
            may_fail=may_fail,
        )
        return self._add(step)

    def wait(
        self,
        node: str,
        what: str,
        until: Condition,
        why: str,
        *,
        limit_s: float,
        unless: Condition | None = None,
        stall_s: float | None = None,
        may_fail: bool = False,
    ) -> str:
        """Add a wait; returns its address."""
        step = Wait(
            address=self._address(node, "wait", what),
            node=node,
            until=until,
            why=why,
            limit_s=limit_s,
            unless=unless,
            stall_s=stall_s,
            may_fail=may_fail,
        )
        return self._add(step)

    def check(self, node: str, what: str, condition: Condition, why: str) -> str:
        """Add a check; returns its address."""
        address = self._address(node, "check", what)
        step = Check(address=address, node=node, condition=condition, why=why, batch=self._batch)
        return self._add(step)

    def check_instances(self, nodes: Iterable[str]) -> None:
        """Emit a check for each node that its QEMU is still the one the plan is compiled for."""
        for node in nodes:
            instance = self.live(node).instance
            if instance:
                why = "a QEMU that was started anew is another one; compile again for it"
                self.check(node, "instance", InstanceIs(node=node, instance=instance), why)

    def check_parts(self, nodes: Iterable[str]) -> None:
        """Bind the plan to the parts that were found, so that it makes none of them twice."""
        for node in nodes:
            why = "the plan was compiled for these; compile again for others"
            self.check(node, "parts", PartsAre.of(node, self.live(node)), why)

    def run_host(
        self,
        node: str,
        verb: str,
        what: str,
        action: HostAction,
        *,
        why: str,
        limit_s: float,
        may_fail: bool = False,
    ) -> str:
        """Add something to do on the host; returns its address."""
        step = RunHost(
            address=self._address(node, verb, what),
            node=node,
            action=action,
            why=why,
            limit_s=limit_s,
            may_fail=may_fail,
        )
        return self._add(step)

    def record(
        self,
        node: str,
        what: str,
        becomes: PairRecord,
        why: str,
        *,
        needs: Victim | None = None,
        may_fail: bool = False,
    ) -> str:
        """Add the writing of a node's own record; returns its address.

        Raises:
            CompileError: The file was not read, so it cannot be written.
        """
        found = self.now.records.get(node, NOT_READ)
        if isinstance(found, UnreadRecord):
            raise compile_error(
                "unwritten-record",
                f"the record of {node} cannot be written: {found.why}",
                "make its host reachable and its state_dir writable",
                node=node,
            )
        step = Record(
            address=self._address(node, "record", what),
            node=node,
            change=Change(expects=found, becomes=becomes),
            why=why,
            limit_s=self.timeouts.command_s,
            needs=needs,
            batch=self._batch,
            may_fail=may_fail,
        )
        return self._add(step)

    @contextmanager
    def batch(self, name: str) -> Iterator[None]:
        """Send the steps that are added inside together."""
        self._batch = name
        try:
            yield
        finally:
            self._batch = None

    @contextmanager
    def range(self, why: str, back: Callable[[], Iterable[Execute]]) -> Iterator[Range]:
        """Give the steps that are added inside a recovery.

        The range goes from the step that is added after `begin` to the last one inside; without a
        `begin` there is none.

        Args:
            why: What state the guest is in between.
            back: Gives the recovery; called when the last step was added.
        """
        opened = Range()
        self._ranges.append(opened)
        try:
            yield opened
        finally:
            self._ranges.pop()
        if opened.first is not None and opened.first < len(self._steps):
            first, last = self._steps[opened.first].address, self._steps[-1].address
            steps = tuple(back())
            if steps:
                self._recoveries.append(Recovery(first=first, last=last, steps=steps, why=why))

    def begin(self) -> None:
        """Begin the range that was opened last at the next step, unless it has begun."""
        opened = self._ranges[-1]
        if opened.first is None:
            opened.first = len(self._steps)

    def recovery_step(
        self,
        node: str,
        command: Command,
        why: str,
        *,
        oob: bool = False,
        accepts: tuple[Refusal, ...] = (),
    ) -> Execute:
        """A command for a recovery; it is no step of the plan.

        Raises:
            CompileError: The node's QEMU does not accept it.
        """
        self._check_accepted(node, command, oob=oob)
        return Execute(
            address="/".join(filter(None, (node, "recovery", command.qmp_name, command.subject))),
            node=node,
            command=command,
            why=why,
            limit_s=self.timeouts.command_s,
            oob=oob,
            accepts=accepts,
        )

    def restored(self, address: str) -> None:
        """Name the step after which the guest serves again."""
        self._restored_after = address

    def plan(self) -> Plan:
        """The finished plan."""
        return Plan(
            procedure=self.procedure,
            pair=self.pair,
            qemu=self._qemu,
            dialect=self._dialect,
            options=self._options,
            prior_state=self._prior_state,
            planned_state=self.now,
            steps=tuple(self._steps),
            restored_after=self._restored_after,
            recoveries=tuple(self._recoveries),
        )

    def _check_accepted(self, node: str, command: Command, *, oob: bool) -> None:
        live = self.now.live(node)
        # The document's commands are kept as they are, whether or not this QEMU accepts them.
        if live is None or live.schema is None or self._dialect == "doc":
            return
        # All plans are tested against the packaged ones; a check takes longer than the compiling.
        if live.schema.is_packaged:
            return
        for problem in live.schema.check(command, oob=oob):
            why = f"QEMU {live.version} on {node} does not accept {command.qmp_name}: {problem}"
            raise compile_error(
                "unknown-command", why, "run a build of QEMU there that has the command", node=node
            )

    def _address(self, *parts: str) -> str:
        address = "/".join(filter(None, parts))
        times = self._addresses.get(address, 0) + 1
        self._addresses[address] = times
        return address if times == 1 else f"{address}/{times}"

    def _add(self, step: Step) -> str:
        self._steps.append(step)
        self.now = effects.apply(self.pair, self._qemu, self.now, step)
        return step.address
