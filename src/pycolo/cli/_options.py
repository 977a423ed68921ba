"""Arguments and options that several commands share."""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, final, get_args

import attrs
import click
from typing_extensions import override

from pycolo import operate
from pycolo._printable import shown
from pycolo.cli._exits import DECIDE
from pycolo.errors import DeclarationError, ParseError
from pycolo.model import ColoPair
from pycolo.plan import DialectName, Procedure
from pycolo.qmp.replies import Version

_F = TypeVar("_F", bound=Callable[..., object])
_R = TypeVar("_R")

Detail: TypeAlias = Literal["quiet", "usual", "verbose"]
"""How much is printed while a plan is executed."""
FORM: Final = "pycolo.form"
"The key in a click context's `meta` for the value of `--as`."
ERROR_CODE: Final = "pycolo.error-code"
"The key in a click context's `meta` for an exit code to end with if an error is raised."
NEWEST: Final = Version(major=11, minor=1, micro=3)
"The newest version that pycolo is tested with; plans that are compiled offline assume it."


@contextmanager
def changed_by_hand(*others: type[Exception]) -> Generator[None]:
    """End the command with exit code 4 if the block raises DeclarationError or one of `others`.

    A service manager must not restart the command after that: it would fail again until a person
    has changed a file.

    Args:
        others: The other exceptions that end with this code.
    """
    errors: tuple[type[Exception], ...] = (DeclarationError, *others)
    try:
        yield
    except errors:
        click.get_current_context().meta[ERROR_CODE] = DECIDE
        raise


def version(text: str) -> Version:
    """Parse a QEMU version from the command line.

    Raises:
        click.BadParameter: The text is not a version.
    """
    try:
        return Version.parse(text)
    except ParseError as error:
        raise click.BadParameter(f"{text!r} must {error.rule}") from error


@final
class _Procedure(click.Choice[str]):
    """The type of an argument that names a procedure; its error suggests the nearest name."""

    @override
    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        names = get_args(Procedure)
        if value in names:
            return str(value)
        near = difflib.get_close_matches(str(value), names, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(names)}"
        return self.fail(f"{value!r} is no procedure: {advice}", param, ctx)


FILE: Final = click.Path(
    exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path
)

PROCEDURE: Final = _Procedure(get_args(Procedure))

procedure = click.argument("procedure", metavar="PROCEDURE", type=PROCEDURE)
pair_file = click.argument("pair_file", metavar="PAIRFILE", type=FILE)
pair_files = click.argument("pair_files", metavar="PAIRFILE...", nargs=-1, required=True, type=FILE)
_PROCEDURES = (
    click.option(
        "--survivor", metavar="NODE", help="failover: the survivor; offline also resume's."
    ),
    click.option(
        "--peer", metavar="NODE", help="start, resume, converge: who will protect the guest."
    ),
    click.option(
        "--dialect",
        type=click.Choice(get_args(DialectName)),
        default="auto",
        show_default=True,
        help="`doc` gives the commands of QEMU's own document.",
    ),
    click.option(
        "--fenced",
        metavar="TEXT",
        help="failover, forget: you state that the other node's QEMU has ended, as 'WHO: HOW'.",
    ),
    click.option(
        "--ms", type=click.IntRange(1, 2**32 - 1), help="set-checkpoint-delay: the delay."
    ),
    click.option(
        "--assume-good",
        metavar="VERSION",
        type=version,
        multiple=True,
        help="A QEMU version that you vouch for.",
    ),
    click.option(
        "--node",
        "nodes",
        metavar="NODE",
        multiple=True,
        help="launch: this node; both if not given. forget: the one that is gone for good.",
    ),
    click.option(
        "--newest",
        metavar="NODE",
        help="launch: who holds the newest data, against what is recorded.",
    ),
)


journal = click.option(
    "--journal",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write down, in a new file, what is sent and answered; see `pycolo report`.",
)


def said(command: Callable[..., _R]) -> Callable[..., _R]:
    """Add the options `-q` and `-v`; the command gets them as its argument `detail`."""

    @functools.wraps(command)
    def chosen(*, is_quiet: bool, is_verbose: bool, **rest: object) -> _R:
        if is_quiet and is_verbose:
            raise click.UsageError("give either --quiet or --verbose")
        detail: Detail = "quiet" if is_quiet else "verbose" if is_verbose else "usual"
        return command(detail=detail, **rest)

    verbose = click.option(
        "-v", "--verbose", "is_verbose", is_flag=True, help="Show the command of each step."
    )
    quiet = click.option(
        "-q", "--quiet", "is_quiet", is_flag=True, help="Show errors and the result alone."
    )
    return quiet(verbose(chosen))


@final
class Commands(click.Group):
    """The group of commands; the error for a procedure's name says that `run` executes it."""

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names.

        Raises:
            click.UsageError: No command has that name.
        """
        if args[0] in get_args(Procedure):
            name = args[0]
            ways = f"`pycolo plan {name}` shows it, `pycolo run {name}` does it"
            raise click.UsageError(f"{name} is a procedure: {ways}", ctx)
        return super().resolve_command(ctx, args)


class TakesMessage(click.Command):
    """A command whose argument is a message, which may begin with a dash."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move the words that are no options of this command behind `--`: they are arguments."""
        known = {name for p in self.get_params(ctx) for name in p.opts if name.startswith("-")}
        options: list[str] = []
        words: list[str] = []
        left = iter(args)
        for word in left:
            if word.partition("=")[0] in known:
                options += [word, *itertools.islice(left, 0 if _stands_alone(word) else 1)]
            else:
                words += [word] if word != "--" else [*left]
        return super().parse_args(ctx, [*options, "--", *words])


def _stands_alone(option: str) -> bool:
    return "=" in option or option in ("-h", "--help")


def output(*forms: str) -> Callable[[_F], _F]:
    """Make the option `--as`.

    Args:
        forms: The values that the option takes; the first one is the default.
    """
    return click.option(
        "--as",
        "form",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        callback=_remember,
        help="How the result is written.",
    )


def _remember(context: click.Context, _: click.Parameter, form: str) -> str:
    """Store the value of `--as` in the context, where a later error finds it."""
    context.meta[FORM] = form
    return form


# The options that each procedure uses; all others are refused.
USED: Final[Mapping[str, tuple[str, ...]]] = {
    "launch": ("node", "newest", "dialect"),
    "start": ("peer", "dialect"),
    "resume": ("peer", "dialect"),
    "converge": ("peer",),
    "failover": ("survivor", "fenced", "dialect"),
    "forget": ("node", "fenced"),
    "stop": (),
    "switch-over": (),
    "shutdown": (),
    "checkpoint": (),
    "set-checkpoint-delay": ("ms", "dialect"),
}


@final
@attrs.frozen(kw_only=True)
class Asked:
    """The values of the options that a procedure may use, besides its pair."""

    survivor: str | None
    peer: str | None
    dialect: DialectName
    fenced: operate.Fenced | None
    ms: int | None
    assume_good: tuple[Version, ...]
    nodes: tuple[str, ...]
    newest: str | None

    def check(self, pair: ColoPair, procedure: str, *, offline: bool = False) -> None:
        """Refuse options that the procedure does not use, and names that no node has.

        Args:
            pair: The declaration.
            procedure: The procedure's name.
            offline: Whether the plan is compiled without asking the hosts; then `resume` takes
                `--survivor` too.

        Raises:
            click.UsageError: An option or a name does not fit, or a survivor offline is a spare.
        """
        used = USED[procedure] + (("survivor",) if offline and procedure == "resume" else ())
        for option in (option for option in self._given() if option not in used):
            users = [name for name, options in USED.items() if option in options]
            raise click.UsageError(f"{procedure} has no --{option}: it is for {', '.join(users)}")
        named = [("survivor", self.survivor), ("peer", self.peer), ("newest", self.newest)]
        if procedure != "forget":
            named += [("node", name) for name in self.nodes]
        for option, name in named:
            if name is not None:
                check_node(pair, f"--{option}", name)
        if offline and self.survivor in {spare.name for spare in pair.spares}:
            first, second = (node.name for node in pair.nodes)
            raise click.UsageError(
                f"--survivor: {self.survivor} is a spare, and offline the pair runs on {first} and"
                f" {second}: name one of them, or give --live if the spare has taken a place"
            )
        if procedure == "set-checkpoint-delay" and self.ms is None:
            raise click.UsageError("set-checkpoint-delay needs --ms N")
        if procedure == "forget" and len(self.nodes) != 1:
            raise click.UsageError("forget needs --node NODE, the one that is gone for good")

    def _given(self) -> Iterator[str]:
        values: dict[str, object] = {"survivor": self.survivor, "peer": self.peer}
        values |= {"fenced": self.fenced, "ms": self.ms, "newest": self.newest}
        values["node"] = self.nodes or None
        values["dialect"] = None if self.dialect == "auto" else self.dialect
        return (option for option, value in values.items() if value is not None)


def check_node(pair: ColoPair, option: str, name: str) -> None:
    """Refuse a name that no node of a pair has, spares included.

    Args:
        pair: The declaration.
        option: What the name was given for, such as `--survivor`.
        name: The name.

    Raises:
        click.UsageError: No node has the name.
    """
    try:
        pair.node(name)
    except DeclarationError as error:
        raise click.UsageError(f"{option}: {error}") from error


def asked(command: Callable[..., _R]) -> Callable[..., _R]:
    """Add the options of `Asked`; the command gets them as its argument `asked`."""

    @functools.wraps(command)
    def collected(
        *,
        survivor: str | None,
        peer: str | None,
        dialect: DialectName,
        fenced: str | None,
        ms: int | None,
        assume_good: tuple[Version, ...],
        nodes: tuple[str, ...],
        newest: str | None,
        **others: object,
    ) -> _R:
        made = Asked(
            survivor=survivor,
            peer=peer,
            dialect=dialect,
            fenced=_fenced_by(fenced),
            ms=ms,
            assume_good=assume_good,
            nodes=nodes,
            newest=newest,
        )
        return command(asked=made, **others)

    for option in reversed(_PROCEDURES):
        collected = option(collected)
    return collected


def _fenced_by(text: str | None) -> operate.Fenced | None:
    """Parse the value of `--fenced`, which is `WHO: HOW`.

    Raises:
        click.UsageError: The value has another form.
    """
    if text is None:
        return None
    who, _, how = text.partition(": ")
    if not who.strip() or not how.strip() or not text.isprintable():
        raise click.UsageError(
            "--fenced must say who fenced the node and how, in the form 'WHO: HOW', such as"
            f" 'alice: power off at the rack', not {shown(text)}"
        )
    return operate.Fenced(who=who.strip(), how=how.strip())
