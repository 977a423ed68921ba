"""The standing of a pair, such as protected or at risk, derived from a snapshot."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo import record
from pycolo.qmp.states import RUN_STANDING
from pycolo.record import PairRecord
from pycolo.snapshot import Live, Snapshot, role_of

TWO_GUESTS: Final = "decide whose data is right, and end the other QEMU"
State: TypeAlias = Literal[
    "protected", "joining", "unprotected", "stopped", "at risk", "two guests", "unknown"
]


@final
@attrs.frozen(kw_only=True)
class Standing:
    """The standing of a pair."""

    state: State
    "The standing in one or two words."
    text: str
    "The details, as a sentence without a full stop."

    @property
    def words(self) -> str:
        """The state and then the details, on one line."""
        return f"{self.state}: {self.text}"

    @property
    def code(self) -> Literal[0, 1, 2, 3]:
        """The exit code for a monitoring plugin.

        Returns:
            0 if protected; 1 if joining or unprotected; 2 if at risk, if there are two guests, or
            if stopped; 3 if unknown.
        """
        match self.state:
            case "protected":
                return 0
            case "joining" | "unprotected":
                return 1
            case "stopped" | "at risk" | "two guests":
                return 2
            case "unknown":
                return 3


def standing(snapshot: Snapshot) -> Standing:
    """The standing of a pair by a snapshot of all its nodes and records.

    QEMU forgets that COLO ended with an error. So two nodes that both report COLO are called
    protected only if a checkpoint was seen on both, or if the records say that these two QEMUs are
    protected (qemu-behaviour 18.4).
    """
    roles = {name: role_of(state) for name, state in snapshot.nodes.items()}
    names = {role: [name for name, r in roles.items() if r == role] for role in roles.values()}
    running = names.get("unprotected", []) + names.get("entering", [])
    leading = names.get("primary", []) + names.get("broken primary", [])
    amiss = _amiss(snapshot, leading, running, names.get("secondary", []))
    if amiss is not None:
        return amiss
    if "broken primary" in names or "broken secondary" in names:
        text = "COLO has ended with an error, and both sides wait for a failover"
        return Standing(state="at risk", text=text)
    if "primary" in names and "secondary" in names:
        return _in_colo(snapshot, names["primary"][0], names["secondary"][0])
    if "primary" in names or "secondary" in names:
        alone = (names.get("primary") or names["secondary"])[0]
        return Standing(state="at risk", text=f"{alone} is in COLO, and its peer is not seen there")
    if running:
        return _alone(snapshot, running[0])
    unasked = [name for name in snapshot.nodes if not _is_asked(snapshot, name)]
    if unasked:
        silent = " and ".join(filter(None, (", ".join(unasked[:-1]), unasked[-1])))
        return Standing(state="unknown", text=f"no answer from {silent}")
    return Standing(state="stopped", text=_nobody(snapshot))


def _amiss(
    snapshot: Snapshot, leading: list[str], running: list[str], following: list[str]
) -> Standing | None:
    """A standing that takes precedence over all others; None if there is no such fault.

    Args:
        snapshot: The snapshot.
        leading: The primaries, also those whose COLO has ended with an error.
        running: The nodes that run the guest outside COLO.
        following: The secondaries in COLO.
    """
    births = {r.birth: n for n, r in snapshot.records.items() if isinstance(r, PairRecord)}
    if len(births) > 1:
        text = f"the records of {' and '.join(births.values())} come from two pairs of one name"
        return Standing(state="unknown", text=f"{text}; a person must decide")
    if leading and running:
        text = f"{leading[0]} runs it in COLO, and {running[0]} alone; {TWO_GUESTS}"
        return Standing(state="two guests", text=text)
    if len(running) > 1:
        text = f"{' and '.join(running)} hold a guest each; {TWO_GUESTS}"
        return Standing(state="two guests", text=text)
    unseen = [one for n, one in snapshot.running.items() if snapshot.live(n) is None]
    if unseen:
        qemus = " and ".join(f"{one.instance or 'a QEMU'} ({one.how})" for one in unseen)
        seen = f"{' and '.join((*leading, *running))} answers, and " if leading or running else ""
        return Standing(state="unknown", text=f"{seen}no answer from a running QEMU: {qemus}")
    stuck = [n for n in running if (one := snapshot.live(n)) and one.migration == "cancelling"]
    if stuck:
        text = f"{stuck[0]} has the guest, and a migration of it is being cancelled"
        why = "one that was cancelled inside COLO never ends, and only the end of its QEMU helps"
        return Standing(state="at risk", text=f"{text}: {why}")
    if running and following:
        text = f"{running[0]} has the guest, and {following[0]} is still in COLO"
        return Standing(state="at risk", text=f"{text}; end its QEMU")
    return None


def _is_asked(snapshot: Snapshot, name: str) -> bool:
    """Whether the state of a node is known: by its QEMU, by evidence or a plan, or by its host.

    A QEMU that only a host knows to run has been reported before.
    """
    role, kept = role_of(snapshot.state(name)), snapshot.records.get(name, record.NOT_READ)
    if role == "unreachable":
        return not isinstance(kept, record.UnreadRecord) or kept.is_host_reached
    return role != "unresponsive"


def _nobody(snapshot: Snapshot) -> str:
    """The text of a pair without a running guest."""
    files = snapshot.records
    if not files or any(snapshot.live(name) is not None for name in snapshot.nodes):
        return "nobody runs the guest, as far as can be seen"
    unread = [file.why for file in files.values() if isinstance(file, record.UnreadRecord)]
    if unread:
        whose = "no record" if len(unread) == len(files) else "not every record"
        whys = "; ".join(dict.fromkeys(unread))
        return f"no QEMU is known to run, and {whose} can be used: {whys}"
    if all(file == record.NoRecord() for file in files.values()):
        return "never launched: no QEMU is known to run, and no node has a record"
    return "no QEMU is known to run"


def _in_colo(snapshot: Snapshot, primary: str, secondary: str) -> Standing:
    """The standing of a pair whose nodes are both in COLO."""
    sides = f"{primary} is primary, {secondary} is secondary"
    both = {n: live for n in (primary, secondary) if (live := snapshot.live(n)) is not None}
    instances = {name: live.instance for name, live in both.items()}
    recorded = record.is_protected(snapshot.records, instances)
    if both[primary].overlaid:
        why = f"a snapshot takes the writes of {primary}, and no node's image gets them"
        return Standing(state="at risk", text=f"{sides}; {why}: a failover would lose them")
    is_lost = any(live.replication_error for live in both.values())
    if both[primary].disk_error:
        why = f"a disk of {primary} has failed, and {secondary} may have writes that it lacks"
        other = f"replication has failed, so that {secondary} lacks others: a person must decide"
        return Standing(
            state="at risk", text=f"{sides}; {why}{f'; {other}' if is_lost else ': switch over'}"
        )
    if is_lost:
        why = "replication of a disk has failed: a failover would lose writes"
        return Standing(state="at risk", text=f"{sides}; {why}")
    if recorded or all(live.proven for live in both.values()):
        return Standing(state="protected", text=sides)
    text = f"{sides}; COLO is not proven, so {secondary} may not continue: run resume"
    return Standing(state="joining", text=text)


def _alone(snapshot: Snapshot, name: str) -> Standing:
    """The standing of a pair of which one node runs the guest outside COLO."""
    live, own = snapshot.live(name), snapshot.records.get(name)
    pending = live is not None and bool(live.commit_pending)
    pending = pending or (isinstance(own, PairRecord) and own.commit == "pending")
    stands = f" ({live.run_state})" if isinstance(live, Live) else ""
    merging = ", commit pending" if pending else ""
    text = f"{name} has the guest alone{stands}{merging}"
    joining = isinstance(own, PairRecord) and own.phase == "joining"
    joins = f", and {own.joining} joins" if isinstance(own, PairRecord) and joining else ""
    if isinstance(live, Live) and live.run_state in RUN_STANDING:
        text = f"{name} has the guest alone, and it does not run ({live.run_state}){merging}"
        return Standing(state="stopped", text=f"{text}{joins}")
    if joining:
        return Standing(state="joining", text=f"{text}{joins}")
    # Until the overlays are merged, the image lacks writes.
    return Standing(state="at risk" if pending else "unprotected", text=text)
