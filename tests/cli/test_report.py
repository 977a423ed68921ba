"""`pycolo report`, and `--journal`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Pycolo

from pycolo import compile_offline, pairfile
from pycolo.journal import Journal
from pycolo.qmp.replies import Version
from pycolo.result import Done, NotRun, Outcome, Refused, Report


@pytest.fixture
def journal_file(tmp_path: Path, pair_file: Path) -> Path:
    """The journal of a failover that ended at its second step."""
    pair = pairfile.load(pair_file)
    plan = compile_offline("failover", pair, version=Version.parse("11.1.3"), survivor="beta")
    outcomes: dict[str, Outcome] = {step.address: NotRun() for step in plan.steps}
    with Journal(tmp_path / "journal") as journal:
        journal.plan_started(plan)
        endings: list[Outcome] = [Done(took_s=0.1), Refused(took_s=0.2, reason="not now")]
        for step, outcome in zip(plan.steps, endings, strict=False):
            journal.step_started(plan, step)
            journal.step_finished(plan, step.address, outcome)
            outcomes[step.address] = outcome
        journal.plan_finished(Report(plan=plan, outcomes=outcomes))
    return journal.path


def test_a_journal_is_drawn_on_the_terminal(pycolo: Pycolo, journal_file: Path) -> None:
    """A line a step that was reached, what was answered, and how it ended."""
    ended = pycolo("report", journal_file)
    assert (0, "") == (ended.code, ended.err)
    assert "done      beta/check/dead:alpha" in ended.out
    assert "not now" in ended.out
    assert "not reached: " in ended.out
    assert "failover ended at" in ended.out.splitlines()[-1]


def test_a_journal_is_drawn_as_a_page(pycolo: Pycolo, journal_file: Path) -> None:
    """With `--as html` the result is one page."""
    page = pycolo("report", journal_file, "--as", "html").out
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")


def test_a_journal_is_given_as_json(pycolo: Pycolo, journal_file: Path) -> None:
    """With `--as json` the result is the lines that were read, and whether one was cut."""
    with journal_file.open("a") as file:
        file.write('{"kind":')
    read = json.loads(pycolo("report", journal_file, "--as", "json").out)
    lines = journal_file.read_text().splitlines()[:-1]
    assert ([json.loads(line) for line in lines], True) == (read["lines"], read["cut"])


def test_what_is_no_journal_is_named(pycolo: Pycolo, pair_file: Path) -> None:
    """The error names the file and the line."""
    ended = pycolo("report", pair_file)
    assert 1 == ended.code
    assert f"pycolo: {pair_file}: line 1 must be JSON" in ended.err


def test_a_procedure_that_is_refused_leaves_no_journal(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path
) -> None:
    """Where nothing was executed there is nothing to read; a file that is there stays."""
    path = tmp_path / "new"
    assert 0 != pycolo("run", "failover", pair_file, "--journal", path).code
    assert not path.exists()
    path.write_text("mine")
    ended = pycolo("run", "failover", pair_file, "--journal", path)
    assert 64 == ended.code
    assert "mine" == path.read_text()
