"""States from which no safe way leads on: refused, with what a person must decide."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from tests.compiler.cases import CASES, PAIRS, compiled, one_of_each

from pycolo.compiler import (
    check_compiled,
    checkpoint,
    compile_offline,
    compile_plan,
    failover,
    forget,
    launch,
    resume,
    start,
    stop,
    switch_over,
)
from pycolo.effects import fold
from pycolo.errors import (
    CompileError,
    DeclarationError,
    ParseError,
    PycoloError,
    UndecidedError,
    VersionError,
)
from pycolo.model import ColoPair, Node
from pycolo.plan import Execute, LaunchQemu, Options, Plan, Procedure, RunHost, Step
from pycolo.qmp.commands import HumanMonitorCommand, Migrate
from pycolo.qmp.replies import Version
from pycolo.record import PairRecord, UnreadRecord
from pycolo.snapshot import Dead, Job, Live, Snapshot, Unreachable, role_of
from pycolo.standing import standing

PAIR = one_of_each()
VERSION = Version.parse("11.1.3")
LAUNCHED = compiled(CASES["start/first"], PAIR, "11.1.3").prior_state
PROTECTED = compiled(CASES["start/first"], PAIR, "11.1.3").planned_state


def _live(snapshot: Snapshot, node: str) -> Live:
    live = snapshot.live(node)
    assert live is not None
    return live


def _with(snapshot: Snapshot, node: str, **changes: object) -> Snapshot:
    live = attrs.evolve(_live(snapshot, node), **changes)  # type: ignore[arg-type]  # fields by name
    return snapshot.with_node(node, live)


def test_sizes_that_differ_are_refused() -> None:
    """QEMU does not compare the two disks, so the compiler does; it names both sizes."""
    smaller = _with(LAUNCHED, "beta", sizes_bytes={"parent0": 4096})

    with pytest.raises(CompileError, match=r"10737418240 bytes on alpha and 4096 bytes on beta"):
        start(PAIR, smaller)


def test_a_guest_that_somebody_paused_is_not_continued() -> None:
    """Paused without a resync of ours: a person must say why before anything is done."""
    paused = _with(LAUNCHED, "alpha", run_state="paused")

    with pytest.raises(CompileError, match="somebody paused the guest on alpha; pycolo did not"):
        resume(PAIR, paused)


def test_a_guest_that_our_resync_paused_is_resumed() -> None:
    """Paused with our concluded copy: the resync is finished from there."""
    job = {"resync-colo-disk0-vm0.beta.00000001": Job(status="concluded")}
    paused = _with(LAUNCHED, "alpha", run_state="paused", jobs=job, block_nodes=frozenset({"nbd0"}))

    addresses = [step.address for step in resume(PAIR, paused).steps]

    assert "alpha/blockdev-mirror/resync-colo-disk0-vm0.beta.00000001" not in addresses
    assert addresses.index("alpha/x-blockdev-change/colo-disk0.nbd0") < addresses.index(
        "alpha/cont"
    )


def test_a_device_that_cannot_be_moved_is_refused_before_anything_is_sent() -> None:
    """QEMU says beforehand what it could not migrate: nothing is copied in vain."""
    why = "State blocked by non-migratable device '0000:00:04.0/nvme'"
    blocked = _with(LAUNCHED, "alpha", migration_blockers=(why,))

    with pytest.raises(CompileError, match="QEMU cannot move the guest on alpha: State blocked"):
        start(PAIR, blocked)


def test_a_copy_to_another_secondary_proves_nothing() -> None:
    """A concluded copy carries the identity of its target; a new one gets a copy of its own."""
    job = {"resync-colo-disk0-vm0.gamma.00000001": Job(status="concluded")}
    left = _with(LAUNCHED, "alpha", jobs=job)

    addresses = [step.address for step in resume(PAIR, left).steps]

    assert "alpha/blockdev-mirror/resync-colo-disk0-vm0.beta.00000001" in addresses


def test_a_disk_that_was_attached_for_another_secondary_is_refused() -> None:
    """An attempt was left with its disk attached: a new secondary would get nothing of the data."""
    other = _with(
        fold(PAIR, {}, LAUNCHED, _until("x-blockdev-change")), "beta", instance="vm0:beta:00000007"
    )

    with pytest.raises(CompileError, match="not known to hold a copy for beta"):
        start(PAIR, other)


def test_an_nbd_node_that_nothing_was_copied_over_is_made_anew() -> None:
    """It may lead to a secondary that is gone; only a copy vouches for where it leads."""
    half = fold(PAIR, {}, LAUNCHED, _until("blockdev-add"))

    sent = [s.address for s in start(PAIR, half).steps if isinstance(s, Execute)]

    assert ["alpha/blockdev-del/nbd0", "alpha/blockdev-add/nbd0"] == sent[:2]


def _until(qmp_name: str) -> tuple[Step, ...]:
    """The steps of a start up to and with the one that sends this."""
    steps = start(PAIR, LAUNCHED).steps
    names = [s.command.qmp_name if isinstance(s, Execute) else "" for s in steps]
    return steps[: names.index(qmp_name) + 1]


def test_a_failed_copy_is_not_attached() -> None:
    """A copy that ended with an error leaves the disks unequal: another one is made."""
    job = {
        "resync-colo-disk0-vm0.beta.00000001": Job(status="concluded", error="Input/output error")
    }
    failed = _with(LAUNCHED, "alpha", jobs=job)

    addresses = [step.address for step in resume(PAIR, failed).steps]

    again = "alpha/blockdev-mirror/resync-colo-disk0-vm0.beta.00000001"
    assert addresses.index(
        "alpha/job-dismiss/resync-colo-disk0-vm0.beta.00000001"
    ) < addresses.index(again)


def test_a_used_up_secondary_is_replaced_never_repaired() -> None:
    """A secondary that saw COLO end cannot serve again."""
    used = _with(PROTECTED, "beta", colo_exited=True)
    used = _with(used, "alpha", colo_mode="none", run_state="running", migration="completed")

    with pytest.raises(CompileError, match="no fresh secondary"):
        resume(PAIR, used)


def test_a_secondary_that_never_ran_in_colo_is_not_promoted() -> None:
    """There is no guest in it that could continue."""
    snapshot = LAUNCHED.with_node("alpha", Unreachable(why="no socket"))

    with pytest.raises(CompileError, match="never ran in COLO"):
        failover(PAIR, snapshot, survivor="beta")


def test_who_survives_must_be_clear() -> None:
    """With both nodes answering, or none, the survivor has to be named."""
    nobody = Snapshot(nodes={})

    with pytest.raises(CompileError, match="alpha and beta answer"):
        failover(PAIR, PROTECTED)
    with pytest.raises(CompileError, match="no node answers"):
        failover(PAIR, nobody)


@pytest.mark.parametrize(
    "state",
    [Unreachable(why="no socket"), Dead(evidence=None)],
)
def test_start_needs_both_nodes(state: Unreachable | Dead) -> None:
    """Without a secondary there is nothing to start; the refusal says what each node is."""
    with pytest.raises(CompileError, match=rf"beta: {role_of(state)}"):
        start(PAIR, LAUNCHED.with_node("beta", state))


@pytest.mark.parametrize("compile_", [start, resume, stop])
@pytest.mark.parametrize("exited", [False, True])
def test_a_secondary_is_not_given_up_for_a_primary_that_was_started_anew(
    compile_: Callable[[ColoPair, Snapshot], Plan], *, exited: bool
) -> None:
    """The secondary runs the only guest there is: a person fails over to it first."""
    anew = PROTECTED.with_node("alpha", _live(LAUNCHED, "alpha"))
    orphaned = _with(anew, "beta", colo_exited=exited)

    with pytest.raises(CompileError, match="end the QEMU of alpha, then fail over to beta"):
        compile_(PAIR, orphaned)


def test_two_primaries_are_no_pair() -> None:
    """Two guests that both serve are refused and named."""
    other = attrs.evolve(_live(LAUNCHED, "alpha"), instance="vm0:beta:00000001")
    both = LAUNCHED.with_node("beta", other)

    with pytest.raises(CompileError, match="alpha: unprotected, beta: unprotected"):
        start(PAIR, both)


def test_stop_without_a_secondary_clears_up_what_is_left() -> None:
    """With the secondary gone, stop takes the primary out of COLO and leaves nothing of it."""
    plan = stop(PAIR, PROTECTED.with_node("beta", Unreachable(why="hung up")))
    after = _live(plan.planned_state, "alpha")

    assert ("running", "none", {}, {}) == (
        after.run_state,
        after.colo_mode,
        dict(after.chardevs),
        dict(after.objects),
    )
    assert "nbd0" not in after.block_nodes


def test_a_delay_out_of_range_is_refused() -> None:
    """Zero gives checkpoints back to back; the refusal names field, value and rule."""
    with pytest.raises(DeclarationError, match="checkpoint_delay_ms must be a whole number from 1"):
        compile_plan("set-checkpoint-delay", PAIR, PROTECTED, Options(checkpoint_delay_ms=0))


def test_a_delay_that_is_set_already_needs_no_command() -> None:
    """The same delay again would force a checkpoint for nothing."""
    plan = compile_plan("set-checkpoint-delay", PAIR, PROTECTED)

    assert () == plan.steps


def test_a_delay_below_11_under_tcg_would_deadlock() -> None:
    """Changing the delay forces a checkpoint, which QEMU 7.2 under TCG does not survive."""
    quiet = attrs.evolve(
        PAIR,
        machine=attrs.evolve(PAIR.machine, accelerator="tcg"),
        chains=(),
        checkpoint_delay_ms=2**32 - 1,
    )
    protected = compile_offline("start", quiet, version=Version.parse("7.2.22"))

    assert not any("checkpoint" in step.address for step in protected.steps)
    asked = Options(checkpoint_delay_ms=1000)
    with pytest.raises(CompileError, match="deadlocks at a checkpoint"):
        compile_plan("set-checkpoint-delay", quiet, protected.planned_state, asked)
    assert _code_of(lambda: checkpoint(quiet, protected.planned_state)).startswith(
        "checkpoint-deadlock"
    )


@pytest.mark.parametrize("case", CASES)
def test_a_plan_that_was_edited_is_not_what_its_declaration_compiles_to(case: str) -> None:
    """Whatever is changed in any step, its command, record or limit, the plan is refused there."""
    plan = compiled(CASES[case], PAIR, "11.1.3")

    check_compiled(plan)
    for n, step in enumerate(plan.steps):
        forged = attrs.evolve(step, why="as it was")
        steps = (*plan.steps[:n], forged, *plan.steps[n + 1 :])
        with pytest.raises(ParseError, match=rf"steps\[{n}\]"):
            check_compiled(attrs.evolve(plan, steps=steps))


def test_a_changed_command_line_is_refused() -> None:
    """A plan whose argv is not what its declaration gives never reaches a host."""
    plan = compiled(CASES["launch/both"], PAIR, "11.1.3")
    n = next(n for n, s in enumerate(plan.steps) if isinstance(s, RunHost))
    step = plan.steps[n]
    assert isinstance(step, RunHost)
    assert isinstance(step.action, LaunchQemu)
    forged = attrs.evolve(step, action=attrs.evolve(step.action, argv=("rm", "-rf", "/")))
    changed = attrs.evolve(plan, steps=(*plan.steps[:n], forged, *plan.steps[n + 1 :]))

    with pytest.raises(ParseError, match=rf"steps\[{n}\]"):
        check_compiled(changed)


def test_a_command_that_was_put_in_is_refused() -> None:
    """A plan file is not a shell: neither the human monitor nor `exec:` gets in by editing it."""
    plan = compiled(CASES["start/first"], PAIR, "11.1.3")
    step = plan.step("alpha/migrate")
    assert isinstance(step, Execute)
    n = plan.steps.index(step)
    for command in (
        HumanMonitorCommand(command_line='migrate "exec:touch /tmp/x"'),
        Migrate(uri="exec:touch /tmp/x"),
    ):
        forged = attrs.evolve(step, command=command)
        changed = attrs.evolve(plan, steps=(*plan.steps[:n], forged, *plan.steps[n + 1 :]))
        with pytest.raises(ParseError, match=rf"steps\[{n}\]"):
            check_compiled(changed)


def test_another_node_takes_the_dead_ones_place() -> None:
    """Resuming on a spare compiles for it, and nothing names the node that died."""
    plan = compile_offline("resume", PAIR, version=VERSION, survivor="beta", peer="gamma")

    assert {"beta", "gamma"} == set(plan.nodes())
    assert "192.0.2.1:" not in str(plan.steps)


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_a_guest_paused_inside_colo_is_told_from_an_entry(node: str) -> None:
    """Neither node is replaced for it: the pair is whole, and somebody typed `stop`."""
    with pytest.raises(CompileError, match=rf"guest on {node} was paused inside COLO.*continue it"):
        start(PAIR, _with(PROTECTED, node, run_state="paused"))


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_a_protected_pair_without_a_filter_does_not_count_as_finished(node: str) -> None:
    """The refusal names what is missing and the way to have it again."""
    objects = dict(_live(PROTECTED, node).objects)
    lost = "comp0" if node == "alpha" else "f2"
    del objects[lost]

    with pytest.raises(CompileError, match=rf"{node} lacks {lost}; end protection with stop"):
        start(PAIR, _with(PROTECTED, node, objects=objects))


def test_a_new_secondary_does_not_take_a_lost_ones_place_by_itself() -> None:
    """A primary still in COLO is taken out of it first, with or without disks."""
    anew = PROTECTED.with_node("beta", _live(LAUNCHED, "beta"))

    with pytest.raises(CompileError, match=r"secondary of alpha is gone.* with stop"):
        start(PAIR, anew)


def test_a_guest_that_is_paused_for_its_copy_is_resumed() -> None:
    """Where the guest waits for COLO, a failure at any point ends the copy too."""
    plan = compiled(CASES["resume/on-the-promoted"], PAIR, "7.2.22")
    recovery = next(one for one in plan.recoveries if one.first == "beta/stop")

    assert "block-job-cancel" in [step.command.qmp_name for step in recovery.steps]


@pytest.mark.parametrize(("peer", "why"), [("alpha", "cannot protect itself"), ("delta", "delta")])
def test_a_peer_that_cannot_be_one_is_refused(peer: str, why: str) -> None:
    """The holder does not protect itself, and a stranger is none of the pair's nodes."""
    pair = one_of_each()
    left = compiled(CASES["failover/primary-survives"], pair, "11.1.3").planned_state
    fresh = launch(pair, left, qemu={"beta": Version.parse("11.1.3")}, nodes=("beta",))
    with pytest.raises(PycoloError, match=why):
        resume(pair, fresh.planned_state, peer=peer)


def test_launch_needs_the_version_of_each_node_that_it_starts() -> None:
    """A plan file that lost it is refused by the name of the field."""
    with pytest.raises(DeclarationError, match="name the QEMU version of beta"):
        launch(PAIR, Snapshot(nodes={}), qemu={"alpha": VERSION})


@pytest.mark.parametrize(
    "instance", ["colo:alpha:", "colo:alpha:xyz", "colo:alpha:1", "colo:beta:0"]
)
def test_identity_is_one_that_is_drawn(instance: str) -> None:
    """What tells one QEMU from every other one of its node is eight digits, and nothing else."""
    qemu = dict.fromkeys(("alpha", "beta"), VERSION)
    with pytest.raises(DeclarationError, match=r"instances\.alpha must be vm0:alpha:HEX"):
        launch(PAIR, Snapshot(nodes={}), qemu=qemu, instances={"alpha": instance})


def test_identity_that_is_no_text_is_refused() -> None:
    """An entry without an identity is a caller's mistake: to count one up, leave the entry out."""
    qemu = dict.fromkeys(("alpha", "beta"), VERSION)
    none: dict[str, str] = {"alpha": None}  # type: ignore[dict-item]  # a caller's mistake
    with pytest.raises(DeclarationError, match=r"instances\.alpha must be a string .* not None"):
        launch(PAIR, Snapshot(nodes={}), qemu=qemu, instances=none)


def test_version_must_be_one_and_for_a_node_of_the_pair() -> None:
    """The error names the entry, before anything is compiled."""
    text: dict[str, Version] = {"alpha": "11.1.3"}  # type: ignore[dict-item]  # a caller's mistake
    with pytest.raises(DeclarationError, match=r"qemu\.alpha must be a Version.* not '11\.1\.3'"):
        launch(PAIR, Snapshot(nodes={}), qemu=text, nodes=("alpha",))
    qemu = dict.fromkeys(("alpha", "beta", "omega"), VERSION)
    with pytest.raises(DeclarationError, match=r"qemu\.omega must be for one of alpha, beta"):
        launch(PAIR, Snapshot(nodes={}), qemu=qemu)


def test_node_of_another_version_is_not_launched_beside_a_guest() -> None:
    """The two could never enter COLO: that is said before anything is started."""
    alone = PROTECTED.with_node("beta", Unreachable(why="it ended"))
    other = {"beta": Version.parse("10.0.13")}
    with pytest.raises(VersionError):
        launch(PAIR, alone, qemu=other, nodes=("beta",))


def test_lost_holder_is_not_forgotten() -> None:
    """It has the newest data; refusals name the way by which others continue, and it leads on."""
    records = dict.fromkeys(("alpha", "beta"), PROTECTED.records["alpha"])
    held = {
        n: attrs.evolve(r, holder="omega", eligible={"omega": "colo:omega:00000001"})
        for n, r in records.items()
        if isinstance(r, PairRecord)
    }
    both_off = Snapshot(nodes={}, records=held)
    with pytest.raises(
        CompileError, match="keep it declared and launch another node with --newest"
    ):
        launch(PAIR, both_off, qemu=dict.fromkeys(("alpha", "beta"), VERSION))
    with pytest.raises(UndecidedError, match="launch another node with --newest"):
        forget(PAIR, both_off, "omega")
    spare = Node(name="omega", address="192.0.2.9", image_folder="/images/omega")
    declared = attrs.evolve(PAIR, spares=(spare,))
    plan = launch(declared, both_off, qemu={"beta": VERSION}, nodes=("beta",), newest="beta")
    assert "beta" == record_of(plan, "alpha").holder


def record_of(plan: Plan, node: str) -> PairRecord:
    """A node's record after a plan."""
    found = plan.planned_state.records[node]
    assert isinstance(found, PairRecord)
    return found


def test_all_that_stands_in_the_way_is_told_at_once() -> None:
    """Whoever corrects one thing is not sent back for the next one."""
    snapshot = _with(LAUNCHED, "beta", sizes_bytes={"parent0": 4096})
    blockers = ("nvme has no migration",)
    snapshot = _with(snapshot, "alpha", run_state="paused", migration_blockers=blockers)
    with pytest.raises(CompileError) as caught:
        start(PAIR, snapshot)
    found = [(finding.code, finding.node) for finding in caught.value.findings]
    assert [
        ("not-migratable", "alpha"),
        ("sizes-differ", None),
        ("paused", "alpha"),
    ] == found


def test_every_qemu_of_another_pair_is_named() -> None:
    """Both nodes' monitors lead to strangers: both are told."""
    snapshot = LAUNCHED
    for node in ("alpha", "beta"):
        snapshot = _with(snapshot, node, instance=f"other:{node}:00000001")
    with pytest.raises(CompileError) as caught:
        start(PAIR, snapshot)
    assert ["foreign-qemu"] * 2 == [finding.code for finding in caught.value.findings]


def _code_of(compiling: Callable[[], object]) -> str:
    with pytest.raises(CompileError) as caught:
        compiling()
    (finding,) = caught.value.findings
    return f"{finding.code} {finding.node}: {finding.remedy}"


def test_spare_is_not_launched_while_the_pair_is_protected() -> None:
    """It would cling to what a failover removes; it is launched afterwards."""
    found = _code_of(lambda: launch(PAIR, PROTECTED, qemu={"gamma": VERSION}, nodes=("gamma",)))
    assert found == "too-early gamma: launch gamma after a failover to alpha, or after stop"


@pytest.mark.parametrize("nodes", [("alpha",), ("gamma",), ("alpha", "gamma")])
def test_secondary_that_has_the_guest_keeps_its_rights(nodes: tuple[str, ...]) -> None:
    """Whoever is launched in its place, spares included: fail over to it first."""
    orphan = PROTECTED.with_node("alpha", Unreachable(why="it ended"))
    qemu = dict.fromkeys(nodes, VERSION)
    found = _code_of(lambda: launch(PAIR, orphan, qemu=qemu, nodes=nodes))
    assert found == "primary-missing beta: fail over to beta"


def test_secondary_without_rights_is_ended_before_a_launch() -> None:
    """Its record does not let it run alone: to fail over to it would lead in a circle."""
    stopped = compile_plan("stop", PAIR, PROTECTED).planned_state
    orphan = attrs.evolve(
        PROTECTED.with_node("alpha", Unreachable(why="it ended")), records=stopped.records
    )
    found = _code_of(lambda: launch(PAIR, orphan, qemu={"alpha": VERSION}, nodes=("alpha",)))
    assert found.startswith("primary-missing beta: end its QEMU, then launch again")


def test_fresh_secondary_is_no_survivor() -> None:
    """A spare that waits has no guest: the one that has it survives without being named."""
    fresh = LAUNCHED.state("beta")
    plan = failover(PAIR, PROTECTED.with_node("beta", fresh))
    assert {"alpha"} == {step.node for step in plan.steps if isinstance(step, Execute)}


def test_secondary_whose_record_is_not_read_is_not_ended() -> None:
    """It may be the one with the newest data: to end its QEMU might lose the guest."""
    orphan = PROTECTED.with_node("alpha", Unreachable(why="it ended"))
    orphan = orphan.with_record("beta", UnreadRecord(why="no answer"))
    found = _code_of(lambda: launch(PAIR, orphan, qemu={"alpha": VERSION}, nodes=("alpha",)))
    assert found == "primary-missing beta: fail over to beta"


def test_switch_over_from_the_only_node_that_answers_is_refused() -> None:
    """The guest cannot leave it: that would be called done, and the host switched off."""
    alone = PROTECTED.with_node("beta", Unreachable(why="no route"))
    with pytest.raises(CompileError) as caught:
        switch_over(PAIR, alone)
    assert "not-protected" == caught.value.findings[0].code


@pytest.mark.parametrize("node", ["alpha", "beta"])
@pytest.mark.parametrize("procedure", [switch_over, checkpoint])
def test_lost_replication_is_no_protection(
    node: str, procedure: Callable[[ColoPair, Snapshot], Plan]
) -> None:
    """A checkpoint would succeed, and the secondary that takes over would lack writes."""
    found = _code_of(lambda: procedure(PAIR, _with(PROTECTED, node, replication_error=True)))
    assert found == "not-protected beta: run stop, launch beta again, then run resume"


@pytest.mark.parametrize(
    ("procedure", "before"),
    [(switch_over, PROTECTED), (checkpoint, PROTECTED), (start, LAUNCHED), (resume, LAUNCHED)],
)
def test_disk_below_a_snapshot_is_not_protected(
    procedure: Callable[[ColoPair, Snapshot], Plan], before: Snapshot
) -> None:
    """The snapshot has the newest writes: neither a copy of the disk nor a replica gets them."""
    overlaid = _with(before, "alpha", overlaid=True)
    assert _code_of(lambda: procedure(PAIR, overlaid)).startswith("disk-overlaid alpha: merge it")


def test_status_warns_of_a_snapshot() -> None:
    """A failover would lose what was written since."""
    found = standing(_with(PROTECTED, "alpha", overlaid=True))
    assert ("at risk", True) == (found.state, "a failover would lose" in found.text)


def test_misspelled_procedure_is_named() -> None:
    """The names are given; nothing is compiled."""
    misspelled: Procedure = "strat"  # type: ignore[assignment]  # a caller's mistake
    words = r"procedure must be one of launch, .*'strat'"
    with pytest.raises(DeclarationError, match=words):
        compile_plan(misspelled, PAIR, LAUNCHED)
    with pytest.raises(DeclarationError, match=words):
        compile_offline(misspelled, PAIR, version=VERSION)


def test_nobody_moves_to_a_secondary_that_lacks_writes() -> None:
    """Where both disks lack writes, a person says which one is right."""
    lost = _with(PROTECTED, "alpha", replication_error=True, disk_error=True)
    for procedure in (switch_over, stop):
        with pytest.raises(UndecidedError, match="beta lacks writes too: decide whose data"):
            procedure(PAIR, lost)
    assert standing(lost).text.endswith("lacks others: a person must decide")


def test_what_is_not_protected_cannot_be_proven() -> None:
    """A secondary that is not eligible yet is made so by `resume`, which proves the pair itself."""
    alone = PROTECTED.with_record("beta", UnreadRecord(why="no route")).with_record(
        "alpha", UnreadRecord(why="no route")
    )
    assert _code_of(lambda: checkpoint(PAIR, alone)).startswith("not-protected")
    assert _code_of(lambda: checkpoint(PAIR, PROTECTED, dialect="doc")).startswith(
        "not-in-document"
    )


@pytest.mark.parametrize("procedure", ["launch", "start", "resume"])
def test_document_encrypts_nothing(procedure: Procedure) -> None:
    """A pair over TLS is not run by commands that would leave it unencrypted."""
    told = _code_of(
        lambda: compile_offline(
            procedure, PAIRS["x509"], version=Version.parse("10.0.13"), dialect="doc"
        )
    )
    assert told.startswith("not-in-document")


def test_forgetting_a_node_that_may_have_run_alone_needs_another_word() -> None:
    """The holder's QEMU has ended: its former secondary may have written since."""
    gone = PROTECTED.with_record("beta", UnreadRecord(why="no route")).with_node(
        "beta", Unreachable(why="no route")
    )
    assert forget(PAIR, gone, "beta").steps
    with pytest.raises(UndecidedError, match="launch alpha with --newest alpha"):
        forget(PAIR, gone.with_node("alpha", Unreachable(why="it has ended")), "beta")


@pytest.mark.parametrize("procedure", ["failover", "stop"])
def test_guest_that_somebody_paused_stays_paused(procedure: Procedure) -> None:
    """Neither procedure continues what nothing of ours has stopped."""
    paused = _with(LAUNCHED, "alpha", run_state="paused")
    with pytest.raises(CompileError) as caught:
        compile_plan(procedure, PAIR, paused)
    assert "paused" == caught.value.findings[0].code


@pytest.mark.parametrize("procedure", ["failover", "stop", "start"])
def test_migration_that_is_being_cancelled_is_waited_for(procedure: Procedure) -> None:
    """Inside COLO that never ends, so the way out is named (qemu-behaviour 8.9)."""
    snapshot = _with(LAUNCHED, "alpha", migration="cancelling", run_state="running")
    snapshot = _with(snapshot, "alpha", capabilities=frozenset({"x-colo"}))
    with pytest.raises(CompileError) as caught:
        compile_plan(procedure, PAIR, snapshot)
    assert "cancelling" == caught.value.findings[0].code


def test_two_secondaries_that_wait_are_refused() -> None:
    """Whichever connects first gets the packets of the one that is wanted."""
    beta = _live(LAUNCHED, "beta")
    gamma = attrs.evolve(beta, instance=beta.instance.replace("beta", "gamma"))
    with pytest.raises(CompileError) as caught:
        start(PAIR, LAUNCHED.with_node("gamma", gamma), peer="beta")
    assert "other-secondary" == caught.value.findings[0].code


def test_guest_that_was_booted_alone_is_continued() -> None:
    """A failover of the node that the record names alone lets its guest run."""
    alone = LAUNCHED.with_node("beta", Unreachable(why="no route"))
    addresses = [step.address for step in failover(PAIR, alone, survivor="alpha").steps]
    assert "alpha/cont" in addresses


def test_disks_whose_order_was_changed_are_refused() -> None:
    """A QEMU was launched by another order: one disk's guest would be copied over the other's."""
    pair = PAIRS["two"]
    launched = compiled(CASES["start/first"], pair, "11.1.3").prior_state
    alpha = pair.node("alpha")
    first, second = (alpha.image_path(disk.image) for disk in pair.disks[:2])
    exchanged = _with(launched, "alpha", images={"parent0": second, "parent1": first})
    with pytest.raises(CompileError) as caught:
        start(pair, exchanged)
    assert "disks-exchanged" == caught.value.findings[0].code
