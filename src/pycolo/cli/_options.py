"""Arguments and options that several commands share."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar, get_args

import click

from pycolo.errors import DeclarationError, ParseError
from pycolo.model import ColoPair
from pycolo.plan import DialectName, Procedure
from pycolo.qmp.replies import Version
from pycolo.snapshot import FenceProof

_F = TypeVar("_F", bound=Callable[..., object])

NEWEST: Final = Version(major=11, minor=1, micro=3)
"The newest version that pycolo is tested with; on paper nothing else says which one is meant."


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
survivor = click.option("--survivor", metavar="NODE", help="failover, resume: who goes on.")
peer = click.option("--peer", metavar="NODE", help="resume: who takes the dead one's place.")
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
    help="failover: proof that the other node is dead, as 'WHO: HOW' or HOW; kept in the plan.",
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
    "--node", "nodes", metavar="NODE", multiple=True, help="launch: this node; both if not given."
)


journal = click.option(
    "--journal",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write down, in a new file, what is sent and answered; see `pycolo report`.",
)


def output(*forms: str) -> Callable[[_F], _F]:
    """The option `--as`, with the first form as its default."""
    return click.option(
        "--as",
        "form",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        help="How the result is written.",
    )


def proof_of(text: str | None) -> FenceProof | None:
    """The proof that `--fenced` gives, made now by whoever runs this.

    Raises:
        click.UsageError: It says nothing.
    """
    if text is None:
        return None
    who, colon, how = text.partition(": ")
    if not colon:
        who, how = getpass.getuser(), text
    try:
        return FenceProof(who=who, how=how, when=datetime.now(UTC).isoformat(timespec="seconds"))
    except DeclarationError as error:
        raise click.UsageError(f"--fenced: {error}") from error


def check(
    pair: ColoPair, procedure: str, ms: int | None, **named: tuple[str, ...] | str | None
) -> None:
    """Refuse options that do not fit the procedure, and names that are no node's.

    Raises:
        click.UsageError: One does not.
    """
    if (procedure == "set-checkpoint-delay") != (ms is not None):
        raise click.UsageError("--ms N belongs to set-checkpoint-delay, and it needs it")
    for option, value in named.items():
        for name in (value,) if isinstance(value, str) else value or ():
            try:
                pair.node(name)
            except DeclarationError as error:
                raise click.UsageError(f"--{option}: {error}") from error
