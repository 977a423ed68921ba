"""A QMP server that says what a test wrote: silence and refusals are dear to get from QEMU."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

Reply = object
"""What a command returns: JSON for `return`, a `Refuse`, `SILENCE` or `HANG_UP`."""

SILENCE = object()
"""Never answer this command."""
HANG_UP = object()
"""Close the connection instead of answering."""


class Refuse:
    """Answer with an error."""

    def __init__(self, text: str, error_class: str = "GenericError") -> None:
        self.text = text
        self.error_class = error_class


class ScriptedQmp:
    """One monitor: serves one client at a time, as QEMU does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = {"major": 11, "minor": 1, "micro": 3}
        self.package = ""
        self.offers: list[str] = ["oob"]
        self.first_bytes: bytes | None = None
        self.negotiates = True
        self.leaves_after_negotiation = False
        self.after_negotiation = b""
        self.replies: dict[str, Reply | Callable[[Mapping[str, object]], Reply]] = {}
        self.seen: list[dict[str, object]] = []
        self.held: dict[str, object] = {}
        self.greeted = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._changed = asyncio.Event()

    @property
    def commands(self) -> list[str]:
        """The names of all commands so far, in order, without the negotiation."""
        return [str(message.get("execute") or message.get("exec-oob")) for message in self.seen]

    async def until_seen(self, name: str) -> None:
        """Wait until a command of that name has arrived."""
        while name not in self.commands:
            self._changed.clear()
            await self._changed.wait()

    def say(self, message: Mapping[str, object]) -> None:
        """Send one message now."""
        self.say_raw(json.dumps(message).encode() + b"\r\n")

    def say_raw(self, sent: bytes) -> None:
        """Send these very bytes now."""
        assert self._writer is not None
        self._writer.write(sent)

    def event(self, name: str, **data: object) -> None:
        """Send an event now."""
        self.say({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}})

    def release(self, name: str, value: object) -> None:
        """Answer a command that was met with silence, late."""
        self.say({"return": value, "id": self.held.pop(name)})

    def stop_reading(self) -> None:
        """Take in nothing more, as a QEMU that is stopped."""
        assert self._writer is not None
        assert isinstance(self._writer.transport, asyncio.Transport)
        self._writer.transport.pause_reading()

    def hang_up(self) -> None:
        """End the connection."""
        assert self._writer is not None
        self._writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        try:
            while self._writer is not None:
                await asyncio.Event().wait()
            self._writer = writer
            self.greeted.set()
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.first_bytes is not None:
            writer.write(self.first_bytes)
            await reader.read()
            return
        version = {"qemu": self.version, "package": self.package}
        self.say({"QMP": {"version": version, "capabilities": self.offers}})
        decoder, text = json.JSONDecoder(), ""
        while not writer.is_closing() and (chunk := await reader.read(65536)):
            text += chunk.decode()
            while text:
                try:
                    message, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    break
                text = text[end:].lstrip()
                self._answer(message, writer)

    def _answer(self, message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        name = str(message.get("execute") or message.get("exec-oob"))
        if name == "qmp_capabilities":
            if self.negotiates:
                self.say(
                    {"return": {}, "id": message.get("id")} if "id" in message else {"return": {}}
                )
            self.say_raw(self.after_negotiation)
            if self.leaves_after_negotiation:
                writer.close()
            return
        self.seen.append(message)
        self._changed.set()
        reply = self.replies.get(name, {})
        if callable(reply):
            reply = reply(message)
        if reply is SILENCE:
            self.held[name] = message["id"]
        elif reply is HANG_UP:
            writer.close()
        elif isinstance(reply, Refuse):
            error = {"class": reply.error_class, "desc": reply.text}
            self.say({"error": error, "id": message["id"]})
        else:
            self.say({"return": reply, "id": message["id"]})


@asynccontextmanager
async def scripted_qmp(path: Path) -> AsyncGenerator[ScriptedQmp]:
    """Serve a scripted monitor at `path` until the context is left."""
    script = ScriptedQmp(path)
    conversations: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        await script.serve(reader, writer)

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield script
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
