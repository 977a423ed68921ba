"""What a node is, derived from what is known of it."""

from __future__ import annotations

import pytest

from pycolo.errors import DeclarationError
from pycolo.evidence import Evidence
from pycolo.qmp.replies import Version
from pycolo.snapshot import (
    Absent,
    Dead,
    Live,
    NodeState,
    Snapshot,
    Unreachable,
    role_of,
)

V = Version.parse("11.1.3")

ROLES: list[tuple[NodeState, str]] = [
    (Absent(), "absent"),
    (Unreachable(why="no socket"), "unreachable"),
    (Dead(evidence=None), "dead"),
    (Live(version=V), "unprotected"),
    (Live(version=V, run_state="running"), "unprotected"),
    (Live(version=V, run_state="inmigrate"), "fresh secondary"),
    (Live(version=V, run_state="inmigrate", incoming=True), "prepared secondary"),
    (Live(version=V, run_state="running", colo_mode="primary"), "primary"),
    (Live(version=V, run_state="colo", colo_mode="primary"), "primary"),
    (Live(version=V, colo_mode="primary", colo_exited=True), "broken primary"),
    (Live(version=V, run_state="running", colo_mode="secondary", incoming=True), "secondary"),
    (Live(version=V, colo_mode="secondary", colo_exited=True), "broken secondary"),
    (Live(version=V, run_state="running", migration="active"), "entering"),
    (Live(version=V, run_state="finish-migrate", migration="pre-switchover"), "entering"),
    (Live(version=V, run_state="running", migration="failed"), "unprotected"),
    (Live(version=V, run_state="prelaunch", incoming=True), "used up"),
    (
        Live(version=V, run_state="running", incoming=True, last_colo_mode="secondary"),
        "unprotected",
    ),
]


@pytest.mark.parametrize(
    ("state", "role"), ROLES, ids=[f"{n}-{r}" for n, (_, r) in enumerate(ROLES)]
)
def test_a_role_is_derived_from_what_is_known(state: NodeState, role: str) -> None:
    """Every case has its line, the ambiguous ones too: roles are read, never declared."""
    assert role == role_of(state)


def test_a_node_nobody_observed_is_unreachable() -> None:
    """Silence about a node is no proof of anything."""
    assert Unreachable(why="not read") == Snapshot(nodes={}).state("alpha")
    assert Snapshot(nodes={}).live("alpha") is None


@pytest.mark.parametrize("field", ["node", "instance", "who", "how", "when"])
@pytest.mark.parametrize("value", [" ", "", "a\x1b[2Jb"])
def test_evidence_says_of_whom_by_whom_how_and_when(field: str, value: str) -> None:
    """An empty word in evidence is refused by name, and so is one that no person can read."""
    words = {
        "node": "alpha",
        "instance": "p:alpha:00000001",
        "who": "operator",
        "how": "power off",
        "when": "2026-01-01T00:00:00Z",
    }

    with pytest.raises(DeclarationError, match=rf"Evidence\.{field} must be a non-empty string"):
        Evidence(kind="fence", epoch=1, **{**words, field: value})
