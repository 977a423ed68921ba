"""What ties one fake QEMU to another: sockets, disk connections and the migration's channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from pycolo.testing._qemu import FakeQemu

Family: TypeAlias = Literal["ipv4", "ipv6"]
"What a guest and a client speak to each other over."


class Refused(Exception):
    """QEMU answers with an error."""

    def __init__(self, text: str, error_class: str = "GenericError") -> None:
        """Keep QEMU's words and its class of error."""
        super().__init__(text)
        self.text = text
        self.error_class = error_class


class Stuck(Exception):
    """The main loop waits for a peer that is silent; what it was at is begun again afterwards."""

    def __init__(self, links: tuple[DiskLink, ...]) -> None:
        """Keep what it waits for; for ever, where that is nothing."""
        super().__init__()
        self.links = links


@final
@attrs.define(eq=False)
class Image:
    """A disk image on a host: its size, and the numbers of the writes it holds."""

    size_bytes: int
    records: set[int] = attrs.field(factory=set)


@final
@attrs.define(eq=False)
class Overlay:
    """What stands between a secondary's guest and its image (qemu-behaviour 5.1)."""

    active: set[int] = attrs.field(factory=set)
    "What the secondary's own guest has written since the last checkpoint."
    hidden: set[int] = attrs.field(factory=set)
    "What the primary has written since then, which the secondary's guest must not see yet."


@final
@attrs.define(eq=False)
class DiskLink:
    """An NBD connection of a primary to its secondary's export."""

    client: FakeQemu
    server: FakeQemu
    export: str
    up: bool = True

    @property
    def silent(self) -> bool:
        """Whether what is sent is never answered; a connection that is down answers at once."""
        return self.up and not self.client.world.talk(self.client, self.server)

    @property
    def image(self) -> Image:
        """The image behind the export."""
        return self.server.image_of(self.server.live.exports[self.export])


@final
@attrs.define(eq=False)
class Wire:
    """A connection between two chardevs."""

    server: FakeQemu
    server_id: str
    client: FakeQemu
    client_id: str


Stage = Literal["setup", "active", "pre-switchover", "device", "colo", "over"]


@final
@attrs.define(eq=False)
class Channel:
    """A migration, and the COLO that it becomes, between two QEMUs."""

    source: FakeQemu
    target: FakeQemu | None
    origin: str
    "The source's run state before."
    stage: Stage = "setup"
    up: bool = True
    entered: bool = False
    "Both guests have run in COLO."
    checkpoint: bool = False
    "A checkpoint is being made."
    turn: int = 0
    "The number of the next checkpoint; one that was announced with another number is off."
