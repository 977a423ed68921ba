"""Code that a checkpoint brings to a secondary under TCG, on real QEMU."""

from __future__ import annotations

import attrs
import pytest
from tests.qemu.life import BOOT_S, ON_RELEASES, Accelerator, LivePair, bios_life, until

from pycolo.demo.builds import Release
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

# 128 pages from 0x10000, and a table at 0x9000 with the word that stands at 0x10 in each.
CLEAR = bytes.fromhex(
    "31C0 B9 8000 BF 0090 FC F3AB BA 0010"  # the table: 128 words of 0; dx = 0x1000
    "8EC2 26C706 1000 0000"  # es = dx; es:[0x10] = 0
    "81C2 0001 81FA 0090 75ED"  # dx += 0x100 until it is 0x9000
)
ANY_PAGE = bytes.fromhex("83E3 7F 89DA C1E2 08 81C2 0010 8EC2 D1E3")  # bx &= 127; es = its page
WRITE_ONE = (
    bytes.fromhex("0F31 89C1 89C3")  # rdtsc: cx = bx = ax
    + ANY_PAGE
    + bytes.fromhex("898F 0090 26890E 1000")  # table[bx] = cx; es:[0x10] = cx
)
CHECK_ONE = (
    bytes.fromhex("0F31 89C3 C1EB 03")  # rdtsc: bx = ax >> 3
    + ANY_PAGE
    + bytes.fromhex("8B8F 0090 263B0E 1000 7405 B0 58")  # if they differ, al = 'X', and print:
)
SELDOM = bytes.fromhex("45 F7C5 FF1F 7505 B0 2E")  # each 8192nd time al = '.', and print:


def checking_guest() -> bytes:
    """A boot sector that writes to pages all over its RAM, and prints if one is not as written."""
    code = bytearray(b"\xeb" + bytes([len(PRINT)]) + PRINT + SET_UP + CLEAR)
    loop_at = len(code)
    code += WRITE_ONE + CHECK_ONE
    code += _near(0xE8, PRINT_AT, code)
    code += SELDOM
    code += _near(0xE8, PRINT_AT, code)
    code += _near(0xE9, loop_at, code)
    return bytes(code)


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


async def protect(life: LivePair, guest: bytes) -> None:
    """Boot a guest in the place of the one that the image has, and protect it."""
    with life.image("alpha").open("r+b") as file:
        file.write(guest)  # the signature of the boot sector stays
    await life.launch("alpha")
    await life.cont("alpha")
    await until(lambda: RIGHT in life.serial("alpha"), "the guest has booted", BOOT_S)
    await life.launch("beta")
    await life.run("start")


def often(pair: ColoPair) -> ColoPair:
    """Make many checkpoints: each one is a chance."""
    return attrs.evolve(pair, checkpoint_delay_ms=100)


async def test_a_secondary_under_tcg_runs_code_that_was_replaced() -> None:
    """The primary calls what it has written; the secondary calls what was there before."""
    async with bios_life("11.1", "tcg", shape=often) as life:
        await protect(life, rewriting_guest())
        await until(lambda: WRONG in life.serial("beta"), "the secondary runs old code", BOOT_S)
        assert WRONG not in life.serial("alpha")


@ON_RELEASES
async def test_checkpoints_copy_all_ram_that_was_written(
    release: Release, accelerator: Accelerator
) -> None:
    """What the guest wrote to its pages is what it finds there, on the secondary too."""
    async with bios_life(release, accelerator, shape=often) as life:
        await protect(life, checking_guest())
        for name in ("alpha", "beta"):
            mark = len(life.serial(name))
            await until(lambda: len(life.serial(name)) >= mark + 5, f"{name} has checked", BOOT_S)  # noqa: B023 - awaited here
        assert WRONG not in life.serial("alpha") + life.serial("beta")
