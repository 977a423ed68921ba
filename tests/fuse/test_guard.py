"""What the fuse does to a QEMU, seen by the kernel's word on a process that stands for one."""

from __future__ import annotations

import json
import os

import pytest
from tests.fuse.guarded import (
    FIRST,
    FUSE_S,
    LONG_S,
    NO_PRECEDENCE,
    SECOND,
    WITHOUT_RIGHTS,
    Fuse,
    armed,
    message,
    reply,
    victim,
    wait_until,
    who,
)

from pycolo.fuse._kernel import boottime_s


def _has_file(fuse: Fuse) -> bool:
    return (fuse.folder / "p:alpha.json").exists()


# -- without a renewal ---------------------------------------------------------------------------


def test_qemu_that_is_not_renewed_is_stopped(fuse: Fuse) -> None:
    """At its deadline, and no sooner."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        assert [(FIRST, "armed")] == fuse.guarded()
        qemu.wait_stopped()
        assert boottime_s() >= deadline_s
        assert [(FIRST, "stopped")] == fuse.guarded()


def test_qemu_that_stays_stopped_is_killed(fuse: Fuse) -> None:
    """After `kill_s` more, and then nothing is guarded."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu, kill_s=0.1)
        qemu.wait_stopped()
        qemu.wait_killed()
        assert boottime_s() >= deadline_s + 0.1
        fuse.lines("has ended")
        assert ([], False) == (fuse.guarded(), _has_file(fuse))


def test_each_qemu_has_its_own_deadline(fuse: Fuse) -> None:
    """Of two pairs one is stopped, the other is let be."""
    with victim() as qemu, victim("q:alpha:00000001") as other:
        fuse.arm(other, fuse_s=LONG_S)
        fuse.arm(qemu)
        qemu.wait_stopped()
        assert other.was_let_be()
        assert {(FIRST, "stopped"), ("q:alpha:00000001", "armed")} == set(fuse.guarded())


# -- renewals ------------------------------------------------------------------------------------


def test_qemu_that_is_renewed_in_time_is_let_be(fuse: Fuse) -> None:
    """The deadline counts from the renewal's moment."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu, fuse_s=LONG_S, as_of_s=boottime_s() - LONG_S + FUSE_S)
        fuse.renew(qemu, boottime_s())
        wait_until(deadline_s)
        assert [(FIRST, "armed")] == fuse.guarded()
        assert qemu.was_let_be()


def test_renewal_takes_the_stop_back(fuse: Fuse) -> None:
    """What the fuse has stopped continues, and is stopped again at the next deadline."""
    with victim() as qemu:
        fuse.arm(qemu)
        qemu.wait_stopped()
        fuse.renew(qemu, boottime_s())
        qemu.wait_continued()
        qemu.wait_stopped()


def test_renewal_counts_from_its_evidence_and_not_from_its_arrival(fuse: Fuse) -> None:
    """One by which QEMU should be stopped by now changes nothing."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        qemu.wait_stopped()
        found = fuse.renew(qemu, boottime_s() - FUSE_S)
        assert isinstance(found, dict)
        assert ("stopped", deadline_s - FUSE_S) == (found["state"], found["as_of_s"])
        assert qemu.was_let_be()


def test_renewal_older_than_the_latest_changes_nothing(fuse: Fuse) -> None:
    """Evidence may come out of order: the deadline never moves back."""
    with victim() as qemu:
        began_s = boottime_s()
        fuse.arm(qemu, fuse_s=LONG_S, as_of_s=began_s - 2)
        for as_of_s in (began_s, began_s - 1):
            found = fuse.renew(qemu, as_of_s)
            assert isinstance(found, dict)
            assert began_s == found["as_of_s"]


def test_renewal_from_the_future_is_refused(fuse: Fuse) -> None:
    """No wrong clock arms the fuse for longer."""
    with victim() as qemu:
        fuse.arm(qemu, fuse_s=LONG_S)
        found = fuse.renew(qemu, boottime_s() + LONG_S)
        assert "as_of_s must not be in the future, on this host's CLOCK_BOOTTIME" == found


def test_arming_again_is_no_renewal(fuse: Fuse) -> None:
    """An agent that has lost an answer may ask again; it has no evidence that QEMU may run."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        assert deadline_s == fuse.arm(qemu)
        qemu.wait_stopped()
        assert deadline_s == fuse.arm(qemu)
        assert [(FIRST, "stopped")] == fuse.guarded()
        assert qemu.was_let_be()


# -- the end of a guard --------------------------------------------------------------------------


def test_disarmed_qemu_is_let_be(fuse: Fuse) -> None:
    """Its deadline passes, and to disarm once more does nothing."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        assert [None, None] == [fuse.ask("disarm", **who(FIRST)) for _ in range(2)]
        wait_until(deadline_s)
        assert ([], False) == (fuse.guarded(), _has_file(fuse))
        assert qemu.was_let_be()


def test_disarming_takes_the_stop_back(fuse: Fuse) -> None:
    """A QEMU that may run alone is not left stopped."""
    with victim() as qemu:
        fuse.arm(qemu)
        qemu.wait_stopped()
        fuse.ask("disarm", **who(FIRST))
        qemu.wait_continued()


def test_guard_ends_with_qemu(fuse: Fuse) -> None:
    """A QEMU that ends by itself leaves nothing behind."""
    with victim() as qemu:
        fuse.arm(qemu, fuse_s=LONG_S)
        assert _has_file(fuse)
        qemu.process.kill()
        fuse.lines("has ended")
        assert ([], False) == (fuse.guarded(), _has_file(fuse))
        assert f"{FIRST} is not armed" == fuse.renew(qemu, boottime_s())


# -- which process -------------------------------------------------------------------------------


def test_process_that_started_at_another_time_is_refused(fuse: Fuse) -> None:
    """Its number was given again: it is another process."""
    with victim() as qemu:
        qemu.start_time += 1
        found = fuse.ask("arm", **armed(qemu, FUSE_S, LONG_S, boottime_s()))
        assert f"process {qemu.pid} started at {qemu.start_time - 1}" in str(found)
        assert ([], False) == (fuse.guarded(), _has_file(fuse))


def test_process_of_another_instance_is_refused(fuse: Fuse) -> None:
    """The command line says which QEMU it is."""
    with victim(SECOND) as qemu:
        found = fuse.ask("arm", **{**armed(qemu, FUSE_S, LONG_S, boottime_s()), **who(FIRST)})
        rule = f"process {qemu.pid} is not {FIRST}: its command line does not name it"
        assert rule == found


def test_process_that_has_ended_is_refused(fuse: Fuse) -> None:
    """As a zombie, and when it is gone."""
    with victim() as qemu:
        request = armed(qemu, FUSE_S, LONG_S, boottime_s())
        qemu.process.kill()
        os.waitid(os.P_PID, qemu.pid, os.WEXITED | os.WNOWAIT)
        assert f"process {qemu.pid} has ended" == fuse.ask("arm", **request)
        qemu.wait_killed()
        assert f"there is no process {qemu.pid}" == fuse.ask("arm", **request)


def test_request_about_another_instance_is_refused(fuse: Fuse) -> None:
    """Each of them, while the armed one runs; once it has ended the next one is guarded."""
    with victim() as qemu, victim(SECOND) as later:
        fuse.arm(qemu, fuse_s=LONG_S)
        now_s = boottime_s()
        found = [
            fuse.ask("arm", **armed(later, LONG_S, LONG_S, now_s)),
            fuse.renew(later, now_s),
            fuse.ask("disarm", **who(SECOND)),
        ]
        assert 3 * [f"{FIRST} is armed, not {SECOND}"] == found
        qemu.process.kill()
        qemu.wait_killed()
        fuse.arm(later, fuse_s=LONG_S)
        assert [(SECOND, "armed")] == fuse.guarded()


def test_armed_instance_with_other_values_is_refused(fuse: Fuse) -> None:
    """Its limits stay until it is disarmed."""
    with victim() as qemu:
        fuse.arm(qemu, fuse_s=LONG_S)
        found = fuse.ask("arm", **armed(qemu, FUSE_S, LONG_S, boottime_s()))
        assert f"{FIRST} is armed with other values: disarm it first" == found


# -- a fuse that did not run ---------------------------------------------------------------------


def test_fuse_that_is_started_again_keeps_the_deadline(fuse: Fuse) -> None:
    """The latest renewal counts as well."""
    with victim() as qemu:
        fuse.arm(qemu, fuse_s=LONG_S, as_of_s=boottime_s() - LONG_S + 2 * FUSE_S)
        as_of_s = boottime_s() - LONG_S + 3 * FUSE_S
        fuse.renew(qemu, as_of_s)
        before = fuse.ask("list")
        fuse.kill()
        fuse.start()
        assert before == fuse.ask("list")
        qemu.wait_stopped()
        assert boottime_s() >= as_of_s + LONG_S


def test_fuse_that_is_started_late_acts_before_it_is_ready(fuse: Fuse) -> None:
    """A deadline has passed meanwhile; a renewal takes the stop back as ever."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        fuse.kill()
        wait_until(deadline_s)
        assert qemu.was_let_be()
        fuse.start()
        qemu.wait_stopped()
        fuse.renew(qemu, boottime_s())
        qemu.wait_continued()


@pytest.mark.skipif(WITHOUT_RIGHTS is None, reason="no setpriv here")
def test_fuse_that_is_started_late_acts_before_all_else(fuse: Fuse) -> None:
    """Before it asks for locked memory, which may take a while; here that is refused, and told."""
    assert WITHOUT_RIGHTS is not None
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        fuse.kill()
        wait_until(deadline_s)
        fuse.start(*WITHOUT_RIGHTS)
        assert f"{FIRST}: stopped, " in fuse.lines(NO_PRECEDENCE[0])[-2]


def test_stop_outlives_the_fuse_that_made_it(fuse: Fuse) -> None:
    """The next fuse knows of it, and kills or continues."""
    with victim() as qemu:
        fuse.arm(qemu)
        qemu.wait_stopped()
        fuse.kill()
        fuse.start()
        assert [(FIRST, "stopped")] == fuse.guarded()
        fuse.renew(qemu, boottime_s())
        qemu.wait_continued()


def test_fuse_that_is_started_again_touches_no_other_process(fuse: Fuse) -> None:
    """The number of a QEMU that ended meanwhile was given to another process."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu)
        fuse.kill()
        path = fuse.folder / "p:alpha.json"
        kept = json.loads(path.read_text())
        kept["arm"]["start_time"] -= 1
        path.write_text(json.dumps(kept))
        fuse.start()
        wait_until(deadline_s)
        assert ([], False) == (fuse.guarded(), _has_file(fuse))
        assert qemu.was_let_be()


def test_file_of_another_boot_guards_nothing(fuse: Fuse) -> None:
    """A reboot has ended that QEMU."""
    with victim() as qemu:
        fuse.arm(qemu, fuse_s=LONG_S)
        fuse.kill()
        path = fuse.folder / "p:alpha.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))
        fuse.start()
        assert ([], False) == (fuse.guarded(), _has_file(fuse))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"boot_id": 1, "arm": ', "\0"])
def test_file_that_is_damaged_is_told(fuse: Fuse, text: str) -> None:
    """And the others are guarded."""
    with victim() as qemu:
        fuse.arm(qemu, fuse_s=LONG_S)
        fuse.kill()
        (fuse.folder / "o:alpha.json").write_text(text)
        fuse.start()
        assert "o:alpha.json CANNOT BE USED" in fuse.lines("CANNOT BE USED")[-1]
        assert [(FIRST, "armed")] == fuse.guarded()


def test_frozen_fuse_acts_before_it_reads_a_renewal(fuse: Fuse) -> None:
    """One that waits in its socket comes after what is overdue, however good it is."""
    with victim() as qemu, fuse.connected() as way:
        deadline_s = fuse.arm(qemu)
        fuse.freeze()
        wait_until(deadline_s)
        way.send(message("renew", **who(FIRST), as_of_s=boottime_s()))
        fuse.thaw()
        log = fuse.lines(f"{FIRST}: continues")
        assert f"{FIRST}: stopped, " in log[-2]
        found = reply(way)["ok"]
        assert isinstance(found, dict)
        assert "armed" == found["state"]


def test_fuse_that_was_frozen_for_long_stops_before_it_kills(fuse: Fuse) -> None:
    """The renewal that waits in its socket is a good one, so that the stop is taken back."""
    with victim() as qemu, fuse.connected() as way:
        deadline_s = fuse.arm(qemu, kill_s=0.5)
        fuse.freeze()
        wait_until(deadline_s + 0.5)
        way.send(message("renew", **who(FIRST), as_of_s=boottime_s()))
        fuse.thaw()
        lines = fuse.lines("continues")
        assert f"{FIRST}: stopped, " in lines[-2]
        assert qemu.process.poll() is None


def test_fuse_that_was_frozen_hears_before_it_kills(fuse: Fuse) -> None:
    """It had stopped its QEMU before, whose time to be renewed has passed meanwhile."""
    with victim() as qemu, fuse.connected() as way:
        deadline_s = fuse.arm(qemu, kill_s=0.5)
        qemu.wait_stopped()
        fuse.freeze()
        wait_until(deadline_s + 1.5)
        way.send(message("renew", **who(FIRST), as_of_s=boottime_s()))
        fuse.thaw()
        qemu.wait_continued()


def test_fuse_that_was_frozen_kills_what_nobody_renews(fuse: Fuse) -> None:
    """After another `kill_s` in which it could have heard of a renewal."""
    with victim() as qemu:
        deadline_s = fuse.arm(qemu, kill_s=0.2)
        fuse.freeze()
        wait_until(deadline_s + 1.0)
        fuse.thaw()
        qemu.wait_stopped()
        qemu.wait_killed()


def test_renewal_that_waited_for_too_long_is_ignored(fuse: Fuse) -> None:
    """It was good when it was sent, and the fuse was frozen."""
    with victim() as qemu, fuse.connected() as way:
        fuse.arm(qemu)
        fuse.freeze()
        as_of_s = boottime_s()
        way.send(message("renew", **who(FIRST), as_of_s=as_of_s))
        wait_until(as_of_s + FUSE_S)
        fuse.thaw()
        qemu.wait_stopped()
        found = reply(way)["ok"]
        assert isinstance(found, dict)
        assert "stopped" == found["state"]
        assert qemu.was_let_be()


def test_request_to_arm_that_waited_for_too_long_is_refused(fuse: Fuse) -> None:
    """Who asked has given up, and would renew nothing."""
    with victim() as qemu, fuse.connected() as way:
        fuse.freeze()
        as_of_s = boottime_s()
        way.send(message("arm", **armed(qemu, FUSE_S, LONG_S, as_of_s)))
        wait_until(as_of_s + FUSE_S)
        fuse.thaw()
        rule = "as_of_s + fuse_s must be in the future: the request came too late"
        assert {"refused": rule} == reply(way)
        assert [] == fuse.guarded()


# -- a folder that is full -----------------------------------------------------------------------


def test_qemu_that_cannot_be_remembered_is_not_armed(fuse: Fuse) -> None:
    """Or the next fuse would not know of it."""
    (fuse.folder / "p:alpha.json.new").mkdir()
    with victim() as qemu:
        found = fuse.ask("arm", **armed(qemu, FUSE_S, LONG_S, boottime_s()))
        assert f"{fuse.folder} cannot be written: Is a directory" == found
        assert [] == fuse.guarded()


def test_renewal_that_cannot_be_written_counts(fuse: Fuse) -> None:
    """The next fuse acts too early then, never too late."""
    with victim() as qemu:
        fuse.arm(qemu)
        (fuse.folder / "p:alpha.json.new").mkdir()
        qemu.wait_stopped()
        fuse.renew(qemu, boottime_s())
        qemu.wait_continued()
        assert "Is a directory" in fuse.lines("the renewal cannot be written")[-1]
