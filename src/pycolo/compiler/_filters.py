"""The steps of one chain of filters: add it, switch it on and off, remove it."""

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
    """Add the parts of a chain that a primary lacks, in order; the filters stay switched off.

    First the chardevs, then filters, iothread and compare. The guest keeps its plain network until
    `switch_on`.

    Args:
        draft: The plan so far.
        node: The primary.
        secondary: The secondary, which must be connected before compare is made.
        chain: The chain.
    """
    for chardev in topology.primary_chardevs(draft.pair, node, chain):
        if chardev.id not in draft.live(node).chardevs:
            draft.execute(node, chardev, _why_chardev(chardev, chain))
    promoted = chain.names.rewriter in draft.live(node).objects
    _clear_behind(draft, node, chain)
    for item in topology.primary_objects(chain, promoted=promoted):
        if isinstance(item, ColoCompare) and item.id not in draft.live(node).objects:
            # QEMU dies if compare is made before its sockets are connected (qemu-behaviour 6.9).
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
    """Wait until both links to the secondary and both loops of compare are connected.

    Both ends of each connection are asked: if one end refused a TLS handshake, the other end still
    reports that it is connected (qemu-behaviour 19.7).

    Args:
        draft: The plan so far.
        node: The primary.
        secondary: The secondary.
        chain: The chain.
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
    """Switch the chain's filters on, so that the guest's packets go through COLO's proxy.

    Returns:
        The address of the first step; None if no filter has to be switched on.
    """
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
    """Switch the chain's filters off, which gives the guest its plain network back.

    Emit these steps before anything slow: with the filters on and no secondary, the guest has no
    network (qemu-behaviour 6.6).
    """
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
    """Switch the chain's filters off as recovery: both, whether or not they are on."""
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
    """Remove a primary's parts of a chain, compare first and the chardevs last.

    When compare is deleted, it releases the packets that it holds (qemu-behaviour 6.7).
    """
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
    """Remove a secondary's redirectors and their sockets; the rewriter stays.

    Source: qemu-behaviour 6.3, 7.10.
    """
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
