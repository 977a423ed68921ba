"""Drift: what is declared against what is live, part by part.

What should be there is not written down a second time: it is what the compiler would plan for a
pair in these roles and with this history, so drift and plans cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias, final

import attrs

from pycolo.compiler._disks import LOCAL_CHILD
from pycolo.compiler.expected import expected
from pycolo.model.pair import ColoPair
from pycolo.snapshot import Live, Snapshot, role_of

Kind: TypeAlias = Literal[
    "node", "block node", "child", "export", "job", "chardev", "object", "setting", "parameter"
]


@final
@attrs.frozen(kw_only=True)
class Difference:
    """One part that is not as declared; None stands for a part that is not there."""

    node: str
    kind: Kind
    name: str
    declared: str | None
    live: str | None


@final
@attrs.frozen(kw_only=True)
class Drift:
    """All differences, each in one of three lists; false where there is none."""

    missing: tuple[Difference, ...] = ()
    "Declared and not there."
    stray: tuple[Difference, ...] = ()
    "There and not declared."
    changed: tuple[Difference, ...] = ()
    "There, and not as declared."

    def __bool__(self) -> bool:
        return bool(self.missing or self.stray or self.changed)


def drift(pair: ColoPair, snapshot: Snapshot) -> Drift:
    """Compare a declaration with what is live.

    Args:
        pair: The declaration.
        snapshot: What both nodes show.
    """
    wanted = expected(pair, snapshot)
    found = [
        difference
        for node in pair.nodes
        for difference in _of_node(node.name, wanted.live(node.name), snapshot)
    ]
    return Drift(
        missing=tuple(d for d in found if d.live is None),
        stray=tuple(d for d in found if d.declared is None),
        changed=tuple(d for d in found if d.live is not None and d.declared is not None),
    )


def _of_node(name: str, wanted: Live | None, snapshot: Snapshot) -> Iterator[Difference]:
    live = snapshot.live(name)
    if wanted is None:
        return
    if live is None:
        yield Difference(node=name, kind="node", name="role", declared=role_of(wanted), live=None)
        return
    if role_of(live) != role_of(wanted):
        yield Difference(
            node=name, kind="node", name="role", declared=role_of(wanted), live=role_of(live)
        )
    for kind, declared, shown in _parts(wanted, live):
        for part in sorted(declared.keys() | shown.keys()):
            then, now = declared.get(part), shown.get(part)
            if then != now:
                yield Difference(node=name, kind=kind, name=part, declared=then, live=now)


def _parts(wanted: Live, live: Live) -> Iterator[tuple[Kind, Mapping[str, str], Mapping[str, str]]]:
    yield "block node", _named(wanted.block_nodes), _named(live.block_nodes)
    yield "child", _children(wanted), _children(live)
    yield "export", wanted.exports, live.exports
    yield "job", _named(wanted.jobs), _named(live.jobs)
    yield "chardev", _named(wanted.chardevs), _named(live.chardevs)
    yield "object", _kinds(wanted), _kinds(live)
    both = wanted.objects.keys() & live.objects.keys()
    yield "setting", _settings(wanted, both), _settings(live, both)
    yield "parameter", _parameters(wanted), _parameters(live)


def _named(names: frozenset[str] | Mapping[str, object]) -> dict[str, str]:
    return dict.fromkeys(names, "there")


def _children(live: Live) -> dict[str, str]:
    # The first is read from; behind it QEMU numbers the places as it likes.
    return {
        f"{quorum}.{child.node}": "first" if child.name == LOCAL_CHILD else "behind the first"
        for quorum, children in live.children.items()
        for child in children
    }


def _kinds(live: Live) -> dict[str, str]:
    return {name: item.qom_type for name, item in live.objects.items()}


def _settings(live: Live, names: set[str]) -> dict[str, str]:
    return {
        f"{name}.{key}": value
        for name in names
        for key, value in {
            **live.objects[name].settings,
            "status": "on" if live.objects[name].on else "off",
        }.items()
    }


def _parameters(live: Live) -> dict[str, str]:
    shown = {"capabilities": ", ".join(sorted(live.capabilities)) or "none"}
    if live.colo_mode == "primary":
        shown["x-checkpoint-delay"] = str(live.checkpoint_delay_ms)
    return shown
