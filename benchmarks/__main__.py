"""`python -m benchmarks NAME ...`: run some benchmarks and print what they found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping

import attrs

from benchmarks import (
    answering,
    arbitrating,
    compiling,
    dying,
    executing,
    failing_over,
    fleet,
    importing,
    probing,
    ram,
    resuming,
    serving,
    supervised_fleet,
    supervising,
)
from benchmarks.measure import Figure, table
from benchmarks.plotting import plot

BENCHMARKS: Mapping[str, Callable[[], list[Figure]]] = {
    "import": importing.run,
    "compile": compiling.run,
    "execute": executing.run,
    "failover": failing_over.run,
    "failover-ping": answering.run,
    "death": dying.run,
    "resume": resuming.run,
    "ram": ram.run,
    "probe": probing.run,
    "fleet": fleet.run,
    "supervised-fleet": supervised_fleet.run,
    "supervise": supervising.run,
    "supervise-ram": supervising.run_by_ram,
    "supervise-client": serving.run,
    "arbiter": arbitrating.run,
}


def main(arguments: list[str]) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=("all", *BENCHMARKS), metavar="NAME")
    parser.add_argument("--as", dest="form", choices=("table", "json", "svg"), default="table")
    chosen = parser.parse_args(arguments)
    names = BENCHMARKS if "all" in chosen.names else dict.fromkeys(chosen.names)
    figures = [figure for name in names for figure in BENCHMARKS[name]()]
    if chosen.form == "json":
        print(json.dumps([attrs.asdict(figure) for figure in figures], indent=2))
    elif chosen.form == "svg":
        print(plot(f"python -m benchmarks {' '.join(names)}", figures), end="")
    else:
        print(table(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
