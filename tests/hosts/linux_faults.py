"""Faults that strike a protected Linux guest, each as it is told and undone."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from tests.hosts.linux_life import LIMIT_S, LinuxLife
from tests.persons import CLAIM_WAITS, WAITS

Strike: TypeAlias = Callable[[LinuxLife], Awaitable[None]]
Role: TypeAlias = Literal["primary", "secondary"]
KILL, STOP, CONTINUE = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
# Longer than each limit by which a silent one is suspected, and than a fuse.
AWAY_S = 6.0


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
        await life.kept.until("claims the pair", since=struck.since, limit_s=LIMIT_S)
        life.continued(struck, victim, pid)
        await life.fails_over(struck)


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


def agent_while(number: signal.Signals, phase: Literal["joining", "claim", "alone"]) -> Strike:
    """The agent that acts is killed or stopped in a phase that a fault of a QEMU leads to."""

    async def strike(life: LinuxLife) -> None:
        until = functools.partial(life.kept.until, limit_s=LIMIT_S)
        async with life.fault(f"{number.name} to the agent that acts, {phase}") as struck:
            match phase:
                case "joining":
                    struck.at_s = life.kept.hit(life.secondary, KILL)
                    await life.fails_over(struck)
                    count = await until("failover is done", since=struck.since)
                    await until("launch is done", since=count)
                    name = life.primary
                case "alone":
                    struck.at_s = life.kept.hit(life.primary, KILL)
                    await life.fails_over(struck)
                    name = life.primary
                case "claim":
                    struck.at_s = life.kept.hit(life.primary, STOP)
                    count = await until("claims the pair", since=struck.since)
                    name = life.kept.told[count - 1].teller
                    # Until that agent is back, the other one waits for what its claim leads to.
                    struck.may_ask = (WAITS, CLAIM_WAITS)
            await _hit_agent(life, name, number)
            struck.notes.append(f"{time.monotonic() - struck.at_s:.1f} s after the QEMU")
            if number == STOP:
                await life.passed(AWAY_S)
            await _return_agent(life, name, number)
            if phase == "claim":
                await life.fails_over(struck)

    return strike


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
