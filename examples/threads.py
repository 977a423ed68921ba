"""pycolo in a program that is not asynchronous: one Runner, used by many threads.

    python examples/threads.py [PAIRFILE ...]

Reads several pairs at once, each from a thread of its own, over the observer monitors: whoever
holds the control monitors is not disturbed. Nothing is changed.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pycolo import Snapshot, load
from pycolo.blocking import Runner
from pycolo.operate import status
from pycolo.render import text

EXAMPLE = Path(__file__).parent / "pair.toml"
READ_S = 30.0


def main(*pair_files: Path) -> None:
    """Print how each pair stands."""
    with Runner() as runner, ThreadPoolExecutor() as pool:

        def read(pair_file: Path) -> Snapshot:
            return runner.run(status(load(pair_file)), limit_s=READ_S)

        for pair_file, snapshot in zip(pair_files, pool.map(read, pair_files), strict=True):
            print(f"{pair_file}: {text.verdict(snapshot)}")


if __name__ == "__main__":
    main(*(map(Path, sys.argv[1:]) if sys.argv[1:] else (EXAMPLE,)))
