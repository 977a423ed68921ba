"""Evidence that a QEMU has ended: which QEMU, and who states it.

Evidence names an instance, that is one QEMU process, and the epoch of the record that let this
instance run alone. So it proves nothing about a QEMU that was started later, nor if the record has
got another epoch since.
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
    """A QEMU that must be shown to have ended before another node runs alone."""

    node: str
    "The node of the QEMU."
    instance: str
    "The identity of the QEMU, `PAIR:NODE:HEX`."
    epoch: int
    "The epoch of the record that lets this instance run alone."


@final
@attrs.frozen(kw_only=True)
class Evidence:
    """A statement that one QEMU has ended, by its host's kernel, an operator or a fence.

    Args:
        kind: `exit`: the kernel of the QEMU's host shows that the process has ended, or that each
            of its threads has ended or is exiting. `fence`: an operator or a fencing device has
            made sure that the QEMU has ended. `self-fence`: the QEMU's lease has expired, so that
            the fuse of its host has stopped it, or it is a secondary that can no longer be
            promoted.
        node: The node of the QEMU.
        instance: The identity of the QEMU, `PAIR:NODE:HEX`.
        epoch: The epoch of the record that let the QEMU run alone, as in the plan's `Victim`.
        who: The host that saw the end, or the person or device that fenced the QEMU.
        how: What the host saw, or how the QEMU was fenced.
        when: The time, ISO 8601.

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
        """Evidence that a victim has ended; the other arguments are those of the class."""
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
        """Whether the evidence names the victim's node, instance and epoch."""
        named = (self.node, self.instance, self.epoch)
        return named == (victim.node, victim.instance, victim.epoch)


def instance_of(pair: str, node: str, number: int) -> str:
    """The identity of one QEMU: `PAIR:NODE:HEX`.

    Args:
        pair: The pair's name.
        node: The node's name.
        number: A number that no other QEMU of that node has, 0 to 2^32-1.
    """
    return f"{pair}:{node}:{number:08x}"


def pair_of(instance: str) -> str:
    """The name of the pair in an identity; empty if pycolo did not make the identity."""
    return _parts(instance)[0]


def node_of(instance: str) -> str:
    """The name of the node in an identity; empty if pycolo did not make the identity."""
    return _parts(instance)[1]


def _parts(instance: str) -> tuple[str, str]:
    """The pair and the node in an identity; both empty if pycolo did not make it."""
    parts = instance.split(":")
    return (parts[0], parts[1]) if len(parts) == INSTANCE_PARTS and all(parts) else ("", "")
