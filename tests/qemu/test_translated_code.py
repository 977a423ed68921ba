"""Code that a checkpoint brings to a secondary under TCG, on real QEMU."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from tests.qemu.life import BOOT_S, bios_life, until

from pycolo.model import ColoPair

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]

RIGHT, WRONG = ".", "X"
PRINT_AT = 2
PRINT = bytes.fromhex("88C4 BA FD03 EC A820 74FB 88E0 BA F803 EE C3")  # al to COM1; ret
SET_UP = bytes.fromhex(
    "FA 31C0 8ED8 8EC0 8ED0 BC 007C FB"  # segments 0, stack below the code
    "C606 0090 B8 C606 0390 C3"  # at 0x9000: mov ax, imm16; ret
    "31ED"  # xor bp, bp
)
REWRITE = bytes.fromhex("0F31 A3 0190")  # rdtsc, which the two guests read differently: imm16 = ax
WAIT = bytes.fromhex(
    "0F31 66 25 FFFF0F00 6640 6689C1"  # rdtsc; ecx = (eax & 0xFFFFF) + 1
    "6649 75FC"  # dec ecx until it is 0
)
CALL = bytes.fromhex(
    "BB 0090 FFD3 3B06 0190"  # call 0x9000; is ax the imm16?
    "7405 B0 58"  # if not, al = 'X', and print:
)
EIGHTH = bytes.fromhex("45 F7C5 0700 7505 B0 2E")  # inc bp; each eighth time al = '.', and print:


def rewriting_guest() -> bytes:
    """A boot sector that rewrites a function, waits, calls it, and prints if it was another one."""
    code = bytearray(b"\xeb" + bytes([len(PRINT)]) + PRINT + SET_UP)
    loop_at = len(code)
    code += REWRITE + WAIT + CALL
    code += _near(0xE8, PRINT_AT, code)
    code += WAIT + EIGHTH
    code += _near(0xE8, PRINT_AT, code)
    code += _near(0xE9, loop_at, code)
    return bytes(code)


def _near(opcode: int, target: int, code: bytearray) -> bytes:
    """A jump or a call from the end of the code back to a place in it."""
    distance = target - (len(code) + 3)
    return bytes([opcode]) + distance.to_bytes(2, "little", signed=True)


def install(image: Path) -> None:
    """Put the guest in the place of the one that the image boots; its signature stays."""
    with image.open("r+b") as file:
        file.write(rewriting_guest())


def often(pair: ColoPair) -> ColoPair:
    """Make many checkpoints: each one is a chance."""
    return attrs.evolve(pair, checkpoint_delay_ms=100)


async def test_a_secondary_under_tcg_runs_code_that_was_replaced() -> None:
    """The primary calls what it has written; the secondary calls what was there before."""
    async with bios_life("11.1", "tcg", shape=often) as life:
        install(life.image("alpha"))
        await life.launch("alpha")
        await life.cont("alpha")
        await until(lambda: RIGHT in life.serial("alpha"), "the guest has booted", BOOT_S)
        await life.launch("beta")
        await life.run("start")
        await until(lambda: WRONG in life.serial("beta"), "the secondary runs old code", BOOT_S)
        assert WRONG not in life.serial("alpha")
