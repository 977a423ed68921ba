"""One network card and the chain of filters that COLO puts on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, final

import attrs

from pycolo._mapping import read_only, read_only_mappings
from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model.hardware import Property, emulated, properties

MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}\Z")
OPTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-._]*\Z")
TIMEOUT_MAX_MS = 2**32 - 1
# The difference between the ports of one chain and the next; those of chain 0 are the document's.
PORT_STRIDE = 10


def _options(
    options: Mapping[str, str | tuple[str, ...] | list[str]],
) -> Mapping[str, str | tuple[str, ...]]:
    return read_only({k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Netdev:
    """The host's end of the card: QEMU's netdev type and its options.

    Args:
        type: `tap`, `user`, `hubport`, `socket` or another type of QEMU (qemu-behaviour 3.6).
        options: The type's options without `id`, in order; a list of values repeats the option.
            vhost and multiqueue are refused, because COLO's filters do not see their traffic.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    type: str = attrs.field(validator=rules.Valid(rules.identifier))
    options: Mapping[str, str | tuple[str, ...]] = attrs.field(factory=dict, converter=_options)

    def __attrs_post_init__(self) -> None:
        for name, value in self.options.items():
            for one in value if isinstance(value, tuple) else (value,):
                self._check_option(name, one)

    def _check_option(self, name: str, value: object) -> None:
        field = f"Netdev.options.{name}"
        if not OPTION_NAME.match(name) or name in ("id", "type"):
            raise DeclarationError(field, name, "be an option of the netdev, not its id or type")
        if not isinstance(value, str) or not value.isprintable():
            raise DeclarationError(field, value, "be a string of printable characters")
        if name == "vhost" and value != "off":
            raise DeclarationError(field, value, "be off: COLO's filters do not see vhost traffic")
        if name in ("vhostforce", "vhostfd", "vhostfds", "queues", "fds", "ifnames"):
            raise DeclarationError(field, value, "not be set: COLO has no vhost and no multiqueue")


@final
@attrs.frozen(kw_only=True)
class ChainIds:
    """QEMU's names for the parts of one chain, equal on every node and in both roles.

    Take `ChainIds.numbered(n)` for the n-th chain of the pair, from 0, and change single names with
    `attrs.evolve`. `ColoPair` refuses a name that is used twice.

    Raises:
        DeclarationError: A name breaks QEMU's rules for it; no object is made.
    """

    netdev: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The netdev that all filters of the chain are attached to."
    device: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The guest's card."
    mirror: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Primary's chardev to which the guest's incoming packets are copied."
    compare_in: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Primary's chardev on which the secondary's replies arrive."
    compare_local: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Server end of the loop into compare."
    compare_local_client: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Client end of the loop into compare."
    compare_out: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Server end of the loop out of compare."
    compare_out_client: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Client end of the loop out of compare."
    filter_mirror: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Primary's filter-mirror."
    redirector_out: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Primary's filter-redirector that brings compared packets back."
    redirector_in: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Primary's filter-redirector that takes the guest's packets to compare."
    iothread: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The thread in which compare runs."
    compare: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Primary's colo-compare."
    red_in: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Secondary's chardev to the primary's mirror."
    red_out: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Secondary's chardev to the primary's compare."
    redirector_from_primary: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Secondary's filter-redirector for incoming packets."
    redirector_to_primary: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Secondary's filter-redirector for the guest's replies."
    rewriter: str = attrs.field(validator=rules.Valid(rules.identifier))
    "Secondary's filter-rewriter; it stays after a promotion (qemu-behaviour 6.3)."

    @classmethod
    def numbered(cls, n: int) -> ChainIds:
        """The names of the n-th chain, from 0; those of chain 0 are as in QEMU's COLO document.

        Digits at the end of that document's names do not number chains: `redire0` and `redire1` are
        two parts of one chain. So a name of a further chain is that name, a dot and the number.
        """
        tail = f".{n}" if n else ""
        return cls(
            netdev=f"hn{n}",
            device=f"e{n}",
            mirror="mirror0" + tail,
            compare_in="compare1" + tail,
            compare_local="compare0" + tail,
            compare_local_client="compare0-0" + tail,
            compare_out="compare_out" + tail,
            compare_out_client="compare_out0" + tail,
            filter_mirror="m0" + tail,
            redirector_out="redire0" + tail,
            redirector_in="redire1" + tail,
            iothread="iothread1" + tail,
            compare="comp0" + tail,
            red_in="red0" + tail,
            red_out="red1" + tail,
            redirector_from_primary="f1" + tail,
            redirector_to_primary="f2" + tail,
            rewriter="rew0" + tail,
        )


@final
@attrs.frozen(kw_only=True)
class ChainPorts:
    """TCP ports of one chain on the primary's host (qemu-behaviour 3.10)."""

    mirror: int = attrs.field(validator=rules.Valid(rules.port))
    "The port from which the secondary gets the guest's incoming packets."
    compare_in: int = attrs.field(validator=rules.Valid(rules.port))
    "The port to which the secondary sends its guest's packets."
    compare_local: int = attrs.field(validator=rules.Valid(rules.port))
    "The port of the loop into compare, on 127.0.0.1; dialect `doc` only."
    compare_out: int = attrs.field(validator=rules.Valid(rules.port))
    "The port of the loop out of compare, on 127.0.0.1; dialect `doc` only."

    @classmethod
    def numbered(cls, n: int) -> ChainPorts:
        """The ports of the n-th chain, from 0; those of chain 0 are as in QEMU's COLO document."""
        step = PORT_STRIDE * n
        return cls(
            mirror=9003 + step,
            compare_in=9004 + step,
            compare_local=9001 + step,
            compare_out=9005 + step,
        )

    @classmethod
    def from_base(cls, base: int, n: int) -> ChainPorts:
        """The ports of the n-th chain, from 0, of a pair that declares a base port.

        Args:
            base: The first port of the pair. This port and the next one are those of `Ports`.
            n: The chain's number, from 0.
        """
        first = base + 2 + 4 * n
        return cls(
            mirror=first, compare_in=first + 1, compare_local=first + 2, compare_out=first + 3
        )


def _mac(field: str, value: object) -> None:
    if not isinstance(value, str) or not MAC.match(value):
        raise DeclarationError(field, value, "be six bytes like 52:54:00:12:34:56")
    if int(value[:2], 16) & 1:
        raise DeclarationError(field, value, "have an even first byte: an odd one names a group")


_NOT_WITH_COLO: Final[Mapping[str, str]] = {
    "mac": "not be set: mac is a key of the chain",
    "mq": "be false: COLO's filters see one queue alone",
    "failover": "be false: its partner is a card of the host, which is not on the other side",
}

# Cards that put virtio's header before each packet if the host's end, such as a tap, accepts it.
VNET_CARDS: Final = ("virtio-net", "e1000e", "igb", "vmxnet3")
PLAIN_CARDS: Final = ("e1000", "rtl8139", "ne2k", "pcnet", "tulip", "i825", "usb-net")


def writes_vnet_headers(model: str) -> bool | None:
    """Whether a card writes virtio headers to its netdev; None if that is not known.

    Args:
        model: QEMU's device model.
    """
    if model.startswith(VNET_CARDS):
        return True
    return False if model.startswith(PLAIN_CARDS) else None


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class FilterChain:
    """One network card of the guest, protected by COLO's proxy.

    Args:
        netdev: The host's end of the card.
        netdevs: Node name to the host's end there, if it differs from `netdev`.
        model: QEMU's device model for the card.
        properties: Properties of that device, by QEMU's names, such as `addr`, `bootindex`, `csum`
            or `vectors`. Several queues (`mq`) and `failover` are refused.
        mac: MAC address, the same on both nodes; None leaves it to QEMU.
        vnet_hdr: Whether every link of the chain carries the header that virtio puts before a
            packet; None decides by the card. It must be true for a card that writes such headers
            to a tap, and be given for a card that pycolo does not know (qemu-behaviour 6.5).
        compare_timeout_ms: How long compare waits for the other side's packet, in milliseconds,
            1 to 2^32-1.
        expired_scan_cycle_ms: The time between two scans of compare for expired packets, in
            milliseconds, 1 to 2^32-1.
        max_queue_size: Packets that compare holds per connection, 1 to 2^32-1; one value for all
            chains (qemu-behaviour 6.11). For these last three, None leaves the value to QEMU.
        ids: QEMU's names for the chain's parts; None takes the names of its place in the pair.
        ports: Ports on the primary's host; None takes those of its place in the pair.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    netdev: Netdev = attrs.field(validator=rules.Valid(rules.instance_of(Netdev)))
    netdevs: Mapping[str, Netdev] = attrs.field(factory=dict)
    model: str = attrs.field(default="rtl8139", validator=rules.Valid(emulated))
    properties: Mapping[str, Property] = attrs.field(
        factory=dict, validator=rules.Valid(properties)
    )
    mac: str | None = attrs.field(default=None, validator=rules.Valid(rules.Optional(_mac)))
    vnet_hdr: bool | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.boolean))
    )
    compare_timeout_ms: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(1, TIMEOUT_MAX_MS)))
    )
    expired_scan_cycle_ms: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(1, TIMEOUT_MAX_MS)))
    )
    max_queue_size: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(1, TIMEOUT_MAX_MS)))
    )
    ids: ChainIds | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(ChainIds)))
    )
    ports: ChainPorts | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(ChainPorts)))
    )

    def __attrs_post_init__(self) -> None:
        for name, rule in _NOT_WITH_COLO.items():
            if self.properties.get(name, False) not in (False, "off"):
                field = f"FilterChain.properties.{name}"
                raise DeclarationError(field, self.properties[name], rule)
        writes = writes_vnet_headers(self.model)
        if writes is True and self.vnet_hdr is False:
            rule = f"not be false for {self.model}: a failover would lose acknowledged writes"
            raise DeclarationError("FilterChain.vnet_hdr", self.vnet_hdr, rule)
        if writes is None and self.vnet_hdr is None:
            rule = f"say whether {self.model} writes virtio headers to a tap: pycolo does not know"
            raise DeclarationError("FilterChain.vnet_hdr", self.vnet_hdr, rule)

    @property
    def vnet_hdr_support(self) -> bool:
        """Whether packets carry virtio's header; all seven objects of the chain must agree."""
        if self.vnet_hdr is not None:
            return self.vnet_hdr
        return writes_vnet_headers(self.model) is True

    @property
    def names(self) -> ChainIds:
        """QEMU's names for the chain's parts; those of chain 0 for a chain outside a pair."""
        return self.ids or ChainIds.numbered(0)

    @property
    def proxy_ports(self) -> ChainPorts:
        """The chain's ports; those of chain 0 for a chain outside a pair."""
        return self.ports or ChainPorts.numbered(0)

    def netdev_on(self, node: str) -> Netdev:
        """The host's end of the card on one node: its own in `netdevs`, or else `netdev`."""
        return self.netdevs.get(node, self.netdev)
