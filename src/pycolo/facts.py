"""The facts that a preflight has read about a node's host, one value for each part.

A part that was not requested, or could not be read, is None. `HostFacts.unread` says why a part
could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, final

import attrs

from pycolo._json import JsonValue
from pycolo._mapping import read_only_mappings

Part: TypeAlias = Literal[
    "system",
    "memory",
    "kvm",
    "programs",
    "folders",
    "files",
    "images",
    "overlays",
    "qemu",
    "devices",
    "block_schema",
    "firmware",
    "names",
    "ports",
    "reach",
    "interfaces",
    "tls",
    "psk",
    "launch",
    "libvirt",
    "forwarding",
]
"The parts of the facts about a host; each can be read alone."


@final
@attrs.frozen(kw_only=True)
class SystemFacts:
    """The host itself, and the limits of its user's processes."""

    user_id: int
    "The user who starts QEMU there."
    machine_id: str
    "The content of /etc/machine-id; empty if there is none."
    boot_id: str
    "An identity that no other boot of any machine has."
    kernel: str
    "The kernel's release."
    open_files: int
    "How many files a process may have open."
    locked_bytes: int | None
    "How much memory a process may lock; None for no limit."
    confinement: str
    "A clause about the security module that restricts processes there; empty if there is none."
    kills_user_processes: bool
    "Whether logind ends the user's processes when the user's last session ends."
    send_buffer_bytes: int | None = None
    "How much a TCP connection may hold to be sent; None if the host does not say."


@final
@attrs.frozen(kw_only=True)
class ClockFacts:
    """How far the host's clock is ahead of the clock of the preflight's machine."""

    least_s: float
    "The least possible difference, in seconds; negative if the host's clock may be behind."
    most_s: float
    "The greatest possible difference, in seconds."


@final
@attrs.frozen(kw_only=True)
class MemoryFacts:
    """The host's memory."""

    total_bytes: int
    "The whole memory."
    available_bytes: int
    "The memory that a new process can get."
    huge_bytes: int | None = None
    "The memory in free huge pages, if the guest's RAM is taken from such pages; None if not."


@final
@attrs.frozen(kw_only=True)
class KvmFacts:
    """Whether KVM can be used."""

    why: str
    "Why KVM cannot be used; empty if it can."


@final
@attrs.frozen(kw_only=True)
class ProgramFacts:
    """The programs that the node needs."""

    missing: tuple[str, ...]
    "The programs that were not found."


@final
@attrs.frozen(kw_only=True)
class FolderFacts:
    """A folder of the node on its host."""

    path: str
    "The folder's path."
    is_there: bool
    "Whether the path is a folder."
    is_writable: bool = False
    "Whether the user may create files in it."
    free_bytes: int = 0
    "The free space of its file system that the user may use."
    file_system: str = ""
    "An identity of its file system that no other file system of the host has."


@final
@attrs.frozen(kw_only=True)
class FileFacts:
    """A file that the node's QEMU uses."""

    path: str
    "The file's path; for firmware, its name."
    why: str = ""
    "Why the file could not be read; empty if it was read."
    is_folder_there: bool = True
    "Whether the folder of the path exists."
    mode: int = 0
    "The file's permissions."
    size_bytes: int = 0
    "The file's length."
    digest: str = ""
    "SHA-256 of the file's content; empty for a key or a secret."


@final
@attrs.frozen(kw_only=True)
class ImageFacts:
    """An image or an overlay of a disk on the node's host."""

    path: str
    "The image's path."
    is_there: bool
    "Whether the path exists."
    why: str = ""
    "Why the image could not be read; empty if it was read."
    image_format: str = ""
    "The image's format, as `qemu-img` reports it."
    size_bytes: int = 0
    "The image's virtual size."
    is_encrypted: bool = False
    "Whether the image is encrypted."
    backing: str = ""
    "The backing image that its header names, as a path or URL; empty if it names none."
    is_locked: bool = False
    "Whether a process other than the node's own QEMU holds QEMU's lock on the image."
    holders: tuple[str, ...] = ()
    "The other processes that have the image open, as far as the user may see them."


@final
@attrs.frozen(kw_only=True)
class QemuFacts:
    """What the host's QEMU has of what this pair needs, as a QEMU without a machine reports it."""

    version: str
    "The version of QEMU."
    lacks: tuple[str, ...]
    "The parts that the pair needs and this QEMU does not have."
    machine: str
    "The full name of the declared machine type; empty if QEMU does not have that type."
    has_cpu: bool
    "Whether QEMU has the declared CPU model."
    unavailable: tuple[str, ...]
    "Features of the CPU model that this host cannot provide."
    cpu_digest: str
    "A digest of the features that the model `host` or `max` has here; empty for other models."


@final
@attrs.frozen(kw_only=True)
class DeviceFacts:
    """What the host's QEMU accepts of the guest's devices, as a QEMU without a guest lists them."""

    refused: tuple[str, ...]
    "Devices and properties that QEMU does not accept, each as a main clause."
    note: str
    "From which device on QEMU gave no answer, as a clause; empty if it answered about all."


@final
@attrs.frozen(kw_only=True)
class NameFacts:
    """The addresses that a name resolves to on the host."""

    name: str
    "The name, or an address."
    addresses: tuple[str, ...]
    "The addresses of the name; empty if the name does not resolve."
    is_own: bool
    "Whether one of the addresses is the host's own."


@final
@attrs.frozen(kw_only=True)
class UsedPort:
    """A TCP port that is in use on the host."""

    port: int
    "The port."
    holders: tuple[str, ...]
    "The processes that listen on the port, as far as the user may see them."


@final
@attrs.frozen(kw_only=True)
class PortAnswer:
    """How a port of a peer answers a connection from the host."""

    port: int
    "The port."
    answer: str
    "`open`, `refused`, `silent`, or the operating system's text of another error."


@final
@attrs.frozen(kw_only=True)
class WayFacts:
    """The network path from the host to a peer."""

    node: str
    "The peer."
    ports: tuple[PortAnswer, ...]
    "How the peer's ports answer."
    mtu_bytes: int | None = None
    "The greatest size of a packet on this path; None if the peer does not answer."
    is_carried: bool | None = None
    "Whether a packet of that size reaches the peer; None if the peer answers no datagram."


@final
@attrs.frozen(kw_only=True)
class Interface:
    """A network interface that the pair names as a tap or a bridge."""

    name: str
    "The interface's name."
    kind: Literal["tap", "bridge", "other", ""]
    "The interface's kind; empty if there is no interface of that name."
    is_up: bool = False
    "Whether the interface is up."
    owner_id: int = -1
    "The numeric id of the user who may use the tap; -1 if every user may."
    bridge: str = ""
    "The bridge that the interface is in; empty if it is in none."
    is_attached: bool = False
    "Whether a process uses the tap."
    has_vlans: bool = False
    "Whether the bridge filters VLANs."


@final
@attrs.frozen(kw_only=True)
class InterfaceFacts:
    """The taps and bridges that the declaration names."""

    tun_why: str
    "Why no tap can be used at all; empty if taps can be used, or if no tap is declared."
    known: tuple[Interface, ...]
    "One for each name in the declaration."


@final
@attrs.frozen(kw_only=True)
class TlsFacts:
    """A node's certificates, and whether a TLS handshake between them succeeds."""

    why: str
    "Why the node's client and server certificate refuse each other; empty if they do not."
    authority_digest: str = ""
    "SHA-256 of the authority's certificate."
    server_ends_s: float = 0.0
    "When the server's certificate expires, in seconds since 1970."
    client_ends_s: float = 0.0
    "When the client's certificate expires, in seconds since 1970."
    client_name: str = ""
    "The client's distinguished name, in the certificate's order; empty if it has no text form."


@final
@attrs.frozen(kw_only=True)
class PskFacts:
    """A node's pre-shared key."""

    digest: str
    "A digest to compare keys within this preflight alone; empty if there is no key."


@final
@attrs.frozen(kw_only=True)
class LaunchFacts:
    """The checks that a launch begins with."""

    running: str
    """How it is known that a QEMU of the node runs or is still ending; empty if none was found.

    If the host's user may not find that out, the reason.
    """
    state_why: str
    "Why a launch would refuse the state folder; empty if it would not."
    run_why: str
    "Why a launch would refuse the run directory; empty if it would not."


@final
@attrs.frozen(kw_only=True)
class LibvirtFacts:
    """What the libvirt that starts a node's QEMU says of itself."""

    why: str
    "Why libvirt does not answer; empty if it does."
    user_id: int | None = None
    "The user as whom libvirt runs each QEMU; None if that is the user of libvirt's daemon."
    confinement: tuple[str, ...] = ()
    "The security modules with which libvirt confines each QEMU, such as `apparmor`."


@final
@attrs.frozen(kw_only=True)
class ForwardingFacts:
    """Whether the SSH connection to the host forwards to monitors: it does if `why` is empty."""

    why: str
    "Why it does not; empty if it does."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class HostFacts:
    """The facts that were read about a node's host."""

    unread: Mapping[str, str] = attrs.field(factory=dict)
    "A part that could not be read to the reason."
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
    "Credentials, secrets, firmware, kernel, initrd and the images of CD-ROM drives."
    images: tuple[ImageFacts, ...] | None = None
    "The guest's images, without the overlays."
    overlays: tuple[ImageFacts, ...] | None = None
    "The overlays of a secondary, which a launch makes where there are none."
    qemu: QemuFacts | None = None
    "See `QemuFacts`."
    devices: DeviceFacts | None = None
    "See `DeviceFacts`; read if the declaration has devices or properties of its own."
    block_schema: JsonValue = None
    "The part of QEMU's QMP schema about blockdev-add; read if an image has options."
    firmware: tuple[FileFacts, ...] | None = None
    "The firmware files that QEMU loads into the guest's memory."
    names: tuple[NameFacts, ...] | None = None
    "The addresses of all nodes."
    ports: tuple[UsedPort, ...] | None = None
    "The pair's ports that are in use."
    reach: tuple[WayFacts, ...] | None = None
    "The network paths to the other nodes."
    interfaces: InterfaceFacts | None = None
    "See `InterfaceFacts`."
    tls: TlsFacts | None = None
    "See `TlsFacts`."
    psk: PskFacts | None = None
    "See `PskFacts`."
    launch: LaunchFacts | None = None
    "See `LaunchFacts`."
    libvirt: LibvirtFacts | None = None
    "See `LibvirtFacts`; None for a node without libvirt."
    forwarding: ForwardingFacts | None = None
    "See `ForwardingFacts`; None for the machine on which the preflight runs."

    @property
    def running(self) -> bool:
        """Whether a QEMU of the node is known to run there, or is still ending."""
        return self.launch is not None and bool(self.launch.running)


@final
@attrs.frozen(kw_only=True)
class NoFacts:
    """A host that could not be asked."""

    why: str
    "Why the host could not be asked."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class PairFacts:
    """The facts that a preflight of a pair has read."""

    hosts: Mapping[str, HostFacts | NoFacts]
    "Node name to the facts about its host."
    now_s: float
    "The time of the preflight, in seconds since 1970."
    no_fences: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    "Node name to what its fences lack on the machine on which the preflight runs."
    untried: str = ""
    "Why the paths between the hosts were not tried; empty if they were, or were not requested."
    boots: frozenset[str] | None = None
    "The nodes that are about to be launched as primary; None if no launch is planned."

    @property
    def read(self) -> Mapping[str, HostFacts]:
        """Node name to the facts about its host, for the hosts that could be asked."""
        return {name: one for name, one in self.hosts.items() if isinstance(one, HostFacts)}
