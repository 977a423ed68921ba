"""Every command line and every pair file in the manual is one that pycolo takes."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Pycolo

from pycolo import pairfile
from pycolo.cli._app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^ *pycolo .*", re.MULTILINE)
INDENTED = re.compile(r"^ {4,}pycolo .*", re.MULTILINE)
PAIR = re.compile(r"```toml\n(format_version.*?)```", re.DOTALL)
# These ask nobody: they are run, in the order of their page. The others are parsed.
OFFLINE = ("plan", "diff", "explain", "schema", "validate")
VERSIONS = {"start-7.2.json": "7.2.22", "start-11.1.json": "11.1.3"}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command on a page, without what a shell would do with its output."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(SHELL.findall(text))
    for line in (*COMMAND.findall(blocks), *INDENTED.findall(SHELL.sub("", text))):
        words = shlex.split(line, comments=True)
        kept = [word for word in words if not word.startswith(">")]
        cut = words.index(">") if ">" in words else len(words)
        yield [word for word in words[:cut] if word in kept]


def name_of(page: Path) -> str:
    """A page's path inside the manual, since two folders may have pages of one name."""
    return page.relative_to(ROOT / "docs").as_posix()


def all_commands() -> list[object]:
    """Each page with its commands."""
    return [pytest.param(page, id=name_of(page)) for page in PAGES if any(commands(page))]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pycolo: Pycolo) -> Path:
    """A folder with every file that the manual names."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("pair.toml", "old.toml", "new.toml"):
        shutil.copy(ROOT / "examples" / "pair.toml", tmp_path / name)
    declared = pairs(ROOT / "docs" / "how-to" / "two-hosts.md")[0]
    (tmp_path / "shop-db.toml").write_text(declared)
    other = declared.replace("shop-db", "shop-web") + "[ports]\nbase = 9120\n"
    (tmp_path / "shop-web.toml").write_text(other)
    laptop = pairs(ROOT / "docs" / "how-to" / "growing.md")[0]
    (tmp_path / "laptop.toml").write_text(laptop)
    (tmp_path / "failover.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    for name, version in VERSIONS.items():
        made = pycolo("plan", "start", "pair.toml", "--qemu", version, "--as", "json")
        (tmp_path / name).write_text(made.out)
    shutil.copy(tmp_path / "start-11.1.json", tmp_path / "start.json")
    return tmp_path


def pairs(page: Path) -> list[str]:
    """The pair files on a page."""
    return PAIR.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", all_commands())
@pytest.mark.usefixtures("place")
def test_every_command_of_the_manual_is_taken(page: Path, pycolo: Pycolo) -> None:
    """What can be run without a QEMU is run; of the others every option and file is taken."""
    for _, verb, *words in commands(page):
        if verb in OFFLINE and "--live" not in words:
            # A shell would name the files: here there is one.
            ended = pycolo(verb, *("pair.toml" if "*" in word else word for word in words))
            assert ended.code in (0, 2), (verb, words, ended.err)
        else:
            with app.commands[verb].make_context(verb, list(words)) as context:
                assert context.params or not app.commands[verb].params


@pytest.mark.parametrize("page", [pytest.param(p, id=name_of(p)) for p in PAGES if pairs(p)])
def test_every_pair_file_of_the_manual_is_valid(page: Path) -> None:
    """A reader who copies it has a pair."""
    assert all(pairfile.loads(text).names for text in pairs(page))


# Their sections are run by tests of their own: on real QEMU, and against a running supervisor.
RUN_ELSEWHERE = {
    "recover.md": "qemu/test_recover_page.py",
    "monitoring.md": "supervise/test_alert_rules.py",
    "tls.md": "qemu/test_tls.py",
}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/how-to/*.md")), ids=lambda page: page.name)
def test_every_how_to_has_an_example_that_is_run(page: Path) -> None:
    """Something on each page is executed by the tests, so that it cannot become false."""
    if page.name in RUN_ELSEWHERE:
        text = (ROOT / "tests" / RUN_ELSEWHERE[page.name]).read_text(encoding="utf-8")
        assert page.name in text
    else:
        offline = [
            words for words in commands(page) if words[1] in OFFLINE and "--live" not in words
        ]
        assert offline or "```{doctest}" in page.read_text(encoding="utf-8")
