"""Files, locks and processes of this machine, without QEMU: small programs stand for it."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

import attrs
import pytest
from tests.hosts.programs import SERVER

from pycolo.errors import CommandUnknown, DeclarationError, HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.helper import far, request_of, text
from pycolo.hosts.local import LocalHost
from pycolo.hosts.ssh import SshHost
from pycolo.hosts.ways import NoWay, hosts_of
from pycolo.model import ColoPair, Ports, ReplicationDisk
from pycolo.model.node import TcpMonitor
from pycolo.plan import CheckPorts, CreateImage, LaunchQemu, StopQemu
from pycolo.record import Change, DamagedRecord, NoRecord, PairRecord, UnreadRecord
from pycolo.snapshot import Running

LIMIT_S = 20.0
FIRST, SECOND = "p:alpha:00000001", "p:alpha:00000002"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
HOST = LocalHost()


def _process(pair: ColoPair) -> Path:
    return Path(pair.process_path("alpha"))


def _known(pair: ColoPair) -> dict[str, object]:
    found: dict[str, object] = json.loads(_process(pair).read_text(encoding="utf-8"))["current"]
    return found


def _pid(pair: ColoPair) -> int | None:
    if not _process(pair).exists() or not _known(pair):
        return None
    return int(str(_known(pair)["pid"]))


def _monitor(pair: ColoPair) -> str:
    return pair.node("alpha").run_path("control.qmp")


def _program(pair: ColoPair, program: str = SERVER, instance: str = FIRST) -> LaunchQemu:
    argv = (sys.executable, "-c", program, _monitor(pair))
    return LaunchQemu(role="secondary", instance=instance, argv=argv)


async def _launch(
    pair: ColoPair, program: str = SERVER, limit_s: float = LIMIT_S, *, instance: str = FIRST
) -> str:
    action = _program(pair, program, instance)
    return await HOST.run(pair, "alpha", action, limit_s=limit_s)


async def _stop(pair: ColoPair, instance: str = FIRST) -> str:
    return await HOST.run(pair, "alpha", StopQemu(instance=instance), limit_s=2)


async def _death(pair: ColoPair, instance: str = FIRST) -> Evidence | None:
    victim = Victim(node="alpha", instance=instance, epoch=4)
    return await HOST.death(pair, victim, limit_s=LIMIT_S)


def _kill(pair: ColoPair) -> int:
    """Kill what runs, and see it end."""
    pid = _pid(pair)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


# -- starting and ending -------------------------------------------------------------------------


async def test_launch_writes_who_it_is(pair: ColoPair) -> None:
    """The process itself says which QEMU it is, in which boot; its run directory is private."""
    await _launch(pair)
    known = _known(pair)
    boot = known["boot"]
    assert isinstance(boot, dict)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    assert (FIRST, boot_id) == (known["instance"], boot["boot_id"])
    assert 0o700 == stat.S_IMODE(Path(pair.node("alpha").run_path("")).stat().st_mode)
    pid = _pid(pair)
    assert pid is not None
    assert pid == os.getsid(pid)


async def test_second_launch_is_refused(pair: ColoPair) -> None:
    """While the first lives there is no second, and the first is left alone."""
    await _launch(pair)
    with pytest.raises(HostRefused, match="runs there already"):
        await _launch(pair, instance=SECOND)
    assert await _death(pair) is None


async def test_one_of_many_launches_wins(pair: ColoPair) -> None:
    """However many start at once, one QEMU runs, and its death can be proven."""
    names = [f"p:alpha:{n:08x}" for n in range(1, 9)]
    tries = (_launch(pair, instance=name) for name in names)
    found = await asyncio.gather(*tries, return_exceptions=True)
    assert [HostRefused] * 7 == [type(one) for one in found if one != ""]
    winner = names[found.index("")]
    assert winner == _known(pair)["instance"]
    assert await _death(pair, winner) is None
    _kill(pair)
    assert await _death(pair, winner) is not None


async def test_launch_beside_a_foreign_monitor_is_refused(pair: ColoPair) -> None:
    """A monitor that somebody serves is not taken over."""
    Path(pair.node("alpha").run_path("")).mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(_monitor(pair))
        foreign.listen()
        with pytest.raises(HostRefused, match="something serves its monitor"):
            await _launch(pair)


async def test_launch_waits_for_a_port_that_is_being_released(pair: ColoPair) -> None:
    """The kernel holds the ports of a QEMU that has ended for some moments more."""
    with socket.create_server((pair.node("alpha").address, 0)) as taken:
        ports = Ports(migration=pair.ports.migration, nbd=taken.getsockname()[1])
        declared = attrs.evolve(pair, ports=ports)
        released = threading.Timer(0.1, taken.close)
        released.start()
        await _launch(declared)
        released.join()
    assert await _death(declared) is None


async def test_launch_where_a_port_is_in_use_is_refused(pair: ColoPair) -> None:
    """Another pair's QEMU listens there: the name of the port comes before anything is started."""
    with socket.create_server((pair.node("alpha").address, 0)) as taken:
        ports = Ports(migration=pair.ports.migration, nbd=taken.getsockname()[1])
        declared = attrs.evolve(pair, ports=ports)
        with pytest.raises(HostRefused, match=rf"TCP port {ports.nbd} of 127\.0\.0\.1 is in use"):
            await _launch(declared)
        assert HOST.watch(declared, "alpha") is None


async def test_pair_at_one_address_and_one_that_is_elsewhere_are_launched(pair: ColoPair) -> None:
    """Its own other node may listen there; of another host's address nothing can be told here."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = Ports(migration=pair.ports.migration, nbd=taken.getsockname()[1])
        for address, peer in (("127.0.0.1", "127.0.0.1"), ("192.0.2.1", "192.0.2.2")):
            nodes = [
                attrs.evolve(node, address=place, listen_address=place)
                for node, place in zip(pair.nodes, (address, peer), strict=True)
            ]
            declared = attrs.evolve(pair, ports=ports, nodes=nodes)
            instance = FIRST if address == peer else SECOND
            await _launch(declared, instance=instance)
            _kill(declared)


async def test_failing_start_tells_why(pair: ColoPair) -> None:
    """A program that ends at once is refused with its last words, and those of no earlier one."""
    for words, instance in (("first reason", FIRST), ("second reason", SECOND)):
        with pytest.raises(HostRefused, match=words) as caught:
            await _launch(pair, f"raise SystemExit({words!r})", instance=instance)
    assert "first" not in str(caught.value)
    assert HOST.watch(pair, "alpha") is None


async def test_start_without_greeting_is_ended(pair: ColoPair) -> None:
    """A program that never serves its monitor is killed when the limit passes."""
    with pytest.raises(HostRefused, match="no answer"):
        await _launch(pair, "import time; time.sleep(600)", 0.3)
    assert HOST.watch(pair, "alpha") is None
    assert await _death(pair) is not None


async def test_start_that_does_not_end_is_not_called_ended(
    pair: ColoPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that outlives SIGKILL for a while, as in a system call, may still run."""
    with monkeypatch.context() as patched:
        patched.setattr(far.Pidfd, "gone", lambda *_: False)
        with pytest.raises(CommandUnknown, match=r"no answer.* did not end in 10 s"):
            await _launch(pair, "import time; time.sleep(600)", 0.3)


async def test_missing_program_is_refused(pair: ColoPair) -> None:
    """A program that is not there is named, with the system's own words."""
    action = LaunchQemu(role="secondary", instance=FIRST, argv=("/nonexistent/qemu",))
    with pytest.raises(HostRefused, match=r"/nonexistent/qemu: .*No such file"):
        await HOST.run(pair, "alpha", action, limit_s=LIMIT_S)


async def test_wide_run_dir_is_refused(pair: ColoPair) -> None:
    """Others could reach the monitor through a folder that is open to them."""
    run_dir = Path(pair.node("alpha").run_path(""))
    run_dir.mkdir()
    run_dir.chmod(0o755)
    with pytest.raises(HostRefused, match="0755"):
        await _launch(pair)


async def test_linked_run_dir_is_refused(pair: ColoPair, folder: Path) -> None:
    """A link leads to where somebody else wants the sockets to be."""
    (folder / "elsewhere").mkdir(mode=0o700)
    Path(pair.node("alpha").run_path("").rstrip("/")).symlink_to(folder / "elsewhere")
    with pytest.raises(HostRefused, match="no directory"):
        await _launch(pair)


@pytest.mark.parametrize("program", [SERVER, STUBBORN])
async def test_stop_ends_it(pair: ColoPair, program: str) -> None:
    """What was stopped has ended, however stubborn it is, and that is evidence."""
    await _launch(pair, program)
    assert "has ended" in await _stop(pair)
    assert await _death(pair) is not None


async def test_stop_ends_no_other_one(pair: ColoPair) -> None:
    """A plan that was made for an earlier QEMU does not end this one."""
    await _launch(pair)
    with pytest.raises(HostRefused, match=f"no process here is known to be {SECOND}"):
        await _stop(pair, SECOND)
    assert await _death(pair) is None


async def test_pipe_in_the_place_of_a_file_holds_nobody_up(pair: ColoPair) -> None:
    """It is refused at once, whether somebody reads from it or not."""
    os.mkfifo(pair.record_path("alpha") + ".spare")
    change = Change(expects=NoRecord(), becomes=_record(1))
    with pytest.raises(HostRefused):
        await HOST.write(pair, "alpha", change, limit_s=LIMIT_S)
    reader = os.open(pair.record_path("alpha") + ".spare", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(HostRefused, match="no regular file"):
            await HOST.write(pair, "alpha", change, limit_s=LIMIT_S)
    finally:
        os.close(reader)


# -- ports of other hosts ------------------------------------------------------------------------


async def _reach(pair: ColoPair, host: str, *ports: int, limit_s: float = LIMIT_S) -> str:
    action = CheckPorts(host=host, ports=ports)
    return await HOST.run(pair, "alpha", action, limit_s=limit_s)


async def test_open_and_closed_ports_are_let_through(pair: ColoPair) -> None:
    """A host that says no has been reached."""
    with socket.create_server(("127.0.0.3", 0)) as sock, socket.socket() as closed:
        closed.bind(("127.0.0.3", 0))
        ports = (sock.getsockname()[1], closed.getsockname()[1])
        assert "" == await _reach(pair, "127.0.0.3", *ports)


async def test_port_that_never_answers_is_blocked(pair: ColoPair) -> None:
    """Others on the same host do not hide it, and the limit is kept."""
    with socket.socket() as sock, socket.socket() as waiting, socket.socket() as closed:
        sock.bind(("127.0.0.3", 0))
        closed.bind(("127.0.0.3", 0))
        # A server whose queue is full loses what comes, as a firewall does.
        sock.listen(0)
        waiting.connect(sock.getsockname())
        port, other = sock.getsockname()[1], closed.getsockname()[1]
        why = rf"127\.0\.0\.3 cannot be reached from .*, TCP port {port}: no answer within 0\.2 s$"
        with pytest.raises(HostRefused, match=why):
            await _reach(pair, "127.0.0.3", other, port, limit_s=0.2)


def test_port_is_let_through_if_one_address_is() -> None:
    """A name may stand for several, and QEMU tries each of them."""
    with socket.socket() as sock, socket.socket() as waiting:
        sock.bind(("127.0.0.3", 0))
        sock.listen(0)
        waiting.connect(sock.getsockname())
        port = sock.getsockname()[1]
        silent, closed = (
            far.Way(port, socket.AF_INET, (address, port)) for address in ("127.0.0.3", "127.0.0.4")
        )
        assert {} == far.blocked_among([silent, closed], LIMIT_S)
        assert [port] == list(far.blocked_among([silent], 0.2))


async def test_host_without_a_way_to_it_is_blocked(pair: ColoPair) -> None:
    """The system's own words tell why."""
    # Addresses of this kind belong to no network: nothing is routed there.
    with pytest.raises(HostRefused, match="TCP port 9: "):
        await _reach(pair, "255.255.255.255", 9, limit_s=0.2)


async def test_host_without_an_address_is_blocked(pair: ColoPair) -> None:
    """A name that does not resolve is said to be one."""
    with pytest.raises(HostRefused, match=r"host\.invalid does not resolve"):
        await _reach(pair, "host.invalid", 9, limit_s=0.2)


# -- proof of death ------------------------------------------------------------------------------


async def test_death_is_told_by_the_kernel(pair: ColoPair) -> None:
    """A watch tells of the end of a process to all who wait, and the evidence names it."""
    await _launch(pair)
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    assert (FIRST, None) == (watch.instance, watch.evidence(4))
    both = asyncio.gather(watch.wait_ended(), watch.wait_ended())
    await asyncio.sleep(0)  # both begin to wait before there is anything to tell
    os.kill(watch.pid, signal.SIGKILL)
    await asyncio.wait_for(both, LIMIT_S)
    found = watch.evidence(4)
    watch.close()
    assert found is not None
    assert found.proves(Victim(node="alpha", instance=FIRST, epoch=4))
    assert "exit" == found.kind
    assert re.fullmatch(f"(all threads of )?process {watch.pid} ha(s|ve) ended( or .*)?", found.how)


async def test_stopped_process_is_not_dead(pair: ColoPair) -> None:
    """Silence is no proof."""
    await _launch(pair)
    pid = _pid(pair)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert await _death(pair) is None


async def test_nothing_is_known_of_what_was_not_started_here(pair: ColoPair) -> None:
    """Without a file there is no proof, and nothing to watch."""
    assert (None, None) == (await _death(pair), HOST.watch(pair, "alpha"))


async def test_old_file_proves_no_new_qemu_dead(pair: ColoPair) -> None:
    """The end of one QEMU says nothing of one that was started later, by whatever means."""
    await _launch(pair)
    _kill(pair)
    assert await _death(pair) is not None
    assert await _death(pair, SECOND) is None


async def test_end_of_an_earlier_qemu_stays_proven(pair: ColoPair) -> None:
    """What ended before the next start has ended, whatever runs now."""
    await _launch(pair)
    _kill(pair)
    await _launch(pair, instance=SECOND)
    assert await _death(pair) is not None
    assert await _death(pair, SECOND) is None


async def test_identity_is_used_once(pair: ColoPair) -> None:
    """A plan that was saved and is applied again would start a QEMU that counts as dead."""
    await _launch(pair)
    _kill(pair)
    with pytest.raises(HostRefused, match=f"{FIRST} has run here before"):
        await _launch(pair)
    assert HOST.watch(pair, "alpha") is None


@pytest.mark.parametrize(
    ("field", "value", "is_proof"),
    [
        ("machine", "another machine", False),
        ("boot_id", "another boot", True),
        ("pid_namespace", "pid:[1]", False),
        ("time_namespace", "time:[1]", False),
        ("init_start", -1, True),
    ],
)
async def test_process_of_elsewhere(
    pair: ColoPair, field: str, value: object, *, is_proof: bool
) -> None:
    """A reboot ended it, and so did a restart of its container; elsewhere nothing can be seen."""
    await _launch(pair)
    pid = _kill(pair)
    kept = json.loads(_process(pair).read_text(encoding="utf-8"))
    kept["current"]["boot"][field] = value
    # The number was given to somebody else, who lives.
    kept["current"] |= {"pid": os.getpid(), "start_time": _start_time(os.getpid())}
    _process(pair).write_text(json.dumps(kept), encoding="utf-8")
    assert pid != os.getpid()
    assert is_proof == (await _death(pair) is not None)


async def test_hidden_first_process_proves_nothing(pair: ColoPair) -> None:
    """Where /proc hides PID 1 (hidepid), a QEMU that lives is alive and is not started twice."""
    await _launch(pair)
    kept = json.loads(_process(pair).read_text(encoding="utf-8"))
    assert kept["current"]["boot"]["init_start"] is not None
    kept["current"]["boot"]["init_start"] = None
    _process(pair).write_text(json.dumps(kept), encoding="utf-8")
    assert await _death(pair) is None
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    watch.close()
    with pytest.raises(HostRefused, match="runs there already"):
        await _launch(pair, instance=SECOND)
    _kill(pair)
    assert await _death(pair) is not None


def _start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.parametrize("what", ["file", "folder", "link"])
async def test_file_that_others_may_write_proves_nothing(
    pair: ColoPair, folder: Path, what: str
) -> None:
    """Whoever may write a proof may forge one: the file, the folders above it, a second name."""
    await _launch(pair)
    _kill(pair)
    match what:
        case "file":
            _process(pair).chmod(0o666)
        case "folder":
            (folder / "alpha").chmod(0o777)
        case _:
            os.link(_process(pair), folder / "second-name")
    assert await _death(pair) is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "long", "deep", "number", "text"])
async def test_file_that_is_none_of_ours_is_never_followed(pair: ColoPair, kind: str) -> None:
    """Whatever lies in its place proves nothing, starts nothing, and nothing waits for it."""
    path = _process(pair)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/dev/zero")
        case "long":
            path.write_bytes(b" " * (2 << 20))
        case "deep":
            path.write_text("[" * 100_000, encoding="utf-8")
        case "number":
            path.write_text('{"current": {"pid": 1e999}, "ended": []}', encoding="utf-8")
        case _:
            path.write_bytes(b"\xff")
    assert await _death(pair) is None
    with pytest.raises(HostRefused):
        await _launch(pair)
    record = Path(pair.record_path("alpha"))
    path.rename(record)
    assert isinstance(await _observe(pair), UnreadRecord | DamagedRecord)


CONTROLLER = """
import json, os, sys
scope = {"__name__": "helper"}
exec(sys.argv[1], scope)
spawn = os.posix_spawn
def spawn_and_die(*args, **options):
    spawn(*args, **options)
    os.kill(os.getpid(), 9)
os.posix_spawn = spawn_and_die
scope["perform"](sys.argv[2], json.loads(sys.argv[3]), sys.argv[1])
"""


async def test_controller_that_is_killed_at_the_start_leaves_nothing_unknown(
    pair: ColoPair,
) -> None:
    """The process says itself who it is: its end can be proven although nobody saw its start."""
    name, request = request_of(pair, "alpha", _program(pair), LIMIT_S)
    words = (text(), name, json.dumps(request))
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CONTROLLER, *words], check=False
    )
    assert -signal.SIGKILL == killed.returncode
    # The lock is held until the process is QEMU: whoever comes next finds it.
    with pytest.raises(HostRefused, match="runs there already"):
        await _launch(pair, instance=SECOND)
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    os.kill(watch.pid, signal.SIGKILL)
    await asyncio.wait_for(watch.wait_ended(), LIMIT_S)
    watch.close()
    assert await _death(pair) is not None


# -- the record ----------------------------------------------------------------------------------


def _record(epoch: int) -> PairRecord:
    return PairRecord(
        pair="p",
        birth="00000001",
        epoch=epoch,
        revision=0,
        holder="alpha",
        eligible={"alpha": FIRST},
        phase="alone",
    )


async def _write(pair: ColoPair, change: Change) -> None:
    await HOST.write(pair, "alpha", change, limit_s=LIMIT_S)


async def _observe(pair: ColoPair) -> object:
    return (await HOST.observe(pair, "alpha", limit_s=LIMIT_S)).record


async def test_record_is_written_and_read(pair: ColoPair) -> None:
    """What was written is read; before that it is absent."""
    assert NoRecord() == await _observe(pair)
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    assert _record(1) == await _observe(pair)
    await _write(pair, Change(expects=_record(1), becomes=_record(2)))
    assert _record(2) == await _observe(pair)
    assert 0o600 == stat.S_IMODE(Path(pair.record_path("alpha")).stat().st_mode)


async def test_one_of_many_writers_wins(pair: ColoPair) -> None:
    """Several compared the same record: one of them replaces it, the others are told."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    changes = [Change(expects=_record(1), becomes=_record(n)) for n in range(2, 10)]
    found = await asyncio.gather(*(_write(pair, c) for c in changes), return_exceptions=True)
    assert 7 == sum(isinstance(one, HostRefused) for one in found)
    assert _record(found.index(None) + 2) == await _observe(pair)


async def test_damaged_record_can_be_replaced(pair: ColoPair) -> None:
    """By the bytes that were read, and by none else."""
    path = Path(pair.record_path("alpha"))
    path.write_bytes(b"\xff")
    damaged = await _observe(pair)
    assert isinstance(damaged, DamagedRecord)
    path.write_bytes(b"\xfe")
    with pytest.raises(HostRefused, match="somebody else has changed it"):
        await _write(pair, Change(expects=damaged, becomes=_record(2)))
    path.write_bytes(b"\xff")
    await _write(pair, Change(expects=damaged, becomes=_record(2)))
    assert _record(2) == await _observe(pair)


async def test_record_that_others_may_write_is_not_read(pair: ColoPair, folder: Path) -> None:
    """Rights come from a file that its owner alone may write."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    (folder / "alpha").chmod(0o777)
    assert isinstance(await _observe(pair), UnreadRecord)


async def test_folder_that_is_not_there_is_not_read(pair: ColoPair, folder: Path) -> None:
    """Its disk may not be mounted: that is no new pair."""
    (folder / "alpha").rmdir()
    assert isinstance(await _observe(pair), UnreadRecord)


def _kept_in(pair: ColoPair, state_dir: Path) -> ColoPair:
    alpha = attrs.evolve(pair.node("alpha"), state_dir=str(state_dir))
    return attrs.evolve(pair, nodes=(alpha, pair.nodes[1]))


async def _why_unread(pair: ColoPair) -> str:
    found = await _observe(pair)
    assert isinstance(found, UnreadRecord)
    return found.why


async def _why_lost(pair: ColoPair) -> str:
    found = await _observe(pair)
    assert isinstance(found, NoRecord)
    assert found.lost is not None
    return found.lost


async def test_another_state_dir_is_no_new_pair(pair: ColoPair, folder: Path) -> None:
    """The image knows where its record lies: declared elsewhere, it counts as unread."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    for name in ("first", "second"):
        (folder / name).mkdir()
    first, second = (_kept_in(pair, folder / name) for name in ("first", "second"))
    assert f"has its record in {pair.record_path('alpha')}" in await _why_unread(first)
    Path(pair.record_path("alpha")).rename(first.record_path("alpha"))
    assert _record(1) == await _observe(first)
    await _write(first, Change(expects=_record(1), becomes=_record(2)))
    assert f"has its record in {first.record_path('alpha')}" in await _why_unread(second)
    assert f"has its record in {first.record_path('alpha')}" in await _why_unread(pair)
    Path(first.record_path("alpha")).unlink()
    assert f"it was in {first.record_path('alpha')}" in await _why_lost(second)
    Path(*second.owner_paths("alpha")).unlink()
    assert NoRecord() == await _observe(second)


async def test_disk_that_is_declared_first_hides_no_record(pair: ColoPair) -> None:
    """A record is named after the first image; each of the images leads to it."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    old = pair.disks[0].image
    disks = [
        ReplicationDisk(size_bytes=1 << 20, image=image, active_image=f"a{n}", hidden_image=f"h{n}")
        for n, image in enumerate(("new.qcow2", old))
    ]
    moved = attrs.evolve(pair, disks=disks)
    assert f"has its record in {pair.record_path('alpha')}" in await _why_unread(moved)


def test_a_folder_of_a_file_server_is_one_for_all_hosts(folder: Path) -> None:
    """Where several hosts see the same files, the source and the inode tell, and not the host."""
    found = folder.stat()
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    mounts = folder / "mounts"

    def place(kind: str) -> str:
        mounts.write_text(f"1 2 {device} / /mnt rw - {kind} nas:/vms rw\n", encoding="utf-8")
        return far.place_of(str(folder), str(mounts))

    assert f"nas:/vms {found.st_ino}" == place("nfs4")
    assert far.place_of(str(folder)) == place("xfs")


async def test_images_of_the_other_node_are_not_taken(pair: ColoPair) -> None:
    """Somebody exchanged the image folders of the two nodes in the pair file."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    folders = [node.image_folder for node in pair.nodes]
    alpha, beta = (
        attrs.evolve(node, image_folder=other, state_dir=other)
        for node, other in zip(pair.nodes, reversed(folders), strict=True)
    )
    swapped = attrs.evolve(pair, nodes=(alpha, beta))
    found = (await HOST.observe(swapped, "beta", limit_s=LIMIT_S)).record
    assert isinstance(found, UnreadRecord)
    assert "its image belongs to p:alpha" in found.why


async def test_record_that_is_gone_is_no_new_pair(pair: ColoPair) -> None:
    """The image had one: its disk is not mounted, or somebody removed it without the owner file."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    Path(pair.record_path("alpha")).unlink()
    assert "it was there" in await _why_lost(pair)
    Path(*pair.owner_paths("alpha")).unlink()
    assert NoRecord() == await _observe(pair)


async def test_image_under_another_name_is_no_new_one(pair: ColoPair) -> None:
    """All images were renamed; the owner file of the old name still lies in the folder."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    renamed = attrs.evolve(pair, disks=[ReplicationDisk(size_bytes=1 << 20, image="new.qcow2")])
    assert f"has its record in {pair.record_path('alpha')}" in await _why_unread(renamed)


async def test_pair_without_disks_finds_its_record(pair: ColoPair, folder: Path) -> None:
    """It has no image to tell, and an owner file all the same."""
    bare = attrs.evolve(pair, disks=())
    await _write(bare, Change(expects=NoRecord(), becomes=_record(1)))
    (folder / "other").mkdir()
    assert "has its record in" in await _why_unread(_kept_in(bare, folder / "other"))


async def test_damaged_owner_denies_nothing(pair: ColoPair, folder: Path) -> None:
    """It is an aid: by itself it keeps no survivor from its record."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    path = Path(*pair.owner_paths("alpha"))
    told = b'{"pair": "p", "node": "alpha", "record": "/x%s"}'
    for data in (
        *(b"", b"[]", b"{", b"\xff", b'{"pair": "p"}', b"[" * 100_000, b" " * (2 << 20)),
        *(told % b"\\u0000", told % b"\\ud800"),
    ):
        path.write_bytes(data)
        assert _record(1) == await _observe(pair)
    path.unlink()
    path.symlink_to(folder)
    assert _record(1) == await _observe(pair)
    path.unlink()
    os.mkfifo(path)
    assert _record(1) == await _observe(pair)


async def test_host_tells_what_runs(pair: ColoPair) -> None:
    """With the record comes the QEMU whose process is known; after its end none."""
    assert (await HOST.observe(pair, "alpha", limit_s=LIMIT_S)).running is None
    await _launch(pair)
    found = (await HOST.observe(pair, "alpha", limit_s=LIMIT_S)).running
    assert found == Running(instance=FIRST, how=f"its host knows it as process {_pid(pair)}")
    _kill(pair)
    assert (await HOST.observe(pair, "alpha", limit_s=LIMIT_S)).running is None


@pytest.mark.parametrize(
    "how", ["others may write it", "damaged", "gone", "elsewhere", "no number"]
)
async def test_host_tells_what_runs_by_its_monitor(pair: ColoPair, how: str) -> None:
    """The process file cannot be used as a proof: what serves a monitor lives all the same."""
    await _launch(pair)
    path, text = _process(pair), _process(pair).read_text(encoding="utf-8")
    match how:
        case "others may write it":
            path.chmod(0o666)
        case "damaged":
            path.write_text("{")
        case "gone":
            path.unlink()
        case "elsewhere":
            path.write_text(text.replace('"machine": "', '"machine": "another '))
        case _:
            path.write_text(text.replace(f'"pid": {_pid(pair)}', f'"pid": {1 << 31}'))
    found = (await HOST.observe(pair, "alpha", limit_s=LIMIT_S)).running
    assert found is not None
    assert found.instance == (FIRST if how == "others may write it" else "")
    assert await _death(pair) is None
    path.write_text(text)
    path.chmod(0o600)
    _kill(pair)


async def test_full_queue_of_a_monitor_shows_a_life(pair: ColoPair) -> None:
    """Others wait to be served on TCP: there nobody is refused, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        place = server.getsockname()
        monitor = TcpMonitor(host=place[0], port=place[1])
        alpha = attrs.evolve(pair.node("alpha"), control=monitor)
        busy = attrs.evolve(pair, nodes=(alpha, pair.nodes[1]))
        with contextlib.ExitStack() as held:
            for _ in range(8):
                waiting = held.enter_context(socket.socket())
                waiting.settimeout(0)
                waiting.connect_ex(place)
            found = (await HOST.observe(busy, "alpha", limit_s=LIMIT_S)).running
    assert found is not None
    assert "something serves 127.0.0.1" in found.how


async def test_linked_spare_is_not_written_into(pair: ColoPair, folder: Path) -> None:
    """A hard link of that name is an image of somebody's: it keeps what it holds."""
    precious = folder / "precious"
    precious.write_text("precious")
    for path in (pair.record_path("alpha"), *pair.owner_paths("alpha")):
        os.link(precious, f"{path}.spare")
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    assert ("precious", _record(1)) == (precious.read_text(), await _observe(pair))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no tmpfs at /dev/shm")
async def test_memory_is_no_place_for_a_record(pair: ColoPair) -> None:
    """After a reboot the old primary would not know that another one took over."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        node = attrs.evolve(pair.node("alpha"), state_dir=name)
        moved = attrs.evolve(pair, nodes=(node, pair.nodes[1]))
        with pytest.raises(HostRefused, match="which a reboot empties: name a state_dir"):
            await _write(moved, Change(expects=NoRecord(), becomes=_record(1)))


async def test_primary_starts_only_while_its_record_says_so(pair: ColoPair) -> None:
    """Another start or failover came between the record and the process: nothing is started."""
    await _write(pair, Change(expects=NoRecord(), becomes=_record(1)))
    action = attrs.evolve(_program(pair), role="primary", record=_record(2))
    with pytest.raises(HostRefused, match="another start or failover came first"):
        await HOST.run(pair, "alpha", action, limit_s=LIMIT_S)
    assert HOST.watch(pair, "alpha") is None
    await HOST.run(pair, "alpha", attrs.evolve(action, record=_record(1)), limit_s=LIMIT_S)


async def test_folders_are_told_apart_by_the_host(pair: ColoPair, folder: Path) -> None:
    """A link, a doubled slash or another spelling leads to the same folder, and it is seen."""
    (folder / "link").symlink_to(folder / "alpha")
    spellings = (f"{folder}/alpha", f"/{folder}/./alpha", f"{folder}/link", f"{folder}")
    seen = []
    for spelling in spellings:
        node = attrs.evolve(pair.node("alpha"), image_folder=spelling, state_dir=f"{folder}/alpha")
        other = attrs.evolve(pair, nodes=(node, pair.nodes[1]))
        seen.append((await HOST.observe(other, "alpha", limit_s=LIMIT_S)).folder)
    assert (1, 2) == (len(set(seen[:3])), len(set(seen)))


# -- images --------------------------------------------------------------------------------------

IMAGE_TOOL = """#!/bin/sh
# Stands for qemu-img: makes the image, tells what it is like, or never ends.
case "$1" in
info) printf '{"format": "qcow2", "virtual-size": 1048576}' ;;
*) for last; do :; done; printf x >"$last"; [ -e "$0.slow" ] && sleep 600; exit 0 ;;
esac
"""


@pytest.fixture
def tool(folder: Path) -> Path:
    """A small program that makes images."""
    path = folder / "qemu-img"
    path.write_text(IMAGE_TOOL, encoding="utf-8")
    path.chmod(0o755)
    return path


def _creation(pair: ColoPair, tool: Path) -> tuple[ColoPair, CreateImage]:
    node = attrs.evolve(pair.node("alpha"), qemu_img_binary=str(tool))
    path = f"{node.image_folder}/primary.qcow2"
    action = CreateImage(
        path=path, image_format="qcow2", size_bytes=1 << 20, argv=(str(tool), "create", path)
    )
    return attrs.evolve(pair, nodes=(node, pair.nodes[1])), action


async def test_image_is_its_owners_alone(pair: ColoPair, tool: Path) -> None:
    """Nobody else may read a guest's disk; one that is there is kept."""
    declared, action = _creation(pair, tool)
    assert "" == await HOST.run(declared, "alpha", action, limit_s=LIMIT_S)
    assert 0o600 == stat.S_IMODE(Path(action.path).stat().st_mode)
    there = await HOST.run(declared, "alpha", action, limit_s=LIMIT_S)
    assert "it is there, as declared" == there


async def test_image_that_is_another_one_is_refused(pair: ColoPair, tool: Path) -> None:
    """An image of another size is never overwritten."""
    declared, action = _creation(pair, tool)
    await HOST.run(declared, "alpha", action, limit_s=LIMIT_S)
    with pytest.raises(HostRefused, match="it is not overwritten"):
        await HOST.run(declared, "alpha", attrs.evolve(action, size_bytes=2 << 20), limit_s=LIMIT_S)


async def test_overlay_that_is_not_encrypted_as_declared_is_refused(
    pair: ColoPair, tool: Path
) -> None:
    """QEMU would not open it with the key that the declaration gives it."""
    declared, action = _creation(pair, tool)
    overlay = attrs.evolve(action, path=declared.disks[0].paths(declared.nodes[0])["active_image"])
    made = attrs.evolve(overlay, argv=(*overlay.argv[:-1], overlay.path))
    assert "" == await HOST.run(declared, "alpha", made, limit_s=LIMIT_S)
    disks = [attrs.evolve(disk, secret_file="/keys") for disk in declared.disks]  # noqa: S106
    encrypted = attrs.evolve(declared, disks=disks)
    with pytest.raises(HostRefused, match=r"is unencrypted qcow2.*declared is encrypted"):
        await HOST.run(encrypted, "alpha", made, limit_s=LIMIT_S)


async def test_half_made_image_blocks_nothing(pair: ColoPair, tool: Path) -> None:
    """A controller that is killed meanwhile leaves no image of that name, and the next makes it."""
    declared, action = _creation(pair, tool)
    slow = tool.with_name(tool.name + ".slow")
    slow.touch()
    name, request = request_of(declared, "alpha", action, LIMIT_S)
    program = "import sys; exec(sys.argv[1], s := {'__name__': 'helper'}); s['main'](sys.argv[2:])"
    words = (text(), name, json.dumps(request))
    controller = subprocess.Popen([sys.executable, "-c", program, *words], start_new_session=True)
    partial = Path(f"{action.path}.pycolo-partial")
    while not partial.exists() or not partial.read_bytes():
        await asyncio.sleep(0)
    os.killpg(controller.pid, signal.SIGKILL)
    await asyncio.to_thread(controller.wait)
    assert (False, True) == (Path(action.path).exists(), partial.exists())
    slow.unlink()
    assert "" == await HOST.run(declared, "alpha", action, limit_s=LIMIT_S)
    assert (True, False) == (Path(action.path).exists(), partial.exists())


# -- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def full(folder: Path) -> Generator[Path]:
    """A folder on a small disk of its own, to be filled."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("only root can mount a small disk, and mkfs.ext4 makes one")
    image, place = folder / "disk", folder / "small"
    image.write_bytes(b"")
    os.truncate(image, 4 << 20)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return


async def test_full_disk_delays_no_failover(pair: ColoPair, full: Path) -> None:
    """A record that is there is replaced although no block is free; a new one says what is full."""
    node = attrs.evolve(pair.node("alpha"), state_dir=str(full))
    declared = attrs.evolve(pair, nodes=(node, pair.nodes[1]))
    await _write(declared, Change(expects=NoRecord(), becomes=_record(1)))
    _fill(full)
    for n in range(1, 5):
        await _write(declared, Change(expects=_record(n), becomes=_record(n + 1)))
    assert _record(5) == await _observe(declared)


async def test_full_disk_is_named(pair: ColoPair, full: Path) -> None:
    """Where nothing can be written the system's own reason is told."""
    node = attrs.evolve(pair.node("alpha"), state_dir=str(full), image_folder=str(full))
    declared = attrs.evolve(pair, nodes=(node, pair.nodes[1]))
    _fill(full)
    with pytest.raises(HostRefused, match="No space left on device"):
        await _write(declared, Change(expects=NoRecord(), becomes=_record(1)))
    assert NoRecord() == await _observe(declared)
    program = "import sys; sys.exit('qemu-img: No space left on device')"
    path = f"{full}/primary.qcow2"
    action = CreateImage(
        path=path,
        image_format="qcow2",
        size_bytes=1 << 20,
        argv=(sys.executable, "-c", program, path),
    )
    with pytest.raises(HostRefused, match="No space left on device"):
        await HOST.run(declared, "alpha", action, limit_s=LIMIT_S)
    assert not Path(path).exists()


# -- the way to a host ---------------------------------------------------------------------------


async def test_node_of_another_machine_needs_a_way(pair: ColoPair) -> None:
    """What is asked of the host of an address that is not this machine's names what to set."""
    away = attrs.evolve(pair.nodes[1], address="192.0.2.7")
    declared = attrs.evolve(pair, nodes=(pair.nodes[0], away))
    rule = r"192\.0\.2\.7 is no address of this machine: set nodes\[1\]\.ssh"
    async with hosts_of(declared) as hosts:
        assert (LocalHost, NoWay) == (type(hosts["alpha"]), type(hosts["beta"]))
        with pytest.raises(HostRefused, match=rule):
            await hosts["beta"].run(declared, "beta", StopQemu(instance=SECOND), limit_s=LIMIT_S)
        change = Change(expects=NoRecord(), becomes=_record(1))
        with pytest.raises(HostRefused, match=rule):
            await hosts["beta"].write(declared, "beta", change, limit_s=LIMIT_S)
        found = await hosts["beta"].observe(declared, "beta", limit_s=LIMIT_S)
        assert isinstance(found.record, UnreadRecord)
        assert (
            await hosts["beta"].death(
                declared, Victim(node="beta", instance=SECOND, epoch=1), limit_s=LIMIT_S
            )
            is None
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("hidden", ["the process file", "the monitor"])
async def test_whoever_may_not_look_does_not_say_that_nothing_runs(
    pair: ColoPair, folder: Path, hidden: str
) -> None:
    """Another user is no witness: a fence is not accepted on the word of one who sees nothing."""
    await _launch(pair)
    process, monitor = pair.process_path("alpha"), pair.node("alpha").run_path("control.qmp")
    request = {
        "process": process if hidden == "the process file" else f"{folder}/none",
        "monitors": [{"path": monitor}],
    }
    folder.chmod(0o755)
    code = "import json, sys, os; from pycolo.helper import far; os.setuid(65534)\n"
    code += "print(json.dumps(far.alive(**json.loads(sys.argv[1]))))"
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(request)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "permission denied" in json.loads(ended.stdout)["how"]


async def test_own_node_must_be_one_of_the_pair(pair: ColoPair) -> None:
    """A misspelled name must not have this machine taken for another one."""
    with pytest.raises(DeclarationError, match="node must be one of alpha, beta, not 'aplha'"):
        async with hosts_of(pair, own="aplha"):
            pass


def test_host_over_ssh_needs_a_declared_way(pair: ColoPair) -> None:
    """A node without `ssh` is refused before anything is connected."""
    with pytest.raises(DeclarationError, match="ssh of node alpha must be set, not None"):
        SshHost(pair.nodes[0])


async def test_closed_handle_shows_an_end_and_waits_for_none(pair: ColoPair) -> None:
    """The evidence is the host's; only to wait needs the handle."""
    await _launch(pair)
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    waiting = asyncio.create_task(watch.wait_ended())
    await asyncio.sleep(0)  # it takes a handle of its own
    watch.close()
    watch.close()
    assert watch.evidence(4) is None
    _kill(pair)
    await asyncio.wait_for(waiting, LIMIT_S)
    found = watch.evidence(4)
    assert found is not None
    assert FIRST == found.instance
    with pytest.raises(OSError, match="Bad file descriptor"):
        await watch.wait_ended()
