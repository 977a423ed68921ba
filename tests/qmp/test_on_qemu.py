"""Typed QMP against the QEMUs it was written for."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.real_qemu import RELEASES, bare_qemu, build_of

from pycolo.demo.builds import Release
from pycolo.qmp import (
    NULL,
    BlockdevAdd,
    BlockdevDel,
    BlockExport,
    BlockExportAdd,
    BlockExportDel,
    ChardevAdd,
    ChardevRemove,
    ColoCompare,
    FileNode,
    FilterMirror,
    FilterRedirector,
    FilterRewriter,
    HumanMonitorCommand,
    IoThread,
    MigrateSetParameters,
    NbdServerStart,
    NbdServerStop,
    NodeChild,
    ObjectAdd,
    ObjectDel,
    PackagedVersion,
    Qcow2Node,
    QomGet,
    QomList,
    QomObject,
    QomSet,
    QueryBlockExports,
    QueryBlockJobs,
    QueryChardev,
    QueryColoStatus,
    QueryCommands,
    QueryJobs,
    QueryMigrate,
    QueryMigrateCapabilities,
    QueryMigrateParameters,
    QueryName,
    QueryNamedBlockNodes,
    QueryQmpSchema,
    QueryVersion,
    QueryXenReplicationStatus,
    QueryYank,
    QuorumNode,
    Schema,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
    XBlockdevChange,
    XDebugQueryBlockGraph,
    YankChardev,
)
from pycolo.session import Session

pytestmark = pytest.mark.qemu
LIMIT_S = 10.0
PACKAGED: dict[str, PackagedVersion] = {"7.2": "7.2.22", "10.0": "10.0.13", "11.1": "11.1.3"}
MACHINE = ("-machine", "pc", "-accel", "tcg", "-m", "64", "-netdev", "hubport,id=hn0,hubid=0")


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each supported kind of QEMU."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
async def session(release: Release, tmp_path: Path) -> AsyncGenerator[Session]:
    """A session with a stopped machine that has a network backend and no disk."""
    with bare_qemu(release, tmp_path, *MACHINE) as running:
        async with await Session.connect("alpha", running.control, limit_s=LIMIT_S) as opened:
            yield opened


async def test_the_packaged_schema_is_the_real_one(session: Session, release: Release) -> None:
    """What is checked offline is what the QEMU itself says, however it is asked."""
    packaged = Schema.packaged(PACKAGED[release])
    info = await session.execute(QueryQmpSchema(), limit_s=LIMIT_S)
    assert packaged == Schema.from_reply(info.entries)
    assert packaged == await session.schema(limit_s=LIMIT_S)


async def test_commands_are_those_of_the_schema(session: Session, release: Release) -> None:
    """One list tells builds apart as well as the other, and is short (qemu-behaviour 19.9)."""
    names = await session.execute(QueryCommands(), limit_s=LIMIT_S)
    assert Schema.packaged(PACKAGED[release]).commands == names


async def test_what_a_fresh_qemu_answers_is_understood(session: Session) -> None:
    """Every query without arguments has a reply that parses."""
    version = await session.execute(QueryVersion(), limit_s=LIMIT_S)
    assert session.version == version.version
    status = await session.execute(QueryColoStatus(), limit_s=LIMIT_S)
    assert ("none", "none") == (status.mode, status.last_mode)
    capabilities = await session.execute(QueryMigrateCapabilities(), limit_s=LIMIT_S)
    assert {"x-colo", "events", "return-path"} <= capabilities.known
    assert (await session.execute(QueryMigrate(), limit_s=LIMIT_S)).status is None
    assert (await session.execute(QueryName(), limit_s=LIMIT_S)).name is None
    replication = await session.execute(QueryXenReplicationStatus(), limit_s=LIMIT_S)
    assert not replication.error
    assert () == await session.execute(QueryJobs(), limit_s=LIMIT_S)
    assert () == await session.execute(QueryBlockJobs(), limit_s=LIMIT_S)


async def test_a_parameter_that_was_set_is_read_back(session: Session) -> None:
    """The largest checkpoint delay fits (qemu-behaviour 4.11)."""
    delay_ms = 2**32 - 1
    command = MigrateSetParameters(x_checkpoint_delay_ms=delay_ms)
    await session.execute(command, limit_s=LIMIT_S)
    parameters = await session.execute(QueryMigrateParameters(), limit_s=LIMIT_S)
    assert delay_ms == parameters.x_checkpoint_delay_ms


async def test_a_quorum_s_children_are_named_by_the_graph(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """Nodes, an export and a change of children, made and taken away."""
    for name in ("local", "remote"):
        _create_image(release, tmp_path / f"{name}.qcow2")
        file = FileNode(filename=str(tmp_path / f"{name}.qcow2"))
        node = Qcow2Node(node_name=name, file=file, backing=NULL)
        await session.execute(BlockdevAdd(node=node), limit_s=LIMIT_S)
    quorum = QuorumNode(
        node_name="disk0", read_pattern="fifo", vote_threshold=1, children=("local",)
    )
    await session.execute(BlockdevAdd(node=quorum), limit_s=LIMIT_S)
    await session.execute(XBlockdevChange(parent="disk0", node="remote"), limit_s=LIMIT_S)
    graph = await session.execute(XDebugQueryBlockGraph(), limit_s=LIMIT_S)
    assert (
        NodeChild(child="children.0", node_name="local"),
        NodeChild(child="children.1", node_name="remote"),
    ) == graph.children_of("disk0")
    nodes = await session.execute(QueryNamedBlockNodes(flat=True), limit_s=LIMIT_S)
    sizes = {node.node_name: node.size_bytes for node in nodes}
    assert 2**20 == sizes["disk0"] == sizes["remote"]
    await session.execute(XBlockdevChange(parent="disk0", child="children.1"), limit_s=LIMIT_S)
    await session.execute(BlockdevDel(node_name="remote"), limit_s=LIMIT_S)
    gone = await session.execute(XDebugQueryBlockGraph(), limit_s=LIMIT_S)
    assert not gone.has_node("remote")


async def test_an_export_is_made_and_taken_away(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """The NBD server takes the wrapped address, the export a node name."""
    _create_image(release, tmp_path / "disk.qcow2")
    file = FileNode(filename=str(tmp_path / "disk.qcow2"))
    node = Qcow2Node(node_name="parent0", file=file)
    await session.execute(BlockdevAdd(node=node), limit_s=LIMIT_S)
    address = UnixSocketAddress(path=str(tmp_path / "nbd"))
    await session.execute(NbdServerStart(addr=address), limit_s=LIMIT_S)
    export = BlockExportAdd(id="e0", node_name="parent0", writable=True)
    await session.execute(export, limit_s=LIMIT_S)
    exports = await session.execute(QueryBlockExports(), limit_s=LIMIT_S)
    assert (BlockExport(id="e0", type="nbd", node_name="parent0", shutting_down=False),) == exports
    await session.execute(BlockExportDel(id="e0", mode="hard"), limit_s=LIMIT_S)
    await session.execute(NbdServerStop(), limit_s=LIMIT_S)


async def test_a_proxy_is_made_and_taken_away(session: Session, tmp_path: Path) -> None:
    """All objects of a chain, over all kinds of chardevs, with every property."""
    await _add_chardevs(session, tmp_path)
    chardevs = await session.execute(QueryChardev(), limit_s=LIMIT_S)
    connected = {chardev.label: chardev.connected for chardev in chardevs}
    assert connected["compare0"]
    assert not connected["mirror0"]
    for made in _proxy():
        await session.execute(ObjectAdd(object=made), limit_s=LIMIT_S)
    await session.execute(
        QomSet(path="/objects/m0", property_name="status", value="on"), limit_s=LIMIT_S
    )
    status = QomGet(path="/objects/m0", property_name="status")
    assert "on" == await session.execute(status, limit_s=LIMIT_S)
    listed = await session.execute(QomList(path="/objects"), limit_s=LIMIT_S)
    assert {made.id for made in _proxy()} <= {entry.name for entry in listed}
    instances = await session.execute(QueryYank(), limit_s=LIMIT_S, oob=True)
    assert YankChardev(id="compare1") in instances
    for made in reversed(_proxy()):
        await session.execute(ObjectDel(id=made.id), limit_s=LIMIT_S)
    await session.execute(ChardevRemove(id="mirror0"), limit_s=LIMIT_S)


async def test_the_human_monitor_reports_errors_as_text(session: Session) -> None:
    """A refusal is a successful reply (qemu-behaviour 11)."""
    deleted = await session.execute(HumanMonitorCommand.drive_del("r0"), limit_s=LIMIT_S)
    assert "Device 'r0' not found" in deleted


def _create_image(release: Release, path: Path) -> None:
    qemu_img = str(build_of(release).qemu_img)
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)


async def _add_chardevs(session: Session, run_dir: Path) -> None:
    for name in ("mirror0", "compare1", "compare0", "compare_out"):
        address = UnixSocketAddress(path=str(run_dir / name))
        server = SocketServer(addr=address, wait=False)
        await session.execute(ChardevAdd(id=name, backend=server), limit_s=LIMIT_S)
    for name, peer in (("compare0-0", "compare0"), ("compare_out0", "compare_out")):
        client = SocketClient(addr=UnixSocketAddress(path=str(run_dir / peer)))
        await session.execute(ChardevAdd(id=name, backend=client), limit_s=LIMIT_S)


def _proxy() -> tuple[QomObject, ...]:
    return (
        FilterRewriter(id="rew0", netdev="hn0", queue="all", vnet_hdr_support=True),
        FilterMirror(
            id="m0",
            insert="before",
            position="id=rew0",
            netdev="hn0",
            queue="tx",
            outdev="mirror0",
            status="off",
            vnet_hdr_support=True,
        ),
        FilterRedirector(id="redire0", netdev="hn0", queue="rx", indev="compare_out"),
        FilterRedirector(id="redire1", netdev="hn0", queue="rx", outdev="compare0"),
        IoThread(id="iothread1"),
        ColoCompare(
            id="comp0",
            primary_in="compare0-0",
            secondary_in="compare1",
            outdev="compare_out0",
            iothread="iothread1",
            compare_timeout_ms=3000,
            expired_scan_cycle_ms=1000,
            max_queue_size=1024,
        ),
    )
