"""The command `pycolo-fuse`, also as `python -m pycolo.fuse`."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Final, NoReturn

from pycolo.fuse._folder import Folder
from pycolo.fuse._kernel import take_precedence
from pycolo.fuse._requests import Refused
from pycolo.fuse._server import Server, log

REFUSED: Final = 1


def main() -> NoReturn:
    """Guard QEMUs until a signal ends the process; the next process guards them again.

    Raises:
        SystemExit: An argument is wrong, or the folder or the socket in it cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="pycolo-fuse",
        description="Stop the QEMU of a primary when its permission to run is not renewed in time.",
    )
    place = "its folder, on a tmpfs and for its user alone: holds fuse.sock, and what is armed"
    parser.add_argument("--run-dir", required=True, metavar="DIR", help=place)
    arguments = parser.parse_args()
    # The process has nothing to clean up, so SIGINT may end it at any moment.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = Server(Folder(arguments.run_dir))
    except (Refused, OSError) as error:
        log(f"pycolo-fuse: {error}")
        sys.exit(REFUSED)
    for refused in take_precedence():
        log(refused)
    server.run()


if __name__ == "__main__":
    main()
