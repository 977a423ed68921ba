"""`pycolo status`: what both nodes show."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest
from tests.cli.conftest import PAIR, Pycolo
from tests.real_qemu import BareQemu, bare_qemu

from pycolo import record
from pycolo.pairfile import load
from pycolo.qmp import commands as qmp
from pycolo.qmp.blockdevs import NbdNode
from pycolo.qmp.chardevs import InetSocketAddress
from pycolo.record import PairRecord


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    with tempfile.TemporaryDirectory(prefix="pycolo") as folder:
        yield Path(folder)


def test_a_node_that_does_not_answer_has_a_clear_row(pycolo: Pycolo, pair_file: Path) -> None:
    """Reading is no failure where nobody answers: what was tried stands in the table."""
    ended = pycolo("status", pair_file)
    assert (0, "") == (ended.code, ended.err)
    assert "unreachable" in ended.out
    assert "there is no such socket" in " ".join(ended.out.replace("│", " ").split())
    why = "no QEMU is known to run, and no record can be used: there is no /vms/alpha"
    assert ended.out.splitlines()[-1].startswith(f"stopped: {why}")


def test_a_pair_before_its_first_launch_is_stopped(pycolo: Pycolo, tmp_path: Path) -> None:
    """Its hosts were asked, and tell of no QEMU and no record."""
    path = tmp_path / "pair.toml"
    path.write_text(PAIR.format(run_dir="/nowhere").replace("/vms", str(tmp_path)))
    for name in ("alpha", "beta", "gamma"):
        (tmp_path / name).mkdir()
    ended = pycolo("status", path, "--check")
    told = "stopped: never launched: no QEMU is known to run, and no node has a record"
    assert (2, f"colo: {told}\n") == (ended.code, ended.out)


def test_host_out_of_reach_makes_it_unknown(pycolo: Pycolo, tmp_path: Path) -> None:
    """A QEMU may run where nobody was asked."""
    path = tmp_path / "pair.toml"
    path.write_text(PAIR.format(run_dir="/nowhere").replace("127.0.0.2", "198.51.100.7"))
    ended = pycolo("status", path, "--check")
    assert (3, "colo: unknown: no answer from beta\n") == (ended.code, ended.out)
    path.write_text(PAIR.format(run_dir="/nowhere").replace("127.0.0.", "198.51.100."))
    ended = pycolo("status", path, "--check")
    assert "colo: unknown: no answer from alpha, beta and gamma\n" == ended.out


def test_what_cannot_be_reached_is_json_too(pycolo: Pycolo, pair_file: Path) -> None:
    """--as json is a snapshot, by its own schema."""
    found = json.loads(pycolo("status", pair_file, "--as", "json").out)
    assert ("stopped", "unreachable") == (found["state"], found["roles"]["alpha"])
    assert ["alpha", "beta", "gamma"] == list(found["snapshot"]["nodes"])
    jsonschema.validate(found["snapshot"], json.loads(pycolo("schema", "snapshot").out))


def test_what_a_person_must_decide_is_a_state(pycolo: Pycolo, tmp_path: Path) -> None:
    """Records of two births are told in the verdict; as always a status ends with 0."""
    text = PAIR.format(run_dir="/nowhere").replace("/vms", str(tmp_path))
    path = tmp_path / "pair.toml"
    path.write_text(text)
    pair = load(path)
    for name, birth in (("alpha", "0000000a"), ("beta", "0000000b")):
        (tmp_path / name).mkdir()
        Path(pair.record_path(name)).write_text(
            record.dumps(
                PairRecord(
                    pair="colo",
                    birth=birth,
                    epoch=1,
                    revision=0,
                    holder=name,
                    eligible={name: f"colo:{name}:00000001"},
                    phase="alone",
                )
            )
        )
    ended = pycolo("status", path)
    assert (0, "") == (ended.code, ended.err)
    told = "unknown: the records of alpha and beta come from two pairs of one name"
    assert told in ended.out
    assert 3 == pycolo("status", path, "--check").code


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_stream_does_not_change_how_a_command_ends(closed: str, pair_file: Path) -> None:
    """A program may start us without a standard output or error; the exit code is all it wants."""
    script = f'"$0" -m pycolo status --check "$1" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, str(pair_file)], check=False, capture_output=True
    )
    assert (2, b"") == (done.returncode, done.stderr)


@pytest.mark.qemu
def test_a_node_is_read_over_its_observer_monitor(
    pycolo: Pycolo, tmp_path: Path, run_dir: Path
) -> None:
    """A QEMU shows its version, its run state and what that makes of the pair."""
    path = tmp_path / "pair.toml"
    path.write_text(PAIR.format(run_dir=run_dir))
    (run_dir / "alpha").mkdir()
    with bare_qemu("11.1", run_dir / "alpha", "-machine", "none", "-name", "colo:alpha:00000001"):
        ended = pycolo("status", path)
        snapshot = json.loads(pycolo("status", path, "--as", "json").out)["snapshot"]
    assert 0 == ended.code
    rows = [" ".join(line.replace("│", " ").split()) for line in ended.out.splitlines()]
    assert "role unprotected unreachable unreachable" in rows
    assert "colo:alpha:00000001" in rows
    stands = "stopped: alpha has the guest alone, and it does not run (prelaunch)"
    assert stands == rows[-1]
    assert "colo:alpha:00000001" == snapshot["nodes"]["alpha"]["instance"]


def test_an_error_is_no_state_to_a_monitor(pycolo: Pycolo, tmp_path: Path) -> None:
    """A pair file that is not valid ends with 1, and with 3 where 1 means unprotected."""
    path = tmp_path / "pair.toml"
    path.write_text("format_version = 1\n")
    assert 1 == pycolo("status", path).code
    checked = pycolo("status", path, "--check")
    assert (3, "") == (checked.code, checked.out)
    assert "nodes must be two nodes or more" in checked.err
    assert 3 == pycolo("status", path.with_name("missing.toml"), "--check").code


@pytest.mark.qemu
def test_a_stuck_node_is_told_from_a_gone_one(
    pycolo: Pycolo, tmp_path: Path, run_dir: Path
) -> None:
    """It takes connections and answers nothing: the table says so, and what there is to do."""
    path = tmp_path / "pair.toml"
    path.write_text(PAIR.format(run_dir=run_dir))
    (run_dir / "alpha").mkdir()
    with bare_qemu("11.1", run_dir / "alpha", "-machine", "none") as qemu, wedged(qemu):
        ended = pycolo("status", path)
    words = " ".join(ended.out.replace("│", " ").split())
    assert 0 == ended.code
    assert "role unresponsive unreachable" in words
    assert "kill this QEMU" in words


@contextmanager
def wedged(qemu: BareQemu) -> Iterator[None]:
    """Have its main loop wait for a server that says nothing (qemu-behaviour 5.19)."""
    with socket.socket() as silent, socket.socket(socket.AF_UNIX) as sock:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host, port = silent.getsockname()
        node = NbdNode(
            node_name="nbd0", server=InetSocketAddress(host=host, port=port), export="parent0"
        )
        sock.connect(qemu.control.path)
        for command in ({"execute": "qmp_capabilities"}, qmp.BlockdevAdd(node=node).to_qmp()):
            sock.sendall(json.dumps(command).encode())
        connected, _ = silent.accept()
        with connected:
            yield
