"""A driver for a controller that is not asynchronous: each method may be called from any thread.

    python examples/driver.py PAIRFILE [protected | unprotected | stopped]

Brings the pair to what is wanted, and prints what it did. Without arguments it prints this text.
"""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self, get_args

from pycolo import Evidence, Report, Runner, hosts_of, load
from pycolo.controller import PairController, Round
from pycolo.reconcile import Decide, Settled, Want

ROUND_S = 7200.0
WANTS: dict[str, Want] = {want: want for want in get_args(Want)}


class Driver:
    """One pair, held from its creation to the end of the `with` block."""

    def __init__(self, pair_file: Path) -> None:
        self._pair = load(pair_file)
        self._runner = Runner()
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._controller = self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    async def _open(self) -> PairController:
        hosts = await self._stack.enter_async_context(hosts_of(self._pair))
        return await self._stack.enter_async_context(PairController(self._pair, hosts))

    def want(self, want: Want) -> Round:
        """Do what is next until the pair is as it is wanted, or until somebody is needed."""
        self._controller.want(want)
        while True:
            done = self._runner.run(self._controller.reconcile(), limit_s=ROUND_S)
            print(type(done.step).__name__, done.report.advice if done.report else done.why)
            if isinstance(done.step, Settled | Decide) or done.why:
                return done

    def died(self, evidence: Evidence) -> Report | None:
        """Fail over at once: the caller has fenced a QEMU, or has seen it end."""
        return self._runner.run(self._controller.died(evidence))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file, want] if want in WANTS:
            with Driver(Path(file)) as driver:
                driver.want(WANTS[want])
        case _:
            print(__doc__)
