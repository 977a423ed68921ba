"""Every number of disks and cards, on every wire, in every dialect."""

from __future__ import annotations

import json
from typing import Final

import pytest
from tests.compiler.cases import VERSIONS, commands_of
from tests.compiler.product import BLOCKS, FILE, Block, line, plans

from pycolo.qmp.schema import Schema

GOLDEN: Final = FILE.read_text().splitlines()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_shape_compiles_to_its_golden_line(block: Block) -> None:
    """What is done is what it was, and each command passes the schema of its QEMU.

    To accept what has changed, run `python -m tests.compiler.product`.
    """
    (version,) = (known for known in VERSIONS if known == block.version)
    schema, known = Schema.packaged(version), set[str]()
    written: list[str] = []
    for name, made in plans(block):
        written.append(line(name, made))
        for command, oob in (one for plan in made for one in commands_of(plan)):
            # A hundred plans share most of their commands.
            text = json.dumps([command.to_qmp(), oob])
            if text not in known:
                known.add(text)
                assert [] == list(schema.check(command, oob=oob)), (name, text)
    assert [text for text in GOLDEN if text.startswith(f"{block} ")] == written


def test_the_golden_file_has_no_line_of_another_shape() -> None:
    """Each line belongs to a block, and each block has twelve."""
    found = [text.split(" ", 3)[:3] for text in GOLDEN]
    assert [str(block).split() for block in BLOCKS for _ in range(12)] == found
