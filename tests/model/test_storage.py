"""What an image is opened from and stands on."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import attrs
import pytest
from tests.compiler.cases import VERSIONS, one_of_each

from pycolo import topology
from pycolo._json import JsonValue, list_of, object_of
from pycolo.compiler import compile_offline
from pycolo.errors import CompileError, DeclarationError
from pycolo.model import (
    BackingImage,
    ColoPair,
    DiskOnNode,
    Iscsi,
    Nbd,
    Nfs,
    Rbd,
    RbdMonitor,
    Remote,
    ReplicationDisk,
)
from pycolo.qmp.commands import BlockdevAdd
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import PackagedVersion, Schema, packaged_entries

SIZE_BYTES = 2**20
REMOTES = ("rbd", "iscsi", "nfs", "nbd")


def refused(make: Callable[[], object]) -> tuple[str, str]:
    """The field that an error names, and its rule."""
    with pytest.raises(DeclarationError) as caught:
        make()
    return caught.value.field, caught.value.rule


# -- backing images


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        ("base.qcow2", "be an absolute path, or begin with http:// or https://"),
        ("ftp://host/base", "be an absolute path, or begin with http:// or https://"),
        ("/images/", "be an absolute path, or begin with http:// or https://"),
        ("http:///base", "be a URL with a host and without spaces"),
        ("http://host/a b", "be a URL with a host and without spaces"),
        ("http://[::1/base", "be a URL (Invalid IPv6 URL)"),
        (
            "https://me:word@host/base",
            "hold no user or password, which every user of the host could read",
        ),
    ],
)
def test_backing_image_is_a_path_or_a_url(image: str, rule: str) -> None:
    """Anything else is refused with the rule that it breaks."""
    assert ("BackingImage.image", rule) == refused(lambda: BackingImage(image=image))


def test_url_is_no_block_device() -> None:
    """The driver is for paths."""
    made = refused(lambda: BackingImage(image="http://host/base", driver="host_device"))
    assert ("BackingImage.driver", "be file for a URL") == made


def test_only_a_qcow2_has_something_below_it() -> None:
    """The disk's image, and each image of the chain but the last."""
    base = BackingImage(image="/base", image_format="raw")
    for wanted in ("raw", "luks"):
        disk = {"size_bytes": SIZE_BYTES, "image_format": wanted, "backing": (base,)}
        field, _ = refused(lambda: ReplicationDisk(**disk))  # type: ignore[arg-type]  # noqa: B023 - named
        assert "ReplicationDisk.backing" == field
    two = (base, BackingImage(image="/below"))
    field, rule = refused(lambda: ReplicationDisk(size_bytes=SIZE_BYTES, backing=two))
    assert "ReplicationDisk.backing[0].image_format" == field
    assert "be qcow2 if there is an image below it" == rule


def test_image_does_not_back_itself() -> None:
    """Neither twice in a chain, nor as what a QEMU of that host writes to."""
    for again in ("/base", "//a/../base"):
        twice = (BackingImage(image="/base"), BackingImage(image=again))
        field, _ = refused(lambda: ReplicationDisk(size_bytes=SIZE_BYTES, backing=twice))  # noqa: B023 - called here
        assert "ReplicationDisk.backing[1].image" == field
    own = BackingImage(image="/var/lib/vm0//primary.qcow2")
    disk = attrs.evolve(one_of_each().disks[0], backing=(own,))
    field, rule = refused(lambda: attrs.evolve(one_of_each(), disks=(disk,)))
    assert "ColoPair.nodes[0].disks[0].backing[0].image" == field
    assert "differ from nodes[0].disks[0].image, which is written to" == rule


def test_backing_images_differ_by_node() -> None:
    """An empty list leaves a node without; both nodes may read one image."""
    base = BackingImage(image="http://images.example/base.raw", image_format="raw")
    disk = ReplicationDisk(
        size_bytes=SIZE_BYTES, backing=(base,), nodes={"beta": DiskOnNode(backing=())}
    )
    pair: ColoPair = attrs.evolve(one_of_each(), disks=(disk,))
    assert [(base,), (), (base,)] == [pair.disks[0].on(name).backing for name in pair.names]


# -- options by QEMU's names


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("options", "driver"),
        ("options", "node-name"),
        ("options", "file"),
        ("options", "backing"),
        ("options", "data-file"),
        ("options", "header"),
        ("options", "cache"),
        ("options", "encrypt"),
        ("options", "force-share"),
        ("options", "read-only"),
        ("file_options", "filename"),
        ("file_options", "aio"),
        ("file_options", "node-name"),
        ("file_options", "url"),
    ],
)
def test_options_that_pycolo_decides_are_refused_by_name(field: str, name: str) -> None:
    """Whatever their value is."""
    wrong: dict[str, object] = {field: {name: "x"}}
    for make, owner in ((ReplicationDisk, "ReplicationDisk"), (BackingImage, "BackingImage")):
        given = {"size_bytes": SIZE_BYTES} if make is ReplicationDisk else {"image": "/base"}
        named, rule = refused(lambda: make(**given, **wrong))  # type: ignore[arg-type]  # noqa: B023 - named
        assert f"{owner}.{field}.{name}" == named
        assert "not be set here: another key decides it, or pycolo does" == rule


@pytest.mark.parametrize("version", VERSIONS)
def test_no_option_opens_a_further_file(version: PackagedVersion) -> None:
    """Each option of a driver that takes a block node, in place or by name, is refused."""
    entries = {one["name"]: one for one in map(object_of, list_of(packaged_entries(version)))}
    root = object_of(entries["blockdev-add"])["arg-type"]
    nodes = {
        name
        for name, one in entries.items()
        if one["meta-type"] == "alternate"
        if root in [object_of(member)["type"] for member in list_of(one["members"])]
    }
    of_drivers = {
        object_of(variant)["case"]: object_of(variant)["type"]
        for variant in list_of(object_of(entries[root])["variants"])
    }
    formats, protocols = ("qcow2", "raw", "luks"), ("file", "host_device", "http", "https")
    for field, drivers in (("options", formats), ("file_options", (*protocols, *REMOTES))):
        for driver in drivers:
            for member in map(object_of, list_of(entries[of_drivers[driver]]["members"])):
                if member["type"] in nodes:
                    wrong = {field: {member["name"]: "x"}}
                    refused(lambda: ReplicationDisk(size_bytes=SIZE_BYTES, **wrong))  # type: ignore[arg-type]  # noqa: B023 - called here


def test_options_are_values_that_json_has() -> None:
    """A name of another form, null, a fraction, or what is nested too deeply is refused."""
    deep: JsonValue = 1
    for _ in range(9):
        deep = {"a": deep}
    values: list[JsonValue] = [{"b c": 1}, None, 0.5, 2**63, "\x00", deep]
    for value in values:
        with pytest.raises(DeclarationError):
            ReplicationDisk(size_bytes=SIZE_BYTES, options={"a": value})
    with pytest.raises(DeclarationError):
        ReplicationDisk(size_bytes=SIZE_BYTES, file_options={"Upper": 1})
    with pytest.raises(DeclarationError):
        ReplicationDisk(size_bytes=SIZE_BYTES, options=[])  # type: ignore[arg-type]  # wrong


def test_options_without_an_end_are_refused() -> None:
    """Deeper than Python can copy, or inside themselves; the error names the ninth level."""
    deep: dict[str, JsonValue] = {}
    for _ in range(10_000):
        deep = {"a": deep}
    endless: dict[str, JsonValue] = {}
    endless["a"] = [endless]
    for value in (deep, endless):
        field, rule = refused(lambda: ReplicationDisk(size_bytes=SIZE_BYTES, options=value))  # noqa: B023 - called here
        assert field.startswith("ReplicationDisk.options.a")
        assert "be nested at most 8 deep" == rule


def test_options_cannot_be_changed_through_what_they_were_made_of() -> None:
    """Whatever kind of mapping or list they are given as."""
    inner: dict[str, JsonValue] = {"b": [1]}
    given = MappingProxyType({"a": MappingProxyType(inner)})
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, options=given)  # type: ignore[arg-type]  # read-only
    inner["b"] = 2
    assert {"a": {"b": [1]}} == disk.options


def test_what_is_no_list_of_images_is_refused() -> None:
    """With the field's name, as from a file."""
    for wrong in (None, 3):
        field, rule = refused(
            lambda: ReplicationDisk(size_bytes=SIZE_BYTES, backing=wrong)  # type: ignore[arg-type]  # noqa: B023 - wrong
        )
        assert ("ReplicationDisk.backing", "be a list") == (field, rule)
        field, rule = refused(
            lambda: Rbd(pool="p", image="i", monitors=wrong)  # type: ignore[arg-type]  # noqa: B023 - wrong
        )
        assert ("Rbd.monitors", "be a list") == (field, rule)


def test_options_reach_the_node_that_they_are_for() -> None:
    """Those of the format, those of the file, and those of a node of the pair."""
    base = BackingImage(image="http://host/base", file_options={"readahead": 4096})
    disk = ReplicationDisk(
        size_bytes=SIZE_BYTES,
        options={"l2-cache-size": 2**20, "overlap-check": {"template": "all"}},
        file_options={"locking": "on"},
        backing=(base,),
        nodes={"beta": DiskOnNode(options={})},
    )
    alpha, beta, _ = one_of_each().all_nodes
    made = topology.image(alpha, disk).to_qmp()
    assert {"template": "all"} == made["overlap-check"]
    assert {"driver": "file", "locking": "on"}.items() <= object_of(made["file"]).items()
    assert 4096 == object_of(object_of(made["backing"])["file"])["readahead"]
    assert "l2-cache-size" not in topology.image(beta, disk).to_qmp()


def test_options_are_checked_against_a_known_schema() -> None:
    """A launch of a version whose schema is in the package is refused before any step."""
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, options={"l2-cache-sise": 2**20})
    pair = attrs.evolve(one_of_each(), disks=(disk,))
    with pytest.raises(CompileError, match=r"the QEMU of alpha refuses disks\[0\]: l2-cache-sise"):
        compile_offline("launch", pair, version=Version.parse("11.1.3"))
    assert compile_offline("launch", pair, version=Version.parse("11.1.2")).steps


# -- remote storage


SAME: tuple[tuple[Remote, Remote], ...] = (
    (Rbd(pool="p", image="i"), Rbd(pool="p", image="i", monitors=(RbdMonitor(host="m"),))),
    (Iscsi(portal="a", target="t", lun=1), Iscsi(portal="b:3260", target="t", lun=1)),
    (Nfs(host="h", path="/i"), Nfs(host="h", path="/i", user=0)),
    (Nbd(host="h", export="e"), Nbd(host="h", export="e")),
    # Other spellings.
    (Rbd(pool="p", image="i"), Rbd(pool="p", image="i", conf="/etc//ceph/ceph.conf")),
    (Rbd(pool="p", image="i", conf="/c"), Rbd(pool="p", image="i", conf="/d/../c")),
    (Iscsi(portal="a", target="iqn.x:T"), Iscsi(portal="a", target="IQN.x:t")),
    (Nfs(host="h", path="/a/i"), Nfs(host="h", path="/a/./b/..//i")),
    (Nfs(host="nas.example.org", path="/i"), Nfs(host="NAS.example.org.", path="/i")),
    (Nbd(host="fd00::1"), Nbd(host="FD00:0:0::1")),
)
OTHER: tuple[tuple[Remote, Remote], ...] = (
    (Rbd(pool="p", image="i"), Rbd(pool="p", image="j")),
    (Rbd(pool="p", image="i"), Rbd(pool="p", image="i", conf="/other/cluster.conf")),
    (Iscsi(portal="a", target="t"), Iscsi(portal="a", target="t", lun=1)),
    (Nfs(host="h", path="/i"), Nfs(host="g", path="/i")),
    # Each is a server of the node's own host.
    (Nbd(host="127.0.0.1", export="e"), Nbd(host="127.0.0.1", export="e")),
    (Nbd(host="localhost"), Nbd(host="LOCALHOST.")),
    (Nbd(path="/nbd.sock"), Nbd(path="/nbd.sock")),
    (Nbd(host="h", export="e"), Nbd(host="h", port=1, export="e")),
)


def on_remotes(*remotes: Remote) -> ColoPair:
    """A pair of two nodes that have these images."""
    one = attrs.evolve(one_of_each(), spares=())
    nodes = {n: DiskOnNode(remote=at) for n, at in zip(one.names, remotes, strict=True)}
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, image_format="raw", nodes=nodes)
    return attrs.evolve(one, disks=(disk,))


@pytest.mark.parametrize("both", SAME)
def test_one_remote_image_for_two_nodes_is_refused(both: tuple[Remote, Remote]) -> None:
    """Whatever portal, monitor or user leads to it; and so if the disk names it for all nodes."""
    field, rule = refused(lambda: on_remotes(*both))
    assert "ColoPair.nodes[1].disks[0].remote" == field
    why = "it is the same image, and QEMU does not protect it from another host"
    assert f"differ from nodes[0].disks[0].remote ({why})" == rule
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, image_format="raw", remote=both[0])
    assert field == refused(lambda: attrs.evolve(one_of_each(), disks=(disk,)))[0]


@pytest.mark.parametrize("both", OTHER)
def test_two_remote_images_are_accepted(both: tuple[Remote, Remote]) -> None:
    """The pair has a record and owner files, though no image is a file."""
    pair = on_remotes(*both)
    for name in pair.names:
        assert "image" not in pair.disks[0].paths(pair.node(name))
        assert "/" not in pair.record_path(name).removeprefix("/var/lib/vm0/")


def test_remote_storage_takes_the_place_of_a_file() -> None:
    """Both for one node are refused; either may replace what the disk has for all nodes."""
    at = Nfs(host="h", path="/i")
    assert "DiskOnNode.image" == refused(lambda: DiskOnNode(remote=at, image="x"))[0]
    wrong: list[dict[str, str]] = [{"image": "x"}, {"driver": "host_device"}, {"aio": "threads"}]
    for given in wrong:
        field, _ = refused(
            lambda: ReplicationDisk(size_bytes=SIZE_BYTES, remote=at, **given)  # type: ignore[arg-type]  # noqa: B023 - named
        )
        assert field.removeprefix("ReplicationDisk.") in (*given, "image")
    disk = ReplicationDisk(
        size_bytes=SIZE_BYTES, image="/x", aio="threads", nodes={"beta": DiskOnNode(remote=at)}
    )
    assert (at, None) == (disk.on("beta").remote, disk.on("beta").aio)
    back = attrs.evolve(disk.on("beta"), nodes={"alpha": DiskOnNode(image="/y")}).on("alpha")
    assert (None, "/y") == (back.remote, back.image)


def test_remote_storage_needs_what_belongs_together() -> None:
    """A password goes with a user, and an NBD server has a host or a socket."""
    assert "Iscsi.secret_file" == refused(lambda: Iscsi(portal="h", target="t", user="u"))[0]
    assert "Nbd.path" == refused(Nbd)[0]
    assert "Nbd.path" == refused(lambda: Nbd(host="h", path="/s"))[0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("both", SAME + OTHER)
def test_remote_images_fit_the_schema(
    both: tuple[Remote, Remote], version: PackagedVersion
) -> None:
    """Of each version, in what is required and in every type."""
    for at in both:
        disk = ReplicationDisk(size_bytes=SIZE_BYTES, image_format="raw", remote=at)
        node = topology.image(one_of_each().nodes[0], disk)
        assert () == Schema.packaged(version).check(BlockdevAdd(node=node))
