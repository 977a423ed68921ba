"""The monitors of a command line, as QEMU and the fakes read them."""

from __future__ import annotations

import attrs
import pytest
from tests.testing.testbed import FakePair, declared, in_world

from pycolo.compiler._options import monitor_options
from pycolo.model import TcpMonitor, UnixMonitor
from pycolo.model.node import Monitor
from pycolo.qmp import commands as qmp

ENDING = "server=on,wait=off"


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        (UnixMonitor(path="/run/a,b"), ["-qmp", f"unix:/run/a,,b,{ENDING}"]),
        (TcpMonitor(host="127.0.0.1", port=4444), ["-qmp", f"tcp:127.0.0.1:4444,{ENDING}"]),
        (TcpMonitor(host="localhost", port=4444), ["-qmp", f"tcp:localhost:4444,{ENDING}"]),
        (
            TcpMonitor(host="::1", port=4444),
            [
                *("-chardev", f"socket,id=charmonitor0,host=::1,port=4444,{ENDING}"),
                *("-qmp", "chardev:charmonitor0"),
            ],
        ),
    ],
)
def test_a_monitor_is_where_it_is_declared(monitor: Monitor, words: list[str]) -> None:
    """An IPv6 address needs a chardev; everything else is written in one word."""
    assert words == list(monitor_options((monitor,)))


def test_a_fake_has_its_monitors_on_ipv6() -> None:
    """It is reached at the address, and names the monitors as QEMU does."""
    pair = declared()
    control = TcpMonitor(host="::1", port=4444)
    nodes = (attrs.evolve(pair.nodes[0], control=control), pair.nodes[1])

    async def played(life: FakePair) -> None:
        life.world.install(life.pair, "alpha")
        await life.launch("alpha")
        reply = await life.sessions["alpha"].execute(qmp.QueryChardev(), limit_s=5.0)
        monitors = {item.label: item.filename for item in reply if "monitor" in item.label}
        assert {"charmonitor0", "compat_monitor1"} == set(monitors)
        assert "tcp:[::1]:4444,server=on" == monitors["charmonitor0"]

    in_world("11.1.3", played, attrs.evolve(pair, nodes=nodes))
