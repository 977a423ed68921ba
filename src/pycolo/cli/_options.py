"""Arguments and options that several commands share."""

from __future__ import annotations

import getpass
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar, get_args

import click
from typing_extensions import override

from pycolo import operate
from pycolo.errors import DeclarationError, ParseError
from pycolo.model import ColoPair
from pycolo.plan import DialectName, Procedure
from pycolo.qmp.replies import Version

_F = TypeVar("_F", bound=Callable[..., object])

FORM: Final = "pycolo.form"
ERROR_CODE: Final = "pycolo.error-code"
"Where a command's context keeps how its result is written."
NEWEST: Final = Version(major=11, minor=1, micro=3)
"The newest version that pycolo is tested with; offline nothing else says which one is meant."


def version(text: str) -> Version:
    """A QEMU version from the command line.

    Raises:
        click.BadParameter: It is none.
    """
    try:
        return Version.parse(text)
    except ParseError as error:
        raise click.BadParameter(f"{text!r} must {error.rule}") from error


FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

procedure = click.argument("procedure", type=click.Choice(get_args(Procedure)))
pair_file = click.argument("pair_file", metavar="PAIRFILE", type=FILE)
survivor = click.option(
    "--survivor", metavar="NODE", help="failover: the survivor; offline also resume's."
)
peer = click.option(
    "--peer", metavar="NODE", help="start, resume, converge: who will protect the guest."
)
dialect = click.option(
    "--dialect",
    type=click.Choice(get_args(DialectName)),
    default="auto",
    show_default=True,
    help="`doc` gives the commands of QEMU's own document.",
)
fenced = click.option(
    "--fenced",
    metavar="TEXT",
    help="failover, forget: your word that the other node's QEMU has ended, as 'WHO: HOW'.",
)
delay_ms = click.option(
    "--ms", type=click.IntRange(1, 2**32 - 1), help="set-checkpoint-delay: the delay."
)
assume_good = click.option(
    "--assume-good",
    metavar="VERSION",
    type=version,
    multiple=True,
    help="A QEMU version that you vouch for.",
)
only_node = click.option(
    "--node",
    "nodes",
    metavar="NODE",
    multiple=True,
    help="launch: this node; both if not given. forget: the one that is gone for good.",
)
newest = click.option(
    "--newest", metavar="NODE", help="launch: who holds the newest data, against what is recorded."
)


journal = click.option(
    "--journal",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write down, in a new file, what is sent and answered; see `pycolo report`.",
)


class TakesMessage(click.Command):
    """A command whose argument is a message, which may begin with a dash as an option does."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the words that are no options of this command behind `--`."""
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
    """The option `--as`, with the first form as its default."""
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
    """Keep the form for whoever writes a refusal."""
    context.meta[FORM] = form
    return form


def fenced_by(text: str | None) -> operate.Fenced | None:
    """The word that `--fenced` gives, as `WHO: HOW` or `HOW`.

    Raises:
        click.UsageError: It says nothing.
    """
    if text is None:
        return None
    who, colon, how = text.partition(": ")
    if not colon:
        who, how = getpass.getuser(), text
    if not who.strip() or not how.strip() or not (who + how).isprintable():
        raise click.UsageError("--fenced must say who fenced the node and how: 'WHO: HOW'")
    return operate.Fenced(who=who.strip(), how=how.strip())


# What each procedure can be asked for besides its pair; the rest is refused.
USED: Final[Mapping[str, tuple[str, ...]]] = {
    "launch": ("node", "newest", "dialect"),
    "start": ("peer", "dialect"),
    "resume": ("peer", "dialect"),
    "converge": ("peer",),
    "failover": ("survivor", "fenced", "dialect"),
    "forget": ("node", "fenced"),
    "stop": (),
    "switch-over": (),
    "set-checkpoint-delay": ("ms", "dialect"),
}


def check(
    pair: ColoPair, procedure: str, given: Mapping[str, object], *, offline: bool = False
) -> None:
    """Refuse options that the procedure does not use, and names that are no node's.

    Args:
        pair: The declaration.
        procedure: Its name.
        given: Option to its value; None, empty and the default stand for one that was not given.
        offline: Nobody is asked, so that it must be said who survived before `resume`.

    Raises:
        click.UsageError: One does not fit.
    """
    for option, value in given.items():
        if value in (None, (), "auto"):
            continue
        used = USED[procedure] + (("survivor",) if offline and procedure == "resume" else ())
        if option not in used:
            users = [name for name, options in USED.items() if option in options]
            raise click.UsageError(f"{procedure} has no --{option}: it is for {', '.join(users)}")
        if option in ("survivor", "peer", "newest") or (option == "node" and procedure != "forget"):
            for name in (value,) if isinstance(value, str) else _names(value):
                try:
                    pair.node(name)
                except DeclarationError as error:
                    raise click.UsageError(f"--{option}: {error}") from error
    if procedure == "set-checkpoint-delay" and given.get("ms") is None:
        raise click.UsageError("set-checkpoint-delay needs --ms N")
    if procedure == "forget" and len(_names(given.get("node"))) != 1:
        raise click.UsageError("forget needs --node NODE, the one that is gone for good")


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else ()
