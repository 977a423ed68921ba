"""A fuse process for each test."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fuse.guarded import Fuse, fuse_folder, running


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder that a fuse can use."""
    with fuse_folder() as made:
        yield made


@pytest.fixture
def stopped_fuse(folder: Path) -> Generator[Fuse]:
    """A fuse that does not run yet."""
    with running(folder) as made:
        yield made


@pytest.fixture
def fuse(stopped_fuse: Fuse) -> Fuse:
    """A fuse that runs."""
    stopped_fuse.start()
    return stopped_fuse
