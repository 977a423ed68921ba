"""What the fuse refuses to read, and who may ask it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator

import pytest
from tests.fuse.guarded import (
    FIRST,
    LIMIT_S,
    LONG_S,
    Fuse,
    armed,
    fuse_folder,
    message,
    reply,
    running,
    victim,
    who,
)

from pycolo.fuse._kernel import boottime_s
from pycolo.fuse._requests import REQUEST_MAX_BYTES

ARM: dict[str, object] = {
    **who(FIRST),
    "pid": 4,
    "start_time": 5,
    "fuse_s": 2.0,
    "kill_s": 10.0,
    "as_of_s": 1.0,
}


@pytest.fixture(scope="module")
def shared() -> Generator[Fuse]:
    """A fuse for tests that leave it as it was."""
    with fuse_folder() as folder, running(folder) as made:
        made.start()
        yield made


def _ask_for_ever(way: socket.socket) -> None:
    while True:
        way.send(message("list"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0", "a request must be one JSON object: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\xfe\xfd", "a request must be one JSON object: 'utf-"),
        (b"{", "a request must be one JSON object: Expecting property name"),
        (b"{}{}", "a request must be one JSON object: Extra data"),
        (b"[" * REQUEST_MAX_BYTES, "a request must be one JSON object: maximum recursion"),
        (b"[]", "a request must be one JSON object, not []"),
        (b"7", "a request must be one JSON object, not 7"),
        (b"{}", "request must be one of arm, renew, disarm, list, not None"),
        (message("blow"), "request must be one of arm, renew, disarm, list, not 'blow'"),
        (b'{"request": ["arm"]}', "request must be one of arm, renew, disarm, list, not ['arm']"),
        (message("list", node="alpha"), "there is no field 'node': the fields are none"),
        (message("renew", **who(FIRST)), "as_of_s is missing"),
        (message("disarm", **who(FIRST), force=True), "there is no field 'force': the fields are"),
        (b" " * (REQUEST_MAX_BYTES + 1), "a request must have at most 4096 bytes"),
        (b" " * 100_000, "a request must have at most 4096 bytes"),
    ],
)
def test_message_that_is_no_request_is_refused(shared: Fuse, data: bytes, why: str) -> None:
    """With the reason, and the connection continues."""
    with shared.connected() as way:
        way.send(data)
        assert str(reply(way)["refused"]).startswith(why)
        way.send(message("list"))
        assert {"ok": []} == reply(way)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("pair", "", "pair must be a letter followed by"),
        ("pair", "../p", "pair must be a letter followed by"),
        ("pair", 5, "pair must be a letter followed by"),
        ("node", "a:b", "node must be a letter followed by"),
        ("node", "a" * 101, "node must be a letter followed by"),
        ("instance", "p:beta:00000001", "instance must be p:alpha: and 8 hexadecimal digits, not"),
        ("instance", "p:alpha:1", "instance must be p:alpha: and 8 hexadecimal digits, not"),
        ("instance", "p:alpha:00000001\n", "instance must be p:alpha: and 8 hexadecimal digits"),
        ("instance", None, "instance must be p:alpha: and 8 hexadecimal digits, not None"),
        ("pid", 0, "pid must be a whole number from 1 to 4194304, not 0"),
        ("pid", -1, "pid must be a whole number from 1 to 4194304, not -1"),
        ("pid", True, "pid must be a whole number from 1 to 4194304, not True"),
        ("pid", 4.0, "pid must be a whole number from 1 to 4194304, not 4.0"),
        ("pid", 10**30, "pid must be a whole number from 1 to 4194304, not 10000"),
        ("start_time", "5", "start_time must be a whole number from 0 to"),
        ("fuse_s", 0, "fuse_s must be a number of seconds from 0.01 to 3600, not 0"),
        ("fuse_s", float("nan"), "fuse_s must be a number of seconds from 0.01 to 3600, not nan"),
        ("fuse_s", float("inf"), "fuse_s must be a number of seconds from 0.01 to 3600, not inf"),
        ("fuse_s", "2", "fuse_s must be a number of seconds from 0.01 to 3600, not '2'"),
        ("kill_s", -0.1, "kill_s must be a number of seconds from 0 to 3600, not -0.1"),
        ("kill_s", 10**400, "kill_s must be a number of seconds from 0 to 3600, not "),
        ("as_of_s", True, "as_of_s must be a number of seconds from 0 to 1e+12, not True"),
        ("as_of_s", 1e11, "as_of_s must not be in the future"),
        ("as_of_s", 0.0, "as_of_s + fuse_s must be in the future: the request came too late"),
    ],
)
def test_wrong_value_is_refused(shared: Fuse, field: str, value: object, why: str) -> None:
    """The refusal names the field, the rule and the value."""
    found = shared.ask("arm", **{**ARM, field: value})
    assert str(found).startswith(why)
    assert [] == shared.guarded()


def test_agents_share_the_fuse(fuse: Fuse) -> None:
    """What one has armed the other one sees and renews; the end of a connection changes nothing."""
    with victim() as qemu, fuse.connected() as other:
        with fuse.connected() as way:
            request = armed(qemu, LONG_S, LONG_S, boottime_s())
            way.send(message("arm", **request))
            assert "ok" in reply(way)
        as_of_s = boottime_s()
        other.send(message("renew", **who(FIRST), as_of_s=as_of_s))
        assert {"ok": {**request, "as_of_s": as_of_s, "state": "armed"}} == reply(other)
        assert qemu.was_let_be()


def test_agent_that_reads_no_replies_is_dropped(fuse: Fuse) -> None:
    """It keeps nobody else waiting."""
    with fuse.connected() as deaf:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _ask_for_ever(deaf)
        assert [] == fuse.guarded()


def test_connections_are_limited(fuse: Fuse) -> None:
    """The one too many is closed, and the others are served."""
    ways = [fuse.connected() for _ in range(65)]
    try:
        fuse.lines("is refused")
        ways[0].send(message("list"))
        assert {"ok": []} == reply(ways[0])
        assert b"" == ways[-1].recv(100)
    finally:
        for way in ways:
            way.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_other_user_is_refused(fuse: Fuse) -> None:
    """Even where the folder and the socket let everybody in."""
    for path in (fuse.folder.parent, fuse.folder, fuse.folder / "fuse.sock"):
        path.chmod(0o777)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as way:
        way.settimeout(LIMIT_S)
        os.seteuid(65534)
        try:
            way.connect(fuse.path)
        finally:
            os.seteuid(0)
        assert b"" == way.recv(100)
    assert f"process {os.getpid()} of user 65534 is refused\n" == fuse.lines("is refused")[-1]


def test_request_may_be_as_long_as_the_limit(fuse: Fuse) -> None:
    """The last byte counts as well."""
    data = json.dumps({"request": "list"}).encode().ljust(REQUEST_MAX_BYTES)
    assert {"ok": []} == fuse.reply(data)
