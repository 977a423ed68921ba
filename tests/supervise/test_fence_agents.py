"""Agents of the package fence-agents as fences: they are run as they are."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.debian import closure, loader
from tests.supervise.test_fences import VICTIM, tried

from pycolo.model import Fence

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """The agent that switches a file off, with the Python and the modules of its release."""
    root = closure("fence-agents-dummy")
    python = shlex.join([*loader(root), str(root / "usr/bin/python3")])
    modules = f"{root}/usr/share/fence:{root}/usr/lib/python3/dist-packages"
    path = tmp_path / "fence_dummy"
    path.write_text(
        f"#!/bin/sh\nexport PYTHONHOME={root}/usr PYTHONPATH={modules}\n"
        f'exec {python} {root}/usr/sbin/fence_dummy "$@"\n'
    )
    path.chmod(0o700)
    return path


def _declared(agent: Path, *options: str, limit_s: float = 60.0) -> Fence:
    file = agent.with_suffix(".options")
    file.write_text("".join(f"{option}\n" for option in options))
    return Fence(command=(str(agent),), input_file=str(file), limit_s=limit_s)


async def test_an_agent_that_switches_a_host_off_is_the_evidence(
    agent: Path, tmp_path: Path
) -> None:
    """It reads its options from its input, switches off, sees that it is off, and ends with 0."""
    status = tmp_path / "status"
    status.write_text("on")
    options = ("# of alpha", "action=off", f"status_file={status}")
    told: list[str] = []
    evidence = await tried((_declared(agent, *options),), told.append)
    assert ("off", []) == (status.read_text(), told)
    assert evidence is not None
    assert ("fence", str(agent)) == (evidence.kind, evidence.who)
    assert evidence.proves(VICTIM)


async def test_an_agent_that_sees_no_host_off_is_no_evidence(agent: Path) -> None:
    """It says that the power stayed on, and ends with 1: what it says is told."""
    fence = _declared(agent, "action=off", "type=fail", "power_timeout=1")
    told: list[str] = []
    assert None is await tried((fence,), told.append)
    assert "exit code 1: " in told[0]
    assert "Timed out waiting to power OFF" in told[0]


async def test_an_agent_that_hangs_is_no_evidence(agent: Path, tmp_path: Path) -> None:
    """It is killed after its limit, before it has switched anything off."""
    status = tmp_path / "status"
    status.write_text("on")
    options = ("action=off", f"status_file={status}", "delay=60")
    told: list[str] = []
    fence = _declared(agent, *options, limit_s=0.5)
    assert None is await tried((fence,), told.append)
    assert (1, True) == (len(told), told[0].endswith("it did not end within 0.5 s"))
    assert "on" == status.read_text()
