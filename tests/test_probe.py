"""Replies folded into what is known of a node, and nodes that do not answer."""

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest
from tests.scripted_qmp import SILENCE, Refuse, ScriptedQmp, scripted_qmp

from pycolo._probe import QUESTIONS, Question, glance, probe, read, with_reply
from pycolo.model import UnixMonitor
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import Schema
from pycolo.session import Session
from pycolo.snapshot import Child, Dead, Filter, Job, Live, Unreachable, Unresponsive

VERSION = Version(major=11, minor=1, micro=3)
EMPTY = Live(version=VERSION)
LIMIT_S = 10.0
SHORT_S = 0.1

# A bare node's answers, as QEMU gives them.
BARE: Mapping[str, object] = {
    "query-status": {"running": False, "status": "prelaunch"},
    "query-colo-status": {"mode": "none", "last-mode": "none", "reason": "none"},
    "query-migrate": {},
    "query-migrate-capabilities": [],
    "query-migrate-parameters": {"x-checkpoint-delay": 20000},
    "query-name": {"name": "token"},
    "query-qmp-schema": [],
    "query-block-exports": [],
    "query-named-block-nodes": [],
    "query-block": [],
    "x-debug-query-block-graph": {"nodes": [], "edges": []},
    "query-jobs": [],
    "query-chardev": [],
    "query-yank": [],
    "query-xen-replication-status": {"error": False},
    "qom-list": [],
}


@pytest.fixture
async def script(tmp_path: Path) -> AsyncGenerator[ScriptedQmp]:
    """A monitor that answers as a bare QEMU does."""
    async with scripted_qmp(tmp_path / "qmp") as served:
        served.replies.update(BARE)
        yield served


@pytest.fixture
async def session(script: ScriptedQmp) -> AsyncGenerator[Session]:
    """A session with it."""
    monitor = UnixMonitor(path=str(script.path))
    async with await Session.connect("alpha", monitor, limit_s=LIMIT_S) as opened:
        yield opened


def _node(name: str, driver: str, size_bytes: int = 512) -> dict[str, object]:
    return {
        "node-name": name,
        "drv": driver,
        "file": "",
        "ro": False,
        "image": {"virtual-size": size_bytes},
    }


def _graph(*edges: tuple[str, str, str]) -> dict[str, object]:
    """A block graph from edges of parent, role and child."""
    names = list(dict.fromkeys(name for parent, _, child in edges for name in (parent, child)))
    return {
        "nodes": [{"id": n, "type": "block-driver", "name": name} for n, name in enumerate(names)],
        "edges": [
            {"parent": names.index(parent), "child": names.index(child), "name": role}
            for parent, role, child in edges
        ],
    }


def _seen(graph: Mapping[str, object], live: Live = EMPTY) -> Live:
    """What is known after the block nodes and this graph."""
    nodes = qmp.QueryNamedBlockNodes(flat=True)
    known = [_node("colo-disk0", "quorum"), _node("#block1", "file")]
    live = with_reply(live, nodes, nodes.parse_reply(known))
    question = qmp.XDebugQueryBlockGraph()
    return with_reply(live, question, question.parse_reply(graph))


TOP = ("colo-disk0", "children.0", "childs0")
OVERLAYS = (("active0", "backing", "hidden0"), ("hidden0", "backing", "parent0"))


@pytest.mark.parametrize(
    ("edges", "pending"),
    [
        # The overlays stand between the quorum and the image, with the job's own node or without.
        ((TOP, ("childs0", "file", "active0"), *OVERLAYS), True),
        (
            (TOP, ("childs0", "file", "#block7"), ("#block7", "backing", "active0"), *OVERLAYS),
            True,
        ),
        # Merged: they exist and are out of the way.
        ((TOP, ("childs0", "file", "parent0"), *OVERLAYS), False),
        # A primary that never was a secondary, alone and on a backing file of its own.
        ((("colo-disk0", "children.0", "parent0"), ("parent0", "file", "#block1")), False),
        (
            (
                ("colo-disk0", "children.0", "parent0"),
                ("parent0", "file", "#block1"),
                ("parent0", "backing", "#block2"),
                ("#block2", "backing", "#block3"),
            ),
            False,
        ),
        # A secondary whose image has backing files, merged.
        ((TOP, ("childs0", "file", "parent0"), ("parent0", "backing", "#block2")), False),
    ],
)
def test_commit_is_pending_while_overlays_are_in_the_way(
    edges: tuple[tuple[str, str, str], ...], *, pending: bool
) -> None:
    """What a promotion merges is seen by what stands under the quorum, on every version."""
    expected = {"colo-disk0"} if pending else set()
    assert expected == _seen(_graph(*edges)).commit_pending


def test_children_have_qemus_names_for_their_places() -> None:
    """The name of a place is read: it is not the child's number in a list."""
    edges = (("colo-disk0", "children.2", "nbd0"), ("colo-disk0", "children.0", "parent0"))
    expected = (
        Child(name="children.0", node="parent0"),
        Child(name="children.2", node="nbd0"),
    )
    assert expected == _seen(_graph(*edges)).children["colo-disk0"]


def test_export_is_of_the_node_that_was_named() -> None:
    """In COLO QEMU puts a filter of its own on the exported image; the image is still meant."""
    live = Live(version=VERSION, exports={"parent0": "#block47"})
    assert {"parent0": "parent0"} == _seen(_graph(("#block47", "file", "parent0")), live).exports


def test_nodes_that_qemu_named_are_left_out() -> None:
    """Only names that were given can be used in a plan."""
    seen = _seen(_graph())
    assert {"colo-disk0"} == seen.block_nodes
    assert {"colo-disk0": 512} == seen.sizes_bytes


@pytest.mark.parametrize(
    ("question", "reply", "expected"),
    [
        (
            qmp.QueryMigrate(),
            {"status": "setup", "socket-address": [{"type": "inet"}]},
            Live(version=VERSION, migration="setup", incoming=True),
        ),
        (qmp.QueryMigrate(), {}, EMPTY),
        (
            qmp.QueryColoStatus(),
            {"mode": "primary", "last-mode": "secondary", "reason": "none"},
            Live(version=VERSION, colo_mode="primary", last_colo_mode="secondary"),
        ),
        (
            qmp.QueryMigrateCapabilities(),
            [{"capability": "x-colo", "state": True}, {"capability": "events", "state": False}],
            Live(version=VERSION, capabilities=frozenset({"x-colo"})),
        ),
        (
            qmp.QueryJobs(),
            [
                {
                    "id": "resync-1",
                    "type": "mirror",
                    "status": "concluded",
                    "current-progress": 1,
                    "total-progress": 2,
                    "error": "Operation canceled",
                }
            ],
            Live(
                version=VERSION,
                jobs={"resync-1": Job(status="concluded", error="Operation canceled")},
            ),
        ),
        (
            qmp.QueryChardev(),
            [
                {"label": "red0", "filename": "disconnected:tcp:h:1", "frontend-open": True},
                {"label": "red1", "filename": "tcp:h:2 <-> h:3", "frontend-open": True},
                {"label": "compat_monitor0", "filename": "unix:x", "frontend-open": True},
                {"label": "serial0", "filename": "file", "frontend-open": True},
                {"label": "charmonitor", "filename": "unix:y", "frontend-open": True},
            ],
            Live(version=VERSION, chardevs={"red0": False, "red1": True}),
        ),
        (
            qmp.QomList(path="/objects"),
            [
                {"name": "type", "type": "string"},
                {"name": "m0", "type": "child<filter-mirror>"},
                {"name": "comp0", "type": "child<colo-compare>"},
                {"name": "pc.ram", "type": "child<memory-backend-ram>"},
            ],
            Live(
                version=VERSION,
                objects={
                    "m0": Filter(qom_type="filter-mirror"),
                    "comp0": Filter(qom_type="colo-compare"),
                },
            ),
        ),
    ],
)
def test_reply_becomes_what_is_known(question: Question, reply: object, expected: Live) -> None:
    """Each reply changes its own part of what is known, and no other."""
    assert expected == with_reply(EMPTY, question, question.parse_reply(reply))


def test_reply_to_another_question_is_a_mistake() -> None:
    """A reply is folded with the question it answers."""
    with pytest.raises(TypeError):
        with_reply(EMPTY, qmp.QueryStatus(), qmp.QueryName().parse_reply({}))


async def test_probe_only_asks(script: ScriptedQmp, session: Session) -> None:
    """Every command of a probe is a question, and each is asked once."""
    live = await read(session)
    assert Live(version=VERSION, instance="token") == live
    once = {"query-name", "query-qmp-schema"}
    assert sorted({question.qmp_name for question in QUESTIONS} | once) == sorted(script.commands)


async def test_what_cannot_change_is_asked_once(script: ScriptedQmp, session: Session) -> None:
    """A second probe over the same connection knows the name and the schema already."""
    first, second = await read(session), await read(session)
    assert isinstance(first, Live)
    assert isinstance(second, Live)
    assert Schema.from_reply([]) == first.schema == second.schema
    assert (1, 1) == tuple(script.commands.count(q) for q in ("query-name", "query-qmp-schema"))


async def test_silent_node_is_unresponsive(script: ScriptedQmp, session: Session) -> None:
    """A node that is connected and does not answer is told from one that is not there."""
    script.replies["query-jobs"] = SILENCE
    state = await read(session, limit_s=SHORT_S)
    assert isinstance(state, Unresponsive)
    assert "query-jobs" in state.why


@pytest.mark.parametrize("reply", [Refuse("no"), {"unexpected": 1}])
async def test_node_that_cannot_be_read_is_unreachable(
    script: ScriptedQmp, session: Session, reply: object
) -> None:
    """A node is known whole or not at all: nothing is compiled from half of it."""
    script.replies["query-status"] = reply
    state = await read(session)
    assert isinstance(state, Unreachable)


async def test_object_that_goes_away_is_left_out(script: ScriptedQmp, session: Session) -> None:
    """An object deleted between two questions is no error."""
    script.replies["qom-list"] = [{"name": "m0", "type": "child<filter-mirror>"}]
    script.replies["qom-get"] = Refuse("Device '/objects/m0' not found", "DeviceNotFound")
    state = await read(session)
    assert isinstance(state, Live)
    assert {} == state.objects


async def test_what_is_known_otherwise_is_taken_over(session: Session) -> None:
    """A dead node is not asked; both stand in the snapshot."""
    dead = Dead(evidence=None)
    snapshot = await probe({"alpha": session, "beta": dead})
    assert snapshot.live("alpha") is not None
    assert dead == snapshot.state("beta")


async def test_exit_from_colo_is_remembered(script: ScriptedQmp, session: Session) -> None:
    """What QEMU forgets, the session that was there has kept."""
    script.event("COLO_EXIT", mode="primary", reason="error")
    await session.wait_change(LIMIT_S, since=0)
    assert getattr(await read(session), "colo_exited", None) is True


# -- a glance


async def test_glance_asks_three_questions(script: ScriptedQmp, session: Session) -> None:
    """A node that shows what it showed is the same, and is asked no more."""
    seen = await probe({"alpha": session})
    script.seen.clear()
    assert await glance({"alpha": session}, seen)
    assert ["query-status", "query-colo-status", "query-xen-replication-status"] == script.commands


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("query-status", {"running": False, "status": "paused"}),
        ("query-colo-status", {"mode": "primary", "last-mode": "none", "reason": "none"}),
        ("query-xen-replication-status", {"error": True}),
        ("query-status", SILENCE),
        ("query-status", Refuse("no")),
    ],
)
async def test_glance_sees_a_difference(
    script: ScriptedQmp, session: Session, command: str, reply: object
) -> None:
    """A guest that was paused, another side of COLO, a disk that is lost, and no answer."""
    seen = await probe({"alpha": session})
    script.replies[command] = reply
    assert not await glance({"alpha": session}, seen, limit_s=SHORT_S)


async def test_glance_sees_another_qemu(script: ScriptedQmp, session: Session) -> None:
    """The monitor's QEMU was started anew with another identity."""
    seen = await probe({"alpha": session})
    script.replies["query-name"] = {"name": "another"}
    await session.reopen(limit_s=LIMIT_S)
    assert not await glance({"alpha": session}, seen)


async def test_glance_sees_what_is_latched(script: ScriptedQmp, session: Session) -> None:
    """QEMU has forgotten its COLO_EXIT, and the session has not."""
    seen = await probe({"alpha": session})
    script.event("COLO_EXIT", mode="primary", reason="error")
    await session.wait_change(LIMIT_S)
    assert not await glance({"alpha": session}, seen)


async def test_glance_sees_who_answers(session: Session) -> None:
    """A node that did not answer and does, and the other way round."""
    away = Unreachable(why="off")
    seen = await probe({"alpha": session, "beta": away})
    assert await glance({"alpha": session, "beta": away}, seen)
    assert not await glance({"alpha": away, "beta": away}, seen)
    assert not await glance({"alpha": session, "beta": session}, seen)
