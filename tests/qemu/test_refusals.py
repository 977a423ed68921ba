"""The catalogue of refusals against the QEMUs that it quotes.

One primary and one secondary of each version are led through everything that they can cheaply be
brought to refuse; each answer must be an entry of the catalogue that fits command, class and
version.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.real_qemu import RELEASES, bare_qemu

from pycolo.catalogue import ENTRIES, HUMAN, Explanation, explain
from pycolo.demo.builds import Release
from pycolo.model import UnixMonitor
from pycolo.qmp.replies import Version

pytestmark = pytest.mark.qemu
MACHINE = ("-machine", "pc", "-accel", "tcg", "-m", "64")
CARDS = ("-netdev", "hubport,id=hn0,hubid=0", "-netdev", "hubport,id=hn1,hubid=1")
NOT_SAID: Final[Mapping[Release, frozenset[str]]] = {
    "7.2": frozenset({"return-path-missing", "incoming-spent"}),
    "10.0": frozenset({"return-path-missing", "incoming-already"}),
    "11.1": frozenset({"incoming-already"}),
}
"""What a version takes where another one refuses."""


@attrs.frozen
class Answer:
    """What a command was answered with; no words where it was taken."""

    command: str
    error_class: str | None
    words: str


class Monitor:
    """A QMP client that sends whatever it is told to, also what pycolo never would."""

    def __init__(self, monitor: UnixMonitor) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(monitor.path)
        self._lines = self._socket.makefile("r")
        self._ids = itertools.count()
        self._lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, /, **arguments: object) -> Answer:
        """Send a command; hyphens of its arguments are written as underscores."""
        reply = self.reply(command, **arguments)
        if "error" in reply:
            error = reply["error"]
            assert isinstance(error, dict)
            return Answer(command, error["class"], error["desc"])
        said = reply["return"]
        return Answer(command, None, said if isinstance(said, str) else "")

    def human(self, line: str) -> Answer:
        """Send a line to the human monitor."""
        return self(HUMAN, command_line=line)

    def reply(self, command: str, /, **arguments: object) -> dict[str, object]:
        """Send a command and give the whole reply."""
        number = next(self._ids)
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        message = {"execute": command, "arguments": named, "id": number}
        self._socket.sendall(json.dumps(message).encode())
        for line in self._lines:
            reply: dict[str, object] = json.loads(line)
            if reply.get("id") == number:
                return reply
        raise AssertionError(f"no answer to {command}")

    def wait_migration(self, *statuses: str) -> str:
        """Wait until a migration is in one of these states, and give its error."""
        while True:
            found = self.reply("query-migrate")["return"]
            assert isinstance(found, dict)
            if found.get("status") in statuses:
                return str(found.get("error-desc"))

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


class Two:
    """A primary and a secondary that nothing was done to, and a folder with images."""

    def __init__(self, folder: Path, p: Monitor, s: Monitor) -> None:
        self.folder = folder
        self.p = p
        self.s = s
        self.version = _version_of(p)


def _version_of(monitor: Monitor) -> Version:
    found = monitor.reply("query-version")["return"]
    assert isinstance(found, dict)
    qemu = found["qemu"]
    return Version(major=qemu["major"], minor=qemu["minor"], micro=qemu["micro"])


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each supported kind of QEMU."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
def two(release: Release, tmp_path: Path) -> Generator[Two]:
    """Both sides of a pair that is no pair yet."""
    for name in ("p", "s"):
        (tmp_path / name).mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(bytes(1024 * 1024))
    incoming = ("-incoming", "defer")
    with (
        bare_qemu(release, tmp_path / "p", *MACHINE, *CARDS) as primary,
        bare_qemu(release, tmp_path / "s", *MACHINE, *CARDS, *incoming) as secondary,
    ):
        p, s = Monitor(primary.control), Monitor(secondary.control)
        try:
            yield Two(tmp_path, p, s)
        finally:
            p.close()
            s.close()


@contextmanager
def listening() -> Generator[int]:
    """A port that is taken, and that answers nobody."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def inet(port: int) -> dict[str, object]:
    """The address of a port, flat."""
    return {"type": "inet", "host": "127.0.0.1", "port": str(port)}


def wrapped(port: int) -> dict[str, object]:
    """The address of a port, in the older nesting."""
    return {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}


def image(two: Two, name: str) -> dict[str, object]:
    """The file of an image."""
    return {"driver": "file", "filename": str(two.folder / name)}


def capability(name: str) -> dict[str, object]:
    """What switches a capability on."""
    return {"capability": name, "state": True}


def unix(two: Two, name: str, *, server: bool, **more: object) -> dict[str, object]:
    """A chardev on a Unix socket."""
    address = {"type": "unix", "data": {"path": str(two.folder / name)}}
    return {"type": "socket", "data": {"addr": address, "server": server, **more}}


def migration(two: Two) -> list[tuple[str, Answer]]:
    """What is refused on the way into COLO and out of it."""
    p, s = two.p, two.s
    delay = {"x-checkpoint-delay": 2**32}
    return [
        ("not-in-colo", p("x-colo-lost-heartbeat")),
        ("not-in-colo", p.human("x_colo_lost_heartbeat")),
        ("capability-unknown", p("migrate-set-capabilities", capabilities=[capability("no")])),
        ("return-path-missing", p("migrate-set-capabilities", capabilities=[capability("x-colo")])),
        ("migrate-form", p("migrate")),
        ("migrate-form", s("migrate-incoming")),
        ("not-incoming", p("migrate-incoming", uri="tcp:127.0.0.1:0")),
        ("not-at-switchover", p("migrate-continue", state="pre-switchover")),
        ("delay-out-of-range", p("migrate-set-parameters", **delay)),
        ("command-unknown", p("no-such-command")),
        ("argument-unknown", p("stop", more=1)),
        ("human-command-unknown", p.human("no_such_line")),
        ("instance-gone", p("yank", instances=[{"type": "migration"}])),
    ]


def network(two: Two) -> list[tuple[str, Answer]]:
    """What is refused about chardevs and filters."""
    p, absent = two.p, "/objects/absent"
    for name in ("c0", "c1"):
        p("chardev-add", id=name, backend=unix(two, name, server=True))
    to_nobody = {"type": "socket", "data": {"addr": wrapped(free_port()), "server": False}}
    flat = {"type": "socket", "data": {"addr": inet(1)}}
    reconnect = "reconnect" if two.version.major < 8 else "reconnect-ms"
    again = {reconnect: 1}
    bad_server = unix(two, "c9", server=True, **again)
    bad_client = unix(two, "c0", server=False, wait=True)
    tx = {"netdev": "hn0", "queue": "tx"}
    mirror, redirector = {"qom_type": "filter-mirror"}, {"qom_type": "filter-redirector"}
    beside = {"insert": "before"}
    made = p("object-add", id="m0", outdev="c0", **mirror, **tx)
    assert "" == made.words
    refused = [
        ("chardev-exists", p("chardev-add", id="c0", backend=unix(two, "c0", server=True))),
        ("chardev-gone", p("chardev-remove", id="absent")),
        ("chardev-gone", p.human("chardev-remove absent")),
        ("chardev-busy", p("chardev-remove", id="c0")),
        ("chardev-failed", p("chardev-add", id="c9", backend=to_nobody)),
        ("chardev-failed", p("chardev-add", id="c9", backend=unix(two, "no", server=False))),
        ("chardev-failed", p("chardev-add", id="c9", backend=bad_client)),
        ("argument-missing", p("chardev-add", id="c9", backend=flat)),
        ("object-gone", p("object-del", id="absent")),
        ("object-gone", p.human("object_del absent")),
        ("filter-gone", p("qom-set", path=absent, property="status", value="off")),
        ("object-unread", p("qom-get", path=absent, property="status")),
        ("object-unread", p("qom-list", path=absent)),
        ("object-exists", p("object-add", id="m0", outdev="c1", **mirror, **tx)),
        ("chardev-taken", p("object-add", id="m1", outdev="c0", **mirror, **tx)),
        ("filter-needs-chardev", p("object-add", id="m1", outdev="absent", **mirror, **tx)),
        ("filter-needs-chardev", p("object-add", id="r0", indev="absent", **redirector, **tx)),
        ("filter-needs-chardev", p("object-add", id="r0", outdev="absent", **redirector, **tx)),
        ("redirector-without-end", p("object-add", id="r0", **redirector, **tx)),
        ("redirector-to-itself",
         p("object-add", id="r0", indev="c1", outdev="c1", **redirector, **tx)),
        ("filter-needs-netdev",
         p("object-add", id="m1", netdev="absent", queue="tx", outdev="c1", **mirror)),
        ("filter-elsewhere",
         p("object-add", id="m1", netdev="hn1", queue="tx", outdev="c1", position="id=m0",
           **mirror, **beside)),
        ("no-rewriter",
         p("object-add", id="m1", outdev="c1", position="id=rew0", **mirror, **tx, **beside)),
        ("filter-position",
         p("object-add", id="m1", outdev="c1", position="middle", **mirror, **tx)),
        ("value-unknown", p("object-add", id="x", qom_type="no-such-type")),
    ]  # fmt: skip
    # 10.0 was seen to take what the others refuse.
    if two.version.major != 10:
        refused.append(("chardev-failed", p("chardev-add", id="c9", backend=bad_server)))
    return refused


def disks(two: Two) -> list[tuple[str, Answer]]:
    """What is refused about nodes, exports and the quorum."""
    p, s, port = two.p, two.s, free_port()
    inlined = {**image(two, "one"), "node-name": "inlined"}
    p("blockdev-add", node_name="one", driver="raw", file=inlined)
    p("blockdev-add", node_name="two", driver="raw", file=image(two, "two"))
    quorum = {"driver": "quorum", "vote_threshold": 1, "read_pattern": "fifo"}
    p("blockdev-add", node_name="q", children=["one"], **quorum)
    s("blockdev-add", node_name="parent0", driver="raw", file=image(two, "three"))
    nbd: dict[str, object] = {"driver": "nbd", "server": inet(port)}
    export: dict[str, object] = {"type": "nbd", "node_name": "parent0", "name": "parent0"}
    raw = {"driver": "raw"}
    replication = {"driver": "replication", "file": "two"}
    line = (
        f"drive_add -n buddy driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port}"
    )
    refused = [
        ("nobody-listens", p("blockdev-add", node_name="nbd0", export="parent0", **nbd)),
        ("nobody-listens", p.human(f"{line},node-name=nbd0")),
        ("nbd-server-absent", s("nbd-server-stop")),
        ("nbd-server-needed", s("block-export-add", id="parent0", **export)),
    ]
    assert "" == s("nbd-server-start", addr=wrapped(port)).words
    refused.append(("node-absent", s("block-export-add", id="e", type="nbd", node_name="absent")))
    assert "" == s("block-export-add", id="parent0", writable=True, **export).words
    assert "" == p("blockdev-add", node_name="nbd0", export="parent0", **nbd).words
    assert "" == p("x-blockdev-change", parent="q", node="two").words
    return [
        *refused,
        ("nbd-server-runs", s("nbd-server-start", addr=wrapped(port))),
        ("export-exists", s("block-export-add", id="parent0", **export)),
        ("export-exists", s("block-export-add", id="other", **export)),
        ("export-in-use", s("block-export-del", id="parent0")),
        ("export-in-use", s("nbd-server-remove", name="parent0")),
        ("export-gone", s("block-export-del", id="absent")),
        ("export-gone", s("nbd-server-remove", name="absent")),
        ("export-not-offered", p("blockdev-add", node_name="n", export="absent", **nbd)),
        ("export-not-offered", p.human(f"{line},node-name=n,export=absent")),
        ("argument-missing",
         p("blockdev-add", node_name="n", driver="nbd", server=wrapped(port))),
        ("node-exists", p("blockdev-add", node_name="one", file=image(two, "three"), **raw)),
        ("image-absent", p("blockdev-add", node_name="n", file=image(two, "absent"), **raw)),
        ("node-absent", p("blockdev-add", node_name="n", file="absent", **raw)),
        ("node-absent", p("x-blockdev-change", parent="absent", node="two")),
        ("node-absent", p("x-blockdev-change", parent="q", node="absent")),
        ("node-gone", p("blockdev-del", node_name="absent")),
        ("drive-gone", p.human("drive_del absent")),
        ("node-in-use", p("blockdev-del", node_name="two")),
        ("node-in-use", p.human("drive_del two")),
        ("node-owned", p("blockdev-del", node_name="inlined")),
        ("child-attached", p("x-blockdev-change", parent="q", node="two")),
        ("child-gone", p("x-blockdev-change", parent="q", child="children.7")),
        ("no-quorum", p("x-blockdev-change", parent="one", node="two")),
        ("last-child", _without_the_second_child(p)),
        ("drive-needs-name", p.human(f"drive_add -n buddy driver=file,filename={two.folder}/two")),
        ("replication-top-missing",
         p("blockdev-add", node_name="r", mode="secondary", **replication)),
        ("replication-top-refused",
         p("blockdev-add", node_name="r", mode="primary", top_id="q", **replication)),
        *_jobs(p),
    ]  # fmt: skip


def _without_the_second_child(p: Monitor) -> Answer:
    assert "" == p("x-blockdev-change", parent="q", child="children.1").words
    return p("x-blockdev-change", parent="q", child="children.0")


def _jobs(p: Monitor) -> list[tuple[str, Answer]]:
    copy = {"device": "q", "sync": "full", "auto_dismiss": False}
    assert "" == p("blockdev-mirror", job_id="copy", target="nbd0", **copy).words
    of_nothing = {**copy, "device": "absent"}
    refused = [
        ("disk-in-mirror", p("blockdev-mirror", job_id="other", target="two", **copy)),
        ("node-absent", p("blockdev-mirror", job_id="other", target="two", **of_nothing)),
    ]
    _wait_job(p, "ready")
    refused.append(("job-elsewhere", p("job-dismiss", id="copy")))
    assert "" == p("block-job-cancel", device="copy").words
    _wait_job(p, "concluded")
    refused.append(("job-concluded", p("block-job-cancel", device="copy")))
    refused.append(("job-exists", p("blockdev-mirror", job_id="copy", target="nbd0", **copy)))
    refused.append(("mirror-into-itself", p("blockdev-mirror", job_id="x", target="q", **copy)))
    assert "" == p("job-dismiss", id="copy").words
    return [
        *refused,
        ("job-gone", p("block-job-cancel", device="copy")),
        ("job-dismissed", p("job-dismiss", id="copy")),
        ("job-dismissed", p("job-cancel", id="copy")),
    ]


def _wait_job(monitor: Monitor, status: str) -> None:
    while True:
        jobs = monitor.reply("query-jobs")["return"]
        assert isinstance(jobs, list)
        if [job["status"] for job in jobs] == [status]:
            return


def credentials(two: Two) -> list[tuple[str, Answer]]:
    """What is refused about TLS."""
    p, absent = two.p, str(two.folder / "absent")
    (two.folder / "keys.psk").write_text(f"qemu:{'00' * 32}\n")
    for end in ("client", "server"):
        p("object-add", qom_type="tls-creds-psk", id=end, dir=str(two.folder), endpoint=end)
    nbd: dict[str, object] = {"driver": "nbd", "node_name": "n", "server": inet(1)}
    x509 = {"qom_type": "tls-creds-x509", "endpoint": "server"}
    other_end = "credentials-of-the-other-end"
    return [
        ("credentials-absent", p("blockdev-add", tls_creds="absent", **nbd)),
        ("credentials-absent", p("nbd-server-start", addr=wrapped(1), tls_creds="absent")),
        (other_end, p("nbd-server-start", addr=wrapped(free_port()), tls_creds="client")),
        ("credentials-unread", p("object-add", id="x", dir=absent, **x509)),
    ]


def listeners(two: Two) -> list[tuple[str, Answer]]:
    """What is refused where the port is taken, and by a migration that reaches nobody."""
    p, s = two.p, two.s
    with listening() as port:
        server = {"type": "socket", "data": {"addr": wrapped(port), "wait": False}}
        refused = [
            ("chardev-failed", p("chardev-add", id="c8", backend=server)),
            ("port-taken", p("nbd-server-start", addr=wrapped(port))),
            ("port-taken", s("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")),
        ]
        p("migrate-set-parameters", tls_creds="absent")
        p("migrate", uri=f"tcp:127.0.0.1:{port}")
        told = Answer("query-migrate", None, p.wait_migration("failed"))
    p("migrate-set-parameters", tls_creds="")
    p("migrate", uri=f"tcp:127.0.0.1:{port}")
    nobody = Answer("query-migrate", None, p.wait_migration("failed"))
    return [*refused, ("credentials-absent", told), ("nobody-listens", nobody)]


def of_answer(answer: Answer, version: Version) -> Explanation:
    """What the catalogue says of an answer."""
    found = explain(answer.words, command=answer.command, version=version)
    assert found, answer
    best = found[0]
    assert (True, True) == (best.whole, best.fits), (answer, best)
    if answer.error_class is not None:
        assert answer.error_class == best.entry.error_class
    return best


def test_qemu_refuses_in_the_words_of_the_catalogue(release: Release, two: Two) -> None:
    """Each message that can be provoked is known with its words, class, command and version."""
    parts = (migration, network, credentials, disks, listeners)
    provoked = [found for part in parts for found in part(two)]
    wrong = [
        (name, answer)
        for name, answer in provoked
        if name not in NOT_SAID[release] and name != of_answer(answer, two.version).entry.name
    ]
    assert [] == wrong
    taken = {name for name, answer in provoked if not answer.words}
    assert taken <= NOT_SAID[release]
    assert {name for name, _ in provoked} <= {entry.name for entry in ENTRIES}


def test_a_migration_under_way_refuses_another(release: Release, two: Two) -> None:
    """A second `migrate` is refused while one is under way, in each version's own words."""
    names = ("x-colo", "return-path") if release == "11.1" else ("x-colo",)
    with listening() as port:
        # In COLO with a listener that never answers, a migration stays under way.
        two.p("migrate-set-capabilities", capabilities=[capability(name) for name in names])
        assert "" == two.p("migrate", uri=f"tcp:127.0.0.1:{port}").words
        answer = two.p("migrate", uri=f"tcp:127.0.0.1:{port}")
    # 7.2 says so until COLO is entered, and then ruins it.
    expected = {"migration-under-way", *(["second-migration"] if release == "7.2" else [])}
    assert of_answer(answer, two.version).entry.name in expected


def test_a_secondary_that_could_not_listen_is_spent(release: Release, two: Two) -> None:
    """After a taken port a free one helps on 7.2 alone; where it helped, once is enough."""
    with listening() as port:
        two.s("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
    free = f"tcp:127.0.0.1:{free_port()}"
    answers = [two.s("migrate-incoming", uri=free) for _ in range(2)]
    said = [of_answer(a, two.version).entry.name if a.words else "taken" for a in answers]
    expected = {"7.2": ["taken", "incoming-already"]}.get(release, ["incoming-spent"] * 2)
    assert expected == said


def test_a_secondary_listens_once(two: Two) -> None:
    """A second `migrate-incoming` is refused by every version in the same words."""
    uri = f"tcp:127.0.0.1:{free_port()}"
    assert "" == two.s("migrate-incoming", uri=uri).words
    answer = two.s("migrate-incoming", uri=uri)
    assert "incoming-already" == of_answer(answer, two.version).entry.name
