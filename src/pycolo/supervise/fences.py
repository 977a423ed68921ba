"""Fences, which make sure that a QEMU has ended whose host cannot show it.

The fences of a pair file are commands. A program with fencing of its own, such as the API of a
cloud, implements `FenceDevice`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, final

import attrs
from typing_extensions import override

from pycolo._printable import brief, shown
from pycolo.errors import DeclarationError
from pycolo.evidence import Evidence, Victim
from pycolo.hosts.requests import now
from pycolo.model import ColoPair
from pycolo.model import _rules as rules
from pycolo.model.node import Fence

_KILLED_S: Final = 1.0
_GIVEN_UP_S: Final = 2.0
"How long a fence may take to clean up after it was cancelled, in seconds."
_HIDDEN: Final = "***"
_OPTION: Final = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*\Z")
_SHOWN_OPTION: Final = re.compile(
    r"(action|delay|ip|ipaddr|ipport|lanplus|login|plug|port|username|\w+_timeout)\Z"
)
"The options of fence-agents that help to find out what failed, and that keep nobody out."
_SHOWN_VALUES: Final = frozenset({"", "0", "1", "on", "off", "yes", "no", "true", "false"})
_WORD: Final = re.compile(r"[^\s\"',:;={}\[\]]+")
_SHORTEST_WORD: Final = 4
_LOG: Final = logging.getLogger("pycolo.supervise")


@final
@attrs.frozen(kw_only=True)
class NotFenced:
    """The answer of a fence that cannot show that a QEMU has ended."""

    why: str
    "The reason, as a clause without a full stop; it is shown to people, so keep secrets out of it."


class FenceDevice(Protocol):
    """Makes sure that a QEMU has ended, such as by switching its host off.

    A supervisor or agent uses it if the QEMU's host gives no answer, or can neither show that the
    QEMU has ended nor kill it. The answer of a fence cannot be checked: if the evidence is wrong,
    two guests run.
    """

    @property
    def name(self) -> str:
        """The name of the fence in messages, printable and not empty."""

    @property
    def limit_s(self) -> float:
        """How long an answer may take, in seconds, above 0; then the next fence is tried."""

    async def fence(self, pair: ColoPair, victim: Victim) -> Evidence | NotFenced:
        """Make sure that a QEMU has ended, and only then say so.

        It must not block the event loop. When `limit_s` has passed, it is cancelled: it must do
        nothing from then on, since another QEMU may be started on the node.

        Args:
            pair: The declaration; `pair.node(victim.node)` is the node of the QEMU.
            victim: The node, the identity of the QEMU, and the epoch of the record.

        Returns:
            `Evidence.of(victim, kind="fence", ...)` once that QEMU runs no more and cannot
            continue. Evidence of another kind or about another victim counts as a failure, as does
            an exception.
        """


@final
class CommandFence(FenceDevice):
    """A fence that a pair file declares: a command, which has succeeded if its exit code is 0."""

    def __init__(self, declared: Fence) -> None:
        """Keep the declaration; nothing is run yet.

        Args:
            declared: The command, its standard input and its time limit.
        """
        self._declared: Final = declared

    @property
    @override
    def name(self) -> str:
        return self._declared.command[0]

    @property
    @override
    def limit_s(self) -> float:
        return self._declared.limit_s

    @override
    async def fence(self, pair: ColoPair, victim: Victim) -> Evidence | NotFenced:
        why = await self._run()
        if why is not None:
            return NotFenced(why=why)
        how = f"{self.name} ended with exit code 0"
        return Evidence.of(victim, kind="fence", who=self.name, how=how, when=now())

    async def _run(self) -> str | None:
        """Run the command until it ends.

        Returns:
            Why it failed; None if it succeeded.
        """
        declared, given = self._declared, None
        try:
            if declared.input_file is not None:
                given = await asyncio.to_thread(Path(declared.input_file).read_bytes)
            # It has a session of its own: an interrupt at the terminal must not end it.
            process = await asyncio.create_subprocess_exec(
                *declared.command,
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return str(error)
        try:
            said, _ = await process.communicate(given)
        except asyncio.CancelledError:
            await _killed(process)
            raise
        if process.returncode == 0:
            return None
        text = redacted(said.decode(errors="replace"), (given or b"").decode(errors="replace"))
        words = brief(text.strip()) or "it said nothing"
        return f"it ended with exit code {process.returncode}: {words}"


def fences_of(
    pair: ColoPair, given: Mapping[str, Sequence[FenceDevice]]
) -> Mapping[str, tuple[FenceDevice, ...]]:
    """Each node's fences in the order in which they are tried: the declared ones first.

    Args:
        pair: The declaration.
        given: Node name to the fences that a program has given.

    Returns:
        Node name to its fences, for every node of the pair, spares included; empty for none.

    Raises:
        DeclarationError: `given` names no node of the pair, or a fence that it has breaks a rule of
            `FenceDevice`: its name is empty or not printable, or its limit is not above 0.
    """
    for node, devices in given.items():
        field = f"fences[{pair.name}][{node}]"
        if node not in pair.names:
            raise DeclarationError(field, node, f"be for a node of {', '.join(pair.names)}")
        for number, device in enumerate(devices):
            rules.text(f"{field}[{number}].name", device.name)
            rules.seconds(f"{field}[{number}].limit_s", device.limit_s)
    return {
        node.name: (*map(CommandFence, node.fences), *given.get(node.name, ()))
        for node in pair.all_nodes
    }


async def fenced(
    devices: Sequence[FenceDevice],
    pair: ColoPair,
    victim: Victim,
    tell: Callable[[str], None],
) -> Evidence | None:
    """Try a node's fences in their order, until one of them succeeds.

    Args:
        devices: The fences of the victim's node.
        pair: The declaration.
        victim: The QEMU that must have ended after a fence succeeded.
        tell: Is called with the reason if a fence failed, a sentence without a full stop.

    Returns:
        Evidence from the first one that succeeded; None if none did.
    """
    for device in devices:
        found = await _answer(device, pair, victim)
        if isinstance(found, Evidence):
            return found
        tell(f"the fence {device.name} of {victim.node} failed: {brief(found.why)}")
    return None


async def _answer(device: FenceDevice, pair: ColoPair, victim: Victim) -> Evidence | NotFenced:
    """What a fence answers within its limit, if that is evidence about the victim."""
    task: asyncio.Task[object] = asyncio.create_task(_asked(device, pair, victim))
    try:
        await asyncio.wait((task,), timeout=device.limit_s)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            # One that ignores this must not hold up the next fence.
            await asyncio.wait((task,), timeout=_GIVEN_UP_S)
    if is_late:
        return NotFenced(why=f"it did not end within {device.limit_s:g} s")
    found = None if task.cancelled() else task.result()
    match found:
        case NotFenced():
            return found
        case Evidence(kind="fence") if found.proves(victim):
            return found
        case Evidence(kind=kind, instance=instance, epoch=epoch):
            what = f"evidence of the kind {kind} about {instance} in epoch {epoch}"
            needed = f"of the kind fence about {victim.instance} in epoch {victim.epoch}"
            return NotFenced(why=f"it answered with {what}, not {needed}")
        case _:
            return NotFenced(why=f"it answered with {shown(found)}, which is no evidence")


async def _asked(device: FenceDevice, pair: ColoPair, victim: Victim) -> object:
    """What a fence answers, whatever its type; an error that it raises is a failed fence."""
    try:
        return await device.fence(pair, victim)
    except Exception as error:  # noqa: BLE001 - a fence of somebody else must not end a supervisor
        _LOG.exception("the fence %s of %s raised an error", device.name, victim.node)
        return NotFenced(why=f"it raised {type(error).__name__}: {error}")


def redacted(text: str, given: str) -> str:
    """A text without what a command was given as its standard input.

    An agent of fence-agents may repeat an option, such as one that it does not know. Of lines of
    the form `OPTION=VALUE` the values are taken out, except those of a few options that are not
    secret; of every other line, the line itself and its words.

    Args:
        text: What the command has written.
        given: The standard input of the command.
    """
    for secret in sorted(set(_secrets(given)), key=len, reverse=True):
        pattern = re.escape(secret)
        if len(secret) < _SHORTEST_WORD:
            # Within other words, so few letters are no password, and their loss hides the reason.
            pattern = rf"(?<!\w){pattern}(?!\w)"
        text = re.sub(pattern, _HIDDEN, text)
    return text


def _secrets(given: str) -> Iterator[str]:
    for line in given.splitlines():
        option = _OPTION.match(line)
        if option is None:
            yield from filter(None, (line.strip(),))
            yield from (word for word in _WORD.findall(line) if len(word) >= _SHORTEST_WORD)
            continue
        name, value = option.groups()
        if not _SHOWN_OPTION.match(name) and value.lower() not in _SHOWN_VALUES:
            yield value
            yield from filter(None, (value.strip("'\""),))


async def _killed(process: asyncio.subprocess.Process) -> None:
    # The processes that the fence has started are killed as well: none of them may act later.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILLED_S):
            await process.wait()
