"""`pycolo explain`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Pycolo


def test_a_known_message_is_explained(pycolo: Pycolo) -> None:
    """What is known is a result, and the command ends well."""
    ended = pycolo("explain", "Chardev 'red0' is busy", "--command", "chardev-remove")
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.startswith("chardev-busy\n")


def test_explanations_are_json(pycolo: Pycolo) -> None:
    """With `--as json` the best explanation stands first."""
    ended = pycolo("explain", "VM is not in COLO mode", "--qemu", "7.2.22", "--as", "json")
    found = json.loads(ended.out)
    assert 1 == found["format_version"]
    assert [("not-in-colo", False)] == [
        (one["entry"]["name"], one["fits"]) for one in found["explanations"]
    ]


def test_an_unknown_message_ends_with_1(pycolo: Pycolo) -> None:
    """Nothing is guessed, in either form."""
    ended = pycolo("explain", "oh")
    assert (1, "nothing is known of this message\n") == (ended.code, ended.out)
    ended = pycolo("explain", "oh", "--as", "json")
    assert (1, []) == (ended.code, json.loads(ended.out)["explanations"])


def test_message_may_begin_with_a_dash(pycolo: Pycolo) -> None:
    """QEMU begins its complaint about an argument with the argument."""
    ended = pycolo("explain", "-device scsi-hd,drive=d: Bus 'scsi0.0' not found")
    assert 0 == ended.code, ended.err
    assert "no controller" in ended.out


def test_code_of_a_finding_is_explained(pycolo: Pycolo) -> None:
    """What stood in the way of a procedure is looked up by the code that its refusal has."""
    ended = pycolo("explain", "runs-unseen")
    assert 0 == ended.code, ended.err
    assert ended.out.startswith("runs-unseen: A QEMU runs")
    found = json.loads(pycolo("explain", "runs-unseen", "--as", "json").out)
    assert "runs-unseen" == found["finding"]["code"]


def test_refusal_as_json_has_its_findings(pycolo: Pycolo, pair_file: Path) -> None:
    """A program acts on the code, not on the words."""
    words = ("plan", "launch", pair_file, "--node", "gamma", "--as", "json")
    (found,) = json.loads(pycolo(*words).out)["refused"]["findings"]
    assert ("spare-first", "gamma") == (found["code"], found["node"])
    assert "gamma is a spare and cannot begin a new pair" == found["what"]


def test_misspelled_code_is_suggested(pycolo: Pycolo) -> None:
    """A message of QEMU looks like no code, and brings no suggestion."""
    ended = pycolo("explain", "no-foldr")
    assert (1, "did you mean the code no-folder?\n") == (ended.code, ended.err)
    assert "" == pycolo("explain", "something else").err
