"""The command line `pycolo`, also started by `python -m pycolo`."""

from __future__ import annotations

import sys
from typing import NoReturn

REFUSED = 1


def main() -> NoReturn:
    """Run the command line; an interruption (Ctrl-C) during its import prints no traceback.

    Raises:
        SystemExit: Always, with one of the documented exit codes.
    """
    try:
        from pycolo import cli  # noqa: PLC0415 - it takes a while, and may be interrupted
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(REFUSED)
    cli.main()


if __name__ == "__main__":
    main()
