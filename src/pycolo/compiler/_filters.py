"""The steps of one chain: set it up on a primary, switch it, take it down."""

from __future__ import annotations

from typing import assert_never

from pycolo import topology
from pycolo.compiler._draft import Draft
from pycolo.conditions import AllOf, ChardevConnected
from pycolo.model.filters import FilterChain
from pycolo.plan import Execute, Refusal
from pycolo.qmp.commands import ChardevAdd, ChardevRemove, ObjectAdd, ObjectDel, QomSet
from pycolo.qmp.objects import (
    ColoCompare,
    FilterMirror,
    FilterRedirector,
    FilterRewriter,
    IoThread,
    ProxyObject,
)

GONE_OBJECT = (
    Refusal(text="not found"),
    Refusal(text="not found", error_class="DeviceNotFound"),
)
GONE_CHARDEV = (Refusal(text="not found"),)


def ensure_primary(draft: Draft, node: str, secondary: str, chain: FilterChain) -> None:
    """Chardevs, then filters, iothread and compare; the guest keeps its plain network."""
    for chardev in topology.primary_chardevs(draft.pair, node, chain):
        if chardev.id not in draft.live(node).chardevs:
            draft.execute(node, chardev, _why_chardev(chardev, chain))
    promoted = chain.names.rewriter in draft.live(node).objects
    _clear_behind(draft, node, chain)
    for item in topology.primary_objects(chain, promoted=promoted):
        if isinstance(item, ColoCompare) and item.id not in draft.live(node).objects:
            # A compare whose sockets are not there kills QEMU (qemu-behaviour 6.9).
            wait_connected(draft, node, secondary, chain)
        if item.id not in draft.live(node).objects:
            draft.execute(node, ObjectAdd(object=item), _why_object(item))


def _clear_behind(draft: Draft, node: str, chain: FilterChain) -> None:
    """Remove the filters that must come after a missing one, so that it can be inserted."""
    ids = chain.names
    order = (ids.filter_mirror, ids.redirector_out, ids.redirector_in)
    there = [item for item in order if item in draft.live(node).objects]
    kept = sum(1 for known, item in zip(there, order, strict=False) if known == item)
    for item in there[kept:]:
        why = "one that belongs before it is missing, and the order decides (qemu-behaviour 6.1)"
        draft.execute(node, ObjectDel(id=item), why, accepts=GONE_OBJECT)


def wait_connected(draft: Draft, node: str, secondary: str, chain: FilterChain) -> None:
    """Both links to the secondary and both of compare's loops are connected at both ends.

    A TLS handshake that one end refused leaves the other end connected, without a message
    (qemu-behaviour 19.7).
    """
    ids = chain.names
    here = (
        *(ids.mirror, ids.compare_in, ids.compare_local, ids.compare_local_client),
        *(ids.compare_out, ids.compare_out_client),
    )
    ends = [*((node, end) for end in here), (secondary, ids.red_in), (secondary, ids.red_out)]
    if all(draft.live(name).chardevs.get(end) for name, end in ends):
        return
    until = AllOf(conditions=tuple(ChardevConnected(node=n, chardev=end) for n, end in ends))
    draft.wait(
        node,
        f"connected:{ids.netdev}",
        until,
        "both ends of each connection say that they are connected (qemu-behaviour 3.3, 3.14)",
        limit_s=draft.timeouts.connect_s,
    )


def switch_on(draft: Draft, node: str, chain: FilterChain) -> str | None:
    """Let the guest's packets through COLO's proxy; returns the first step's address."""
    first: str | None = None
    for item, why in (
        (
            chain.names.filter_mirror,
            "the secondary sees what the guest receives (qemu-behaviour 17.6)",
        ),
        (
            chain.names.redirector_in,
            "what the guest sends is compared before it leaves (qemu-behaviour 17.6)",
        ),
    ):
        known = draft.live(node).objects.get(item)
        if known is not None and not known.on:
            address = draft.execute(node, _status(item, on=True), why)
            first = first or address
    return first


def switch_off(draft: Draft, node: str, chain: FilterChain) -> None:
    """Give the guest its plain network back before anything slow (qemu-behaviour 6.6)."""
    for item in (chain.names.redirector_in, chain.names.filter_mirror):
        known = draft.live(node).objects.get(item)
        if known is not None and known.on:
            draft.execute(
                node,
                _status(item, on=False),
                "without a secondary a filter that is on cuts the guest off (qemu-behaviour 6.6)",
                accepts=GONE_OBJECT,
            )


def off_recovery(draft: Draft, node: str, chain: FilterChain) -> tuple[Execute, ...]:
    """The same as recovery: sent whatever state execution ended in."""
    return tuple(
        draft.recovery_step(
            node,
            _status(item, on=False),
            "the guest gets its network back (qemu-behaviour 6.6)",
            accepts=GONE_OBJECT,
        )
        for item in (chain.names.redirector_in, chain.names.filter_mirror)
    )


def remove_primary(draft: Draft, node: str, chain: FilterChain) -> None:
    """Compare first: its end flushes what it holds. Chardevs last (qemu-behaviour 6.7)."""
    ids = chain.names
    objects = (ids.compare, ids.filter_mirror, ids.redirector_out, ids.redirector_in, ids.iothread)
    chardevs = (
        ids.mirror,
        ids.compare_in,
        ids.compare_local_client,
        ids.compare_local,
        ids.compare_out_client,
        ids.compare_out,
    )
    _remove(draft, node, objects, chardevs)


def remove_secondary(draft: Draft, node: str, chain: FilterChain) -> None:
    """Both redirectors and their sockets; the rewriter stays (qemu-behaviour 6.3, 7.10)."""
    ids = chain.names
    objects = (ids.redirector_to_primary, ids.redirector_from_primary)
    _remove(draft, node, objects, (ids.red_out, ids.red_in))


def _remove(draft: Draft, node: str, objects: tuple[str, ...], chardevs: tuple[str, ...]) -> None:
    for item in objects:
        if item in draft.live(node).objects:
            why = "no filter of the ended pair stays (qemu-behaviour 6.6, 6.7)"
            draft.execute(node, ObjectDel(id=item), why, accepts=GONE_OBJECT)
    for chardev in chardevs:
        if chardev in draft.live(node).chardevs:
            why = "its port is free for the next generation (qemu-behaviour 6.7)"
            draft.execute(node, ChardevRemove(id=chardev), why, accepts=GONE_CHARDEV)


def _status(item: str, *, on: bool) -> QomSet:
    return QomSet(path=f"/objects/{item}", property_name="status", value="on" if on else "off")


def _why_chardev(chardev: ChardevAdd, chain: FilterChain) -> str:
    ids = chain.names
    if chardev.id in (ids.mirror, ids.compare_in):
        return "the secondary connects here; not waiting for it (qemu-behaviour 3.2)"
    return "one end of compare's loop, on a private socket (qemu-behaviour 3.4, 3.9)"


def _why_object(item: ProxyObject) -> str:
    match item:
        case FilterMirror():
            return "copies what the guest receives; off until COLO runs (qemu-behaviour 6.1, 17.6)"
        case FilterRedirector(indev=None):
            return "takes what the guest sends; off until COLO runs (qemu-behaviour 6.1, 17.6)"
        case FilterRedirector():
            return "brings compared packets back to the card (qemu-behaviour 6.1)"
        case IoThread():
            return "compare works in a thread of its own (qemu-behaviour 6.9)"
        case ColoCompare():
            return "holds replies until both guests agree; its parts are there (qemu-behaviour 6.9)"
        case FilterRewriter():
            return "translates the secondary's TCP numbers (qemu-behaviour 6.3)"
        case _:
            assert_never(item)
