"""Rules about the hosts themselves."""

from __future__ import annotations

from collections.abc import Iterator

from pycolo.facts import NoFacts, PairFacts
from pycolo.findings import Finding, Level
from pycolo.model.machine import Machine
from pycolo.model.pair import ColoPair
from pycolo.rules._found import MIB, Rule, both, by_name, found, size_words

APART_S = 2.0
OPEN_FILES = 1024
# From this RAM on, and above this buffer, an entry's pause was seen to grow (qemu-behaviour 22.5).
LARGE_RAM_MIB = 1024
SEND_BUFFER_BYTES = 128 * 1024


def unread(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A host that could not be asked, and a part of the facts that could not be read."""
    for name, host in facts.hosts.items():
        if isinstance(host, NoFacts):
            what = f"the host of {name} cannot be asked: {host.why}"
            yield found("error", "host-unread", name, what, "open the way to it (nodes.ssh)")
            continue
        for part, why in host.unread.items():
            what = f"{part} of {name} could not be read: {why}"
            remedy = "correct that, or check it yourself"
            yield found("warning", "fact-unread", name, what, remedy)


def not_forwarded(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """An SSH connection to a host that does not forward connections to monitors."""
    for name, host in facts.read.items():
        if host.forwarding is not None and host.forwarding.why:
            remedy = "allow it in sshd_config"
            yield found("error", "not-forwarded", name, host.forwarding.why, remedy)


def machine_ids(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Two nodes on one machine, and two machines with the same machine id."""
    for (one, first), (other, second) in both(facts, lambda host: host.system):
        if first.boot_id == second.boot_id:
            what = f"{one} and {other} are on one machine, whose end is the end of both"
            yield found("warning", "one-machine", None, what, "put one on another machine")
        elif first.machine_id and first.machine_id == second.machine_id:
            what = f"{one} and {other} have the same /etc/machine-id, {first.machine_id}"
            remedy = f"make a new one on {other}: it tells whose evidence is whose"
            yield found("error", "same-machine-id", other, what, remedy)


def clocks(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Clocks that certainly differ by more than `APART_S`."""
    for (one, first), (other, second) in both(facts, lambda host: host.clock):
        apart_s = max(first.least_s - second.most_s, second.least_s - first.most_s)
        if apart_s > APART_S:
            what = f"the clocks of {one} and {other} differ by {apart_s:.1f} s or more"
            remedy = "have both follow a time server"
            yield found("warning", "clocks-apart", None, what, remedy)


def kernels(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Kernels that differ between hosts."""
    known = {n: host.system.kernel for n, host in facts.read.items() if host.system is not None}
    if len(set(known.values())) > 1:
        what = f"the kernels differ: {by_name(known)}"
        yield found("note", "kernels-differ", None, what, "update both in turn")


def confinement(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A security module (SELinux or AppArmor) that may keep QEMU from its files."""
    for name, host in facts.read.items():
        if host.system is not None and host.system.confinement:
            what = f"on {name} {host.system.confinement}"
            remedy = "let QEMU open the pair's images, sockets and taps there"
            yield found("note", "confined", name, what, remedy)


def libvirts(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A libvirt that does not answer, runs QEMU as another user, or confines it."""
    for name, host in facts.read.items():
        if host.libvirt is None:
            continue
        if host.libvirt.why:
            what = f"libvirt on {name} does not answer: {host.libvirt.why}"
            remedy = "start its daemon, and let this user manage domains"
            yield found("error", "no-libvirt", name, what, remedy)
            continue
        user_id = host.libvirt.user_id
        if host.system is not None and user_id not in (None, host.system.user_id):
            what = f"libvirt on {name} runs QEMU as user {user_id}, pycolo acts as user"
            what += f" {host.system.user_id}"
            remedy = "make both the same: user and group in qemu.conf, or nodes.ssh.user"
            yield found("error", "libvirt-user", name, what, remedy)
        if host.libvirt.confinement:
            what = f"libvirt on {name} confines QEMU by {', '.join(host.libvirt.confinement)}"
            remedy = "let QEMU open the pair's files there, or set security_driver in qemu.conf"
            yield found("warning", "libvirt-confines", name, what, remedy)


def _has_own_limits(pair: ColoPair, name: str) -> bool:
    """Whether a system's libvirt starts QEMU: in a scope and with limits that are not the user's.

    The libvirt of a user's session starts QEMU as a process of that session.
    """
    declared = pair.node(name).libvirt
    return declared is not None and "///system" in declared.uri


def logind(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A logind that would end QEMU at logout."""
    for name, host in facts.read.items():
        if _has_own_limits(pair, name):
            continue
        if host.system is not None and host.system.kills_user_processes:
            what = f"logind on {name} ends the processes of user {host.system.user_id} at logout"
            remedy = "set KillUserProcesses=no in logind.conf, or start QEMU as root"
            yield found("error", "logind-kills", name, what, remedy)


def limits(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Process limits that are too low for QEMU."""
    locks = "mem-lock=on" in " ".join(pair.machine.arguments)
    needed_bytes = pair.machine.memory_mib * MIB
    for name, host in facts.read.items():
        system = host.system
        if system is None or _has_own_limits(pair, name):
            continue
        if system.open_files < OPEN_FILES:
            what = f"a process on {name} may have {system.open_files} files open"
            remedy = f"raise the limit (nofile) to {OPEN_FILES} or more"
            yield found("warning", "few-open-files", name, what, remedy)
        locked_bytes = system.locked_bytes
        if locks and system.user_id and locked_bytes is not None and locked_bytes < needed_bytes:
            what = f"a process on {name} may lock {size_words(locked_bytes)} of memory"
            remedy = f"raise the limit (memlock) above {size_words(needed_bytes)}"
            yield found("error", "locked-memory", name, what, remedy)


def send_buffers(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Send buffers so large that the end of the RAM's copy waits in them while the guest is paused.

    Under TCG the guest is paused for the whole copy.
    """
    if pair.machine.memory_mib < LARGE_RAM_MIB or pair.machine.accelerator != "kvm":
        return
    for name, host in facts.read.items():
        most_bytes = None if host.system is None else host.system.send_buffer_bytes
        if most_bytes is not None and most_bytes > SEND_BUFFER_BYTES:
            what = f"a TCP connection on {name} may hold {size_words(most_bytes)} to be sent"
            remedy = "for a shorter pause when protection begins: sysctl"
            remedy += " net.ipv4.tcp_wmem='4096 16384 65536' net.ipv4.tcp_rmem='4096 65536 65536'"
            yield found("note", "large-send-buffer", name, what, remedy)


def memory(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Too little memory for the guest's RAM and for COLO's cache of it."""
    ram_bytes = pair.machine.memory_mib * MIB
    for name, host in facts.read.items():
        if host.memory is None:
            continue
        available_bytes = host.memory.available_bytes
        # The RAM of a running guest, or RAM from a file or huge pages, needs no available memory.
        has_ram = host.running or _is_set_aside(pair.machine)
        needed_bytes = ram_bytes if has_ram else 2 * ram_bytes
        if available_bytes >= needed_bytes:
            continue
        total = size_words(host.memory.total_bytes)
        what = f"{name} has {size_words(available_bytes)} of {total} of memory available"
        remedy = f"free {size_words(needed_bytes)}: the guest's RAM, and COLO's cache of it"
        is_hopeless = not has_ram and available_bytes < ram_bytes
        level: Level = "error" if is_hopeless else "warning"
        yield found(level, "little-memory", name, what, remedy)


def huge_pages(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Too few huge pages for the guest's RAM on a host on which no QEMU of its node runs or ends.

    Such a QEMU has the huge pages, or will free them.
    """
    needed_bytes = pair.machine.memory_mib * MIB
    for name, host in facts.read.items():
        free_bytes = None if host.memory is None else host.memory.huge_bytes
        if free_bytes is None or host.running or free_bytes >= needed_bytes:
            continue
        what = f"{name} has {size_words(free_bytes)} in free huge pages"
        remedy = f"set {size_words(needed_bytes)} aside for the guest's RAM"
        yield found("error", "few-huge-pages", name, what, remedy)


def _is_set_aside(machine: Machine) -> bool:
    """Whether the guest's RAM comes from a file or huge pages, not from available memory."""
    backend = machine.memory_backend
    if backend is None:
        return False
    return backend.folder is not None or backend.huge_page_size_mib is not None


def launch_folders(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A state folder or a run directory with which a launch would be refused."""
    for name, host in facts.read.items():
        if host.launch is None:
            continue
        if host.launch.state_why:
            what = f"{name}: {host.launch.state_why}"
            remedy = "correct it: the record says who may run alone"
            yield found("error", "state-folder", name, what, remedy)
        if host.launch.run_why:
            what = f"{name}: {host.launch.run_why}"
            remedy = "remove it while no QEMU of the node runs, or give it to that user, mode 0700"
            yield found("error", "run-folder", name, what, remedy)


def fences(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Fences that could not be executed on the machine of the preflight."""
    for name, lacking in facts.no_fences.items():
        for what in lacking:
            remedy = "install it on the machine on which the supervisor runs"
            yield found("warning", "no-fence", name, f"to fence {name}: {what}", remedy)


RULES = (
    Rule(codes=("host-unread", "fact-unread"), check=unread),
    Rule(codes=("not-forwarded",), check=not_forwarded, parts=("forwarding",), before=("launch",)),
    Rule(
        codes=("one-machine", "same-machine-id"),
        check=machine_ids,
        parts=("system",),
        before=("launch", "start", "resume"),
    ),
    Rule(codes=("clocks-apart",), check=clocks, parts=("system",)),
    Rule(codes=("kernels-differ",), check=kernels, parts=("system",)),
    Rule(codes=("confined",), check=confinement, parts=("system",)),
    Rule(
        codes=("no-libvirt", "libvirt-user", "libvirt-confines"),
        check=libvirts,
        parts=("libvirt", "system"),
    ),
    Rule(codes=("logind-kills",), check=logind, parts=("system",), before=("launch",)),
    Rule(
        codes=("few-open-files", "locked-memory"),
        check=limits,
        parts=("system",),
        before=("launch",),
    ),
    Rule(codes=("large-send-buffer",), check=send_buffers, parts=("system",)),
    Rule(codes=("little-memory",), check=memory, parts=("memory", "launch"), before=("launch",)),
    Rule(
        codes=("few-huge-pages",), check=huge_pages, parts=("memory", "launch"), before=("launch",)
    ),
    Rule(codes=("state-folder", "run-folder"), check=launch_folders, parts=("launch",)),
    Rule(codes=("no-fence",), check=fences),
)
