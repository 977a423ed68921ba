"""The file that says what an agent is."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import attrs
import pytest
from tests.cli.conftest import Pycolo
from tests.supervise.arbitration import SHARED

from pycolo.cli import _agent_file
from pycolo.errors import DeclarationError
from pycolo.pairfile import load
from pycolo.record import dumps, loads
from pycolo.supervise import Held, SharedRecord
from pycolo.supervise.arbiters import SqliteArbiter
from pycolo.supervise.arbiters.etcd import EtcdArbiter
from pycolo.supervise.release import Release

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "agents.md"


def loaded(folder: Path, text: str) -> _agent_file.AgentFile:
    """What a file with this text says."""
    path = folder / "agent.toml"
    path.write_text(text if "format_version" in text else f"format_version = 1\n{text}")
    return _agent_file.load(path)


def test_example_of_the_manual_is_one(tmp_path: Path) -> None:
    """It names the node, the fuse and etcd, as the page shows it."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = loaded(tmp_path, text)
    assert ("alpha", "/run/pycolo-fuse/fuse.sock") == (found.node, found.fuse)
    assert found.etcd is not None
    assert 3 == len(found.etcd.endpoints)


async def test_arbiter_may_be_etcd(tmp_path: Path) -> None:
    """Nothing is asked before it is used."""
    found = loaded(tmp_path, 'node = "a"\n[etcd]\nendpoints = ["http://127.0.0.1:1"]\n')
    arbiter = found.arbiter()
    assert isinstance(arbiter, EtcdArbiter)
    await arbiter.aclose()


async def test_arbiter_may_be_a_file(tmp_path: Path) -> None:
    """For agents that run on one machine."""
    place = tmp_path / "arbiter"
    found = loaded(tmp_path, f'node = "alpha"\n[sqlite]\nfolder = "{place}"\n')
    arbiter = found.arbiter()
    assert isinstance(arbiter, SqliteArbiter)
    assert (await arbiter.identity(limit_s=5.0)).startswith("sqlite:")
    await arbiter.aclose()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('node = "alpha"', "etcd must be given, or sqlite; not both"),
        ('node = "a"\n[sqlite]\nfolder = "/a"\n[etcd]\nendpoints = []', "not both"),
        ('[sqlite]\nfolder = "/a"', "node"),
        ('node = "a b"\n[sqlite]\nfolder = "/a"', "node must"),
        ('node = "a"\n[sqlite]\nfolder = "a"', "sqlite.folder must"),
        ('node = "a"\nfuze = "/a"\n[sqlite]\nfolder = "/a"', "fuze"),
        ("node = ", "TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Field, value and rule, before anything is asked."""
    with pytest.raises(DeclarationError, match=said):
        loaded(tmp_path, text)


def test_wishes_are_kept_in_the_arbiter(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """A pair that no agent has begun yet has no record that could hold any."""
    agent_file = tmp_path / "agent.toml"
    place = tmp_path / "arbiter"
    agent_file.write_text(f'format_version = 1\nnode = "a"\n[sqlite]\nfolder = "{place}"\n')
    given = (pair_file, "--agent", agent_file)
    ended = pycolo("want", "stopped", *given)
    assert (1, "") == (ended.code, ended.out)
    assert "the arbiter holds none; start the agents first" in ended.err
    asyncio.run(_begun(SqliteArbiter(place)))
    assert "colo: stopped is wanted\n" == pycolo("want", "stopped", *given).out
    assert ": a new kernel\n" in pycolo("pause", *given, "--why", "a new kernel").out
    assert "colo: stopped is wanted\n" == pycolo("unpause", *given).out


async def _begun(arbiter: SqliteArbiter) -> None:
    record = attrs.evolve(SHARED.record, pair="colo")
    await arbiter.swap("colo", Held(), SharedRecord(record=record), limit_s=5.0)
    await arbiter.aclose()


def test_pair_is_released_to_its_files(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """By the arbiter and the node that the agent file names."""
    pair_file.write_text(pair_file.read_text().replace("/vms/", f"{tmp_path}/"))
    pair = load(pair_file)
    for node in pair.names:
        Path(pair.record_path(node)).parent.mkdir()
    agent_file, place = tmp_path / "agent.toml", tmp_path / "arbiter"
    agent_file.write_text(f'format_version = 1\nnode = "alpha"\n[sqlite]\nfolder = "{place}"\n')
    given = (pair_file, "--agent", agent_file)
    ended = pycolo("release", *given)
    assert (1, "") == (ended.code, ended.out)
    assert "it holds none" in ended.err
    assert 64 == pycolo("release", pair_file).code
    asyncio.run(_begun(SqliteArbiter(place)))
    assert "protected is wanted" in pycolo("release", *given).err
    name = asyncio.run(_alone(SqliteArbiter(place)))
    for node in ("alpha", "beta"):
        file = attrs.evolve(ALONE, managed_by=name)
        Path(pair.record_path(node)).write_text(dumps(file))
    ended = pycolo("release", *given)
    assert (0, "colo: its files count from now on, and name alpha\n") == (ended.code, ended.out)
    for node in ("alpha", "beta"):
        written = loads(Path(pair.record_path(node)).read_bytes())
        assert attrs.evolve(ALONE, epoch=ALONE.epoch + 1) == written
    assert '"unwritten": {}' in pycolo("release", *given, "--as", "json").out
    assert "paused since it was released" in pycolo("unpause", *given).out
    assert "colo: protected is wanted\n" == pycolo("want", "protected", *given).out


def test_file_that_was_not_released_is_named(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code says that the release is not whole."""

    async def released(*_: object, **__: object) -> Release:
        return Release(record=ALONE, unwritten={"beta": "its disk is full"})

    monkeypatch.setattr("pycolo.cli._wishes.release", released)
    agent_file = tmp_path / "agent.toml"
    agent_file.write_text(
        f'format_version = 1\nnode = "alpha"\n[sqlite]\nfolder = "{tmp_path}/arbiter"\n'
    )
    ended = pycolo("release", pair_file, "--agent", agent_file)
    assert 3 == ended.code
    assert "the file of beta was not written: its disk is full; type `pycolo rel" in ended.err


ALONE = attrs.evolve(
    SHARED.record, pair="colo", eligible={"alpha": "colo:alpha:00000001"}, phase="alone"
)


async def _alone(arbiter: SqliteArbiter) -> str:
    held = await arbiter.read("colo", limit_s=5.0)
    shared = SharedRecord(record=ALONE, want="unprotected")
    await arbiter.swap("colo", held, shared, limit_s=5.0)
    name = await arbiter.identity(limit_s=5.0)
    await arbiter.aclose()
    return name


def test_node_that_a_pair_lacks_is_refused(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """In one line that names the pair and its nodes."""
    agent_file = tmp_path / "agent.toml"
    agent_file.write_text(
        f'format_version = 1\nnode = "omega"\n[sqlite]\nfolder = "{tmp_path}/arbiter"\n'
    )
    ended = pycolo("agent", agent_file, pair_file)
    assert 4 == ended.code
    assert "node must be one of alpha, beta, gamma, not 'omega'" in ended.err
