"""Commands: what they look like on the wire, and the way back from there."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from tests.qmp.strategies import commands

from pycolo.errors import DeclarationError, ParseError
from pycolo.qmp import (
    NULL,
    BlockdevAdd,
    BlockNode,
    ChardevAdd,
    ColoCompare,
    Command,
    FileNode,
    FilterMirror,
    FilterRedirector,
    HumanMonitorCommand,
    InetSocketAddress,
    MigrateSetCapabilities,
    MigrateSetParameters,
    NbdNode,
    NbdServerStart,
    ObjectAdd,
    Qcow2Node,
    QomSet,
    QueryYank,
    QuorumNode,
    ReplicationNode,
    SocketClient,
    SocketServer,
    Stop,
    UnixSocketAddress,
    XBlockdevChange,
    Yank,
    YankBlockNode,
    YankMigration,
    command_from_qmp,
)

DOCUMENT = Path(__file__).parents[1] / "golden" / "document" / "doc-procedures.json"
PEER = InetSocketAddress(host="127.0.0.2", port=9999)


def _document_commands() -> list[object]:
    procedures = json.loads(DOCUMENT.read_text())
    return [
        pytest.param(command, id=f"{name}-{index}")
        for name, steps in procedures.items()
        for index, command in enumerate(steps)
    ]


@pytest.mark.property
@given(commands)
@settings(deadline=None, max_examples=400)
def test_the_wire_form_leads_back_to_the_command(command: Command) -> None:
    """A command that was written as JSON and read again is the same command."""
    wire = json.loads(json.dumps(command.to_qmp()))
    assert command == command_from_qmp(wire)


@pytest.mark.parametrize("wire", _document_commands())
def test_the_document_s_commands_are_kept_to_the_letter(wire: dict[str, object]) -> None:
    """Each command of the document is written exactly as there, in the same order."""
    assert json.dumps(wire) == json.dumps(command_from_qmp(wire).to_qmp())


def test_a_command_without_arguments_has_no_arguments_key() -> None:
    """QMP's own style leaves out an empty object."""
    assert {"execute": "stop"} == Stop().to_qmp()


def test_equal_commands_are_equal_and_hash_alike() -> None:
    """Commands are values: equal by what they say, usable in sets, and of their own class."""
    one, same = Yank(instances=(YankMigration(),)), Yank(instances=(YankMigration(),))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Stop()
    assert QueryYank() != Stop()


def test_a_command_can_be_pickled() -> None:
    """Commands travel between processes."""
    command = BlockdevAdd(node=NbdNode(node_name="nbd0", server=PEER))
    assert command == pickle.loads(pickle.dumps(command))  # noqa: S301 - our own bytes


def test_the_repr_leaves_out_what_is_absent() -> None:
    """A command is shown as one would write it."""
    shown = repr(XBlockdevChange(parent="disk", node="nbd0"))
    assert "XBlockdevChange(parent='disk', node='nbd0')" == shown


def test_each_command_has_its_own_name() -> None:
    """No two classes stand for the same command."""
    names = [kind.qmp_name for kind in get_args(Command)]
    assert sorted(set(names)) == sorted(names)


def test_an_address_is_nested_as_each_command_wants_it() -> None:
    """Wrapped for the NBD server, flat for an NBD node (qemu-behaviour 3.13)."""
    flat = {"type": "inet", "host": "127.0.0.2", "port": "9999"}
    wrapped = {"type": "inet", "data": {"host": "127.0.0.2", "port": "9999"}}
    assert {"addr": wrapped} == NbdServerStart(addr=PEER).arguments()
    node = NbdNode(server=PEER)
    assert {"driver": "nbd", "server": flat} == BlockdevAdd(node=node).arguments()


def test_a_client_s_reconnect_option_keeps_its_unit() -> None:
    """Seconds and milliseconds are two members in QMP, and two fields here."""
    address = UnixSocketAddress(path="/run/pair/compare")
    client = SocketClient(addr=address, reconnect_ms=1000)
    assert {
        "id": "red0",
        "backend": {
            "type": "socket",
            "data": {
                "addr": {"type": "unix", "data": {"path": "/run/pair/compare"}},
                "reconnect-ms": 1000,
                "server": False,
            },
        },
    } == ChardevAdd(id="red0", backend=client).arguments()


def test_an_explicit_null_is_not_an_absent_member() -> None:
    """NULL cuts an image off from what it names as its backing file."""
    node = Qcow2Node(file="file0", backing=NULL)
    assert {"driver": "qcow2", "file": "file0", "backing": None} == node.to_qmp()
    assert "backing" not in Qcow2Node(file="file0").to_qmp()


def test_block_nodes_nest_inline_options_and_names() -> None:
    """A child is options or the name of a node, and both read back."""
    file = FileNode(filename="/images/primary.qcow2")
    node: BlockNode = QuorumNode(
        node_name="colo-disk0",
        read_pattern="fifo",
        vote_threshold=1,
        children=(Qcow2Node(file=file), "nbd0"),
    )
    wire = BlockdevAdd(node=node).to_qmp()
    assert {
        "driver": "quorum",
        "node-name": "colo-disk0",
        "read-pattern": "fifo",
        "vote-threshold": 1,
        "children": [
            {"driver": "qcow2", "file": {"driver": "file", "filename": "/images/primary.qcow2"}},
            "nbd0",
        ],
    } == wire["arguments"]
    assert BlockdevAdd(node=node) == command_from_qmp(wire)


def test_qemu_s_underscores_stay_underscores() -> None:
    """Members that QEMU spells with underscores are not hyphenated."""
    compare = ColoCompare(
        id="comp0",
        primary_in="a",
        secondary_in="b",
        outdev="c",
        iothread="t",
        vnet_hdr_support=True,
        compare_timeout_ms=3000,
        expired_scan_cycle_ms=1000,
        max_queue_size=1024,
        notify_dev="n",
    )
    assert {
        "qom-type": "colo-compare",
        "id": "comp0",
        "primary_in": "a",
        "secondary_in": "b",
        "outdev": "c",
        "iothread": "t",
        "vnet_hdr_support": True,
        "compare_timeout": 3000,
        "expired_scan_cycle": 1000,
        "max_queue_size": 1024,
        "notify_dev": "n",
    } == compare.to_qmp()


@pytest.mark.parametrize(
    ("wire", "path"),
    [
        ([], "command"),
        ({}, "command.execute"),
        ({"execute": 3}, "command.execute"),
        ({"execute": "device_add"}, "command.execute"),
        ({"execute": "stop", "id": 1}, "command.id"),
        ({"execute": "stop", "arguments": []}, "command.arguments"),
        ({"execute": "stop", "arguments": {"now": True}}, "command.arguments.now"),
        ({"execute": "migrate"}, "command.arguments.uri"),
        ({"execute": "migrate", "arguments": {"uri": None}}, "command.arguments.uri"),
        (
            {"execute": "migrate-set-parameters", "arguments": {"x-checkpoint-delay": True}},
            "command.arguments.x-checkpoint-delay",
        ),
        (
            {"execute": "migrate-set-parameters", "arguments": {"x-checkpoint-delay": 2**32}},
            "command.arguments.x-checkpoint-delay",
        ),
        (
            {"execute": "nbd-server-start", "arguments": {"addr": {"type": "inet", "port": "1"}}},
            "command.arguments.addr.data",
        ),
        (
            {
                "execute": "nbd-server-start",
                "arguments": {"addr": {"type": "inet", "data": {"host": "h", "port": 1}}},
            },
            "command.arguments.addr.data.port",
        ),
        (
            {
                "execute": "nbd-server-start",
                "arguments": {"addr": {"type": "inet", "data": {"host": "h", "port": "0"}}},
            },
            "command.arguments.addr.data.port",
        ),
        (
            {
                "execute": "nbd-server-start",
                "arguments": {"addr": {"type": "inet", "host": "h", "data": {}}},
            },
            "command.arguments.addr.host",
        ),
        (
            {
                "execute": "nbd-server-start",
                "arguments": {"addr": {"type": "vsock", "data": {}}},
            },
            "command.arguments.addr.type",
        ),
        (
            {
                "execute": "nbd-server-start",
                "arguments": {"addr": {"type": "unix", "data": {"type": "unix", "path": "p"}}},
            },
            "command.arguments.addr.data.type",
        ),
        (
            {
                "execute": "yank",
                "arguments": {"instances": [{"type": "migration"}, {"type": "chardev"}]},
            },
            "command.arguments.instances[1].id",
        ),
        ({"execute": "yank", "arguments": {"instances": "all"}}, "command.arguments.instances"),
        (
            {"execute": "blockdev-add", "arguments": {"driver": "raw", "file": 3}},
            "command.arguments.file",
        ),
        (
            {
                "execute": "blockdev-add",
                "arguments": {"driver": "raw", "file": {"driver": "nbd", "server": {}}},
            },
            "command.arguments.file.server.type",
        ),
        (
            {
                "execute": "block-export-add",
                "arguments": {"type": "fuse", "id": "e", "node-name": "n"},
            },
            "command.arguments.type",
        ),
        (
            {
                "execute": "qom-set",
                "arguments": {"path": "/", "property": "p", "value": [1, {"a": {2}}]},
            },
            "command.arguments.value[1].a",
        ),
        (
            {"execute": "migrate-continue", "arguments": {"state": "device"}},
            "command.arguments.state",
        ),
        (
            {
                "execute": "chardev-add",
                "arguments": {
                    "id": "c",
                    "backend": {
                        "type": "socket",
                        "data": {
                            "addr": {"type": "unix", "data": {"path": "p"}},
                            "server": True,
                            "wait": True,
                        },
                    },
                },
            },
            "command.arguments.backend.data.wait",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(wire: object, path: str) -> None:
    """A command that is not one of ours is refused with the place of the fault."""
    with pytest.raises(ParseError) as caught:
        command_from_qmp(wire, "command")
    assert path == caught.value.path


@pytest.mark.parametrize(
    ("command", "subject"),
    [
        (Stop(), ""),
        (ObjectAdd(object=FilterMirror(id="m0", netdev="hn0", outdev="mirror0")), "m0"),
        (BlockdevAdd(node=NbdNode(node_name="nbd0", server=PEER)), "nbd0"),
        (Yank(instances=(YankBlockNode(node_name="nbd0"),)), "block-node:nbd0"),
        (Yank(instances=(YankMigration(),)), "migration"),
        (QomSet(path="/objects/m0", property_name="status", value="on"), "m0.status"),
        (XBlockdevChange(parent="colo-disk0", child="children.1"), "colo-disk0.children.1"),
        (XBlockdevChange(parent="colo-disk0", node="nbd0"), "colo-disk0.nbd0"),
        (HumanMonitorCommand.drive_del("replication0"), "drive_del:replication0"),
        (
            HumanMonitorCommand.drive_add(
                node_name="replication0", host="h", port=1, export="parent0", nbd_node_name="nbd0"
            ),
            "drive_add:replication0",
        ),
        (HumanMonitorCommand(command_line="info block"), "info"),
    ],
)
def test_the_subject_is_what_the_command_acts_on(command: Command, subject: str) -> None:
    """Addresses of steps are made from it."""
    assert subject == command.subject


def test_only_the_yanks_are_sent_out_of_band() -> None:
    """Of our commands QEMU runs two out of band (qemu-behaviour 7.6)."""
    capable = {kind.qmp_name for kind in get_args(Command) if kind.oob_capable}
    assert {"yank", "query-yank"} == capable


def test_capabilities_are_turned_on_together() -> None:
    """The short form says what the long one says."""
    command = MigrateSetCapabilities.turning_on("x-colo", "events")
    assert {
        "capabilities": [
            {"capability": "x-colo", "state": True},
            {"capability": "events", "state": True},
        ]
    } == command.arguments()


class TestHumanMonitor:
    """Lines for the human monitor, which knows no quotes."""

    def test_drive_add_names_the_nbd_node_where_asked(self) -> None:
        """A named NBD node can be yanked."""
        command = HumanMonitorCommand.drive_add(
            node_name="replication0", host="h", port=9999, export="parent0", nbd_node_name="nbd0"
        )
        assert (
            "drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=h,"
            "file.port=9999,file.export=parent0,file.node-name=nbd0,node-name=replication0"
        ) == command.command_line

    def test_a_comma_is_doubled(self) -> None:
        """QEMU reads two commas as one."""
        command = HumanMonitorCommand.drive_add(node_name="r", host="a,b", port=1, export="e")
        assert ",file.host=a,,b," in command.command_line

    @pytest.mark.parametrize(
        "host", ["", "a b", "a\tb", "a\nb", 'a"b', "a'b", "a\\b", "a\u00a0b", "a\0b"]
    )
    def test_what_would_end_a_word_is_refused(self, host: str) -> None:
        """No value can become a second command or option."""
        with pytest.raises(DeclarationError) as caught:
            HumanMonitorCommand.drive_add(node_name="r", host=host, port=1, export="e")
        assert "host" == caught.value.field

    def test_a_port_is_in_range(self) -> None:
        """Port 0 would be any port."""
        with pytest.raises(DeclarationError):
            HumanMonitorCommand.drive_add(node_name="r", host="h", port=0, export="e")

    def test_drive_del_takes_no_comma(self) -> None:
        """A name in drive_del is a word and no option, so nothing is doubled in it."""
        with pytest.raises(DeclarationError):
            HumanMonitorCommand.drive_del("a,b")


def test_a_change_of_children_adds_or_takes_away() -> None:
    """QEMU wants exactly one of child and node."""
    for child, node in ((None, None), ("children.1", "nbd0")):
        with pytest.raises(DeclarationError):
            XBlockdevChange(parent="disk", child=child, node=node)


def test_a_checkpoint_delay_fits_qemu_s_type() -> None:
    """It is an unsigned 32-bit number (qemu-behaviour 4.11)."""
    assert {"x-checkpoint-delay": 2**32 - 1} == MigrateSetParameters(
        x_checkpoint_delay_ms=2**32 - 1
    ).arguments()
    for delay_ms in (-1, 2**32):
        with pytest.raises(DeclarationError):
            MigrateSetParameters(x_checkpoint_delay_ms=delay_ms)


def test_a_port_is_in_range() -> None:
    """A port QEMU would choose itself could not be found by anybody."""
    for port in (0, 65536, -1):
        with pytest.raises(DeclarationError):
            InetSocketAddress(host="h", port=port)


def test_one_reconnect_option_at_most() -> None:
    """QEMU refuses both, so we do."""
    with pytest.raises(DeclarationError):
        SocketClient(addr=PEER, reconnect_s=1, reconnect_ms=1000)


def test_a_server_has_no_reconnect_option() -> None:
    """The wrong combination cannot be written (qemu-behaviour 3.5)."""
    assert {"type", "addr", "server"} == set(SocketServer(addr=PEER).to_qmp())


def test_replication_names_its_top_on_the_secondary_only() -> None:
    """QEMU refuses the other two combinations."""
    with pytest.raises(DeclarationError):
        ReplicationNode(mode="secondary", file="active0")
    with pytest.raises(DeclarationError):
        ReplicationNode(mode="primary", top_id="colo-disk0", file="nbd0")


def test_a_threshold_can_be_met() -> None:
    """A quorum cannot ask for more votes than it has children."""
    for threshold in (0, 2):
        with pytest.raises(DeclarationError):
            QuorumNode(vote_threshold=threshold, children=("disk0",))


def test_a_compare_that_would_kill_qemu_is_refused() -> None:
    """The same chardev twice, or no time at all, ends QEMU or hangs it (qemu-behaviour 6.9)."""
    with pytest.raises(DeclarationError):
        ColoCompare(id="c", primary_in="a", secondary_in="a", outdev="b", iothread="t")
    with pytest.raises(DeclarationError) as caught:
        ColoCompare(
            id="c",
            primary_in="a",
            secondary_in="b",
            outdev="o",
            iothread="t",
            compare_timeout_ms=0,
        )
    assert "compare_timeout_ms" == caught.value.field


def test_a_redirector_has_one_end_at_least() -> None:
    """QEMU refuses none, and the same for both (qemu-behaviour 6.8)."""
    for end in (None, "chardev0"):
        with pytest.raises(DeclarationError):
            FilterRedirector(id="r", netdev="hn0", indev=end, outdev=end)


@pytest.mark.parametrize("position", ["", "id=", "rew0", "middle"])
def test_a_position_is_one_qemu_knows(position: str) -> None:
    """It is head, tail or a filter (qemu-behaviour 6.4)."""
    with pytest.raises(DeclarationError):
        FilterMirror(id="m0", netdev="hn0", outdev="mirror0", position=position)
