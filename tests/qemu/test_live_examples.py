"""The examples that talk to QEMU, on a real pair."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.qemu.life import bios_life

from pycolo import pairfile

pytestmark = pytest.mark.qemu
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


async def run(script: str, *arguments: str) -> str:
    """What a script prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / script), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complained = await process.communicate()
    assert 0 == process.returncode, complained.decode()
    return printed.decode()


async def test_a_pair_is_read_and_failed_over_by_the_examples(tmp_path: Path) -> None:
    """Threads read a protected pair; nobody fails over while both live; after a death one does."""
    async with bios_life("11.1", "tcg") as life:
        pair_file = tmp_path / "pair.json"
        pair_file.write_text(pairfile.dumps(life.pair), encoding="utf-8")
        await life.launch("alpha", "beta")
        await life.run("start")
        read = await run("threads.py", str(pair_file))
        assert "protected: alpha is primary, beta is secondary" in read
        # One client a monitor: the example needs the one that the life holds.
        await life.sessions.pop("beta").aclose()
        refused = await run("fail_over.py", str(pair_file), "beta")
        assert "its monitor answers" in refused.splitlines()[-1]
        await life.kill("alpha")
        told = await run("fail_over.py", str(pair_file), "beta")
        assert told.endswith("failover is done\n")
        await life.keeps_running("beta")


async def test_a_pair_is_driven_from_threads(tmp_path: Path) -> None:
    """The driver makes a new pair protected, lets its guest run alone, and ends it."""
    async with bios_life("11.1", "tcg") as life:
        pair_file = tmp_path / "pair.json"
        pair_file.write_text(pairfile.dumps(life.pair), encoding="utf-8")
        protected = await run("driver.py", str(pair_file), "protected")
        assert ["Launch", "Launch", "Act", "Settled"] == _steps(protected)
        await life.keeps_running("alpha", "beta")
        assert ["Act", "Settled"] == _steps(await run("driver.py", str(pair_file), "unprotected"))
        await life.keeps_running("alpha")
        assert ["End", "Settled"] == _steps(await run("driver.py", str(pair_file), "stopped"))


def _steps(printed: str) -> list[str]:
    return [line.split(maxsplit=1)[0] for line in printed.splitlines()]
