"""Checks of what a person asks of a keeper."""

from __future__ import annotations

import asyncio
from typing import Final, final

import attrs

from pycolo.errors import CompileError, RemoteError, compile_error, undecided
from pycolo.evidence import Evidence, Victim, node_of
from pycolo.hosts import Host
from pycolo.hosts.requests import now
from pycolo.model.node import Monitor
from pycolo.plan import Procedure
from pycolo.record import PairRecord

COMPILE_S: Final = 20.0
"How long reading the pair may take before a procedure, in seconds."
_REACHED_S: Final = 2.0
_HARMLESS: Final = frozenset[Procedure](("checkpoint", "set-checkpoint-delay"))
"They write no record and end no QEMU, so that an agent, which uses the monitors, may do them."
_LATER: Final = "try again once `pycolo status --watch` says that it is done"


@final
@attrs.frozen(kw_only=True)
class Readiness:
    """What a keeper knows of its pair when a person asks for something."""

    pair: str
    "The pair's name."
    paused: str | None
    "Who paused the pair's supervision, and when; None if it is not paused."
    is_protected: bool
    "Each node may continue alone, and nothing says that a QEMU has ended or that a write is lost."
    is_acting: bool
    "A plan is executed."
    claims: str | None
    "The node that is about to run alone; None for none."
    stands: str
    "How the pair stood at the last observation; empty before the first one."
    spare: str | None
    "The node of this agent, if two other nodes are protected; None for a supervisor."
    driven_by: str | None
    "The node with the guest if that is another agent's; None for a supervisor, or this agent's."
    frees_monitors: bool
    "During a pause other programs may use the control monitors; False for an agent."
    lacks: str
    "Why nobody would fail over after a primary was ended on purpose, as a clause; empty if not."

    def refuse(self, procedure: Procedure) -> None:
        """Refuse a procedure that cannot be begun now.

        Raises:
            CompileError: Supervision is paused, a plan is executed, or a node is about to run
                alone. If the procedure is `switch-over`: the pair is not protected, this agent's
                node is a spare, or nobody would fail over. If it is another one: another agent's
                node has the guest.
        """
        if self.frees_monitors or procedure not in _HARMLESS:
            self.refuse_paused()
        self.refuse_acting()
        if procedure == "switch-over":
            self._refuse_switch_over()
        elif self.driven_by is not None:
            why = f"the agent of {self.driven_by} acts on {self.pair}, and no other one"
            remedy = f"ask it, on the host of {self.driven_by}"
            raise compile_error("not-a-member", why, remedy)

    def _refuse_switch_over(self) -> None:
        if self.spare is not None:
            why = f"{self.spare} is a spare of {self.pair} now"
            remedy = "ask the agent of the node that has the guest, or of the one that protects it"
            raise compile_error("not-a-member", why, remedy, node=self.spare)
        self._refuse_unprotected()
        if self.lacks:
            why = f"{self.lacks}, so that nobody would fail over"
            raise compile_error("no-agent", why, "repair that first")

    def refuse_move(self, to: str, record: PairRecord | None) -> None:
        """Refuse to move the secondary to a node if that cannot be begun now.

        Args:
            to: The node.
            record: The pair's latest record; None if none can be read.

        Raises:
            CompileError: Supervision is paused, a plan is executed, a node is about to run alone,
                the pair is not protected, another agent launches its QEMUs, or the node is one of
                the two already.
        """
        self.refuse("stop")
        self._refuse_unprotected()
        if record is not None and to in record.named:
            role = "has the guest" if to == record.holder else "is the secondary already"
            raise compile_error("place-unclear", f"{to} {role}", "name a spare", node=to)

    def _refuse_unprotected(self) -> None:
        if not self.is_protected:
            why = f"{self.pair} is not protected now: {self.stands or 'it was not observed yet'}"
            remedy = "it is protected again by itself; wait until `pycolo status --watch` says so"
            raise compile_error("not-protected", why, remedy)

    def refuse_acting(self) -> None:
        """Refuse what must not be done while a plan is executed.

        Raises:
            CompileError: A plan is executed, or a node is about to run alone.
        """
        if self.is_acting or self.claims is not None:
            raise self.at_work()

    def refuse_paused(self) -> None:
        """Refuse every request while supervision is paused.

        Raises:
            CompileError: Supervision is paused.
        """
        if self.paused is not None:
            why = f"the supervision of {self.pair} is paused {self.paused}"
            remedy = "type `pycolo unpause` with --agent first"
            if self.frees_monitors:
                remedy = "type `pycolo unpause` first, or act on the pair with `pycolo run`"
            raise compile_error("supervision-paused", why, remedy)

    def at_work(self) -> CompileError:
        """Make the error which says that other work on the pair comes first."""
        why = f"other work on {self.pair} is under way"
        if self.claims is not None:
            why = f"{self.claims} is about to run alone, as the other QEMU of {self.pair} may have"
            why += " ended"
        return compile_error("at-work", why, _LATER)


def stated(
    record: PairRecord | None, node: str, instance: str | None, *, who: str, how: str
) -> Evidence:
    """Make evidence from a person's statement that a QEMU has ended.

    Args:
        record: The pair's latest record; None if none can be read.
        node: The node on which the QEMU ran.
        instance: The identity of the QEMU; None for the one that the record names.
        who: Who made sure that it has ended.
        how: How that person made sure.

    Raises:
        CompileError: The record names no such QEMU, or no record can be read.
        DeclarationError: `who` or `how` is empty or not printable.
    """
    if record is None:
        raise undecided("unread-records", "no record of the pair can be read", "bring a host back")
    joins = record.joining if record.joining and node_of(record.joining) == node else None
    named = record.eligible.get(node) or joins
    if named is None or instance not in (None, named):
        meant = f"{instance} as the QEMU of {node}" if instance else f"a QEMU of {node}"
        what = f"the record does not name {meant}; it names {', '.join(_named(record))}"
        raise compile_error("not-eligible", what, node=node)
    victim = Victim(node=node, instance=named, epoch=record.epoch)
    return Evidence.of(victim, kind="fence", who=who, how=how, when=now())


def _named(record: PairRecord) -> list[str]:
    return [*record.eligible.values(), *filter(None, (record.joining,))]


async def refuse_answering(host: Host, node: str, monitor: Monitor) -> None:
    """Check that a QEMU that is said to have ended accepts no connection.

    Args:
        host: The host of the node.
        node: The node on which the QEMU ran.
        monitor: The monitor to connect to.

    Raises:
        CompileError: The monitor accepts a connection.
    """
    try:
        async with asyncio.timeout(_REACHED_S):
            sock = await host.connect(node, monitor)
    except (RemoteError, TimeoutError):
        return
    sock.close()
    raise living(node, "it takes connections")


def living(node: str, how: str) -> CompileError:
    """Make the error for a statement that a QEMU has ended, if it still runs.

    Args:
        node: The node on which it runs.
        how: How it is known that it runs, as a clause.
    """
    why = f"the QEMU of {node} has not ended: {how}"
    return compile_error("answers", why, "end it, or switch its host off, and say so then")
