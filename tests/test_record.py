"""The rules of the record, one by one: who may run alone, who may be started, what is written."""

import json
from collections.abc import Mapping

import attrs
import pytest

from pycolo import record
from pycolo.errors import CompileError, UndecidedError
from pycolo.evidence import Evidence, Victim
from pycolo.record import DamagedRecord, NoRecord, PairRecord, RecordState, UnreadRecord

A, B, C = "p:a:00000001", "p:b:00000002", "p:c:00000003"
ABSENT = NoRecord()
AWAY = UnreadRecord(why="no route to host")
DAMAGED = DamagedRecord(why="it was edited", digest="00")
OF = {"a": A, "b": B, "c": C}


def rec(
    epoch: int, revision: int, holder: str, eligible: str, *, joining: str | None = None
) -> PairRecord:
    """A record; nodes are named by one letter each."""
    phase = "joining" if joining else "protected" if len(eligible) > 1 else "alone"
    return PairRecord(
        pair="p",
        birth="9f2c61d0",
        epoch=epoch,
        revision=revision,
        holder=holder,
        eligible={name: OF[name] for name in eligible},
        phase=phase,  # type: ignore[arg-type]  # one of the three
        joining=None if joining is None else OF[joining],
    )


ALONE = rec(4, 0, "a", "a")
JOINING = rec(4, 1, "a", "a", joining="b")
BOTH = rec(4, 2, "a", "ab")
PROMOTED = attrs.evolve(rec(5, 0, "b", "b"), commit="pending")


# -- as a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ALONE, JOINING, BOTH, PROMOTED])
def test_what_is_written_is_read(state: PairRecord) -> None:
    """A file says what was written, in one line, with a format version for later readers."""
    text = record.dumps(state)
    assert state == record.loads(text.encode())
    assert (1, "\n") == (json.loads(text)["format_version"], text[-1])
    assert 1 == text.count("\n")


def test_evidence_is_kept_in_the_file() -> None:
    """What a promotion rested on can be read years later."""
    evidence = Evidence(
        kind="exit", node="a", instance=A, epoch=4, who="host-a", how="it ended", when="now"
    )
    state = attrs.evolve(PROMOTED, evidence=evidence)
    assert state == record.loads(record.dumps(state).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": 2}',
        b'{"format_version": 1, "pair": "p"}',
        b"9" * 5000,
        record.dumps(ALONE).encode() * 2000,
        record.dumps(ALONE).replace('"epoch": 4', '"epoch": 1e999').encode(),
        record.dumps(ALONE).replace('"epoch": 4', '"epoch": ' + "9" * 5000).encode(),
        record.dumps(ALONE).replace('"holder"', ' "holder"').encode(),
        record.dumps(ALONE).encode()[:-1],
    ],
)
def test_file_that_pycolo_did_not_write_like_that_is_damaged(data: bytes) -> None:
    """Nothing but the very bytes gives rights, and nothing ends with a traceback."""
    found = record.loads(data)
    assert isinstance(found, DamagedRecord)
    assert found.why.isprintable()
    assert found.digest == record.digest(found)


def test_later_record_outranks() -> None:
    """First the epoch counts, then the revision."""
    files = {"a": rec(4, 7, "a", "a"), "b": rec(5, 0, "b", "b"), "c": rec(4, 9, "a", "a")}
    assert files["b"] == record.highest(files)
    assert files["c"] == record.highest({**files, "b": AWAY})
    assert record.highest({"a": ABSENT, "b": AWAY, "c": DAMAGED}) is None


# -- whose files they are ------------------------------------------------------------------------


def test_files_of_another_pair_are_refused() -> None:
    """A folder given to two pairs would let one act on the other."""
    with pytest.raises(CompileError, match="belongs to the pair q, not to p"):
        record.check("p", "ab", {"a": attrs.evolve(ALONE, pair="q")})


def test_files_that_name_a_stranger_are_refused() -> None:
    """A node that the pair file lacks may hold newer data."""
    with pytest.raises(CompileError, match="names c, which is not declared"):
        record.check("p", "ab", {"a": rec(4, 2, "a", "ac")})


@pytest.mark.parametrize("half", [rb"\ud800", rb"\uDC00", b"\xed\xa0\x80"])
def test_half_a_character_damages_a_record(half: bytes) -> None:
    """JSON can write it, and no text can hold it."""
    data = record.dumps(ALONE).encode().replace(b'"p"', b'"' + half + b'"')
    assert isinstance(record.loads(data), DamagedRecord)


def test_lost_record_begins_no_new_pair_and_blocks_nothing_else() -> None:
    """All are gone: a person must say whose data is right. One is: the others speak."""
    lost = NoRecord(lost="it was there, by x, and is gone")
    with pytest.raises(UndecidedError, match="a: it was there, by x, and is gone"):
        record.may_boot({"a": lost, "b": ABSENT}, "a", "a")
    assert record.may_run_alone({"a": lost, "b": BOTH}, "a", A, leads=True) == Victim(
        node="b", instance=B, epoch=4
    )


def test_copy_of_a_promotion_says_nothing_of_its_merge() -> None:
    """The promoted node's own record cannot be read: it may run on, and is not called ended."""
    files: dict[str, RecordState] = {"a": PROMOTED, "b": AWAY}
    with pytest.raises(CompileError, match="b holds the newest data, not a"):
        record.may_boot(files, "a", "a")


def test_two_births_need_a_person() -> None:
    """Two pairs of one name: no record says which data is wanted."""
    with pytest.raises(UndecidedError, match="two pairs of the same name"):
        record.check("p", "ab", {"a": ALONE, "b": attrs.evolve(BOTH, birth="00000000")})


def test_managed_files_give_no_rights() -> None:
    """While a supervisor manages a pair, its files are not followed."""
    managed = attrs.evolve(ALONE, managed_by="etcd:1")
    with pytest.raises(UndecidedError, match="managed by etcd:1"):
        record.check("p", "ab", {"a": managed})


# -- continuing alone ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "node", "expected"),
    [
        ({"a": BOTH, "b": AWAY}, "a", Victim(node="b", instance=B, epoch=4)),
        ({"a": AWAY, "b": BOTH}, "b", Victim(node="a", instance=A, epoch=4)),
        ({"a": JOINING, "b": AWAY}, "a", None),
        ({"a": ALONE, "b": AWAY}, "a", None),
        ({"a": BOTH, "b": JOINING}, "a", Victim(node="b", instance=B, epoch=4)),
        # The other one continued, and lost its right again by a start that names this instance.
        ({"a": BOTH, "b": rec(5, 0, "a", "ab")}, "a", Victim(node="b", instance=B, epoch=4)),
    ],
)
def test_own_file_lets_a_node_run_alone(
    files: Mapping[str, RecordState], node: str, expected: Victim | None
) -> None:
    """Its own file names it, and who has to have ended: whoever else is eligible by that file."""
    assert expected == record.may_run_alone(files, node, OF[node], leads=node == "a")


@pytest.mark.parametrize(
    ("files", "node", "why"),
    [
        ({"a": AWAY, "b": JOINING}, "b", "does not let p:b:00000002 run alone"),
        ({"a": AWAY, "b": ALONE}, "b", "only a"),
        ({"a": BOTH, "b": PROMOTED}, "a", "b took over without a in epoch 5"),
        ({"a": rec(6, 0, "a", "a"), "b": BOTH}, "b", "a took over without b in epoch 6"),
        ({"a": AWAY, "b": BOTH}, "a", "cannot be read: no route to host"),
        ({"a": rec(4, 0, "a", "c"), "b": AWAY}, "a", "does not let"),
    ],
)
def test_files_deny_running_alone(files: Mapping[str, RecordState], node: str, why: str) -> None:
    """Its own file does not name it, or a later one left it behind."""
    with pytest.raises(CompileError, match=why) as refused:
        record.may_run_alone(files, node, OF[node], leads=True)
    assert not isinstance(refused.value, UndecidedError)


@pytest.mark.parametrize("own", [ABSENT, DAMAGED])
def test_running_primary_vouches_for_itself(own: RecordState) -> None:
    """Its own file is gone, another one names it as holder: it knows itself that it runs."""
    victim = Victim(node="b", instance=B, epoch=4)
    assert victim == record.may_run_alone({"a": own, "b": BOTH}, "a", A, leads=True)
    assert victim == record.may_run_alone({"a": own, "b": JOINING}, "a", A, leads=True)
    assert record.may_run_alone({"a": own, "b": ALONE}, "a", A, leads=True) is None


@pytest.mark.parametrize("own", [ABSENT, DAMAGED])
@pytest.mark.parametrize(
    ("other", "leads"), [(BOTH, False), (PROMOTED, True), (ABSENT, True), (AWAY, True)]
)
def test_no_other_file_speaks_for_a_lost_one(
    own: RecordState, other: RecordState, *, leads: bool
) -> None:
    """A secondary without its file continues by a person's word alone; so does a primary left."""
    with pytest.raises(UndecidedError, match="no other one speaks for it"):
        record.may_run_alone({"a": own, "b": other}, "a", A, leads=leads)


def test_failing_over_begins_an_epoch() -> None:
    """Whoever is left behind has a lower one, and the overlays of a secondary are to be merged."""
    found = record.failed_over({"a": AWAY, "b": BOTH}, "b", B, commit="pending")
    assert attrs.evolve(PROMOTED, evidence=None) == found


def test_failing_over_again_moves_the_revision() -> None:
    """A failover that was cut short continues from its own record, and keeps its evidence."""
    evidence = Evidence(kind="fence", node="a", instance=A, epoch=4, who="x", how="y", when="z")
    first = attrs.evolve(PROMOTED, evidence=evidence)
    again = record.failed_over({"a": AWAY, "b": first}, "b", B, commit="pending")
    assert attrs.evolve(first, revision=1) == again


# -- being started as primary --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": ABSENT, "b": ABSENT, "c": ABSENT}, ()),
        ({"a": ALONE, "b": AWAY, "c": AWAY}, ()),
        ({"a": JOINING, "b": AWAY, "c": AWAY}, ()),
        ({"a": rec(6, 0, "a", "a"), "b": PROMOTED, "c": AWAY}, ()),
        ({"a": BOTH, "b": BOTH, "c": AWAY}, ("b",)),
        ({"a": BOTH, "b": rec(4, 3, "a", "a"), "c": AWAY}, ("b",)),
    ],
)
def test_node_with_the_newest_data_is_started(
    files: Mapping[str, RecordState], expected: tuple[str, ...]
) -> None:
    """By its own file alone, or after the files of all that it names were written."""
    assert expected == record.may_boot(files, "a", "a")


@pytest.mark.parametrize(
    ("files", "why", "decides"),
    [
        ({"a": ABSENT, "b": AWAY}, "no record can be read", True),
        ({"a": AWAY, "b": AWAY}, "no record can be read", True),
        ({"a": ABSENT, "b": BOTH}, "the record of a cannot be read: it is absent", True),
        ({"a": DAMAGED, "b": BOTH}, "the record of a cannot be read: it was edited", True),
        ({"a": BOTH, "b": AWAY}, "b may have run alone without a", True),
        ({"a": BOTH, "b": ABSENT}, "b may have run alone without a", True),
        ({"a": BOTH, "b": DAMAGED}, "b may have run alone without a", True),
        ({"a": BOTH, "b": PROMOTED}, "before its overlays were merged", True),
        ({"a": ALONE, "b": rec(5, 0, "b", "b")}, "b holds the newest data, not a", False),
        ({"a": rec(4, 0, "a", "ab"), "b": rec(4, 3, "b", "b")}, "the holder of epoch 4", True),
    ],
)
def test_other_nodes_are_not_started(
    files: Mapping[str, RecordState], why: str, *, decides: bool
) -> None:
    """What was not read, or says otherwise, is no leave; where files do not tell, a person does."""
    with pytest.raises(CompileError, match=why) as refused:
        record.may_boot(files, "a", "a")
    assert decides == isinstance(refused.value, UndecidedError)


def test_new_pair_begins_with_its_first_node() -> None:
    """Nobody has data yet: the declaration says who begins."""
    with pytest.raises(CompileError, match="a begins a new pair, not b"):
        record.may_boot({"a": ABSENT, "b": ABSENT}, "b", "a")


def test_start_as_primary_begins_an_epoch() -> None:
    """A new pair has the first one and the birth that was drawn for it, others their own birth."""
    new = record.booted({"a": ABSENT, "b": ABSENT}, "a", A, "00000000", "p")
    assert (1, 0, "00000000") == (new.epoch, new.revision, new.birth)
    again = record.booted({"a": BOTH, "b": AWAY}, "a", C, "00000000", "p")
    assert (5, {"a": C}, "9f2c61d0") == (again.epoch, again.eligible, again.birth)


def test_file_written_out_takes_the_rights_of_its_node() -> None:
    """Before another one is started as primary: the node itself is no longer eligible."""
    out = record.others_revoked({"a": BOTH, "b": BOTH}, "a")
    assert rec(4, 3, "a", "a") == out
    with pytest.raises(CompileError, match="does not let"):
        record.may_run_alone({"a": AWAY, "b": out}, "b", B, leads=False)


def test_word_of_a_person_outranks_what_was_not_read() -> None:
    """A thousand epochs are more than any file that was out of reach has."""
    assert 1004 == record.accepted({"a": ALONE, "b": AWAY}, "a", C, "00000000", "p").epoch
    assert 1000 == record.accepted({"a": DAMAGED, "b": AWAY}, "a", C, "00000000", "p").epoch


# -- joining, and the way back -------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"a": ALONE, "b": ABSENT},
        {"a": JOINING, "b": JOINING},
        {"a": BOTH, "b": BOTH},
        {"a": ALONE, "b": DAMAGED},
        {"a": DAMAGED, "b": BOTH},
        {"a": ABSENT, "b": ALONE},
        # An instance that was never started: another start came first.
        {"a": attrs.evolve(ALONE, eligible={"a": C}), "b": ABSENT},
    ],
)
def test_running_guest_leads(files: Mapping[str, RecordState]) -> None:
    """Its own file names it, or is lost and another one speaks for it."""
    record.may_lead(files, "a", A, "b")


@pytest.mark.parametrize(
    ("files", "why", "decides"),
    [
        ({"a": AWAY, "b": ALONE}, "the record of a cannot be read", False),
        ({"a": ALONE, "b": AWAY}, "the record of b cannot be written", False),
        ({"a": BOTH, "b": PROMOTED}, "b took over in epoch 5, without a", False),
        ({"a": PROMOTED, "b": BOTH}, "does not name", False),
        ({"a": ALONE, "b": rec(4, 0, "b", "b")}, "b took over in epoch 4", False),
        ({"a": ABSENT, "b": ABSENT}, "nor one that names it", True),
        ({"a": DAMAGED, "b": rec(5, 0, "b", "b")}, "nor one that names it", True),
    ],
)
def test_other_guests_do_not_lead(
    files: Mapping[str, RecordState], why: str, *, decides: bool
) -> None:
    """A guest whose data was overtaken is not copied over what overtook it."""
    with pytest.raises(CompileError, match=why) as refused:
        record.may_lead(files, "a", A, "b")
    assert decides == isinstance(refused.value, UndecidedError)


def test_joining_names_the_primary_alone() -> None:
    """Every way out of COLO before a proven checkpoint is safe without reaching anybody."""
    assert JOINING == record.joined({"a": ALONE, "b": ABSENT}, "a", A, B, commit="clean")
    again = record.joined({"a": BOTH, "b": BOTH}, "a", A, B, commit="clean")
    assert rec(4, 3, "a", "a", joining="b") == again


def test_joining_over_a_lost_file_begins_an_epoch() -> None:
    """What a lost file said can only be outranked."""
    files: dict[str, RecordState] = {"a": DAMAGED, "b": ALONE}
    assert (5, 0) == record.joined(files, "a", A, B, commit="clean").order


def test_protected_and_narrowed() -> None:
    """Both are eligible after the checkpoint; the primary alone before the pair is taken apart."""
    files = {"a": JOINING, "b": JOINING}
    assert BOTH == record.protected(files, "a", "b", B)
    assert record.is_protected({"a": BOTH, "b": BOTH}, {"a": A, "b": B})
    assert not record.is_protected({"a": BOTH, "b": JOINING}, {"a": A, "b": B})
    assert rec(4, 3, "a", "a") == record.narrowed({"a": BOTH, "b": BOTH}, "a", A)


def test_merge_is_recorded_in_the_own_file() -> None:
    """Then the image of the promoted node holds every write by itself."""
    found = record.merged({"a": AWAY, "b": PROMOTED}, "b")
    assert attrs.evolve(PROMOTED, revision=1, commit="clean") == found


def test_node_that_is_gone_for_good_is_forgotten() -> None:
    """The others need not ask for its file; one with the newest data is not forgotten."""
    assert rec(5, 0, "a", "a") == record.forgotten({"a": BOTH, "b": AWAY}, "a", "b")
    assert rec(5, 0, "a", "a") == record.forgotten({"a": JOINING, "b": AWAY}, "a", "b")
    with pytest.raises(UndecidedError, match="a holds the newest data"):
        record.forgotten({"a": AWAY, "b": BOTH}, "b", "a")
    with pytest.raises(CompileError, match="cannot be read"):
        record.forgotten({"a": DAMAGED, "b": AWAY}, "a", "b")
