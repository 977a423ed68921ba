"""`pycolo export`: a node's QEMU for another program."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.cli.conftest import Pycolo

from pycolo.libvirt import NAMESPACE

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "libvirt.md"


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """The pair file of the page about libvirt."""
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    path = tmp_path / "shop-db.toml"
    path.write_text(found[1], encoding="utf-8")
    return path


def _words(xml: str) -> list[str]:
    found = ET.fromstring(xml).iter(f"{{{NAMESPACE}}}arg")  # noqa: S314 - pycolo made it
    return [arg.attrib["value"] for arg in found]


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("--node", "alpha"), "-S"),
        (("--node", "beta"), "defer"),
        (("--node", "beta", "--role", "primary"), "-S"),
    ],
)
def test_a_domain_is_printed(
    pycolo: Pycolo, declared: Path, words: tuple[str, ...], last: str
) -> None:
    """The first node starts as primary, another one as secondary, unless a role is given."""
    ended = pycolo("export", "libvirt", declared, *words)
    assert (0, "") == (ended.code, ended.err)
    assert last == _words(ended.out)[-1]


def test_json_holds_the_same_document(pycolo: Pycolo, declared: Path) -> None:
    """A program reads what a person reads."""
    asked = ("export", "libvirt", declared, "--node", "beta")
    found = json.loads(pycolo(*asked, "--as", "json").out)
    assert pycolo(*asked).out == found.pop("xml")
    about = {"format_version": 1, "target": "libvirt", "node": "beta", "role": "secondary"}
    assert about == found


def test_a_program_without_its_path_is_refused(pycolo: Pycolo, pair_file: Path) -> None:
    """The pair file need not declare libvirt, but must name a program that libvirt takes."""
    ended = pycolo("export", "libvirt", pair_file, "--node", "alpha")
    assert (1, "") == (ended.code, ended.out)
    assert "Node.qemu_binary must be an absolute path" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("xen", "PAIR", "--node", "alpha"), "'xen' is not 'libvirt'"),
        (("libvirt", "PAIR", "--node", "delta"), "--node: node must be one of"),
        (("libvirt", "PAIR"), "Missing option '--node'"),
    ],
)
def test_wrong_words_are_usage_errors(
    pycolo: Pycolo, declared: Path, words: tuple[str, ...], message: str
) -> None:
    """What is wrong is named, and nothing is printed."""
    ended = pycolo("export", *(declared if word == "PAIR" else word for word in words))
    assert (64, "") == (ended.code, ended.out)
    assert message in ended.err
