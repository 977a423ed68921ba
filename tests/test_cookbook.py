"""The machines of the cookbook, and the page that says which shapes have been seen to live."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Literal

import pytest
from tests.compiler.cases import VERSIONS, commands_of
from tests.compiler.product import PROCEDURES
from tests.test_behaviour_page import TEST

from pycolo import pairfile
from pycolo.compiler import compile_offline
from pycolo.errors import VersionError
from pycolo.model import ColoPair
from pycolo.plan import Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import Schema

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "cookbook.md"
SHAPES = ROOT / "docs" / "reference" / "shapes.md"
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PAIR = re.compile(r"```toml\n(.*?)```", re.DOTALL)
PARTS = ("**What it is for.**", "```toml", "**What the guest sees.**", "**Check.**")
# The machine whose text says that it needs a newer QEMU, and the QEMUs that do not have it.
TOO_NEW = {("Much RAM: huge pages and several channels", version) for version in VERSIONS[:2]}


def sections() -> dict[str, str]:
    """Heading to text of each machine."""
    return dict(SECTION.findall(PAGE.read_text(encoding="utf-8")))


def declared(name: str) -> ColoPair:
    """The pair of a machine's file."""
    (text,) = PAIR.findall(sections()[name])
    return pairfile.loads(text)


@pytest.mark.parametrize("name", sections())
def test_a_machine_is_described_in_four_parts(name: str) -> None:
    """What it is for, its file, what the guest sees and what to check stand in this order."""
    places = [sections()[name].find(part) for part in PARTS]
    assert -1 not in places
    assert sorted(places) == places


def test_there_are_ten_machines_or_more() -> None:
    """No two of them are the same."""
    pairs = [declared(name) for name in sections()]
    assert 10 <= len(pairs)
    assert all(one != other for one, other in itertools.combinations(pairs, 2))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sections())
def test_a_machine_compiles_to_commands_that_its_qemu_accepts(
    name: str, version: Literal["7.2.22", "10.0.13", "11.1.3"]
) -> None:
    """Launch, start, each failover and each resume hold what the release's schema allows."""
    pair, schema = declared(name), Schema.packaged(version)
    if (name, version) in TOO_NEW:
        with pytest.raises(VersionError, match="multifd"):
            _plan(pair, "start", None, version)
        return
    for procedure, survivor in PROCEDURES:
        plan = _plan(pair, procedure, survivor, version)
        problems = [
            problem
            for command, oob in commands_of(plan)
            for problem in schema.check(command, oob=oob)
        ]
        assert [] == problems, procedure


def _plan(pair: ColoPair, procedure: Procedure, survivor: str | None, version: str) -> Plan:
    return compile_offline(procedure, pair, version=Version.parse(version), survivor=survivor)


def test_what_the_page_of_shapes_names_exists() -> None:
    """Each test that shows a shape to live is there."""
    named = TEST.findall(SHAPES.read_text(encoding="utf-8"))
    assert len(named) > len(sections()) // 2
    missing = [
        f"{path}::{name}"
        for path, name in named
        if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert [] == missing
