"""FakeQemu: QEMUs to test a controller against, without QEMU.

A `World` holds hosts, images, a network and a clock that stops until it is advanced. What is
launched in it speaks QMP as QEMU does, in memory or over sockets, and behaves as the same contract
tests find that the real ones do: COLO's way in and its ends, checkpoints, deaths, silence, a main
loop that hangs on a silent peer, and the differences between versions. It checks what no QMP
tells: who serves, and which acknowledged writes are where. `FakeArbiter` is an arbiter for agents.
"""

from pycolo.testing._arbiter import ArbiterBackup, FakeArbiter
from pycolo.testing._ground import Image
from pycolo.testing._host import FakeHost
from pycolo.testing._qemu import FakeQemu
from pycolo.testing.world import World

__all__ = ("ArbiterBackup", "FakeArbiter", "FakeHost", "FakeQemu", "Image", "World")
