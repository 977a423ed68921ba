"""The catalogue of QEMU's refusals, without QEMU."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compiler.cases import golden_plans

from pycolo.catalogue import ENTRIES, HUMAN, Entry, Explanation, explain
from pycolo.compiler import compile_offline
from pycolo.errors import DeclarationError
from pycolo.model import ColoPair, FilterChain, Netdev, Node, ReplicationDisk
from pycolo.plan import Execute
from pycolo.qmp.commands import ObjectDel
from pycolo.qmp.replies import Version
from pycolo.render import text
from pycolo.result import NotRun, Outcome, QemuError, Refused, Report

OLD, NEW = Version.parse("7.2.22"), Version.parse("11.1.3")


def names(found: tuple[Explanation, ...]) -> list[str]:
    """The names of what was found."""
    return [one.entry.name for one in found]


def accepted() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Each command of a plan with words that it accepts, and the classes it accepts."""
    for _, _, plan in golden_plans():
        steps = [s for s in plan.steps if isinstance(s, Execute)]
        steps += [s for recovery in plan.recoveries for s in recovery.steps]
        for step in steps:
            for words in {refusal.text for refusal in step.accepts}:
                classes = (one.error_class for one in step.accepts if one.text == words)
                yield step.command.qmp_name, words, frozenset(classes)


def test_what_plans_accept_is_known_to_reach_the_goal() -> None:
    """Every refusal that a plan counts as done is in the catalogue, and none that missed it."""
    seen = set(accepted())
    assert len(seen) > 10
    for command, words, classes in seen:
        known = [
            entry
            for entry in ENTRIES
            if command in entry.commands
            and entry.error_class in classes
            and any(words in wording.text for wording in entry.wordings)
        ]
        assert known, f"{command}: {words}"
        assert [] == [entry.name for entry in known if entry.goal == "missed"], command


def test_each_entry_has_a_name_of_its_own() -> None:
    """Names are given once, and are what a link can be made of."""
    found = [entry.name for entry in ENTRIES]
    assert sorted(set(found)) == sorted(found)
    assert [] == [name for name in found if not re.fullmatch(r"[a-z-]+", name)]


def test_sentences_are_parts_of_sentences() -> None:
    """Meanings and remedies can be put between semicolons: small letter, no full stop."""
    said = [(entry.name, part) for entry in ENTRIES for part in (entry.meaning, entry.remedy)]
    assert [] == [(name, part) for name, part in said if part.endswith(".") or part[0].isupper()]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_each_wording_finds_its_own_entry_first(entry: Entry) -> None:
    """A message in the words of an entry is that entry, for its commands and versions."""
    command = entry.commands[0].removeprefix("hmp:") if entry.commands else None
    for wording in entry.wordings:
        message = re.sub(r"\{[A-Z]+\}", "x0", wording.text)
        best = explain(message, command=command, version=wording.since)[0]
        assert (entry.name, True, True) == (best.entry.name, best.whole, best.fits)


def test_placeholders_give_what_stood_there() -> None:
    """What differs from case to case is read from the message."""
    found = explain("Node 'colo-disk0' does not have child 'children.1'")
    assert {"QUORUM": "colo-disk0", "CHILD": "children.1"} == found[0].values


def test_a_cause_is_found_behind_its_frame() -> None:
    """The whole message comes first, then the cause that it names."""
    message = (
        "Failed to add chardev 'red0': Failed to connect to '127.0.0.1:9003': Connection refused"
    )
    found = explain(message, command="chardev-add")
    assert ["chardev-failed", "nobody-listens"] == names(found)
    assert [True, False] == [one.whole for one in found]
    assert {"ADDRESS": "127.0.0.1:9003"} == found[1].values


@pytest.mark.parametrize(
    "message",
    [
        "object 'm0' not found",
        "  object 'm0' not found\n",
        "Error: object 'm0' not found\r\n",
        "alpha refused object-del: object 'm0' not found (GenericError)",
        "alpha refused 'object_del m0': object 'm0' not found",
        '{"error": {"class": "GenericError", "desc": "object \'m0\' not found"}, "id": 1}',
    ],
)
def test_a_message_is_known_in_whatever_it_comes(message: str) -> None:
    """Words of the human monitor, of a report and of the wire are all the same."""
    best = explain(message)[0]
    assert ("object-gone", {"ID": "m0"}, True) == (best.entry.name, best.values, best.fits)


def test_the_human_monitor_says_two_lines_as_one() -> None:
    """A message of two lines is one message."""
    message = "Error: Requested export not available\r\nserver reported: export 'e' not present\r\n"
    best = explain(message, command=HUMAN, version=NEW)[0]
    assert ("export-not-offered", True, True) == (best.entry.name, best.whole, best.fits)


def test_the_command_decides_between_equal_words() -> None:
    """The same words mean another thing for another command; the others come after."""
    message = "Device 'm0' not found"
    assert "filter-gone" == names(explain(message, command="qom-set"))[0]
    found = explain(message, command="object-add")
    assert "filter-needs-chardev" == names(found)[0]
    assert [True, *[False] * (len(found) - 1)] == [one.fits for one in found]


@pytest.mark.parametrize(
    ("version", "fits"), [(OLD, False), (NEW, True), (Version.parse("8.2.0"), True)]
)
def test_a_version_that_says_it_otherwise_does_not_fit(version: Version, fits: bool) -> None:  # noqa: FBT001
    """Words of another version are recognized, and said not to be of this one."""
    found = explain("VM is not in COLO mode", version=version)
    assert [("not-in-colo", fits)] == [(one.entry.name, one.fits) for one in found]


def test_another_class_does_not_fit() -> None:
    """Where the class is told, it must be the one that is known."""
    found = explain("alpha refused yank: Instance not found (GenericError)")
    assert [("instance-gone", False)] == [(one.entry.name, one.fits) for one in found]


@pytest.mark.parametrize("message", ["", " ", "{", "[]", "{}", "not found", "something: else"])
def test_nothing_is_guessed(message: str) -> None:
    """Of a message that is not in the table nothing is said."""
    assert () == explain(message)


@pytest.mark.property
@given(st.text())
def test_no_text_is_too_strange(message: str) -> None:
    """Any text is read to its end, and what is found of it stands in it."""
    for found in explain(message):
        assert found.text


def test_a_long_message_is_read_as_far_as_it_matters() -> None:
    """A message of a megabyte takes no longer than a long one."""
    assert () == explain("a: '" * 300_000)


def test_a_goal_that_depends_says_on_what() -> None:
    """An entry cannot say `only if` without a condition, nor give one without saying so."""
    depends = next(entry for entry in ENTRIES if entry.goal == "depends")
    with pytest.raises(DeclarationError, match="be given with `depends`"):
        attrs.evolve(depends, only_if="")
    with pytest.raises(DeclarationError, match="be given with `depends`"):
        attrs.evolve(depends, goal="reached")


@pytest.fixture
def refused() -> Report:
    """A report of a failover whose first deletion QEMU refused."""
    pair = ColoPair(
        name="colo",
        nodes=(
            Node(name="alpha", address="127.0.0.1", image_folder="/a"),
            Node(name="beta", address="127.0.0.2", image_folder="/b"),
        ),
        disks=(ReplicationDisk(size_bytes=1048576),),
        chains=(FilterChain(netdev=Netdev(type="user")),),
    )
    plan = compile_offline("failover", pair, version=NEW, survivor="alpha")
    outcomes: dict[str, Outcome] = {step.address: NotRun() for step in plan.steps}
    address = next(
        step.address for step in plan.steps if isinstance(getattr(step, "command", None), ObjectDel)
    )
    said = QemuError(
        text="The command object-del has not been found", error_class="CommandNotFound"
    )
    refusal = Refused(took_s=0, reason="alpha refused object-del", error=said)
    return Report(plan=plan, outcomes={**outcomes, address: refusal})


def test_a_report_names_what_a_refusal_means(refused: Report) -> None:
    """Advice and text say the entry's name, what it means and what to do."""
    report = attrs.evolve(
        refused,
        outcomes={a: o for a, o in refused.outcomes.items() if isinstance(o, Refused)},
    )
    known = report.explanation(report.failed or "")
    assert known is not None
    assert "command-unknown" == known.entry.name
    assert f"; {known.entry.meaning} (command-unknown); " in report.advice
    assert f"; {known.entry.remedy}; " in report.advice
    assert f"  command-unknown: {known.entry.meaning} (qemu-behaviour 2.3)" in text.render_report(
        report
    )


def test_a_report_explains_nothing_that_is_not_known(refused: Report) -> None:
    """A refusal that is not in the table, and a step that was not run, stay without."""
    address = next(a for a, o in refused.outcomes.items() if isinstance(o, Refused))
    outcomes = {
        **refused.outcomes,
        address: Refused(took_s=0, reason="no", error=QemuError(text="for no reason")),
    }
    report = attrs.evolve(refused, outcomes=outcomes)
    assert [None] * len(outcomes) == [report.explanation(address) for address in outcomes]


def test_text_shows_every_part_of_an_explanation() -> None:
    """What is known is shown with where it is known from, and what is not is said."""
    shown = text.render_explanations(explain("Device 'x' not found", command="object-add"))
    assert shown.startswith(
        "filter-needs-chardev\n"
        "  message  Device 'x' not found\n"
        "  known    from object-add\n"
        "  means    the chardev or iothread that the object names is not there\n"
        "  reached  no\n"
        "  do       make it first\n"
        "  source   qemu-behaviour 6.8\n"
    )
    assert "filter-gone (not known from there)\n" in shown
    assert "nothing is known of this message\n" == text.render_explanations(())
    stderr = next(entry for entry in ENTRIES if entry.place == "stderr")
    of_stderr = text.render_explanations(explain(stderr.wordings[0].text))
    assert "  known    on QEMU's standard error\n" in of_stderr
    assert "from query-migrate, as an error that it tells of" in text.render_explanations(
        explain("Unable to write to socket: Broken pipe")
    )


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Can't receive COLO message: Input/output error", "colo-channel-lost"),
        ("filter mirror send failed(Operation not permitted)", "mirror-not-permitted"),
        ('qemu-system-x86_64: -blockdev {"x": 1}: Failed to get "write" lock', "image-in-use"),
        ("x: 'file' driver requires '/dev/sda' to be a regular file", "no-regular-file"),
        ("State blocked by non-migratable device '0000:00:04.0/nvme'", "not-migratable"),
        ("Failed to connect to '192.0.2.12:9998': No route to host", "no-route"),
        ("Failed to connect to '192.0.2.12:9998': Connection timed out", "no-answer"),
        ("-device scsi-hd,drive=d: Bus 'scsi0.0' not found", "bus-absent"),
    ],
)
def test_what_operators_met_is_explained(message: str, name: str) -> None:
    """What QEMU and its log said on real hosts has a meaning and a way on."""
    found = explain(message)
    assert name == found[0].entry.name
