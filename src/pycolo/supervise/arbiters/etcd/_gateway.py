"""Requests to the JSON gateway of an etcd cluster, which is reached at several endpoints.

A request that changes nothing is repeated at the next endpoint until its time is over. A request
that changes something is sent once: it is repeated only if it is certain that no member has
received it, or that a member has refused it because of an outdated token.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, final

import aiohttp

from pycolo import _decode
from pycolo._json import JsonObject, object_at
from pycolo._printable import reason
from pycolo.errors import DeclarationError, ParseError
from pycolo.supervise.arbiters.etcd._cluster import EtcdCluster

_ATTEMPT_S: Final = 0.5
"How long one endpoint may take to answer, in seconds; doubled with each round over all of them."
_CONNECT_S: Final = 1.0
_PAUSE_S: Final = 0.1
"How long to wait between two rounds over the endpoints, in seconds."
_SIZE_MAX_BYTES: Final = 4 << 20
"Larger than everything that is held for any pair."
_AUTHENTICATE: Final = "/v3/auth/authenticate"
_PASSWORD_MAX_BYTES: Final = 4096
_SHOWN_BYTES: Final = 200
# gRPC's codes of invalid argument, permission denied, failed precondition and unauthenticated.
_REFUSALS: Final = (3, 7, 9, 16)
# Messages of a member that refuses an expired or outdated token; it has changed nothing then.
_STALE_TOKEN: Final = ("invalid auth token", "revision in header is old")


class NoAnswer(Exception):
    """No answer came, or one that cannot be used; a change that was sent may have been made."""


class NotSent(NoAnswer):
    """No member has received the request, or one refused its token; nothing was changed."""


class Refused(NoAnswer):
    """The request is refused, and would be at every endpoint; nothing was changed."""


@final
class Gateway:
    """The endpoints of a cluster, of which the one that answered last is asked first.

    Raises:
        DeclarationError: A file for TLS cannot be used.
    """

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster
        self._tls = _tls_of(cluster)
        self._place = 0
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked first."""
        return self._cluster.endpoints[self._place]

    def avoid(self, endpoint: str) -> None:
        """Ask another endpoint first, since this one does not answer."""
        if endpoint == self.endpoint:
            self._place = (self._place + 1) % len(self._cluster.endpoints)

    async def ask(self, path: str, body: JsonObject, *, end_s: float) -> Mapping[str, object]:
        """Send a request that changes nothing, to one endpoint after the other.

        Args:
            path: The gateway's path.
            body: The request.
            end_s: Until when to ask, by the event loop's clock.

        Returns:
            The answer.

        Raises:
            Refused: etcd refused the request.
            NoAnswer: No endpoint has answered by then.
        """
        return await self._rounds(path, body, end_s, is_change=False)

    async def change(self, path: str, body: JsonObject, *, end_s: float) -> Mapping[str, object]:
        """Send a request that changes something, so that it is not executed twice.

        Args:
            path: The gateway's path.
            body: The request.
            end_s: Until when to wait for the answer, by the event loop's clock.

        Returns:
            The answer.

        Raises:
            Refused: etcd refused the request; nothing was changed.
            NoAnswer: No answer came by then: it is not known whether the change was made.
        """
        return await self._rounds(path, body, end_s, is_change=True)

    async def open(
        self, path: str, body: JsonObject, *, end_s: float
    ) -> tuple[str, aiohttp.ClientResponse]:
        """Send a request that is answered line by line, to the endpoint that is asked first.

        Args:
            path: The gateway's path.
            body: The request.
            end_s: Until when the answer must have begun, by the event loop's clock.

        Returns:
            The endpoint, and the response: read its lines, then close it.

        Raises:
            NoAnswer: The answer has not begun by then, or the request was refused.
        """
        endpoint = self.endpoint
        try:
            headers = await self._headers(endpoint, end_s)
            async with _until(endpoint, end_s):
                response = await self._post(endpoint, path, body, headers)
                if response.status != HTTPStatus.OK:
                    async with response:
                        self._members(endpoint, response.status, await _whole(response))
        except NoAnswer:
            self.avoid(endpoint)
            raise
        return endpoint, response

    async def aclose(self) -> None:
        """Close all connections."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    # -- endpoints

    async def _rounds(
        self, path: str, body: JsonObject, end_s: float, *, is_change: bool
    ) -> Mapping[str, object]:
        loop = asyncio.get_running_loop()
        # Each error once, in order: an attempt that was cut short must not hide an earlier error.
        troubles: dict[str, None] = {}
        tries, attempt_s = 0, _ATTEMPT_S
        while loop.time() < end_s:
            if tries == len(self._cluster.endpoints):
                tries, attempt_s = 0, 2 * attempt_s
                await asyncio.sleep(min(_PAUSE_S, end_s - loop.time()))
            tries += 1
            endpoint = self.endpoint
            try:
                # A member takes long to check a password, on purpose.
                headers = await self._headers(endpoint, min(end_s, loop.time() + 4 * attempt_s))
                until_s = min(end_s, loop.time() + attempt_s)
                return await self._once(
                    endpoint, path, body, headers, end_s if is_change else until_s
                )
            except Refused:
                raise
            except NoAnswer as error:
                self.avoid(endpoint)
                troubles[str(error)] = None
                if is_change and not isinstance(error, NotSent):
                    break
        raise NoAnswer("; ".join(troubles) or "no time was left to ask")

    async def _once(
        self,
        endpoint: str,
        path: str,
        body: JsonObject,
        headers: Mapping[str, str],
        until_s: float,
    ) -> Mapping[str, object]:
        async with _until(endpoint, until_s):
            response = await self._post(endpoint, path, body, headers)
            async with response:
                data = await _whole(response)
        return self._members(endpoint, response.status, data)

    async def _post(
        self, endpoint: str, path: str, body: JsonObject, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._is_closed:
            raise Refused("this way to it was closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                # An event of a watch is one line, which may contain a record.
                read_bufsize=_SIZE_MAX_BYTES // 2,
            )
        limit = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S)
        data = json.dumps(body).encode()
        try:
            return await self._session.post(
                endpoint + path, data=data, headers=headers, timeout=limit, allow_redirects=False
            )
        except aiohttp.ClientConnectorCertificateError as error:
            raise NotSent(f"{endpoint}: {error.certificate_error}") from error
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"{endpoint}: {error.os_error}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise NotSent(f"{endpoint}: not connected within {_CONNECT_S:g} s") from error

    def _members(self, endpoint: str, status: int, data: bytes) -> Mapping[str, object]:
        """Parse an answer as a JSON object.

        Raises:
            NotSent: The member refused the token; the next request gets another one.
            Refused: etcd refused the request.
            NoAnswer: The answer is another error, or not a JSON object.
        """
        try:
            members = object_at(_decode.json_value(data), "")
        except ParseError as error:
            # Some refusals are plain text.
            text = data[:_SHOWN_BYTES].decode(errors="replace").strip()
            raise NoAnswer(f"{endpoint}: HTTP status {status}: {text}") from error
        if status == HTTPStatus.OK:
            return members
        why = f"{endpoint}: {members.get('message') or members.get('error') or status}"
        if self._token is not None and any(words in why for words in _STALE_TOKEN):
            self._token = None
            raise NotSent(why)
        raise Refused(why) if members.get("code") in _REFUSALS else NoAnswer(why)

    # -- authentication

    async def _headers(self, endpoint: str, until_s: float) -> Mapping[str, str]:
        user, path = self._cluster.user, self._cluster.password_file
        if user is None or path is None:
            return {}
        try:
            async with _until(endpoint, until_s), self._login:
                if self._token is None:
                    self._token = await self._authenticated(endpoint, user, path, until_s)
                return {"Authorization": self._token}
        except Refused:
            raise
        except NoAnswer as error:
            raise NotSent(str(error)) from error

    async def _authenticated(self, endpoint: str, user: str, path: Path, until_s: float) -> str:
        try:
            password = _decode.file_text(path, size_max_bytes=_PASSWORD_MAX_BYTES).rstrip("\n")
        except OSError as error:
            raise Refused(f"the password file {reason(error)}") from error
        except ParseError as error:
            raise Refused(f"the password file {path}: {error}") from error
        body: JsonObject = {"name": user, "password": password}
        token = (await self._once(endpoint, _AUTHENTICATE, body, {}, until_s)).get("token")
        if not isinstance(token, str):
            raise NoAnswer(f"{endpoint}: {_AUTHENTICATE} gave no token")
        return token


@asynccontextmanager
async def _until(endpoint: str, until_s: float) -> AsyncGenerator[None]:
    """Raise `NoAnswer` for a network error inside the block, or if the block takes too long.

    Args:
        endpoint: The endpoint, for the error.
        until_s: When the block must have ended, by the event loop's clock.
    """
    try:
        async with asyncio.timeout_at(until_s):
            yield
    except TimeoutError as error:
        raise NoAnswer(f"{endpoint}: no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer(f"{endpoint}: {str(error) or type(error).__name__}") from error


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _SIZE_MAX_BYTES:
            raise NoAnswer(f"{response.url}: an answer of more than {_SIZE_MAX_BYTES} bytes")
    return bytes(data)


def _tls_of(cluster: EtcdCluster) -> ssl.SSLContext | bool:
    if not any(endpoint.startswith("https://") for endpoint in cluster.endpoints):
        return True
    try:
        context = ssl.create_default_context(cafile=cluster.ca)
    except (OSError, ssl.SSLError) as error:
        rule = f"be a file of certificates in PEM ({error})"
        raise DeclarationError("EtcdCluster.ca", str(cluster.ca), rule) from error
    if cluster.cert is not None:
        try:
            context.load_cert_chain(cluster.cert, cluster.key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            rule = f"be a certificate in PEM with its key {cluster.key} ({error})"
            raise DeclarationError("EtcdCluster.cert", str(cluster.cert), rule) from error
    return context


def _no_password() -> str:
    # Without this, OpenSSL asks on the terminal for the password of an encrypted key.
    return ""
