"""The paths of the sockets on which supervisors and agents listen."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUFFIX: Final = ".sock"


def of_agents(folder: Path) -> Path:
    """The folder of the sockets of this host's agents.

    It is apart from the supervisors' folder: `pycolo run` has a supervisor execute a procedure, but
    not an agent.

    Args:
        folder: The folder of a supervisor's store.
    """
    return folder / "agents"


@contextmanager
def place(folder: Path, pair: str) -> Generator[str]:
    """A short path to a pair's socket, since the name of a socket has at most 107 bytes.

    Args:
        folder: The folder of the socket.
        pair: The pair's name.

    Yields:
        The path, which can be used inside the block only.

    Raises:
        OSError: There is no such folder, or it cannot be opened.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{pair}{SUFFIX}"
    finally:
        os.close(descriptor)
