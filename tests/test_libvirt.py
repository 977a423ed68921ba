"""A node's QEMU as a libvirt domain: the document alone."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import attrs
import pytest

from pycolo import compile_offline, libvirt
from pycolo.errors import DeclarationError
from pycolo.helper import request_of
from pycolo.model import (
    ColoPair,
    FilterChain,
    Libvirt,
    Machine,
    MemoryBackend,
    Netdev,
    Node,
    ReplicationDisk,
    TcpMonitor,
)
from pycolo.plan import LaunchQemu, RunHost
from pycolo.qmp.replies import Version

QEMU = "/usr/bin/qemu-system-x86_64"
HOSTILE = "/vms/a,b &amp; <c> \"d\" 'e' $(f) ]]>"


def _node(name: str, address: str, **given: str) -> Node:
    return Node(
        name=name,
        address=address,
        image_folder=given.get("image_folder", "/vms"),
        qemu_binary=given.get("qemu_binary", QEMU),
        libvirt=Libvirt(),
    )


PAIR = ColoPair(
    name="colo",
    nodes=(_node("alpha", "192.0.2.1", image_folder=HOSTILE), _node("beta", "192.0.2.2")),
    machine=Machine(
        memory_mib=64,
        vcpus=3,
        accelerator="tcg",
        machine_type="pc,usb=off",
        append=HOSTILE,
        kernel=HOSTILE,
    ),
    disks=(ReplicationDisk(size_bytes=1 << 20),),
    chains=(FilterChain(netdev=Netdev(type="user")),),
)


def _launches(pair: ColoPair) -> Mapping[str, LaunchQemu]:
    plan = compile_offline("launch", pair, version=Version.parse("11.1.3"))
    steps = [step for step in plan.steps if isinstance(step, RunHost)]
    return {s.node: s.action for s in steps if isinstance(s.action, LaunchQemu)}


def _words(root: ET.Element) -> list[str]:
    spaces = {"qemu": libvirt.NAMESPACE}
    return [arg.attrib["value"] for arg in root.findall("qemu:commandline/qemu:arg", spaces)]


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_every_argument_arrives_as_it_is(node: str) -> None:
    """Whatever is in a path or on the kernel's command line, it stays one argument."""
    launch = _launches(PAIR)[node]
    root = ET.fromstring(libvirt.domain(PAIR, launch))  # noqa: S314 - made here
    assert [*libvirt.TAKEN_BACK, *launch.argv[1:]] == _words(root)


def test_what_libvirt_is_told_of_the_guest_is_what_the_pair_declares() -> None:
    """The domain has the instance's name, the machine's measures and pycolo's QEMU."""
    launch = _launches(PAIR)["alpha"]
    root = ET.fromstring(libvirt.domain(PAIR, launch))  # noqa: S314 - made here
    told = {tag: root.findtext(tag) for tag in ("name", "memory", "vcpu", "devices/emulator")}
    expected = {"name": launch.instance, "memory": "64", "vcpu": "3", "devices/emulator": QEMU}
    assert expected == told
    kind = root.find("os/type")
    assert kind is not None
    assert ("qemu", "pc") == (root.attrib["type"], kind.attrib["machine"])


def test_what_libvirt_adds_is_taken_back_before_what_the_pair_adds() -> None:
    """An argument of the machine's own comes last, so that it counts."""
    machine = attrs.evolve(
        PAIR.machine, arguments=("-uuid", "11111111-2222-3333-4444-555555555555")
    )
    launch = _launches(attrs.evolve(PAIR, machine=machine))["alpha"]
    words = _words(ET.fromstring(libvirt.domain(PAIR, launch)))  # noqa: S314 - made here
    assert ["0000", "1111"] == [
        value[:4] for word, value in itertools.pairwise(words) if word == "-uuid"
    ]


def test_a_program_without_its_path_is_refused() -> None:
    """It is looked for nowhere, and would say only that it cannot start."""
    with pytest.raises(DeclarationError, match=r"Node.qemu_binary .* absolute path: libvirt"):
        _node("alpha", "192.0.2.1", qemu_binary="qemu-system-x86_64")
    launch = attrs.evolve(_launches(PAIR)["alpha"], argv=("qemu-system-x86_64",))
    with pytest.raises(DeclarationError, match=r"Node.qemu_binary .* absolute path: libvirt"):
        libvirt.domain(PAIR, launch)


def test_a_memory_backend_is_refused() -> None:
    """Two objects of one name, libvirt's and pycolo's, would keep QEMU from starting."""
    machine = attrs.evolve(PAIR.machine, memory_backend=MemoryBackend(kind="memfd"))
    with pytest.raises(DeclarationError, match=r"memory_backend must be absent with nodes\[0\]"):
        attrs.evolve(PAIR, machine=machine)


def test_a_control_monitor_that_tells_no_process_is_refused() -> None:
    """Nobody could say which process listens on a TCP port."""
    with pytest.raises(DeclarationError, match=r"Node.control .* be a Unix socket"):
        attrs.evolve(PAIR.node("alpha"), control=TcpMonitor(host="127.0.0.1", port=4444))


@pytest.mark.parametrize(
    "uri",
    [
        "--help",
        "qemu+ssh://root@beta/system",
        "qemu+ext:///system?command=/bin/sh",
        "qemu:///system?socket=/run/a&command=/bin/sh",
        "xen:///system",
        "qemu:///embed?root=/x",
        "qemu:///system x",
    ],
)
def test_a_way_to_another_libvirt_is_refused(uri: str) -> None:
    """Only a libvirt on the node's own host starts its QEMU, and no URI runs a program."""
    with pytest.raises(DeclarationError, match=r"Libvirt.uri .* on the node's own host"):
        Libvirt(uri=uri)


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu:///session", "qemu+unix:///session?socket=/run/user/1000/x-y"]
)
def test_the_request_to_the_host_holds_the_domain(uri: str) -> None:
    """What a host is asked to do is the document that `domain` gives; without libvirt none."""
    declared = Libvirt(uri=uri, virsh_binary="/opt/virsh")
    nodes = (
        attrs.evolve(PAIR.nodes[0], libvirt=declared),
        attrs.evolve(PAIR.nodes[1], libvirt=None),
    )
    pair = attrs.evolve(PAIR, nodes=nodes)
    launches = _launches(pair)
    _, asked = request_of(pair, "alpha", launches["alpha"], 1.0)
    xml = libvirt.domain(pair, launches["alpha"])
    assert {"uri": uri, "virsh": "/opt/virsh", "xml": xml} == asked["domain"]
    assert "domain" not in request_of(pair, "beta", launches["beta"], 1.0)[1]


def test_a_plan_says_who_starts_a_qemu() -> None:
    """Whoever reads the plan sees that libvirt has a part in it."""
    plan = compile_offline("launch", PAIR, version=Version.parse("11.1.3"))
    whys = [
        s.why for s in plan.steps if isinstance(s, RunHost) and isinstance(s.action, LaunchQemu)
    ]
    assert all("a domain of qemu:///system runs it" in why for why in whys)
