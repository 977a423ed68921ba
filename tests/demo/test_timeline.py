"""The report of a life, and how it is drawn."""

import io
import json

import attrs
import pytest
from rich.console import Console

from pycolo.demo.messages import Waited
from pycolo.demo.report import Failover, LifeReport, Moment, Protection, Span
from pycolo.demo.timeline import lines, show

START = Protection(
    primary="alpha",
    secondary="beta",
    at_s=1.0,
    launched_s=0.25,
    protected_s=0.75,
    proven_s=0.06,
    stops_s=(0.003, 0.1),
    waits_s={"ping": 0.11, "disk": 0.17},
    steps=37,
)
FAILOVER = Failover(
    fault="kill primary",
    victim="alpha",
    survivor="beta",
    at_s=5.0,
    seen_s=0.004,
    resumed_s=0.006,
    restored_s=0.008,
    finished_s=0.016,
    outages_s={"ping": 0.04, "echo-busy": 0.21},
    connections=9,
    survived=9,
    acknowledged=100,
    missing=0,
    checkpoints=12,
    protected_s=3.0,
    steps=13,
)
REPORT = LifeReport(
    qemu="11.1.3",
    checkpoint_delay_ms=2000,
    isolated=True,
    not_shown=(),
    failovers_wanted=1,
    protections=(START,),
    failovers=(FAILOVER,),
    spans=(
        Span(node="alpha", role="alone", from_s=0.0, to_s=2.0),
        Span(node="beta", role="joining", from_s=1.0, to_s=2.0),
        Span(node="alpha", role="primary", from_s=2.0, to_s=5.0),
        Span(node="beta", role="secondary", from_s=2.0, to_s=5.0),
        Span(node="beta", role="alone", from_s=5.0, to_s=10.0),
    ),
    moments=(Moment(at_s=5.0, text="SIGKILL to the primary, on alpha"),),
    waits=(
        Waited(stream="ping", from_s=5.0, to_s=5.04),
        Waited(stream="echo-busy", from_s=5.0, to_s=5.21),
    ),
    took_s=10.0,
    acknowledged=120,
    lost_writes=0,
    error=None,
    logs=None,
)


def drawn(report: LifeReport, width: int = 64) -> list[str]:
    """Draw without colour."""
    return [line.plain for line in lines(report, width)]


def lane(report: LifeReport, label: str) -> str:
    """The lane of a node or a stream, without its label."""
    return next(line for line in drawn(report) if line.startswith(f"{label} "))[14:]


def test_time_axis_shows_what_each_node_was() -> None:
    """Roles follow one another in proportion to the time they lasted, with a cross at the kill."""
    alpha, beta = lane(REPORT, "alpha"), lane(REPORT, "beta")
    assert "a" * 10 + "P" * 15 + "✗" == alpha.rstrip()
    assert " " * 5 + "j" * 5 + "s" * 15 + "a" * 25 == beta


def test_time_axis_shows_how_long_the_client_waited() -> None:
    """The column of a failover shows the longest wait in it, the others show none."""
    assert "·" * 25 + "▁" + "·" * 24 == lane(REPORT, "ping")
    assert "·" * 25 + "▄▄" + "·" * 23 == lane(REPORT, "echo")
    assert "·" * 50 == lane(REPORT, "new")


def test_failover_is_drawn_in_milliseconds() -> None:
    """Each moment and each wait has its figure, and bars have the length of their waits."""
    text = "\n".join(drawn(REPORT))
    assert "5.0 s  Failover: SIGKILL to the primary on alpha, survivor beta (13 steps)" in text
    assert "its end is shown           4.0 ms" in text
    assert "disk writes: waited   under 20 ms" in text
    assert "9 of 9 connections live on; 100 writes acknowledged so far, all read back" in text
    assert "echo: waited             210.0 ms  " + "━" * 24 in text
    assert "ping: waited              40.0 ms  " + "━" * 5 + "\n" in text


def test_failover_after_a_cut_says_what_was_cut() -> None:
    """No QEMU was sent a signal, and the node that was ended has the cross."""
    cut = attrs.evolve(FAILOVER, fault="cut cable", victim="beta", survivor="alpha")
    report = attrs.evolve(REPORT, failovers=(cut,))
    text = "\n".join(drawn(report))
    assert "Failover: the cable between the hosts is cut, survivor alpha (13 steps)" in text
    assert "✗" in lane(report, "beta")
    assert "✗" not in lane(report, "alpha")


def test_protection_tells_how_long_the_guest_was_paused() -> None:
    """A resume's price is shown: the standstills, and the client's longest wait."""
    text = "\n".join(drawn(REPORT))
    assert "protected after 1.00 s, proven 60 ms later" in text
    assert "the guest was paused 3 ms + 100 ms; longest wait 170 ms (disk)" in text


def test_without_namespaces_no_ping_is_drawn_and_the_reason_is() -> None:
    """What could not be measured is named, and no empty lane pretends that it was."""
    report = attrs.evolve(REPORT, isolated=False, not_shown=("ping: no ICMP here",))
    text = drawn(report)
    assert not [line for line in text if line.startswith("ping ")]
    assert "Not shown here: ping: no ICMP here" in text


def test_a_life_is_good_when_nothing_is_lost_and_all_is_done() -> None:
    """One lost write, one failover too few or an error each make it bad."""
    bad = [
        attrs.evolve(REPORT, lost_writes=1),
        attrs.evolve(REPORT, lost_writes=None),
        attrs.evolve(REPORT, failovers_wanted=2),
        attrs.evolve(REPORT, protections=()),
        attrs.evolve(REPORT, error="it broke"),
    ]
    assert REPORT.ok
    assert [False] * len(bad) == [report.ok for report in bad]


@pytest.mark.parametrize(
    ("missing", "words"),
    [(1, "1 not read back"), (None, "which the guest could not read back")],
)
def test_what_the_guest_reads_back_is_reported_and_the_image_counts(
    missing: int | None, words: str
) -> None:
    """A guest's broken program loses no write: the image that holds all of them shows that."""
    report = attrs.evolve(REPORT, failovers=(attrs.evolve(FAILOVER, missing=missing),))
    assert report.ok
    assert f"100 writes acknowledged so far, {words}" in "\n".join(drawn(report))


def test_an_early_end_is_drawn_with_its_reason_and_the_logs() -> None:
    """A life that ended before anything happened can be drawn, too."""
    report = attrs.evolve(
        REPORT,
        protections=(),
        failovers=(),
        spans=(),
        waits=(),
        took_s=0.0,
        lost_writes=None,
        error="no QEMU",
        logs="/var/tmp/logs",
    )
    assert [
        "0 of 1 failovers, 120 acknowledged writes, an unknown number lost",
        "It ended early: no QEMU",
        "Logs: /var/tmp/logs",
    ] == drawn(report)[-3:]


def test_report_as_json_has_all_figures() -> None:
    """Programs get what people see, and whether the life was good."""
    value = json.loads(json.dumps(REPORT.to_json()))
    assert (1, True) == (value["format_version"], value["ok"])
    assert 0.008 == value["failovers"][0]["restored_s"]
    assert {"stream": "ping", "from_s": 5.0, "to_s": 5.04} == value["waits"][0]
    assert None is value["error"]


def test_drawing_is_plain_where_there_is_no_terminal() -> None:
    """A file gets no escape sequences, and no line is broken."""
    file = io.StringIO()
    show(REPORT, Console(file=file, width=80))
    assert "\x1b" not in file.getvalue()
    assert drawn(REPORT, 80) == file.getvalue().splitlines()
