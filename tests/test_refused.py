"""What cannot be run as things are: refused with what is wrong and where, and nothing sent."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
from tests import operating
from tests.scripted_qmp import ScriptedQmp, scripted_qmp

from pycolo import operate
from pycolo.errors import PycoloError
from pycolo.model import ColoPair, Node

Prepare: TypeAlias = Callable[
    [ColoPair, AsyncExitStack], Awaitable["tuple[ColoPair, list[ScriptedQmp]]"]
]


@pytest.fixture
async def pair() -> AsyncIterator[ColoPair]:
    """Two nodes on this machine, whose run directories are there and empty."""
    with tempfile.TemporaryDirectory(prefix="pycolo") as folder:
        nodes = []
        for number, name in enumerate(("alpha", "beta"), 1):
            run_dir = Path(folder) / name
            run_dir.mkdir(mode=0o700)
            address = f"127.0.0.{number}"
            node = Node(name=name, address=address, image_folder=str(run_dir), run_dir=str(run_dir))
            nodes.append(node)
        yield ColoPair(name="colo", nodes=(nodes[0], nodes[1]))


def _control(pair: ColoPair, place: int) -> Path:
    return Path(pair.nodes[place].run_path("control.qmp"))


async def _no_such_address(pair: ColoPair, _: AsyncExitStack) -> tuple[ColoPair, list[ScriptedQmp]]:
    first, second = pair.nodes
    second = attrs.evolve(second, address="no.such.invalid", listen_address="127.0.0.2")
    return attrs.evolve(pair, nodes=(first, second)), []


async def _no_socket(pair: ColoPair, _: AsyncExitStack) -> tuple[ColoPair, list[ScriptedQmp]]:
    return pair, []


async def _a_file(pair: ColoPair, _: AsyncExitStack) -> tuple[ColoPair, list[ScriptedQmp]]:
    _control(pair, 0).write_text("not a socket")
    return pair, []


async def _in_use(pair: ColoPair, stack: AsyncExitStack) -> tuple[ColoPair, list[ScriptedQmp]]:
    script = await stack.enter_async_context(scripted_qmp(_control(pair, 0)))
    _, writer = await asyncio.open_unix_connection(_control(pair, 0))
    stack.callback(writer.close)
    await script.greeted.wait()
    return pair, [script]


async def _never_answers(
    pair: ColoPair, stack: AsyncExitStack
) -> tuple[ColoPair, list[ScriptedQmp]]:
    script = await stack.enter_async_context(scripted_qmp(_control(pair, 0)))
    script.negotiates = False
    return pair, [script]


async def _something_else(
    pair: ColoPair, stack: AsyncExitStack
) -> tuple[ColoPair, list[ScriptedQmp]]:
    script = await stack.enter_async_context(scripted_qmp(_control(pair, 0)))
    script.first_bytes = b"220 mail.example ESMTP\r\n"
    return pair, [script]


CASES: dict[str, tuple[Prepare, tuple[str, ...]]] = {
    "an address that does not resolve": (
        _no_such_address,
        ("nodes[1].address", "no.such.invalid", "does not resolve"),
    ),
    "a socket that is not there": (_no_socket, ("alpha", "control.qmp", "no such socket")),
    "a socket that is a file": (_a_file, ("alpha", "control.qmp", "it is no socket")),
    "a socket that is something else": (_something_else, ("alpha", "control.qmp", "QMP")),
    "a socket that is in use": (_in_use, ("alpha", "control.qmp", "client")),
    "a socket that never answers": (_never_answers, ("alpha", "unresponsive", "s")),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_is_wrong_outside_is_refused_and_named(
    case: str, pair: ColoPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal says where and what; QEMU, where there is one, was sent no command."""
    monkeypatch.setattr(operate, "CONNECT_S", 0.2)
    prepare, words = CASES[case]
    async with AsyncExitStack() as stack:
        wrong, scripts = await prepare(pair, stack)
        with pytest.raises(PycoloError) as caught:
            await operating.run(wrong, operating.start)

    assert [] == [word for word in words if word not in str(caught.value)], str(caught.value)
    assert all(set(script.commands) <= {"qmp_capabilities"} for script in scripts)
