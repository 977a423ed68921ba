"""The parts of a node's QEMU in each role, as typed values.

A chain has three forms: the primary has a mirror, two redirectors and compare; the secondary has
two redirectors and a rewriter; a promoted secondary keeps the rewriter and gets the primary's parts
before it. A disk has two forms. Command lines, QMP commands and planned states are all derived from
the values made here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, assert_never

import attrs

from pycolo.features import Features
from pycolo.model.disk import DIRECT, THROUGH, Cache, ReplicationDisk
from pycolo.model.filters import FilterChain
from pycolo.model.hardware import FIRMWARE_IDS, GuestDevice, Property
from pycolo.model.machine import Machine
from pycolo.model.memory import MemoryKind
from pycolo.model.node import Node
from pycolo.model.pair import ColoPair
from pycolo.model.remote import Iscsi, Nbd, Nfs, Rbd, Remote
from pycolo.model.storage import BackingImage
from pycolo.model.tls import AUTHZ, CLIENT, SERVER, X509, Psk, Tls
from pycolo.qmp.blockdevs import (
    BlockNode,
    CacheOptions,
    FileNode,
    HostDeviceNode,
    HttpNode,
    HttpsNode,
    IscsiNode,
    LuksEncryption,
    LuksNode,
    NbdNode,
    NfsNode,
    NfsServer,
    Qcow2Node,
    QuorumNode,
    RawNode,
    RbdNode,
    RbdServer,
    ReplicationNode,
)
from pycolo.qmp.chardevs import (
    InetSocketAddress,
    SocketAddress,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
)
from pycolo.qmp.commands import BlockdevAdd, BlockSetIoThrottle, ChardevAdd, Yank
from pycolo.qmp.objects import (
    AuthZList,
    AuthZRule,
    ColoCompare,
    FilterMirror,
    FilterRedirector,
    FilterRewriter,
    IoThread,
    MemoryBackendObject,
    MemoryBackendType,
    ProxyObject,
    Secret,
    TlsCredsPsk,
    TlsCredsX509,
    TlsObject,
    YankBlockNode,
    YankChardev,
    YankMigration,
)
from pycolo.qmp.schema import Schema

MIB = 2**20
RAM = "pc.ram"
MEMORY_TYPES: Mapping[MemoryKind, MemoryBackendType] = {
    "ram": "memory-backend-ram",
    "file": "memory-backend-file",
    "memfd": "memory-backend-memfd",
}
# Short: the guest waits until the secondary has connected. QEMU before 9.2 takes whole seconds.
RECONNECT_MS = 200
# Long enough for any network that is fit for COLO; a server that does not answer blocks the guest
# for this time.
NBD_OPEN_TIMEOUT_S = 3
OPTIONS_REMEDY = "correct options, file_options or another key of that disk"
# Before its number, the id of the chardev of a monitor that needs one; it is no part of COLO.
MONITOR_ID = "charmonitor"
VNC_SECRET = "vnc-password"  # noqa: S105 - an id


def tls_objects(tls: Tls | None, node: str) -> tuple[TlsObject, ...]:
    """A node's TLS objects: its credentials as server and as client, and whom the server admits.

    It gets both credentials since roles change (qemu-behaviour 10.1). The list of permitted clients
    is among the objects only if `X509.authz` names any.

    Args:
        tls: The declaration's TLS settings; None for no TLS.
        node: The node's name.

    Returns:
        The objects in the order in which they must be added; empty without TLS.
    """
    match tls:
        case None:
            return ()
        case X509(authz=names):
            folder = tls.folder_on(node)
            rules = tuple(AuthZRule(match=n, policy="allow", format="exact") for n in names)
            return (
                TlsCredsX509(id=SERVER, dir=folder, endpoint="server", verify_peer=True),
                TlsCredsX509(id=CLIENT, dir=folder, endpoint="client", verify_peer=True),
                *((AuthZList(id=AUTHZ, policy="deny", rules=rules),) if names else ()),
            )
        case Psk(username=username):
            folder = tls.folder_on(node)
            return (
                TlsCredsPsk(id=SERVER, dir=folder, endpoint="server"),
                TlsCredsPsk(id=CLIENT, dir=folder, endpoint="client", username=username),
            )
        case _:
            assert_never(tls)


def client_creds(tls: Tls | None) -> str | None:
    """The id of the credentials of a socket that connects; None without TLS."""
    return None if tls is None else CLIENT


def server_creds(tls: Tls | None) -> str | None:
    """The id of the credentials of a socket that listens; None without TLS."""
    return None if tls is None else SERVER


def server_authz(tls: Tls | None) -> str | None:
    """The id of the list of clients that a listener admits; None if it admits every certificate.

    It is None and not empty, since QEMU before 11 takes an empty text for an id
    (qemu-behaviour 10.9).
    """
    return AUTHZ if isinstance(tls, X509) and tls.authz else None


def migration_tls(tls: Tls | None, role: Literal["primary", "secondary"]) -> Mapping[str, str]:
    """The migration's TLS parameters of a role, by QEMU's names; unset ones are omitted.

    Returns:
        `tls-creds` for both roles, and for a secondary `tls-authz`; empty without TLS.
    """
    listens = role == "secondary"
    creds = server_creds(tls) if listens else client_creds(tls)
    named = {"tls-creds": creds, "tls-authz": server_authz(tls) if listens else None}
    return {name: value for name, value in named.items() if value is not None}


def primary_chardevs(pair: ColoPair, node: str, chain: FilterChain) -> tuple[ChardevAdd, ...]:
    """The primary's sockets of one chain, each server before its client (qemu-behaviour 3.4).

    The two sockets for the secondary listen on the node's replication address. The two connections
    of compare within QEMU are Unix sockets in the private run directory, which no other user can
    reach; they have no TLS (qemu-behaviour 10.5).
    """
    ids, ports, place = chain.names, chain.proxy_ports, pair.node(node)
    local = UnixSocketAddress(path=place.socket_path(ids.compare_local))
    out = UnixSocketAddress(path=place.socket_path(ids.compare_out))
    far = (
        ChardevAdd(
            id=chardev,
            backend=SocketServer(
                addr=InetSocketAddress(host=place.listen_address, port=port),
                wait=False,
                tls_creds=server_creds(pair.tls),
                tls_authz=server_authz(pair.tls),
            ),
        )
        for chardev, port in ((ids.mirror, ports.mirror), (ids.compare_in, ports.compare_in))
    )
    return (
        *far,
        ChardevAdd(id=ids.compare_local, backend=SocketServer(addr=local, wait=False)),
        ChardevAdd(id=ids.compare_local_client, backend=SocketClient(addr=local)),
        ChardevAdd(id=ids.compare_out, backend=SocketServer(addr=out, wait=False)),
        ChardevAdd(id=ids.compare_out_client, backend=SocketClient(addr=out)),
    )


def primary_objects(chain: FilterChain, *, promoted: bool) -> tuple[ProxyObject, ...]:
    """The primary's objects of one chain, in the order they are added (qemu-behaviour 6.1, 6.2).

    The mirror, and the redirector that intercepts the guest's packets, start switched off: the
    guest keeps its network until COLO is about to run (qemu-behaviour 6.6).

    Args:
        chain: The chain.
        promoted: Whether the node was a secondary, so that it has a rewriter, which must stay last.
    """
    ids = chain.names
    insert: Literal["before"] | None = "before" if promoted else None
    position = f"id={ids.rewriter}" if promoted else None
    vnet_hdr = chain.vnet_hdr_support or None
    return (
        FilterMirror(
            id=ids.filter_mirror,
            insert=insert,
            position=position,
            netdev=ids.netdev,
            queue="tx",
            outdev=ids.mirror,
            status="off",
            vnet_hdr_support=vnet_hdr,
        ),
        FilterRedirector(
            id=ids.redirector_out,
            insert=insert,
            position=position,
            netdev=ids.netdev,
            queue="rx",
            indev=ids.compare_out,
            vnet_hdr_support=vnet_hdr,
        ),
        FilterRedirector(
            id=ids.redirector_in,
            insert=insert,
            position=position,
            netdev=ids.netdev,
            queue="rx",
            outdev=ids.compare_local,
            status="off",
            vnet_hdr_support=vnet_hdr,
        ),
        IoThread(id=ids.iothread),
        ColoCompare(
            id=ids.compare,
            primary_in=ids.compare_local_client,
            secondary_in=ids.compare_in,
            outdev=ids.compare_out_client,
            iothread=ids.iothread,
            vnet_hdr_support=vnet_hdr,
            compare_timeout_ms=chain.compare_timeout_ms,
            expired_scan_cycle_ms=chain.expired_scan_cycle_ms,
            max_queue_size=chain.max_queue_size,
        ),
    )


def secondary_chardevs(
    pair: ColoPair, node: str, chain: FilterChain, features: Features
) -> tuple[ChardevAdd, ...]:
    """The secondary's sockets of one chain: clients of the primary that retry until they connect.

    So either side may start first (qemu-behaviour 3.3).
    """
    ids, ports, primary = chain.names, chain.proxy_ports, pair.peer_of(node)
    return tuple(
        ChardevAdd(
            id=chardev,
            backend=SocketClient(
                addr=InetSocketAddress(host=primary.address, port=port),
                reconnect_ms=RECONNECT_MS if features.reconnect_ms else None,
                reconnect_s=None if features.reconnect_ms else 1,
                tls_creds=client_creds(pair.tls),
            ),
        )
        for chardev, port in ((ids.red_in, ports.mirror), (ids.red_out, ports.compare_in))
    )


def secondary_objects(chain: FilterChain) -> tuple[ProxyObject, ...]:
    """The secondary's filters of one chain, in the order they are added (qemu-behaviour 6.1)."""
    ids = chain.names
    vnet_hdr = chain.vnet_hdr_support or None
    return (
        FilterRedirector(
            id=ids.redirector_from_primary,
            netdev=ids.netdev,
            queue="tx",
            indev=ids.red_in,
            vnet_hdr_support=vnet_hdr,
        ),
        FilterRedirector(
            id=ids.redirector_to_primary,
            netdev=ids.netdev,
            queue="rx",
            outdev=ids.red_out,
            vnet_hdr_support=vnet_hdr,
        ),
        FilterRewriter(id=ids.rewriter, netdev=ids.netdev, queue="all", vnet_hdr_support=vnet_hdr),
    )


def primary_blocks(node: Node, disk: ReplicationDisk) -> tuple[BlockNode, ...]:
    """The primary's block nodes of one disk in the order in which they are added: image, quorum.

    The quorum has the image as its only child (qemu-behaviour 5.1).
    """
    return (image(node, disk), _quorum(disk, disk.names.parent))


def secondary_blocks(node: Node, disk: ReplicationDisk) -> tuple[BlockNode, ...]:
    """The secondary's block nodes of one disk, in the order in which they are added.

    They are image, hidden, active, replication, quorum; each but the first has the one before it
    as its child or its backing node.
    """
    ids, paths = disk.names, disk.paths(node)
    return (
        image(node, disk),
        Qcow2Node(
            node_name=ids.hidden,
            encrypt=_encryption(disk.on(node.name)),
            file=FileNode(filename=paths["hidden_image"]),
            backing=ids.parent,
        ),
        Qcow2Node(
            node_name=ids.active,
            encrypt=_encryption(disk.on(node.name)),
            file=FileNode(filename=paths["active_image"]),
            backing=ids.hidden,
        ),
        ReplicationNode(
            node_name=ids.replication, mode="secondary", top_id=ids.quorum, file=ids.active
        ),
        _quorum(disk, ids.replication),
    )


def image(node: Node, disk: ReplicationDisk) -> Qcow2Node | RawNode | LuksNode:
    """The block node of a disk's image on a node of the pair."""
    here, name, secret = disk.on(node.name), disk.names.parent, disk.names.secret
    file = _local(node, here) if here.remote is None else _remote(here, here.remote)
    layer: Qcow2Node | RawNode | LuksNode
    match here.image_format:
        case "qcow2":
            encrypt, below = _encryption(here), _backing(here.backing)
            layer = Qcow2Node(node_name=name, encrypt=encrypt, file=file, backing=below)
        case "raw":
            layer = RawNode(node_name=name, file=file)
        case "luks":
            layer = LuksNode(node_name=name, key_secret=secret, file=file)
        case _:
            assert_never(here.image_format)
    # The block node of the file inherits the cache options of the format's block node.
    return attrs.evolve(
        layer,
        cache=_cache(here.cache),
        options=here.options,
        discard=here.discard,
        detect_zeroes=here.detect_zeroes,
    )


def _backing(chain: tuple[BackingImage, ...]) -> Qcow2Node | RawNode | None:
    """The block nodes of an image's backing chain; None if none is declared.

    They have no names of their own: a probe tells a secondary's overlays by named nodes in a chain.
    """
    below: Qcow2Node | RawNode | None = None
    for layer in reversed(chain):
        file = _read_only_file(layer)
        match layer.image_format:
            case "qcow2":
                below = Qcow2Node(read_only=True, file=file, backing=below, options=layer.options)
            case "raw":
                below = RawNode(read_only=True, file=file, options=layer.options)
            case _:
                assert_never(layer.image_format)
    return below


def _read_only_file(layer: BackingImage) -> FileNode | HostDeviceNode | HttpNode | HttpsNode:
    """The block node that opens a backing image."""
    place = layer.image
    if layer.is_local:
        kind = FileNode if layer.driver == "file" else HostDeviceNode
        return kind(filename=place, read_only=True, options=layer.file_options)
    over = HttpsNode if place.startswith("https:") else HttpNode
    return over(url=place, read_only=True, options=layer.file_options)


def remote_images(node: Node, disk: ReplicationDisk) -> Iterator[tuple[str, BlockNode]]:
    """The remote images of a disk on a node that can be read while no QEMU has them open.

    An NBD server is left out: it may serve one client and then end.

    Yields:
        The URL of the disk's image, or of one that backs it, and the block node that opens it.
    """
    here = disk.on(node.name)
    if isinstance(here.remote, Rbd | Iscsi | Nfs):
        yield here.remote.url, _remote(here, here.remote)
    for layer in here.backing:
        if not layer.is_local:
            yield layer.image, _read_only_file(layer)


def refused_options(pair: ColoPair, node: str, schema: Schema) -> Iterator[str]:
    """The options of a node's images that a QEMU does not accept, by its schema.

    Args:
        pair: The declaration.
        node: The node's name.
        schema: The schema of the node's QEMU, or its part about blockdev-add.

    Yields:
        Each problem, as a main clause that names the disk and the option.
    """
    for n, disk in enumerate(pair.disks):
        if disk.on(node).has_options:
            for problem in schema.check(BlockdevAdd(node=image(pair.node(node), disk))):
                option = problem.path.removeprefix("arguments.")
                yield f"the QEMU of {node} refuses disks[{n}]: {option} must {problem.rule}"


def memory(machine: Machine) -> MemoryBackendObject | None:
    """The memory backend of the guest's RAM; None if QEMU makes its default one.

    The backend has the name that QEMU's default one would have (qemu-behaviour 22.4).
    """
    backend = machine.memory_backend
    if backend is None:
        return None
    page_mib = backend.huge_page_size_mib
    return MemoryBackendObject(
        qom_type=MEMORY_TYPES[backend.kind],
        id=RAM,
        size_bytes=machine.memory_mib * MIB,
        # With the slash, QEMU refuses a path that is not a folder: two QEMUs would share a file.
        mem_path=None if backend.folder is None else f"{backend.folder.rstrip('/')}/",
        hugetlb=None if page_mib is None else True,
        hugetlbsize_bytes=None if page_mib is None else page_mib * MIB,
        prealloc=backend.prealloc,
        share=backend.share,
    )


def secret(node: Node, disk: ReplicationDisk) -> Secret | None:
    """The secret of a disk's image and overlays on a node; None if they are not encrypted."""
    file = disk.on(node.name).secret_file
    return None if file is None else Secret(id=disk.names.secret, file=file)


def _encryption(disk: ReplicationDisk) -> LuksEncryption | None:
    """The encryption of a qcow2 image or overlay; None if the disk has no secret."""
    return None if disk.secret_file is None else LuksEncryption(key_secret=disk.names.secret)


def secrets(node: Node, disk: ReplicationDisk) -> Iterator[Secret]:
    """The secrets of a disk on a node: of its encryption, and of its remote storage."""
    encryption = secret(node, disk)
    if encryption is not None:
        yield encryption
    match disk.on(node.name).remote:
        case Rbd(secret_file=str(path)):
            # Ceph writes its keys in base64.
            yield Secret(id=disk.names.access, file=path, format="base64")
        case Iscsi(secret_file=str(path)):
            yield Secret(id=disk.names.access, file=path)
        case Rbd() | Iscsi() | Nfs() | Nbd() | None:
            pass


def _remote(disk: ReplicationDisk, at: Remote) -> RbdNode | IscsiNode | NfsNode | NbdNode:
    """The block node that opens a remote image."""
    match at:
        case Rbd():
            servers = tuple(RbdServer(host=one.host, port=one.port) for one in at.monitors)
            return RbdNode(
                pool=at.pool,
                namespace=at.namespace,
                image=at.image,
                conf=at.conf,
                user=at.user,
                key_secret=None if at.secret_file is None else disk.names.access,
                server=servers or None,
                options=disk.file_options,
            )
        case Iscsi():
            return IscsiNode(
                transport=at.transport,
                portal=at.portal,
                target=at.target,
                lun=at.lun,
                user=at.user,
                password_secret=None if at.secret_file is None else disk.names.access,
                initiator_name=at.initiator_name,
                options=disk.file_options,
            )
        case Nfs():
            return NfsNode(
                server=NfsServer(host=at.host),
                path=at.path,
                user=at.user,
                group=at.group,
                options=disk.file_options,
            )
        case Nbd():
            server: SocketAddress = (
                InetSocketAddress(host=at.host, port=at.port)
                if at.host is not None
                else UnixSocketAddress(path=at.path or "")
            )
            return NbdNode(
                server=server,
                export=at.export,
                open_timeout_s=NBD_OPEN_TIMEOUT_S,
                options=disk.file_options,
            )
        case _:
            assert_never(at)


def _local(node: Node, disk: ReplicationDisk) -> FileNode | HostDeviceNode:
    """The block node that opens a file or a host device."""
    path = node.image_path(disk.image)
    kind = FileNode if disk.driver == "file" else HostDeviceNode
    return kind(filename=path, aio=disk.aio, options=disk.file_options)


def _cache(cache: Cache) -> CacheOptions | None:
    """The cache options of a block node; None for QEMU's defaults."""
    direct, no_flush = cache in DIRECT or None, cache == "unsafe" or None
    return CacheOptions(direct=direct, no_flush=no_flush) if direct or no_flush else None


def cache_words(*, direct: bool | None, no_flush: bool | None) -> str:
    """How a block node uses the host's cache, in the words of `Live.caches`."""
    words = (("none",) if direct else ()) + (("unsafe",) if no_flush else ())
    return ", ".join(words) or "writeback"


def limits_command(disk: ReplicationDisk, device: str) -> BlockSetIoThrottle:
    """The command that gives the guest's drive the declared limits; without any it ends them.

    Args:
        disk: The disk.
        device: The id or QOM path of the guest's device.
    """
    limits = {} if disk.throttle is None else disk.throttle.limits()
    return BlockSetIoThrottle(
        id=device,
        bps=limits.get("bps_total", 0),
        bps_rd=limits.get("bps_read", 0),
        bps_wr=limits.get("bps_write", 0),
        iops=limits.get("iops_total", 0),
        iops_rd=limits.get("iops_read", 0),
        iops_wr=limits.get("iops_write", 0),
    )


def _quorum(disk: ReplicationDisk, child: str) -> QuorumNode:
    """The quorum of a disk, with one child."""
    return QuorumNode(
        node_name=disk.names.quorum, vote_threshold=1, read_pattern="fifo", children=(child,)
    )


def nbd_node(pair: ColoPair, secondary: Node, disk: ReplicationDisk) -> NbdNode:
    """The primary's NBD client node of the secondary's disk.

    It is a plain NBD node with a name and a short open timeout (qemu-behaviour 5.4, 5.6, 5.22).
    """
    return NbdNode(
        node_name=disk.names.nbd,
        detect_zeroes="on",
        server=InetSocketAddress(host=secondary.address, port=pair.ports.nbd),
        export=disk.names.parent,
        open_timeout_s=NBD_OPEN_TIMEOUT_S,
        tls_creds=client_creds(pair.tls),
    )


def _sorted(properties: Mapping[str, Property]) -> Mapping[str, Property]:
    return {name: properties[name] for name in sorted(properties)}


def disk_device(disk: ReplicationDisk) -> GuestDevice:
    """The guest's device of a disk."""
    properties: dict[str, Property] = {
        "id": disk.names.device,
        "drive": disk.names.quorum if disk.throttle is None else disk.names.throttle,
    }
    if disk.cache in THROUGH:
        properties["write-cache"] = "off"
    return GuestDevice(driver=disk.device, properties={**properties, **_sorted(disk.properties)})


def card_device(chain: FilterChain) -> GuestDevice:
    """The guest's network card of a chain."""
    properties: dict[str, Property] = {"id": chain.names.device, "netdev": chain.names.netdev}
    if chain.mac is not None:
        properties["mac"] = chain.mac
    return GuestDevice(driver=chain.model, properties={**properties, **_sorted(chain.properties)})


def first_devices(machine: Machine) -> tuple[GuestDevice, ...]:
    """The declared devices. They are made first: cards and disks may need their buses."""
    return tuple(
        GuestDevice(
            driver=device.driver,
            properties={
                **({} if device.id is None else {"id": device.id}),
                **_sorted(device.properties),
            },
        )
        for device in machine.devices
    )


def last_devices(machine: Machine) -> tuple[GuestDevice, ...]:
    """The devices that are made after the disks: CD-ROM drives, then channels."""
    drives = (
        GuestDevice(
            driver=cdrom.device,
            properties={
                **({} if cdrom.image is None else {"drive": name}),
                **_sorted(cdrom.properties),
            },
        )
        for name, cdrom in zip(machine.cdrom_ids, machine.cdroms, strict=True)
    )
    ports = (
        GuestDevice(
            driver=channel.device, properties={"chardev": name, **_sorted(channel.properties)}
        )
        for name, channel in zip(machine.channel_ids, machine.channels, strict=True)
    )
    return (*drives, *ports)


def guest_devices(pair: ColoPair) -> tuple[GuestDevice, ...]:
    """All declared devices of the guest, in the order in which they are made."""
    return (
        *first_devices(pair.machine),
        *map(card_device, pair.chains),
        *map(disk_device, pair.disks),
        *last_devices(pair.machine),
    )


def checked_devices(pair: ColoPair) -> tuple[GuestDevice, ...]:
    """The guest's devices to check before a launch; none if the declaration has none of its own.

    Those are devices, CD-ROM drives, channels, and properties of a disk or a card.
    """
    machine = pair.machine
    beside = machine.devices or machine.cdroms or machine.channels
    own = [*(disk.properties for disk in pair.disks), *(card.properties for card in pair.chains)]
    return guest_devices(pair) if beside or any(own) else ()


def machine_blocks(pair: ColoPair, node: str) -> tuple[RawNode, ...]:
    """The block nodes outside replicated disks: firmware, and images in CD-ROM drives."""
    made: list[RawNode] = []
    firmware = pair.machine.firmware
    if firmware is not None:
        code, variables = FIRMWARE_IDS
        made.append(_read_only(code, firmware.code))
        file = FileNode(filename=pair.firmware_path(node))
        made.append(RawNode(node_name=variables, file=file))
    for name, cdrom in zip(pair.machine.cdrom_ids, pair.machine.cdroms, strict=True):
        if cdrom.image is not None:
            made.append(_read_only(name, cdrom.image))
    return tuple(made)


def _read_only(name: str, path: str) -> RawNode:
    return RawNode(node_name=name, read_only=True, file=FileNode(filename=path, read_only=True))


def channel_chardevs(pair: ColoPair, node: str) -> tuple[ChardevAdd, ...]:
    """The sockets on which a node serves the guest's channels."""
    place = pair.node(node)
    return tuple(
        ChardevAdd(
            id=name,
            backend=SocketServer(addr=UnixSocketAddress(path=place.socket_path(name)), wait=False),
        )
        for name in pair.machine.channel_ids
    )


def password(node: Node) -> Secret | None:
    """The secret with the password of a node's VNC server; None if VNC needs no password."""
    file = None if node.vnc is None else node.vnc.password_file
    return None if file is None else Secret(id=VNC_SECRET, file=file)


def primary_yanks(pair: ColoPair) -> tuple[Yank, ...]:
    """The commands that cut a primary off from its peer (qemu-behaviour 7.7, 7.8).

    Each names one connection: disks first, then chardevs, the migration last.
    """
    disks = (Yank(instances=(YankBlockNode(node_name=d.names.nbd),)) for d in pair.disks)
    return (*disks, *_yank_chardevs(pair, ("mirror", "compare_in")), _yank_migration())


def secondary_yanks(pair: ColoPair) -> tuple[Yank, ...]:
    """The commands that cut a secondary off from its peer (qemu-behaviour 7.7, 7.8).

    Each names one connection: chardevs first, the migration last.
    """
    return (*_yank_chardevs(pair, ("red_in", "red_out")), _yank_migration())


def _yank_chardevs(pair: ColoPair, parts: tuple[str, ...]) -> tuple[Yank, ...]:
    return tuple(
        Yank(instances=(YankChardev(id=getattr(chain.names, part)),))
        for chain in pair.chains
        for part in parts
    )


def _yank_migration() -> Yank:
    return Yank(instances=(YankMigration(),))
