"""Replies, as QEMU of several versions gives them."""

from __future__ import annotations

from typing import get_args

import pytest

from pycolo.errors import ParseError
from pycolo.qmp import (
    BlockExport,
    BlockGraph,
    BlockJob,
    Chardev,
    ColoStatus,
    Command,
    GraphNode,
    HumanMonitorCommand,
    Job,
    MigrationCapabilities,
    MigrationInfo,
    MigrationParameters,
    NamedBlockNode,
    NameInfo,
    NodeChild,
    QomGet,
    QomList,
    QomProperty,
    QueryBlockExports,
    QueryBlockJobs,
    QueryChardev,
    QueryColoStatus,
    QueryJobs,
    QueryMigrate,
    QueryMigrateCapabilities,
    QueryMigrateParameters,
    QueryName,
    QueryNamedBlockNodes,
    QueryQmpSchema,
    QueryStatus,
    QueryVersion,
    QueryXenReplicationStatus,
    QueryYank,
    ReplicationStatus,
    Schema,
    StatusInfo,
    Stop,
    Version,
    VersionInfo,
    XDebugQueryBlockGraph,
    YankBlockNode,
    YankChardev,
    YankMigration,
)

JOB_7_2 = {
    "auto-finalize": True,
    "io-status": "ok",
    "device": "resync",
    "auto-dismiss": False,
    "busy": False,
    "len": 67108864,
    "offset": 67108864,
    "status": "ready",
    "paused": False,
    "speed": 0,
    "ready": True,
    "type": "mirror",
}
PROGRESS = {"transferred": 10, "remaining": 20, "total": 30, "mbps": 268.4, "duplicate": 1}


def test_the_run_state_is_read_with_or_without_singlestep() -> None:
    """7.2 tells a key that later versions dropped."""
    state = StatusInfo(running=False, status="colo")
    old = {"running": False, "singlestep": False, "status": "colo"}
    assert state == QueryStatus().parse_reply(old)
    assert state == QueryStatus().parse_reply({"running": False, "status": "colo"})


def test_the_name_may_be_absent() -> None:
    """A QEMU without ``-name`` gives an empty object."""
    assert NameInfo(name=None) == QueryName().parse_reply({})
    assert NameInfo(name="primary") == QueryName().parse_reply({"name": "primary"})


def test_the_colo_status_is_read() -> None:
    """All three keys are there on every version."""
    reply = {"mode": "none", "last-mode": "primary", "reason": "request"}
    status = ColoStatus(mode="none", last_mode="primary", reason="request")
    assert status == QueryColoStatus().parse_reply(reply)


def test_the_replication_status_is_read() -> None:
    """The description is there with an error only."""
    query = QueryXenReplicationStatus()
    assert ReplicationStatus(error=False) == query.parse_reply({"error": False})
    failed = {"error": True, "desc": "I/O"}
    assert ReplicationStatus(error=True, desc="I/O") == query.parse_reply(failed)


def test_a_migration_that_never_was_has_no_status() -> None:
    """query-migrate then gives an empty object."""
    assert MigrationInfo() == QueryMigrate().parse_reply({})


def test_a_migration_s_progress_and_failure_are_read() -> None:
    """Progress lies in a nested object, whole numbers pass as throughput."""
    info = QueryMigrate().parse_reply({"status": "active", "ram": PROGRESS, "setup-time": 1})
    assert (
        MigrationInfo(
            status="active",
            ram_transferred_bytes=10,
            ram_remaining_bytes=20,
            ram_total_bytes=30,
            ram_mbps=268.4,
        )
        == info
    )
    failed = {"status": "failed", "error-desc": "Broken pipe", "blocked-reasons": ["a", "b"]}
    assert MigrationInfo(
        status="failed", error_desc="Broken pipe", blocked_reasons=("a", "b")
    ) == QueryMigrate().parse_reply(failed)
    whole = QueryMigrate().parse_reply({"ram": {**PROGRESS, "mbps": 0}})
    assert 0 == whole.ram_mbps


def test_capabilities_are_read_as_sets() -> None:
    """Which there are tells versions apart; which are on tells what a node is ready for."""
    reply = [{"capability": "x-colo", "state": True}, {"capability": "events", "state": False}]
    assert MigrationCapabilities(
        enabled=frozenset({"x-colo"}), known=frozenset({"x-colo", "events"})
    ) == QueryMigrateCapabilities().parse_reply(reply)


def test_parameters_are_read_with_null_as_absent() -> None:
    """A newer QEMU may say null for what an older one leaves out."""
    reply = {"x-checkpoint-delay": 20000, "tls-creds": "", "tls-authz": None, "mode": "normal"}
    assert MigrationParameters(
        x_checkpoint_delay_ms=20000, tls_creds=""
    ) == QueryMigrateParameters().parse_reply(reply)


class TestVersion:
    """Versions of QEMU."""

    def test_the_reply_is_read(self) -> None:
        """The triple, and the distribution's name for it."""
        reply = {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": "Debian 1:10.0.13"}
        version = Version(major=10, minor=0, micro=13)
        info = VersionInfo(version=version, package="Debian 1:10.0.13")
        assert info == QueryVersion().parse_reply(reply)

    def test_versions_are_ordered_by_number(self) -> None:
        """10 comes after 7, and 13 after 7."""
        texts = ["11.0.0", "7.2.22", "10.0.13", "10.0.7"]
        ordered = [str(version) for version in sorted(Version.parse(text) for text in texts)]
        assert ["7.2.22", "10.0.7", "10.0.13", "11.0.0"] == ordered

    def test_a_version_is_a_value(self) -> None:
        """Equal versions are equal and hash alike."""
        assert 1 == len({Version.parse("10.0.13"), Version(major=10, minor=0, micro=13)})

    @pytest.mark.parametrize("text", ["", "10", "10.0", "10.0.13.1", "v10.0.1", "10.0.x", "1.2.³"])
    def test_what_is_no_version_is_refused(self, text: str) -> None:
        """Three numbers, nothing else."""
        with pytest.raises(ParseError):
            Version.parse(text)


def test_block_nodes_are_read_with_and_without_children() -> None:
    """Children are told from 10.1 on; keys pycolo does not read are ignored."""
    old = {
        "node-name": "nbd0",
        "drv": "nbd",
        "file": "nbd://h:1/p",
        "ro": False,
        "image": {"virtual-size": 64, "filename": "x", "format": "nbd"},
        "iops": 0,
    }
    new = {**old, "children": [{"child": "file", "node-name": "f0", "more": 1}], "active": True}
    node = NamedBlockNode(
        node_name="nbd0", driver="nbd", filename="nbd://h:1/p", size_bytes=64, read_only=False
    )
    seen, later = QueryNamedBlockNodes(flat=True).parse_reply([old, new])
    assert node == seen
    assert (NodeChild(child="file", node_name="f0"),) == later.children


class TestBlockGraph:
    """The block graph, by which the quorum's children are named."""

    GRAPH = XDebugQueryBlockGraph().parse_reply(
        {
            "nodes": [
                {"id": 1, "type": "block-backend", "name": "colo-disk0"},
                {"id": 2, "type": "block-driver", "name": "#block1"},
                {"id": 3, "type": "block-driver", "name": "disk0"},
                {"id": 4, "type": "block-driver", "name": "nbd0"},
                {"id": 5, "type": "block-driver", "name": "quorum1"},
            ],
            "edges": [
                {"parent": 1, "child": 2, "name": "root", "perm": [], "shared-perm": []},
                {"parent": 2, "child": 4, "name": "children.10", "perm": [], "shared-perm": []},
                {"parent": 2, "child": 3, "name": "children.2", "perm": [], "shared-perm": []},
                {"parent": 5, "child": 99, "name": "file", "perm": [], "shared-perm": []},
            ],
        }
    )

    def test_children_of_a_drive_are_those_of_its_root(self) -> None:
        """A quorum made by ``-drive`` is known by the drive's id."""
        assert (
            NodeChild(child="children.2", node_name="disk0"),
            NodeChild(child="children.10", node_name="nbd0"),
        ) == self.GRAPH.children_of("colo-disk0")

    def test_children_of_a_node_are_found_by_its_name(self) -> None:
        """A quorum made by ``-blockdev`` is known by its node name."""
        assert self.GRAPH.children_of("colo-disk0") == self.GRAPH.children_of("#block1")

    def test_what_is_absent_has_no_children(self) -> None:
        """Nothing is made up for a name nobody has, nor for an edge into nothing."""
        assert () == self.GRAPH.children_of("colo-disk1")
        assert () == self.GRAPH.children_of("quorum1")

    def test_nodes_are_told_from_drives(self) -> None:
        """A drive's id is no node name."""
        assert self.GRAPH.has_node("nbd0")
        assert not self.GRAPH.has_node("colo-disk0")
        found = self.GRAPH.find("colo-disk0")
        assert GraphNode(id=2, type="block-driver", name="#block1") == found

    def test_it_can_be_written_again(self) -> None:
        """The reply's form leads back to the same value."""
        assert self.GRAPH == BlockGraph.from_qmp(self.GRAPH.to_qmp())


def test_block_jobs_are_read_in_both_forms() -> None:
    """A later mirror tells more, in the same object."""
    job = BlockJob(
        id="resync",
        type="mirror",
        status="ready",
        ready=True,
        length_bytes=67108864,
        offset_bytes=67108864,
        auto_dismiss=False,
        io_status="ok",
    )
    later = {**JOB_7_2, "actively-synced": False}
    assert (job, job) == QueryBlockJobs().parse_reply([JOB_7_2, later])


def test_a_concluded_job_tells_its_error() -> None:
    """Without one it was complete (qemu-behaviour 18.5)."""
    reply = {
        "id": "resync",
        "type": "mirror",
        "status": "concluded",
        "current-progress": 1,
        "total-progress": 2,
    }
    done, failed = QueryJobs().parse_reply([reply, {**reply, "error": "Operation canceled"}])
    assert done.error is None
    assert (
        Job(
            id="resync",
            type="mirror",
            status="concluded",
            current_progress=1,
            total_progress=2,
            error="Operation canceled",
        )
        == failed
    )


def test_a_chardev_is_connected_unless_qemu_says_otherwise() -> None:
    """A socket without a peer has a prefix in its description."""
    server = "tcp:127.0.0.1:9003,server=on"
    replies = [
        {"label": "mirror0", "filename": f"disconnected:{server}", "frontend-open": True},
        {"label": "mirror0", "filename": f"{server} <-> 127.0.0.1:5", "frontend-open": True},
    ]
    alone, met = QueryChardev().parse_reply(replies)
    assert Chardev(label="mirror0", filename=f"disconnected:{server}", frontend_open=True) == alone
    assert not alone.connected
    assert met.connected


def test_objects_and_exports_are_read() -> None:
    """Both are lists of small objects."""
    listed = QomList(path="/objects").parse_reply([{"name": "m0", "type": "child<filter-mirror>"}])
    assert (QomProperty(name="m0", type="child<filter-mirror>"),) == listed
    export = {"id": "e0", "type": "nbd", "node-name": "parent0", "shutting-down": False}
    assert (
        BlockExport(id="e0", type="nbd", node_name="parent0", shutting_down=False),
    ) == QueryBlockExports().parse_reply([export])
    assert "on" == QomGet(path="/objects/m0", property_name="status").parse_reply("on")


def test_yank_instances_of_an_unknown_kind_are_left_out() -> None:
    """A QEMU that learns to yank more does not break the reading."""
    reply = [
        {"type": "migration"},
        {"type": "block-node", "node-name": "nbd0", "more": 1},
        {"type": "chardev", "id": "mirror0"},
        {"type": "vhost-user", "id": "x"},
    ]
    assert (
        YankMigration(),
        YankBlockNode(node_name="nbd0"),
        YankChardev(id="mirror0"),
    ) == QueryYank().parse_reply(reply)


def test_the_schema_comes_through_unread() -> None:
    """Schema reads what the reply carries."""
    entries = [{"name": "STOP", "meta-type": "event", "arg-type": "0"}]
    info = QueryQmpSchema().parse_reply(entries)
    assert Schema.from_reply(info.entries).has_event("STOP")


def test_the_human_monitor_answers_text() -> None:
    """Errors too are text."""
    reply = "Device 'x' not found\r\n"
    assert reply == HumanMonitorCommand.drive_del("x").parse_reply(reply)


@pytest.mark.parametrize(
    ("command", "reply", "path"),
    [
        (Stop(), [], "return"),
        (HumanMonitorCommand.drive_del("x"), {}, "return"),
        (QueryStatus(), None, "return"),
        (QueryStatus(), {"status": "running"}, "return.running"),
        (QueryStatus(), {"running": 1, "status": "running"}, "return.running"),
        (QueryColoStatus(), {"mode": "x", "last-mode": "none", "reason": "none"}, "return.mode"),
        (QueryMigrate(), {"ram": 3}, "return.ram"),
        (QueryMigrate(), {"ram": {"total": "3"}}, "return.ram.total"),
        (QueryMigrate(), {"ram": {"mbps": "3"}}, "return.ram.mbps"),
        (QueryMigrate(), {"blocked-reasons": [1]}, "return.blocked-reasons[0]"),
        (QueryJobs(), {}, "return"),
        (QueryJobs(), [{"id": "a"}], "return[0].type"),
        (QueryNamedBlockNodes(), [{"drv": "nbd", "file": "f"}], "return[0].image.virtual-size"),
        (QueryVersion(), {"qemu": {"major": 1, "minor": 0}, "package": ""}, "return.qemu.micro"),
        (QueryYank(), [{"type": "chardev"}], "return[0].id"),
        (QueryYank(), [{}], "return[0].type"),
        (QueryQmpSchema(), [1], "return[0]"),
        (QueryMigrateCapabilities(), [{"capability": "x-colo"}], "return[0].state"),
    ],
)
def test_a_reply_that_lacks_something_is_refused(
    command: Command, reply: object, path: str
) -> None:
    """What pycolo reads must be there, with its type; the error says where."""
    with pytest.raises(ParseError) as caught:
        command.parse_reply(reply)
    assert path == caught.value.path


def test_every_command_accepts_or_refuses_a_reply_in_its_own_way() -> None:
    """No command is left without a reader of its reply."""
    for kind in get_args(Command):
        assert "parse_reply" in {name for base in kind.__mro__[:2] for name in vars(base)}
