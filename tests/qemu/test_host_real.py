"""Images and processes with the real qemu-img and QEMU."""

import json
import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Literal, TypeAlias

import pytest
from tests.real_qemu import RELEASES, build_of

from pycolo import host
from pycolo.demo.builds import Release
from pycolo.errors import HostRefused
from pycolo.model import Node
from pycolo.plan import CreateImage, LaunchQemu, StopQemu
from pycolo.session import Session
from pycolo.snapshot import ProcessExit

pytestmark = pytest.mark.qemu
LIMIT_S = 20.0
SIZE_BYTES = 1 << 20
ImageFormat: TypeAlias = Literal["qcow2", "raw"]


@pytest.fixture(params=RELEASES)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Node]:
    """A node of this machine for each kind of QEMU; what runs there at the end is killed."""
    release: Release = request.param
    build = build_of(release)
    made = Node(
        name="alpha",
        address="127.0.0.1",
        image_folder=str(tmp_path),
        run_dir=str(tmp_path / "run"),
        qemu_binary=str(build.qemu_system),
        qemu_img_binary=str(build.qemu_img),
    )
    yield made
    running = host.watch(made)
    if running is not None:
        os.kill(running.pid, signal.SIGKILL)
        running.close()


def _image(
    node: Node, image_format: ImageFormat = "qcow2", size_bytes: int = SIZE_BYTES
) -> CreateImage:
    path = node.image_path("image")
    argv = (node.qemu_img_binary, "create", "-f", image_format, path, str(size_bytes))
    return CreateImage(path=path, image_format=image_format, size_bytes=size_bytes, argv=argv)


def _launch(node: Node, *arguments: str) -> LaunchQemu:
    monitor = f"unix:{node.run_dir}/control.qmp,server=on,wait=off"
    bare = ("-nodefaults", "-display", "none", "-machine", "none", "-S", "-qmp", monitor)
    argv = (node.qemu_binary, *bare, *arguments)
    return LaunchQemu(role="primary", instance="token", argv=argv)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_image_is_made_and_then_left_alone(node: Node, image_format: ImageFormat) -> None:
    """Made where there is none; one that is as declared is not touched."""
    action = _image(node, image_format)
    made = await host.run_action(node, action, limit_s=LIMIT_S)
    before = os.stat(action.path).st_mtime_ns  # noqa: PTH116 - one number of a file
    again = await host.run_action(node, action, limit_s=LIMIT_S)
    assert ("", "it is there, as declared") == (made, again)
    assert before == os.stat(action.path).st_mtime_ns  # noqa: PTH116 - the same
    info = [node.qemu_img_binary, "info", "--output=json", action.path]
    text = subprocess.run(info, capture_output=True, check=True).stdout  # noqa: ASYNC221 - a test
    found = json.loads(text)
    assert (image_format, SIZE_BYTES) == (found["format"], found["virtual-size"])


@pytest.mark.parametrize(
    ("image_format", "size_bytes"), [("raw", SIZE_BYTES), ("qcow2", SIZE_BYTES * 2)]
)
async def test_other_image_is_never_overwritten(
    node: Node, image_format: ImageFormat, size_bytes: int
) -> None:
    """An image of another format or size is somebody's data: refused, with both named."""
    await host.run_action(node, _image(node), limit_s=LIMIT_S)
    with pytest.raises(HostRefused, match=f"qcow2 and {SIZE_BYTES} bytes.*{size_bytes}"):
        await host.run_action(node, _image(node, image_format, size_bytes), limit_s=LIMIT_S)


async def test_image_in_use_is_recognised(node: Node) -> None:
    """An image that a running QEMU holds is looked at without its lock."""
    await host.run_action(node, _image(node), limit_s=LIMIT_S)
    file = {"driver": "file", "filename": node.image_path("image")}
    disk = json.dumps({"driver": "qcow2", "node-name": "d", "file": file})
    await host.run_action(node, _launch(node, "-blockdev", disk), limit_s=LIMIT_S)
    assert "it is there, as declared" == await host.run_action(node, _image(node), limit_s=LIMIT_S)


async def test_qemu_is_started_served_and_stopped(node: Node) -> None:
    """When a launch is done its monitor answers; when a stop is done its death is proven."""
    await host.run_action(node, _launch(node), limit_s=LIMIT_S)
    async with await Session.connect("alpha", node.control_monitor, limit_s=LIMIT_S) as session:
        running = host.watch(node)
        assert running is not None
        await host.run_action(node, StopQemu(), limit_s=LIMIT_S)
        assert ProcessExit(pid=running.pid) == await running.exited() == host.death_proof(node)
        running.close()
        while not session.closed:
            await session.wait_change(LIMIT_S)


async def test_wrong_command_line_tells_qemus_own_words(node: Node) -> None:
    """QEMU's complaint about its command line is in the refusal, and nothing is left."""
    with pytest.raises(HostRefused, match="no_such_option"):
        await host.run_action(node, _launch(node, "-no_such_option"), limit_s=LIMIT_S)
    assert host.watch(node) is None


async def test_killed_qemu_is_proven_dead(node: Node) -> None:
    """The kernel's own handle tells of the end of a killed QEMU."""
    await host.run_action(node, _launch(node), limit_s=LIMIT_S)
    running = host.watch(node)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    assert ProcessExit(pid=running.pid) == await running.exited()
    running.close()
