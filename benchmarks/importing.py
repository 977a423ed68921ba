"""How long `import pycolo` takes, beside the three packages that it cannot do without."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.measure import Figure, compared, timed_s

RUNS = 21
PACKAGES = "import asyncio, attrs, qemu.qmp"
OURS = {
    "import pycolo": 1.5,
    "import pycolo; pycolo.ColoPair, pycolo.load": None,
    "import pycolo; pycolo.start": None,
    "from pycolo import *": None,
}


def run() -> list[Figure]:
    """Start a new Python for each, in turns."""
    times: dict[str, list[float]] = {code: [] for code in (PACKAGES, *OURS)}
    for code in times:
        _python(code)
    for _ in range(RUNS):
        for code, found in times.items():
            found.append(timed_s(partial(_python, code)))
    theirs = (PACKAGES, times[PACKAGES])
    figures: list[Figure] = []
    for code, at_most in OURS.items():
        new = compared("import", (code, times[code]), theirs, at_most=at_most)
        figures += [figure for figure in new if figure not in figures]
    return figures


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - the code is above
