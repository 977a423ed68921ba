"""Compile a procedure offline and print it: no QEMU is asked, nothing is changed.

    python examples/print_plan.py [PAIRFILE [PROCEDURE]]

Without arguments it takes the pair beside it, and `start`.
"""

import sys
from pathlib import Path
from typing import get_args

import pycolo
from pycolo.plan import Procedure
from pycolo.render import text

EXAMPLE = Path(__file__).parent / "pair.toml"
PROCEDURES: dict[str, Procedure] = {name: name for name in get_args(Procedure)}


def main(pair_file: Path = EXAMPLE, procedure: Procedure = "start") -> None:
    """Print what the procedure does to the pair, with QEMU 11.1.3 on both nodes."""
    pair = pycolo.load(pair_file)
    plan = pycolo.compile_offline(procedure, pair, version=pycolo.Version.parse("11.1.3"))
    print(text.render(plan))
    print("the guest serves again after:", plan.restored_after)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file]:
            main(Path(file))
        case [file, name]:
            main(Path(file), PROCEDURES[name])
        case _:
            main()
