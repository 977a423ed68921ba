"""Rules about addresses, ports, packets and the guest's network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pycolo import helper
from pycolo.facts import HostFacts, Interface, NameFacts, PairFacts
from pycolo.findings import Finding, Level
from pycolo.model.filters import FilterChain
from pycolo.model.pair import ColoPair
from pycolo.rules._found import Rule, both, by_name, found


def own_addresses(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Addresses of a node that do not belong to its host."""
    for name, host in facts.read.items():
        known = {one.name: one for one in host.names or ()}
        place = pair.node(name)
        listens = known.get(place.listen_address)
        if listens is not None and listens.addresses and not listens.is_own:
            what = f"{place.listen_address}, where {name} listens, is no address of its host"
            remedy = "declare one that is: address, or listen_address"
            yield found("error", "address-elsewhere", name, what, remedy)
            continue
        called = known.get(place.address)
        if called is not None and called.addresses and not called.is_own:
            what = f"{place.address}, where {name} is called, is no address of its host"
            remedy = "correct it, unless something leads from there to listen_address"
            yield found("warning", "address-elsewhere", name, what, remedy)


def unresolved(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Names that do not resolve on a host."""
    for name, host in facts.read.items():
        for one in host.names or ():
            if not one.addresses:
                what = f"{one.name} does not resolve on {name}"
                remedy = "add it to the name server or to /etc/hosts, or declare an address"
                yield found("error", "name-unresolved", name, what, remedy)


def different_names(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Names that resolve to different addresses on two hosts."""
    for (one, first), (other, second) in both(facts, lambda host: host.names):
        there = {name.name: name for name in second}
        for here in first:
            if here.name not in there or _is_address(here.name):
                continue
            yield from _different(here, there[here.name], one, other)


def _different(here: NameFacts, there: NameFacts, one: str, other: str) -> Iterator[Finding]:
    """The finding about a name that resolves to different addresses on two hosts."""
    ours, theirs = set(here.addresses), set(there.addresses)
    if not ours or not theirs or ours == theirs:
        return
    means = by_name({one: ", ".join(here.addresses), other: ", ".join(there.addresses)})
    remedy = "declare addresses, or make /etc/hosts equal"
    level: Level = "warning" if ours & theirs else "error"
    yield found(level, "names-differ", None, f"{here.name} is {means}", remedy)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def used_ports(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Ports of the pair that another process uses; none while a QEMU of the node runs or ends."""
    for name, host in facts.read.items():
        for used in () if host.running else host.ports or ():
            by = f" by {', '.join(used.holders)}" if used.holders else ""
            what = f"TCP port {used.port} on {name} is in use{by}"
            remedy = "declare other ports (ports.base), or end who listens there"
            yield found("error", "port-in-use", name, what, remedy)


def untried(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Network paths between the hosts that were not tried, so that no fault could be found."""
    if facts.untried:
        what = f"the ways between the hosts were not tried: {facts.untried}"
        remedy = "try again while no QEMU of the pair runs and nobody listens on its ports"
        yield found("note", "ways-untried", None, what, remedy)


def ways(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Ports that cannot be reached from the peer, and ports that are open without a QEMU."""
    for name, host in facts.read.items():
        for way in host.reach or ():
            peer, address = facts.read.get(way.node), pair.node(way.node).address
            open_ports = [one.port for one in way.ports if one.answer == "open"]
            if open_ports and peer is not None and not peer.running:
                what = f"{_ports(open_ports)} of {way.node} ({address}) is open for {name}"
                what += ", and nobody listens there"
                remedy = "see who else has this address, or what leads elsewhere from there"
                yield found("error", "port-conflict", way.node, what, remedy)
            reasons: dict[str, list[int]] = {}
            for one in way.ports:
                if one.answer not in ("open", "refused"):
                    reasons.setdefault(one.answer, []).append(one.port)
            for answer, numbers in reasons.items():
                why = "no answer" if answer == "silent" else answer
                what = f"{name} does not reach {way.node} ({address}), {_ports(numbers)}: {why}"
                remedy = "open the port in the firewalls between them, or correct the route"
                yield found("error", "port-blocked", name, what, remedy)


def _ports(numbers: list[int]) -> str:
    return f"TCP port {', '.join(map(str, numbers))}"


def packets(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Packets of the MTU's size that do not reach the peer, and MTUs that differ by direction."""
    sizes: dict[tuple[str, str], int] = {}
    for name, host in facts.read.items():
        for way in host.reach or ():
            if way.mtu_bytes is None:
                continue
            sizes[name, way.node] = way.mtu_bytes
            if way.is_carried is False:
                what = f"a packet of {way.mtu_bytes} bytes does not get from {name} to {way.node}"
                remedy = "lower the MTU of the interface, or raise it on the way"
                yield found("error", "mtu-not-carried", name, what, remedy)
    for (one, other), size_bytes in sizes.items():
        back_bytes = sizes.get((other, one), size_bytes)
        if one < other and size_bytes != back_bytes:
            what = f"the MTU from {one} to {other} is {size_bytes}, and {back_bytes} back"
            yield found("warning", "mtu-differs", None, what, "set the same on both hosts")


def taps(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Taps and bridges that are missing, in use, unconnected or of another kind or user."""
    for name, host in facts.read.items():
        if host.interfaces is None:
            continue
        if host.interfaces.tun_why:
            what = f"no tap can be used on {name}: {host.interfaces.tun_why}"
            remedy = "load the module tun, and let the user open it"
            yield found("error", "no-tap", name, what, remedy)
        known = {one.name: one for one in host.interfaces.known}
        for chain in pair.chains:
            yield from _interfaces(name, host, chain, known)


def _interfaces(
    node: str, host: HostFacts, chain: FilterChain, known: dict[str, Interface]
) -> Iterator[Finding]:
    """The findings about the tap and the bridge of one chain on one node."""
    netdev = chain.netdev_on(node)
    for named in helper.interface_names(netdev):
        one = known.get(named)
        if one is None:
            continue
        if netdev.options.get("ifname") == named:
            yield from _tap(node, host, one)
        elif one.kind != "bridge":
            what = f"{named} on {node} is {'no bridge' if one.kind else 'missing'}"
            yield found(
                "error", "no-bridge", node, what, f"make it: ip link add {named} type bridge"
            )


def _tap(node: str, host: HostFacts, tap: Interface) -> Iterator[Finding]:
    """The findings about one tap."""
    user = 0 if host.system is None else host.system.user_id
    if tap.kind == "":
        # A QEMU of root creates the tap, which is removed when that QEMU ends.
        what = f"there is no tap {tap.name} on {node}"
        remedy = f"make it and put it into a bridge: ip tuntap add {tap.name} mode tap"
        level: Level = "error" if user else "warning"
        yield found(level, "no-tap", node, what, remedy)
        return
    if tap.kind != "tap":
        what = f"{tap.name} on {node} is no tap"
        yield found("error", "no-tap", node, what, "name another one")
        return
    if user and tap.owner_id not in (-1, user):
        what = f"tap {tap.name} on {node} is of user {tap.owner_id}, QEMU is started by {user}"
        yield found("error", "no-tap", node, what, "make the tap for that user")
    if tap.is_attached and not host.running:
        what = f"another process has tap {tap.name} on {node}"
        yield found("error", "tap-in-use", node, what, "give each guest a tap of its own")
    if not tap.bridge:
        what = f"tap {tap.name} on {node} is in no bridge"
        remedy = f"put it into one: ip link set {tap.name} master BRIDGE"
        yield found("warning", "tap-unconnected", node, what, remedy)
    if not tap.is_up:
        what = f"tap {tap.name} on {node} is down"
        yield found("warning", "tap-unconnected", node, what, f"ip link set {tap.name} up")


def unheld(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """The reminder that COLO does not compare all packets; a warning if a bridge filters VLANs."""
    if not pair.chains:
        return
    tagged = sorted(
        f"{one.bridge or one.name} on {name}"
        for name, host in facts.read.items()
        for one in (() if host.interfaces is None else host.interfaces.known)
        if one.has_vlans
    )
    what = "COLO holds back only what the guest sends by IPv4 without a VLAN tag"
    if tagged:
        what += f", and these bridges tell VLANs apart: {', '.join(tagged)}"
    remedy = "let the guest serve by IPv4 alone, and tag VLANs outside it"
    level: Level = "warning" if tagged else "note"
    yield found(level, "unheld-traffic", None, what, remedy)


RULES = (
    Rule(codes=("address-elsewhere",), check=own_addresses, parts=("names",), before=("launch",)),
    Rule(codes=("name-unresolved",), check=unresolved, parts=("names",), before=("launch",)),
    Rule(
        codes=("names-differ",), check=different_names, parts=("names",), before=("start", "resume")
    ),
    # Does not stop a launch, which waits for ports that the kernel still holds.
    Rule(codes=("port-in-use",), check=used_ports, parts=("ports", "launch")),
    Rule(codes=("ways-untried",), check=untried),
    # Stops no procedure: a plan itself checks the ports that its roles need (`CheckPorts`).
    Rule(codes=("port-blocked", "port-conflict"), check=ways, parts=("reach", "launch")),
    Rule(codes=("mtu-not-carried", "mtu-differs"), check=packets, parts=("reach",)),
    Rule(
        codes=("no-tap", "tap-in-use", "tap-unconnected", "no-bridge"),
        check=taps,
        parts=("interfaces", "launch", "system"),
        before=("launch",),
    ),
    Rule(codes=("unheld-traffic",), check=unheld, parts=("interfaces",)),
)
