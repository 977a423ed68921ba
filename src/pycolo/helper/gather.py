"""Read the facts that a preflight needs on a node's host. Needs Python 3.9 and nothing else.

`LocalHost` calls `gather` in a thread; over ssh the text of this file is sent with each request for
facts. Each part is read separately: if a part cannot be read, `unread` says why, and the other
parts are returned.

The host is left as it was. Besides reading files, this code binds ports for a moment without
listening on them, opens connections to the peers' ports, sends datagrams to them, and runs programs
that end by themselves: `qemu-img info`, which also reads images over the network, `busctl`, `virsh
capabilities`, and a QEMU without a machine, which gets the command `quit`. `forwarding` also
listens for one connection.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import resource
import select
import selectors
import shutil
import socket
import ssl
import stat
import struct
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Set, Tuple

MIB = 1 << 20
DIGEST_MAX_BYTES = 1 << 28
CHUNK_BYTES = 1 << 20
HOLDERS_MAX = 5
PROGRAM_S = 15.0
# How long a server may take to answer for an image.
REMOTE_S = 10.0
BUSCTL_S = 2.0
# The bytes of an image that QEMU locks (qemu-behaviour 20.8).
LOCK_FIRST = 100
LOCK_LENGTH = 200
IP_MTU = 14
IP_MTU_DISCOVER = 10
IPV6_MTU = 24
IPV6_MTU_DISCOVER = 23
PMTUDISC_DO = 2
IPV4_HEADERS_BYTES = 28
IPV6_HEADERS_BYTES = 48
SMALL_BYTES = 64
UDP_MAX_BYTES = 65507
DATAGRAM_S = 0.3
ATTEMPTS = 2
TUN_TAP = 0x2
IFF_UP = 0x1
KVM_GET_API_VERSION = 0xAE00
KVM_API_VERSION = 12
LISTENING = "0A"
HANDSHAKE_ROUNDS = 10
# The short names of X.509 attributes in a distinguished name.
SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}

# Python 3.9 runs this file and knows no `|` between types, except in annotations.
Value = Dict[str, object]


def gather(
    *,
    parts: Mapping[str, Mapping[str, object]],
    limit_s: float,
    beside: Mapping[str, Callable[..., object]],
) -> Value:
    """Read parts, each in a thread of its own.

    Args:
        parts: The name of each wanted part, and its arguments.
        limit_s: How long to wait for all of them, in seconds.
        beside: Functions that read other parts than those of this file.

    Returns:
        Each part that was read, under its name; and `unread`, the reason for each other part.
    """
    found: Value = {}
    unread: Dict[str, str] = {}

    known = {**PARTS, **beside}

    def work(name: str, arguments: Mapping[str, object]) -> None:
        try:
            found[name] = known[name](**arguments)
        except Exception as error:  # noqa: BLE001 - the other parts must be returned
            unread[name] = str(error) or type(error).__name__

    threads = [
        threading.Thread(target=work, args=(name, arguments), daemon=True)
        for name, arguments in parts.items()
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    # A thread that is late may still add its part while the answer is made, so copy both first.
    answer, why = dict(found), dict(unread)
    late = [name for name in parts if name not in answer and name not in why]
    why.update(dict.fromkeys(late, f"no answer within {limit_s:g} s"))
    return {**answer, "unread": why}


# -- the host itself -----------------------------------------------------------------------------


def system() -> Value:
    """Describe the user and the host, and the limits on the user's processes.

    Returns:
        The fields of `pycolo.facts.SystemFacts`.
    """
    memlock, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return {
        "user_id": os.geteuid(),
        "machine_id": _text("/etc/machine-id"),
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "kernel": os.uname().release,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked_bytes": None if memlock == resource.RLIM_INFINITY else memlock,
        "confinement": _confinement(),
        "kills_user_processes": _kills_user_processes(),
        "send_buffer_bytes": _send_buffer_bytes(),
    }


def _send_buffer_bytes() -> int | None:
    """The most that the kernel lets a TCP connection hold to be sent, by IPv4 or IPv6."""
    words = _text("/proc/sys/net/ipv4/tcp_wmem").split()
    return int(words[-1]) if words else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except OSError:
        return ""


def _confinement() -> str:
    """How a security module confines this user's processes; empty if none does."""
    if _text("/sys/fs/selinux/enforce") == "1":
        return f"SELinux enforces, as {_text('/proc/self/attr/current')}"
    if _text("/sys/module/apparmor/parameters/enabled") == "Y":
        profile = _text("/proc/self/attr/apparmor/current") or _text("/proc/self/attr/current")
        if profile and profile != "unconfined":
            return f"AppArmor confines this user's processes to {profile}"
    return ""


def _kills_user_processes() -> bool:
    """Whether logind ends this user's processes with the last session; false for root."""
    if os.geteuid() == 0 or not os.path.isdir("/run/systemd/system"):
        return False
    service, manager = "org.freedesktop.login1", "org.freedesktop.login1.Manager"
    place = "/org/freedesktop/login1"
    asked = ["busctl", "get-property", service, place, manager, "KillUserProcesses"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=BUSCTL_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "b true"


def memory(*, page_mib: int | None, folder: str | None) -> Value:
    """The host's total memory, and how much of it new processes can get.

    Args:
        page_mib: The size in MiB of the huge pages that the guest's RAM is taken from; None for
            none.
        folder: The folder that the guest's RAM is taken from; None for none.

    Returns:
        `total_bytes` and `available_bytes`, from /proc/meminfo, where the limit of a container is
        not considered; and `huge_bytes`, which is free in such huge pages, or None for
        normal pages.
    """
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE))
    return {
        "total_bytes": int(found["MemTotal"]) * 1024,
        "available_bytes": int(found["MemAvailable"]) * 1024,
        "huge_bytes": _free_huge_bytes(page_mib * MIB if page_mib else _page_bytes(folder)),
    }


def _page_bytes(folder: str | None) -> int:
    """The size of the huge pages that a folder's files are made of; 0 for normal pages."""
    if folder is None:
        return 0
    number = os.stat(folder).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in _text("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == device and rest.split()[0] == "hugetlbfs":
            return os.statvfs(folder).f_bsize
    return 0


def _free_huge_bytes(page_bytes: int) -> int | None:
    """The memory in huge pages of a size that nobody uses nor has reserved; None for size 0."""
    if page_bytes == 0:
        return None
    pages = Path(f"/sys/kernel/mm/hugepages/hugepages-{page_bytes // 1024}kB")
    if not pages.is_dir():
        return 0

    def count(name: str) -> int:
        return int(_text(str(pages / f"{name}_hugepages")))

    # Beyond those that are set aside, the kernel may make some when they are asked for.
    made = max(0, count("nr_overcommit") - count("surplus"))
    return (count("free") - count("resv") + made) * page_bytes


def kvm() -> Value:
    """Find out whether this user can use KVM.

    Returns:
        `why` it cannot be used; empty if it can.
    """
    try:
        descriptor = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return {"why": f"/dev/kvm: {error.strerror}"}
    try:
        found = fcntl.ioctl(descriptor, KVM_GET_API_VERSION, 0)
    except OSError as error:
        return {"why": f"/dev/kvm: {error.strerror}"}
    finally:
        os.close(descriptor)
    return {"why": "" if found == KVM_API_VERSION else f"/dev/kvm has API version {found}"}


def programs(*, names: Sequence[str]) -> Value:
    """Find the programs that are missing.

    Args:
        names: The programs' names, which are looked up on this process's PATH, or their paths.

    Returns:
        `missing`: those that were not found, or that this user may not execute.
    """
    return {"missing": [name for name in names if shutil.which(name) is None]}


# -- files ---------------------------------------------------------------------------------------


def folders(*, paths: Sequence[str]) -> List[Value]:
    """Describe folders: whether they exist and are writable, and their free space.

    Returns:
        An entry for each path, with the fields of `pycolo.facts.FolderFacts`.
    """
    return [_folder(path) for path in paths]


def _folder(path: str) -> Value:
    found: Value = {"path": path, "is_there": os.path.isdir(path)}
    if found["is_there"]:
        space = os.statvfs(path)
        found["is_writable"] = os.access(path, os.W_OK | os.X_OK, effective_ids=True)
        found["free_bytes"] = space.f_bavail * space.f_frsize
        found["file_system"] = f"{os.stat(path).st_dev}"
    return found


def files(*, paths: Sequence[str], digested: Sequence[str]) -> List[Value]:
    """Describe files: mode, size and digest, or why a file cannot be read.

    Args:
        paths: The files.
        digested: Those of `paths` to read and make a digest of; never a secret.

    Returns:
        An entry for each path, in the order of `paths`: its `path`, and either `mode`, `size_bytes`
        and `digest` (SHA-256; empty if the file is not in `digested`), or `why` it cannot be
        opened and read, is no regular file or is too long.
    """
    return [_file(path, is_read=path in digested) for path in paths]


def _file(path: str, *, is_read: bool = True) -> Value:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return {"path": path, "why": "it is no regular file"}
        if found.st_size > DIGEST_MAX_BYTES:
            return {"path": path, "why": f"it is longer than {DIGEST_MAX_BYTES} bytes"}
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while is_read and (chunk := stream.read(CHUNK_BYTES)):
                digest.update(chunk)
    except OSError as error:
        is_folder_there = os.path.isdir(os.path.dirname(path))
        return {"path": path, "why": str(error.strerror), "is_folder_there": is_folder_there}
    return {
        "path": path,
        "mode": stat.S_IMODE(found.st_mode),
        "size_bytes": found.st_size,
        "digest": digest.hexdigest() if is_read else "",
    }


def images(
    *,
    paths: Sequence[str],
    remotes: Mapping[str, Sequence[str]],
    qemu_img: str,
    own_process: str,
) -> List[Value]:
    """Describe images, and which other processes have them open.

    Args:
        paths: The images that are files or block devices.
        remotes: The URL of each image that a server has to the words by which `qemu-img` opens it.
            They are not read while the node's own QEMU runs.
        qemu_img: The `qemu-img` program.
        own_process: The node's process file: an image that its QEMU has open is not reported as
            locked.

    Returns:
        An entry for each image that was read, with the fields of `pycolo.facts.ImageFacts`.
    """
    own = _own_pid(own_process)
    found = [_image(path, qemu_img, own) for path in paths]
    if not remotes or os.path.exists(f"/proc/{own}"):
        return found

    def read(url: str) -> Value:
        described = _described([qemu_img, *INFO, *remotes[url]], REMOTE_S)
        return {"path": url, "is_there": True, **described}

    # A server that does not answer must not use up the time of the others.
    with ThreadPoolExecutor(len(remotes)) as pool:
        return [*found, *pool.map(read, remotes)]


def _own_pid(path: str) -> int:
    try:
        with open(path, encoding="utf-8") as stream:
            return int(json.load(stream)["current"]["pid"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0


def _image(path: str, qemu_img: str, own: int) -> Value:
    found: Value = {"path": path, "is_there": os.path.lexists(path)}
    if not found["is_there"]:
        return found
    try:
        holders = _holders(path) if _is_locked(path) else []
        # A QEMU that is ending shows no open files any more, but still holds the lock.
        is_own = own in holders or (not holders and os.path.exists(f"/proc/{own}"))
        # A program that only read the image may have closed it by now: ask again.
        if not is_own and _is_locked(path):
            found["is_locked"] = True
            found["holders"] = [_process(pid) for pid in holders][:HOLDERS_MAX]
    except OSError as error:
        return {**found, "why": str(error)}
    return {**found, **_described([qemu_img, *INFO, path], PROGRAM_S)}


INFO = ("info", "--output=json", "-U")


def _described(argv: Sequence[str], limit_s: float) -> Value:
    """What `qemu-img info` tells of an image, or why it could not read it."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=limit_s)
        if done.returncode != 0:
            return {"why": done.stderr.strip() or f"qemu-img ended with {done.returncode}"}
        info = json.loads(done.stdout)
        return {
            "image_format": info["format"],
            "size_bytes": info["virtual-size"],
            "is_encrypted": info.get("encrypted", False),
            "backing": info.get("full-backing-filename", ""),
        }
    except subprocess.TimeoutExpired:
        return {"why": f"no answer within {limit_s:g} s"}
    except (OSError, ValueError, KeyError) as error:
        return {"why": str(error)}


def _is_locked(path: str) -> bool:
    """Whether a process holds QEMU's locks on an image; found out without taking a lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, LOCK_FIRST, LOCK_LENGTH, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    finally:
        os.close(descriptor)
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _holders(path: str) -> List[int]:
    """The processes that have a file open, as far as this user can see."""
    wanted = os.stat(path)
    return _having(lambda found: os.path.samestat(found, wanted))


def _having(is_wanted: Callable[[os.stat_result], bool]) -> List[int]:
    holders = []
    for pid in _processes():
        place = f"/proc/{pid}/fd"
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names:
            try:
                if is_wanted(os.stat(f"{place}/{name}")):
                    holders.append(pid)
                    break
            except OSError:
                continue
    return [pid for pid in holders if pid != os.getpid()]


def _process(pid: int) -> str:
    return f"process {pid} ({_text(f'/proc/{pid}/comm') or '?'})"


# -- QEMU ----------------------------------------------------------------------------------------


def qemu(
    *,
    binary: str,
    accelerator: str,
    types: Sequence[str],
    drivers: Sequence[str],
    capabilities: Sequence[str],
    machine: str,
    cpu: str,
) -> Value:
    """Ask a QEMU without a machine what it supports (qemu-behaviour 19.13).

    Args:
        binary: The QEMU binary.
        accelerator: The accelerator; if it is `kvm` and KVM cannot be used, QEMU runs with `tcg`,
            and features of the CPU are not asked.
        types: Object types and devices that QEMU must have.
        drivers: Block drivers that QEMU must have.
        capabilities: Migration capabilities that QEMU must have.
        machine: The machine type, or an alias.
        cpu: The CPU model; empty for the machine's default.

    Returns:
        `version`; `lacks`, what is missing; `machine`, the type without alias; `has_cpu`;
        `unavailable`, features of the CPU that this host lacks; `cpu_digest`, of the properties of
        the model `host` or `max`.
    """
    runs_kvm = accelerator != "kvm" or not kvm()["why"]
    argv = [*_without_machine(binary), "-accel", accelerator if runs_kvm else "tcg"]
    commands: List[Value] = [
        {"execute": "qom-list-types", "arguments": {"abstract": False}},
        {"execute": "query-machines"},
        {"execute": "query-cpu-definitions"},
        {"execute": "query-qmp-schema"},
    ]
    if cpu in ("host", "max") and runs_kvm:
        # These models take their features from the host, so ask QEMU which.
        model = {"type": "full", "model": {"name": cpu}}
        commands.append({"execute": "query-cpu-model-expansion", "arguments": model})
    modules = [name for name in drivers if name in MODULES]
    tried = [_opening(name) for name in modules]
    version, answers = _asked(argv, [*commands, *tried])
    replies = [one.get("return") for one in answers[: len(commands)]]
    names = {str(one["name"]) for one in _list(replies[0])}
    enums = [_words(one.get("values")) for one in _list(replies[3])]
    lacks = [name for name in types if not {name, f"{name}-pci"} & names]
    lacks += _lacking(enums, "qcow2", "block driver", drivers)
    absent = [n for k, n in enumerate(modules, len(commands)) if _is_unknown_driver(answers[k])]
    lacks += [what for n in absent if (what := f"block driver {n}") not in lacks]
    lacks += _lacking(enums, "auto-converge", "migration capability", capabilities)
    machines = _list(replies[1])
    ours = [one for one in machines if machine in (one["name"], one.get("alias"))]
    canonical = str(ours[0]["name"]) if ours else ""
    wanted = cpu or (str(ours[0].get("default-cpu-type", "")) if ours else "")
    cpus = [one for one in _list(replies[2]) if wanted in (one["name"], one.get("typename"))]
    return {
        "version": version,
        "lacks": lacks,
        "machine": canonical,
        "has_cpu": bool(cpus),
        "unavailable": sorted(_words(cpus[0].get("unavailable-features")))
        if cpus and runs_kvm
        else [],
        "cpu_digest": _cpu_digest(replies[4]) if len(replies) > 4 else "",  # noqa: PLR2004
    }


def _without_machine(binary: str) -> List[str]:
    argv = [binary, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    return [*argv, "-S", "-qmp", "stdio"]


def block_schema(*, binary: str) -> List[Dict[str, object]]:
    """The part of the QMP schema of a QEMU that is about blockdev-add.

    Args:
        binary: The QEMU binary.
    """
    _, (answer,) = _asked(_without_machine(binary), [{"execute": "query-qmp-schema"}])
    return _part(_list(answer.get("return")), "blockdev-add")


# The block drivers that may be modules, which QEMU's schema has also where they are not installed;
# with the options that the schema requires.
MODULES: Dict[str, Value] = {
    "http": {"url": "http://127.0.0.1/"},
    "https": {"url": "https://127.0.0.1/"},
    "iscsi": {"transport": "tcp", "portal": "127.0.0.1", "target": "none"},
    "nfs": {"server": {"type": "inet", "host": "127.0.0.1"}, "path": "/none"},
    "rbd": {"pool": "none", "image": "none"},
}


def _opening(driver: str) -> Value:
    """A command that has QEMU load a block driver, and refuse to open anything for its name."""
    return {
        "execute": "blockdev-add",
        "arguments": {"driver": driver, "node-name": "0", **MODULES[driver]},
    }


def _is_unknown_driver(answer: Value) -> bool:
    """Whether QEMU refused a command because it could not load a block driver."""
    error = answer.get("error")
    return isinstance(error, dict) and "Unknown driver" in str(error.get("desc"))


# The keys by which an entry of a QMP schema refers to a type.
_REFERRING = ("arg-type", "ret-type", "type", "element-type")


def _part(entries: Sequence[Dict[str, object]], first: str) -> List[Dict[str, object]]:
    """The entry of a name in QEMU's schema, and all entries that it refers to."""
    by_name = {entry["name"]: entry for entry in entries}
    wanted, found = [first], {}
    while wanted:
        name = wanted.pop()
        if name in by_name and name not in found:
            found[name] = by_name[name]
            wanted += _referred(by_name[name])
    return list(found.values())


def _referred(value: object) -> Iterator[str]:
    """The names of the types that a part of a schema refers to."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _REFERRING and isinstance(item, str):
                yield item
            else:
                yield from _referred(item)
    elif isinstance(value, list):
        for item in value:
            yield from _referred(item)


def _words(value: object) -> Set[str]:
    return set(value) if isinstance(value, list) else set()


def _list(reply: object) -> List[Dict[str, object]]:
    return reply if isinstance(reply, list) else []


def _lacking(enums: Iterable[Set[str]], member: str, what: str, wanted: Sequence[str]) -> List[str]:
    """Find the wanted names that an enumeration of QEMU's schema lacks.

    Args:
        enums: All enumerations of the schema.
        member: A name that only the right enumeration has.
        what: What the names are, for the result.
        wanted: The names.
    """
    known: Set[str] = set().union(*(values for values in enums if member in values))
    return [f"{what} {name}" for name in wanted if name not in known]


def _cpu_digest(reply: object) -> str:
    props = reply["model"]["props"] if isinstance(reply, dict) else None
    text = json.dumps(props, sort_keys=True)
    return "" if props is None else hashlib.sha256(text.encode()).hexdigest()


def _asked(argv: Sequence[str], commands: Sequence[Value]) -> Tuple[str, List[Value]]:
    """Run a QEMU, send it commands, and return its version and its answers.

    An answer has the member `return`, or `error` if QEMU refused the command.
    """
    words = [{"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}]
    done = subprocess.run(
        argv,
        input="".join(json.dumps(word) + "\n" for word in words),
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_S,
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    answers = [one for one in told if "return" in one or "error" in one]
    if len(answers) < len(commands) + 1:
        raise OSError(done.stderr.strip() or f"{argv[0]} answers no question")
    found = told[0]["QMP"]["version"]["qemu"]
    version = f"{found['major']}.{found['minor']}.{found['micro']}"
    return version, answers[1 : len(commands) + 1]


def firmware(*, binary: str, names: Sequence[str]) -> List[Value]:
    """Describe the firmware files, as this QEMU finds them in its data folders.

    Args:
        binary: The QEMU binary.
        names: The files' names, or absolute paths.

    Returns:
        One object for each name, with the name as `path`. It holds the file's mode, size and
        digest, or says `why` the file could not be found or read.
    """
    done = subprocess.run(
        [binary, "-L", "help"], capture_output=True, text=True, check=False, timeout=PROGRAM_S
    )
    places = done.stdout.split("\n") if done.returncode == 0 else []
    found: List[Value] = []
    for name in names:
        paths = [name] if name.startswith("/") else [os.path.join(at, name) for at in places if at]
        path = next((path for path in paths if os.path.exists(path)), "")
        found.append({**_file(path), "path": name} if path else {"path": name, "why": "not found"})
    return found


# -- the network ---------------------------------------------------------------------------------


def names(*, asked: Sequence[str]) -> List[Value]:
    """Resolve names and addresses, and find out which are this host's own.

    Args:
        asked: The names and addresses.

    Returns:
        An entry for each, with the fields of `pycolo.facts.NameFacts`.
    """
    return [_name(name) for name in asked]


def _name(name: str) -> Value:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return {"name": name, "addresses": [], "is_own": False}
    is_own = False
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.bind((place[0], 0, *place[2:]))
                is_own = True
        except OSError:
            continue
    addresses = sorted({str(place[0]) for *_, place in found})
    return {"name": name, "addresses": addresses, "is_own": is_own}


def ports(*, address: str, numbers: Sequence[int]) -> List[Value]:
    """Find the ports that are in use here, and the processes that listen on them.

    Args:
        address: The address that QEMU will listen on.
        numbers: The TCP ports.

    Returns:
        For each port that is in use, its `port` and its `holders`, as far as this user may see
        them; empty if the address is not known here.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    used = [port for port in numbers if any(_is_used(way[0], way[4], port) for way in found)]
    ours = {str(way[4][0]) for way in found} | {"0.0.0.0", "::"}  # noqa: S104 - looked for
    return [{"port": port, "holders": _listeners(ours, port)} for port in used]


def _is_used(family: int, place: Tuple[object, ...], port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            # QEMU sets this too: connections in TIME_WAIT do not keep the port in use.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((place[0], port, *place[2:]))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _listeners(addresses: Set[str], port: int) -> List[str]:
    """The processes that listen on a port of these addresses, as far as this user can see."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in _text(f"/proc/net/{table}").splitlines()[1:]:
            words = line.split()
            at, _, number = words[1].partition(":")
            if words[3] == LISTENING and int(number, 16) == port and _shown(at) in addresses:
                inodes.add(int(words[9]))
    if not inodes:
        return []
    holders = _having(lambda found: stat.S_ISSOCK(found.st_mode) and found.st_ino in inodes)
    return [_process(pid) for pid in holders][:HOLDERS_MAX]


def _shown(words: str) -> str:
    """The usual text of an address that the kernel lists as hexadecimal words of four bytes."""
    parts = [struct.pack("=I", int(words[n : n + 8], 16)) for n in range(0, len(words), 8)]
    family = socket.AF_INET if len(parts) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(parts))


def reach(*, peers: Mapping[str, Mapping[str, object]], limit_s: float) -> List[Value]:
    """Find out how the peers' ports answer, and how large a packet reaches each peer.

    Args:
        peers: The name of each peer, with its `address` and `ports`.
        limit_s: How long the answers of one peer may take, in seconds.

    Returns:
        An entry for each peer, with the fields of `pycolo.facts.WayFacts`.
    """
    found: List[Value] = []
    for name, peer in peers.items():
        address, numbers = str(peer["address"]), peer["ports"]
        assert isinstance(numbers, list)  # noqa: S101 - as it is sent
        answers = _answers(address, numbers, limit_s)
        path = _path(address, numbers[0]) if "refused" in answers.values() else {}
        told = [{"port": port, "answer": answer} for port, answer in answers.items()]
        found.append({"node": name, "ports": told, **path})
    return found


def _answers(address: str, numbers: Sequence[int], limit_s: float) -> Dict[int, str]:
    """Find out how each port of a host answers.

    If a name has several addresses, the best answer counts, since QEMU tries each of them.

    Args:
        address: The host's address or name.
        numbers: The TCP ports.
        limit_s: How long the answers may take, in seconds.

    Returns:
        Port to `open`, `refused`, `silent`, or the text of another error; empty if the name does
        not resolve.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return {}
    answers: Dict[int, List[str]] = {port: [] for port in numbers}
    with contextlib.ExitStack() as held, selectors.DefaultSelector() as selector:
        for port in numbers:
            for family, _, _, _, place in found:
                tried = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
                tried.settimeout(0)
                number = tried.connect_ex((place[0], port, *place[2:]))
                if number == errno.EINPROGRESS:
                    selector.register(tried, selectors.EVENT_WRITE, (port, tried))
                else:
                    answers[port].append(_answer(number))
        end = time.monotonic() + limit_s
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                break
            for key, _ in ready:
                selector.unregister(key.fileobj)
                port, tried = key.data
                answers[port].append(_answer(tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
    return {port: _best(found) for port, found in answers.items()}


def _best(answers: Sequence[str]) -> str:
    known = [answer for answer in ("open", "refused") if answer in answers]
    return (known or [*answers, "silent"])[0]


def _answer(number: int) -> str:
    if number == 0:
        return "open"
    return "refused" if number == errno.ECONNREFUSED else os.strerror(number)


def _path(address: str, port: int) -> Value:
    """Find the MTU of the path to a host, and whether a packet of that size gets there.

    A closed UDP port refuses each datagram that reaches it. If no datagram of the MTU's size is
    refused but a small one is, something on the path drops large packets without saying so.

    Args:
        address: The host's address or name.
        port: A UDP port, which should be closed.

    Returns:
        `mtu_bytes`; `is_carried`, None if not even a small datagram was answered.
    """
    family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    is_v6 = family == socket.AF_INET6
    headers = IPV6_HEADERS_BYTES if is_v6 else IPV4_HEADERS_BYTES
    level = socket.IPPROTO_IPV6 if is_v6 else socket.IPPROTO_IP
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0)
        sock.setsockopt(level, IPV6_MTU_DISCOVER if is_v6 else IP_MTU_DISCOVER, PMTUDISC_DO)
        sock.connect(place)
        mtu = IPV6_MTU if is_v6 else IP_MTU
        for _ in range(ATTEMPTS):
            mtu_bytes = sock.getsockopt(level, mtu)
            is_carried = _is_answered(sock, min(mtu_bytes - headers, UDP_MAX_BYTES))
            if sock.getsockopt(level, mtu) == mtu_bytes:
                break
        if not is_carried and not _is_answered(sock, SMALL_BYTES):
            return {"mtu_bytes": mtu_bytes, "is_carried": None}
    return {"mtu_bytes": mtu_bytes, "is_carried": is_carried}


def _is_answered(sock: socket.socket, size_bytes: int) -> bool:
    try:
        sock.send(bytes(size_bytes))
        select.select([sock], [], [], DATAGRAM_S)
        sock.recv(1)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    # A program listens on that UDP port and has answered.
    return True


def interfaces(*, names: Sequence[str], needs_tun: bool) -> Value:
    """Describe taps and bridges, and say why no tap can be used at all.

    Args:
        names: The names of the interfaces.
        needs_tun: Whether to check /dev/net/tun.

    Returns:
        The fields of `pycolo.facts.InterfaceFacts`.
    """
    why = ""
    if needs_tun:
        try:
            os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            why = f"/dev/net/tun: {error.strerror}"
    return {"tun_why": why, "known": [_interface(name) for name in names]}


def _interface(name: str) -> Value:
    place = f"/sys/class/net/{name}"
    if not os.path.isdir(place):
        return {"name": name, "kind": ""}
    flags = _text(f"{place}/tun_flags")
    is_tap = bool(flags) and bool(int(flags, 16) & TUN_TAP)
    is_bridge = os.path.isdir(f"{place}/bridge")
    master = os.path.basename(os.path.realpath(f"{place}/master"))
    bridge = master if os.path.isdir(f"{place}/brport") else ""
    owner = _text(f"{place}/owner")
    filtering = _text(f"/sys/class/net/{bridge or name}/bridge/vlan_filtering")
    return {
        "name": name,
        "kind": "tap" if is_tap else "bridge" if is_bridge else "other",
        "is_up": bool(int(_text(f"{place}/flags") or "0", 16) & IFF_UP),
        "owner_id": int(owner) if owner.lstrip("-").isdigit() else -1,
        "bridge": bridge,
        "is_attached": is_tap and _text(f"{place}/carrier") == "1",
        "has_vlans": filtering == "1",
    }


# -- TLS -----------------------------------------------------------------------------------------


def tls(*, folder: str, address: str) -> Value | None:
    """Try a node's server and client certificates on each other, in memory.

    Args:
        folder: The folder with the certificates and keys.
        address: The name or address by which the peer reaches this node.

    Returns:
        `why`: why they do not work; empty if they do. Then also the authority's digest, when each
            certificate expires, and the client's name. None if a file is missing.
    """
    authority = os.path.join(folder, "ca-cert.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    for end, context in (("server", server), ("client", client)):
        cert, key = (os.path.join(folder, f"{end}-{what}.pem") for what in ("cert", "key"))
        try:
            context.load_verify_locations(authority)
            context.load_cert_chain(cert, key, password=lambda: "")
        except FileNotFoundError:
            # The part `files` names each file that is missing.
            return None
        except ssl.SSLError as error:
            return {"why": f"{cert} does not go with {key}: {error.reason or error}"}
    why, seen = _handshake(server, client, address)
    if why:
        return {"why": why}
    return {
        "why": "",
        "authority_digest": hashlib.sha256(Path(authority).read_bytes()).hexdigest(),
        "server_ends_s": ssl.cert_time_to_seconds(str(seen["server"]["notAfter"])),
        "client_ends_s": ssl.cert_time_to_seconds(str(seen["client"]["notAfter"])),
        "client_name": _distinguished(seen["client"].get("subject")),
    }


def _handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, address: str
) -> Tuple[str, Dict[str, Value]]:
    """Make a TLS handshake in memory.

    Args:
        server: The server's certificate.
        client: The client's certificate.
        address: The name that the server's certificate must have.

    Returns:
        Why the handshake failed, empty if it did not; and the certificates of both ends.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepts = server.wrap_bio(up, down, server_side=True)
    dials = client.wrap_bio(down, up, server_hostname=address)
    ends = [("server", dials), ("client", accepts)]
    left = [dials, accepts]
    for _ in range(HANDSHAKE_ROUNDS):
        for whose, end in ends:
            if end not in left:
                continue
            try:
                end.do_handshake()
                left.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return f"the certificate of the {whose}: {error.verify_message}", {}
            except ssl.SSLError as error:
                return f"no handshake with the {whose}'s certificate: {error.reason}", {}
    if left:
        return "no handshake came to its end", {}
    return "", {whose: dict(end.getpeercert() or {}) for whose, end in ends}


def _distinguished(subject: object) -> str:
    """A certificate's distinguished name; empty if an attribute has no short name here."""
    parts = [pair for group in subject for pair in group] if isinstance(subject, tuple) else []
    if not all(name in SHORT_NAMES for name, _ in parts):
        return ""
    return ",".join(f"{SHORT_NAMES[name]}={_escaped(value)}" for name, value in parts)


def _escaped(value: str) -> str:
    return re.sub(r'([,+"\\<>;])', r"\\\1", value)


def psk(*, path: str, username: str, salt: str) -> Value | None:
    """Make a digest that tells a shared key from other keys.

    Args:
        path: The file with the keys.
        username: The name of the key.
        salt: A text that is mixed in, so that digests of several pairs cannot be compared.

    Returns:
        `digest`; empty if the file has no such key. None if there is no file, which the part
        `files` reports.
    """
    try:
        with open(path, "rb") as stream:
            lines = stream.read(CHUNK_BYTES).splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        name, _, key = line.partition(b":")
        if name.decode(errors="replace") == username and key.strip():
            mixed = salt.encode() + b":" + key.strip().lower()
            return {"digest": hashlib.sha256(mixed).hexdigest()[:16]}
    return {"digest": ""}


# -- libvirt -------------------------------------------------------------------------------------


def libvirt(*, uri: str, virsh: str) -> Value:
    """Ask libvirt as whom it runs QEMU, and how it confines QEMU.

    Args:
        uri: The URI of libvirt.
        virsh: The `virsh` program.

    Returns:
        `why` libvirt does not answer, empty if it does; then also `user_id`, None if it is that of
        the daemon, and `confinement`, the names of the security models by which libvirt confines
        QEMU, such as `selinux` or `apparmor`.

    Raises:
        OSError: `virsh` cannot be run; a program that is missing is given as `why`.
        subprocess.TimeoutExpired: `virsh` did not end within 15 s, and was killed.
    """
    asked = [virsh, "--quiet", "--connect", uri, "capabilities"]
    # Its answers, such as why it refuses, are not to be translated.
    spoken = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            asked,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROGRAM_S,
            env=spoken,
        )
    except FileNotFoundError:
        return {"why": f"there is no program {virsh}"}
    if done.returncode != 0:
        return {"why": done.stderr.strip() or f"virsh ended with {done.returncode}"}
    # libvirt wrote it, which runs as root.
    models = ET.fromstring(done.stdout).findall("host/secmodel")  # noqa: S314 - see above
    names = [model.findtext("model", "") for model in models]
    users = [
        int(found[1])
        for model in models
        if model.findtext("model") == "dac"
        for label in model.findall("baselabel")
        # A label is `+USER:+GROUP`; each kind of domain has one, and they are equal.
        if (found := re.match(r"\+(\d+):", label.text or "")) is not None
    ]
    return {
        "why": "",
        "user_id": users[0] if users else None,
        "confinement": [name for name in names if name not in ("dac", "none")],
    }


# -- connections through ssh
# --------------------------------------------------------------------------------


def forwarding(*, is_unix: bool, limit_s: float) -> Value:
    """Begin to listen for one connection, as a monitor does, and return at once.

    A thread accepts the connection and closes it without a greeting. After that, or after the
    limit, the socket and its folder are removed.

    Args:
        is_unix: Whether to listen on a Unix socket in a new folder, or else on a free port of
            127.0.0.1.
        limit_s: How long the thread waits for the connection, in seconds.

    Returns:
        `path` of the socket and `port` 0; or the `port` and an empty `path`.
    """
    folder = tempfile.mkdtemp(prefix="pycolo-") if is_unix else ""
    path = os.path.join(folder, "monitor") if is_unix else ""
    server = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
    server.settimeout(limit_s)

    def serve() -> None:
        try:
            server.accept()[0].close()
        except OSError:
            # No connection came, which the other side finds out by itself.
            pass
        finally:
            _end(server, folder)

    try:
        server.bind(path if is_unix else ("127.0.0.1", 0))
        server.listen()
        port = 0 if is_unix else server.getsockname()[1]
        threading.Thread(target=serve).start()
    except BaseException:
        _end(server, folder)
        raise
    return {"path": path, "port": port}


def _end(server: socket.socket, folder: str) -> None:
    server.close()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


PARTS: Dict[str, Callable[..., object]] = {
    "system": system,
    "memory": memory,
    "kvm": kvm,
    "programs": programs,
    "folders": folders,
    "files": files,
    "images": images,
    "overlays": images,
    "qemu": qemu,
    "block_schema": block_schema,
    "firmware": firmware,
    "names": names,
    "ports": ports,
    "reach": reach,
    "interfaces": interfaces,
    "tls": tls,
    "psk": psk,
    "libvirt": libvirt,
    "forwarding": forwarding,
}
