"""FakeQemu: simulated QEMUs to test a controller against, without QEMU.

A `World` holds hosts, images, a network and a clock that is stopped until it is advanced. A QEMU
that is launched in it speaks QMP as QEMU does, in memory or over sockets. The same contract tests
run against these fakes and against real QEMUs: entering and leaving COLO, checkpoints, deaths,
peers that stop responding, a main loop that hangs on such a peer, and the differences between
versions. A world can also tell what QMP cannot: which guest serves clients, and where each
acknowledged write is. `FakeArbiter` is an arbiter for agents.
"""

from pycolo.testing._arbiter import ArbiterBackup, FakeArbiter
from pycolo.testing._ground import Image
from pycolo.testing._host import FakeHost
from pycolo.testing._qemu import FakeQemu
from pycolo.testing.world import World

__all__ = ("ArbiterBackup", "FakeArbiter", "FakeHost", "FakeQemu", "Image", "World")
