"""The texts that arbiters store: read back equal, and strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

import attrs
import pytest
from tests.supervise.arbitration import BETA, END, PAIR, SHARED

from pycolo.errors import ParseError
from pycolo.supervise import SharedRecord
from pycolo.supervise.arbiters import dump_end, dump_shared, load_end, load_shared

FULL = SharedRecord(
    record=attrs.evolve(
        SHARED.record,
        joining=BETA,
        commit="pending",
        evidence=attrs.evolve(END, how='outlet 4 "off", Größe \\ 大'),
        managed_by="arbiter",
    ),
    claimed_by="alpha",
    want="unprotected",
    paused="by the test",
    fuses={"alpha": 2.0, "beta": 10.0},
    released="to-files",
)
Object: TypeAlias = dict[str, object]


@pytest.mark.parametrize("shared", [SHARED, FULL])
def test_a_record_comes_back_from_its_text(shared: SharedRecord) -> None:
    """What is read from the text of a record is equal to it, and the text is one line."""
    text = dump_shared(shared)
    assert shared == load_shared(text, PAIR)
    assert "\n" not in text


def test_a_statement_comes_back_from_its_text() -> None:
    """What is read from the text of a statement is equal to it."""
    assert END == load_end(dump_end(END), "beta")


def test_the_text_of_a_record_is_fixed() -> None:
    """Agents of several versions share a record: its text is changed only on purpose."""
    assert (
        '{"format_version": 1, "record": {"pair": "shop-db", "birth": "9f2c61d0", "epoch": 4,'
        ' "revision": 0, "holder": "alpha", "eligible": {"alpha": "shop-db:alpha:00000001",'
        ' "beta": "shop-db:beta:00000002"}, "phase": "protected", "joining": null,'
        ' "commit": "clean", "evidence": null, "managed_by": null}, "claimed_by": null,'
        ' "want": "protected", "paused": null, "fuses": {}}'
    ) == dump_shared(SHARED)


def test_only_a_released_record_says_so() -> None:
    """So an agent of an earlier version reads every other record."""
    text = dump_shared(SHARED)
    assert "released" not in text
    marked = text.removesuffix("}") + ', "released": "to-files"}'
    assert marked == dump_shared(attrs.evolve(SHARED, released="to-files"))
    with pytest.raises(ParseError, match=r"released must be one of .*, not 'kept'"):
        load_shared(marked.replace("to-files", "kept"), PAIR)


def _set(*path: str, value: object) -> Callable[[Object], None]:
    def change(document: Object) -> None:
        place = document
        for key in path[:-1]:
            inner = place[key]
            assert isinstance(inner, dict)
            place = inner
        place[path[-1]] = value

    return change


def _delete(key: str) -> Callable[[Object], None]:
    def change(document: Object) -> None:
        del document[key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format_version", value=2), "format_version must be 1, the version that .*, not 2"),
        (_set("claimed", value=None), r"claimed must be a known key \(did you mean claimed_by\?\)"),
        (_set("record", "epoch", value="4"), "record.epoch must be a whole number, not '4'"),
        (_set("record", "phase", value="serve"), "record.phase must be one of alone, .* not 'serv"),
        (_set("record", "eligible", value=[]), r"record.eligible must be an object, not \[\]"),
        (_set("record", "evidence", value={}), "record.evidence.kind must be present, not None"),
        (_set("record", "pair", value="other"), "record.pair must be shop-db, not 'other'"),
        (_set("want", value="on"), "want must be one of .*, not 'on'"),
        (_set("paused", value=0), "paused must be a string, not 0"),
        (_set("fuses", value={"beta": "2"}), "fuses.beta must be a finite number, not '2'"),
        (_delete("record"), "record must be present, not None"),
        (_delete("want"), "the document must be as pycolo writes it, with every key once, not "),
    ],
)
def test_a_wrong_record_is_refused_with_path_value_and_rule(
    change: Callable[[Object], None], message: str
) -> None:
    """Whatever is wrong with a record, the error says where, what is there, and what should be."""
    document = json.loads(dump_shared(SHARED))
    change(document)
    with pytest.raises(ParseError, match=message):
        load_shared(json.dumps(document), PAIR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the document must be JSON"),
        ("[]", r"the document must be an object, not \[\]"),
        ("[" * 100_000, "the document must have at most 65536 bytes, not 100000"),
        ("[" * 20_000, "the document must be nested at most 64 levels deep"),
        (dump_shared(SHARED).replace('"want"', '"want": "x", "want"'), "must be as pycolo writes"),
        (dump_shared(SHARED) + "\n", "must be as pycolo writes it"),
    ],
)
def test_a_text_that_is_no_record_is_refused(text: str, message: str) -> None:
    """What is no JSON, too long, too deep, or has a key twice is refused."""
    with pytest.raises(ParseError, match=message):
        load_shared(text, PAIR)


def test_a_statement_about_another_node_is_refused() -> None:
    """A statement stands under the name of the node that it speaks of; errors name that place."""
    with pytest.raises(ParseError, match=r"ends.alpha.node must be alpha, not 'beta'"):
        load_end(dump_end(END), "alpha")
    with pytest.raises(ParseError, match=r"ends.beta.epoch must be a whole number, not True"):
        load_end(dump_end(END).replace('"epoch": 4', '"epoch": true'), "beta")
