"""The arbiter in etcd when members die, freeze, or are exchanged, and when strangers ask."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

import attrs
import pytest
from tests.certificates import Authority, Signed
from tests.etcd import ETCD, Member, Members, members, program
from tests.gate import gate
from tests.qemu.life import loopback
from tests.supervise.arbitration import (
    ALPHA,
    BETA,
    CLAIMED,
    LEASE_S,
    LIMIT_S,
    PAIR,
    SHARED,
    renewed,
    written,
)

from pycolo.errors import ArbiterError, ArbiterLost, DeclarationError
from pycolo.supervise import Held, SharedRecord
from pycolo.supervise.arbiters.etcd import EtcdArbiter, EtcdCluster

pytestmark = ETCD
START_S: Final = 30.0
PASSWORD: Final = "correct horse"  # noqa: S105 - of a cluster that lives as long as the tests


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Generator[Members]:
    """A cluster whose members a test may harm, if it heals them afterwards."""
    with members(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@asynccontextmanager
async def client(cluster: EtcdCluster) -> AsyncGenerator[EtcdArbiter]:
    """An arbiter that is closed in the end."""
    arbiter = EtcdArbiter(cluster)
    try:
        yield arbiter
    finally:
        await arbiter.aclose()


def own(etcd: Members, *first: Member) -> EtcdCluster:
    """The cluster, with keys for one test alone; some members are asked first."""
    rest = [member for member in etcd.all if member not in first]
    endpoints = tuple(f"http://{member.address}:2379" for member in (*first, *rest))
    return EtcdCluster(endpoints=endpoints, prefix=f"tests/{uuid.uuid4()}")


def harm(member: Member, how: str) -> None:
    """Kill a member, or freeze it."""
    if how == "kill":
        member.kill()
    else:
        member.stop()


def heal(member: Member, how: str) -> None:
    """Start it again, or let it continue."""
    if how == "kill":
        member.start()
    else:
        member.resume()


@final
class Counter:
    """An agent that counts the record's revision up, and knows which of its steps took place."""

    def __init__(self, arbiter: EtcdArbiter) -> None:
        self._arbiter = arbiter
        self.done: list[int] = []
        "The counts whose swap was acknowledged."
        self.unsure = 0
        "Swaps whose answer did not come."

    async def run(self, steps: int) -> None:
        """Take steps until so many were acknowledged."""
        while len(self.done) < steps:
            try:
                held = await self._arbiter.read(PAIR, limit_s=1.0)
            except ArbiterLost:
                continue
            assert held.shared is not None
            record = held.shared.record
            record = attrs.evolve(record, revision=record.revision + 1)
            try:
                await self._arbiter.swap(PAIR, held, SharedRecord(record=record), limit_s=1.0)
            except ArbiterLost:
                self.unsure += 1
            except ArbiterError:
                continue
            else:
                self.done.append(record.revision)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_lost_leader_loses_no_change_and_ends_no_lease_early(
    etcd: Members, how: str
) -> None:
    """While a leader dies, each change takes place once or not at all, and a lease lasts."""
    leader = etcd.leader()
    cluster = own(etcd)
    loop = asyncio.get_running_loop()
    async with client(cluster) as alpha, client(cluster) as beta:
        held = await written(alpha)
        counters = [Counter(alpha), Counter(beta)]
        await asyncio.gather(*(counter.run(10) for counter in counters))
        asked_s = loop.time()
        assert await renewed(alpha)
        harm(leader, how)
        try:
            async with asyncio.timeout(START_S):
                await asyncio.gather(*(counter.run(40) for counter in counters))
                held = await beta.read(PAIR, limit_s=LIMIT_S)
                while held.leases:
                    held = await beta.changed(PAIR, held, limit_s=LIMIT_S)
        finally:
            heal(leader, how)
    assert LEASE_S <= loop.time() - asked_s
    done = [count for counter in counters for count in counter.done]
    assert len(set(done)) == len(done) == 80
    assert held.shared is not None
    unsure = sum(counter.unsure for counter in counters)
    assert max(done) <= held.shared.record.revision <= len(done) + unsure


async def test_a_frozen_member_that_is_watched_is_found_out(etcd: Members) -> None:
    """Whoever watches at a member that freezes is told of a change soon, from elsewhere."""
    leader = etcd.leader()
    frozen = next(member for member in etcd.all if member is not leader)
    cluster = own(etcd, frozen)
    elsewhere = attrs.evolve(cluster, endpoints=(f"http://{leader.address}:2379",))
    async with client(cluster) as alpha, client(elsewhere) as beta:
        held = await written(alpha)
        waiting = asyncio.create_task(alpha.changed(PAIR, held, limit_s=LIMIT_S))
        assert held == await beta.changed(PAIR, held, limit_s=0.3)
        frozen.stop()
        try:
            told = await beta.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S)
            async with asyncio.timeout(4.0):
                assert told == await waiting
        finally:
            frozen.resume()


async def test_what_a_frozen_member_does_late_changes_nothing_that_is_newer(etcd: Members) -> None:
    """A swap that hangs is lost at its limit; when the member continues, the newer one stands."""
    leader = etcd.leader()
    frozen = next(member for member in etcd.all if member is not leader)
    cluster = own(etcd, frozen)
    elsewhere = attrs.evolve(cluster, endpoints=(f"http://{leader.address}:2379",))
    async with client(cluster) as alpha, client(elsewhere) as beta:
        held = await written(alpha)
        frozen.stop()
        try:
            began_s = time.monotonic()
            with pytest.raises(ArbiterLost, match="no answer in time"):
                await alpha.swap(PAIR, held, CLAIMED, limit_s=0.5)
            assert 0.4 < time.monotonic() - began_s < 1.0
            # It asks elsewhere from now on, and does not wait for that one again.
            assert held == await alpha.read(PAIR, limit_s=0.4)
            newer = await beta.swap(PAIR, held, SHARED, limit_s=LIMIT_S)
        finally:
            frozen.resume()
        etcd.leader()
        through = attrs.evolve(cluster, endpoints=cluster.endpoints[:1])
        async with client(through) as late:
            assert newer == await late.read(PAIR, limit_s=LIMIT_S)
        assert newer == await beta.read(PAIR, limit_s=LIMIT_S)


async def test_a_late_renewal_does_not_shorten_a_later_one(etcd: Members) -> None:
    """A renewal that arrives after the next one is void: its own lease would end earlier."""
    loop = asyncio.get_running_loop()
    cluster = own(etcd)
    async with gate(cluster.endpoints[0]) as held_up:
        through = attrs.evolve(cluster, endpoints=(held_up.url,))
        async with client(through) as slow, client(cluster) as alpha:
            held = await written(alpha)
            held_up.hold("/v3/kv/txn")
            with pytest.raises(ArbiterLost):
                await slow.renew(PAIR, "alpha", ALPHA, lease_s=LEASE_S, limit_s=1.0)
            asked_s = loop.time()
            assert await renewed(alpha)
            await held_up.release()
            held = attrs.evolve(held, leases=frozenset(["alpha"]))
            gone = await alpha.changed(PAIR, held, limit_s=LIMIT_S)
    assert frozenset() == gone.leases
    assert LEASE_S <= loop.time() - asked_s


async def test_a_late_release_does_not_end_a_later_lease(etcd: Members) -> None:
    """A release that arrives after the lease was renewed is void."""
    cluster = own(etcd)
    async with gate(cluster.endpoints[0]) as held_up:
        through = attrs.evolve(cluster, endpoints=(held_up.url,))
        async with client(through) as slow, client(cluster) as alpha:
            await written(alpha)
            assert await renewed(alpha)
            held_up.hold("/v3/kv/txn")
            with pytest.raises(ArbiterLost):
                await slow.release(PAIR, "alpha", limit_s=0.5)
            assert await renewed(alpha)
            await held_up.release()
            assert frozenset(["alpha"]) == (await alpha.read(PAIR, limit_s=LIMIT_S)).leases


async def test_without_a_majority_there_is_no_answer_within_the_limit(etcd: Members) -> None:
    """One member of three knows nothing for certain: it neither answers nor changes anything."""
    leader = etcd.leader()
    others = [member for member in etcd.all if member is not leader]
    cluster = own(etcd)
    async with client(cluster) as alpha:
        held = await written(alpha)
        for member in others:
            member.stop()
        try:
            began_s = time.monotonic()
            with pytest.raises(ArbiterLost):
                await alpha.read(PAIR, limit_s=0.7)
            with pytest.raises(ArbiterLost):
                await renewed_soon(alpha)
            with pytest.raises(ArbiterLost):
                await alpha.changed(PAIR, held, limit_s=0.7)
            assert time.monotonic() - began_s < 2.8
        finally:
            for member in others:
                member.resume()
        # The very same object continues.
        assert held == await alpha.read(PAIR, limit_s=START_S)


async def renewed_soon(arbiter: EtcdArbiter) -> bool:
    """Renew, with no time for more than one answer."""
    return await arbiter.renew(PAIR, "beta", BETA, lease_s=LEASE_S, limit_s=0.7)


# -- another cluster, or an older one


@pytest.mark.parametrize("how", ["restored", "exchanged", "copied"])
async def test_a_cluster_that_forgot_is_not_accepted(tmp_path: Path, how: str) -> None:
    """After etcd was restored from a backup or exchanged, nothing is done until a person says so.

    A permission that was given after the backup would be forgotten.
    """
    with loopback() as net:
        etcd = Members(tmp_path, net)
        again = etcd if how == "copied" else Members(tmp_path, net, "second")
        cluster = EtcdCluster(endpoints=etcd.endpoints)
        etcd.start()
        try:
            async with client(cluster) as alpha, client(cluster) as beta:
                await alpha.swap(PAIR, Held(), SHARED, limit_s=START_S)
                if how == "restored":
                    back_up(etcd, tmp_path / "snapshot")
                elif how == "copied":
                    etcd.kill()
                    for member in etcd.all:
                        shutil.copytree(member.folder, old(member))
                    etcd.start()
                newer = await written(alpha, CLAIMED)
                assert newer == await beta.read(PAIR, limit_s=START_S)
                etcd.kill()
                if how == "restored":
                    restore(again, tmp_path / "snapshot")
                elif how == "copied":
                    for member in etcd.all:
                        shutil.rmtree(member.folder)
                        old(member).rename(member.folder)
                again.start()
                why = "it was restored from a backup, or exchanged"
                with pytest.raises(ArbiterLost, match=why):
                    await alpha.read(PAIR, limit_s=START_S)
                with pytest.raises(ArbiterLost, match=why):
                    await beta.swap(PAIR, newer, SHARED, limit_s=START_S)
                # Also where it has caught up since.
                async with client(cluster) as anew:
                    for _ in range(5):
                        await written(anew)
                    for arbiter in (alpha, beta):
                        with pytest.raises(ArbiterLost, match=why):
                            await arbiter.read(PAIR, limit_s=LIMIT_S)
        finally:
            etcd.kill()
            again.kill()


def old(member: Member) -> Path:
    """Where a copy of a member's folder lies."""
    return member.folder.with_suffix(".old")


def back_up(etcd: Members, snapshot: Path) -> None:
    """Save what a cluster holds, as operators do."""
    command = ["--endpoints", etcd.endpoints[0], "snapshot", "save", str(snapshot)]
    subprocess.run([*program("etcdctl"), *command], check=True, capture_output=True)


def restore(etcd: Members, snapshot: Path) -> None:
    """Give a cluster that has not been started what was saved."""
    for member in etcd.all:
        command = [
            *("snapshot", "restore", str(snapshot), "--data-dir", str(member.folder)),
            *("--name", member.name, "--initial-cluster", etcd.peers),
            *("--initial-advertise-peer-urls", f"http://{member.address}:2380"),
            *("--initial-cluster-token", etcd.label),
        ]
        subprocess.run([*program("etcdutl"), *command], check=True, capture_output=True)


# -- who asks, and who answers


@final
@attrs.frozen(kw_only=True)
class Guarded:
    """A cluster that asks its clients for certificates and passwords."""

    etcd: Members
    authority: Authority
    folder: Path
    agent: Signed

    @property
    def cluster(self) -> EtcdCluster:
        """How an agent is told of it."""
        return EtcdCluster(
            endpoints=self.etcd.endpoints,
            ca=self.authority.cert,
            cert=self.agent.cert,
            key=self.agent.key,
            user="pycolo",
            password_file=self.folder / "password",
        )

    def control(self, *arguments: str) -> None:
        """Run etcdctl."""
        options = [
            *("--endpoints", ",".join(self.etcd.endpoints), "--cacert", str(self.authority.cert)),
            *("--cert", str(self.agent.cert), "--key", str(self.agent.key)),
        ]
        command = [*program("etcdctl"), *options, *arguments]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Generator[Guarded]:
    """Such a cluster, with a user who may change what begins with `pycolo/`."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder, "authority")
    with loopback() as net:
        # Members reach each other from 127.0.0.1, which they check.
        addresses = [net.address(number) for number in (1, 2, 3)]
        server = authority.sign("member", "127.0.0.1", *addresses)
        files = ("--cert-file", server.cert, "--key-file", server.key)
        trusted = ("--trusted-ca-file", authority.cert, "--client-cert-auth")
        quick = ("--bcrypt-cost", "4")
        to_peers = (part.replace("--", "--peer-") for part in map(str, (*files, *trusted)))
        etcd = Members(folder, net, tls=[*map(str, (*files, *trusted)), *to_peers, *quick])
        found = Guarded(
            etcd=etcd, authority=authority, folder=folder, agent=authority.sign("agent")
        )
        (folder / "password").write_text(f"{PASSWORD}\n")
        etcd.start()
        try:
            asyncio.run(_opened(attrs.evolve(found.cluster, user=None, password_file=None)))
            found.control("user", "add", "root:another")
            found.control("user", "grant-role", "root", "root")
            found.control("user", "add", f"pycolo:{PASSWORD}")
            found.control("role", "add", "pycolo")
            found.control(
                *("role", "grant-permission", "pycolo", "--prefix=true", "readwrite", "pycolo/")
            )
            found.control("user", "grant-role", "pycolo", "pycolo")
            found.control("auth", "enable")
            yield found
        finally:
            etcd.kill()


async def _opened(cluster: EtcdCluster) -> None:
    async with client(cluster) as arbiter:
        await arbiter.read(PAIR, limit_s=START_S)


async def test_the_contract_holds_over_tls_with_a_password(guarded: Guarded) -> None:
    """With certificates on both sides and a password, everything is as without."""
    async with client(guarded.cluster) as alpha, client(guarded.cluster) as beta:
        held = await written(alpha)
        waiting = asyncio.create_task(beta.changed(PAIR, held, limit_s=LIMIT_S))
        assert await renewed(alpha)
        assert attrs.evolve(held, leases=frozenset(["alpha"])) == await waiting
        await alpha.release(PAIR, "alpha", limit_s=LIMIT_S)
        assert held == await beta.read(PAIR, limit_s=LIMIT_S)


async def test_a_token_that_has_become_stale_is_replaced(guarded: Guarded) -> None:
    """A cluster forgets who has logged in when users change, or a member restarts: log in again."""
    async with client(guarded.cluster) as alpha:
        held = await written(alpha)
        guarded.control("--user", "root:another", "user", "add", f"u{uuid.uuid4()}:x")
        held = await alpha.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S)
        guarded.etcd.kill()
        guarded.etcd.start()
        assert held == await alpha.read(PAIR, limit_s=START_S)


async def test_who_is_not_allowed_in_is_told_why(guarded: Guarded) -> None:
    """Wrong files and passwords are no answer; the message says what is wrong, and no secret."""
    stranger = Authority(guarded.folder, "stranger")
    unknown = stranger.sign("unknown")
    named = guarded.authority.sign("named", common_name="agent")
    (guarded.folder / "wrong").write_text("battery staple")
    refused = [
        (attrs.evolve(guarded.cluster, ca=stranger.cert), "certificate verify failed"),
        (attrs.evolve(guarded.cluster, ca=None), "certificate verify failed"),
        (
            attrs.evolve(guarded.cluster, cert=None, key=None),
            "(?i)certificate.required|bad.certificate",
        ),
        (
            attrs.evolve(guarded.cluster, cert=unknown.cert, key=unknown.key),
            "(?i)unknown.ca|bad.certificate",
        ),
        (attrs.evolve(guarded.cluster, cert=named.cert, key=named.key), "CommonName of client"),
        (
            attrs.evolve(guarded.cluster, password_file=guarded.folder / "wrong"),
            "invalid user ID or password",
        ),
        (
            attrs.evolve(guarded.cluster, password_file=guarded.folder / "none"),
            "password file .*none: .*No such",
        ),
        (attrs.evolve(guarded.cluster, user=None, password_file=None), "user name is empty"),
        (attrs.evolve(guarded.cluster, prefix="other"), "permission denied"),
    ]
    told = await asyncio.gather(*(_why(cluster) for cluster, _ in refused))
    for message, (_, why) in zip(told, refused, strict=True):
        assert re.search(why, message), message
        assert "battery staple" not in message


async def _why(cluster: EtcdCluster) -> str:
    """Why there is no answer."""
    async with client(cluster) as arbiter:
        with pytest.raises(ArbiterLost) as caught:
            await arbiter.read(PAIR, limit_s=3.0)
    return str(caught.value)


def test_files_that_are_not_there_are_refused_at_once(guarded: Guarded) -> None:
    """What TLS needs is read when the arbiter is made, and the error names the file."""
    missing = guarded.folder / "missing.pem"
    with pytest.raises(DeclarationError, match=r"EtcdCluster\.ca must be a file of .*missing\.pem"):
        EtcdArbiter(attrs.evolve(guarded.cluster, ca=missing))
    with pytest.raises(DeclarationError, match=r"EtcdCluster\.cert must be .*missing\.pem"):
        EtcdArbiter(attrs.evolve(guarded.cluster, key=missing))
    with pytest.raises(DeclarationError, match=r"EtcdCluster\.ca must be a file of certificates"):
        EtcdArbiter(attrs.evolve(guarded.cluster, ca=guarded.agent.key))
