"""The next step towards the wanted state of a pair, as one pure function.

Take a snapshot, call `next_step`, do the step, and begin again. `next_step` asks no QEMU and
changes nothing; its result is valid for that snapshot alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal, TypeAlias, final, get_args

import attrs

from pycolo import compiler, record
from pycolo._mapping import read_only_mappings
from pycolo.compiler.roles import IN_COLO, PRIMARIES, TWO_GUESTS, WITHOUT_GUEST
from pycolo.conditions import END_OR_LET_GO
from pycolo.errors import CompileError, UndecidedError, VersionError, compile_error, undecided
from pycolo.findings import Code, Finding
from pycolo.model import ColoPair, tls
from pycolo.model import _rules as rules
from pycolo.plan import Check, Options, Plan, Procedure, Wait
from pycolo.qmp.replies import Version
from pycolo.qmp.states import RUN_STANDING
from pycolo.snapshot import Dead, Live, Role, Snapshot, Unreachable, Unresponsive, role_of

Want: TypeAlias = Literal["protected", "unprotected", "stopped"]
"""The wanted state: a protected guest, a guest that runs alone, or no QEMU."""


def check_want(field: str, want: object) -> None:
    """Refuse a value that is not one of `Want`.

    Args:
        field: The field's name in the error.
        want: The value to check.

    Raises:
        DeclarationError: The value is not one of `Want`.
    """
    rules.one_of(*get_args(Want))(field, want)


@final
@attrs.frozen(kw_only=True)
class Act:
    """Execute this plan now."""

    plan: Plan


@final
@attrs.frozen(kw_only=True)
class Launch:
    """Start a QEMU: compile `launch` for this node and execute the plan."""

    node: str
    role: Literal["primary", "secondary"]
    "The role of the new QEMU."


@final
@attrs.frozen(kw_only=True)
class Prove:
    """Find out whether a QEMU has ended; no other step is safe before that.

    Ask its host. If the QEMU has ended, execute `plan` with the evidence, or take another snapshot
    if there is no plan. If the QEMU answers again, it was busy: take another snapshot. Fence the
    QEMU only if it neither ends nor answers.
    """

    node: str
    instance: str
    "The identity of the QEMU; empty if it is not known."
    plan: Plan | None
    "The failover that needs the evidence; None if no node is left that could fail over."


@final
@attrs.frozen(kw_only=True)
class End:
    """End this QEMU: nothing needs it any more."""

    node: str
    instance: str
    "The identity of the QEMU: end no other one."
    why: str


@final
@attrs.frozen(kw_only=True)
class Decide:
    """There is no safe step: a person must decide, or remove a cause."""

    findings: tuple[Finding, ...]
    "The reasons, one or more."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Settled:
    """The pair is in the wanted state."""

    armed: Mapping[str, Plan]
    "The surviving node's name to its failover plan, to be kept ready; empty if not protected."


NextStep: TypeAlias = Act | Launch | Prove | End | Decide | Settled

# Used only to find out whether a launch would be refused; the installed version is read later.
_ANY_VERSION: Final = Version.parse("11.1.3")
# Codes of refusals by a record that names another node: the data of this node is not needed.
_NO_RIGHTS: Final[frozenset[Code]] = frozenset({"not-eligible", "outdated"})


def next_step(
    pair: ColoPair,
    snapshot: Snapshot,
    want: Want = "protected",
    *,
    armed: Mapping[str, Plan] | None = None,
    avoid: Collection[str] = (),
    others: Collection[str] = (),
    assume_good: Collection[Version] = (),
) -> NextStep:
    """The next step that brings the pair into the wanted state, or keeps it there.

    A QEMU whose connection ended is not proven dead. If that happens to a protected pair, the next
    step is `Prove` until there is evidence, and the other node's QEMU is not ended.

    Args:
        pair: The declaration.
        snapshot: The state of all nodes, the records included. A node whose QEMU has ended is
            `Dead` with the evidence, or `Absent`; a node that does not answer is `Unreachable` or
            `Unresponsive`.
        want: The wanted state.
        armed: The failover plans of the last `Settled`, without those that were executed since;
            None for none. A survivor whose main loop is stuck on its dead peer answers no question,
            so no plan can be compiled for it; its armed plan still frees it.
        avoid: Nodes on which no secondary is to be launched.
        others: Nodes that have an agent of their own, which does their failovers.
        assume_good: QEMU versions that the operator vouches for.

    Returns:
        The next step. It is `Decide` if no step is safe, or if a person must decide.

    Raises:
        DeclarationError: `want` is not one of `Want`.
    """
    check_want("want", want)
    try:
        compiler.check_members(pair, snapshot)
        ladder = _Ladder(
            pair=compiler.members(pair, snapshot),
            snapshot=snapshot,
            want=want,
            armed=armed or {},
            avoid=frozenset(avoid),
            others=frozenset(others),
            assume_good=tuple(assume_good),
        )
        return ladder.next()
    except CompileError as error:
        return Decide(findings=error.findings)
    except VersionError as error:
        remedy = "install one QEMU version that runs COLO on both nodes, or vouch for this one"
        found = Finding(code="unsupported-version", node=None, what=str(error), remedy=remedy)
        return Decide(findings=(found,))


@final
@attrs.frozen(kw_only=True)
class _Ladder:
    """The decisions of `next_step`, on a pair whose two nodes are those that the record names."""

    pair: ColoPair
    snapshot: Snapshot
    want: Want
    armed: Mapping[str, Plan]
    avoid: frozenset[str]
    others: frozenset[str]
    assume_good: tuple[Version, ...]

    def next(self) -> NextStep:
        """The next step, by the nodes' roles."""
        for spare in self.pair.spares:
            if self._role(spare.name) in (*PRIMARIES, *IN_COLO):
                return self._end_one_of((spare.name,), "the record names other nodes")
        names = tuple(node.name for node in self.pair.nodes)
        live = [name for name in names if self.snapshot.live(name) is not None]
        used = [name for name in live if self._role(name) == "used up"]
        if used:
            return self._end(used[0], "it received a guest without COLO, and cannot follow again")
        if len(live) == len(names):
            return self._both(*names)
        return self._one(live[0]) if live else self._boot()

    # -- both nodes answer

    def _both(self, first: str, second: str) -> NextStep:
        """The next step if both nodes answer."""
        both = (first, second)
        guests = [name for name in both if self._role(name) in PRIMARIES]
        inside = [name for name in both if self._role(name) in IN_COLO]
        if len(guests) > 1:
            return self._end_one_of(both, "two nodes hold a guest each")
        if guests and inside:
            return self._primary_and_secondary(guests[0], inside[0])
        if guests:
            return self._guest_beside_new(guests[0], self.pair.peer_of(guests[0]).name)
        if inside:
            return self._survive(inside[0]) or self._alone(inside[0])
        if self.want == "stopped":
            return self._end(first, "no QEMU is wanted")
        return self._end(self._holder(), "it waits as a secondary, and its data is the newest")

    def _primary_and_secondary(self, primary: str, secondary: str) -> NextStep:
        """The next step if one node has the guest and the other is or was in COLO as secondary."""
        role, other = self._role(primary), self._role(secondary)
        if self._is_anew(primary):
            return self._end(primary, f"it was started anew, and {secondary} has the guest")
        self._check_disks(primary, secondary)
        if role == "unprotected":
            return self._end_one_of((secondary,), f"{primary} runs the guest alone")
        if role == "broken primary" or (role == "entering" and other == "broken secondary"):
            return self._end(secondary, "COLO has ended, and the primary has the guest")
        if other == "broken secondary":
            # The primary notices the end of COLO at its next checkpoint, unless it is ending.
            return self._prove(primary, self._compile("failover", survivor=secondary))
        live = [self._live(name) for name in (primary, secondary)]
        if live[0].disk_error:
            left_to = secondary if secondary in self.others else None
            return Act(plan=self._compile("switch-over", left_to=left_to))
        if self.want != "protected" or any(one.replication_error for one in live):
            return Act(plan=self._compile("stop"))
        plan = self._compile("resume")
        # During a checkpoint the plan may have waits, which change nothing.
        if not all(isinstance(step, Check | Wait) for step in plan.steps):
            return Act(plan=plan)
        both = (primary, secondary)
        return Settled(armed={name: self._compile("failover", survivor=name) for name in both})

    def _check_disks(self, primary: str, secondary: str) -> None:
        """Check that the pair can continue if a disk of the primary has failed.

        Raises:
            UndecidedError: A disk of the primary failed, and the secondary cannot simply take
                over, since COLO has ended or replication has failed. A person must say which data
                is right.
        """
        if not self._live(primary).disk_error:
            return
        ended = (self._role(primary), self._role(secondary)) != ("primary", "secondary")
        lacking = any(self._live(name).replication_error for name in (primary, secondary))
        if ended or lacking:
            why = f"a disk of {primary} has failed, and {secondary} may have writes that it lacks"
            what = f"{why}; {'COLO has ended' if ended else 'replication has failed'}"
            advice = f"if {secondary} has the right data, end the QEMU of {primary} and fail over"
            raise undecided("disk-failed", what, advice, node=primary)

    def _guest_beside_new(self, guest: str, new: str) -> NextStep:
        """The next step if one node has the guest and the other waits as a new secondary."""
        if self._role(guest) in ("primary", "broken primary"):
            # Its secondary has ended. The guest must leave COLO before a new secondary can join.
            return self._survive(guest) or self._alone(guest)
        if self.want != "protected":
            return self._end(new, "no secondary is wanted")
        if self._is_booted_again(guest):
            return self._survive(guest) or self._alone(guest)
        for spare in self.pair.spares:
            if self._role(spare.name) in WITHOUT_GUEST:
                # The primary's connections could reach it instead of the secondary.
                return self._end(spare.name, f"it waits as a secondary, and so does {new}")
        try:
            return Act(plan=self._compile("resume"))
        except CompileError:
            # Perhaps the node must first continue without its old peer, or has no rights.
            step = self._survive(guest)
            if step is None:
                raise
            return step

    # -- only one node answers

    def _one(self, name: str) -> NextStep:
        """The next step if only one node answers."""
        if self.want == "protected" and self._is_untouched(name):
            # Both nodes' images may be equal, and stay equal as long as the guest does not run.
            try:
                return self._alone(name)
            except CompileError:
                return self._survive(name) or self._alone(name)
        if self._role(name) not in WITHOUT_GUEST:
            return self._survive(name) or self._alone(name)
        if self.want == "stopped":
            return self._end(name, "no QEMU is wanted")
        unseen = self._unseen()
        if unseen is not None:
            return unseen
        if self._holder() == name:
            return self._end(name, "it waits as a secondary, and its data is the newest")
        return self._boot()

    def _survive(self, name: str) -> NextStep | None:
        """The step by which a node leaves COLO and runs the guest alone; None if it already does.

        Raises:
            CompileError: The failover is refused, and not for lack of rights.
        """
        try:
            plan = self._compile("failover", survivor=name)
        except CompileError as error:
            return self._end_without_rights(name, error)
        return self._with_evidence(plan) if plan.acts else None

    def _with_evidence(self, plan: Plan) -> Act | Prove:
        """Execute a failover if all its victims are proven dead; otherwise `Prove`."""
        for victim in plan.victims():
            state = self.snapshot.state(victim.node)
            evidence = state.evidence if isinstance(state, Dead) else None
            if evidence is None or evidence.instance != victim.instance:
                return Prove(node=victim.node, instance=victim.instance, plan=plan)
        return Act(plan=plan)

    def _alone(self, name: str) -> NextStep:
        """The next step if one node has the guest, and no other node has a right to it."""
        if self.want == "stopped":
            return self._end(name, "no QEMU is wanted")
        unseen = [n for n in self._others(name) if n in self.snapshot.running]
        if unseen:
            return self._end(unseen[0], f"{name} has the guest, and this one gives no answer")
        if self.want == "unprotected":
            run_state = self._live(name).run_state
            if run_state in RUN_STANDING:
                why = f"{name} has the guest alone, and it does not run ({run_state})"
                raise undecided("paused", why, f"continue the guest of {name}", node=name)
            return Settled(armed={})
        return self._launch_secondary(name)

    def _launch_secondary(self, name: str) -> NextStep:
        """Launch a secondary on the first node that can have one; the peer before the spares."""
        findings: list[Finding] = []
        for other in self._others(name):
            away = isinstance(self.snapshot.records.get(other), record.UnreadRecord)
            if away or other in self.avoid or self._is_stuck(other):
                continue
            try:
                self._check_launch(other)
            except CompileError as error:
                findings += error.findings
                continue
            return Launch(node=other, role="secondary")
        if not findings:
            why = f"no host answers on which a secondary for {name} could be launched"
            raise compile_error("no-host", why, "bring one back, or declare a spare", node=name)
        raise CompileError(*findings)

    # -- no node answers

    def _boot(self) -> NextStep:
        """The next step if no node answers: an armed failover, or a launch of the holder."""
        for name, plan in sorted(self.armed.items(), key=lambda item: item[0] != self._holder()):
            state = self.snapshot.state(name)
            # The plan is valid as long as the record is the one that it was compiled from.
            same = plan.prior_state.records.get(name) == self.snapshot.records.get(name)
            if isinstance(state, Unresponsive) and state.oob and same:
                return self._with_evidence(plan)
        unseen = self._unseen()
        if unseen is not None:
            return unseen
        if self.want == "stopped":
            self._check_all_ended()
            return Settled(armed={})
        holder = self._holder()
        self._check_launch(holder)
        return Launch(node=holder, role="primary")

    def _check_all_ended(self) -> None:
        """Check that no QEMU may still run on a host that is out of reach.

        Raises:
            UndecidedError: A host is out of reach, and there is no evidence that its QEMU has
                ended.
        """
        for node in self.pair.nodes:
            away = isinstance(self.snapshot.records.get(node.name), record.UnreadRecord)
            if away and isinstance(self.snapshot.state(node.name), Unreachable):
                why = f"whether the QEMU of {node.name} runs cannot be told: its host is away"
                raise undecided("no-answer", why, "bring its host back", node=node.name)

    def _unseen(self) -> Prove | None:
        """`Prove` for a QEMU that is known to run and gives no answer; None if there is none."""
        for name in self.pair.names:
            running = self.snapshot.running.get(name)
            if self.snapshot.live(name) is None and (running is not None or self._is_stuck(name)):
                return Prove(node=name, instance=running.instance if running else "", plan=None)
        return None

    def _is_stuck(self, name: str) -> bool:
        """Whether a node's monitor accepts connections but does not answer."""
        return isinstance(self.snapshot.state(name), Unresponsive)

    # -- shared helpers

    def _role(self, name: str) -> Role:
        return role_of(self.snapshot.state(name))

    def _live(self, name: str) -> Live:
        live = self.snapshot.live(name)
        if live is None:
            raise compile_error("no-answer", f"{name} does not answer", node=name)
        return live

    def _others(self, name: str) -> list[str]:
        """The node's peer, then the spares."""
        spares = [spare.name for spare in self.pair.spares]
        return [self.pair.peer_of(name).name, *spares]

    def _holder(self) -> str:
        """The node with the newest data by the records; the first node of a new pair."""
        top = record.highest(self.snapshot.records)
        return self.pair.nodes[0].name if top is None else top.holder

    def _is_anew(self, name: str) -> bool:
        """Whether a node's guest has not been started since its QEMU was."""
        live = self._live(name)
        return (live.run_state, live.migration) == ("prelaunch", "none")

    def _is_untouched(self, name: str) -> bool:
        """Whether a node's guest has never run, and the QEMU has no parts of COLO yet."""
        live = self._live(name)
        declared = {*tls.IDS, *(item.id for item in self.pair.machine.objects)}
        left = (
            live.objects.keys() - declared,
            live.chardevs,
            live.jobs,
            live.exports,
            live.capabilities,
        )
        return self._is_anew(name) and not self._is_booted_again(name) and not any(left)

    def _is_booted_again(self, name: str) -> bool:
        """Whether a node's QEMU waits to start a guest that, by the record, has run before.

        Such a guest is started before its disks are copied.
        """
        top = record.highest(self.snapshot.records)
        return self._is_anew(name) and top is not None and top.epoch > 1

    def _end(self, name: str, why: str) -> End:
        """The step that ends a node's QEMU.

        Raises:
            UndecidedError: The identity of the QEMU is not known.
        """
        live, running = self.snapshot.live(name), self.snapshot.running.get(name)
        instance = live.instance if live is not None else running.instance if running else ""
        if not instance:
            # `End` needs an identity, so that no other QEMU is ended.
            what = f"a QEMU of {name} runs ({running.how if running else 'it answers'}); {why}"
            raise undecided("runs-unseen", what, END_OR_LET_GO, node=name)
        return End(node=name, instance=instance, why=why)

    def _end_without_rights(self, name: str, error: CompileError) -> End:
        """The step that ends a QEMU whose failover was refused since it has no rights.

        Args:
            name: The node.
            error: The refusal.

        Raises:
            CompileError: The failover was refused for another reason, or the node is the holder
                and not in COLO.
            UndecidedError: The identity of the QEMU is not known.
        """
        codes = {finding.code for finding in error.findings}
        follows = self._role(name) in IN_COLO or self._holder() != name
        if follows and codes <= _NO_RIGHTS and not isinstance(error, UndecidedError):
            return self._end(name, error.findings[0].what)
        raise error

    def _end_one_of(self, names: tuple[str, ...], why: str) -> End:
        """The step that ends the first of some QEMUs that, by the records, may not run alone.

        Raises:
            UndecidedError: The records do not show that of any of them.
        """
        for name in names:
            live = self._live(name)
            leads = live.colo_mode != "secondary"
            try:
                record.may_run_alone(self.snapshot.records, name, live.instance, leads=leads)
            except CompileError as error:
                if {finding.code for finding in error.findings} <= _NO_RIGHTS:
                    return self._end(name, why)
        raise undecided("two-guests", f"{why}, and {names[0]} may run alone", TWO_GUESTS)

    def _prove(self, node: str, plan: Plan) -> NextStep:
        return Prove(node=node, instance=self._live(node).instance, plan=plan)

    def _compile(
        self, procedure: Procedure, *, survivor: str | None = None, left_to: str | None = None
    ) -> Plan:
        options = Options(survivor=survivor, left_to=left_to, assume_good=self.assume_good)
        return compiler.compile_plan(procedure, self.pair, self.snapshot, options)

    def _check_launch(self, name: str) -> None:
        """Check that the launch of a node would not be refused.

        Raises:
            CompileError: The launch would be refused.
        """
        known = [one.version for n in self.pair.names if (one := self.snapshot.live(n)) is not None]
        compiler.launch(
            self.pair,
            self.snapshot,
            nodes=(name,),
            qemu={name: known[0] if known else _ANY_VERSION},
            assume_good=self.assume_good,
        )
