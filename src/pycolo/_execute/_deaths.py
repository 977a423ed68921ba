"""Evidence that a QEMU has ended: given, saved with the plan, or asked of its host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from pycolo._execute._running import running
from pycolo.evidence import Evidence, Victim
from pycolo.hosts import Host
from pycolo.plan import Plan
from pycolo.session import Session
from pycolo.snapshot import Dead, Running


@final
class Deaths:
    """The evidence that QEMUs have ended, as far as one execution knows or finds it."""

    def __init__(
        self,
        plan: Plan,
        sessions: Mapping[str, Session],
        hosts: Mapping[str, Host],
        given: Mapping[str, Evidence],
        answer_s: float,
    ) -> None:
        """Keep the evidence that is known before the first step.

        Args:
            plan: The plan; evidence of kind `fence` in its prior state is an operator's statement.
            sessions: Node name to session.
            hosts: Node name to host.
            given: Node name to evidence that the caller has.
            answer_s: The time limit of one answer of a host, in seconds.
        """
        self._pair = plan.pair
        self._sessions = sessions
        declared = set(plan.pair.names)
        self._hosts = {name: host for name, host in hosts.items() if name in declared}
        self._answer_s = answer_s
        evidence = {**_saved(plan), **given}
        self._known = {n: e for n, e in evidence.items() if e.kind != "fence"}
        self._words = {n: e for n, e in evidence.items() if e.kind == "fence"}
        self._contradicted: dict[Victim, Running] = {}

    async def find(self, victim: Victim) -> Evidence | None:
        """Find evidence that a QEMU has ended; None if there is none.

        It is evidence that was given or found before, an operator's statement that nothing
        contradicts, or what the QEMU's host says now.
        """
        await self._examine(victim)
        known = self._known.get(victim.node)
        if known is not None and known.proves(victim):
            return known
        host = self._hosts.get(victim.node)
        found = None
        if host is not None:
            found = await host.death(self._pair, victim, limit_s=self._answer_s)
        if found is not None:
            self._known[victim.node] = found
        return found

    def known(self, victim: Victim) -> Evidence | None:
        """The evidence found so far that this QEMU has ended; nothing is asked."""
        evidence = self._known.get(victim.node)
        return evidence if evidence is not None and evidence.proves(victim) else None

    async def alive(self, victim: Victim) -> Running | None:
        """A QEMU that is known to run on the victim's node; None if none is known to.

        Call it only if there is no evidence that the victim has ended.
        """
        return self._contradicted.get(victim) or await self.running(victim.node)

    async def running(self, node: str) -> Running | None:
        """The QEMU that is known to run on a node now; None if none is known to."""
        return await running(self._pair, node, self._sessions.get(node), self._hosts.get(node))

    async def _examine(self, victim: Victim) -> None:
        """Accept an operator's statement, once, unless that QEMU is known to run.

        The statement may have become false since it was made. If the QEMU or its host answers, that
        answer overrides the statement.
        """
        word = self._words.get(victim.node)
        if word is None or not word.proves(victim):
            return
        del self._words[victim.node]
        found = await self.running(victim.node)
        if found is not None and found.instance in ("", victim.instance):
            self._contradicted[victim] = found
        else:
            self._known[victim.node] = word


def _saved(plan: Plan) -> dict[str, Evidence]:
    """The evidence of kind `fence` in a plan's prior state.

    Evidence of another kind is not taken from the plan: the host is asked again.
    """
    dead = {n: s.evidence for n, s in plan.prior_state.nodes.items() if isinstance(s, Dead)}
    return {n: e for n, e in dead.items() if isinstance(e, Evidence) and e.kind == "fence"}
