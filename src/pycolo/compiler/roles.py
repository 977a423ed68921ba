"""Which node is primary and which is secondary, and which QEMU a plan is for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pycolo.errors import check_all, compile_error
from pycolo.model.pair import ColoPair
from pycolo.qmp.replies import Version
from pycolo.snapshot import Snapshot, Unreachable, Unresponsive, role_of

SECONDARIES = ("fresh secondary", "prepared secondary", "secondary", "broken secondary")
PRIMARIES = ("unprotected", "entering", "primary", "broken primary")
WITHOUT_GUEST = ("fresh secondary", "prepared secondary")
IN_COLO = ("secondary", "broken secondary")
TWO_GUESTS = "decide which guest has the right data, and end the other QEMU"


def versions(snapshot: Snapshot, nodes: Sequence[str]) -> dict[str, Version]:
    """The QEMU version of each of some nodes.

    Raises:
        CompileError: One of the nodes does not answer.
    """
    check_all(partial(_check_answers, snapshot, node) for node in nodes)
    live = {node: snapshot.live(node) for node in nodes}
    return {node: state.version for node, state in live.items() if state is not None}


def _check_answers(snapshot: Snapshot, node: str) -> None:
    if snapshot.live(node) is None:
        why = f"{node} does not answer on its control monitor: {stands(snapshot, node)}"
        advice = (
            "if its QEMU has ended, launch it; if it runs, close the client that holds its monitor,"
            " such as a supervisor; if there is none, it is stopped or stuck"
        )
        raise compile_error("no-answer", why, advice, node=node)


def only_live(pair: ColoPair, snapshot: Snapshot) -> str:
    """The only node of the pair that can survive.

    It is the only one that answers and has a guest; or, if only one node answers, that one, even if
    it has none. A secondary in COLO has a guest; one that was launched and has not entered COLO
    has none.

    Raises:
        CompileError: No node answers; or both answer, and both or neither of them have a guest, as
            in a protected pair.
    """
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    # A fresh secondary has no guest that could survive.
    guests = [name for name in live if role_of(snapshot.state(name)) not in WITHOUT_GUEST]
    if len(guests) == 1:
        return guests[0]
    if len(live) == 1:
        return live[0]
    if live:
        why = f"it is not clear who survives: {' and '.join(live)} answer"
        raise compile_error("survivor-unclear", why, "name the survivor (--survivor NODE)")
    words = all_stand(pair, snapshot)
    raise compile_error(
        "no-answer",
        f"no node answers ({words})",
        "make one of them answer, such as by closing the client that holds its monitor, or launch a"
        " node whose QEMU has ended",
    )


def roles(pair: ColoPair, snapshot: Snapshot) -> tuple[str, str]:
    """The names of the primary and of the secondary, in this order.

    Raises:
        CompileError: There is no primary with a secondary, which the error explains by what each
            node is; or the primary's QEMU was started again, and the secondary has the only guest.
    """
    found = {node.name: role_of(snapshot.state(node.name)) for node in pair.nodes}
    first, second = found
    for primary, secondary in ((first, second), (second, first)):
        if found[primary] in PRIMARIES and found[secondary] in SECONDARIES:
            _check_no_orphan(snapshot, primary, secondary)
            return primary, secondary
    words = all_stand(pair, snapshot)
    why = f"there is no primary with a secondary here ({words})"
    raise compile_error("no-pair", why, "launch what is missing, or fail over first")


def leader(pair: ColoPair, snapshot: Snapshot) -> str:
    """The node that is the primary, protected or not: its guest continues if protection is ended.

    Raises:
        CompileError: No primary answers; both nodes are primaries, so that two guests run that do
            not follow each other; or the primary's QEMU was started again and the secondary, which
            is still in COLO, has the only guest.
    """
    leading = [n.name for n in pair.nodes if role_of(snapshot.state(n.name)) in PRIMARIES]
    if len(leading) == 1:
        _check_no_orphan(snapshot, leading[0], pair.peer_of(leading[0]).name)
        return leading[0]
    words = all_stand(pair, snapshot)
    if leading:
        raise compile_error("two-guests", f"two nodes run a guest each ({words})", TWO_GUESTS)
    why = f"no primary answers ({words})"
    raise compile_error(
        "no-primary", why, "launch the pair; or, if a secondary has the guest, run failover"
    )


def _check_no_orphan(snapshot: Snapshot, primary: str, secondary: str) -> None:
    """Refuse a pair whose secondary runs the only guest, since the primary was started again.

    Raises:
        CompileError: The primary's QEMU has no guest yet, and the secondary's is in COLO.
    """
    live, peer = snapshot.live(primary), snapshot.live(secondary)
    anew = live is not None and (live.run_state, live.migration) == ("prelaunch", "none")
    if anew and peer is not None and peer.colo_mode == "secondary":
        why = f"{primary} was started anew, and the guest of {secondary} is the one that runs"
        raise compile_error(
            "primary-anew",
            why,
            f"end the QEMU of {primary}, then fail over to {secondary}",
            node=primary,
        )


def all_stand(pair: ColoPair, snapshot: Snapshot) -> str:
    """The role of each of the two nodes, in words for a message; see `stands`."""
    return ", ".join(f"{node.name}: {stands(snapshot, node.name)}" for node in pair.nodes)


def stands(snapshot: Snapshot, name: str) -> str:
    """A node's role, in words for a message.

    If the node does not answer, the words also say why, and whether its QEMU is known to run.
    """
    state = snapshot.state(name)
    words: list[str] = [role_of(state)]
    if isinstance(state, Unreachable | Unresponsive):
        words.append(state.why)
        if name in snapshot.running:
            words.append(snapshot.running[name].how)
    return ", ".join(words)
