"""Where the socket of a pair's supervisor lies."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUFFIX: Final = ".sock"


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
