"""The demo where QEMU cannot be had: a life on fakes, and no pretence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pycolo.cli._app import app
from pycolo.demo import fakes


def test_a_life_on_fakes_loses_nothing_and_says_what_it_is() -> None:
    """Start, three failovers and two resumes; every acknowledged write is there each time."""
    told: list[str] = []
    life = fakes.run("no mirror", told.append)

    assert ["start", "failover", "resume", "failover", "resume", "failover"] == [
        chapter.what for chapter in life.chapters
    ]
    assert [0] * 6 == [chapter.lost for chapter in life.chapters]
    assert 6 * fakes.WRITES == life.chapters[-1].acknowledged
    assert "FakeQemu 11.1.3, not a real QEMU: no mirror" == life.lines()[0]
    assert 9 == len(told)


def test_the_demo_falls_back_to_fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nowhere to fetch QEMU from, the demo runs on fakes and names the reason."""
    monkeypatch.setenv("PYCOLO_CACHE", str(tmp_path))
    monkeypatch.setenv("PYCOLO_DEBIAN_MIRROR", f"file://{tmp_path}/none")

    ended = CliRunner().invoke(app, ["demo", "--as", "json"])
    told = json.loads(ended.stdout)

    assert (0, True, True) == (ended.exit_code, told["fake"], told["ok"])
    assert told["why"]
