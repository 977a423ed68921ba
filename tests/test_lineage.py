"""Which node holds the newest data, in files."""

import json
from pathlib import Path

import attrs
import pytest

from pycolo.errors import CompileError, ParseError
from pycolo.lineage import Lineage, LineageFiles, newest, path_of, read, write
from pycolo.model import ColoPair, Node, ReplicationDisk
from pycolo.observers import Silent
from pycolo.operate import Order, run
from pycolo.plan import LaunchQemu, RunHost


def _pair(tmp_path: Path, name: str = "colo") -> ColoPair:
    return ColoPair(
        name=name,
        nodes=tuple(
            Node(name=node, address=f"127.0.0.{n}", image_folder=str(tmp_path / node))
            for n, node in enumerate(("alpha", "beta"), 1)
        ),
        disks=(ReplicationDisk(size_bytes=1 << 20),),
    )


@pytest.fixture
def pair(tmp_path: Path) -> ColoPair:
    """A pair whose nodes both keep their images here."""
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
    return _pair(tmp_path)


def _lineage(holder: str, epoch: int) -> Lineage:
    return Lineage(newest=holder, epoch=epoch, pair="colo")


def test_file_stands_beside_the_first_image(pair: ColoPair, tmp_path: Path) -> None:
    """Whoever moves the image sees the file that belongs to it."""
    expected = tmp_path / "alpha" / "primary.qcow2.lineage.json"
    assert expected == path_of(pair, pair.node("alpha"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A file says what was written, with a format version for later readers."""
    write(tmp_path / "x", _lineage("beta", 3))
    assert _lineage("beta", 3) == read(tmp_path / "x")
    assert 1 == json.loads((tmp_path / "x").read_text())["format_version"]
    assert ["x"] == [path.name for path in tmp_path.iterdir()]


def test_absent_file_is_none(tmp_path: Path) -> None:
    """A node that never had a file says nothing."""
    assert read(tmp_path / "x") is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format_version": 2}', '{"format_version": 1, "newest": "a"}']
)
def test_unreadable_file_is_an_error(tmp_path: Path, text: str) -> None:
    """A file that cannot be understood is never taken for an absent one."""
    (tmp_path / "x").write_text(text)
    with pytest.raises(ParseError, match=str(tmp_path / "x")):
        read(tmp_path / "x")


def test_highest_epoch_wins() -> None:
    """A node that missed a promotion is wrong about it."""
    assert _lineage("beta", 2) == newest([_lineage("alpha", 1), None, _lineage("beta", 2)])


def test_contradiction_is_for_a_person() -> None:
    """Two nodes promoted in the same epoch: no program can know which data to keep."""
    with pytest.raises(CompileError) as caught:
        newest([_lineage("alpha", 2), _lineage("beta", 2)])
    assert "--newest" in caught.value.decide


def test_nothing_known_is_none() -> None:
    """A pair that was never started has no newest node."""
    assert newest([None, None]) is None


def test_life_of_a_pair(pair: ColoPair) -> None:
    """Each change of the newest node is a new epoch, and both nodes are told."""
    files = LineageFiles(pair)
    assert files.known() is None
    files.claim("alpha")
    files.claim("alpha")
    assert _lineage("alpha", 1) == files.known()
    files.promote("beta")
    assert {"alpha": _lineage("beta", 2), "beta": _lineage("beta", 2)} == files.read()
    files.promote("beta")
    files.claim("alpha")
    assert _lineage("alpha", 4) == files.known()


def test_unreadable_file_does_not_hold_up_a_promotion(pair: ColoPair) -> None:
    """The survivor must be able to go on; its word replaces what could not be read."""
    files = LineageFiles(pair)
    files.claim("alpha")
    path_of(pair, pair.node("beta")).write_text("?")
    files.promote("alpha")
    assert _lineage("alpha", 2) == files.known()


def test_survivor_out_of_reach_is_an_error(pair: ColoPair, tmp_path: Path) -> None:
    """A promotion that cannot be written where the data is was not recorded."""
    (tmp_path / "beta").rmdir()
    files = LineageFiles(pair)
    assert (True, False) == (files.keeps("alpha"), files.keeps("beta"))
    with pytest.raises(OSError, match="beta"):
        files.promote("beta")


def test_image_of_another_pair_is_refused(pair: ColoPair, tmp_path: Path) -> None:
    """An image that another pair wrote is not this pair's to launch."""
    LineageFiles(pair).claim("alpha")
    with pytest.raises(CompileError, match="colo"):
        LineageFiles(_pair(tmp_path, "other")).known()


@pytest.fixture
def startable(pair: ColoPair, tmp_path: Path) -> ColoPair:
    """The pair with QEMUs that tell their version and end."""
    binary = tmp_path / "qemu"
    binary.write_text("#!/bin/sh\necho QEMU emulator version 10.0.13\n")
    binary.chmod(0o755)
    nodes = [
        attrs.evolve(
            node,
            run_dir=str(tmp_path / node.name / "run"),
            qemu_binary=str(binary),
            qemu_img_binary=str(binary),
        )
        for node in pair.nodes
    ]
    return attrs.evolve(pair, nodes=nodes)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, {"alpha": "secondary", "beta": "primary"}),
        ("alpha", {"alpha": "primary", "beta": "secondary"}),
    ],
)
async def test_who_is_newest_is_launched_as_primary(
    startable: ColoPair, said: str | None, expected: dict[str, str]
) -> None:
    """A stale image is never the guest's, unless a person says that it is not stale."""
    LineageFiles(startable).promote("beta")
    report = await run(Order(procedure="launch", pair=startable, newest=said), Silent())
    actions = [(s.node, s.action) for s in report.plan.steps if isinstance(s, RunHost)]
    assert expected == {node: a.role for node, a in actions if isinstance(a, LaunchQemu)}


async def test_a_pair_without_its_newest_node_is_not_launched(startable: ColoPair) -> None:
    """Neither node may begin the guest anew while a third one has what it wrote."""
    for node in startable.nodes:
        write(path_of(startable, node), _lineage("gamma", 1))
    with pytest.raises(CompileError, match="gamma holds the newest data"):
        await run(Order(procedure="launch", pair=startable), Silent())
