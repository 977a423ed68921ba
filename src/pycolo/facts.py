"""What a preflight has read of a node's host: values, one for each part.

A part that was not asked for, or could not be read, is None; `HostFacts.unread` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, final

import attrs

from pycolo._mapping import read_only_mappings

Part: TypeAlias = Literal[
    "system",
    "memory",
    "kvm",
    "programs",
    "folders",
    "files",
    "images",
    "qemu",
    "firmware",
    "names",
    "ports",
    "reach",
    "interfaces",
    "tls",
    "psk",
    "launch",
    "forwarding",
]
"What can be read of a host, each for itself."


@final
@attrs.frozen(kw_only=True)
class SystemFacts:
    """The host itself, and what the processes of its user may do."""

    user_id: int
    "The user who starts QEMU there."
    machine_id: str
    "From /etc/machine-id; empty where there is none."
    boot_id: str
    "Which boot of which machine it is."
    kernel: str
    "The kernel's release."
    open_files: int
    "How many files a process may have open."
    locked_bytes: int | None
    "How much memory a process may lock; None for as much as there is."
    confinement: str
    "What a security module holds its processes to; empty for nothing."
    kills_user_processes: bool
    "Whether logind ends the user's processes with the last session."


@final
@attrs.frozen(kw_only=True)
class ClockFacts:
    """How far the host's clock is ahead of the one of whoever asked, in seconds."""

    least_s: float
    "At least so far; negative where it is behind."
    most_s: float
    "At most so far."


@final
@attrs.frozen(kw_only=True)
class MemoryFacts:
    """The host's memory."""

    total_bytes: int
    "All of it."
    available_bytes: int
    "What a new process can get."


@final
@attrs.frozen(kw_only=True)
class KvmFacts:
    """Whether KVM can be used."""

    why: str
    "Why not; empty where it can."


@final
@attrs.frozen(kw_only=True)
class ProgramFacts:
    """The programs that the node needs."""

    missing: tuple[str, ...]
    "Those that are not found."


@final
@attrs.frozen(kw_only=True)
class FolderFacts:
    """One folder."""

    path: str
    "Its path."
    is_there: bool
    "Whether it is a folder."
    is_writable: bool = False
    "Whether the user may make files in it."
    free_bytes: int = 0
    "The space on its file system that the user can fill."
    file_system: str = ""
    "What tells its file system from the host's others."


@final
@attrs.frozen(kw_only=True)
class FileFacts:
    """One file."""

    path: str
    "Its path; of firmware its name."
    why: str = ""
    "Why it could not be read; empty where it was."
    mode: int = 0
    "Its permissions."
    size_bytes: int = 0
    "Its length."
    digest: str = ""
    "SHA-256 of what is in it; empty of a key or a secret."


@final
@attrs.frozen(kw_only=True)
class ImageFacts:
    """One image."""

    path: str
    "Its path."
    is_there: bool
    "Whether there is something of that name."
    why: str = ""
    "Why it could not be looked into; empty where it was."
    image_format: str = ""
    "Its format, as `qemu-img` finds it."
    size_bytes: int = 0
    "Its virtual size."
    is_locked: bool = False
    "Whether somebody other than the node's own QEMU has it open as QEMU does."
    holders: tuple[str, ...] = ()
    "The other processes that have it open, as far as the user may see."


@final
@attrs.frozen(kw_only=True)
class QemuFacts:
    """What a QEMU without a machine says it can do."""

    version: str
    "Its version."
    lacks: tuple[str, ...]
    "What the pair needs and it does not have."
    machine: str
    "The full name of the declared machine type; empty where it has none of that name."
    has_cpu: bool
    "Whether it knows the CPU model."
    unavailable: tuple[str, ...]
    "Features of the CPU model that this host cannot give."
    cpu_digest: str
    "What tells the features that the model `host` or `max` takes here; empty for other models."


@final
@attrs.frozen(kw_only=True)
class NameFacts:
    """What a name or an address stands for on the host."""

    name: str
    "The name."
    addresses: tuple[str, ...]
    "Its addresses; empty where it does not resolve."
    is_own: bool
    "Whether one of them is the host's own."


@final
@attrs.frozen(kw_only=True)
class UsedPort:
    """A TCP port that is in use on the host."""

    port: int
    "The port."
    holders: tuple[str, ...]
    "Who listens on it, as far as the user may see."


@final
@attrs.frozen(kw_only=True)
class PortAnswer:
    """How a peer's port answers the host."""

    port: int
    "The port."
    answer: str
    "`open`, `refused`, `silent`, or the system's words for another reason."


@final
@attrs.frozen(kw_only=True)
class WayFacts:
    """The way from the host to a peer."""

    node: str
    "The peer."
    ports: tuple[PortAnswer, ...]
    "How its ports answer."
    mtu_bytes: int | None = None
    "How large a packet may be on this way; None where the peer does not answer."
    is_carried: bool | None = None
    "Whether a packet of that size gets there; None where no datagram is answered."


@final
@attrs.frozen(kw_only=True)
class Interface:
    """A tap or a bridge."""

    name: str
    "Its name."
    kind: Literal["tap", "bridge", "other", ""]
    "What it is; empty where there is none of that name."
    is_up: bool = False
    "Whether it is up."
    owner_id: int = -1
    "The user who may use a tap; -1 for everybody."
    bridge: str = ""
    "The bridge that it is in; empty for none."
    is_attached: bool = False
    "Whether a process has the tap."
    has_vlans: bool = False
    "Whether the bridge tells VLANs apart."


@final
@attrs.frozen(kw_only=True)
class InterfaceFacts:
    """The taps and bridges that the pair names."""

    tun_why: str
    "Why no tap can be used at all; empty where one can, and where none is declared."
    known: tuple[Interface, ...]
    "One for each name."


@final
@attrs.frozen(kw_only=True)
class TlsFacts:
    """A node's certificates, tried on each other."""

    why: str
    "Why they refuse each other; empty where they do not."
    authority_digest: str = ""
    "SHA-256 of the authority's certificate."
    server_ends_s: float = 0.0
    "When the server's certificate expires, in seconds since 1970."
    client_ends_s: float = 0.0
    "When the client's does."
    client_name: str = ""
    "The client's distinguished name, in its own order; empty where it cannot be written down."


@final
@attrs.frozen(kw_only=True)
class PskFacts:
    """A node's shared key."""

    digest: str
    "What tells it from other keys, in this preflight alone; empty where there is none."


@final
@attrs.frozen(kw_only=True)
class LaunchFacts:
    """What a launch finds first."""

    running: str
    "How it is known that a QEMU of the node runs, or is not gone yet; empty for none."
    state_why: str
    "Why a launch would refuse the state folder; empty where it would not."
    run_why: str
    "The same for the run directory."


@final
@attrs.frozen(kw_only=True)
class ForwardingFacts:
    """Whether the way to the host carries monitors."""

    why: str
    "Why it does not; empty where it does."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class HostFacts:
    """What was read of a node's host."""

    unread: Mapping[str, str] = attrs.field(factory=dict)
    "Each part that could not be read, and why."
    system: SystemFacts | None = None
    "See `SystemFacts`."
    clock: ClockFacts | None = None
    "See `ClockFacts`; read with every other part."
    memory: MemoryFacts | None = None
    "See `MemoryFacts`."
    kvm: KvmFacts | None = None
    "See `KvmFacts`."
    programs: ProgramFacts | None = None
    "See `ProgramFacts`."
    folders: tuple[FolderFacts, ...] | None = None
    "The folders of images, overlays and state."
    files: tuple[FileFacts, ...] | None = None
    "Credentials, secrets, kernel and initrd."
    images: tuple[ImageFacts, ...] | None = None
    "The images themselves, without the overlays."
    qemu: QemuFacts | None = None
    "See `QemuFacts`."
    firmware: tuple[FileFacts, ...] | None = None
    "What QEMU puts into the guest's memory."
    names: tuple[NameFacts, ...] | None = None
    "The addresses of all nodes."
    ports: tuple[UsedPort, ...] | None = None
    "The pair's ports that are in use."
    reach: tuple[WayFacts, ...] | None = None
    "The ways to the other nodes."
    interfaces: InterfaceFacts | None = None
    "See `InterfaceFacts`."
    tls: TlsFacts | None = None
    "See `TlsFacts`."
    psk: PskFacts | None = None
    "See `PskFacts`."
    launch: LaunchFacts | None = None
    "See `LaunchFacts`."
    forwarding: ForwardingFacts | None = None
    "See `ForwardingFacts`; None of the host on which the preflight runs."

    @property
    def running(self) -> bool:
        """Whether a QEMU of the node is known to run there, or to be not gone yet."""
        return self.launch is not None and bool(self.launch.running)


@final
@attrs.frozen(kw_only=True)
class NoFacts:
    """A host that could not be asked."""

    why: str
    "Why not."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class PairFacts:
    """What was read for a preflight of a pair."""

    hosts: Mapping[str, HostFacts | NoFacts]
    "Node name to what was read of its host."
    now_s: float
    "When, in seconds since 1970."
    no_fences: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    "Node name to what its fences lack on the machine on which the preflight runs."
    untried: str = ""
    "Why the ways between the hosts were not tried; empty where they were, or were not asked for."
    boots: frozenset[str] | None = None
    "The nodes that are about to be launched with the guest; None where nothing is."

    @property
    def read(self) -> Mapping[str, HostFacts]:
        """Node name to what was read, of the hosts that could be asked."""
        return {name: one for name, one in self.hosts.items() if isinstance(one, HostFacts)}
