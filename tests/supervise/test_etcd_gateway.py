"""How the arbiter in etcd takes answers, and none: from a server that answers what a test wants."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import pytest
from aiohttp import web
from tests.certificates import Authority
from tests.gate import gate
from tests.supervise.arbitration import ALPHA, CLAIMED, END, LEASE_S, PAIR, SHARED, renewed

from pycolo.errors import ArbiterLost, ArbiterOvertaken, DeclarationError
from pycolo.supervise import Held
from pycolo.supervise.arbiters import dump_end, dump_shared
from pycolo.supervise.arbiters.etcd import EtcdArbiter, EtcdCluster

RANGE: Final = "/v3/kv/range"
TXN: Final = "/v3/kv/txn"
GRANT: Final = "/v3/lease/grant"
WATCH: Final = "/v3/watch"
LIMIT_S: Final = 0.7
HEADER: Final = {"cluster_id": "7", "revision": "20"}
HELD: Final = Held(revision=12, shared=SHARED)


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _pairs(**values: str) -> list[dict[str, str]]:
    """Keys with their values, as the gateway writes them."""
    return [
        {"key": _coded(f"pycolo/{PAIR}/{key}"), "value": _coded(value), "mod_revision": "12"}
        for key, value in values.items()
    ]


RECORD: Final = _pairs(record=dump_shared(SHARED))


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status)


def _found(kvs: object = RECORD, **header: str) -> web.Response:
    return _json({"header": {**HEADER, **header}, "kvs": kvs})


def _done(*, succeeded: bool = True, kvs: object = RECORD) -> web.Response:
    responses = [{"response_put": {}}, {"response_range": {"header": {}, "kvs": kvs}}]
    done: dict[str, object] = {"succeeded": True} if succeeded else {}
    return _json({"header": HEADER, "responses": responses, **done})


def _error(message: str, code: int, status: int) -> web.Response:
    return _json({"error": message, "message": message, "code": code}, status)


def answers(**to: Callable[[], web.Response]) -> Callable[[str], web.Response]:
    """Answers by the last part of the path; what is not named is found, done or granted."""
    usual: dict[str, Callable[[], web.Response]] = {
        "range": _found,
        "txn": _done,
        "grant": lambda: _json({"header": HEADER, "ID": "5", "TTL": "2"}),
    }
    return lambda path: {**usual, **to}[path.rpartition("/")[2]]()


@asynccontextmanager
async def arbiter(*endpoints: str) -> AsyncGenerator[EtcdArbiter]:
    """An arbiter with those members."""
    made = EtcdArbiter(EtcdCluster(endpoints=endpoints))
    try:
        yield made
    finally:
        await made.aclose()


def free_endpoint() -> str:
    """Where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


async def _read(arbiter: EtcdArbiter) -> object:
    return await arbiter.read(PAIR, limit_s=LIMIT_S)


async def _swap(arbiter: EtcdArbiter) -> object:
    return await arbiter.swap(PAIR, HELD, CLAIMED, limit_s=LIMIT_S)


async def _renew(arbiter: EtcdArbiter) -> object:
    return await arbiter.renew(PAIR, "alpha", ALPHA, lease_s=LEASE_S, limit_s=LIMIT_S)


async def _release(arbiter: EtcdArbiter) -> object:
    await arbiter.release(PAIR, "alpha", limit_s=LIMIT_S)
    return None


async def _state(arbiter: EtcdArbiter) -> object:
    await arbiter.state(PAIR, END, limit_s=LIMIT_S)
    return None


Method = Callable[[EtcdArbiter], Awaitable[object]]
CHANGES: Final = (_swap, _renew, _release, _state)
WITH_LEASE: Final = _pairs(**{"record": dump_shared(SHARED), "leases/alpha": ALPHA})


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: _error("etcdserver: request timed out", 14, 503), "request timed out"),
        (lambda: _error("something new", 99, 418), "something new"),
        (lambda: _error("etcdserver: requested lease not found", 5, 404), "lease not found"),
        (lambda: _error("etcdserver: permission denied", 7, 403), "permission denied"),
        (lambda: web.Response(text="Bad Gateway", status=502), "HTTP status 502: Bad Gateway"),
        (lambda: web.Response(text="[1"), "HTTP status 200: .1"),
        (lambda: _json({}), "header must be an object"),
        (lambda: _json({"header": {"revision": 3}}), "header.revision must be a whole number in a"),
        (lambda: _json({"header": HEADER, "succeeded": True}), "responses must be an array"),
        (lambda: web.Response(status=307, headers={"Location": "/"}), "HTTP status 307"),
    ],
)
async def test_an_unknown_answer_to_a_change_is_no_answer(
    change: Method, answer: Callable[[], web.Response], why: str
) -> None:
    """Nothing is known then, and the change is not sent again (Patroni's trap)."""
    async with gate() as first, gate() as second, arbiter(first.url, second.url) as lost:
        for one in (first, second):
            one.answer = answers(txn=answer, range=lambda: _found(WITH_LEASE))
        with pytest.raises(ArbiterLost, match=why):
            await change(lost)
        assert 1 == sum(path == TXN for one in (first, second) for path, _ in one.asked)


@pytest.mark.parametrize(
    ("kvs", "why"),
    [
        (_pairs(record="{}"), "format_version must be 1"),
        (_pairs(record=dump_shared(SHARED) + " "), "must be as pycolo writes it"),
        (_pairs(**{"ends/alpha": dump_end(END)}), r"ends\.alpha\.node must be alpha, not 'beta'"),
        ([{"key": "!", "value": ""}], r"kvs\[0\]\.key must be text in base64, not '!'"),
        ([{**RECORD[0], "value": "/w=="}], r"kvs\[0\]\.value must be text in base64"),
        ([{**RECORD[0], "mod_revision": "x"}], "mod_revision must be a whole number in a string"),
        ({}, r"kvs must be an array, not \{\}"),
        ([0], r"kvs\[0\] must be an object, not 0"),
    ],
)
async def test_what_etcd_holds_is_read_strictly(kvs: object, why: str) -> None:
    """A value that pycolo would not write like that says nothing for certain, and stays."""
    async with gate() as only, arbiter(only.url) as lost:
        only.answer = answers(range=lambda: _found(kvs))
        for method in (_read, _renew, _release, _state):
            with pytest.raises(ArbiterLost, match=why):
                await method(lost)
        assert {RANGE} == {path for path, _ in only.asked}


async def test_a_question_is_passed_to_the_next_member() -> None:
    """What changes nothing is asked elsewhere, and who has answered is asked first from then on."""
    async with gate() as first, gate() as second, arbiter(first.url, second.url) as found:
        first.answer = answers(range=lambda: _error("etcdserver: request timed out", 14, 503))
        second.answer = answers()
        for _ in range(2):
            assert HELD == await _read(found)
        assert (1, 2) == (len(first.asked), len(second.asked))


@pytest.mark.parametrize("method", [_read, *CHANGES])
async def test_a_member_that_is_not_there_is_passed_over(method: Method) -> None:
    """Nothing was sent where no connection was made, so a change, too, is passed to the next."""
    async with gate() as second, arbiter(free_endpoint(), second.url) as found:
        second.answer = answers(range=lambda: _found(WITH_LEASE))
        await method(found)
        assert 1 >= sum(path == TXN for path, _ in second.asked)


@pytest.mark.parametrize("method", [_read, *CHANGES])
async def test_without_any_member_the_limit_is_kept(method: Method) -> None:
    """Where nobody listens, the members are asked now and then until the limit, and no longer."""
    async with arbiter(free_endpoint()) as lost:
        began_s = time.monotonic()
        with pytest.raises(ArbiterLost, match="Connect call failed"):
            await method(lost)
        assert time.monotonic() - began_s < LIMIT_S + 0.5


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (_read, RANGE),
        (_swap, TXN),
        (_renew, GRANT),
        *((method, path) for method in (_renew, _release, _state) for path in (RANGE, TXN)),
    ],
)
async def test_a_member_that_is_silent_is_waited_for_until_the_limit(
    method: Method, path: str
) -> None:
    """One that takes what is asked and says nothing keeps nobody longer than the limit."""
    usual = answers(range=lambda: _found(WITH_LEASE))
    async with gate() as silent, arbiter(silent.url) as lost:
        silent.answer = lambda asked: None if asked == path else usual(asked)
        silent.hold(path)
        began_s = time.monotonic()
        with pytest.raises(ArbiterLost, match="no answer in time"):
            await method(lost)
        assert time.monotonic() - began_s < LIMIT_S + 0.5


async def test_a_swap_that_finds_something_else_is_overtaken() -> None:
    """What etcd compared tells whether it was changed; what is held instead tells why not."""
    async with gate() as only, arbiter(only.url) as found:
        for kvs, why in [
            (WITH_LEASE, "alpha has a lease"),
            (_pairs(record=dump_shared(CLAIMED)), "it is at revision 12, and was read at 12"),
            (RECORD, "another record is held"),
        ]:
            only.answer = answers(txn=partial(_done, succeeded=False, kvs=kvs))
            with pytest.raises(ArbiterOvertaken, match=why):
                await found.swap(PAIR, HELD, CLAIMED, no_lease_of="alpha", limit_s=LIMIT_S)


async def test_a_change_is_decided_anew_on_what_is_held_instead() -> None:
    """A renewal that lost a race is tried on the new record, or given up where that forbids it."""
    async with gate() as only, arbiter(only.url) as found:
        turns = iter([False, True])
        only.answer = answers(txn=lambda: _done(succeeded=next(turns)))
        assert await renewed(found)
        claimed = _pairs(record=dump_shared(CLAIMED))
        only.answer = answers(txn=lambda: _done(succeeded=False, kvs=claimed))
        assert not await renewed(found)
        assert [RANGE, GRANT, TXN, TXN, RANGE, GRANT, TXN] == [path for path, _ in only.asked]


async def test_a_lease_that_is_too_short_is_not_used() -> None:
    """Where etcd grants less than was asked for, the lease would end early: nothing is put."""
    async with gate() as only, arbiter(only.url) as lost:
        only.answer = answers(grant=lambda: _json({"header": HEADER, "ID": "5", "TTL": "1"}))
        with pytest.raises(ArbiterLost, match="TTL must be 2 or more, not 1"):
            await renewed(lost)
        assert TXN not in {path for path, _ in only.asked}


async def test_a_lease_is_granted_in_whole_seconds_that_are_enough() -> None:
    """Etcd grants whole seconds: what is asked for is rounded up."""
    async with gate() as only, arbiter(only.url) as found:
        only.answer = answers(grant=lambda: _json({"header": HEADER, "ID": "5", "TTL": "4"}))
        assert await found.renew(PAIR, "alpha", ALPHA, lease_s=3.1, limit_s=LIMIT_S)
        assert {"TTL": "4"} == dict(only.asked)[GRANT]


async def test_what_is_written_depends_on_what_was_read() -> None:
    """Each transaction demands that record and lease are as read, and the other's gone."""
    record, lease = (_coded(f"pycolo/{PAIR}/{key}") for key in ("record", "leases/alpha"))

    def unchanged(key: str, revision: int) -> dict[str, str]:
        return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}

    async with gate() as only, arbiter(only.url) as found:
        only.answer = answers()
        await found.swap(PAIR, HELD, CLAIMED, no_lease_of="alpha", limit_s=LIMIT_S)
        value = {"target": "VALUE", "result": "EQUAL", "value": _coded(dump_shared(SHARED))}
        expected = [unchanged(record, 12), {"key": record, **value}, unchanged(lease, 0)]
        assert expected == dict(only.asked)[TXN]["compare"]
        await found.swap(PAIR, Held(), CLAIMED, limit_s=LIMIT_S)
        assert [unchanged(record, 0)] == dict(only.asked)[TXN]["compare"]
        await _renew(found)
        assert [unchanged(record, 12), unchanged(lease, 0)] == dict(only.asked)[TXN]["compare"]
        put = {"request_put": {"key": lease, "value": _coded(ALPHA), "lease": "5"}}
        success = dict(only.asked)[TXN]["success"]
        assert isinstance(success, list)
        assert put == success[0]
        only.answer = answers(range=lambda: _found(WITH_LEASE))
        await _release(found)
        assert [unchanged(lease, 12)] == dict(only.asked)[TXN]["compare"]


# -- which cluster


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"cluster_id": "8"}, "cluster 8 answered, which was 7 before"),
        ({"revision": "19"}, "etcd is at revision 19, and was at 20 before"),
    ],
)
async def test_another_cluster_or_an_older_one_is_not_accepted_again(
    header: dict[str, str], why: str
) -> None:
    """Once seen, it stays so: also where the first one answers again, and for every method."""
    async with gate() as only, arbiter(only.url) as lost:
        only.answer = answers()
        assert HELD == await _read(lost)
        only.answer = answers(range=lambda: _found(**header))
        with pytest.raises(ArbiterLost, match=f"{why}; it was restored"):
            await _read(lost)
        only.answer = answers()
        asked = len(only.asked)
        for method in (_read, *CHANGES):
            with pytest.raises(ArbiterLost, match=why):
                await method(lost)
        with pytest.raises(ArbiterLost, match=why):
            await lost.changed(PAIR, HELD, limit_s=LIMIT_S)
        assert asked == len(only.asked)


# -- watching


def _event(key: str, **fields: str) -> dict[str, object]:
    kv = {"key": _coded(f"pycolo/{PAIR}/{key}"), "value": _coded(ALPHA)}
    return {"result": {"header": HEADER, "events": [{**fields, "kv": kv}]}}


def _lines(*lines: object) -> Callable[[], web.Response]:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return lambda: web.Response(text=text)


CREATED: Final = {"result": {"header": HEADER, "created": True}}
LEASED: Final = attrs.evolve(HELD, leases=frozenset(["alpha"]))


@pytest.mark.parametrize(
    "watch",
    [
        _lines(CREATED),
        _lines(CREATED, {"result": {"canceled": True, "cancel_reason": "compacted"}}),
        _lines({"error": {"grpc_code": 14, "message": "no leader"}}),
        _lines(0),
        lambda: web.Response(text="x" * 100_000),
        lambda: _error("something new", 99, 500),
    ],
)
async def test_a_watch_that_ends_is_opened_again_without_haste(
    watch: Callable[[], web.Response],
) -> None:
    """Whatever becomes of a watch, the record is read again, some times a second."""
    async with gate() as only, arbiter(only.url) as found:
        only.answer = answers(watch=watch)
        assert HELD == await found.changed(PAIR, HELD, limit_s=LIMIT_S)
        paths = Counter(path for path, _ in only.asked)
        assert 2 <= paths[WATCH] <= 12
        assert paths[WATCH] <= paths[RANGE] <= 12
        created = dict(only.asked)[WATCH]["create_request"]
        assert isinstance(created, dict)
        # What happened after the read, and nothing before, which was read.
        assert "21" == created["start_revision"]


async def test_a_renewal_is_no_news_to_a_watch() -> None:
    """A lease that is renewed once a second is no reason to read; one that is deleted is."""
    async with gate() as only, arbiter(only.url) as found:
        renewals = [_event("leases/alpha")] * 50
        only.answer = answers(
            range=lambda: _found(WITH_LEASE), watch=_lines(CREATED, *renewals, CREATED)
        )
        assert LEASED == await found.changed(PAIR, LEASED, limit_s=0.5)
        # The watch ends, and is opened again some times a second; with each, it is read once.
        assert 8 > sum(path == RANGE for path, _ in only.asked)
        for event in (_event("leases/alpha", type="DELETE"), _event("leases/beta")):
            reads = iter([_found(WITH_LEASE), _found()])
            only.answer = answers(
                range=partial(next, reads), watch=_lines(CREATED, *renewals, event)
            )
            assert HELD == await found.changed(PAIR, LEASED, limit_s=LIMIT_S)


# -- who asks


async def test_a_token_is_asked_for_once_and_replaced_where_it_is_stale(tmp_path: Path) -> None:
    """A member that knows the token no longer has changed nothing: log in, and send it again."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    authority = Authority(tmp_path, "authority")
    tokens = iter(["one", "two"])
    async with gate(tls=authority.sign("member", "127.0.0.1")) as only:
        found = EtcdArbiter(
            EtcdCluster(
                endpoints=(only.url,), ca=authority.cert, user="pycolo", password_file=password
            )
        )
        usual = answers(authenticate=lambda: _json({"header": HEADER, "token": next(tokens)}))
        only.answer = usual
        assert [HELD] * 3 == list(await asyncio.gather(*(_read(found) for _ in range(3))))
        stale = iter([_error("etcdserver: invalid auth token", 16, 401), _done()])
        only.answer = lambda path: next(stale) if path == TXN else usual(path)
        await _swap(found)
        await found.aclose()
    assert ["", "one", "one", "one", "one", "", "two"] == only.headers
    assert {"name": "pycolo", "password": "secret"} == only.asked[0][1]


# -- the declaration


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"endpoints": ()}, r"endpoints must name at least one endpoint, not \(\)"),
        ({"endpoints": ("10.0.0.1:2379",)}, r"endpoints\[0\] must be http://HOST:PORT or"),
        ({"endpoints": ("http://10.0.0.1",)}, r"endpoints\[0\] must be http://HOST:PORT or"),
        ({"endpoints": ("http://a:1", "ftp://a:1")}, r"endpoints\[1\] must be .*'ftp://a:1'"),
        ({"endpoints": ("http://a:99999",)}, r"endpoints\[0\] must be http://HOST:PORT"),
        ({"endpoints": ("http://a:1/x",)}, r"endpoints\[0\] must be http://HOST:PORT"),
        ({"endpoints": ("http://u:p@a:1",)}, r"endpoints\[0\] must be http://HOST:PORT"),
        ({"prefix": ""}, "prefix must be names of letters"),
        ({"prefix": "a//b"}, "prefix must be names of letters"),
        ({"prefix": "a/"}, "prefix must be names of letters"),
        ({"cert": Path("a")}, "EtcdCluster.key must be given with cert, not None"),
        ({"key": Path("a")}, "EtcdCluster.cert must be given with key, not None"),
        ({"user": "a"}, "EtcdCluster.password_file must be given with user, not None"),
        ({"password_file": Path("a")}, "EtcdCluster.user must be given with password_file"),
        ({"user": "", "password_file": Path("a")}, "user must be a non-empty string"),
        (
            {"user": "a", "password_file": Path("a")},
            r"endpoints\[0\] must begin with https:// if user is given, not 'http://a:1'",
        ),
        ({"ca": Path("a")}, "must begin with https:// if ca is given"),
    ],
)
def test_a_wrong_declaration_is_refused(fields: dict[str, object], why: str) -> None:
    """The error names the field, the value and the rule."""
    good = EtcdCluster(endpoints=("http://a:1",))
    with pytest.raises(DeclarationError, match=why):
        attrs.evolve(good, **fields)  # type: ignore[arg-type]  # wrong values are the point


def test_prefixes_may_begin_and_continue_with_slashes() -> None:
    """Both habits of naming keys in etcd are taken."""
    assert "/ha/pycolo" == EtcdCluster(endpoints=("https://[::1]:1",), prefix="/ha/pycolo").prefix
