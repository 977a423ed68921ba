"""TLS as it is declared: where its files are, and what each node's QEMU is given."""

from __future__ import annotations

import attrs
import pytest
from tests.model.test_pair import PAIR

from pycolo import topology
from pycolo.errors import DeclarationError
from pycolo.model import X509, ColoPair, Psk

CERTIFICATES = X509(folder="/etc/tls/", folders={"beta": "/srv/tls"}, authz=("O=a,CN=b",))


def test_files_of_certificates_are_those_of_both_ends() -> None:
    """Each node may come to be either end, so it has files for both, where it keeps them."""
    names = (
        *("ca-cert.pem", "server-cert.pem", "server-key.pem"),
        *("client-cert.pem", "client-key.pem"),
    )
    assert tuple(f"/etc/tls/{name}" for name in names) == CERTIFICATES.files_on("alpha")
    assert tuple(f"/srv/tls/{name}" for name in names) == CERTIFICATES.files_on("beta")


def test_shared_keys_are_one_file() -> None:
    """QEMU wants its own name for it."""
    assert ("/a/keys.psk",) == Psk(folder="/a").files_on("alpha")


@pytest.mark.parametrize("tls", [CERTIFICATES, Psk(folder="/a", username="u")])
def test_ids_are_the_same_on_every_node(tls: X509 | Psk) -> None:
    """What a wire names is there on either node, so that a failover changes no object."""
    ids = {item.id for node in ("alpha", "beta") for item in topology.tls_objects(tls, node)}
    creds = {topology.server_creds(tls), topology.client_creds(tls)}
    assert ids == creds | ({topology.server_authz(tls)} - {None})


def test_nothing_is_given_without_tls() -> None:
    """Without it no connection names credentials."""
    named = topology.client_creds(None), topology.server_creds(None), topology.server_authz(None)
    assert (None, None, None) == named
    assert () == topology.tls_objects(None, "alpha")
    assert {} == topology.migration_tls(None, "secondary")


def test_only_who_listens_admits() -> None:
    """Who connects has no list of those whom it admits; one that is empty is left out."""
    assert {"tls-creds": "tls-client"} == topology.migration_tls(CERTIFICATES, "primary")
    admitting = {"tls-creds": "tls-server", "tls-authz": "tls-authz"}
    assert admitting == topology.migration_tls(CERTIFICATES, "secondary")
    everyone = attrs.evolve(CERTIFICATES, authz=())
    assert {"tls-creds": "tls-server"} == topology.migration_tls(everyone, "secondary")


def test_folders_are_those_of_nodes_of_the_pair() -> None:
    """A spare has one too; a name that no node has is a mistake."""
    spare = attrs.evolve(CERTIFICATES, folders={"gamma": "/tls"})
    assert spare == with_tls(spare).tls
    rule = r"tls\.folders\.delta must be for one of alpha, beta, gamma, not 'delta'"
    with pytest.raises(DeclarationError, match=rule):
        with_tls(attrs.evolve(CERTIFICATES, folders={"delta": "/tls"}))


def with_tls(tls: X509 | Psk) -> ColoPair:
    """The pair over TLS."""
    return attrs.evolve(PAIR, tls=tls)
