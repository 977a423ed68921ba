"""How long a pair has waited for what may never come."""

from __future__ import annotations

from pycolo.supervise._waits import Waits


def test_wait_begins_with_the_first_question() -> None:
    """It lasts until it is ended, however often it is asked about."""
    waits = Waits()
    assert [0.0, 3.0, 8.0] == [waits.waited_s("host", now_s) for now_s in (100.0, 103.0, 108.0)]


def test_wait_that_has_ended_begins_anew() -> None:
    """A host that was back for a moment is not asked for at once; an end without a wait is none."""
    waits = Waits()
    waits.end("host")
    waits.waited_s("host", 100.0)
    waits.end("host")
    assert 0.0 == waits.waited_s("host", 120.0)


def test_waits_do_not_disturb_each_other() -> None:
    """Neither those for other things nor those of the other node."""
    waits = Waits()
    waits.waited_s("other", 100.0, node="alpha")
    waits.waited_s("other", 105.0, node="beta")
    waits.waited_s("evidence", 107.0)
    waits.end("other", node="beta")
    assert 10.0 == waits.waited_s("other", 110.0, node="alpha")
    assert 0.0 == waits.waited_s("other", 110.0, node="beta")
    assert 3.0 == waits.waited_s("evidence", 110.0)
