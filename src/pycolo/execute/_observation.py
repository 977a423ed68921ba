"""Whether a condition holds of what was seen, and in words what was seen instead."""

from __future__ import annotations

from typing import Final, assert_never, final

import attrs

from pycolo import conditions as c
from pycolo.evidence import Victim
from pycolo.snapshot import Dead, Live, Snapshot, Unresponsive

NO_EVIDENCE: Final = "there is no evidence"


@final
@attrs.frozen(kw_only=True)
class Observation:
    """What was seen at one moment, as far as the condition needed it."""

    snapshot: Snapshot
    "The nodes; one that did not answer is `Unreachable`."
    gone: frozenset[str] = frozenset()
    "Nodes whose monitor is closed; silence alone does not close it."
    dead: frozenset[Victim] = frozenset()
    "QEMUs for whose end there is evidence."

    @property
    def stuck(self) -> tuple[str, ...]:
        """Nodes that are connected and did not answer."""
        nodes = self.snapshot.nodes.items()
        return tuple(name for name, state in nodes if isinstance(state, Unresponsive))

    def holds(self, condition: c.Condition) -> bool:
        """Whether the condition is true; of a silent node nothing is."""
        match condition:
            case c.AllOf(conditions=parts):
                return all(self.holds(part) for part in parts)
            case c.AnyOf(conditions=parts):
                return any(self.holds(part) for part in parts)
            case c.Gone(node=node):
                return node in self.gone
            case c.PeerDead(victim=victim):
                return victim in self.dead
            case leaf:
                return c.holds(leaf, self.snapshot)

    def missing(self, condition: c.Condition) -> str:
        """The leaves that are not true, each with what was seen instead."""
        return ", ".join(
            f"{_words(leaf)} ({self._seen(leaf)})"
            for leaf in c.leaves(condition)
            if not self.holds(leaf)
        )

    def present(self, condition: c.Condition) -> str:
        """The leaves that are true, with QEMU's own reason where it gives one."""
        found = (leaf for leaf in c.leaves(condition) if self.holds(leaf))
        return ", ".join(f"{_words(leaf)}{self._reason(leaf)}" for leaf in found)

    def _reason(self, leaf: c.Leaf) -> str:
        live = self.snapshot.live(leaf.node)
        if not isinstance(leaf, c.MigrationIs) or live is None or live.migration_error is None:
            return ""
        return f" ({live.migration_error})"

    def _seen(self, leaf: c.Leaf) -> str:
        match self.snapshot.state(leaf.node):
            case _ if isinstance(leaf, c.PeerDead):
                return NO_EVIDENCE
            case Live() as live:
                return _seen(leaf, live)
            case Dead():
                return "it is dead"
            case other:
                return getattr(other, "why", "it is absent")


def _words(leaf: c.Leaf) -> str:
    if isinstance(leaf, c.PeerDead):
        return f"the QEMU {leaf.instance} on {leaf.node} has ended"
    members = attrs.asdict(leaf, recurse=False)
    node = members.pop("node")
    values = " ".join(_value(value) for value in members.values())
    return f"{type(leaf).__name__} {node} {values}".rstrip()


def _value(value: object) -> str:
    return "|".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _seen(leaf: c.Leaf, live: Live) -> str:  # noqa: C901 - one line a leaf
    match leaf:
        case c.RunStateIs():
            return f"run state {live.run_state}"
        case c.ColoModeIs():
            return f"mode {live.colo_mode}"
        case c.NoColoExit():
            return "COLO_EXIT was seen"
        case c.ColoExited():
            return "COLO_EXIT was not seen"
        case c.CheckpointSeen():
            return "no STOP and RESUME since"
        case c.MigrationIs():
            error = "" if live.migration_error is None else f", {live.migration_error}"
            return f"migration {live.migration}{error}"
        case c.JobIs(job=job) | c.JobFailed(job=job):
            found = live.jobs.get(job)
            return "no such job" if found is None else f"{found.status}, error {found.error}"
        case c.ChardevConnected(chardev=chardev):
            return "disconnected" if chardev in live.chardevs else "no such chardev"
        case c.ChildIs(quorum=quorum):
            now = ", ".join(f"{x.name} is {x.node}" for x in live.children.get(quorum, ()))
            return now or "no children"
        case c.SizeIs(block_node=block_node):
            return f"size {live.sizes_bytes.get(block_node)}"
        case c.Committed():
            return "the overlays are still being merged"
        case c.PartsAre(node=node):
            return _other_parts(leaf, c.PartsAre.of(node, live))
        case c.InstanceIs():
            return f"instance {live.instance!r}"
        case c.VersionIs():
            return f"version {live.version}"
        case c.Gone():
            return "its monitor is open"
        case c.PeerDead():
            return NO_EVIDENCE
        case _:
            assert_never(leaf)


def _other_parts(expected: c.PartsAre, found: c.PartsAre) -> str:
    """What is there and was not, and the other way round, by name."""
    told = []
    for field in attrs.fields(c.PartsAre):
        then, now = getattr(expected, field.name), getattr(found, field.name)
        if field.name != "node" and then != now:
            told += [f"{name} is new" for name in now if name not in then]
            told += [f"{name} is gone" for name in then if name not in now]
    return ", ".join(told)
