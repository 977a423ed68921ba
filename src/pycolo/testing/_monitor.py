"""The QMP protocol of a monitor, without a socket: bytes in, bytes out (7.6, 14.1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final, Protocol, final

from pycolo._forms import Anything
from pycolo._json import object_at
from pycolo.errors import ParseError
from pycolo.model import node as model
from pycolo.qmp import commands as qmp
from pycolo.qmp._base import QmpValue
from pycolo.qmp.schema import Schema, SchemaProblem
from pycolo.testing import _colo, _jobs
from pycolo.testing._answers import version
from pycolo.testing._commands import perform
from pycolo.testing._process import Process, Refused

Message = Mapping[str, object]
_OUT_OF_BAND: Final = ("yank", "query-yank", "migrate-recover", "migrate-pause")
_QUEUE: Final = 8
"How many commands of a client wait for the main loop, at most."
_DECODER: Final = json.JSONDecoder()
_NEGOTIATE: Final = "qmp_capabilities"
_UINT32: Final = range(2**32)


class Server(Protocol):
    """A server that accepts connections of other programs to a monitor."""

    def close(self) -> None:
        """Accept no more connections."""


@final
class Client:
    """One client's connection to a monitor."""

    def __init__(self, send: Callable[[bytes], None], close: Callable[[], None]) -> None:
        """Keep the functions that send bytes to the client, and that close its connection."""
        self.send: Final = send
        self.close: Final = close
        self.ready = False
        "Whether the client has sent `qmp_capabilities`."
        self.oob = False
        self.queued = 0
        "How many of its commands wait for the main loop."
        self.text = ""
        "Received text that is not processed yet."


@final
class Monitor:
    """One monitor of a fake. It serves one client at a time; others wait without a greeting."""

    def __init__(self, qemu: Process, label: str, place: model.Monitor) -> None:
        """Make a monitor without clients.

        Args:
            qemu: The fake that the monitor belongs to.
            label: The id of the monitor's chardev.
            place: The address of the monitor, as the command line gives it.
        """
        self._qemu: Final = qemu
        self.label: Final = label
        self.place: Final = place
        self.server: Server | None = None
        "The server for other programs; None if there is none."
        self._line: list[Client] = []
        self._greeted: Client | None = None

    @property
    def filename(self) -> str:
        """The `filename` that query-chardev shows for this monitor."""
        if isinstance(self.place, model.UnixMonitor):
            return f"unix:{self.place.path},server=on"
        host = f"[{self.place.host}]" if ":" in self.place.host else self.place.host
        return f"tcp:{host}:{self.place.port},server=on"

    # -- connections

    def join(self, client: Client) -> None:
        """Add a client that has connected to the queue."""
        self._line.append(client)
        self.continue_reading()

    def leave(self, client: Client) -> None:
        """Remove a client that has disconnected; the next one in the queue is greeted."""
        if client in self._line:
            self._line.remove(client)
        self.continue_reading()

    def hang_up(self) -> None:
        """Close all connections, because QEMU has ended."""
        line, self._line = self._line, []
        if self.server is not None:
            self.server.close()
        for client in line:
            client.close()

    def continue_reading(self) -> None:
        """Greet the first client and process its input, unless QEMU is frozen."""
        qemu = self._qemu
        if not self._line or not qemu.alive or qemu.frozen:
            return
        client = self._line[0]
        if self._greeted is not client:
            self._greeted = client
            self._send(client, {"QMP": {"version": version(qemu), "capabilities": ["oob"]}})
        self._read(client)

    def receive(self, client: Client, data: bytes) -> None:
        """Process bytes that a client has sent."""
        client.text += data.decode()
        self.continue_reading()

    def _read(self, client: Client) -> None:
        # A full queue is not read on, whatever comes next (qemu-behaviour 7.6).
        while client.text and self._line[:1] == [client] and client.queued < _QUEUE:
            text = client.text.lstrip()
            try:
                found, end = _DECODER.raw_decode(text)
            except json.JSONDecodeError as error:
                client.text = text
                if error.pos < len(text) and "\n" in text:
                    client.text = ""
                    self._send(client, _error("JSON parse error, invalid keyword", "GenericError"))
                return
            client.text = text[end:]
            self._take(client, object_at(found, ""))

    def _send(self, client: Client, message: Mapping[str, QmpValue]) -> None:
        client.send(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, data: Mapping[str, QmpValue] | None) -> None:
        """Send an event to the client, if it has negotiated."""
        client = self._line[0] if self._line else None
        if client is not None and client.ready:
            seconds, rest = divmod(self._qemu.world.now_s, 1)
            stamp: dict[str, QmpValue] = {
                "seconds": int(seconds),
                "microseconds": int(rest * 1e6),
            }
            body: dict[str, QmpValue] = {} if data is None else {"data": dict(data)}
            self._send(client, {"timestamp": stamp, "event": name, **body})

    # -- messages

    def _take(self, client: Client, message: Message) -> None:
        name = message.get("exec-oob")
        if name is not None and client.oob:
            self._out_of_band(client, message, str(name))
            return
        client.queued += 1
        self._qemu.attempt(lambda: self._in_turn(client, message))

    def _out_of_band(self, client: Client, message: Message, name: str) -> None:
        if name not in _OUT_OF_BAND:
            text = f"The command {name} does not support OOB"
            self._reply(client, message, _error(text, "GenericError"))
            return
        self._reply(client, message, self._answer(name, message))
        self._qemu.world.settle()

    def _in_turn(self, client: Client, message: Message) -> None:
        """Process a command in the main loop, and read on if the queue was full."""
        self._in_band(client, message)
        was_full = client.queued == _QUEUE
        client.queued -= 1
        if was_full:
            self.continue_reading()

    def _in_band(self, client: Client, message: Message) -> None:
        if self._line[:1] != [client]:
            return
        name = message.get("execute")
        if not isinstance(name, str):
            member = next((key for key in message if key not in ("id", "arguments")), "execute")
            text = f"QMP input member '{member}' is unexpected"
            self._reply(client, message, _error(text, "GenericError"))
        elif name == _NEGOTIATE or not client.ready:
            self._reply(client, message, _negotiate(client, name, message))
        else:
            self._reply(client, message, self._answer(name, message))
            self._qemu.world.settle()

    def _reply(self, client: Client, message: Message, reply: dict[str, QmpValue]) -> None:
        if "id" in message:
            reply |= {"id": Anything().read(message["id"], "id")}
        if client in self._line:
            self._send(client, reply)

    def _answer(self, name: str, message: Message) -> dict[str, QmpValue]:
        try:
            return {"return": self._play(name, message.get("arguments", {}))}
        except Refused as refused:
            return _error(refused.text, refused.error_class)

    def _play(self, name: str, arguments: object) -> QmpValue:
        schema = Schema.packaged(self._qemu.world.version)
        if not schema.has_command(name):
            raise Refused(f"The command {name} has not been found", "CommandNotFound")
        wire: dict[str, object] = {"execute": name, "arguments": arguments}
        problems = schema.check(wire)
        if problems:
            raise Refused(_words(problems[0]))
        _check_widths(object_at(arguments, "arguments"))
        if name == "migrate_cancel":
            _colo.cancel(self._qemu)
            return {}
        if name == "job-cancel":
            return _cancel_job(self._qemu, object_at(arguments, "arguments"))
        try:
            command = qmp.command_from_qmp(wire)
        except ParseError as error:
            raise Refused(f"FakeQemu does not play this {name}: {error}") from error
        return perform(self._qemu, command)


def _cancel_job(qemu: Process, arguments: Message) -> QmpValue:
    job = str(arguments["id"])
    known = qemu.live.jobs.get(job)
    if known is None:
        raise Refused("Job not found")
    if known.status not in ("running", "ready"):
        raise Refused(f"Job '{job}' in state '{known.status}' cannot accept command verb 'cancel'")
    _jobs.abort(qemu, job)
    return {}


def _negotiate(client: Client, name: str, message: Message) -> dict[str, QmpValue]:
    if client.ready:
        text = "Capabilities negotiation is already complete, command ignored"
        return _error(text, "CommandNotFound")
    if name != _NEGOTIATE:
        text = f"Expecting capabilities negotiation with '{_NEGOTIATE}'"
        return _error(text, "CommandNotFound")
    enable = object_at(message.get("arguments", {}), "arguments").get("enable", [])
    client.ready = True
    client.oob = isinstance(enable, list) and "oob" in enable
    return {"return": {}}


def _error(text: str, error_class: str) -> dict[str, QmpValue]:
    return {"error": {"class": error_class, "desc": text}}


def _check_widths(arguments: Message) -> None:
    # Integer widths are not in the schema (qemu-behaviour 4.11).
    delay = arguments.get("x-checkpoint-delay")
    if isinstance(delay, int) and delay not in _UINT32:
        raise Refused("Parameter 'x-checkpoint-delay' expects uint32_t")


def _words(problem: SchemaProblem) -> str:
    """The text of QEMU's error for a command that does not match the schema."""
    where = problem.path.removeprefix("arguments").removeprefix(".")
    if problem.rule.startswith("be absent"):
        return f"Parameter '{where}' is unexpected"
    if problem.rule == "be present":
        return f"Parameter '{where}' is missing"
    if problem.rule.startswith("be one of"):
        value = problem.rule.rpartition(", not ")[2].strip("'")
        return f"Parameter '{where.rpartition('.')[2]}' does not accept value '{value}'"
    kind = problem.rule.removeprefix("be ").partition(",")[0]
    return f"Invalid parameter type for '{where}', expected: {kind}"
