"""After a step that was not done: recover the guest, and find out what its command did."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, final

from pycolo import effects
from pycolo._probe import read as probe_node
from pycolo.errors import RemoteError
from pycolo.hosts import Host
from pycolo.observers import Observer
from pycolo.plan import Execute, Plan, Recovery, Step
from pycolo.record import PairRecord
from pycolo.result import Outcome, Refused
from pycolo.session import Session
from pycolo.snapshot import Live

_LOG: Final = logging.getLogger("pycolo.execute")
_AFTER_S: Final = 5.0


@final
class Aftermath:
    """The recoveries of one execution, and the check whether an unanswered command took effect."""

    def __init__(
        self,
        plan: Plan,
        sessions: Mapping[str, Session],
        hosts: Mapping[str, Host],
        *,
        written: Mapping[str, PairRecord],
        tell: Callable[[Callable[[Observer], None]], None],
        answer_s: float,
    ) -> None:
        """Keep the arguments for the time when a step is not done.

        Args:
            plan: The plan.
            sessions: Node name to session.
            hosts: Node name to host.
            written: Node name to the record that this execution last wrote there.
            tell: Passes the observer to the function that it is given; errors are logged.
            answer_s: The time limit of one answer, in seconds.
        """
        self._plan = plan
        self._sessions = sessions
        self._hosts = hosts
        self._written = written
        self._tell = tell
        self._answer_s = answer_s
        self._lost: set[str] = set()
        self._place = {step.address: n for n, step in enumerate(plan.steps)}
        self.outcomes: dict[str, Outcome] = {}
        "Address of a recovery step to its outcome."

    # -- recovery

    def is_inside(self, position: int) -> bool:
        """Whether a step is in a range that has a recovery, after the first step of the range."""
        return any(
            self._place[recovery.first] < position <= self._place[recovery.last]
            for recovery in self._plan.recoveries
        )

    async def recover(self, position: int, attempt: Callable[[Step], Awaitable[Outcome]]) -> None:
        """Send the recoveries of the ranges that execution ends in.

        Args:
            position: The index in the plan of the step at which execution ends.
            attempt: Executes a step and returns its outcome.
        """
        for recovery in self._ranges(position):
            why = await self._may_not(recovery)
            if why is not None:
                _LOG.warning("the recovery is not sent: %s", why)
                refused = Refused(took_s=0.0, reason=why)
                self.outcomes |= {step.address: refused for step in recovery.steps[:1]}
                continue
            self._tell(_started(self._plan, recovery))
            for step in recovery.steps:
                if step.address not in self.outcomes:
                    self.outcomes[step.address] = await attempt(step)

    async def _may_not(self, recovery: Recovery) -> str | None:
        """Why a recovery must not be sent; None if it may.

        The session is also the lock on its node. While the session was lost, another controller may
        have changed the pair. So the session is reopened, and then the node's record must be the
        one that this execution last wrote.
        """
        for node in recovery.nodes:
            session = self._sessions.get(node)
            if session is None or (session.closed and not await self._reopened(session)):
                return f"there is no connection to {node}"
            if node not in self._lost:
                continue
            host, ours = self._hosts.get(node), self._written.get(node)
            if host is None or ours is None:
                return f"the connection to {node} was lost, and no record of ours tells whose it is"
            found = await host.observe(self._plan.pair, node, limit_s=self._answer_s)
            if found.record != ours:
                return f"the connection to {node} was lost, and its record is not ours any more"
        return None

    def _ranges(self, position: int) -> list[Recovery]:
        """The recoveries whose range contains a position, the innermost range first."""
        inside = (
            recovery
            for recovery in self._plan.recoveries
            if self._place[recovery.first] <= position <= self._place[recovery.last]
        )
        return sorted(inside, key=lambda recovery: -self._place[recovery.first])

    # -- a command without an answer

    async def happened(self, position: int, step: Execute) -> bool | None:
        """Whether a command that was not answered took effect; None if that cannot be known.

        The node is read over its session, which is reopened if it was lost.

        Args:
            position: The index of the step in the plan.
            step: The step with the command.
        """
        # A reply shows that nothing older is pending: on one connection QEMU replies in order, and
        # on a new connection it answers the negotiation after every command sent before.
        session = self._sessions[step.node]
        if session.closed and not await self._reopened(session):
            return None
        plan = self._plan
        before = effects.fold(plan.pair, plan.qemu, plan.prior_state, plan.steps[:position])
        known, found = before.live(step.node), await probe_node(session, limit_s=_AFTER_S)
        if known is None or not isinstance(found, Live):
            return None
        return effects.took_effect(known, step.command, found)

    async def _reopened(self, session: Session) -> bool:
        """Reopen a session that was lost; False, and a warning is logged, if that fails."""
        self._lost.add(session.node)
        try:
            await session.reopen(limit_s=self._answer_s)
        except RemoteError as error:
            _LOG.warning("%s could not be reached again: %s", session.node, error)
            return False
        return True


def _started(plan: Plan, recovery: Recovery) -> Callable[[Observer], None]:
    """The call that tells an observer that a recovery begins."""
    return lambda observer: observer.recovery_started(plan, recovery)
