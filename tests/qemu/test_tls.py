"""Lives over connections with TLS, and what becomes of a start whose credentials are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import subprocess
import textwrap
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

import attrs
import pytest
from tests.certificates import A_DAY, Authority
from tests.qemu.life import (
    LIMIT_S,
    NEEDS_KVM,
    LivePair,
    accelerator_of,
    bios_life,
    loopback,
    off_plan,
    until,
)
from tests.qemu.test_life import DEATHS, outlive
from tests.real_qemu import bare_qemu

from pycolo import topology
from pycolo._execute import execute
from pycolo.demo.builds import Release
from pycolo.errors import CommandRefused
from pycolo.model import X509, ChainPorts, ColoPair, Node, Ports, Psk
from pycolo.pairfile import loads
from pycolo.plan import Plan
from pycolo.qmp import commands as qmp
from pycolo.qmp.chardevs import (
    InetSocketAddress,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
)
from pycolo.qmp.replies import Version
from pycolo.result import Report
from pycolo.session import Session

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = (ROOT / "examples" / "pair.toml").read_text(encoding="utf-8")
pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

Wire = Literal["chardevs", "nbd", "migration"]
SILENT = "an end that refuses the other's credentials does not say so"


def x509(pair: ColoPair) -> ColoPair:
    """Certificates for every node, of one authority."""
    issue(pair.all_nodes, "first")
    return with_tls(pair, X509(folder="/", authz=tuple(f"O=pycolo,CN={n}" for n in pair.names)))


def psk(pair: ColoPair) -> ColoPair:
    """One key for all nodes."""
    key = secrets.token_hex(32)
    for node in pair.all_nodes:
        shared_key(Path(node.image_folder) / "tls", key, "colo")
    return with_tls(pair, Psk(folder="/", username="colo"))


def with_tls(pair: ColoPair, tls: X509 | Psk) -> ColoPair:
    """The pair with a folder of its own for each node."""
    folders = {node.name: f"{node.image_folder}/tls" for node in pair.all_nodes}
    return attrs.evolve(pair, tls=attrs.evolve(tls, folders=folders))


def issue(
    nodes: Iterable[Node], name: str, *, address: str | None = None, valid: timedelta = A_DAY
) -> None:
    """Give nodes certificates of a new authority, for their own address unless for another."""
    nodes = tuple(nodes)
    authority = new_authority(Path(nodes[0].image_folder), name)
    for node in nodes:
        folder = Path(node.image_folder) / "tls"
        files(authority, folder, address or node.address, node.name, valid=valid)


def new_authority(folder: Path, name: str) -> Authority:
    """An authority with a folder of its own."""
    (folder / name).mkdir()
    return Authority(folder / name, name)


def files(
    authority: Authority, folder: Path, address: str, name: str, *, valid: timedelta = A_DAY
) -> None:
    """Write the five files of a node, over those that are there."""
    folder.mkdir(exist_ok=True)
    signed = authority.sign(name, address, common_name=name, valid=valid)
    shutil.copy(authority.cert, folder / "ca-cert.pem")
    for end in ("server", "client"):
        shutil.copy(signed.cert, folder / f"{end}-cert.pem")
        shutil.copy(signed.key, folder / f"{end}-key.pem")


def shared_key(folder: Path, key: str, username: str = "qemu") -> None:
    """Write a node's shared key."""
    folder.mkdir(exist_ok=True)
    (folder / "keys.psk").write_text(f"{username}:{key}\n", encoding="ascii")


SHAPES: dict[str, Callable[[ColoPair], ColoPair]] = {"x509": x509, "psk": psk}
LIVES = (
    ("11.1", "x509"),
    pytest.param("7.2", "psk", marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("10.0", "psk", marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("7.2", "x509", marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("10.0", "x509", marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("11.1", "psk", marks=[pytest.mark.nightly]),
)


@pytest.mark.heavy
@pytest.mark.parametrize(("release", "kind"), LIVES)
async def test_a_life_over_tls_outlives_two_of_its_hosts(release: Release, kind: str) -> None:
    """Start, a failover each way, each resumed on a new node, over encrypted connections."""
    async with bios_life(release, accelerator_of(release), shape=SHAPES[kind]) as life:
        await life.launch("alpha", "beta")
        plan = await life.run("start")
        assert {} == off_plan(plan.planned_state, await life.probe())
        primary = await outlive(life, "alpha", "beta", DEATHS[:2])
        # It was a secondary, and is the end that connects now.
        assert "tls-client" == (await life.live(primary)).migration_tls["tls-creds"]


def ipv6(pair: ColoPair) -> ColoPair:
    """Every node at the one address that each host has, with ports that this test alone takes."""
    block = int(pair.nodes[0].address.split(".")[2])
    first = 20000 + 10 * block
    nodes = [attrs.evolve(node, address="::1", listen_address="::1") for node in pair.all_nodes]
    chains = [
        attrs.evolve(
            chain,
            ports=ChainPorts(
                mirror=first, compare_in=first + 1, compare_local=first + 2, compare_out=first + 3
            ),
        )
        for chain in pair.chains
    ]
    ports = Ports(migration=first + 4, nbd=first + 5)
    return attrs.evolve(pair, nodes=nodes[:2], spares=nodes[2:], chains=chains, ports=ports)


@pytest.mark.heavy
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["plain", "x509"])
@pytest.mark.parametrize("release", ["11.1", pytest.param("7.2", marks=NEEDS_KVM)])
async def test_a_life_at_ipv6_addresses(release: Release, kind: str) -> None:
    """The same life over IPv6; a certificate holds the address without brackets."""

    def shape(pair: ColoPair) -> ColoPair:
        return x509(ipv6(pair)) if kind == "x509" else ipv6(pair)

    async with bios_life(release, accelerator_of(release), shape=shape) as life:
        await life.launch("alpha", "beta")
        plan = await life.run("start")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await outlive(life, "alpha", "beta", DEATHS[:2])


@pytest.mark.parametrize(
    "release",
    [
        "11.1",
        pytest.param("7.2", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("10.0", marks=[NEEDS_KVM, pytest.mark.nightly]),
    ],
)
async def test_renewed_credentials_serve_the_next_entry(release: Release) -> None:
    """A primary reads its files again before a new secondary connects: here, of a new authority."""
    async with bios_life(release, accelerator_of(release), shape=x509) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("beta")
        await life.run("failover", survivor="alpha")
        issue(life.pair.all_nodes, "second")
        await life.replace("beta", "gamma")
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())


# -- credentials that are wrong --------------------------------------------------------------------


def other_authority(pair: ColoPair) -> ColoPair:
    """One node's certificates are of an authority that the other does not know."""
    issue(pair.nodes[1:], "other")
    return pair


def other_address(pair: ColoPair) -> ColoPair:
    """The certificates are for addresses that nobody dials."""
    issue(pair.nodes, "other", address="192.0.2.1")
    return pair


def not_admitted(pair: ColoPair) -> ColoPair:
    """Only a third node is admitted."""
    assert isinstance(pair.tls, X509)
    return attrs.evolve(pair, tls=attrs.evolve(pair.tls, authz=("O=pycolo,CN=zeta",)))


def over(wire: Wire, pair: ColoPair) -> ColoPair:
    """The pair in the shape in which a fault shows on this wire first."""
    limits = attrs.evolve(pair.timeouts, connect_s=2.0)
    pair = attrs.evolve(pair, spares=())
    chains = pair.chains if wire == "chardevs" else ()
    disks = () if wire == "migration" else pair.disks
    return attrs.evolve(pair, chains=chains, disks=disks, timeouts=limits)


FAULTS = {"authority": other_authority, "address": other_address, "authz": not_admitted}
# A fault, where it shows, and what is said of it: at night on every release.
TOLD: tuple[tuple[str, Wire, str], ...] = (
    ("authority", "chardevs", SILENT),
    ("authority", "nbd", "certificate-of-another-authority"),
    ("authority", "migration", "certificate-of-another-authority"),
    ("address", "chardevs", SILENT),
    ("address", "nbd", "certificate-of-another-host"),
    # It ends the secondary as well (qemu-behaviour 10.7), which may be seen first.
    ("address", "migration", "certificate-of-another-host|there is no connection to beta"),
    ("authz", "chardevs", SILENT),
    ("authz", "nbd", "client-not-admitted"),
    ("authz", "migration", "alpha's migration is failed"),
)
NOW = {
    *(("authority", "chardevs"), ("authz", "chardevs")),
    *(("address", "nbd"), ("address", "migration")),
}
CASES = [
    pytest.param(
        release,
        *case,
        marks=[] if release == "11.1" and case[:2] in NOW else [pytest.mark.nightly],
    )
    for release in ("11.1", "10.0", "7.2")
    for case in TOLD
]


@pytest.mark.parametrize(("release", "fault", "wire", "told"), CASES)
async def test_wrong_credentials_leave_the_guest_alone(
    release: Release, fault: str, wire: Wire, told: str
) -> None:
    """The start fails within its limit and says why; the guest runs on, unprotected."""

    def shape(pair: ColoPair) -> ColoPair:
        return FAULTS[fault](x509(over(wire, pair)))

    accelerator = accelerator_of(release) if wire == "chardevs" else "tcg"
    async with bios_life(release, accelerator, shape=shape) as life:
        report = await started(life)
        assert any(words in report.advice for words in told.split("|")), report.advice
        await runs_alone(life)


@pytest.mark.parametrize("release", ["11.1", pytest.param("7.2", marks=pytest.mark.nightly)])
async def test_a_peer_without_encryption_is_refused(release: Release) -> None:
    """Somebody started the secondary's NBD server without TLS: nothing is copied there."""

    def shape(pair: ColoPair) -> ColoPair:
        return x509(over("nbd", pair))

    async with bios_life(release, "tcg", shape=shape) as life:
        await life.launch("alpha", "beta")
        address = life.pair.node("beta").address
        place = InetSocketAddress(host=address, port=life.pair.ports.nbd)
        await life.sessions["beta"].execute(qmp.NbdServerStart(addr=place), limit_s=LIMIT_S)
        report = await tried(life)
        assert "peer-without-encryption" in report.advice
        await runs_alone(life)


async def test_a_secondary_without_encryption_does_not_connect() -> None:
    """It was launched from a pair file without TLS; its sockets believe that they are connected."""

    def shape(pair: ColoPair) -> ColoPair:
        return x509(over("chardevs", pair))

    async with bios_life("11.1", "tcg", shape=shape) as life:
        await life.launch("alpha")
        declared = life.pair
        life.pair = attrs.evolve(declared, tls=None)
        await life.launch("beta")
        life.pair = declared
        report = await tried(life)
        assert SILENT in report.advice
        assert [True, True] == list((await life.live("beta")).chardevs.values())
        await runs_alone(life)


async def test_a_missing_file_is_named_by_launch() -> None:
    """No QEMU is started without all files, although QEMU would miss some only when it connects."""
    async with bios_life("11.1", "tcg", shape=x509) as life:
        missing = Path(life.pair.node("alpha").image_folder) / "tls" / "client-cert.pem"
        missing.unlink()
        report = await execute(await life.compile_launch("alpha"), {}, life.hosts)
        assert f"{missing}, a file for TLS, cannot be read: No such file" in report.advice
        assert life.host.watch(life.pair, "alpha") is None


@pytest.mark.parametrize("release", ["11.1", pytest.param("7.2", marks=pytest.mark.nightly)])
async def test_an_expired_certificate_is_named_by_launch(release: Release) -> None:
    """QEMU looks at its own certificate when it reads it."""
    async with bios_life(release, "tcg", shape=x509) as life:
        issue(life.pair.nodes[:1], "expired", valid=timedelta(days=-1))
        report = await execute(await life.compile_launch("alpha"), {}, life.hosts)
        assert "server-cert.pem has expired" in report.advice


@pytest.mark.nightly
@pytest.mark.parametrize("release", ["11.1", "7.2"])
async def test_a_certificate_that_has_expired_is_seen_before_anything_connects(
    release: Release,
) -> None:
    """One that was read in time is read again at a start, and refused by the node that has it."""

    def shape(pair: ColoPair) -> ColoPair:
        return x509(over("nbd", pair))

    async with bios_life(release, "tcg", shape=shape) as life:
        issue(life.pair.nodes, "short", valid=timedelta(seconds=10))
        ends = Path(life.pair.node("alpha").image_folder) / "tls" / "server-cert.pem"
        await life.launch("alpha", "beta")
        read = ends.stat().st_mtime
        await until(lambda: seconds_since(read) > 12, "the certificates have expired")
        report = await tried(life)
        assert "has expired" in report.advice


def seconds_since(moment_s: float) -> float:
    """How long ago a moment of the wall clock was."""
    return time.time() - moment_s


async def started(life: LivePair) -> Report:
    """Try to protect a guest that runs."""
    await life.launch("alpha", "beta")
    return await tried(life)


async def tried(life: LivePair) -> Report:
    """Try to protect a guest that runs, and see that it fails."""
    await life.cont("alpha")
    plan: Plan = await life.compile("start")
    report = await execute(plan, life.sessions, life.hosts)
    assert report.failed is not None
    return report


async def runs_alone(life: LivePair) -> None:
    """See the guest run without a secondary, on a disk and with a network of its own."""
    live = await life.live("alpha")
    assert ("running", "none") == (live.run_state, live.colo_mode)
    assert all(1 == len(children) for children in live.children.values())
    filters = [item for item in live.objects.values() if item.qom_type == "filter-mirror"]
    assert not any(item.on for item in filters)


# -- the manual ------------------------------------------------------------------------------------


async def test_certificates_of_the_manual_protect_a_pair(tmp_path: Path) -> None:
    """The commands of the page and its table make a pair that starts, at this test's addresses."""
    page = (ROOT / "docs" / "how-to" / "tls.md").read_text(encoding="utf-8")
    authority, issue_each, keys = blocks(page, "sh")
    declared = blocks(page, "toml")[0]

    def shape(pair: ColoPair) -> ColoPair:
        commands = f"{authority}{issue_each}"
        for number, node in enumerate(pair.all_nodes[:3], 11):
            commands = commands.replace(f"192.0.2.{number}\n", f"{node.address}\n")
        for script in (commands, keys):
            run = ("sh", "-e", "-c", script)
            subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        assert (tmp_path / "keys.psk").read_text(encoding="ascii").startswith("shop-db:")
        spares = tuple(node for node in pair.spares if node.name == "gamma")
        tls = loads(EXAMPLE + declared).tls
        assert isinstance(tls, X509)
        folders = {name: str(tmp_path / name) for name in ("alpha", "beta", "gamma")}
        return attrs.evolve(pair, spares=spares, tls=attrs.evolve(tls, folders=folders))

    async with bios_life("11.1", "tcg", shape=shape) as life:
        await life.launch("alpha", "beta")
        await life.run("start")


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks in a language."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return [textwrap.dedent(block) for block in found]


# -- facts -----------------------------------------------------------------------------------------


@pytest.fixture(
    params=["11.1", *(pytest.param(r, marks=pytest.mark.nightly) for r in ("7.2", "10.0"))]
)
async def session(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Session]:
    """A session with a QEMU that has nothing, of each release."""
    with bare_qemu(request.param, tmp_path) as running:
        async with await Session.connect("alpha", running.control, limit_s=LIMIT_S) as opened:
            yield opened


async def made(session: Session, tls: X509 | Psk) -> None:
    """Have QEMU read its credentials, again if it has some."""
    for item in topology.tls_objects(tls, "alpha"):
        with contextlib.suppress(CommandRefused):
            await session.execute(qmp.ObjectDel(id=item.id), limit_s=LIMIT_S)
        await session.execute(qmp.ObjectAdd(object=item), limit_s=LIMIT_S)


async def test_a_chardev_takes_tls_on_tcp_alone(session: Session, tmp_path: Path) -> None:
    """One on a Unix socket is refused with credentials that are there."""
    shared_key(tmp_path / "tls", secrets.token_hex(32))
    await made(session, Psk(folder=str(tmp_path / "tls")))
    place = UnixSocketAddress(path=str(tmp_path / "c"))
    backend = SocketServer(addr=place, wait=False, tls_creds="tls-server")
    with pytest.raises(CommandRefused, match="incompatible with 'unix' address type"):
        await session.execute(qmp.ChardevAdd(id="c", backend=backend), limit_s=LIMIT_S)


@pytest.mark.parametrize("kind", ["x509", "psk"])
async def test_a_socket_keeps_the_credentials_it_was_made_with(
    session: Session, tmp_path: Path, kind: str
) -> None:
    """A listener keeps its certificates; a shared key it looks up again for each client."""
    folder = tmp_path / "tls"
    tls = X509(folder=str(folder)) if kind == "x509" else Psk(folder=str(folder))

    async def renew(name: str) -> None:
        if kind == "x509":
            files(new_authority(tmp_path, name), folder, net.address(1), "alpha")
        else:
            shared_key(folder, secrets.token_hex(32))
        await made(session, tls)

    with loopback() as net:
        old = InetSocketAddress(host=net.address(1), port=9003)
        new = InetSocketAddress(host=net.address(1), port=9004)
        await renew("first")
        await listen(session, "old", old)
        await renew("second")
        await connect(session, "first", old)
        await listen(session, "new", new)
        await connect(session, "second", new)
        await connected(session, {"new": True, "second": True, "first": kind == "psk"})


async def listen(session: Session, name: str, place: InetSocketAddress) -> None:
    """Make a chardev that listens with TLS."""
    backend = SocketServer(addr=place, wait=False, tls_creds="tls-server")
    await session.execute(qmp.ChardevAdd(id=name, backend=backend), limit_s=LIMIT_S)


async def connect(session: Session, name: str, place: InetSocketAddress) -> None:
    """Make a chardev that connects with TLS, again and again."""
    late = session.version < Version.parse("9.2.0")
    again = {"reconnect_s": 1} if late else {"reconnect_ms": 200}
    backend = SocketClient(addr=place, tls_creds="tls-client", **again)
    await session.execute(qmp.ChardevAdd(id=name, backend=backend), limit_s=LIMIT_S)


async def connected(session: Session, wanted: Mapping[str, bool]) -> None:
    """Wait until chardevs are connected, or are not."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = await session.execute(qmp.QueryChardev(), limit_s=LIMIT_S)
            shown = {chardev.label: chardev.connected for chardev in found}
            if wanted.items() <= shown.items():
                return
