"""A real pair under `pycolo supervise`, and what a person types meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_life import UNSHARE, folder

__all__ = ("folder",)

# What is asked for, and on standard output what each command ended with.
LIFE = """
ip link set lo up
pycolo() { "$python" -m pycolo "$@"; }
ended() { echo "$1 $2"; }
printf '\ncheckpoint_delay_ms = 500\n' >head.toml
{ head -n 2 pair.toml; cat head.toml; tail -n +3 pair.toml; } >kept.toml
"$python" -m pycolo supervise kept.toml --store store >events.txt 2>&1 &
keeper=$!
"$python" -m pycolo status --watch --as json kept.toml --store store >watch.txt 2>watch-errors.txt &
watcher=$!
protected() { until tail -n 1 watch.txt | grep -q "$1.*\\"protected\\":true"; do sleep 0.2; done; }
protected '{"alpha":"protected","beta":"protected"}'
pycolo run checkpoint kept.toml --store store >checkpoint.txt 2>&1; ended checkpoint $?
pycolo measure kept.toml --seconds 5 --store store >measure.txt 2>&1; ended measure $?
pycolo run switch-over kept.toml --store store --as json >over.json 2>over.txt; ended over $?
pycolo run stop kept.toml --store store >stop.txt 2>&1; ended stop $?
protected '{"beta":"protected","alpha":"protected"}'
pycolo fenced kept.toml beta --how 'said so' --store store >alive.txt 2>&1; ended fenced $?
pycolo pause kept.toml --why 'work' --store store >pause.txt 2>&1; ended pause $?
pycolo run set-checkpoint-delay kept.toml --ms 700 --store store >delay.txt 2>&1; ended delay $?
pycolo status kept.toml --check --store store >status.txt 2>&1; ended status $?
pycolo unpause kept.toml --store store >unpause.txt 2>&1; ended unpause $?
protected '{"beta":"protected","alpha":"protected"}'
kill $watcher
kill $keeper; wait $keeper; ended supervise $?
pycolo measure kept.toml --seconds 5 --store store --as json >alone.json 2>&1; ended measure $?
"""


@pytest.mark.qemu
@pytest.mark.timeout(180)
def test_a_person_and_a_supervisor_share_a_pair(folder: Path) -> None:
    """Each command is done by the supervisor, or here in a pause, or refused with what to type."""
    done = subprocess.run(
        [*UNSHARE, "env", f"python={sys.executable}", "sh", "-c", LIFE],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    told = {path.name: path.read_text() for path in folder.glob("*.txt")}
    assert (
        """\
checkpoint 0
measure 0
over 0
stop 4
fenced 4
pause 0
delay 0
status 0
unpause 0
supervise 0
measure 0
"""
        == done.stdout
    ), (done.stdout, done.stderr, told)
    assert "checkpoint: " in told["checkpoint.txt"]
    report = json.loads((folder / "over.json").read_text())
    assert ("switch-over", None) == (report["plan"]["procedure"], report["failed"])
    assert "exit" == report["evidence"]["alpha"]["kind"]
    assert "holds its control monitors; type `pycolo want unprotected" in told["stop.txt"]
    assert "the QEMU of beta has not ended: it takes connections" in told["alive.txt"]
    assert told["status.txt"].startswith("colo: protected")
    assert "suggested delay: " in told["measure.txt"]
    alone = json.loads((folder / "alone.json").read_text().partition("\n")[2])
    assert 700 == alone["delay_ms"]
    seen = [json.loads(line) for line in told["watch.txt"].splitlines()]
    views = [line for line in seen if line["supervised"]]
    assert views[-1]["protected"]
    epochs = [view["epoch"] for view in views if view["epoch"] is not None]
    assert sorted(epochs) == epochs
    assert not [view["person"] for view in views if view["person"]]
