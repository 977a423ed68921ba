"""Processes and folders of this machine, without QEMU: small programs stand for it."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pycolo import host
from pycolo.errors import DeclarationError, HostRefused
from pycolo.model import ColoPair, Node
from pycolo.plan import CreateImage, LaunchQemu, StopQemu
from pycolo.snapshot import ProcessExit

LIMIT_S = 20.0
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
# A monitor that greets each client in turn, for as long as it is let.
SERVER = """
import json, socket, sys
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
door.listen()
version = {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""}
greeting = json.dumps({"QMP": {"version": version, "capabilities": ["oob"]}}) + "\\n"
while True:
    client, _ = door.accept()
    client.send(greeting.encode())
    client.recv(4096)
    client.send(b'{"return": {}}\\n')
    while client.recv(4096):
        pass
    client.close()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER


@pytest.fixture
def node(tmp_path: Path) -> Generator[Node]:
    """A node of this machine; what runs there at the end is killed."""
    made = Node(
        name="alpha",
        address="127.0.0.1",
        image_folder=str(tmp_path),
        run_dir=str(tmp_path / "run"),
    )
    yield made
    pid = _pid(made)
    if host.watch(made) is not None and pid is not None:
        os.kill(pid, signal.SIGKILL)


def _in_run_dir(node: Node, name: str = "") -> Path:
    return Path(node.run_dir) / name


def _pid(node: Node) -> int | None:
    path = _in_run_dir(node, "qemu.pid")
    return int(json.loads(path.read_text())["pid"]) if path.exists() else None


def _program(node: Node, text: str = SERVER) -> LaunchQemu:
    argv = (sys.executable, "-c", text, f"{node.run_dir}/control.qmp")
    return LaunchQemu(role="primary", instance="token", argv=argv)


async def _launch(node: Node, text: str = SERVER, limit_s: float = LIMIT_S) -> str:
    return await host.run_action(node, _program(node, text), limit_s=limit_s)


async def _stop(node: Node) -> str:
    return await host.run_action(node, StopQemu(), limit_s=2)


async def test_launch_writes_who_it_is(node: Node) -> None:
    """The pid file tells process, boot and instance; the folder is private."""
    await _launch(node)
    known = json.loads(_in_run_dir(node, "qemu.pid").read_text())
    assert ("token", BOOT) == (known["instance"], known["boot_id"])
    assert 0o700 == _in_run_dir(node).stat().st_mode & 0o777
    assert os.getsid(known["pid"]) == known["pid"]


async def test_second_launch_is_refused(node: Node) -> None:
    """While the first lives there is no second, and the first is left alone."""
    await _launch(node)
    with pytest.raises(HostRefused, match="runs there already"):
        await _launch(node)
    assert host.death_proof(node) is None


async def test_launch_beside_a_foreign_monitor_is_refused(node: Node) -> None:
    """A monitor that somebody serves is not taken over, pid file or not."""
    _in_run_dir(node).mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(f"{node.run_dir}/control.qmp")
        foreign.listen()
        with pytest.raises(HostRefused, match="serves its control monitor"):
            await _launch(node)


async def test_failing_start_tells_why(node: Node) -> None:
    """A program that ends at once is refused with its last words, and leaves nothing."""
    with pytest.raises(HostRefused, match="no such machine"):
        await _launch(node, "raise SystemExit('no such machine')")
    assert (None, None) == (_pid(node), host.death_proof(node))


async def test_only_the_last_words_of_this_start_are_told(node: Node) -> None:
    """What an earlier start wrote to the log is not the reason of this one."""
    for words in ("first reason", "second reason"):
        with pytest.raises(HostRefused, match=words) as caught:
            await _launch(node, f"raise SystemExit({words!r})")
    assert "first" not in str(caught.value)


async def test_start_without_greeting_is_ended(node: Node) -> None:
    """A program that never serves its monitor is killed when the limit passes."""
    with pytest.raises(HostRefused, match="no greeting"):
        await _launch(node, "import time; time.sleep(600)", 0.3)
    assert host.watch(node) is None


async def test_missing_program_is_refused(node: Node) -> None:
    """A program that is not there is named by the system's own words."""
    action = LaunchQemu(role="primary", instance="x", argv=("/nonexistent/qemu",))
    with pytest.raises(HostRefused, match="No such file"):
        await host.run_action(node, action, limit_s=LIMIT_S)


async def test_wide_run_dir_is_refused(node: Node) -> None:
    """Others could reach the monitor through a folder that is open to them."""
    _in_run_dir(node).mkdir()
    _in_run_dir(node).chmod(0o755)
    with pytest.raises(HostRefused, match="0755"):
        await _launch(node)


async def test_linked_run_dir_is_refused(node: Node, tmp_path: Path) -> None:
    """A link leads to where somebody else wants the sockets to be."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    _in_run_dir(node).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostRefused, match="no directory"):
        await _launch(node)


async def test_stop_ends_it(node: Node) -> None:
    """A stopped process has ended when `stop` returns, and that is proof of its death."""
    await _launch(node)
    pid = _pid(node)
    assert "" == await _stop(node)
    assert ProcessExit(pid=pid or 0) == host.death_proof(node)


async def test_stop_kills_what_does_not_listen(node: Node) -> None:
    """A process that ignores the polite signal is killed."""
    await _launch(node, STUBBORN)
    await _stop(node)
    assert host.death_proof(node) is not None


async def test_stop_of_nothing_is_done(node: Node) -> None:
    """What does not run need not be ended."""
    assert "it did not run" == await _stop(node)


async def test_death_is_proven_by_the_kernel(node: Node) -> None:
    """A watch tells of the end of a killed process, to all who wait; a zombie counts as dead."""
    await _launch(node)
    watch = host.watch(node)
    assert watch is not None
    assert host.death_proof(node) is None
    both = asyncio.gather(watch.exited(), watch.exited())
    await asyncio.sleep(0)  # both begin to wait before there is anything to tell
    os.kill(watch.pid, signal.SIGKILL)
    first, second = await both
    assert ProcessExit(pid=watch.pid) == first == second
    watch.close()
    assert ProcessExit(pid=watch.pid) == host.death_proof(node)


async def test_stopped_process_is_not_dead(node: Node) -> None:
    """Silence is no proof."""
    await _launch(node)
    pid = _pid(node)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert host.death_proof(node) is None


def test_no_pid_file_proves_nothing(node: Node) -> None:
    """Nobody started anything here, so nothing is known."""
    assert (None, None) == (host.death_proof(node), host.watch(node))


async def _known(node: Node, **changed: object) -> ProcessExit | None:
    """The proof from a pid file of a living process, with some of it changed."""
    await _launch(node)
    path = _in_run_dir(node, "qemu.pid")
    kept = path.read_text()
    path.write_text(json.dumps({**json.loads(kept), **changed}))
    _in_run_dir(node, "control.qmp").rename(_in_run_dir(node, "hidden"))
    try:
        return host.death_proof(node)
    finally:
        path.write_text(kept)


async def test_number_given_to_another_process_is_proof(node: Node) -> None:
    """A process that started at another time is not the one that was launched."""
    assert await _known(node, start_time=1) is not None


async def test_other_boot_of_this_machine_is_proof(node: Node) -> None:
    """A reboot ended every process; where the machine cannot be told, it proves nothing."""
    proof = await _known(node, boot_id="other")
    machine = json.loads(_in_run_dir(node, "qemu.pid").read_text())["machine"]
    assert bool(machine) == (proof is not None)


async def test_file_of_another_machine_proves_nothing(node: Node) -> None:
    """A run directory that two machines share must not kill the other one's QEMU on paper."""
    assert await _known(node, boot_id="other", machine="elsewhere") is None


async def test_file_of_another_container_proves_nothing(node: Node) -> None:
    """In another name space of process ids the number means nothing."""
    assert await _known(node, pid_namespace="pid:[1]", pid=2**22) is None


async def test_serving_monitor_speaks_against_death(node: Node) -> None:
    """A QEMU somebody else started on the same monitor is alive, whatever the file says."""
    await _launch(node)
    await _stop(node)
    path = _in_run_dir(node, "control.qmp")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        assert host.death_proof(node) is None
        with pytest.raises(HostRefused, match="not started here"):
            await _stop(node)


def _image(tmp_path: Path, *argv: str) -> CreateImage:
    path = str(tmp_path / "image")
    return CreateImage(path=path, image_format="qcow2", size_bytes=512, argv=argv)


async def test_failed_creation_leaves_no_file(node: Node, tmp_path: Path) -> None:
    """A program that fails is told with its words, and its half image is gone."""
    action = _image(tmp_path, "sh", "-c", "echo no space; exit 1")
    with pytest.raises(HostRefused, match="no space"):
        await host.run_action(node, action, limit_s=LIMIT_S)
    assert not (tmp_path / "image").exists()


async def test_missing_qemu_img_leaves_no_file(node: Node, tmp_path: Path) -> None:
    """Nor does a program that is not there."""
    with pytest.raises(HostRefused, match="No such file"):
        await host.run_action(node, _image(tmp_path, "/nonexistent/x"), limit_s=LIMIT_S)
    assert not (tmp_path / "image").exists()


async def test_creation_that_does_not_end_is_ended(node: Node, tmp_path: Path) -> None:
    """A program that hangs is killed when the limit passes."""
    with pytest.raises(HostRefused, match="did not end"):
        await host.run_action(node, _image(tmp_path, "sleep", "600"), limit_s=0.1)


def test_addresses_are_resolved() -> None:
    """An address that means nothing here is named before anything is started."""
    good = Node(name="alpha", address="127.0.0.1", image_folder="/a")
    bad = Node(name="beta", address="no.such.invalid", image_folder="/b")
    with pytest.raises(DeclarationError) as caught:
        host.resolve(ColoPair(nodes=(good, bad)))
    assert ("nodes[1].address", "no.such.invalid") == (caught.value.field, caught.value.value)
