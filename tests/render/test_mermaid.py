"""Diagrams."""

from __future__ import annotations

import re

import attrs

from pycolo.model import ColoPair
from pycolo.render import mermaid


def test_names_cannot_leave_their_boxes(pair: ColoPair) -> None:
    """Ids are letters, digits and underscores; quotes and brackets in labels are entities."""
    disk = attrs.evolve(pair.disks[0], image='a"] --> x["<b>#1.qcow2')
    drawn = mermaid.render(attrs.evolve(pair, disks=(disk,)))
    assert "image: a#quot;] --#gt; x[#quot;#lt;b#gt;#35;1.qcow2" in drawn
    ids = re.findall(r"^    (\S+?)[\[(]", drawn, re.MULTILINE)
    assert [] == [name for name in ids if not re.fullmatch(r"\w+", name, re.ASCII)]
    assert len(set(ids)) == len(ids)
