"""Rules about certificates and keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pycolo.facts import PairFacts
from pycolo.findings import Finding
from pycolo.model.pair import ColoPair
from pycolo.model.tls import X509
from pycolo.rules._found import Rule, both, found

SOON_S = 30 * 86400.0
# Permissions that a key must not have: write for the group, any for others.
TOO_WIDE = 0o027


def refused(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Credentials of a node that do not work: a TLS handshake between them fails."""
    for name, host in facts.read.items():
        if host.tls is not None and host.tls.why:
            what = f"the credentials of {name} do not work: {host.tls.why}"
            remedy = "make them anew, for the address that the peer calls"
            yield found("error", "tls-refused", name, what, remedy)


def expiry(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Certificates that expire within 30 days, of credentials that work."""
    for name, host in facts.read.items():
        if host.tls is None or host.tls.why:
            continue
        for end, ends_s in (("server", host.tls.server_ends_s), ("client", host.tls.client_ends_s)):
            if ends_s - facts.now_s < SOON_S:
                day = datetime.fromtimestamp(ends_s, UTC).date().isoformat()
                what = f"the {end} certificate of {name} expires on {day}"
                remedy = "replace it; QEMU reads it when it starts"
                yield found("warning", "tls-expires", name, what, remedy)


def authorities(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Nodes that trust different certificate authorities."""
    for (one, first), (other, second) in both(facts, lambda host: host.tls):
        digests = {first.authority_digest, second.authority_digest} - {""}
        if len(digests) > 1:
            what = f"ca-cert.pem differs between {one} and {other}"
            remedy = "see that each accepts the other's certificates"
            yield found("warning", "authorities-differ", None, what, remedy)


def admitted(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Client certificates that the peer does not admit."""
    names = pair.tls.authz if isinstance(pair.tls, X509) else ()
    for name, host in facts.read.items():
        own = "" if host.tls is None else host.tls.client_name
        if names and own and own not in names:
            what = f"the client certificate of {name} is {own}, which tls.authz does not list"
            remedy = "add it to tls.authz, or make another certificate"
            yield found("error", "tls-not-admitted", name, what, remedy)


def shared_keys(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A pre-shared key that a node lacks, or that differs between nodes."""
    for name, host in facts.read.items():
        if host.psk is not None and not host.psk.digest:
            what = f"keys.psk on {name} has no key of the declared name"
            yield found("error", "keys-differ", name, what, "put the same keys.psk on both")
    for (one, first), (other, second) in both(facts, lambda host: host.psk):
        if first.digest and second.digest and first.digest != second.digest:
            what = f"the keys of {one} and {other} differ"
            yield found("error", "keys-differ", None, what, "put the same keys.psk on both")


def modes(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Key files with permissions that are too wide."""
    for name, host in facts.read.items():
        secrets = [path for disk in pair.disks for path in disk.on(name).secret_files]
        for file in host.files or ():
            is_key = file.path.endswith(("-key.pem", "keys.psk")) or file.path in secrets
            if is_key and not file.why and file.mode & TOO_WIDE:
                what = f"{file.path} on {name} has mode {file.mode:04o}"
                yield found("warning", "key-mode", name, what, f"chmod 0600 {file.path}")


RULES = (
    Rule(
        codes=("tls-refused",), check=refused, parts=("tls",), before=("launch", "start", "resume")
    ),
    Rule(codes=("tls-expires",), check=expiry, parts=("tls",)),
    Rule(codes=("authorities-differ",), check=authorities, parts=("tls",)),
    Rule(
        codes=("tls-not-admitted",),
        check=admitted,
        parts=("tls",),
        before=("launch", "start", "resume"),
    ),
    Rule(codes=("keys-differ",), check=shared_keys, parts=("psk",), before=("start", "resume")),
    Rule(codes=("key-mode",), check=modes, parts=("files",)),
)
