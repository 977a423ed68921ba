"""One fake QEMU, and what a test can do to it: kill it, freeze it, have its guest write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, final

from pycolo.snapshot import Filter
from pycolo.testing import _jobs, _network
from pycolo.testing._monitor import Monitor
from pycolo.testing._process import BAD, Channel, Process

Family: TypeAlias = Literal["ipv4", "ipv6"]
"The protocol between a guest and its clients."


@final
class FakeQemu(Process):
    """A process that speaks QMP as QEMU does; made by `World.launch`.

    Its state is the `Live` that a snapshot would show, and its connections to other fakes. An
    accepted command changes that state through `pycolo.effects`, which the compiler uses too. What
    QEMU does by itself after a command is simulated here.
    """

    monitors: Sequence[Monitor]

    # -- its process

    def kill(self) -> None:
        """End the process as SIGKILL does; nothing happens if it has ended."""
        _network.end(self, -9)

    def freeze(self) -> None:
        """Stop the process as SIGSTOP does: nothing responds, and all connections stay open."""
        self.frozen = True

    def thaw(self) -> None:
        """Continue the process after `freeze`."""
        self.frozen = False
        self.catch_up()
        self.world.settle()

    # -- its guest's writes

    def guest_write(self, number: int, disk: int = 0, family: Family = "ipv4") -> bool:
        """Have the guest write a record, and acknowledge the write to a client.

        Args:
            number: A number that identifies this write in the world.
            disk: The index of the guest's disk, from 0.
            family: The protocol over which the guest answers the client.

        Returns:
            Whether the acknowledgement reached the client, which means that the guest runs here,
            the write ended, and COLO's proxy let the answer pass (qemu-behaviour 5.12, 17.1).
        """
        if not self.runs or self.live.colo_mode == "secondary":
            return False
        self.world.written.add(number)
        quorum = self.quorums[disk]
        self._write_locally(quorum, number)
        # Every child gets the write, even if it hangs or fails on the child before.
        ended = [self._write_to(c.node, number) for c in self.live.children[quorum][1:]]
        twin = self._twin()
        if twin is not None:
            twin.overlays[quorum].active.add(number)
        if not all(ended) or not self.reaches(family):
            return False
        world = self.world
        (world.acknowledged if family == "ipv4" else world.acknowledged_over_ipv6).add(number)
        return True

    def _write_locally(self, quorum: str, number: int) -> None:
        overlay = self.overlays.get(quorum)
        into = self.quorum_image(quorum).records if overlay is None else overlay.active
        into.add(number)
        for job, target in self.targets.items():
            link = self.disk_links.get(target)
            if link is not None and not link.up:
                _jobs.fail(self, job, BAD)
                break

    def _write_to(self, block: str, number: int) -> bool:
        link = self.disk_links[block]
        if link.silent:
            self.hung.append((block, number))
            self.world.waiting[self.settle] = None
            return False
        self.arrive(block, link, number)
        return True

    def _twin(self) -> Process | None:
        """The secondary whose guest makes the same write in lock-step; None if there is none."""
        channel = self.channel
        if channel is None or channel.target is None or not self._lock_step(channel):
            return None
        mirrored = [f for f in self.live.objects.values() if f.qom_type == "filter-mirror"]
        return channel.target if all(f.on for f in mirrored) else None

    def _lock_step(self, channel: Channel) -> bool:
        peer = channel.target
        return (
            channel.entered
            and channel.up
            and channel.source is self
            and peer is not None
            and peer.live.colo_mode == "secondary"
            and self.live.colo_mode == "primary"
            and peer.runs
            and self.talks(peer)
        )

    # -- its guest's network

    @property
    def reachable(self) -> bool:
        """Whether the guest's IPv4 packets reach clients."""
        return self.reaches("ipv4")

    def reaches(self, family: Family) -> bool:
        """Whether the guest's packets of a protocol reach clients.

        A redirector that is on and takes the guest's packets holds IPv4 packets until COLO's proxy
        has compared them, and lets all others pass at once (qemu-behaviour 6.6, 17.2).

        Args:
            family: The protocol.
        """
        taken = [f for f in self.live.objects.values() if _takes_away(f)]
        if not taken:
            return True
        compares = any(f.qom_type == "colo-compare" for f in self.live.objects.values())
        return compares and (family == "ipv6" or self._twin() is not None)

    @property
    def serving(self) -> bool:
        """Whether the guest runs here and its IPv4 packets reach clients."""
        return self.runs and self.reachable


def _takes_away(item: Filter) -> bool:
    redirects = item.qom_type == "filter-redirector" and bool(item.settings.get("outdev"))
    return redirects and item.on and item.settings.get("queue") in ("rx", "all")
