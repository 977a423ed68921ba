"""What the demonstration runs on: programs, a folder, a network and a declaration.

Everything here blocks, and nothing needs an event loop, so that an interrupt of the event loop does
not prevent the clean-up.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, final

import attrs

from pycolo.demo.builds import QemuBuild, fetch
from pycolo.demo.guests import LinuxGuest, linux_guest
from pycolo.demo.network import Network, NetworkError, Place, namespaces, user_networks, wrapper
from pycolo.errors import PycoloError
from pycolo.helper import far
from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair, FilterChain, Machine, Node, ReplicationDisk
from pycolo.model.pair import SERIAL_LOG
from pycolo.qmp.replies import Version

NODES: Final = ("alpha", "beta")
_MAC: Final = "52:54:00:77:00:02"
_MEMORY_MIB: Final = 128
_GONE_S: Final = 10.0
# Records must be kept on a disk; /tmp may be in memory.
STATE_ROOT: Final = "/var/tmp"  # noqa: S108 - a folder with a random name is made in it


@final
@attrs.frozen(kw_only=True)
class Programs:
    """The QEMU build and the guest, which are fetched before anything else."""

    build: QemuBuild
    guest: LinuxGuest

    @property
    def version(self) -> Version:
        """The version of QEMU."""
        return Version.parse(self.build.version)


def fetched(cache: Path | None, progress: Callable[[str], None]) -> Programs:
    """Return QEMU and the guest; fetch them if the cache does not have them.

    Args:
        cache: Folder that keeps them; `builds.default_cache()` if None.
        progress: Called with what is being done.

    Raises:
        FetchError: QEMU or the guest could not be fetched or made.
    """
    build = fetch("11.1", cache, on_progress=progress)
    return Programs(build=build, guest=linux_guest(cache, on_progress=progress))


@final
@attrs.frozen(kw_only=True)
class Testbed:
    """Everything that exists before the first QEMU is started."""

    programs: Programs
    folder: Path
    network: Network
    pair: ColoPair
    not_shown: tuple[str, ...]
    "What cannot be shown on this machine, and why."

    def serial_text(self, node: str) -> str:
        """The output of the guest on its serial port, as the QEMU of one node logged it."""
        path = Path(self.pair.node(node).run_path(SERIAL_LOG))
        return path.read_text(errors="replace") if path.exists() else ""

    def keep_logs(self) -> Path:
        """Copy the logs to a new temporary folder that outlives the testbed; returns its path."""
        kept = Path(tempfile.mkdtemp(prefix="pycolo-demo-logs-"))
        for log in [*self.folder.glob("*.log"), *self.folder.glob("*/run/*")]:
            if log.suffix in (".log", ".stderr"):
                shutil.copy(log, kept / "-".join(log.relative_to(self.folder).parts))
        return kept


@contextmanager
def open_testbed(
    programs: Programs,
    *,
    checkpoint_delay_ms: int,
    disk_mib: int,
    may_isolate: bool,
    card: str = "rtl8139",
) -> Generator[Testbed]:
    """Make a testbed; all its processes, namespaces and folders are removed when the block is left.

    Args:
        programs: QEMU and the guest.
        checkpoint_delay_ms: The longest time between two checkpoints, in milliseconds.
        disk_mib: Size of the guest's disk in MiB, at least 16, which its records need.
        may_isolate: Use network namespaces if this process is root and the kernel permits them.
        card: QEMU's model of the guest's network card; `linux_guest` needs a driver for it.

    Yields:
        The testbed. No QEMU runs yet; `not_shown` says what this machine does not permit.

    Raises:
        DeclarationError: `card` is no possible name of a card, or pycolo does not support this
            card.
        NetworkError: No network could be made.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pycolo-demo-", dir=STATE_ROOT))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        network, not_shown = _network(stack, may_isolate=may_isolate)
        nodes = [_node(folder, programs, name, network.places[name]) for name in NODES]
        pair = _pair(
            programs,
            network,
            nodes,
            checkpoint_delay_ms=checkpoint_delay_ms,
            disk_mib=disk_mib,
            card=card,
        )
        stack.callback(_end_all, pair)
        yield Testbed(
            programs=programs, folder=folder, network=network, pair=pair, not_shown=not_shown
        )


def _network(stack: ExitStack, *, may_isolate: bool) -> tuple[Network, tuple[str, ...]]:
    if not may_isolate:
        why = "hosts of their own: network namespaces were not asked for"
    elif os.geteuid() != 0:
        why = "hosts of their own: network namespaces need root"
    else:
        try:
            return stack.enter_context(namespaces(NODES)), ()
        except NetworkError as error:
            why = f"hosts of their own: {error}"
    user: AbstractContextManager[Network] = user_networks(NODES)
    lost = (
        why,
        "ping: user-mode networks pass no ICMP in",
        "a cut between the hosts: both are on the loopback network of this machine",
        "connections that outlive the primary: each is forwarded by the QEMU that dies",
    )
    return stack.enter_context(user), lost


def _node(folder: Path, programs: Programs, name: str, place: Place) -> Node:
    home = folder / name
    home.mkdir()
    # The kernel kills each QEMU when the demo ends, even if the demo is killed.
    tied = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
    program = wrapper(home / "qemu", (*tied, *place.enter), programs.build.qemu_system)
    return Node(
        name=name,
        address=place.address,
        image_folder=str(home),
        run_dir=str(home / "run"),
        qemu_binary=str(program),
        qemu_img_binary=str(programs.build.qemu_img),
    )


def _pair(
    programs: Programs,
    network: Network,
    nodes: Sequence[Node],
    *,
    checkpoint_delay_ms: int,
    disk_mib: int,
    card: str,
) -> ColoPair:
    first, second = nodes
    gateway = "" if network.isolated else "10.0.2.2"
    guest = programs.guest
    machine = Machine(
        memory_mib=_MEMORY_MIB,
        accelerator="tcg",
        kernel=str(guest.kernel),
        initrd=str(guest.initrd),
        append=guest.kernel_arguments(addresses=(network.guest_address,), gateway=gateway),
        serial_log=True,
    )
    chain = FilterChain(
        netdev=network.places[first.name].netdev,
        netdevs={name: place.netdev for name, place in network.places.items()},
        model=card,
        mac=_MAC,
    )
    return ColoPair(
        name="demo",
        nodes=(first, second),
        machine=machine,
        disks=(ReplicationDisk(size_bytes=disk_mib << 20),),
        chains=(chain,),
        checkpoint_delay_ms=checkpoint_delay_ms,
    )


def _end_all(pair: ColoPair) -> None:
    """Kill every QEMU of the pair that still runs, and wait until each process is gone."""
    for node in pair.nodes:
        path, running = pair.process_path(node.name), LocalHost().watch(pair, node.name)
        if running is not None:
            with suppress(ProcessLookupError, far.Refused):
                os.kill(running.pid, signal.SIGKILL)
                far.watch(process=path, instance=running.instance, limit_s=_GONE_S)
            running.close()
        # A QEMU may also have been killed with the thread that started it (see `setpriv`): wait for
        # it.
        with suppress(far.Refused):
            far.await_gone(path, _GONE_S)


class LifeError(PycoloError):
    """The demonstration could not continue."""
