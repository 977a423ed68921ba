"""`python -m benchmarks NAME ...`: run some benchmarks and print what they found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

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
from benchmarks.publishing import as_json, publish, redraw

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
    parser.add_argument("names", nargs="+", choices=("all", "redraw", *BENCHMARKS), metavar="NAME")
    parser.add_argument("--as", dest="form", choices=("table", "json", "svg"), default="table")
    parser.add_argument("--publish", action="store_true", help="write what the manual shows")
    chosen = parser.parse_args(arguments)
    if chosen.names == ["redraw"]:
        redraw()
        return
    names = BENCHMARKS if "all" in chosen.names else dict.fromkeys(chosen.names)
    figures = []
    for name in names:
        found = BENCHMARKS[name]()
        if chosen.publish:
            publish(name, found)
        figures += found
    if chosen.form == "json":
        print(as_json(figures), end="")
    elif chosen.form == "svg":
        print(plot(f"python -m benchmarks {' '.join(names)}", figures), end="")
    else:
        print(table(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
