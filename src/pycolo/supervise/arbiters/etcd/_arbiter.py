"""The arbiter in an etcd cluster."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, final

import attrs

from pycolo._json import JsonObject, JsonValue, array_at, object_at
from pycolo.errors import ArbiterLost, ArbiterOvertaken, ParseError
from pycolo.evidence import Evidence
from pycolo.supervise.arbiter import Held
from pycolo.supervise.arbiters import checks
from pycolo.supervise.arbiters.etcd._cluster import EtcdCluster
from pycolo.supervise.arbiters.etcd._gateway import Gateway, NoAnswer
from pycolo.supervise.arbiters.etcd._keys import Keys, View, encoded, number
from pycolo.supervise.arbiters.etcd._watch import Watching
from pycolo.supervise.arbiters.text import dump_end, dump_shared
from pycolo.supervise.shared import SharedRecord

_ANY_PAIR: Final = "any"
_RANGE: Final = "/v3/kv/range"
_TXN: Final = "/v3/kv/txn"
_GRANT: Final = "/v3/lease/grant"
# A member that is stopped sends nothing to a watch, so the keys are read this often as well.
_SILENCE_S: Final = 1.0


@final
@attrs.frozen(kw_only=True)
class _Change:
    """A transaction: its conditions, and the operation that is done if all of them hold."""

    compares: tuple[JsonObject, ...]
    operation: JsonObject


@final
class EtcdArbiter:
    """An `Arbiter` in an etcd cluster of three members or more, for agents on several machines.

    The first reply tells the cluster's id. If a later reply has another id, or an older revision
    than one seen before, etcd was replaced or restored from a backup, and a permission that it gave
    may be lost. From then on every call raises ArbiterLost; create a new object after a person has
    checked what the arbiter holds.

    etcd grants leases of whole seconds, two or more: a lease lasts up to a second longer than asked
    for, and longer still while etcd elects a leader.

    Args:
        cluster: How to reach the cluster.

    Raises:
        DeclarationError: A file for TLS cannot be used.
    """

    def __init__(self, cluster: EtcdCluster) -> None:
        self._prefix = cluster.prefix
        self._gateway = Gateway(cluster)
        self._cluster_id: object = None
        self._revision = 0
        self._exchanged: str | None = None

    async def identity(self, *, limit_s: float) -> str:
        """The name by which records refer to this arbiter; see `Arbiter.identity`."""
        if self._cluster_id is None:
            # Every answer contains the cluster's id.
            await self.read(_ANY_PAIR, limit_s=limit_s)
        return f"etcd:{self._cluster_id}"

    async def read(self, pair: str, *, limit_s: float) -> Held:
        """Read what is held for a pair; see `Arbiter.read`."""
        keys = self._keys(pair)
        async with self._answers(pair):
            return (await self._view(keys, _end_s(limit_s))).held

    async def swap(
        self,
        pair: str,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float,
    ) -> Held:
        """Replace a pair's record, if it is still the one that was read; see `Arbiter.swap`."""
        checks.check_swap(pair, shared)
        keys = self._keys(pair)
        compares = [_written_at(keys.record, held.revision)]
        if held.shared is not None:
            # A cluster that was restored from a backup may use the same revision again.
            compares.append(
                _compare(keys.record, "VALUE", "value", encoded(dump_shared(held.shared)))
            )
        if no_lease_of is not None:
            compares.append(_written_at(keys.of("leases", no_lease_of), 0))
        put = _put(keys.record, dump_shared(shared))
        change = _Change(compares=tuple(compares), operation=put)
        async with self._answers(pair):
            is_done, view = await self._transact(keys, change, _end_s(limit_s))
        if not is_done:
            refusal = checks.overtaken(pair, view.held, held, no_lease_of)
            raise refusal or ArbiterOvertaken(pair, "another record is held")
        return view.held

    async def renew(
        self, pair: str, node: str, instance: str, *, lease_s: float, limit_s: float
    ) -> bool:
        """Renew or begin a lease; False if the record does not allow it; see `Arbiter.renew`."""
        checks.check_lease(pair, node, lease_s)
        keys, end_s = self._keys(pair), _end_s(limit_s)
        async with self._answers(pair):
            view = await self._view(keys, end_s)
            if not _may_renew(view, node, instance):
                return False
            # The lease runs from here on. etcd deletes the key that is put with it when it ends.
            lease = await self._granted(lease_s, end_s)

            def renewal(view: View) -> _Change | None:
                if not _may_renew(view, node, instance):
                    return None
                key = keys.of("leases", node)
                # A renewal that arrives late must not replace a newer one, whose lease ends later.
                compares = tuple(_as_in(view, one) for one in (keys.record, key))
                return _Change(compares=compares, operation=_put(key, instance, lease=lease))

            return await self._update(keys, view, renewal, end_s)

    async def release(self, pair: str, node: str, *, limit_s: float) -> None:
        """End a node's lease now; see `Arbiter.release`."""
        checks.check_node(pair, node)
        keys, end_s = self._keys(pair), _end_s(limit_s)
        key = keys.of("leases", node)

        def deletion(view: View) -> _Change | None:
            if key not in view.revisions:
                return None
            # A release that arrives late must not end a lease that was renewed since.
            delete: JsonObject = {"request_delete_range": {"key": encoded(key)}}
            return _Change(compares=(_as_in(view, key),), operation=delete)

        async with self._answers(pair):
            await self._update(keys, await self._view(keys, end_s), deletion, end_s)

    async def state(self, pair: str, end: Evidence, *, limit_s: float) -> None:
        """Store evidence that a QEMU has ended; see `Arbiter.state`."""
        checks.check_node(pair, end.node)
        keys, end_s = self._keys(pair), _end_s(limit_s)
        key = keys.of("ends", end.node)

        def statement(view: View) -> _Change:
            # Evidence that arrives late must not replace newer evidence.
            return _Change(compares=(_as_in(view, key),), operation=_put(key, dump_end(end)))

        async with self._answers(pair):
            await self._update(keys, await self._view(keys, end_s), statement, end_s)

    async def changed(self, pair: str, held: Held, *, limit_s: float) -> Held:
        """Wait until what is held is not `held`, or the limit passes; see `Arbiter.changed`."""
        keys, end_s, now_s = self._keys(pair), _end_s(limit_s), asyncio.get_running_loop().time
        async with self._answers(pair), Watching(self._gateway, keys) as watching:
            seen_s, is_told = -math.inf, False
            while True:
                try:
                    view = await self._view(keys, end_s)
                except NoAnswer:
                    # The limit cut this read short. The last one is recent enough, unless the watch
                    # has reported a change since.
                    if is_told or now_s() < end_s or now_s() - seen_s > 2 * _SILENCE_S:
                        raise
                    return held
                if view.held != held or now_s() >= end_s:
                    return view.held
                seen_s = now_s()
                is_told = await watching.news(view, until_s=min(end_s, seen_s + _SILENCE_S))

    async def aclose(self) -> None:
        """Close the connection; see `Arbiter.aclose`."""
        await self._gateway.aclose()

    # -- transactions

    def _keys(self, pair: str) -> Keys:
        checks.check_pair(pair)
        return Keys(self._prefix, pair)

    async def _view(self, keys: Keys, end_s: float) -> View:
        known = self._revision
        answer = await self._gateway.ask(_RANGE, keys.all, end_s=end_s)
        return View.read(keys, answer, self._checked(answer, known))

    async def _transact(self, keys: Keys, change: _Change, end_s: float) -> tuple[bool, View]:
        """Send a transaction.

        Args:
            keys: The pair's keys.
            change: The transaction.
            end_s: Until when to wait for the answer, by the event loop's clock.

        Returns:
            Whether its operation was done, and what is held afterwards in either case.
        """
        known = self._revision
        reading: JsonObject = {"request_range": keys.all}
        body: JsonObject = {
            "compare": list[JsonValue](change.compares),
            "success": [change.operation, reading],
            "failure": [reading],
        }
        answer = await self._gateway.change(_TXN, body, end_s=end_s)
        revision = self._checked(answer, known)
        path, response = array_at(answer.get("responses"), "responses")[-1]
        found = object_at(object_at(response, path).get("response_range"), path)
        return answer.get("succeeded") is True, View.read(keys, found, revision)

    async def _update(
        self, keys: Keys, view: View, change_of: Callable[[View], _Change | None], end_s: float
    ) -> bool:
        """Send transactions until one is done, or until nothing has to be changed any more.

        If the conditions of one do not hold, the next one is made for what is held instead.

        Args:
            keys: The pair's keys.
            view: What was read.
            change_of: Makes the transaction for what is held; None if nothing has to be changed.
            end_s: Until when to wait for the answers, by the event loop's clock.

        Returns:
            Whether a transaction was done.
        """
        while (change := change_of(view)) is not None:
            is_done, view = await self._transact(keys, change, end_s)
            if is_done:
                return True
        return False

    async def _granted(self, lease_s: float, end_s: float) -> str:
        """Have etcd grant a lease, to which no key belongs yet, and return its id."""
        ttl_s = math.ceil(lease_s)
        # The request may be repeated: a lease without a key has no effect, and ends by itself.
        answer = await self._gateway.ask(_GRANT, {"TTL": str(ttl_s)}, end_s=end_s)
        granted_s = number(answer, "TTL", "")
        if granted_s < ttl_s:
            raise ParseError("TTL", f"be {ttl_s} or more", granted_s)
        return str(number(answer, "ID", ""))

    # -- checks of the answers

    @asynccontextmanager
    async def _answers(self, pair: str) -> AsyncGenerator[None]:
        if self._exchanged is not None:
            raise ArbiterLost(pair, self._exchanged)
        try:
            yield
        except (NoAnswer, ParseError) as error:
            raise ArbiterLost(pair, str(error)) from error

    def _checked(self, answer: Mapping[str, object], known: int) -> int:
        """Check that an answer is from the same cluster as those before; return its revision.

        Args:
            answer: The answer.
            known: The highest revision that was known when the request was sent.

        Raises:
            NoAnswer: The cluster's id is another one, or its revision is below `known`. Every later
                call fails as well.
        """
        header = object_at(answer.get("header"), "header")
        revision, cluster_id = number(header, "revision", "header"), header.get("cluster_id")
        if self._cluster_id not in (None, cluster_id):
            self._exchanged = f"cluster {cluster_id} answered, which was {self._cluster_id} before"
        elif revision < known:
            self._exchanged = f"etcd is at revision {revision}, and was at {known} before"
        if self._exchanged is not None:
            self._exchanged += "; it was restored from a backup, or exchanged"
            raise NoAnswer(self._exchanged)
        self._cluster_id = cluster_id
        self._revision = max(self._revision, revision)
        return revision


def _end_s(limit_s: float) -> float:
    return asyncio.get_running_loop().time() + limit_s


def _may_renew(view: View, node: str, instance: str) -> bool:
    return view.held.shared is not None and view.held.shared.may_renew(node, instance)


def _compare(key: str, target: str, field: str, value: str) -> JsonObject:
    return {"key": encoded(key), "target": target, "result": "EQUAL", field: value}


def _written_at(key: str, revision: int) -> JsonObject:
    """The condition that a key was last written at a revision; for 0, that it does not exist."""
    return _compare(key, "MOD", "mod_revision", str(revision))


def _as_in(view: View, key: str) -> JsonObject:
    """The condition that a key is still as in a view."""
    return _written_at(key, view.revisions.get(key, 0))


def _put(key: str, value: str, *, lease: str = "0") -> JsonObject:
    return {"request_put": {"key": encoded(key), "value": encoded(value), "lease": lease}}
