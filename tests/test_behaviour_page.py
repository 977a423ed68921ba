"""docs/qemu-behaviour.md, what cites it, and the tests it names."""

import re
from collections.abc import Iterator
from pathlib import Path

from pycolo import catalogue, features

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "qemu-behaviour.md"
CITING = ("src", "tests", "docs", "examples", "benchmarks")
NUMBER = r"\d+(?:\.\d+)?"
# A citation may be broken over two lines, inside a comment, a docstring or two strings.
BREAK = r"[\s#\"'f]*\s"
CITATION = re.compile(rf"qemu-behaviour{BREAK}({NUMBER}(?:(?:,| and| to){BREAK}{NUMBER})*)")
ENTRY = re.compile(r"^### (\d+\.\d+) .*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def entries() -> dict[str, str]:
    """Number to text of each entry."""
    return {found[1]: found[0] for found in ENTRY.finditer(PAGE.read_text(encoding="utf-8"))}


def numbers_in(citation: str) -> Iterator[str]:
    """The numbers of one citation; a range stands for what lies between its ends as well."""
    yield from re.findall(NUMBER, citation)
    for first, last in re.findall(rf"({NUMBER}) to ({NUMBER})", citation):
        yield from (n for n in entries() if _place(first) < _place(n) < _place(last))


def _place(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))


def cited() -> Iterator[tuple[str, str]]:
    """Each number that something cites, with the file that does."""
    for folder in CITING:
        for suffix in ("py", "md"):
            for path in sorted((ROOT / folder).rglob(f"*.{suffix}")):
                text = path.read_text(encoding="utf-8")
                for found in CITATION.finditer(text):
                    for number in numbers_in(found[1]):
                        yield number, str(path.relative_to(ROOT))
    for row in features.TABLE:
        for number in row.source.split(", "):
            yield number, "pycolo.features.TABLE"
    for entry in catalogue.ENTRIES:
        yield entry.source, f"pycolo.catalogue, {entry.name}"


def test_what_is_cited_is_on_the_page() -> None:
    """No citation leads nowhere; a part may be cited as a whole."""
    page = PAGE.read_text(encoding="utf-8")
    parts = re.findall(r"^## (\d+)\. ", page, re.MULTILINE)
    known = {*parts, *entries()}
    assert [] == [f"{number} in {path}" for number, path in cited() if number not in known]


def test_what_is_on_the_page_is_cited() -> None:
    """The page holds what pycolo relies on, and nothing else."""
    relied_on = {number for number, _ in cited()}
    relied_on |= {n for part in relied_on if "." not in part for n in entries() if _in(part, n)}
    assert [] == [number for number in entries() if number not in relied_on]


def _in(part: str, number: str) -> bool:
    return number.startswith(f"{part}.")


def test_numbers_rise() -> None:
    """Entries stand in the order of their numbers, each once."""
    numbers = [_place(number) for number in entries()]
    assert sorted(set(numbers)) == numbers


def test_each_entry_says_where_it_was_seen_and_what_holds_it() -> None:
    """Versions and tests are named, or it is said that there is no test."""
    lacking = [
        number
        for number, text in entries().items()
        if "\n- Versions: " not in text
        or not (re.search(r"^- Test: none\.$", text, re.MULTILINE) or TEST.search(text))
    ]
    assert [] == lacking


def test_every_test_that_is_named_exists() -> None:
    """The page names no test that was renamed or taken away."""
    missing = [
        f"{number}: {path}::{name}"
        for number, text in entries().items()
        for path, name in TEST.findall(text)
        if not _defines(ROOT / path, name)
    ]
    assert [] == missing


def _defines(path: Path, name: str) -> bool:
    return path.is_file() and f"def {name}(" in path.read_text(encoding="utf-8")
