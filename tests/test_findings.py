"""Findings: each code has a meaning, and each is raised by somebody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pycolo
from pycolo.findings import MEANINGS, Code

SOURCE = Path(pycolo.__file__).parent


def test_every_code_has_a_meaning() -> None:
    """`explain` knows each, in whole sentences."""
    assert set(get_args(Code)) == set(MEANINGS)
    assert [] == [code for code, meaning in MEANINGS.items() if not meaning.endswith(".")]


def test_every_code_is_found_somewhere() -> None:
    """No code is left of a refusal that is gone."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")]
    made = r'(?:(?:compile_error|undecided)\(\s*|code=|found\(\s*(?:level|"[a-z]+"),\s*)"([a-z-]+)"'
    raised = {code for text in texts for code in re.findall(made, text)}
    assert set(get_args(Code)) == raised
