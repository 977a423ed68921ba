"""When a process is over: its threads run no more, and its memory may still have to be freed."""

import asyncio
import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.hosts.programs import SERVER

from pycolo.errors import HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.helper import far
from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair
from pycolo.plan import LaunchQemu, StopQemu

LIMIT_S = 20.0
FIRST, SECOND = "p:alpha:00000001", "p:alpha:00000002"
HOST = LocalHost()
RAM_BYTES = 2 << 30
# Three threads sleep; a fourth ends when it is told to.
THREADS = """
import signal, threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
told = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: told.set())
threading.Thread(target=told.wait, daemon=True).start()
"""
# Small pages, as a guest's memory has where nothing else is asked for.
RAM = f"""
import mmap
ram = mmap.mmap(-1, {RAM_BYTES})
ram.madvise(mmap.MADV_NOHUGEPAGE)
for place in range(0, {RAM_BYTES}, mmap.PAGESIZE):
    ram[place] = 1
"""
READY = "print('ready', flush=True)\n"
REST = "while True: time.sleep(1000)\n"
# The first thread ends alone, as pthread_exit has it, and the others live.
LEAVE = "import ctypes; ctypes.CDLL(None).pthread_exit(None)\n"
# At any moment one thread is about to make the next one and to end; the first has ended.
CHAIN = f"""
import _thread
def link():
    _thread.start_new_thread(link, ())
{READY}
link()
{LEAVE}
"""


@contextmanager
def _running(program: str) -> Generator[far.Pidfd]:
    """A process that has said that it is ready; it is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        with contextlib.closing(far.Pidfd(process.pid, os.pidfd_open(process.pid))) as pidfd:
            try:
                yield pidfd
            finally:
                process.kill()


def _states(pid: int) -> list[str]:
    """The state of each thread that is there."""
    found = []
    for path in sorted(Path(f"/proc/{pid}/task").iterdir()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append((path / "stat").read_text().rpartition(")")[2].split()[0])
    return found


def _is_gone(descriptor: int) -> bool:
    """Whether the kernel says so of the process of a pidfd."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


# -- what is no death ----------------------------------------------------------------------------


def test_end_of_one_thread_is_no_death() -> None:
    """A thread that ends alone, as that of a CPU that is unplugged, leaves the others running."""
    with _running(THREADS + READY + REST) as pidfd:
        before = len(_states(pidfd.pid))
        os.kill(pidfd.pid, signal.SIGUSR1)
        while len(_states(pidfd.pid)) == before:
            assert pidfd.over() is None
        assert not pidfd.wait_over(0.01)


def test_end_of_the_first_thread_is_no_death() -> None:
    """It stays as a zombie that has the number of the process, while the others run on."""
    with _running(THREADS + READY + LEAVE) as pidfd:
        while _states(pidfd.pid)[0] != "Z":
            assert pidfd.over() is None
        assert not pidfd.wait_over(0.01)


def test_stopped_threads_are_no_death() -> None:
    """Each of them is paused, and each may be resumed."""
    with _running(THREADS + READY + REST) as pidfd:
        os.kill(pidfd.pid, signal.SIGSTOP)
        while {"T"} != set(_states(pidfd.pid)):
            assert pidfd.over() is None
        assert not pidfd.wait_over(0.01)


def test_thread_that_is_just_made_is_not_missed() -> None:
    """However often the one that lives hands over to the next one, no list of them is accepted."""
    with _running(CHAIN) as pidfd:
        while _states(pidfd.pid)[:1] != ["Z"]:
            assert pidfd.over() is None
        assert {None} == {pidfd.over() for _ in range(3000)}


OTHER_NUMBERS = """
import os, signal, sys
from pathlib import Path
from pycolo.helper import far
number = int(sys.argv[1])
Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
child = os.fork()
if child == 0:
    signal.pause()
print(child == number, far.Pidfd(child, os.pidfd_open(child)).over())
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make PID namespaces")
def test_proc_of_another_namespace_proves_nothing() -> None:
    """There the number of a process that lives means another one, which is a zombie."""
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        inside = [sys.executable, "-c", OTHER_NUMBERS, str(zombie.pid)]
        line = ["unshare", "--pid", "--fork", *inside]
        found = subprocess.run(line, capture_output=True, text=True, check=False)
        if "Operation not permitted" in found.stderr:
            pytest.skip("this root may make no PID namespace")
        assert ("True None\n", "") == (found.stdout, found.stderr)


# -- what is one ---------------------------------------------------------------------------------


def test_killed_threads_are_a_death() -> None:
    """The end of all threads is told, and stays true once the process is gone."""
    with _running(THREADS + READY + REST) as pidfd:
        os.kill(pidfd.pid, signal.SIGKILL)
        assert pidfd.wait_over(LIMIT_S)
        assert pidfd.over() is not None
        assert pidfd.gone(LIMIT_S)
        assert f"process {pidfd.pid} has ended" == pidfd.over()


async def _launch(
    pair: ColoPair, program: str, *, instance: str = FIRST, limit_s: float = LIMIT_S
) -> None:
    argv = (sys.executable, "-c", program, pair.node("alpha").run_path("control.qmp"))
    action = LaunchQemu(role="secondary", instance=instance, argv=argv)
    await HOST.run(pair, "alpha", action, limit_s=limit_s)


async def _death(pair: ColoPair) -> Evidence | None:
    victim = Victim(node="alpha", instance=FIRST, epoch=4)
    return await HOST.death(pair, victim, limit_s=LIMIT_S)


async def test_end_is_seen_after_the_end_of_a_thread(pair: ColoPair) -> None:
    """Who waits for the end is not misled by a thread that ends before, and waits on."""
    await _launch(pair, THREADS + SERVER)
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    waiting = asyncio.create_task(watch.wait_ended())
    before = len(_states(watch.pid))
    os.kill(watch.pid, signal.SIGUSR1)
    while len(_states(watch.pid)) == before:
        # A thread's end shows in /proc alone.
        await asyncio.sleep(0)
    assert (False, None) == (waiting.done(), await _death(pair))
    os.kill(watch.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, LIMIT_S)
    watch.close()
    found = await _death(pair)
    assert found is not None
    assert found.proves(Victim(node="alpha", instance=FIRST, epoch=4))


# -- before the process has gone -----------------------------------------------------------------


def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux is before 6.9: it has no pidfd of a thread."""
    opened = os.pidfd_open

    def refuse(pid: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", refuse)


def _need_ram() -> None:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if free << 10 < 2 * RAM_BYTES:
        pytest.skip(f"{free >> 10} MiB are free, {2 * RAM_BYTES >> 20} are needed")


@pytest.mark.heavy
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tells", [True, False])
async def test_death_is_seen_before_the_memory_is_free(
    pair: ColoPair, monkeypatch: pytest.MonkeyPatch, *, tells: bool
) -> None:
    """The evidence comes while the process still exists, and it says what was seen."""
    _need_ram()
    if not tells:
        _untold(monkeypatch)
    await _launch(pair, THREADS + RAM + SERVER)
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    descriptor = os.pidfd_open(watch.pid)
    waiting = asyncio.create_task(watch.wait_ended())
    # It is waited for before it ends.
    await asyncio.sleep(0)
    os.kill(watch.pid, signal.SIGKILL)
    await waiting
    found, is_gone = watch.evidence(4), _is_gone(descriptor)
    os.close(descriptor)
    watch.close()
    assert not is_gone
    assert found is not None
    assert f"all threads of process {watch.pid} have ended or are exiting" == found.how


@pytest.mark.heavy
@pytest.mark.timeout(120)
async def test_kill_at_once_waits_for_the_death_alone(pair: ColoPair) -> None:
    """Who kills for a failover gets evidence at once; who stops has the process gone as well."""
    _need_ram()
    for instance, at_once in ((FIRST, True), (SECOND, False)):
        await _launch(pair, THREADS + RAM + SERVER, instance=instance)
        watch = HOST.watch(pair, "alpha")
        assert watch is not None
        descriptor = os.pidfd_open(watch.pid)
        watch.close()
        action = StopQemu(instance=instance, at_once=at_once)
        await HOST.run(pair, "alpha", action, limit_s=LIMIT_S)
        assert at_once == (not _is_gone(descriptor))
        os.close(descriptor)


@pytest.mark.heavy
@pytest.mark.timeout(120)
async def test_launch_waits_until_the_memory_is_free(pair: ColoPair) -> None:
    """What still listens is no life, and the next QEMU starts where the dead one was."""
    _need_ram()
    await _launch(pair, THREADS + RAM + SERVER)
    watch = HOST.watch(pair, "alpha")
    assert watch is not None
    os.kill(watch.pid, signal.SIGKILL)
    await watch.wait_ended()
    watch.close()
    assert (await HOST.observe(pair, "alpha", limit_s=LIMIT_S)).running is None
    assert HOST.watch(pair, "alpha") is None
    with pytest.raises(HostRefused, match=f"process {watch.pid}, .*has not freed its memory"):
        await _launch(pair, SERVER, instance=SECOND, limit_s=0.01)
    await _launch(pair, SERVER, instance=SECOND)
    assert await _death(pair) is not None
