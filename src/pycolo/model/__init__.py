"""The declaration of a pair: frozen values whose rules are checked when they are made.

A declaration names hosts, images and network cards; it never says which node is primary. A value
that breaks a rule cannot be made, so the rest of pycolo need not check a declaration again.
"""

from pycolo.model.disk import DiskIds, DiskOnNode, ReplicationDisk, Throttle
from pycolo.model.filters import ChainIds, ChainPorts, FilterChain, Netdev
from pycolo.model.hardware import Cdrom, Channel, Device, DeviceObject, Firmware
from pycolo.model.machine import Machine
from pycolo.model.memory import MemoryBackend
from pycolo.model.migration import Migration
from pycolo.model.node import Fence, Libvirt, Monitor, Node, Ssh, TcpMonitor, UnixMonitor, Vnc
from pycolo.model.pair import CHECKPOINTS_OFF_MS, ColoPair, Ports, Timeouts
from pycolo.model.remote import Iscsi, Nbd, Nfs, Rbd, RbdMonitor, Remote
from pycolo.model.sharing import Listener, PortCollision, port_collisions, refuse_collisions
from pycolo.model.storage import BackingImage
from pycolo.model.supervision import Supervision
from pycolo.model.tls import X509, Psk, Tls

__all__ = (
    "CHECKPOINTS_OFF_MS",
    "X509",
    "BackingImage",
    "Cdrom",
    "ChainIds",
    "ChainPorts",
    "Channel",
    "ColoPair",
    "Device",
    "DeviceObject",
    "DiskIds",
    "DiskOnNode",
    "Fence",
    "FilterChain",
    "Firmware",
    "Iscsi",
    "Libvirt",
    "Listener",
    "Machine",
    "MemoryBackend",
    "Migration",
    "Monitor",
    "Nbd",
    "Netdev",
    "Nfs",
    "Node",
    "PortCollision",
    "Ports",
    "Psk",
    "Rbd",
    "RbdMonitor",
    "Remote",
    "ReplicationDisk",
    "Ssh",
    "Supervision",
    "TcpMonitor",
    "Throttle",
    "Timeouts",
    "Tls",
    "UnixMonitor",
    "Vnc",
    "port_collisions",
    "refuse_collisions",
)
