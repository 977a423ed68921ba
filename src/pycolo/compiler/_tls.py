"""TLS: the steps that add and renew a node's credentials and name them to the migration."""

from __future__ import annotations

from typing import Literal

from pycolo import topology
from pycolo.compiler._draft import Draft
from pycolo.compiler._filters import GONE_OBJECT
from pycolo.qmp.commands import MigrateSetParameters, ObjectAdd, ObjectDel


def ensure_credentials(draft: Draft, node: str) -> None:
    """Add the credentials that a QEMU lacks, because pycolo may not have launched it."""
    for item in topology.tls_objects(draft.pair.tls, node):
        if item.id not in draft.live(node).objects:
            why = "roles change, so each node has credentials for both ends (qemu-behaviour 10.1)"
            draft.execute(node, ObjectAdd(object=item), why)


def renew_credentials(draft: Draft, primary: str) -> None:
    """Have a primary read its credential files again, in case they were renewed since its launch.

    If a socket to the secondary exists already, nothing is renewed: a socket keeps the credentials
    that it was made with.
    """
    live = draft.live(primary)
    links = [link for c in draft.pair.chains for link in (c.names.mirror, c.names.compare_in)]
    if live.run_state != "prelaunch" and not any(link in live.chardevs for link in links):
        for item in topology.tls_objects(draft.pair.tls, primary):
            if item.id in live.objects:
                why = "what it has read may be older than its files (qemu-behaviour 10.10)"
                draft.execute(primary, ObjectDel(id=item.id), why, accepts=GONE_OBJECT)
    ensure_credentials(draft, primary)


def ensure_parameters(draft: Draft, node: str, role: Literal["primary", "secondary"]) -> None:
    """Set the migration's TLS parameters to the credentials for a node's role, if they differ."""
    command = parameters(draft, node, role)
    if command is not None:
        why = "which end it is changes with each failover (qemu-behaviour 10.2)"
        draft.execute(node, command, why)


def parameters(
    draft: Draft, node: str, role: Literal["primary", "secondary"]
) -> MigrateSetParameters | None:
    """The command that gives the migration its TLS parameters; None if it has them.

    `tls-authz`, the list of admitted clients, is never unset: QEMU before 11 takes an empty string
    for the id of a list, and the end that connects does not use it (qemu-behaviour 10.9).
    """
    wanted, live = topology.migration_tls(draft.pair.tls, role), draft.live(node).migration_tls
    creds, authz = wanted.get("tls-creds", ""), wanted.get("tls-authz")
    command = MigrateSetParameters(
        tls_creds=None if live.get("tls-creds", "") == creds else creds,
        tls_hostname="" if "tls-hostname" in live else None,
        tls_authz=None if live.get("tls-authz") == authz else authz,
    )
    return None if command == MigrateSetParameters() else command
