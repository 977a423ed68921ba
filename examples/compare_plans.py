"""Compare two plans: what another QEMU version, or another declaration, changes.

    python examples/compare_plans.py [PAIRFILE [OTHER_PAIRFILE]]

With one pair file, `start` on QEMU 7.2.22 is compared with `start` on 11.1.3.
"""

import sys
from pathlib import Path

from pycolo import Version, compile_offline, load
from pycolo.diff import diff
from pycolo.render import text

EXAMPLE = Path(__file__).parent / "pair.toml"
OLD, NEW = Version.parse("7.2.22"), Version.parse("11.1.3")


def main(pair_file: Path = EXAMPLE, other_file: Path | None = None) -> None:
    """Print what differs."""
    pair = load(pair_file)
    if other_file is None:
        first = compile_offline("start", pair, version=OLD)
        second = compile_offline("start", pair, version=NEW)
    else:
        first = compile_offline("start", pair, version=NEW)
        second = compile_offline("start", load(other_file), version=NEW)
    found = diff(first, second)
    print(text.render_diff(found) if found else "the plans are equal")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
