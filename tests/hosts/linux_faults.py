"""Faults that strike a protected Linux guest, each as it is told and undone."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, assert_never

from tests.hosts.linux_life import LIMIT_S, Fault, LinuxLife, Moment, want_of_agents
from tests.hosts.supervised import NAMES, Fence
from tests.persons import CLAIM_WAITS, WAITS

Strike: TypeAlias = Callable[[LinuxLife], Awaitable[None]]
Role: TypeAlias = Literal["primary", "secondary"]
When: TypeAlias = Literal[
    "joining",
    "alone",
    "following",
    "serving",
    "waiting",
    "suspect",
    "claim",
    "claim, the other one",
    "claim, both",
]
"A phase of the agent that is hit; in a claim it may be that of the other node, or both."
_WHOSE: Final[Mapping[When, str]] = MappingProxyType(
    {
        "joining": "the agent that acts, joining",
        "alone": "the agent that acts, alone",
        "following": "the other agent, following",
        "serving": "the agent that acts, serving",
        "waiting": "the other agent, waiting",
        "suspect": "the agent that acts, suspect",
        "claim": "the agent that acts, claim",
        "claim, the other one": "the other agent, claim",
        "claim, both": "both agents, claim",
    }
)
KILL, STOP, CONTINUE = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
# Longer than each limit by which a silent one is suspected, and than a fuse.
AWAY_S = 6.0
ASKED, OFF, LIES = "/tmp/asked", "/tmp/off", "/tmp/lies"
FENCES: Final = (
    Fence(("sh", "-c", f"test -e {LIES} || sleep 60"), limit_s=0.5),
    Fence(("sh", "-c", f"touch {ASKED}; until test -e {OFF}; do sleep 0.1; done")),
)
"""The first one hangs, or else says that it has ended what runs on. The second one asks for the
host to be switched off, and waits for that."""


def qemu(number: signal.Signals, role: Role) -> Strike:
    """A QEMU is killed or stopped; one that was stopped is continued when the other one serves."""

    async def strike(life: LinuxLife) -> None:
        victim = _who(life, role)
        pid = life.kept.qemu(victim)
        async with life.fault(f"{number.name} to the {role}'s QEMU") as struck:
            struck.at_s = life.kept.hit(victim, number)
            await life.fails_over(struck)
            if number == STOP:
                life.continued(struck, victim, pid)

    return strike


async def stopped_until_claimed(life: LinuxLife) -> None:
    """The primary's QEMU is stopped, and runs again as soon as the other node claims the pair."""
    victim = life.primary
    pid = life.kept.qemu(victim)
    async with life.fault("SIGSTOP to the primary's QEMU, SIGCONT at the claim") as struck:
        struck.at_s = life.kept.hit(victim, STOP)
        await life.kept.until("claims the pair from", since=struck.since, limit_s=LIMIT_S)
        life.continued(struck, victim, pid)
        await life.fails_over(struck)


def inside(number: signal.Signals, role: Role, moment: Moment) -> Strike:
    """A QEMU is killed or stopped while a checkpoint is being taken."""

    async def strike(life: LinuxLife) -> None:
        victim = _who(life, role)
        pid = life.kept.qemu(victim)
        async with life.fault(f"{number.name} to the {role}'s QEMU in a checkpoint") as struck:
            await life.hit_inside(struck, victim, number, moment)
            await life.fails_over(struck)
            if number == STOP:
                life.continued(struck, victim, pid)

    return strike


def early(number: signal.Signals, role: Role) -> Strike:
    """A QEMU is killed or stopped as soon as the guest is protected, before its entry is over."""

    async def strike(life: LinuxLife) -> None:
        async with life.fault(f"{number.name} to the {role}'s QEMU at the entry") as struck:
            life.kept.hit(life.secondary, KILL)
            await life.fails_over(struck)
            struck.since = await life.kept.protected(struck.since, LIMIT_S)
            said_s = life.kept.told[struck.since - 1].at_s
            struck.primary = life.primary
            struck.at_s = life.kept.hit(_who(life, role), number)
            struck.notes.append(f"{struck.at_s - said_s:.1f} s after the entry")
            await life.fails_over(struck)

    return strike


async def hosts_apart(life: LinuxLife) -> None:
    """The cable between the hosts is cut until the QEMU of one of them has ended."""
    async with life.fault("cable between the hosts is cut") as struck:
        cut = life.primary
        life.hosts.cut("repl", cut)
        await life.fails_over(struck)
        await life.kept.ended(life.secondary, LIMIT_S)
        life.hosts.heal("repl", cut)
        struck.notes.append(f"mended after {time.monotonic() - struck.at_s:.1f} s")


def away(role: Role) -> Strike:
    """The cable of a host to the arbiter, or to the supervisor, is cut for a while."""

    async def strike(life: LinuxLife) -> None:
        name = _who(life, role)
        other = "the supervisor" if life.etcd is None else "etcd"
        async with life.fault(f"cable of the {role}'s host to {other} is cut"):
            life.hosts.cut("mgmt", name)
            await life.written()
            await life.passed(AWAY_S)
            life.hosts.heal("mgmt", name)
            await life.written()

    return strike


def leader(number: signal.Signals) -> Strike:
    """The member of etcd that leads is killed or stopped for a while."""

    async def strike(life: LinuxLife) -> None:
        assert life.etcd is not None
        member = life.etcd.leader()
        async with life.fault(f"{number.name} to the leader of etcd"):
            if number == KILL:
                member.kill()
            else:
                member.stop()
            await life.written()
            await life.passed(AWAY_S)
            if number == KILL:
                member.start()
            else:
                member.resume()

    return strike


def agent(number: signal.Signals, role: Role) -> Strike:
    """The agent of a protected node is killed or stopped, and comes back later."""

    async def strike(life: LinuxLife) -> None:
        name = _who(life, role)
        async with life.fault(f"{number.name} to the {role}'s agent, protected") as struck:
            struck.at_s = await _hit_agent(life, name, number)
            if role == "primary":
                await life.fails_over(struck)
            else:
                await life.written()
                await life.passed(AWAY_S)
            await _return_agent(life, name, number)

    return strike


def agent_while(number: signal.Signals, when: When) -> Strike:
    """An agent is killed or stopped in a phase that a fault of a QEMU leads to."""

    async def strike(life: LinuxLife) -> None:
        async with life.fault(f"{number.name} to {_WHOSE[when]}") as struck:
            names = await _phase(life, struck, when)
            for name in names:
                await _hit_agent(life, name, number)
            struck.notes.append(f"{time.monotonic() - struck.at_s:.1f} s after the QEMU")
            if number == STOP:
                await life.passed(AWAY_S)
            for name in names:
                await _return_agent(life, name, number)
            if not struck.is_failover:
                await life.fails_over(struck)

    return strike


async def _phase(life: LinuxLife, struck: Fault, when: When) -> tuple[str, ...]:
    """Lead to a phase by a fault of a QEMU; gives whose agents are to be hit in it."""
    until = functools.partial(life.kept.until, since=struck.since, limit_s=LIMIT_S)
    primary, secondary = life.primary, life.secondary
    match when:
        case "joining":
            struck.at_s = life.kept.hit(secondary, KILL)
            await life.fails_over(struck)
            await until("launch is done", since=await until("failover is done"))
            return (life.primary,)
        case "alone" | "following":
            struck.at_s = life.kept.hit(primary, KILL)
            await life.fails_over(struck)
            return (life.primary if when == "alone" else life.secondary,)
        case "serving":
            struck.at_s = life.kept.hit(primary, KILL)
            await life.serves(struck)
            struck.is_failover = False
            return (life.primary,)
        case "waiting":
            struck.at_s = life.kept.hit(primary, KILL)
            await until("waiting: its QEMU does not run", node=primary)
            return (primary,)
        case "suspect":
            struck.at_s = life.kept.hit(primary, STOP)
            await until("suspect", node=secondary)
        case "claim" | "claim, the other one" | "claim, both":
            struck.at_s = life.kept.hit(primary, STOP)
            count = await until("claims the pair from")
            acts = life.kept.told[count - 1].teller
            others = tuple(name for name in NAMES if name != acts)
            struck.may_ask = (WAITS, CLAIM_WAITS)
            hit = {"claim": (acts,), "claim, the other one": others, "claim, both": NAMES}
            return hit[when]
        case _:
            assert_never(when)
    # Until that agent is back, the other one waits for what it does.
    struck.may_ask = (WAITS, CLAIM_WAITS)
    return (secondary,)


def agents_while_stopped(number: signal.Signals) -> Strike:
    """Both agents are killed or stopped while no guest is wanted; then one is wanted again."""

    async def strike(life: LinuxLife) -> None:
        async with life.fault(f"{number.name} to both agents, stopped") as struck:
            want_of_agents(life.hosts, "stopped")
            for name in NAMES:
                await life.kept.until("stopped", since=struck.since, node=name, limit_s=LIMIT_S)
                await life.kept.ended(name, LIMIT_S)
            for name in NAMES:
                await _hit_agent(life, name, number)
            if number == STOP:
                await life.passed(AWAY_S)
            struck.since = len(life.kept.told)
            for name in NAMES:
                await _return_agent(life, name, number)
            want_of_agents(life.hosts, "protected")
            await life.boots(struck)

    return strike


async def leader_in_a_failover(life: LinuxLife) -> None:
    """The member of etcd that leads is killed as soon as a node claims the pair."""
    assert life.etcd is not None
    member = life.etcd.leader()
    async with life.fault("SIGKILL to the leader of etcd, claim") as struck:
        struck.at_s = life.kept.hit(life.primary, STOP)
        await life.kept.until("claims the pair from", since=struck.since, limit_s=LIMIT_S)
        member.kill()
        struck.notes.append(f"{time.monotonic() - struck.at_s:.1f} s after the QEMU")
        await life.fails_over(struck)
        member.start()


def member_cut(role: Literal["leads", "follows"]) -> Strike:
    """The cable of one member of etcd is cut for a while."""

    async def strike(life: LinuxLife) -> None:
        assert life.etcd is not None
        leads = life.etcd.leader()
        follows = next(member for member in life.etcd.all if member is not leads)
        cut = leads if role == "leads" else follows
        async with life.fault(f"cable of a member of etcd that {role} is cut"):
            life.hosts.cut("mgmt", cut.name)
            await life.written()
            await life.passed(AWAY_S)
            life.hosts.heal("mgmt", cut.name)

    return strike


def host_apart(role: Role, *, with_member: bool) -> Strike:
    """A host loses two members of etcd; the third one is left to it, and may lose them as well."""
    which = "with" if with_member else "from all but"

    async def strike(life: LinuxLife) -> None:
        async with life.fault(f"{role}'s host is cut off {which} one member of etcd"):
            parts = _minority(life, _who(life, role), with_member=with_member)
            for one, other in parts:
                life.hosts.part(one, other)
            await life.written()
            await life.passed(AWAY_S)
            for one, other in parts:
                life.hosts.unite(one, other)
            await life.written()

    return strike


def split(role: Role) -> Strike:
    """A host keeps one member of etcd, and loses everything else but its guest's network."""

    async def strike(life: LinuxLife) -> None:
        name = _who(life, role)
        async with life.fault(f"{role}'s host and one member of etcd are cut off") as struck:
            struck.may_ask = (WAITS, CLAIM_WAITS)
            parts = (*_minority(life, name, with_member=True), (NAMES[0], NAMES[1]))
            for one, other in parts:
                life.hosts.part(one, other)
            life.hosts.cut("repl", name)
            await life.fails_over(struck)
            await life.written()
            await life.passed(AWAY_S)
            life.hosts.heal("repl", name)
            for one, other in parts:
                life.hosts.unite(one, other)

    return strike


def _minority(life: LinuxLife, host: str, *, with_member: bool) -> tuple[tuple[str, str], ...]:
    """What a host loses so that one member is left to it, which leads where it loses them too."""
    assert life.etcd is not None
    left = life.etcd.leader().name
    others = tuple(member.name for member in life.etcd.all if member.name != left)
    parts = tuple((host, name) for name in others)
    if not with_member:
        return parts
    rest = next(name for name in NAMES if name != host)
    return (*parts, *((left, name) for name in (*others, rest)))


def host_fenced(role: Role) -> Strike:
    """A host cannot be asked: its first fence hangs, and the second one switches it off."""

    async def strike(life: LinuxLife) -> None:
        lost = _who(life, role)
        rest = next(name for name in NAMES if name != lost)
        async with life.fault(f"{role}'s host is cut off, and fenced") as struck:
            life.cut_off(lost)
            await life.shows(rest, ASKED)
            struck.notes.append(f"fenced after {time.monotonic() - struck.at_s:.1f} s")
            await life.lose_power(lost)
            life.touch(rest, OFF)
            count = await life.serves(struck)
            struck.notes.append(life.kept.told[count - 1].text)
            await life.fails_over(struck)
            life.mend(lost)
            await life.boot(lost)
        life.remove(rest, ASKED, OFF)

    return strike


async def fence_lies(life: LinuxLife) -> None:
    """The primary's host cannot be asked, and its fence says that it has ended what runs on."""
    lost, rest = life.primary, life.secondary
    fenced = life.kept.qemu(lost)
    life.touch(rest, LIES)
    async with life.fault("primary's host is cut off, and its fence lies") as struck:
        struck.may_stray = True
        # Nothing says to the agent that is cut off that it has been fenced.
        struck.may_ask = (WAITS,)
        life.cut_off(lost)
        await life.fails_over(struck)
        await life.written()
        assert fenced == life.kept.qemu(lost)
        life.mend(lost)
        at_s = time.monotonic()
        await life.until(lambda: life.kept.qemu(lost) != fenced, "it is ended")
        struck.notes.append(f"ended {time.monotonic() - at_s:.1f} s after it was reached")
    life.remove(rest, LIES)


async def both_reboot(life: LinuxLife) -> None:
    """Both hosts lose their power at once, and boot."""
    async with life.fault("both hosts lose their power, and boot") as struck:
        struck.may_ask = (WAITS, CLAIM_WAITS)
        for name in NAMES:
            await life.lose_power(name)
        struck.since = len(life.kept.told)
        for name in NAMES:
            await life.boot(name)
        await life.boots(struck)


async def fuse_stopped(life: LinuxLife) -> None:
    """The fuse of a primary is stopped past its deadline, and nothing else fails."""
    name = life.primary
    async with life.fault("SIGSTOP to the primary's fuse"):
        life.fuses[name].send(STOP)
        await life.passed(AWAY_S)
        life.fuses[name].send(CONTINUE)
        await life.passed(AWAY_S)


async def supervisor_in_a_failover(life: LinuxLife) -> None:
    """The supervisor is killed while the other node is promoted, and the next one begins."""
    async with life.fault("SIGKILL to the supervisor, in a failover") as struck:
        struck.at_s = life.kept.hit(life.primary, KILL)
        await life.serves(struck)
        await life.kept.kill()
        await life.kept.begin()
        await life.kept.until("failover is done", since=struck.since, limit_s=LIMIT_S)


async def supervisor_in_a_resync(life: LinuxLife) -> None:
    """The supervisor is killed while a new secondary joins, and the next one begins."""
    async with life.fault("SIGKILL to the supervisor, in a resync") as struck:
        struck.at_s = life.kept.hit(life.primary, KILL)
        await life.fails_over(struck)
        count = await life.kept.until("failover is done", since=struck.since)
        struck.since = await life.kept.until("launch is done", since=count, limit_s=LIMIT_S)
        await life.kept.kill()
        await life.kept.begin()


async def two_supervisors(life: LinuxLife) -> None:
    """A second supervisor is started beside one that is stopped: it is refused."""
    async with life.fault("second supervisor, the first one stopped"):
        life.kept.send(STOP)
        second = await life.kept.start()
        _, why = await second.process.communicate()
        assert b"another supervisor of shop runs" in why
        await life.written()
        await life.passed(AWAY_S)
        life.kept.send(CONTINUE)
        await life.written()


def _who(life: LinuxLife, role: Role) -> str:
    return life.primary if role == "primary" else life.secondary


async def _hit_agent(life: LinuxLife, name: str, number: signal.Signals) -> float:
    if number == KILL:
        await life.kept.kill(name)
    else:
        life.kept.send(number, name)
    return time.monotonic()


async def _return_agent(life: LinuxLife, name: str, number: signal.Signals) -> None:
    if number == KILL:
        await life.kept.begin(name)
    else:
        life.kept.send(CONTINUE, name)
