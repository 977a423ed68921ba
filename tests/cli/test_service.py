"""`pycolo supervise` as a service of systemd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import PAIR, Pycolo

from pycolo.supervise import Store

UNITS = [
    Path(__file__).parents[2] / "packaging" / f"pycolo-{name}.service"
    for name in ("supervise", "agent")
]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_one_that_systemd_takes(unit: Path) -> None:
    """No key is unknown, and no value is refused."""
    verify = ("systemd-analyze", "verify", "--man=no", str(unit))
    found = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (0, "") == (found.returncode, found.stderr)


@pytest.mark.parametrize("verb", ["supervise", "agent"])
def test_service_manager_is_told(verb: str, tmp_path: Path) -> None:
    """When it is ready, again and again that it still turns, and when it ends."""
    pair_file, folder = tmp_path / "pair.toml", tmp_path / "store"
    pair_file.write_text(PAIR.format(run_dir=tmp_path))
    command: tuple[str | Path, ...] = (sys.executable, "-m", "pycolo", verb, pair_file)
    # Nothing is launched: a supervisor is paused, and an agent's arbiter gives no answer.
    if verb == "agent":
        agent = tmp_path / "agent.toml"
        nowhere = 'etcd.endpoints = ["http://127.0.0.1:1"]'
        agent.write_text(f'format_version = 1\nnode = "alpha"\n{nowhere}\n')
        command = (*command[:-1], agent, pair_file)
    with Store(folder) as store:
        store.pause("colo", "by the test")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        environ |= {"WATCHDOG_USEC": "200000", "STATE_DIRECTORY": str(folder)}
        with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as service:
            told = [manager.recv(100).decode() for _ in range(4)]
            service.send_signal(signal.SIGTERM)
            while told[-1] != "STOPPING=1":
                told.append(manager.recv(100).decode())
    assert 0 == service.returncode
    assert {"READY=1", "WATCHDOG=1"} == set(told[:4])
    assert 1 == told.count("READY=1")
    assert told.count("WATCHDOG=1") > 2


def test_what_is_wanted_is_kept(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """`want`, `pause` and `unpause` write the store, each as the supervisor reads it."""
    store = ("--store", tmp_path / "store")
    ended = pycolo("want", "stopped", pair_file, *store)
    assert "colo: stopped is wanted\n" == ended.out
    assert (
        f"it is stored in {tmp_path}/store; no supervisor of colo runs with this store" in ended.err
    )
    paused = pycolo("pause", pair_file, "--why", "a new kernel", *store).out
    assert paused.startswith("colo: stopped is wanted, and its supervision is paused by ")
    assert paused.endswith(": a new kernel\n")
    assert "colo: stopped is wanted\n" == pycolo("unpause", pair_file, *store).out
    as_json = pycolo("want", "protected", pair_file, *store, "--as", "json").out
    assert '"want": "protected"' in as_json
    assert 64 == pycolo("want", "something", pair_file, *store).code


def test_store_that_cannot_be_used_is_said(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """In one line, with exit code 1."""
    (tmp_path / "file").write_text("")
    ended = pycolo("want", "stopped", pair_file, "--store", tmp_path / "file" / "store")
    assert 1 == ended.code
    assert f"pycolo: --store {tmp_path}/file/store: the folder cannot be used (" in ended.err


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_service_is_not_started_again_for_a_file_that_must_be_changed(
    unit: Path, pycolo: Pycolo, tmp_path: Path
) -> None:
    """A pair file that breaks a rule, or that is not there, is what it was a moment later."""
    prevented = "RestartPreventExitStatus=4 64"
    assert prevented in unit.read_text().splitlines()
    agent = tmp_path / "agent.toml"
    agent.write_text(f'format_version = 1\nnode = "alpha"\nsqlite.folder = "{tmp_path}/arbiter"\n')
    other = tmp_path / "other.toml"
    other.write_text(agent.read_text().replace("alpha", "omega"))
    broken, good = tmp_path / "broken.toml", tmp_path / "pair.toml"
    good.write_text(PAIR.format(run_dir=tmp_path))
    broken.write_text("name = 1")
    command: tuple[str | Path, ...] = ("supervise", "--store", tmp_path / "store")
    if unit.stem == "pycolo-agent":
        command = ("agent", agent)
        assert 4 == pycolo("agent", broken, good).code
        assert 4 == pycolo("agent", other, good).code
    assert 4 == pycolo(*command, broken).code
    assert 64 == pycolo(*command, tmp_path / "absent.toml").code
    assert 64 == pycolo(*command, "--nothing").code
