"""Evidence of a death: which QEMU it speaks of, and who says so.

Evidence names an instance, that is one QEMU process, and the epoch of the record that let this
instance run alone. So it says nothing about a QEMU that was started later, and a plan that was
saved with it proves nothing once the record has another epoch.
"""

from __future__ import annotations

from typing import Literal, Self, TypeAlias, final, get_args

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

Kind: TypeAlias = Literal["exit", "fence", "self-fence"]
INSTANCE_PARTS = 3


@final
@attrs.frozen(kw_only=True)
class Victim:
    """The QEMU whose end has to be shown before another node runs alone."""

    node: str
    "The node on which it ran."
    instance: str
    "Its identity, `PAIR:NODE:HEX`."
    epoch: int
    "The epoch of the record that lets this instance run alone."


@final
@attrs.frozen(kw_only=True)
class Evidence:
    """A statement that one QEMU has ended, by its host's kernel or by whoever fenced it.

    Args:
        kind: `exit`: its host's kernel shows that the process has ended, or that each of its
            threads has or is exiting. `fence`: an operator or a fencing device has made sure of it.
            `self-fence`: its lease has run out, so that the fuse of its host has stopped it, or it
            is a secondary that can be promoted no more.
        node: The node on which it ran.
        instance: The identity of the QEMU, `PAIR:NODE:HEX`.
        epoch: The epoch of the record that let it run alone, as in the plan's `Victim`.
        who: The host that saw it, or who fenced it.
        how: What was seen, or how it was fenced.
        when: When, ISO 8601.

    Raises:
        DeclarationError: A field is empty or not printable, or `kind` is unknown; no object is
            made.
    """

    kind: Kind = attrs.field(validator=rules.Valid(rules.one_of(*get_args(Kind))))
    node: str
    instance: str
    epoch: int
    who: str
    how: str
    when: str

    def __attrs_post_init__(self) -> None:
        for name in ("node", "instance", "who", "how", "when"):
            value: str = getattr(self, name)
            if not value.strip() or not value.isprintable():
                rule = "be a non-empty string of printable characters"
                raise DeclarationError(f"Evidence.{name}", value, rule)

    @classmethod
    def of(cls, victim: Victim, *, kind: Kind, who: str, how: str, when: str) -> Self:
        """Evidence that speaks of this very QEMU; see the class for the rest."""
        return cls(
            kind=kind,
            node=victim.node,
            instance=victim.instance,
            epoch=victim.epoch,
            who=who,
            how=how,
            when=when,
        )

    def proves(self, victim: Victim) -> bool:
        """Whether it speaks of this very QEMU, in this epoch."""
        named = (self.node, self.instance, self.epoch)
        return named == (victim.node, victim.instance, victim.epoch)


def instance_of(pair: str, node: str, number: int) -> str:
    """The identity of one QEMU: `PAIR:NODE:HEX`.

    Args:
        pair: The pair's name.
        node: The node's name.
        number: What tells it from every other QEMU of that node, 0 to 2^32-1.
    """
    return f"{pair}:{node}:{number:08x}"


def pair_of(instance: str) -> str:
    """The pair that an identity names; empty if it is no identity of pycolo's."""
    return _parts(instance)[0]


def node_of(instance: str) -> str:
    """The node that an identity names; empty if it is no identity of pycolo's."""
    return _parts(instance)[1]


def _parts(instance: str) -> tuple[str, str]:
    parts = instance.split(":")
    return (parts[0], parts[1]) if len(parts) == INSTANCE_PARTS and all(parts) else ("", "")
