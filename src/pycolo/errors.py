"""Every error that pycolo raises, grouped by its cause, with what to do next.

::

    PycoloError
    ├── DeclarationError    a value breaks a rule: correct it; nothing was sent (also a ValueError)
    ├── ParseError          a document or a reply is malformed: see the path that the error names
    ├── SchemaError         this QEMU does not accept the command: use another dialect or QEMU
    ├── RefusedError        pycolo will not do it; nothing was sent
    │   ├── StoreError          a supervisor's store cannot be used
    │   ├── VersionError        these QEMU versions cannot run COLO, or not together
    │   └── CompileError        there is no safe way from this state
    │       └── UndecidedError      only a person can say whose data is right
    ├── RemoteError         a node did not do what was requested
    │   ├── CommandRefused      QEMU answered with an error: the command was not done
    │   ├── CommandUnknown      no answer came: the effect is unknown; probe, then compile again
    │   ├── Busy                another client holds the node's control monitor
    │   ├── Unresponsive        the node is connected and does not answer
    │   ├── ConnectionFailed    there is no connection to the node
    │   └── HostRefused         the node's host could not do it: it had no effect
    ├── ArbiterError        an arbiter did not do what was requested
    │   ├── ArbiterOvertaken    its record is not the expected one: nothing was changed
    │   └── ArbiterLost         no certain answer came: the effect is unknown; read again
    └── FuseError           a host's fuse did not do what was requested
        ├── FuseRefused         the fuse refused: nothing was changed
        └── FuseLost            the fuse has ended or does not answer: connect and arm again

Every error keeps its arguments as attributes, and can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

from typing_extensions import override

from pycolo._printable import brief, cut, shown
from pycolo.findings import Code, Finding

__all__ = [
    "ArbiterError",
    "ArbiterLost",
    "ArbiterOvertaken",
    "Busy",
    "CommandRefused",
    "CommandUnknown",
    "CompileError",
    "ConnectionFailed",
    "DeclarationError",
    "FuseError",
    "FuseLost",
    "FuseRefused",
    "HostRefused",
    "ParseError",
    "PycoloError",
    "RefusedError",
    "RemoteError",
    "SchemaError",
    "StoreError",
    "UndecidedError",
    "Unresponsive",
    "VersionError",
]

_LONGEST_PLACE = 400


def _must(place: str, rule: str, value: object) -> str:
    return f"{cut(place, _LONGEST_PLACE)} must {rule}, not {shown(value)}"


class PycoloError(Exception):
    """The base class of all errors of pycolo. Never raised itself.

    The attributes hold text from QEMU, a host or a file unchanged. `str(error)` is one printable
    line, which can be shown on a terminal and written to a log.
    """

    @final
    @override
    def __str__(self) -> str:
        """Return `message()` as one printable line."""
        return brief(self.message())

    def message(self) -> str:
        """The message; it may contain text from QEMU, a host or a file, unescaped."""
        return super().__str__()


class DeclarationError(PycoloError, ValueError):
    """A value breaks a rule of its field.

    Raised before an object is made or anything is sent.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        """Keep the error's parts.

        Args:
            field: The field's name, with dots if it is nested (``disks[0].size_bytes``).
            value: The value that was given.
            rule: The rule, worded to follow the word "must": ``be a string``.
        """
        super().__init__(field, value, rule)
        self.field = field
        self.value = value
        self.rule = rule

    @override
    def message(self) -> str:
        """Name the field, the rule and the value."""
        return _must(self.field, self.rule, self.value)


class ParseError(PycoloError):
    """A document or a reply is malformed.

    Raised instead of returning a value. A session that received a malformed reply stays usable.
    """

    def __init__(self, path: str, rule: str, value: object) -> None:
        """Keep the error's parts.

        Args:
            path: The place in the document, such as ``steps[3].command.arguments.addr.data``; empty
                for the whole document.
            rule: The rule, worded to follow the word "must": ``be a string``.
            value: The value that was found there.
        """
        super().__init__(path, rule, value)
        self.path = path
        self.rule = rule
        self.value = value

    @override
    def message(self) -> str:
        """Name the path, the rule and the value."""
        return _must(self.path or "the document", self.rule, self.value)


class SchemaError(PycoloError):
    """By its own schema, this QEMU does not accept a command.

    Raised before anything is sent.
    """

    def __init__(self, command: str, qemu: str, problems: tuple[str, ...]) -> None:
        """Keep the error's parts.

        Args:
            command: The command's QMP name.
            qemu: The version or the node of the QEMU that has this schema.
            problems: One sentence for each part that is not accepted; at least one.
        """
        super().__init__(command, qemu, problems)
        self.command = command
        self.qemu = qemu
        self.problems = problems

    @override
    def message(self) -> str:
        """Name the command, the QEMU and each problem."""
        problems = "; ".join(self.problems)
        advice = "use another dialect, or another QEMU version"
        return f"QEMU {self.qemu} does not accept {self.command}: {problems}; {advice}"


class RefusedError(PycoloError):
    """pycolo refuses a request. Nothing was sent; every object stays usable."""


class StoreError(RefusedError):
    """A supervisor's store cannot be used; nothing was changed in it.

    The store can be used again when the reason no longer exists.
    """

    def __init__(self, folder: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            folder: The folder of the store.
            why: What is wrong, as a sentence without a full stop.
        """
        super().__init__(folder, why)
        self.folder = folder
        self.why = why

    @override
    def message(self) -> str:
        return f"{self.folder}: {self.why}"


class VersionError(RefusedError):
    """A QEMU version cannot run COLO, or two versions cannot run it together.

    Nothing was sent. Source: qemu-behaviour 2.1 to 2.4.
    """

    def __init__(self, versions: tuple[str, ...], why: str, remedy: str) -> None:
        """Keep the error's parts.

        Args:
            versions: The versions that cannot run COLO, each as ``10.0.13``.
            why: What is wrong with them, as a sentence without a full stop.
            remedy: What a person can do about it, as a clause.
        """
        super().__init__(versions, why, remedy)
        self.versions = versions
        self.why = why
        self.remedy = remedy

    @override
    def message(self) -> str:
        """Name the versions, the reason and the remedy."""
        return f"{self.what}; {self.remedy}"

    @property
    def what(self) -> str:
        """The versions and the reason, without the remedy."""
        return f"QEMU {' and '.join(self.versions)}: {self.why}"


class CompileError(RefusedError):
    """There is no safe way from this state to the goal of the procedure.

    Nothing was sent; the declaration and the snapshot stay usable.
    """

    def __init__(self, *findings: Finding) -> None:
        """Keep the error's findings.

        Args:
            findings: The obstacles, one or more.
        """
        super().__init__(*findings)
        self.findings = findings

    @property
    def is_decidable(self) -> bool:
        """Whether each finding has a remedy, which a person can decide or do."""
        return all(finding.remedy for finding in self.findings)

    @override
    def message(self) -> str:
        """Join the findings, each with its remedy."""
        return "; also: ".join(map(str, self.findings))


class UndecidedError(CompileError):
    """Only a person can decide how to continue.

    For example, the records do not show whose data is right, or two QEMUs have a guest each.

    Nothing was sent or written; the declaration and the snapshot stay usable. The command line
    exits with code 4 if each finding has a remedy.
    """


def compile_error(
    code: Code, what: str, remedy: str = "", *, node: str | None = None
) -> CompileError:
    """Make a `CompileError` with one finding; the arguments are the fields of `Finding`."""
    return CompileError(Finding(code=code, node=node, what=what, remedy=remedy))


def undecided(
    code: Code, what: str, remedy: str = "", *, node: str | None = None
) -> UndecidedError:
    """Make an `UndecidedError` with one finding; the arguments are the fields of `Finding`."""
    return UndecidedError(Finding(code=code, node=node, what=what, remedy=remedy))


def check_all(checks: Iterable[Callable[[], object]]) -> None:
    """Make independent checks, and raise one error with the findings of all that fail.

    Args:
        checks: Functions that raise CompileError if their check fails.

    Raises:
        UndecidedError: A check raised UndecidedError.
        CompileError: Checks failed, and all of them raised another CompileError.
    """
    errors = [error for check in checks if (error := _error_of(check)) is not None]
    if not errors:
        return
    kind = UndecidedError if any(isinstance(e, UndecidedError) for e in errors) else CompileError
    raise kind(*dict.fromkeys(finding for error in errors for finding in error.findings))


def _error_of(check: Callable[[], object]) -> CompileError | None:
    try:
        check()
    except CompileError as error:
        return error
    return None


class RemoteError(PycoloError):
    """A node did not do what was requested. Never raised itself."""

    def __init__(self, node: str, *details: object) -> None:
        """Keep the node's name and, for pickling, the other arguments of the subclass."""
        super().__init__(node, *details)
        self.node = node


class CommandRefused(RemoteError):
    """QEMU answered a command with an error.

    The command was not done, and the session stays usable. One refusal is known to leave a trace:
    after that of a `MigrateIncoming`, QEMU 10.0 and 11.1 accept no further one (qemu-behaviour
    11.4).
    """

    def __init__(self, node: str, command: str, error_class: str, text: str) -> None:
        """Keep the error's parts.

        Args:
            node: The node's name.
            command: The command's QMP name.
            error_class: QMP's class, such as ``GenericError`` or ``DeviceNotFound``.
            text: QMP's ``desc``; its wording differs between QEMU versions (qemu-behaviour 11).
        """
        super().__init__(node, command, error_class, text)
        self.command = command
        self.error_class = error_class
        self.text = text

    @override
    def message(self) -> str:
        """Name node, command, class and QEMU's own words."""
        return f"{self.node} refused {self.command}: {self.text} ({self.error_class})"


class CommandUnknown(RemoteError):
    """A command was sent, and no answer came in time or the connection was lost.

    It is unknown whether the command took effect, and it may still do so. Probe and compile again;
    never repeat the command (qemu-behaviour 7.5, 13.2). If a limit passed, the session stays open,
    and a late answer is not mistaken for the answer to another command; `Session.reopen` returns
    when no older command is pending. If the connection was lost, the session is closed.
    """

    def __init__(self, node: str, command: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            node: The node's name.
            command: The command's QMP name.
            why: What ended the wait, as a sentence without a full stop.
        """
        super().__init__(node, command, why)
        self.command = command
        self.why = why

    @override
    def message(self) -> str:
        """Name node, command and what ended the wait."""
        return f"{self.node} did not answer {self.command}, its effect is unknown: {self.why}"


class Busy(RemoteError):
    """A monitor accepted the connection and gave no greeting.

    Usually another client holds the monitor: a second client gets no greeting (qemu-behaviour 7.6).
    The client that holds the control monitor has the right to change the node. A QEMU whose process
    is stopped gives no greeting either. There is no session; nothing was sent.
    """

    def __init__(self, node: str, address: str) -> None:
        """Keep the node's name and the monitor's address."""
        super().__init__(node, address)
        self.address = address

    @override
    def message(self) -> str:
        """Name the node, the monitor and both causes."""
        why = "another client holds it, or that QEMU is stopped"
        return f"the monitor {self.address} of {self.node} gives no greeting: {why}"


class Unresponsive(RemoteError):
    """The node is connected and does not answer.

    QEMU's main loop may be stuck on a dead peer's socket; an out-of-band yank on a connection that
    is already open can free it (qemu-behaviour 7.3 to 7.6). The error does not prove that the node
    is dead.
    """

    def __init__(self, node: str, waited_s: float) -> None:
        """Keep the node's name and how long its answer was waited for, in seconds."""
        super().__init__(node, waited_s)
        self.waited_s = waited_s

    @override
    def message(self) -> str:
        """Name the node and the time waited."""
        return f"{self.node} did not answer within {self.waited_s:g} s"


class ConnectionFailed(RemoteError):
    """There is no connection to the node: none could be made, or it had ended before the call.

    The command of the call was not sent. If the connection ends after a command was sent, the
    error is `CommandUnknown`. It is also raised if what answers is no QEMU that offers out-of-band
    execution, or, when a session is reopened, is a QEMU of another version. The error does not
    prove that the node is dead. A session that raised it is closed; `Session.reopen` connects it
    again.
    """

    def __init__(self, node: str, address: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            node: The node's name.
            address: The monitor's address.
            why: The cause, as a sentence without a full stop.
        """
        super().__init__(node, address, why)
        self.address = address
        self.why = why

    @override
    def message(self) -> str:
        """Name node, address and cause."""
        return f"no connection to {self.node} at {self.address}: {self.why}"


class HostRefused(RemoteError):
    """A node's host could not do what was requested.

    The host ended no QEMU, made no image and wrote no record, and it runs no QEMU that it did not
    run before. If a QEMU was started and did not answer, or ended at once, the host has killed it.
    """

    def __init__(self, node: str, action: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            node: The node's name.
            action: The action: ``create-image``, ``launch-qemu`` (also if the version of QEMU was
                requested), ``stop-qemu``, ``check-ports``, ``check-devices`` or ``write-record``.
            why: The cause, as a sentence without a full stop.
        """
        super().__init__(node, action, why)
        self.action = action
        self.why = why

    @override
    def message(self) -> str:
        """Name node, action and cause."""
        return f"{self.action} on {self.node} was refused: {self.why}"


class ArbiterError(PycoloError):
    """An arbiter did not do what was requested. Never raised itself."""

    def __init__(self, pair: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            pair: The name of the pair whose record the arbiter holds.
            why: The cause, as a sentence without a full stop.
        """
        super().__init__(pair, why)
        self.pair = pair
        self.why = why


class ArbiterOvertaken(ArbiterError):
    """A compare-and-swap found a record that is not the expected one, or found a lease.

    Nothing was changed. Read the record again.
    """

    @override
    def message(self) -> str:
        """Name pair and cause."""
        return f"the record of {self.pair} was not changed: {self.why}"


class ArbiterLost(ArbiterError):
    """An arbiter gave no answer, or an answer that does not show whether it made the change.

    The record may have been changed. Read it again; the arbiter stays usable.
    """

    @override
    def message(self) -> str:
        """Name pair and cause."""
        return f"no certain answer of the arbiter about {self.pair}: {self.why}"


class FuseError(PycoloError):
    """A host's fuse did not do what was requested. Never raised itself."""

    def __init__(self, path: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            path: The path of the fuse's socket.
            why: The cause, as a sentence without a full stop.
        """
        super().__init__(path, why)
        self.path = path
        self.why = why


class FuseRefused(FuseError):
    """A fuse refused a request: nothing was changed. The client stays usable."""

    @override
    def message(self) -> str:
        """Name the socket and the cause."""
        return f"the fuse at {self.path} refused: {self.why}"


class FuseLost(FuseError):
    """There is no fuse, the fuse has ended, or it gave no answer.

    It is unknown whether the fuse did what was requested, and it may no longer guard its QEMUs. The
    client is closed: connect again, and arm again.
    """

    @override
    def message(self) -> str:
        """Name the socket and the cause."""
        return f"the fuse at {self.path} is lost: {self.why}"
