"""Send the commands of a plan, and read QEMU's replies."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Final, final

from pycolo._execute import _hmp
from pycolo._execute._ended import refused
from pycolo._execute._shield import shielded
from pycolo.errors import CommandRefused, CommandUnknown, RemoteError
from pycolo.observers import Recorder
from pycolo.plan import Execute, Plan
from pycolo.qmp import commands as qmp
from pycolo.qmp.commands import Command
from pycolo.result import QemuError
from pycolo.session import HungUp, Notice, Sent, Session

_LOG: Final = logging.getLogger("pycolo.execute")
_YANK_S: Final = 5.0


@final
class Sender:
    """Sends the commands of one execution, and passes commands and replies to its recorder."""

    def __init__(self, plan: Plan, recorder: Recorder | None) -> None:
        """Keep the plan and its recorder; None for no recorder."""
        self._plan = plan
        self._recorder = recorder
        self._numbers = itertools.count(1)

    def listen(self, sessions: Mapping[str, Session]) -> list[Callable[[], None]]:
        """Pass events and hang-ups to the recorder.

        Returns:
            A function for each subscription, which ends it.
        """
        if self._recorder is None:
            return []
        note = functools.partial(_record_notice, self._plan, self._recorder)
        return [s.subscribe(functools.partial(note, name)) for name, s in sessions.items()]

    async def execute(self, step: Execute, session: Session) -> str:
        """Send a command and wait for its reply; after the limit, send its rescue yanks.

        Returns:
            The text of a refusal that the plan accepts, or the text that the human monitor printed;
            empty for any other command.

        Raises:
            Ended: The human monitor refused the command.
            RemoteError: See `Session.execute`.
        """
        sent = self._send(step.address, session, step.command, oob=step.oob)
        try:
            reply: object = await self._reply(step, session, sent)
        except CommandRefused as refusal:
            if not _accepted(step, refusal.text, refusal.error_class):
                raise
            return refusal.text
        if isinstance(step.command, qmp.HumanMonitorCommand) and isinstance(reply, str):
            return await _human(step, step.command, reply, session)
        return ""

    def _send(self, address: str, session: Session, command: Command, *, oob: bool) -> Sent[object]:
        """Send a command, and pass it and its answer to the recorder."""
        plan, recorder, number = self._plan, self._recorder, next(self._numbers)
        if recorder is None:
            return session.send(command, oob=oob)
        node = session.node
        shielded(lambda: recorder.command_sent(plan, number, address, node, command, oob=oob))
        sent = session.send(command, oob=oob)
        sent.when_answered(
            lambda answer: shielded(lambda: recorder.command_answered(plan, number, answer))
        )
        return sent

    async def _reply(self, step: Execute, session: Session, sent: Sent[object]) -> object:
        """Wait for a reply; if the limit passes, send the rescue yanks and wait again."""
        try:
            return await sent.reply(step.limit_s)
        except CommandUnknown:
            if not step.rescue or not sent.pending:
                raise
        _LOG.warning("%s: no answer, its rescue is sent", step.address)
        for yank in step.rescue:
            await self._yank(step.address, session, yank)
        # The command is not sent again: the connection that blocked it was cut, so its reply comes
        # (qemu-behaviour 13.3).
        return await sent.reply(step.limit_s)

    async def _yank(self, address: str, session: Session, yank: qmp.Yank) -> None:
        """Send a yank out of band; an error is only logged."""
        try:
            await self._send(address, session, yank, oob=True).reply(_YANK_S)
        except RemoteError as error:
            # A connection that is gone blocks nothing, and another one may still need its yank.
            _LOG.info("%s", error)


async def _human(
    step: Execute, command: qmp.HumanMonitorCommand, reply: str, session: Session
) -> str:
    """The reply of the human monitor, if it is not a refusal.

    A deletion that is reported as refused counts as done if the block node is gone.

    Raises:
        Ended: The human monitor refused the command.
    """
    text = _hmp.refusal(reply)
    if not text or _accepted(step, text, None):
        return reply.strip()
    deleted = _hmp.deleted_node(command)
    if deleted is not None:
        found = await session.execute(qmp.QueryNamedBlockNodes(flat=True), limit_s=step.limit_s)
        if all(node.node_name != deleted for node in found):
            return reply.strip()
    reason = f"{step.node} refused {command.command_line!r}: {text}"
    raise refused(reason, QemuError(text=text))


def _record_notice(plan: Plan, recorder: Recorder, node: str, notice: Notice) -> None:
    """Pass an event or the end of a connection to the recorder."""
    match notice:
        case HungUp(why=why):
            shielded(lambda: recorder.connection_ended(plan, node, why))
        case event:
            shielded(lambda: recorder.event_seen(plan, node, event))


def _accepted(step: Execute, text: str, error_class: str | None) -> bool:
    """Whether the plan accepts a refusal; `error_class` is None for the human monitor."""
    return any(
        refusal.text in text and error_class in (None, refusal.error_class)
        for refusal in step.accepts
    )
