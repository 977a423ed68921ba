"""A plan for QEMUs whose schema was read holds only commands that they accept."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import CASES, compiled, one_of_each

from pycolo._json import list_at, object_at
from pycolo.compiler import start
from pycolo.errors import CompileError
from pycolo.qmp.schema import Schema, packaged_entries
from pycolo.snapshot import Live, Snapshot

PAIR = one_of_each()
LAUNCHED = compiled(CASES["start/first"], PAIR, "11.1.3").prior_state


def _with_schema(schema: Schema) -> Snapshot:
    """Both nodes as launched, with a schema that was read."""
    lives = {n: s for n, s in LAUNCHED.nodes.items() if isinstance(s, Live)}
    nodes = {n: attrs.evolve(live, schema=schema) for n, live in lives.items()}
    return attrs.evolve(LAUNCHED, nodes=nodes)


def _without(command: str) -> Schema:
    """The schema of a build that lacks a command."""
    entries = list_at(packaged_entries("11.1.3"), "return", object_at)
    return Schema.from_reply([entry for entry in entries if entry.get("name") != command])


def test_a_known_build_gets_the_plan_that_is_compiled_offline() -> None:
    """Reading the schema of a build that pycolo is tested with changes nothing."""
    plan = start(PAIR, _with_schema(Schema.packaged("11.1.3")))

    assert start(PAIR, LAUNCHED).steps == plan.steps


def test_another_build_of_the_version_is_accepted_if_it_has_the_commands() -> None:
    """A distribution's own build differs in what COLO does not need."""
    plan = start(PAIR, _with_schema(_without("query-kvm")))

    assert start(PAIR, LAUNCHED).steps == plan.steps


def test_a_command_that_the_build_lacks_is_refused_before_anything_is_sent() -> None:
    """The refusal names the node, the version, the command and what is wrong with it."""
    with pytest.raises(CompileError, match=r"on alpha does not accept blockdev-mirror: execute"):
        start(PAIR, _with_schema(_without("blockdev-mirror")))


def test_a_schema_known_by_its_digest_alone_refuses_nothing() -> None:
    """A snapshot from a file names the schema, and only a packaged one can be looked up."""
    unknown = Schema.from_digest(_without("blockdev-mirror").digest.translate({ord("a"): "b"}))

    assert start(PAIR, LAUNCHED).steps == start(PAIR, _with_schema(unknown)).steps
