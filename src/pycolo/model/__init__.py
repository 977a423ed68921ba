"""What the user declares: frozen values that cannot be wrong once they exist.

A declaration names hosts, images and cards; it never says who is primary. Every rule is
checked when a value is made, so everything right of this package may trust what it gets.
"""

from pycolo.model.disk import DiskIds, DiskOnNode, ReplicationDisk, Throttle
from pycolo.model.filters import ChainIds, ChainPorts, FilterChain, Netdev
from pycolo.model.hardware import Cdrom, Channel, Device, DeviceObject, Firmware
from pycolo.model.machine import Machine
from pycolo.model.memory import MemoryBackend
from pycolo.model.migration import Migration
from pycolo.model.node import Fence, Libvirt, Monitor, Node, Ssh, TcpMonitor, UnixMonitor, Vnc
from pycolo.model.pair import CHECKPOINTS_OFF_MS, ColoPair, Ports, Timeouts
from pycolo.model.sharing import Listener, PortCollision, port_collisions, refuse_collisions
from pycolo.model.supervision import Supervision
from pycolo.model.tls import X509, Psk, Tls

__all__ = (
    "CHECKPOINTS_OFF_MS",
    "X509",
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
    "Libvirt",
    "Listener",
    "Machine",
    "MemoryBackend",
    "Migration",
    "Monitor",
    "Netdev",
    "Node",
    "PortCollision",
    "Ports",
    "Psk",
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
