"""Whether a command without an answer took effect, told from what is there now."""

from __future__ import annotations

import attrs
import pytest

from pycolo.effects import took_effect
from pycolo.qmp import commands as qmp
from pycolo.qmp.chardevs import InetSocketAddress
from pycolo.qmp.replies import Version
from pycolo.snapshot import Job, Live

BEFORE = Live(
    version=Version(major=11, minor=1, micro=3),
    run_state="running",
    jobs={"resync": Job(status="ready")},
    exports={"parent0": "parent0"},
    nbd_server=True,
)
SECONDARY = attrs.evolve(
    BEFORE,
    colo_mode="secondary",
    migration="colo",
    incoming=True,
    children={"colo-disk0": ()},
)
ALONE = attrs.evolve(
    SECONDARY,
    colo_mode="none",
    last_colo_mode="secondary",
    migration="completed",
    incoming=False,
)


@pytest.mark.parametrize("status", ["waiting", "pending", "concluded"])
def test_a_job_that_was_told_to_end_may_have_ended_since(status: str) -> None:
    """Whatever it has come to, it is no longer what it was."""
    found = attrs.evolve(BEFORE, jobs={"resync": Job(status=status)})
    assert True is took_effect(BEFORE, qmp.BlockJobCancel(device="resync"), found)


@pytest.mark.parametrize(
    ("before", "command"),
    [
        (BEFORE, qmp.BlockJobCancel(device="resync")),
        (
            attrs.evolve(BEFORE, migration="pre-switchover"),
            qmp.MigrateContinue(state="pre-switchover"),
        ),
        (SECONDARY, qmp.XColoLostHeartbeat()),
    ],
)
def test_what_was_set_in_motion_may_not_have_begun(before: Live, command: qmp.Command) -> None:
    """As long as nothing has changed, nobody knows."""
    assert None is took_effect(before, command, before)


def test_what_is_done_at_once_and_left_no_trace_did_not_happen() -> None:
    """QEMU does most of what it is told before it answers."""
    assert False is took_effect(BEFORE, qmp.Stop(), BEFORE)


def test_an_nbd_server_leaves_no_trace() -> None:
    """No query shows it (qemu-behaviour 18.3): whether it was started cannot be told."""
    none = attrs.evolve(BEFORE, nbd_server=False, exports={})
    start = qmp.NbdServerStart(addr=InetSocketAddress(host="127.0.0.1", port=9999))
    assert None is took_effect(none, start, none)


def test_exports_go_with_the_nbd_server() -> None:
    """That it was stopped shows in the exports, which are gone."""
    found = attrs.evolve(BEFORE, nbd_server=False, exports={})
    assert True is took_effect(BEFORE, qmp.NbdServerStop(), found)
    assert False is took_effect(BEFORE, qmp.NbdServerStop(), BEFORE)


@pytest.mark.parametrize("pending", [frozenset[str](), frozenset({"colo-disk0"})])
def test_a_promotion_is_told_from_its_mode(pending: frozenset[str]) -> None:
    """The merge that it begins may be over before anybody looks."""
    found = attrs.evolve(ALONE, commit_pending=pending)
    assert True is took_effect(SECONDARY, qmp.XColoLostHeartbeat(), found)
