"""Open a QMP connection, from the socket to the end of the negotiation, and close one."""

from __future__ import annotations

import asyncio
from typing import Final, final

import attrs
from qemu.qmp import ConnectError, QMPClient, QMPError, Runstate
from qemu.qmp.qmp_client import GreetingError, NegotiationError

from pycolo.errors import Busy, ConnectionFailed, ParseError, RemoteError, Unresponsive
from pycolo.model.node import Monitor
from pycolo.qmp.replies import VersionInfo
from pycolo.session._client import Client, Incoming
from pycolo.session._socket import Connector, address_of, os_text

# How long QEMU may take to read the data that was sent, before the connection is cut.
_FLUSH_S: Final = 1.0


@final
@attrs.frozen(kw_only=True)
class Dialled:
    """A connection whose negotiation is done."""

    client: Client
    early: list[Incoming]
    "The events that came since the greeting."
    version: VersionInfo


async def dial(node: str, monitor: Monitor, limit_s: float, connector: Connector) -> Dialled:
    """Connect to a monitor and negotiate out-of-band execution.

    Arguments and errors are those of `Session.connect`.
    """
    address = address_of(monitor)
    early: list[Incoming] = []
    client = Client(node, early.append)
    try:
        async with asyncio.timeout(limit_s):
            await _greet(client, node, monitor, connector)
    except TimeoutError as error:
        if client.greeting is None:
            raise Busy(node, address) from error
        raise Unresponsive(node, limit_s) from error
    except ConnectError as error:
        raise ConnectionFailed(node, address, _no_qmp(error)) from error
    except AssertionError as error:
        # qemu.qmp asserts that the connection is still open right after the negotiation.
        why = await disconnected(client) or "it hung up at once"
        raise ConnectionFailed(node, address, why) from error
    try:
        version = _greeted(client, node, address)
    except RemoteError:
        await disconnected(client)
        raise
    return Dialled(client=client, early=early, version=version)


async def _greet(client: Client, node: str, monitor: Monitor, connector: Connector) -> None:
    """Connect and negotiate; try three times.

    The reply to a command of an earlier client may come instead of the greeting or of the
    negotiation's reply; then another attempt is made (qemu-behaviour 14.10).

    Raises:
        ConnectError: The last attempt failed, or an earlier one failed for another reason.
    """
    for last in (False, False, True):
        try:
            await client.connect_to(await connector(node, monitor))
        except ConnectError as error:
            if last or not isinstance(error.exc, GreetingError | NegotiationError):
                raise
        else:
            return


def _greeted(client: QMPClient, node: str, address: str) -> VersionInfo:
    """QEMU's version from the greeting.

    Raises:
        ConnectionFailed: The greeting is not QEMU's, or lacks out-of-band execution.
    """
    greeting = client.greeting
    if greeting is None or "oob" not in greeting.QMP.capabilities:
        raise ConnectionFailed(node, address, "it does not offer out-of-band execution")
    try:
        return VersionInfo.from_qmp(greeting.QMP.version, "QMP.version")
    except ParseError as error:
        raise ConnectionFailed(node, address, f"its greeting is not QEMU's: {error}") from error


async def disconnected(client: Client) -> str:
    """Disconnect the client, and return why the connection ended; empty if nothing was wrong.

    Data that the server does not read within a second is dropped.
    """
    if client.runstate is Runstate.IDLE:
        return ""
    cut = asyncio.get_running_loop().call_later(_FLUSH_S, client.cut)
    try:
        await client.disconnect()
    except (EOFError, OSError, QMPError) as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        # The client could not read a message: its line, a number or its nesting is too long.
        return f"it sent what is no QMP ({error})"
    finally:
        cut.cancel()
    return ""


def _no_qmp(error: ConnectError) -> str:
    """Why a connection failed, as a clause."""
    match error.exc:
        case EOFError():
            return "it hung up before it was ready"
        case OSError() as cause:
            return os_text(cause)
        case cause:
            return f"what listens there does not speak QMP ({cause})"
