"""Every error that pycolo raises, by whose fault it is and what to do next.

::

    PycoloError
    ├── DeclarationError    a value breaks a rule: correct it; nothing was sent (also a ValueError)
    ├── ParseError          a document or a reply is not what it should be: see the path it names
    ├── SchemaError         that QEMU does not know such a command: choose another dialect or QEMU
    ├── RefusedError        pycolo will not do it; nothing was sent
    │   ├── StoreError          a supervisor's store cannot be used
    │   ├── VersionError        these QEMU versions cannot run COLO, or not together
    │   └── CompileError        there is no safe way from this state
    │       └── UndecidedError      only a person can say whose data is right
    ├── RemoteError         a node did not do what it was asked
    │   ├── CommandRefused      QEMU answered with an error: the command had no effect
    │   ├── CommandUnknown      no answer came: the effect is unknown; probe, then compile again
    │   ├── Busy                somebody else holds the node's control monitor
    │   ├── Unresponsive        the node is connected and silent
    │   ├── ConnectionFailed    there is no connection to the node
    │   └── HostRefused         the node's host could not do it: nothing was changed
    ├── ArbiterError        an arbiter did not do what it was asked
    │   ├── ArbiterOvertaken    it holds another record than the one expected: nothing was changed
    │   └── ArbiterLost         no certain answer came: the effect is unknown; read again
    └── FuseError           a host's fuse did not do what it was asked
        ├── FuseRefused         it refused: nothing was changed
        └── FuseLost            it has ended or gives no answer: connect again, then arm again

Every error keeps what it was made from as attributes, and can be pickled.
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
    """The root of all errors of pycolo. Never raised itself.

    Its attributes hold what came from QEMU, a host or a file as it came. As text it is one
    printable line: it can be shown on a terminal and written to a log.
    """

    @final
    @override
    def __str__(self) -> str:
        """Give the message; subclasses say in `message` what it is."""
        return brief(self.message())

    def message(self) -> str:
        """What happened, in words; may contain text from outside, unescaped."""
        return super().__str__()


class DeclarationError(PycoloError, ValueError):
    """A value breaks a rule of its field.

    Raised while an object is made, so there is no object and nothing was sent.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        """Keep the error's parts.

        Args:
            field: The field's name, dotted if it is nested (``disks[0].size_bytes``).
            value: What was given.
            rule: What the value must be, to be read after the word "must".
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
    """A document or a reply is not what it should be.

    Raised while a value is parsed, so there is no value. What was parsed is unchanged, and a
    session that received it stays usable.
    """

    def __init__(self, path: str, rule: str, value: object) -> None:
        """Keep the error's parts.

        Args:
            path: Where in the document, such as ``steps[3].command.arguments.addr.data``; empty for
                the whole of it.
            rule: What must be there, to be read after the word "must".
            value: What was there.
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
    """A command is not one that this QEMU accepts, by its own schema.

    Raised before anything is sent; command and schema stay usable.
    """

    def __init__(self, command: str, qemu: str, problems: tuple[str, ...]) -> None:
        """Keep the error's parts.

        Args:
            command: The command's QMP name.
            qemu: The QEMU whose schema it is, by version or node.
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
    """pycolo refuses to do what was asked. Nothing was sent; every object stays usable."""


class StoreError(RefusedError):
    """A supervisor's store cannot be used; nothing was changed in it.

    The store stays usable once the reason is gone.
    """

    def __init__(self, folder: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            folder: Where the store lies.
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

    def __init__(self, versions: tuple[str, ...], why: str) -> None:
        """Keep the error's parts.

        Args:
            versions: The versions in question, as ``10.0.13``.
            why: What is wrong with them, as a sentence without a full stop.
        """
        super().__init__(versions, why)
        self.versions = versions
        self.why = why

    @override
    def message(self) -> str:
        """Name the versions and the reason."""
        return f"QEMU {' and '.join(self.versions)}: {self.why}"


class CompileError(RefusedError):
    """There is no safe way from this state to what the procedure is for.

    Nothing was sent; declaration and snapshot stay usable.
    """

    def __init__(self, *findings: Finding) -> None:
        """Keep what stands in the way.

        Args:
            findings: One or more.
        """
        super().__init__(*findings)
        self.findings = findings

    @property
    def is_decidable(self) -> bool:
        """Whether a person can decide or do something about each of them."""
        return all(finding.remedy for finding in self.findings)

    @override
    def message(self) -> str:
        """Give each finding with its remedy."""
        return "; also: ".join(map(str, self.findings))


class UndecidedError(CompileError):
    """Only a person can decide it.

    For example, the records do not tell whose data is right, or two QEMUs have a guest each.

    Nothing was sent or written; declaration and snapshot stay usable. The command line ends with 4
    if each finding has a remedy.
    """


def compile_error(
    code: Code, what: str, remedy: str = "", *, node: str | None = None
) -> CompileError:
    """A `CompileError` with one finding; see `Finding`."""
    return CompileError(Finding(code=code, node=node, what=what, remedy=remedy))


def undecided(
    code: Code, what: str, remedy: str = "", *, node: str | None = None
) -> UndecidedError:
    """An `UndecidedError` with one finding; see `Finding`."""
    return UndecidedError(Finding(code=code, node=node, what=what, remedy=remedy))


def check_all(checks: Iterable[Callable[[], object]]) -> None:
    """Make checks that do not depend on each other, and raise what all of them find, together.

    Raises:
        UndecidedError: One or more do not hold, and one of them raised it.
        CompileError: One or more do not hold.
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
    """A node did not do what it was asked. Never raised itself."""

    def __init__(self, node: str, *details: object) -> None:
        """Keep the node's name and, for pickling, whatever else the error was made from."""
        super().__init__(node, *details)
        self.node = node


class CommandRefused(RemoteError):
    """QEMU answered a command with an error.

    The command had no effect. The session stays usable.
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
    """A command was sent and no answer came in time, or none can come any more.

    Its effect is unknown and it may still take place: probe and compile again, never repeat it
    (qemu-behaviour 7.5, 13.2). If a limit passed, the session stays open and a late answer is not
    taken for that of another command; `Session.reopen` returns once nothing older is pending. If
    the connection was lost, the session is closed.
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
    """A monitor was connected and gave no greeting.

    Mostly another client holds it: a second one gets no greeting (qemu-behaviour 7.6), and who
    holds the control monitor has the right to change the node. A QEMU that is stopped gives none
    either. There is no session; nothing was sent.
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

    Its main loop may be wedged on a dead peer's socket; an out-of-band yank on a connection that is
    already open can cure that (qemu-behaviour 7.3 to 7.6). It proves nothing about the node's
    death.
    """

    def __init__(self, node: str, waited_s: float) -> None:
        """Keep the node's name and the time waited for it, in seconds."""
        super().__init__(node, waited_s)
        self.waited_s = waited_s

    @override
    def message(self) -> str:
        """Name the node and the time waited."""
        return f"{self.node} did not answer within {self.waited_s:g} s"


class ConnectionFailed(RemoteError):
    """There is no connection to the node, or it ended.

    It proves nothing about the node's death. A session that raised it is closed.
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
    """A node's host could not do what it was asked.

    The host changed nothing: it started no QEMU, ended none, made no image and wrote no record.
    """

    def __init__(self, node: str, action: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            node: The node's name.
            action: What was asked: ``create-image``, ``launch-qemu``, also for the version of
                its QEMU, ``stop-qemu``, ``check-ports`` or ``write-record``.
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
    """An arbiter did not do what it was asked. Never raised itself."""

    def __init__(self, pair: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            pair: The name of the pair whose record it holds.
            why: The cause, as a sentence without a full stop.
        """
        super().__init__(pair, why)
        self.pair = pair
        self.why = why


class ArbiterOvertaken(ArbiterError):
    """A compare-and-swap found another record than the one expected, or a lease.

    Nothing was changed. Read the record again.
    """

    @override
    def message(self) -> str:
        """Name pair and cause."""
        return f"the record of {self.pair} was not changed: {self.why}"


class ArbiterLost(ArbiterError):
    """An arbiter gave no answer, or none that is certain.

    What was to be changed may have been. Read the record again; the arbiter stays usable.
    """

    @override
    def message(self) -> str:
        """Name pair and cause."""
        return f"no certain answer of the arbiter about {self.pair}: {self.why}"


class FuseError(PycoloError):
    """A host's fuse did not do what it was asked. Never raised itself."""

    def __init__(self, path: str, why: str) -> None:
        """Keep the error's parts.

        Args:
            path: The path of its socket.
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
    """There is no fuse, it has ended, or it gave no answer.

    Whether it did what it was asked is unknown, and its QEMUs may be unguarded. The client is
    closed: connect again, and arm again.
    """

    @override
    def message(self) -> str:
        """Name the socket and the cause."""
        return f"the fuse at {self.path} is lost: {self.why}"
