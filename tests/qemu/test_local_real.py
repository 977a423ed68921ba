"""Images and processes with the real qemu-img and QEMU."""

import asyncio
import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Generator
from typing import Literal, TypeAlias, final

import attrs
import pytest
from tests.real_qemu import RELEASES, build_of

from pycolo.demo.builds import Release
from pycolo.errors import HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.hosts.local import LocalHost, QemuWatch
from pycolo.model import ColoPair, Node
from pycolo.plan import CreateImage, HostAction, LaunchQemu, StopQemu
from pycolo.qmp.commands import Cont
from pycolo.session import Session

pytestmark = pytest.mark.qemu
LIMIT_S = 20.0
INSTANCE = "p:alpha:00000001"
SIZE_BYTES = 1 << 20
RAM_BYTES = 2 << 30
ImageFormat: TypeAlias = Literal["qcow2", "raw"]


@final
@attrs.frozen
class Place:
    """The host of one node, which is this machine."""

    pair: ColoPair
    host: LocalHost = attrs.field(factory=LocalHost)

    @property
    def node(self) -> Node:
        """The node."""
        return self.pair.node("alpha")

    async def does(self, action: HostAction) -> str:
        """Have the host do something."""
        return await self.host.run(self.pair, "alpha", action, limit_s=LIMIT_S)

    def watch(self) -> QemuWatch | None:
        """The handle of what runs."""
        return self.host.watch(self.pair, "alpha")

    async def death(self) -> Evidence | None:
        """What the host says of the QEMU's end."""
        victim = Victim(node="alpha", instance=INSTANCE, epoch=1)
        return await self.host.death(self.pair, victim, limit_s=LIMIT_S)


@pytest.fixture(params=RELEASES)
def place(request: pytest.FixtureRequest) -> Generator[Place]:
    """A node of this machine for each kind of QEMU; what runs there at the end is killed."""
    release: Release = request.param
    build = build_of(release)
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        node = Node(
            name="alpha",
            address="127.0.0.1",
            image_folder=folder,
            run_dir=f"{folder}/run",
            qemu_binary=str(build.qemu_system),
            qemu_img_binary=str(build.qemu_img),
        )
        peer = Node(name="beta", address="127.0.0.2", image_folder=f"{folder}/beta")
        made = Place(ColoPair(name="p", nodes=(node, peer)))
        yield made
        running = made.watch()
        if running is not None:
            os.kill(running.pid, signal.SIGKILL)
            running.close()


def _image(
    place: Place, image_format: ImageFormat = "qcow2", size_bytes: int = SIZE_BYTES
) -> CreateImage:
    path, program = place.node.image_path("image"), place.node.qemu_img_binary
    argv = (program, "create", "-f", image_format, path, str(size_bytes))
    return CreateImage(path=path, image_format=image_format, size_bytes=size_bytes, argv=argv)


def _launch(place: Place, *arguments: str) -> LaunchQemu:
    monitor = f"unix:{place.node.run_dir}/control.qmp,server=on,wait=off"
    bare = ("-nodefaults", "-display", "none", "-machine", "none", "-S", "-qmp", monitor)
    argv = (place.node.qemu_binary, *bare, *arguments)
    return LaunchQemu(role="secondary", instance=INSTANCE, argv=argv)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_image_is_made_and_then_left_alone(place: Place, image_format: ImageFormat) -> None:
    """Made where there is none; one that is as declared is not touched."""
    action = _image(place, image_format)
    made = await place.does(action)
    before = os.stat(action.path).st_mtime_ns  # noqa: PTH116 - one number of a file
    again = await place.does(action)
    assert ("", "it is there, as declared") == (made, again)
    assert before == os.stat(action.path).st_mtime_ns  # noqa: PTH116 - the same
    info = [place.node.qemu_img_binary, "info", "--output=json", action.path]
    text = subprocess.run(info, capture_output=True, check=True).stdout  # noqa: ASYNC221 - a test
    found = json.loads(text)
    assert 0o600 == os.stat(action.path).st_mode & 0o777  # noqa: PTH116 - the same
    assert (image_format, SIZE_BYTES) == (found["format"], found["virtual-size"])


@pytest.mark.parametrize(
    ("image_format", "size_bytes"), [("raw", SIZE_BYTES), ("qcow2", SIZE_BYTES * 2)]
)
async def test_other_image_is_never_overwritten(
    place: Place, image_format: ImageFormat, size_bytes: int
) -> None:
    """An image of another format or size is somebody's data: refused, with both named."""
    await place.does(_image(place))
    with pytest.raises(HostRefused, match=f"qcow2 of {SIZE_BYTES} bytes.*{size_bytes}"):
        await place.does(_image(place, image_format, size_bytes))


async def test_image_in_use_is_recognised(place: Place) -> None:
    """An image that a running QEMU holds is looked at without its lock."""
    await place.does(_image(place))
    file = {"driver": "file", "filename": place.node.image_path("image")}
    disk = json.dumps({"driver": "qcow2", "node-name": "d", "file": file})
    await place.does(_launch(place, "-blockdev", disk))
    assert "it is there, as declared" == await place.does(_image(place))


async def test_qemu_is_started_served_and_stopped(place: Place) -> None:
    """When a launch is done its monitor answers; when a stop is done its death is proven."""
    await place.does(_launch(place))
    control = place.node.control_monitor
    async with await Session.connect("alpha", control, limit_s=LIMIT_S) as session:
        running = place.watch()
        assert running is not None
        assert await place.death() is None
        await place.does(StopQemu(instance=INSTANCE))
        await running.wait_ended()
        assert await place.death() is not None
        running.close()
        while not session.closed:
            await session.wait_change(LIMIT_S)


async def test_wrong_command_line_tells_qemus_own_words(place: Place) -> None:
    """QEMU's complaint about its command line is in the refusal, and nothing is left."""
    with pytest.raises(HostRefused, match="no_such_option"):
        await place.does(_launch(place, "-no_such_option"))
    assert place.watch() is None


async def test_killed_qemu_is_proven_dead(place: Place) -> None:
    """The kernel's own handle tells of the end of a killed QEMU."""
    await place.does(_launch(place))
    running = place.watch()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    await running.wait_ended()
    found = running.evidence(1)
    assert found is not None
    assert ("exit", INSTANCE) == (found.kind, found.instance)
    running.close()


async def test_qemu_that_ends_on_a_device_was_not_launched(place: Place) -> None:
    """It greets before it makes its devices; the launch waits for an answer, and says why."""
    with pytest.raises(HostRefused, match="nosuchdev"):
        await place.does(_launch(place, "-device", "nosuchdev"))
    assert place.watch() is None


@pytest.mark.heavy
@pytest.mark.timeout(120)
async def test_death_of_a_big_qemu_is_seen_before_its_memory_is_free(place: Place) -> None:
    """Its CPUs run no more, its image is still held; a launch right then waits for that."""
    image = _image(place)
    await place.does(image)
    disk = {"driver": "file", "filename": image.path, "node-name": "d"}
    accelerator = "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"
    # Memory of a file has small pages, as that of a guest has which is not given larger ones.
    memory = f"memory-backend-memfd,id=m,size={RAM_BYTES},prealloc=on"
    machine = ("-object", memory, "-machine", f"q35,accel={accelerator},memory-backend=m")
    sizes = ("-m", f"{RAM_BYTES >> 20}", "-smp", "4")
    arguments = (*machine, *sizes, "-blockdev", json.dumps(disk))
    await place.does(_launch(place, *arguments))
    running = place.watch()
    assert running is not None
    async with await Session.connect(
        "alpha", place.node.control_monitor, limit_s=LIMIT_S
    ) as session:
        await session.execute(Cont(), limit_s=LIMIT_S)
    process = os.pidfd_open(running.pid)
    waiting = asyncio.create_task(running.wait_ended())
    # It is waited for before it ends.
    await asyncio.sleep(0)
    os.kill(running.pid, signal.SIGKILL)
    await waiting
    found, is_gone = running.evidence(1), bool(select.select([process], [], [], 0)[0])
    running.close()
    os.close(process)
    assert found is not None
    how = f"all threads of process {running.pid} have ended or are exiting"
    assert (False, how) == (is_gone, found.how)
    again = attrs.evolve(_launch(place, *arguments), instance="p:alpha:00000002")
    assert (await place.host.observe(place.pair, "alpha", limit_s=LIMIT_S)).running is None
    await place.does(again)
    assert await place.death() is not None
