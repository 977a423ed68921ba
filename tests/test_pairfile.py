"""Pair files: what they say, and that nothing is lost on the way to a pair and back."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from tests.strategies import pairs

from pycolo import pairfile
from pycolo.errors import DeclarationError
from pycolo.model import (
    ChainIds,
    ChainPorts,
    ColoPair,
    Device,
    DiskIds,
    FilterChain,
    Machine,
    Netdev,
    Node,
    Ports,
    ReplicationDisk,
    TcpMonitor,
    Timeouts,
    UnixMonitor,
)

EXAMPLES = Path(__file__).parent.parent / "examples"

SMALLEST = """
format_version = 1
name = "colo"
nodes = [
  {name = "alpha", address = "192.0.2.1", image_folder = "/images"},
  {name = "beta", address = "192.0.2.2", image_folder = "/images"},
]
"""


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    """What holds files to the published schema."""
    return jsonschema.Draft202012Validator(pairfile.json_schema())


@pytest.mark.property
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs())
def test_a_pair_comes_back_from_its_file(pair: ColoPair) -> None:
    """Whatever can be declared can be written and read, and the published schema admits it."""
    text = pairfile.dumps(pair)
    read = pairfile.loads(text, "json")
    assert pair == read
    assert text == pairfile.dumps(read)
    assert validator().is_valid(json.loads(text))


def test_the_schema_is_a_schema() -> None:
    """The published schema is itself valid."""
    jsonschema.Draft202012Validator.check_schema(pairfile.json_schema())


@pytest.mark.parametrize("name", ["pair.toml", "qemu-doc.toml"])
def test_examples_are_what_the_schema_says(name: str) -> None:
    """The examples can be read, and an editor that knows the schema finds nothing wrong."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert pairfile.load(EXAMPLES / name) == pairfile.loads(text)
    assert [] == list(validator().iter_errors(tomllib.loads(text)))


def test_the_documents_pair_is_declared_to_the_letter() -> None:
    """`examples/qemu-doc.toml` is the pair of QEMU's document, with nothing left to a default."""
    helper = "/usr/lib/qemu/qemu-bridge-helper"
    folder = "/mnt/vms/colo-test-"
    listen = "0.0.0.0"  # noqa: S104 - the document's
    ports = ChainPorts(mirror=9003, compare_in=9004, compare_local=9001, compare_out=9005)
    disk_ids = DiskIds(
        quorum="colo-disk0",
        parent="parent0",
        replication="childs0",
        active="active0",
        hidden="hidden0",
        nbd="nbd0",
        primary_replication="replication0",
        device="disk0",
        secret="secret0",  # noqa: S106 - an id
        access="access0",
        throttle="throttle0",
    )
    expected = ColoPair(
        name="colo",
        nodes=(
            Node(
                name="primary",
                address="127.0.0.1",
                listen_address=listen,
                image_folder=f"{folder}primary",
            ),
            Node(
                name="secondary",
                address="127.0.0.2",
                listen_address=listen,
                image_folder=f"{folder}secondary",
            ),
        ),
        machine=Machine(
            memory_mib=512,
            vcpus=1,
            accelerator="kvm",
            cpu="qemu64,kvmclock=on",
            devices=(Device(driver="piix3-usb-uhci"), Device(driver="usb-tablet")),
        ),
        disks=(ReplicationDisk(size_bytes=10737418240, image="primary.qcow2", ids=disk_ids),),
        chains=(
            FilterChain(
                netdev=Netdev(type="tap", options={"vhost": "off", "helper": helper}),
                model="rtl8139",
                ids=ChainIds.numbered(0),
                ports=ports,
            ),
        ),
        checkpoint_delay_ms=20000,
        ports=Ports(migration=9998, nbd=9999),
        initial_sync="identical",
    )
    assert expected == pairfile.load(EXAMPLES / "qemu-doc.toml")


def test_the_documents_netdev_options_keep_their_order() -> None:
    """Options go onto the command line in the order in which they were written."""
    pair = pairfile.load(EXAMPLES / "qemu-doc.toml")
    assert ["vhost", "helper"] == list(pair.chains[0].netdev.options)
    again = pairfile.loads(pairfile.dumps(pair), "json")
    assert ["vhost", "helper"] == list(again.chains[0].netdev.options)


def test_what_is_not_given_has_its_default() -> None:
    """A file needs its version and two nodes; the rest is the model's defaults."""
    nodes = [
        Node(name=name, address=address, image_folder="/images")
        for name, address in (("alpha", "192.0.2.1"), ("beta", "192.0.2.2"))
    ]
    assert ColoPair(name="colo", nodes=(nodes[0], nodes[1])) == pairfile.loads(SMALLEST)


def test_a_file_may_name_some_parts() -> None:
    """Ids and ports that are not given are those of the disk's or the chain's place."""
    text = SMALLEST + (
        '[[disks]]\nsize_bytes = 512\nimage = "a"\nactive_image = "b"\nhidden_image = "c"\n'
        '[[disks]]\nsize_bytes = 512\nids = {quorum = "data"}\n'
        '[[chains]]\nnetdev = {type = "user"}\n'
        '[[chains]]\nnetdev = {type = "user"}\nids = {mirror = "mir"}\nports = {mirror = 7}\n'
    )
    pair = pairfile.loads(text)
    assert DiskIds.numbered(0) == pair.disks[0].ids
    assert attrs.evolve(DiskIds.numbered(1), quorum="data") == pair.disks[1].ids
    assert attrs.evolve(ChainIds.numbered(1), mirror="mir") == pair.chains[1].ids
    assert attrs.evolve(ChainPorts.numbered(1), mirror=7) == pair.chains[1].ports
    assert validator().is_valid(tomllib.loads(text))


def test_ports_that_are_not_given_follow_the_base() -> None:
    """One key for all ports of a pair; single ones can be set beside it, whatever their order."""
    text = SMALLEST + (
        '[[chains]]\nnetdev = {type = "user"}\n'
        '[[chains]]\nnetdev = {type = "user"}\nports = {mirror = 7}\n'
        "[ports]\nbase = 9100\nnbd = 8\n"
    )
    pair = pairfile.loads(text)
    assert (9100, 8) == (pair.ports.migration, pair.ports.nbd)
    assert ChainPorts.from_base(9100, 0) == pair.chains[0].ports
    assert attrs.evolve(ChainPorts.from_base(9100, 1), mirror=7) == pair.chains[1].ports
    assert validator().is_valid(tomllib.loads(text))
    assert pair == pairfile.loads(pairfile.dumps(pair))
    with pytest.raises(DeclarationError, match=r"^ports\.base must be a whole number"):
        pairfile.loads(text.replace("9100", "65001"))


def test_further_nodes_are_spares() -> None:
    """The first two nodes are the pair, those behind them can take a dead one's place."""
    pair = pairfile.load(EXAMPLES / "pair.toml")
    assert ["alpha", "beta"] == [node.name for node in pair.nodes]
    assert ["gamma"] == [node.name for node in pair.spares]


def test_monitors_are_told_apart_by_their_keys() -> None:
    """`path` is a Unix socket, `host` and `port` are TCP."""
    monitors = 'control = {path = "/c"}, observer = {host = "127.0.0.1", port = 4444}}'
    pair = pairfile.loads(SMALLEST.replace('"/images"}', f'"/images", {monitors}', 1))
    assert UnixMonitor(path="/c") == pair.nodes[0].control
    assert TcpMonitor(host="127.0.0.1", port=4444) == pair.nodes[0].observer


def test_an_option_may_be_given_several_times() -> None:
    """A list repeats the option on the command line."""
    forwards = ["tcp::2222-:22", "tcp::8080-:80"]
    netdev = f'{{type = "user", options = {{hostfwd = {json.dumps(forwards)}}}}}'
    pair = pairfile.loads(f"{SMALLEST}\n[[chains]]\nnetdev = {netdev}\n")
    assert {"hostfwd": tuple(forwards)} == pair.chains[0].netdev.options


def test_whole_seconds_need_no_point() -> None:
    """A timeout may be written as a whole number."""
    pair = pairfile.loads(SMALLEST + "[timeouts]\nfailover_s = 20\n")
    assert Timeouts(failover_s=20.0) == pair.timeouts


def test_the_files_name_tells_its_format(tmp_path: Path) -> None:
    """A name that ends in .json is JSON, any other TOML."""
    pair = pairfile.loads(SMALLEST)
    (tmp_path / "pair.json").write_text(pairfile.dumps(pair), encoding="utf-8")
    (tmp_path / "pair.conf").write_text(SMALLEST, encoding="utf-8")
    assert pair == pairfile.load(tmp_path / "pair.json")
    assert pair == pairfile.load(str(tmp_path / "pair.conf"))


@pytest.mark.parametrize(
    ("text", "file_format", "line"),
    [
        ("format_version = 1\nname = colo\n", "toml", "name = colo"),
        ('{\n"format_version": 1,\n"name": colo}', "json", '"name": colo}'),
    ],
)
def test_what_is_no_toml_or_json_is_refused_with_its_line(
    text: str, file_format: pairfile.Format, line: str
) -> None:
    """A slip of the pen is named by its line."""
    with pytest.raises(
        DeclarationError, match=f"the pair file must be {file_format.upper()}"
    ) as caught:
        pairfile.loads(text, file_format)
    assert line == caught.value.value


def test_a_key_that_json_gives_twice_is_refused() -> None:
    """JSON would quietly keep the last of two; nobody knows which was meant."""
    text = pairfile.dumps(pairfile.loads(SMALLEST))
    with pytest.raises(DeclarationError, match="name must be given once in its object"):
        pairfile.loads(text.replace("{", '{"name": "a", "name": "b",', 1), "json")


def test_importing_pycolo_loads_no_json_library() -> None:
    """Reading files costs who does not read them nothing: no jsonschema, no client library."""
    program = "import sys, pycolo, pycolo.pairfile, pycolo.wire; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert set() == {"jsonschema", "qemu"} & set(done.stdout.split())


def test_what_was_written_is_read_without_a_word_about_its_form() -> None:
    """`loads(dumps(pair))` is the pair."""
    pair = pairfile.load(EXAMPLES / "pair.toml")
    assert pair == pairfile.loads(pairfile.dumps(pair))


@pytest.mark.parametrize("text", [None, b"x"])
def test_what_is_no_text_is_refused(text: object) -> None:
    """The error names the argument, as for any other wrong value."""
    with pytest.raises(DeclarationError, match=f"text must be a str, not {text!r}"):
        pairfile.loads(text)  # type: ignore[arg-type]  # a caller's mistake
