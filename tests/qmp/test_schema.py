"""Commands against the schemas of the three QEMU versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from tests.qmp.strategies import commands

from pycolo._json import array_at, object_at
from pycolo.errors import ParseError
from pycolo.qmp import (
    BlockdevAdd,
    ChardevAdd,
    Command,
    InetSocketAddress,
    MigrateSetCapabilities,
    MigrateSetParameters,
    NbdNode,
    NbdServerAdd,
    PackagedVersion,
    Qcow2Node,
    QmpCommand,
    Schema,
    SchemaFeature,
    SchemaProblem,
    SocketClient,
    Stop,
    XColoLostHeartbeat,
    Yank,
    YankMigration,
)
from pycolo.qmp.schema import packaged_entries
from pycolo.qmp.states import JobStatus, MigrationStatus, RunState

DOCUMENT = Path(__file__).parents[1] / "golden" / "document" / "doc-procedures.json"
VERSIONS: tuple[PackagedVersion, ...] = get_args(PackagedVersion)
EVENTS = [
    "STOP",
    "RESUME",
    "MIGRATION",
    "COLO_EXIT",
    "JOB_STATUS_CHANGE",
    "BLOCK_JOB_READY",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_ERROR",
    "QUORUM_REPORT_BAD",
    "BLOCK_EXPORT_DELETED",
    "SHUTDOWN",
    "RESET",
    "GUEST_PANICKED",
]

NEW = Schema.packaged("11.1.3")
MIDDLE = Schema.packaged("10.0.13")
OLD = Schema.packaged("7.2.22")


def _states(version: PackagedVersion, command: str) -> list[str]:
    """The values of the member `status` in what a command returns."""
    entries = [object_at(entry, path) for path, entry in array_at(packaged_entries(version), "")]
    types = {str(entry["name"]): entry for entry in entries}
    reply = types[str(types[command]["ret-type"])]
    if reply["meta-type"] == "array":
        reply = types[str(reply["element-type"])]
    members = [object_at(member, path) for path, member in array_at(reply["members"], "")]
    kind = next(str(member["type"]) for member in members if member["name"] == "status")
    return [str(value) for _, value in array_at(types[kind]["values"], "")]


def _client(*, reconnect_s: int | None = None, reconnect_ms: int | None = None) -> ChardevAdd:
    address = InetSocketAddress(host="127.0.0.2", port=9003)
    backend = SocketClient(addr=address, reconnect_s=reconnect_s, reconnect_ms=reconnect_ms)
    return ChardevAdd(id="red0", backend=backend)


def _wire(name: str, **arguments: object) -> dict[str, object]:
    return {"execute": name, "arguments": arguments}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_document_s_commands_are_accepted(version: PackagedVersion) -> None:
    """The commands of the document are known to every version that is tested."""
    procedures: dict[str, list[dict[str, object]]] = json.loads(DOCUMENT.read_text())
    schema = Schema.packaged(version)
    for command in (command for steps in procedures.values() for command in steps):
        assert () == schema.check(command), command


@pytest.mark.property
@given(commands)
@settings(deadline=None, max_examples=300)
def test_every_typed_command_is_accepted_by_some_version(command: Command) -> None:
    """What the classes can say, a QEMU that is tested understands."""
    problems = [schema.check(command) for schema in (OLD, MIDDLE, NEW)]
    assert () in problems


@pytest.mark.parametrize("version", VERSIONS)
def test_every_command_and_event_is_known(version: PackagedVersion) -> None:
    """No version lacks a command that has a class, or an event that has one."""
    schema = Schema.packaged(version)
    assert [] == [k.qmp_name for k in get_args(Command) if not schema.has_command(k.qmp_name)]
    assert [] == [name for name in EVENTS if not schema.has_event(name)]
    assert not schema.has_event("COLO_ENTER")
    assert not schema.has_command("colo")


@pytest.mark.parametrize("version", VERSIONS)
def test_out_of_band_is_what_the_classes_say(version: PackagedVersion) -> None:
    """A class is marked for out-of-band use if and only if QEMU allows it."""
    schema = Schema.packaged(version)
    for kind in get_args(Command):
        problems = schema.check({"execute": kind.qmp_name}, oob=True)
        refused = any(problem.path == "execute" for problem in problems)
        assert kind.oob_capable is not refused, kind.qmp_name


def test_a_yank_out_of_band_is_accepted() -> None:
    """The cure of a wedge passes; a stop out of band does not."""
    assert () == MIDDLE.check(Yank(instances=(YankMigration(),)), oob=True)
    (problem,) = MIDDLE.check(Stop(), oob=True)
    assert "execute" == problem.path


def test_reconnect_is_gone_from_11_1() -> None:
    """Seconds until 10.1, milliseconds from 9.2 (qemu-behaviour 2.3)."""
    seconds, milliseconds = _client(reconnect_s=1), _client(reconnect_ms=1000)
    path = "arguments.backend.data"
    assert () == OLD.check(seconds)
    assert () == MIDDLE.check(seconds)
    assert (
        SchemaProblem(f"{path}.reconnect", "be absent (did you mean reconnect-ms?)"),
    ) == NEW.check(seconds)
    assert (
        SchemaProblem(f"{path}.reconnect-ms", "be absent (did you mean reconnect?)"),
    ) == OLD.check(milliseconds)
    assert () == NEW.check(milliseconds)
    assert (SchemaFeature(f"{path}.reconnect", "deprecated"),) == MIDDLE.features(seconds)
    assert () == OLD.features(seconds)


def test_detach_is_gone_from_11() -> None:
    """An argument that a version dropped is refused there by name."""
    command = _wire("migrate", uri="tcp:127.0.0.2:9998", detach=True)
    assert () == MIDDLE.check(command)
    assert (SchemaProblem("arguments.detach", "be absent"),) == NEW.check(command)


def test_channels_are_not_known_to_7_2() -> None:
    """There uri must be given; later it may be left out."""
    address = {"transport": "socket", "type": "inet", "host": "h", "port": "9998"}
    command = _wire("migrate", channels=[{"channel-type": "main", "addr": address}])
    assert () == MIDDLE.check(command)
    assert ["arguments.uri", "arguments.channels"] == [p.path for p in OLD.check(command)]


def test_a_wrong_nesting_is_refused_with_its_path() -> None:
    """The flat address where the wrapped one belongs, and the reverse (qemu-behaviour 3.13)."""
    flat = {"type": "inet", "host": "h", "port": "9999"}
    wrapped = {"type": "inet", "data": {"host": "h", "port": "9999"}}
    for schema in (OLD, MIDDLE, NEW):
        start = schema.check(_wire("nbd-server-start", addr=flat))
        assert SchemaProblem("arguments.addr.data", "be present") == start[0]
        add = schema.check(_wire("blockdev-add", driver="nbd", server=wrapped))
        assert SchemaProblem("arguments.server.host", "be present") == add[0]


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ({"execute": "no-such-command"}, "execute"),
        ({"arguments": {}}, "execute"),
        ({"execute": "stop", "id": 1}, "id"),
        ({"execute": "stop", "arguments": []}, "arguments"),
        ({"execute": "stop", "arguments": {"now": True}}, "arguments.now"),
        (_wire("migrate", uri=3), "arguments.uri"),
        (_wire("migrate-set-parameters", **{"downtime-limit": True}), "arguments.downtime-limit"),
        (_wire("migrate-set-parameters", **{"downtime-limit": 2**64}), "arguments.downtime-limit"),
        (_wire("migrate-set-parameters", **{"downtime-limit": 1.5}), "arguments.downtime-limit"),
        (_wire("migrate-set-parameters", **{"tls-creds": 1}), "arguments.tls-creds"),
        (_wire("migrate-set-capabilities", capabilities={}), "arguments.capabilities"),
        (
            _wire("migrate-set-capabilities", capabilities=[{"capability": "x", "state": True}]),
            "arguments.capabilities[0].capability",
        ),
        (
            _wire("migrate-set-capabilities", capabilities=[{"capability": 1, "state": True}]),
            "arguments.capabilities[0].capability",
        ),
        (_wire("migrate-set-capabilities", capabilities=[3]), "arguments.capabilities[0]"),
        (_wire("blockdev-add", driver="raw", file=True), "arguments.file"),
        (_wire("blockdev-add", driver="raw", file={"driver": "file"}), "arguments.file.filename"),
        (_wire("blockdev-add", driver="qcow3"), "arguments.driver"),
        (_wire("blockdev-add", **{"node-name": "n"}), "arguments.driver"),
        (
            _wire("blockdev-add", driver="quorum", children="a", **{"vote-threshold": 1}),
            "arguments.children",
        ),
        (_wire("object-add", **{"qom-type": "filter-mirror"}), "arguments.id"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(command: dict[str, object], path: str) -> None:
    """Each kind of fault is found, where it is."""
    for schema in (OLD, MIDDLE, NEW):
        assert path in [problem.path for problem in schema.check(command)]


def test_null_is_accepted_where_the_schema_says_so() -> None:
    """Alternates can have a branch for null."""
    nothing = {"driver": "qcow2", "file": "f", "backing": None}
    assert () == NEW.check(_wire("blockdev-add", **nothing))
    assert () == NEW.check(_wire("migrate-set-parameters", **{"tls-creds": None}))
    refused = NEW.check(_wire("blockdev-add", driver="raw", file=None))
    assert ["arguments.file"] == [problem.path for problem in refused]


def test_a_number_may_be_any_and_any_value_may_be_set() -> None:
    """qom-set takes every JSON value."""
    for value in (None, True, 1, 1.5, "a", [1], {"a": 1}):
        assert () == NEW.check(_wire("qom-set", path="/", property="p", value=value))


@pytest.mark.parametrize(
    ("command", "features"),
    [
        (Stop(), ()),
        (XColoLostHeartbeat(), (SchemaFeature("execute", "unstable"),)),
        (NbdServerAdd(device="parent0"), (SchemaFeature("execute", "deprecated"),)),
        (
            MigrateSetCapabilities.turning_on("events", "x-colo"),
            (SchemaFeature("arguments.capabilities[1].capability", "unstable"),),
        ),
        (
            MigrateSetParameters(x_checkpoint_delay_ms=2000, tls_creds="tls0"),
            (SchemaFeature("arguments.x-checkpoint-delay", "unstable"),),
        ),
        (
            BlockdevAdd(node=Qcow2Node(file=NbdNode(server=InetSocketAddress(host="h", port=1)))),
            (),
        ),
    ],
)
def test_features_are_those_of_the_parts_in_use(
    command: QmpCommand[object], features: tuple[SchemaFeature, ...]
) -> None:
    """A feature of a part that the command does not use is not told."""
    for schema in (OLD, MIDDLE, NEW):
        assert features == schema.features(command)


def test_problems_and_features_read_as_sentences() -> None:
    """They are made to be shown."""
    assert "arguments.uri must be present" == str(SchemaProblem("arguments.uri", "be present"))
    assert "execute is unstable" == str(SchemaFeature("execute", "unstable"))


def test_a_packaged_schema_is_read_once() -> None:
    """Reading takes milliseconds, and a plan asks for every command."""
    assert Schema.packaged("10.0.13") is MIDDLE


@pytest.mark.parametrize(
    ("reply", "path"),
    [
        ({}, "return"),
        ([1], "return[0]"),
        ([{"meta-type": "object"}], "return[0].name"),
        ([{"name": "0"}], "return[0].meta-type"),
    ],
)
def test_a_reply_that_is_no_schema_is_refused(reply: object, path: str) -> None:
    """The shape of each entry is looked at when the reply is read."""
    with pytest.raises(ParseError) as caught:
        Schema.from_reply(reply)
    assert path == caught.value.path


def test_a_schema_with_a_hole_is_refused_when_it_is_met() -> None:
    """A command whose argument type is missing cannot be checked."""
    schema = Schema.from_reply([{"name": "stop", "meta-type": "command", "arg-type": "0"}])
    with pytest.raises(ParseError):
        schema.check(Stop())
    with pytest.raises(ParseError):
        Schema.from_reply([{"name": "stop", "meta-type": "command"}]).check(Stop())


@pytest.mark.parametrize("version", ["7.2.22", "10.0.13", "11.1.3"])
def test_a_packaged_schema_is_found_by_its_digest(version: PackagedVersion) -> None:
    """A document names a schema by its digest, which is that of what QEMU answers."""
    packaged = Schema.packaged(version)

    assert packaged.is_packaged
    assert packaged is Schema.from_digest(packaged.digest)
    assert packaged is Schema.from_reply(packaged_entries(version))
    assert 64 == len(str(packaged))


def test_one_command_less_is_another_schema() -> None:
    """A build that differs is told from the packaged one of its version."""
    entries = packaged_entries("11.1.3")
    assert isinstance(entries, list)

    other = Schema.from_reply(entries[1:])

    assert other != Schema.packaged("11.1.3")
    assert not other.is_packaged


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("query-status", get_args(RunState)),
        ("query-migrate", get_args(MigrationStatus)),
        ("query-jobs", get_args(JobStatus)),
    ],
)
def test_states_are_those_of_the_packaged_schemas(command: str, names: tuple[str, ...]) -> None:
    """Each name is one that some packaged QEMU gives, and none of theirs is missing."""
    known = {state for version in VERSIONS for state in _states(version, command)}
    assert sorted(known) == sorted(names)
