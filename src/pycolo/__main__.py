"""`python -m pycolo`: the command line, where its script is not on PATH."""

from __future__ import annotations

from pycolo.cli import main

if __name__ == "__main__":
    main()
