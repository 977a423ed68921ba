"""`converge` and `diff --live` on real pairs: what hands changed is named and taken back."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.qemu.life import CHECKPOINTING, LIMIT_S, LivePair, accelerator_of, bios_life, commands

from pycolo import pairfile
from pycolo.compiler import converge, drift
from pycolo.demo.builds import Release
from pycolo.errors import CompileError
from pycolo.model import ColoPair
from pycolo.qmp import commands as qmp
from pycolo.qmp.blockdevs import FileNode, RawNode
from pycolo.qmp.chardevs import SocketServer, UnixSocketAddress
from pycolo.qmp.commands import Command
from pycolo.qmp.objects import ColoCompare, IoThread

pytestmark = [pytest.mark.qemu, pytest.mark.heavy, pytest.mark.timeout(120)]
DONE, DIFFERENT, DECIDE = 0, 2, 4
TIMEOUT: Final = qmp.QomSet(path="/objects/comp0", property_name="compare_timeout", value=1234)
QUEUE: Final = qmp.QomSet(path="/objects/comp0", property_name="max_queue_size", value=64)
MIRROR_OFF: Final = qmp.QomSet(path="/objects/m0", property_name="status", value="off")
SLOWER: Final = qmp.MigrateSetParameters(x_checkpoint_delay_ms=3333)


async def _protected(life: LivePair) -> None:
    await life.launch("alpha", "beta")
    await life.run("start")
    assert not drift(life.pair, await life.probe())


async def _by_hand(life: LivePair, node: str, *done: Command) -> None:
    for command in done:
        await life.sessions[node].execute(command, limit_s=LIMIT_S)


def _chardev(life: LivePair) -> qmp.ChardevAdd:
    path = life.image("alpha").with_name("odd.sock")
    return qmp.ChardevAdd(
        id="odd", backend=SocketServer(addr=UnixSocketAddress(path=str(path)), wait=False)
    )


def _block_node(life: LivePair, name: str) -> qmp.BlockdevAdd:
    image = life.image(name).with_name("odd.raw")
    image.write_bytes(bytes(512))
    node = RawNode(node_name="odd-node", file=FileNode(filename=str(image)))
    return qmp.BlockdevAdd(node=node)


async def _named(life: LivePair) -> list[tuple[str, str, str, str | None, str | None]]:
    found = drift(life.pair, await life.probe())
    return [
        (d.node, d.kind, d.label, d.declared, d.live)
        for d in (*found.missing, *found.stray, *found.changed)
    ]


async def _still_replicated(life: LivePair) -> None:
    """Both sides are in COLO, never left it, and the guest counts on, on both."""
    states = {name: await life.live(name) for name in ("alpha", "beta")}
    assert ["primary", "secondary"] == [state.colo_mode for state in states.values()]
    assert not any(state.colo_exited for state in states.values())
    await life.keeps_running("alpha", "beta")


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_what_hands_changed_is_named_and_taken_back_under_colo(release: Release) -> None:
    """Settings go back and strays go away, on both nodes, while replication runs on."""
    async with bios_life(release, accelerator_of(release)) as life:
        await _protected(life)
        stray = qmp.ObjectAdd(object=IoThread(id="odd-thread"))
        await _by_hand(life, "alpha", TIMEOUT, MIRROR_OFF, SLOWER, stray, _chardev(life))
        await _by_hand(life, "beta", _block_node(life, "beta"))
        assert [
            ("alpha", "chardev", "odd", None, "there"),
            ("alpha", "object", "odd-thread", None, "iothread"),
            ("beta", "block node", "odd-node", None, "there"),
            ("alpha", "setting", "comp0.compare_timeout", "3000", "1234"),
            ("alpha", "setting", "m0.status", "on", "off"),
            ("alpha", "parameter", "x-checkpoint-delay", "500", "3333"),
        ] == await _named(life)
        plan = converge(life.pair, await life.probe())
        await life.execute(plan)
        assert [
            "alpha/qom-set/comp0.compare_timeout",
            "alpha/qom-set/m0.status",
            "alpha/migrate-set-parameters",
            "alpha/object-del/odd-thread",
            "alpha/chardev-remove/odd",
            "beta/blockdev-del/odd-node",
        ] == commands(plan)
        assert [] == await _named(life)
        await _still_replicated(life)


async def test_a_compare_that_was_made_anew_by_hand_is_set_as_declared() -> None:
    """All three numbers of a compare are told from the declared ones and set back in place."""

    def strict(pair: ColoPair) -> ColoPair:
        chain = attrs.evolve(
            pair.chains[0],
            compare_timeout_ms=2000,
            expired_scan_cycle_ms=700,
            max_queue_size=512,
        )
        return attrs.evolve(pair, chains=(chain,))

    async with bios_life("11.1", "tcg", shape=strict) as life:
        await _protected(life)
        compare = ColoCompare(
            id="comp0",
            primary_in="compare0-0",
            secondary_in="compare1",
            outdev="compare_out0",
            iothread="iothread1",
        )
        await _by_hand(life, "alpha", qmp.ObjectDel(id="comp0"), qmp.ObjectAdd(object=compare))
        # This one is QEMU's, not the object's, and outlives it (qemu-behaviour 6.11).
        await _by_hand(life, "alpha", QUEUE)
        assert [
            ("alpha", "setting", "comp0.compare_timeout", "2000", "3000"),
            ("alpha", "setting", "comp0.expired_scan_cycle", "700", "1000"),
            ("alpha", "setting", "comp0.max_queue_size", "512", "64"),
        ] == await _named(life)
        await life.execute(converge(life.pair, await life.probe()))
        assert [] == await _named(life)
        await _still_replicated(life)


@pytest.mark.parametrize("gone", ["m0", "comp0"])
async def test_a_filter_that_is_missing_under_colo_is_named_and_refused(gone: str) -> None:
    """It cannot come back unnoticed by the guest: nothing is sent, and the way out is told."""
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        await _by_hand(life, "alpha", TIMEOUT, qmp.ObjectDel(id=gone))
        snapshot = await life.probe()
        assert [gone] == [d.label for d in drift(life.pair, snapshot).missing]
        with pytest.raises(CompileError) as refused:
            converge(life.pair, snapshot)
        assert f"object {gone} of alpha" in str(refused.value)
        assert "end protection with stop, launch a new secondary" in str(refused.value)


# -- the command line


@attrs.frozen
class Ended:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


async def _pycolo(words: Sequence[str]) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("pycolo")), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_a_pair_file_is_compared_with_what_is_live_and_converged(
    release: Release, tmp_path: Path
) -> None:
    """`diff --live` ends with 2 and names what differs; after `run converge` it ends with 0."""
    pair_file = tmp_path / "pair.json"
    async with bios_life(release, accelerator_of(release)) as life:
        pair_file.write_text(pairfile.dumps(life.pair), encoding="utf-8")
        await _protected(life)
        diff = ("diff", str(pair_file), "--live")
        assert Ended(DONE, "as declared\n", "") == await _pycolo(diff)
        await _by_hand(life, "alpha", TIMEOUT, SLOWER, _chardev(life))
        told = await _pycolo(diff)
        assert DIFFERENT == told.code, told.err
        assert [
            "+ alpha: chardev odd",
            "~ alpha: setting comp0.compare_timeout: 3000 declared, 1234 live",
            "~ alpha: parameter x-checkpoint-delay: 500 declared, 3333 live",
        ] == told.out.splitlines()
        as_json = await _pycolo((*diff, "--as", "json"))
        assert DIFFERENT == as_json.code, as_json.err
        shown = json.loads(as_json.out)
        counts = {kind: len(shown[kind]) for kind in ("missing", "stray", "changed")}
        assert {"missing": 0, "stray": 1, "changed": 2} == counts
        await life.disconnect()
        converged = await _pycolo(("run", "converge", str(pair_file)))
        assert DONE == converged.code, converged.err
        assert Ended(DONE, "as declared\n", "") == await _pycolo(diff)
        for name in ("alpha", "beta"):
            await life.connect(name)
        await _still_replicated(life)


async def test_a_pair_file_that_was_edited_is_what_the_pair_becomes(tmp_path: Path) -> None:
    """A declaration that changed is the truth: the live pair follows it, without a new start."""
    pair_file = tmp_path / "pair.json"
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        chain = attrs.evolve(life.pair.chains[0], compare_timeout_ms=1500)
        life.pair = attrs.evolve(life.pair, chains=(chain,), checkpoint_delay_ms=900)
        pair_file.write_text(pairfile.dumps(life.pair), encoding="utf-8")
        await life.disconnect()
        told = await _pycolo(("run", "converge", str(pair_file), "--as", "json"))
        assert DONE == told.code, told.err
        for name in ("alpha", "beta"):
            await life.connect(name)
        compare = (await life.live("alpha")).objects["comp0"]
        assert "1500" == compare.settings["compare_timeout"]
        assert 900 == (await life.live("alpha")).checkpoint_delay_ms
        await _still_replicated(life)


async def test_the_command_line_refuses_to_converge_what_is_missing(tmp_path: Path) -> None:
    """It says what and ends with the code of a decision; nothing was changed."""
    pair_file = tmp_path / "pair.json"
    async with bios_life("11.1", "tcg") as life:
        pair_file.write_text(pairfile.dumps(life.pair), encoding="utf-8")
        await _protected(life)
        await _by_hand(life, "alpha", SLOWER, qmp.ObjectDel(id="m0"))
        await life.disconnect()
        told = await _pycolo(("run", "converge", str(pair_file)))
        assert "object m0 of alpha" in told.err
        assert DECIDE == told.code
        await life.connect("alpha")
        assert 3333 == (await life.live("alpha")).checkpoint_delay_ms
