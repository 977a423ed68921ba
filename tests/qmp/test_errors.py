"""The error tree."""

from __future__ import annotations

import pickle

import pytest

from pycolo.errors import (
    Busy,
    CommandRefused,
    CommandUnknown,
    CompileError,
    ConnectionFailed,
    DeclarationError,
    ParseError,
    PycoloError,
    RefusedError,
    RemoteError,
    SchemaError,
    Unresponsive,
    VersionError,
    compile_error,
    undecided,
)
from pycolo.findings import Finding

ERRORS: list[tuple[PycoloError, str]] = [
    (DeclarationError("port", 0, "be 1 to 65535"), "port must be 1 to 65535, not 0"),
    (
        ParseError("steps[3].command", "be an object", 1),
        "steps[3].command must be an object, not 1",
    ),
    (ParseError("", "be an object", 1), "the document must be an object, not 1"),
    (
        SchemaError("migrate", "11.1.3", ("arguments.detach must be absent",)),
        (
            "QEMU 11.1.3 does not accept migrate: arguments.detach must be absent;"
            " use another dialect, or another QEMU version"
        ),
    ),
    (
        VersionError(("10.0.2",), "its COLO is broken", "install a later one"),
        "QEMU 10.0.2: its COLO is broken; install a later one",
    ),
    (
        VersionError(("10.0.13", "11.1.3"), "both sides must run the same version", "install it"),
        "QEMU 10.0.13 and 11.1.3: both sides must run the same version; install it",
    ),
    (compile_error("no-answer", "alpha is unreachable"), "alpha is unreachable"),
    (
        undecided("no-answer", "alpha is unreachable", "fence it and say so", node="alpha"),
        "alpha is unreachable; fence it and say so",
    ),
    (
        CompileError(
            Finding(code="no-answer", node="alpha", what="alpha is unreachable", remedy=""),
            Finding(code="paused", node="beta", what="beta is paused", remedy="continue it"),
        ),
        "alpha is unreachable; also: beta is paused; continue it",
    ),
    (
        CommandRefused("alpha", "stop", "GenericError", "no"),
        "alpha refused stop: no (GenericError)",
    ),
    (
        CommandUnknown("alpha", "stop", "the limit of 5 s passed"),
        "alpha did not answer stop, its effect is unknown: the limit of 5 s passed",
    ),
    (
        Busy("alpha", "/run/a/qmp"),
        (
            "the monitor /run/a/qmp of alpha gives no greeting: another client holds it, or that"
            " QEMU is stopped"
        ),
    ),
    (Unresponsive("alpha", 2.5), "alpha did not answer within 2.5 s"),
    (
        ConnectionFailed("alpha", "/run/a/qmp", "no such file"),
        "no connection to alpha at /run/a/qmp: no such file",
    ),
]


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_the_message_names_the_thing_and_the_rule(error: PycoloError, text: str) -> None:
    """An error says what is wrong with what, in one line."""
    assert text == str(error)


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_an_error_survives_pickling(error: PycoloError, text: str) -> None:
    """Errors travel between processes with all they carry."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(error) is type(again)
    assert vars(error) == vars(again)
    assert text == str(again)


def test_a_long_value_does_not_hide_the_rule() -> None:
    """A whole document is cut where it would fill the screen."""
    assert len(str(ParseError("plan", "be an object", "x" * 10_000))) < 200


def test_errors_are_caught_by_whose_fault_they_are() -> None:
    """The tree is drawn in the module's docstring."""
    assert issubclass(DeclarationError, ValueError)
    for refusal in (VersionError, CompileError):
        assert issubclass(refusal, RefusedError)
    for remote in (CommandRefused, CommandUnknown, Busy, Unresponsive, ConnectionFailed):
        assert issubclass(remote, RemoteError)
