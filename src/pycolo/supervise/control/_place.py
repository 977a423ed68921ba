"""Where the socket of a pair's supervisor lies."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUFFIX: Final = ".sock"


def of_agents(folder: Path) -> Path:
    """Where the sockets of this host's agents lie.

    Apart from a supervisor's, which executes what `run` is asked for.

    Args:
        folder: The folder of a store.
    """
    return folder / "agents"


@contextmanager
def place(folder: Path, pair: str) -> Generator[str]:
    """A way to a pair's socket that is short, since a socket's name has at most 107 bytes.

    Args:
        folder: The store's folder.
        pair: The pair's name.

    Yields:
        A path that is of use inside the block.

    Raises:
        OSError: There is no such folder, or it cannot be entered.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{pair}{SUFFIX}"
    finally:
        os.close(descriptor)
