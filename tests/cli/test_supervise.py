"""`pycolo supervise --http`: what it serves, and which addresses it refuses."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.cli.conftest import PAIR, Pycolo

from pycolo.supervise import Store

WITHOUT_AIOHTTP = """
import sys
sys.modules["aiohttp"] = None
from pycolo import cli
cli.main(sys.argv[1:])
"""

LIMIT_S = 20.0


@pytest.fixture
def paused(tmp_path: Path) -> tuple[str, ...]:
    """The words after `pycolo` that supervise a pair of which nothing may be launched."""
    pair_file, folder = tmp_path / "pair.toml", tmp_path / "store"
    pair_file.write_text(PAIR.format(run_dir=tmp_path))
    with Store(folder) as store:
        store.pause("colo", "by the test")
    return ("supervise", str(pair_file), "--store", str(folder))


def asked(port: int) -> tuple[str, str | None]:
    """The name of the only pair on the pages, and why it is paused."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as way:
        way.request("GET", "/pairs")
        (pair,) = json.load(way.getresponse())["pairs"]
    return pair["pair"], pair["paused"]


def test_pages_are_served_until_it_ends(paused: tuple[str, ...]) -> None:
    """It says where, answers there, and ends with SIGTERM as it does without."""
    command = (sys.executable, "-m", "pycolo", *paused, "--http", "127.0.0.1:0")
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stderr.readline())
            assert found is not None
            # The pages are there first; what is wanted is read when the pair's turn has come.
            deadline_s = time.monotonic() + LIMIT_S
            while (seen := asked(int(found[1]))) != ("colo", "by the test"):
                assert time.monotonic() < deadline_s, seen
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (0, "ending; every QEMU keeps running\n") == (process.returncode, rest)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0:9876", "must be a loopback address"),
        ("192.0.2.1:9876", "must be a loopback address"),
        ("127.0.0.1", "must be HOST:PORT"),
        ("127.0.0.1:99999", "must be within 0 to 65535"),
    ],
)
def test_other_addresses_are_refused(
    pycolo: Pycolo, paused: tuple[str, ...], address: str, why: str
) -> None:
    """Before anything is kept, as wrong usage, with the rule."""
    ended = pycolo(*paused, "--http", address)
    assert (64, "") == (ended.code, ended.out)
    assert f"'--http': '{address}' {why}" in ended.err


def test_missing_extra_is_named(paused: tuple[str, ...]) -> None:
    """What to install, in place of a traceback."""
    command = (sys.executable, "-c", WITHOUT_AIOHTTP, *paused, "--http", "127.0.0.1:0")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert (64, "") == (done.returncode, done.stdout)
    assert "install pycolo with its extra http" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_extra_is_imported_where_it_is_used_alone() -> None:
    """Who serves no pages needs no library for them."""
    program = (
        "import sys, pycolo.supervise, pycolo.cli;"
        "assert not {'aiohttp', 'prometheus_client'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd="/")
    assert 0 == done.returncode
