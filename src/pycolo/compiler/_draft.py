"""A plan being written: the steps so far, and the snapshot they lead to.

Every procedure asks the draft what exists *now*, after the steps emitted so far, and emits the
steps that are missing. So if a procedure stops half-way, compiling it again finishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import final

from pycolo import effects, topology
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
    """A range of steps that share a recovery; opened by `Draft.range`."""

    def __init__(self) -> None:
        """Begin a range that has no steps yet."""
        self.first: int | None = None
        "The index of its first step in the plan, from 0; None before `Draft.begin`."

    def drop(self) -> None:
        """Cancel the range: its steps get no recovery."""
        self.first = None


@final
class Draft:
    """A plan under construction: it collects steps, and is the compiler's only mutable value."""

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

    @cached_property
    def disk_yanks(self) -> tuple[Yank, ...]:
        """The commands that cut a primary's disks off from its peer; many steps share them."""
        return topology.primary_yanks(self.pair)[: len(self.pair.disks)]

    def live(self, node: str) -> Live:
        """The state of a node's QEMU after the steps so far.

        Raises:
            CompileError: No QEMU of the node answers.
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
        limit_s: float | None = None,
        oob: bool = False,
        may_fail: bool = False,
    ) -> str:
        """Add a step that sends a command.

        Args:
            node: The node whose QEMU gets the command.
            command: The command.
            why: The reason, for people.
            accepts: Refusals that count as success.
            rescue: The yanks to send out of band if no answer comes in time.
            limit_s: How long the answer may take, in seconds; None for `Timeouts.command_s`.
            oob: Whether the command is sent out of band.
            may_fail: Whether execution continues if the step fails.

        Returns:
            The step's address.

        Raises:
            CompileError: The node's QEMU does not accept the command, by its schema.
        """
        self._check_accepted(node, command, oob=oob)
        step = Execute(
            address=self._address(node, command.qmp_name, command.subject),
            node=node,
            command=command,
            why=why,
            limit_s=self.timeouts.command_s if limit_s is None else limit_s,
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
        answer_s: float | None = None,
        may_fail: bool = False,
    ) -> str:
        """Add a step that waits for a condition.

        Args:
            node: The node that the wait belongs to.
            what: A word for the address.
            until: The condition that ends the wait.
            why: The reason, for people.
            limit_s: The longest wait, in seconds.
            unless: A condition under which the wait fails at once; None for none.
            stall_s: How long, in seconds, a copy may receive no byte before the wait fails; None
                for no such limit.
            answer_s: How long, in seconds, a QEMU may give no answer before the wait fails; None
                for `Timeouts.command_s`.
            may_fail: Whether execution continues if the step fails.

        Returns:
            The step's address.
        """
        step = Wait(
            address=self._address(node, "wait", what),
            node=node,
            until=until,
            why=why,
            limit_s=limit_s,
            unless=unless,
            stall_s=stall_s,
            answer_s=answer_s,
            may_fail=may_fail,
        )
        return self._add(step)

    def check(self, node: str, what: str, condition: Condition, why: str) -> str:
        """Add a step that checks a condition once.

        Args:
            node: The node that the check belongs to.
            what: A word for the address.
            condition: The condition; if it is false, execution ends.
            why: The reason, for people.

        Returns:
            The step's address.
        """
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
        """Emit a check for each node that it still has exactly the parts in the snapshot.

        So no step makes a part that exists by then.
        """
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
        """Add a step that is done on a node's host.

        Args:
            node: The node.
            verb: A word for the address, such as `stop-qemu`.
            what: What the action concerns, also for the address.
            action: The action.
            why: The reason, for people.
            limit_s: How long the action may take, in seconds.
            may_fail: Whether execution continues if the step fails.

        Returns:
            The step's address.
        """
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
        """Add a step that writes the record in a node's own file.

        Args:
            node: The node.
            what: A word for the address.
            becomes: The new record; it replaces the one in the snapshot, and no other.
            why: The reason, for people.
            needs: The QEMU whose end must be shown by evidence first; None for none.
            may_fail: Whether execution continues if the step fails.

        Returns:
            The step's address.

        Raises:
            CompileError: The node's file was not read, so it cannot be written.
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
            may_fail=may_fail,
        )
        return self._add(step)

    @contextmanager
    def batch(self, name: str) -> Iterator[None]:
        """Mark the commands and checks added in the `with` block to be sent together."""
        self._batch = name
        try:
            yield
        finally:
            self._batch = None

    @contextmanager
    def range(self, why: str, back: Callable[[], Iterable[Execute]]) -> Iterator[Range]:
        """Open a range of steps that share a recovery.

        The range goes from the first step added after `begin` to the last step added in the `with`
        block. If `begin` is not called there, the steps get no recovery.

        Args:
            why: The state of the guest during the range, for people.
            back: Returns the recovery's steps; called at the end of the `with` block.
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
        """Begin the innermost open range at the next step, unless that range has begun."""
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
        """Make a step for a recovery, without adding it to the plan.

        Args:
            node: The node whose QEMU gets the command.
            command: The command.
            why: The reason, for people.
            oob: Whether the command is sent out of band.
            accepts: Refusals that count as success.

        Raises:
            CompileError: The node's QEMU does not accept the command, by its schema.
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
        """Name the step after which the guest serves again, by its address."""
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
        # Tests check all plans against the packaged schemas; checking here would take longer than
        # compiling.
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
