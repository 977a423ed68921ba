"""`pycolo supervise` and `pycolo agent`, and the options of commands that talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import click

from pycolo._json import JsonObject
from pycolo._notify import Notify
from pycolo._printable import one_line
from pycolo.cli import _say
from pycolo.cli._agent_file import AgentFile
from pycolo.errors import DeclarationError, StoreError
from pycolo.hosts import Host
from pycolo.hosts.local import LocalHost
from pycolo.hosts.requests import now
from pycolo.hosts.ways import hosts_of
from pycolo.model import ColoPair
from pycolo.supervise import (
    Agent,
    FuseGuard,
    HttpEndpoint,
    Store,
    Supervisor,
    SupervisorEvent,
    _open_files,
)
from pycolo.supervise.control import of_agents
from pycolo.supervise.control import served as listened
from pycolo.supervise.store import locked
from pycolo.supervise.supervisor import Keeping

_R = TypeVar("_R")


def store(command: Callable[..., _R]) -> Callable[..., _R]:
    """Add the option `--store`; the command gets it as its argument `folder`."""

    @functools.wraps(command)
    def chosen(*, folder: Path | None, **rest: object) -> _R:
        used = folder or _default_folder()
        try:
            return command(folder=used, **rest)
        except StoreError as error:
            if error.folder != str(used):
                raise
            raise StoreError(f"--store {used}", error.why) from error

    option = click.option(
        "--store",
        "folder",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the supervisor keeps what is wanted of its pairs, and where it and this host's"
        " agent are asked; if not given, /var/lib/pycolo for root, else ~/.local/state/pycolo.",
    )
    return option(chosen)


def http(command: Callable[..., _R]) -> Callable[..., _R]:
    """Add the option `--http`; the command gets it as its argument `endpoint`."""
    option = click.option(
        "--http",
        "endpoint",
        metavar="ADDRESS:PORT",
        callback=_endpoint,
        help="Serve a status page, /metrics, /pairs and /health; loopback alone.",
    )
    return option(command)


def _endpoint(_: click.Context, __: click.Parameter, text: str | None) -> HttpEndpoint | None:
    try:
        return None if text is None else HttpEndpoint.parse(text)
    except DeclarationError as error:
        raise click.BadParameter(f"{text!r} must {error.rule}") from error


def _default_folder() -> Path:
    # systemd makes a service's state folder, and gives its path in STATE_DIRECTORY.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/pycolo")
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "pycolo"


def by_whom(why: str | None) -> str:
    """Say who pauses a pair, when and why, as text for the store.

    Args:
        why: The reason; None if the user gave none.
    """
    return f"by {getpass.getuser()} at {now()}" + ("" if why is None else f": {why}")


async def supervised(
    pairs: Sequence[ColoPair], folder: Path, endpoint: HttpEndpoint | None, form: str
) -> None:
    """Keep pairs, and print events, until SIGINT or SIGTERM.

    Args:
        pairs: The pairs.
        folder: The supervisor's store.
        endpoint: Where to serve HTTP; None for nowhere.
        form: `text` or `json`, for the events.
    """
    with Store(folder) as kept:
        async with _hosts(pairs) as hosts:
            supervisor = Supervisor(pairs, hosts, kept)
            await _served(supervisor, endpoint, form, _control(supervisor, folder))


async def agent(
    pairs: Sequence[ColoPair],
    own: AgentFile,
    folder: Path,
    endpoint: HttpEndpoint | None,
    form: str,
) -> None:
    """Keep this host's nodes, and print events, until SIGINT or SIGTERM.

    Args:
        pairs: The pairs.
        own: The agent's declaration.
        folder: The store beside which this agent listens for commands.
        endpoint: Where to serve HTTP; None for nowhere.
        form: `text` or `json`, for the events.

    Raises:
        StoreError: Another agent with this store keeps a node of this name of one of the pairs.
    """
    nodes = {pair.name: own.node for pair in pairs}
    with _alone(pairs, own.node, of_agents(folder)):
        arbiter = own.arbiter()
        try:
            async with _hosts(pairs, own.node) as hosts:
                guards = _guards(pairs, own)
                keeping = Agent(pairs, nodes, hosts, arbiter, guards=guards)
                await _served(keeping, endpoint, form, _control(keeping, of_agents(folder)))
        finally:
            await arbiter.aclose()


@contextlib.contextmanager
def _alone(pairs: Sequence[ColoPair], node: str, folder: Path) -> Generator[None]:
    """Hold the lock of a node of each pair inside the block; print a failure to make one.

    Raises:
        StoreError: Another agent holds a lock.
    """
    with contextlib.ExitStack() as stack:
        for pair in pairs:
            held = f"another agent of {node} of {pair.name} runs"
            try:
                stack.enter_context(locked(folder, f"{pair.name}-{node}", held))
            except OSError as error:
                _say.note(
                    f"nothing keeps a second agent of {pair.name} from running, since {error}"
                )
        yield


def _guards(pairs: Sequence[ColoPair], own: AgentFile) -> Mapping[str, FuseGuard]:
    if own.fuse is None:
        return {}
    socket = Path(own.fuse)
    return {pair.name: FuseGuard(pair, own.node, LocalHost(), socket) for pair in pairs}


async def _served(
    keeping: Keeping,
    endpoint: HttpEndpoint | None,
    form: str,
    control: AbstractAsyncContextManager[None],
) -> None:
    _open_files.allow(len(keeping.pairs))
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    notify = Notify()
    async with _tasks() as begin:
        begin(_written(keeping, form))
        async with _pages(keeping, endpoint), keeping, control:
            begin(_keep_alive(notify))
            notify.say("READY=1")
            await ended.wait()
            notify.say("STOPPING=1")
            _say.note("ending; every QEMU keeps running")


async def _keep_alive(notify: Notify) -> None:
    """Notify systemd's watchdog twice in each period while the event loop runs; until cancelled."""
    while notify.watchdog_s > 0:
        notify.say("WATCHDOG=1")
        await asyncio.sleep(notify.watchdog_s / 2)


@asynccontextmanager
async def _control(supervisor: Keeping, folder: Path) -> AsyncGenerator[None]:
    """Listen for commands of other pycolo processes during the block; print a failure to listen."""
    async with AsyncExitStack() as stack:
        try:
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            await stack.enter_async_context(listened(supervisor, folder))
        except OSError as error:
            _say.note(f"no command can ask what runs here, since {error}")
        yield


@asynccontextmanager
async def _pages(supervisor: Keeping, endpoint: HttpEndpoint | None) -> AsyncGenerator[None]:
    """Serve HTTP during the block, if there is an endpoint.

    Raises:
        click.UsageError: The extra `http` is not installed.
    """
    if endpoint is None:
        yield
        return
    try:
        from pycolo.supervise.http import served  # noqa: PLC0415 - an extra, imported where it is used
    except ModuleNotFoundError as error:
        why = "--http needs aiohttp and prometheus-client: install pycolo with its extra http"
        raise click.UsageError(f"{why} ({error})") from error
    async with served(supervisor, endpoint) as url:
        _say.note(f"the status page is at {url}")
        yield


@asynccontextmanager
async def _hosts(
    pairs: Sequence[ColoPair], own: str | None = None
) -> AsyncGenerator[dict[str, Mapping[str, Host]]]:
    async with AsyncExitStack() as stack:
        yield {pair.name: await stack.enter_async_context(hosts_of(pair, own)) for pair in pairs}


@asynccontextmanager
async def _tasks() -> AsyncGenerator[Callable[[Coroutine[object, object, None]], object]]:
    """Give a function that starts tasks; all of them are cancelled when the block is left."""
    begun: list[asyncio.Task[None]] = []
    try:
        yield lambda work: begun.append(asyncio.create_task(work))
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


async def _written(supervisor: Keeping, form: str) -> None:
    line = _json_line if form == "json" else _text_line
    async for event in supervisor.events():
        with contextlib.suppress(OSError):
            # If the reader of the events has gone, the pairs are kept all the same.
            _say.result(line(event) + "\n")


def _text_line(event: SupervisorEvent) -> str:
    where = event.pair if event.node is None else f"{event.pair}/{event.node}"
    mark = "! " if event.kind == "person" else ""
    return one_line(f"{event.when} {where}: {mark}{event.text}")


def _json_line(event: SupervisorEvent) -> str:
    line: JsonObject = {
        "when": event.when,
        "pair": event.pair,
        "node": event.node,
        "kind": event.kind,
        "text": event.text,
    }
    if event.report is not None:
        line["procedure"] = event.report.plan.procedure
        line["exit_code"] = event.report.exit_code
    return json.dumps(line)
