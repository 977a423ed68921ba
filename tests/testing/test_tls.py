"""Pairs over TLS on fakes: quick, and the same plans as on QEMU."""

from __future__ import annotations

import attrs
import pytest
from tests.testing.testbed import VERSIONS, FakePair, declared, in_world

from pycolo._execute import execute
from pycolo.model import X509, Psk
from pycolo.qmp.schema import PackagedVersion
from pycolo.result import TimedOut
from pycolo.snapshot import Snapshot

CERTIFICATES = X509(folder="/tls", authz=("O=a,CN=alpha", "O=a,CN=beta"))
KEYS = Psk(folder="/tls", username="colo")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [CERTIFICATES, KEYS], ids=["x509", "psk"])
def test_a_pair_over_tls_survives_both_its_nodes(tls: X509 | Psk, version: PackagedVersion) -> None:
    """Each plan reaches its planned state, credentials and parameters included."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        seen = [(await life.run("start")).planned_state, await life.probe()]
        await life.kill("alpha")
        await life.run("failover", survivor="beta")
        await life.replace("alpha", "gamma")
        seen += [(await life.run("resume")).planned_state, await life.probe()]
        for planned, found in zip(seen[::2], seen[1::2], strict=True):
            assert encryption(planned) == encryption(found)
        assert {"tls-creds": "tls-client"}.items() <= encryption(seen[-1])["beta"][1].items()

    in_world(version, scenario, attrs.evolve(declared(), tls=tls))


def test_what_refuses_tls_is_hinted_at() -> None:
    """QEMU does not say why a chardev does not connect, so the report says where to look."""
    pair = declared()

    async def scenario(life: FakePair) -> None:
        await life.launch("beta")
        life.pair = attrs.evolve(pair, tls=CERTIFICATES)
        await life.launch("alpha")
        report = await execute(await life.compile("start"), life.sessions, life.hosts)
        assert isinstance(report.outcomes[report.failed or ""], TimedOut)
        assert "an end that refuses the other's credentials does not say so" in report.advice

    in_world("11.1.3", scenario, pair)


def encryption(snapshot: Snapshot) -> dict[str, tuple[dict[str, object], dict[str, str]]]:
    """What each node shows of TLS: its credentials, and what the migration uses of them."""
    live = {name: state for name in snapshot.nodes if (state := snapshot.live(name)) is not None}
    return {
        name: (
            {item: known for item, known in state.objects.items() if item.startswith("tls-")},
            dict(state.migration_tls),
        )
        for name, state in live.items()
    }
