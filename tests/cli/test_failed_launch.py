"""A launch that QEMU refuses: its own words are said once, wherever one looks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from tests.qemu.life import bios_pair, loopback, nodes, pair_folder

from pycolo import pairfile
from pycolo.demo.guests import bios_guest

pytestmark = pytest.mark.qemu
WORDS = "'no-such-card' is not a valid device model name"


@pytest.fixture
def wrong_pair() -> Iterator[Path]:
    """The file of a pair with a card that no QEMU has."""
    with pair_folder() as folder, loopback() as net:
        pair = bios_pair(nodes(folder, "11.1", net), "tcg")
        card = attrs.evolve(pair.chains[0], model="no-such-card", vnet_hdr=False)
        pair = attrs.evolve(pair, chains=(card,))
        bios_guest(Path(pair.nodes[0].image_path(pair.disks[0].image)))
        path = folder / "pair.json"
        path.write_text(pairfile.dumps(pair))
        yield path


@pytest.mark.parametrize("options", [(), ("-v",), ("-q",)])
def test_in_one_place_its_words_stand_once(wrong_pair: Path, options: tuple[str, ...]) -> None:
    """Progress and report are in one log."""
    argv = (sys.executable, "-m", "pycolo", "run", "launch", str(wrong_pair), *options)
    done = subprocess.run(
        argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (3, 1) == (done.returncode, done.stdout.count(WORDS)), done.stdout
    assert WORDS in done.stdout.splitlines()[-1]


def test_in_two_places_its_words_stand_once_in_each(wrong_pair: Path) -> None:
    """Whoever reads only one of them learns why."""
    argv = (sys.executable, "-m", "pycolo", "run", "launch", str(wrong_pair))
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert 3 == done.returncode
    assert (1, 1) == (done.stdout.count(WORDS), done.stderr.count(WORDS)), done
