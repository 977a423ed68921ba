"""Hosts of their own on one machine: network, processes, mounts and names of each are apart.

Each host has an sshd, a disk that outlives it and nothing else that another one could write to. The
controller is a further such place that reaches their sshds and none of their files. A client may be
on the network of their guests.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO, final

import attrs

from pycolo.demo.network import GUEST_ADDRESS, Network

ROOT: Final = Path(__file__).parent.parent.parent
REPLICATION: Final = "10.88.1."
MANAGEMENT: Final = "10.88.2."
CONTROLLER: Final = "controller"
SWITCH: Final = "switch"
OTHERS_FROM: Final = 11
"The last part of the address of the first one on `mgmt` that is no host."
NOBODY: Final = "02:00:00:00:00:01"
"An address that no network card has."
CLIENT: Final = "client"
CLIENT_LINK: Final = "lan"
"What the client's end of the guests' network is called."
STATE: Final = "/var/lib/pycolo"
NODE: Final = """
[[nodes]]
name = "{name}"
address = "{address}"
image_folder = "{state}"
qemu_binary = "{build}/bin/qemu-system-x86_64"
qemu_img_binary = "{build}/bin/qemu-img"

[nodes.ssh]
address = "{management}"
key_file = "/etc/ssh/user_key"
known_hosts_file = "/etc/ssh/known_hosts"
"""
"A node of a pair file, on a host of this testbed."
"What a host keeps over a power failure."
READY_S: Final = 20.0
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES: Final = Path("/run/netns")

# Builds an empty root, puts the host's own things into it, and becomes the host's first process.
BUILD: Final = """
set -eu
umask 022
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$root"
cd "$root"
mkdir -p usr etc/ssh proc sys dev run/sshd tmp root var/lib var/tmp old ."$state"
chmod 1777 tmp var/tmp
chmod 700 root
mount --bind /usr usr
mount -o remount,bind,ro usr
for file in bin sbin lib lib32 lib64; do
  [ ! -L /$file ] || ln -s "$(readlink /$file)" $file
done
for path in $shown; do
  mkdir -p ".$path"
  mount --bind "$path" ".$path"
  mount -o remount,bind,ro ".$path"
done
mount --bind "$disk" ".$state"
mount -t proc none proc
mount -t tmpfs -o mode=755 none dev
mkdir dev/pts dev/net dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 none dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for file in null zero random urandom tty net/tun kvm; do
  [ -e /dev/$file ] || continue
  touch dev/$file
  mount --bind /dev/$file dev/$file
done
for file in passwd group nsswitch.conf ld.so.cache; do
  [ ! -e /etc/$file ] || cp /etc/$file etc/$file
done
printf 'root:*:1::::::\\n' >etc/shadow
[ ! -e /etc/alternatives ] || cp -a /etc/alternatives etc/alternatives
printf '%s\\n' "$machine" >etc/machine-id
printf '127.0.0.1 localhost\\n' >etc/hosts
printf '%s\\n' "$boot" >etc/boot-id
mount --bind etc/boot-id proc/sys/kernel/random/boot_id
[ ! -d "$keys" ] || cp -a "$keys"/. etc/ssh/
hostname "$name"
pivot_root . old
cd /
umount -l old
rmdir old
exec env -i PATH="$path" HOME=/root /usr/bin/python3 -I -c "$init" "$name"
"""

# The first process of a host: serves ssh where it may, and takes over what others leave behind.
INIT: Final = """
import os, signal, subprocess, sys
if os.path.exists("/etc/ssh/sshd_config"):
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e"])
print("ready", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        signal.pause()
"""

SSHD: Final = """\
ListenAddress {management}
ListenAddress {address}
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
"""


@final
class Host:
    """One host: it runs, or its power is off."""

    def __init__(self, testbed: Testbed, name: str, number: int) -> None:
        """Made by `Testbed`; not running yet."""
        self._testbed = testbed
        self.name: Final = name
        self.number: Final = number
        self.machine: Final = uuid.uuid4().hex
        self.disk: Final = testbed.folder / name / "disk"
        self.keys: Final = testbed.folder / name / "keys"
        self._process: subprocess.Popen[str] | None = None
        self.disk.mkdir(parents=True)
        self.disk.chmod(0o700)

    @property
    def address(self) -> str:
        """Where its peers reach it."""
        return f"{REPLICATION}{self.number}"

    @property
    def management(self) -> str:
        """Where the controller reaches its sshd."""
        return f"{MANAGEMENT}{self.number}"

    @property
    def pid(self) -> int:
        """Its first process, as this machine counts."""
        process = self._process
        assert process is not None, f"{self.name} is off"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0])

    def boot(self) -> None:
        """Switch it on, with the disk that it had."""
        root = self._testbed.folder / self.name / "root"
        root.mkdir(exist_ok=True)
        values = {
            "root": str(root),
            "disk": str(self.disk),
            "state": STATE,
            "keys": str(self.keys),
            "shown": " ".join(self._testbed.shown(self.name)),
            "machine": self.machine,
            "boot": str(uuid.uuid4()),
            "name": self.name,
            "path": PATH,
            "init": INIT,
        }
        log = self._testbed.folder / f"{self.name}.log"
        with log.open("a") as stderr:
            self._process = self._started(values, stderr)
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready == "ready\n", log.read_text()

    def _started(self, values: Mapping[str, str], stderr: TextIO) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *("ip", "netns", "exec", self._testbed.namespace(self.name)),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"),
                *("sh", "-c", BUILD),
            ],
            env={"PATH": PATH, **values},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def power_off(self) -> None:
        """End all of its processes at once; does nothing where it is off."""
        process, self._process = self._process, None
        if process is None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text().split() if children.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                # The kernel ends a name space with its first process, before that is reaped.
                os.kill(int(child), signal.SIGKILL)
        process.wait(READY_S)
        assert process.stdout is not None
        process.stdout.close()

    def run(
        self, *argv: str, environment: Mapping[str, str] | None = None, limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on it to its end."""
        return subprocess.run(
            self.entering(*argv, environment=environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
        )

    def entering(self, *argv: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs a program on it."""
        given = {"PATH": PATH, "HOME": "/root", **(environment or {})}
        return [
            *("nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid"),
            *("env", "-i", "-C", "/root", *(f"{key}={value}" for key, value in given.items())),
            *argv,
        ]


@final
@attrs.define
class Testbed:
    """Some hosts, the cables between them, and the controller."""

    __test__ = False

    folder: Path
    "Where everything of it lies on this machine."
    builds: Path
    "QEMU's builds, which hosts may read."
    has_agents: bool = False
    "Whether hosts may read this project and reach each other's sshds, as agents do."
    hosts: dict[str, Host] = attrs.field(factory=dict)
    "Name to host, the controller too."
    others: tuple[str, ...] = ()
    "What else is on the network `mgmt`: each has a network of its own, and nothing else."

    def namespace(self, name: str) -> str:
        """What a host's network is called."""
        return f"pycolotest-{os.getpid()}-{name}"

    def shown(self, name: str) -> tuple[str, ...]:
        """What of this machine a host may read."""
        builds = () if name == CONTROLLER else (str(self.builds),)
        if name != CONTROLLER and not self.has_agents:
            return builds
        python = {sys.prefix, sys.base_prefix, *_source()}
        return (*builds, *(path for path in sorted(python) if not path.startswith("/usr")))

    @property
    def client(self) -> Network:
        """Where a client of the guest is, on hosts that were made with one."""
        return Network(
            places={},
            client=("ip", "netns", "exec", self.namespace(CLIENT)),
            guest_address=f"{GUEST_ADDRESS}/24",
            isolated=True,
        )

    @property
    def controller(self) -> Host:
        """Where `pycolo` runs."""
        return self.hosts[CONTROLLER]

    def pycolo(
        self, *words: str, on: str = CONTROLLER, limit_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line on the controller, or on a host that may read this project."""
        program = "from pycolo.cli import main; main()"
        environment = {"PYTHONPATH": os.pathsep.join(_source())}
        argv = (sys.executable, "-c", program, *words)
        return self.hosts[on].run(*argv, environment=environment, limit_s=limit_s)

    def cut(self, network: str, host: str) -> None:
        """Lose every packet of a host's cable to a network, without a sign at either end.

        Args:
            network: `repl`, between the hosts; `mgmt`, to everything else; `lan`, to the client.
            host: The host.
        """
        _ip("-n", self.namespace(SWITCH), "link", "set", f"{network[0]}-{host}", "nomaster")

    def heal(self, network: str, host: str) -> None:
        """Carry packets again."""
        port = f"{network[0]}-{host}"
        _ip("-n", self.namespace(SWITCH), "link", "set", port, "master", network)

    def address(self, name: str) -> str:
        """Where a host, or what else is on the network `mgmt`, is reached there."""
        if name in self.others:
            return f"{MANAGEMENT}{OTHERS_FROM + self.others.index(name)}"
        return self.hosts[name].management

    def part(self, one: str, other: str) -> None:
        """Lose every packet between two that are on `mgmt`, without a sign at either end."""
        for here, there in ((one, other), (other, one)):
            _ip(*self._neighbour("replace", here, there), "lladdr", NOBODY, "nud", "permanent")

    def unite(self, one: str, other: str) -> None:
        """Carry packets between two again."""
        for here, there in ((one, other), (other, one)):
            _ip(*self._neighbour("delete", here, there))

    def _neighbour(self, verb: str, here: str, there: str) -> tuple[str, ...]:
        space = self.namespace(here)
        return ("-n", space, "neighbour", verb, self.address(there), "dev", "mgmt")


def _source() -> tuple[str, ...]:
    return (str(ROOT / "src"),)


@contextlib.contextmanager
def separate_hosts(
    builds: Path,
    names: Sequence[str],
    *,
    has_client: bool = False,
    has_agents: bool = False,
    others: tuple[str, ...] = (),
) -> Generator[Testbed]:
    """Make hosts and a controller, and take them away when the block is left.

    Args:
        builds: The folder of QEMU's builds.
        names: The hosts' names.
        has_client: Whether there is a client, which reaches the guests of all hosts.
        has_agents: See `Testbed.has_agents`.
        others: See `Testbed.others`.
    """
    _clear()
    # Records are kept on a disk, so this must be one.
    folder = Path(tempfile.mkdtemp(prefix="pycolotest-", dir="/var/tmp"))
    made = Testbed(folder=folder, builds=builds, has_agents=has_agents, others=others)
    spaces = (SWITCH, CONTROLLER, *((CLIENT,) if has_client else ()), *names, *others)
    try:
        for name in spaces:
            _ip("netns", "add", made.namespace(name))
            _ip("-n", made.namespace(name), "link", "set", "lo", "up")
        _networks(made, names)
        if has_client:
            _guests_network(made, names)
        _keys(made, names)
        for number, name in enumerate((*names, CONTROLLER), 1):
            host = made.hosts.setdefault(name, Host(made, name, number))
            if name != CONTROLLER:
                _serve_ssh(made, host)
        _trust(made)
        for host in made.hosts.values():
            host.boot()
        yield made
    finally:
        for host in made.hosts.values():
            host.power_off()
        for name in spaces:
            _delete(made.namespace(name))
        shutil.rmtree(folder)


def _networks(made: Testbed, names: Sequence[str]) -> None:
    switch = made.namespace(SWITCH)
    for network in ("repl", "mgmt"):
        _ip("-n", switch, "link", "add", network, "type", "bridge", "mcast_snooping", "0")
        _ip("-n", switch, "link", "set", network, "up")
    for number, name in enumerate((*names, CONTROLLER), 1):
        _plug(made, name, "mgmt", f"{MANAGEMENT}{number}")
        if name != CONTROLLER:
            _plug(made, name, "repl", f"{REPLICATION}{number}")
            _ip("-n", made.namespace(name), "tuntap", "add", "tap0", "mode", "tap")
            _ip("-n", made.namespace(name), "link", "set", "tap0", "up")
    for name in made.others:
        _plug(made, name, "mgmt", made.address(name))


def _plug(made: Testbed, name: str, network: str, address: str) -> None:
    switch, space, port = made.namespace(SWITCH), made.namespace(name), f"{network[0]}-{name}"[:15]
    far = ("peer", "name", port, "netns", switch)
    _ip("-n", space, "link", "add", network, "type", "veth", *far)
    _ip("-n", space, "address", "add", f"{address}/24", "dev", network)
    _ip("-n", space, "link", "set", network, "up")
    _ip("-n", switch, "link", "set", port, "master", network)
    _ip("-n", switch, "link", "set", port, "up")


def _guests_network(made: Testbed, names: Sequence[str]) -> None:
    """Join the hosts' taps and the client by a switch, and let none of the hosts speak there."""
    switch = made.namespace(SWITCH)
    _bridge(switch)
    for name in names:
        _bridge(made.namespace(name))
        _ip("-n", made.namespace(name), "link", "set", "tap0", "master", "lan")
        _lan_cable(made, name, "uplink")
        _ip("-n", made.namespace(name), "link", "set", "uplink", "master", "lan")
    _lan_cable(made, CLIENT, CLIENT_LINK)
    address = f"{GUEST_ADDRESS.rpartition('.')[0]}.1/24"
    _ip("-n", made.namespace(CLIENT), "address", "add", address, "dev", CLIENT_LINK)


def _bridge(space: str) -> None:
    _ip("-n", space, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
    _ip("-n", space, "link", "set", "lan", "addrgenmode", "none", "up")


def _lan_cable(made: Testbed, name: str, end: str) -> None:
    switch, space, port = made.namespace(SWITCH), made.namespace(name), f"l-{name}"[:15]
    _ip("-n", space, "link", "add", end, *("type", "veth", "peer", "name", port, "netns", switch))
    mode = "eui64" if name == CLIENT else "none"
    _ip("-n", space, "link", "set", end, "addrgenmode", mode, "up")
    _ip("-n", switch, "link", "set", port, "addrgenmode", "none", "master", "lan", "up")


def _keys(made: Testbed, names: Sequence[str]) -> None:
    made.folder.chmod(0o755)
    for name in (CONTROLLER, *names):
        place = made.folder / name / "keys"
        place.mkdir(parents=True)
        kind = "user_key" if name == CONTROLLER else "host_key"
        _key(place / kind)


def _key(path: Path) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path))


def _serve_ssh(made: Testbed, host: Host) -> None:
    config = SSHD.format(management=host.management, address=host.address)
    (host.keys / "sshd_config").write_text(config)
    key = made.folder / CONTROLLER / "keys" / "user_key"
    shutil.copy(key.with_suffix(".pub"), host.keys / "authorized_keys")
    if made.has_agents:
        shutil.copy(key, host.keys / "user_key")


def _trust(made: Testbed) -> None:
    lines = []
    for host in made.hosts.values():
        if host.name != CONTROLLER:
            key = " ".join((host.keys / "host_key.pub").read_text().split()[:2])
            lines.append(f"{host.management},{host.address} {key}\n")
    for host in made.hosts.values():
        if host.name == CONTROLLER or made.has_agents:
            (host.keys / "known_hosts").write_text("".join(lines))


def _clear() -> None:
    """Take away what a run left that was killed."""
    for path in NAMESPACES.glob("pycolotest-*-*"):
        owner = path.name.split("-")[1]
        if not Path("/proc", owner).exists():
            _delete(path.name)


def _delete(namespace: str) -> None:
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=READY_S)
    if done.returncode != 0:
        raise OSError(f"{shlex.join(argv)}: {done.stderr.strip()}")


def why_none() -> str | None:
    """Why no testbed can be made here; None where one can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    lacking = [p for p in ("ip", "unshare", "nsenter", "sshd", "ssh-keygen") if not _found(p)]
    if lacking:
        return f"programs are missing: {', '.join(lacking)}"
    done = subprocess.run(["unshare", "--net", "--mount", "true"], check=False, capture_output=True)
    return None if done.returncode == 0 else "no namespace can be made here"


def _found(program: str) -> bool:
    return shutil.which(program, path=PATH) is not None
