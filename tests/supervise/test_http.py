"""A supervisor over HTTP: a real server on loopback, and a real supervisor of a pair of fakes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import final

import aiohttp
import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.testing.test_supervisor import Watched, protected
from tests.testing.testbed import FakePair, in_world, time_passes
from typing_extensions import override

from pycolo._json import dumps
from pycolo.errors import DeclarationError
from pycolo.standing import Standing
from pycolo.supervise import HttpEndpoint, PairStatus, Store, Supervisor, Underway
from pycolo.supervise._measures import NO_SILENCE, Tally
from pycolo.supervise.http import _metrics, served
from pycolo.supervise.http._health import health_to_json, pairs_to_json, problem
from pycolo.supervise.http._page import page

ANY = HttpEndpoint(host="127.0.0.1", port=0)
HOSTILE = "<script>alert(1)</script>\"'\x1b[31m\n</title>"


@final
@attrs.frozen(kw_only=True)
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> dict[str, object]:
        """What it says as JSON."""
        value: object = json.loads(self.text)
        assert isinstance(value, dict)
        return value

    def value(self, name: str, **labels: str) -> float | None:
        """The sample of a metric with just these labels besides the pair's; None for none."""
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name and sample.labels == {"pair": "colo", **labels}:
                    return sample.value
        return None


@final
class Client:
    """Asks one server."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def get(self, path: str, **headers: str) -> Got:
        """What is at a path."""
        async with self._session.get(self.url + path, headers=headers) as found:
            return Got(
                status=found.status, headers=dict(found.headers), text=await found.text("utf-8")
            )

    async def post(self, path: str) -> int:
        """How a try to change something at a path is answered."""
        async with self._session.post(self.url + path) as found:
            return found.status


Scenario = Callable[[FakePair, Watched, Client], Awaitable[None]]


def play(folder: Path, scenario: Scenario) -> None:
    """Play a scenario with a new pair, whose supervisor is served."""

    async def played(life: FakePair) -> None:
        with Store(folder) as store:
            supervisor = Supervisor((life.pair,), {life.pair.name: life.hosts}, store)
            watched = Watched(store, supervisor)
            following = asyncio.create_task(watched.follow())
            # The world's clock leaps while everybody waits: no limit by it says anything here.
            patient = aiohttp.ClientTimeout(total=None, sock_connect=None)
            try:
                async with (
                    served(supervisor, ANY) as url,
                    aiohttp.ClientSession(timeout=patient) as session,
                    supervisor,
                ):
                    await scenario(life, watched, Client(url.rstrip("/"), session))
            finally:
                following.cancel()

    in_world("11.1.3", played)


# -- health


def test_health_follows_the_pair(tmp_path: Path) -> None:
    """503 until the pair is protected and after a death, 200 while it is, and while paused."""

    async def scenario(life: FakePair, watched: Watched, client: Client) -> None:
        first = await client.get("/health")
        assert (503, False) == (first.status, first.json()["healthy"])
        count = await protected(watched)
        assert (200, {}) == (
            (found := await client.get("/health")).status,
            found.json()["problems"],
        )
        life.world.qemu("alpha").kill()
        count = await watched.until("failover is done", since=count)
        found = await client.get("/health")
        assert 503 == found.status
        assert '"problems":{"colo":"protected is wanted: ' in found.text
        await protected(watched, count)
        watched.store.pause(life.pair.name, "by the test")
        await watched.until("supervision is paused")
        life.world.qemu("alpha").kill()
        await time_passes(10.0)
        assert 200 == (await client.get("/health")).status

    play(tmp_path, scenario)


def test_live_is_answered_whatever_becomes_of_the_pair(tmp_path: Path) -> None:
    """It says that the supervisor's loop turns, and nothing of its pairs."""

    async def scenario(life: FakePair, watched: Watched, client: Client) -> None:
        assert 200 == (await client.get("/health/live")).status
        await protected(watched)
        for name in ("alpha", "beta"):
            life.world.host(name).away = True
            life.world.qemu(name).freeze()
        await time_passes(60.0)
        assert 503 == (await client.get("/health")).status
        assert 200 == (await client.get("/health/live")).status

    play(tmp_path, scenario)


SOUND = PairStatus(
    pair="colo",
    want="protected",
    paused=None,
    phases={"alpha": "protected", "beta": "protected"},
    standing=Standing(state="protected", text="alpha is primary"),
    record=None,
    primary="alpha",
    checkpoint_delay_ms=20000,
    is_protected=True,
    is_busy=False,
    are_monitors_free=False,
    person="",
)
HURT = attrs.evolve(SOUND, is_protected=False)
ALONE = Standing(state="unprotected", text="alpha has the guest alone")
DOWN = Standing(state="stopped", text="nobody runs the guest")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (SOUND, ""),
        (HURT, "protected is wanted: alpha is primary"),
        (attrs.evolve(HURT, standing=None), "protected is wanted: it was not observed yet"),
        (attrs.evolve(SOUND, person="make sure of it"), "make sure of it"),
        (attrs.evolve(SOUND, person="make sure of it", paused="by a"), ""),
        (attrs.evolve(HURT, want="unprotected", standing=ALONE), ""),
        (
            attrs.evolve(HURT, want="unprotected", standing=DOWN),
            "unprotected is wanted: nobody runs the guest",
        ),
        (attrs.evolve(HURT, want="stopped", standing=DOWN), ""),
        (attrs.evolve(SOUND, want="stopped"), "stopped is wanted: alpha is primary"),
    ],
)
def test_a_problem_is_what_is_not_as_wanted(status: PairStatus, expected: str) -> None:
    """A pair that is settled or paused has none."""
    assert expected == problem(status)


def test_pair_that_is_not_as_wanted_is_named() -> None:
    """The short JSON says which one, and why."""
    found = health_to_json(
        (attrs.evolve(SOUND, pair="a"), attrs.evolve(SOUND, pair="b", person="look"))
    )
    assert {"format_version": 1, "healthy": False, "problems": {"b": "look"}} == found


# -- metrics


def test_metrics_follow_a_life(tmp_path: Path) -> None:
    """A pair is made, loses its primary, and is made whole again."""

    async def scenario(life: FakePair, watched: Watched, client: Client) -> None:
        count = await protected(watched)
        await time_passes(20.0)
        found = await client.get("/metrics")
        assert found.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 1 == found.value("pycolo_pair_protected")
        assert 0 == found.value("pycolo_pair_person_needed")
        assert 0 == found.value("pycolo_pair_paused")
        assert 1 == found.value("pycolo_pair_want", pycolo_pair_want="protected")
        assert 1 == found.value("pycolo_node_phase", node="beta", pycolo_node_phase="protected")
        assert 0 == found.value("pycolo_node_phase", node="beta", pycolo_node_phase="alone")
        pauses = found.value("pycolo_checkpoint_pause_seconds_count")
        assert pauses is not None
        assert pauses > 20
        assert pauses == found.value("pycolo_checkpoint_pause_seconds_bucket", le="0.08")
        lost = {"survivor": "secondary", "reason": "exit"}
        assert 0 == found.value("pycolo_failovers_total", **lost)
        epoch = found.value("pycolo_pair_epoch")
        assert epoch is not None

        life.world.qemu("alpha").kill()
        count = await watched.until("failover is done", since=count)
        after = await client.get("/metrics")
        assert 0 == after.value("pycolo_pair_protected")
        assert 1 == after.value("pycolo_failovers_total", **lost)
        assert 1 == after.value("pycolo_failover_duration_seconds_count")
        done = {"procedure": "failover", "result": "done"}
        assert 1 == after.value("pycolo_executions_total", **done)

        await protected(watched, count)
        whole = await client.get("/metrics")
        assert 1 == whole.value("pycolo_pair_protected")
        assert epoch + 1 == whole.value("pycolo_pair_epoch")
        before = after.value("pycolo_pair_unprotected_seconds_total")
        lacked = whole.value("pycolo_pair_unprotected_seconds_total")
        assert before is not None
        assert lacked is not None
        assert 0.0 < before < lacked
        assert 2 == whole.value("pycolo_executions_total", procedure="resume", result="done")

    play(tmp_path, scenario)


def test_silence_stands_beside_its_limit(tmp_path: Path) -> None:
    """The age of a question that a frozen QEMU leaves unanswered, and what it may be."""

    async def scenario(life: FakePair, watched: Watched, client: Client) -> None:
        await protected(watched)
        before = await client.get("/metrics")
        assert 0 == before.value("pycolo_node_question_age_seconds", node="beta")
        silent_s = life.pair.supervision.silent_s
        life.world.qemu("beta").freeze()
        # A question is asked within half of it, and nothing is done before all of it is over.
        await time_passes(0.9 * silent_s)
        found = await client.get("/metrics")
        assert silent_s == found.value("pycolo_signal_limit_seconds", signal="silent")
        age = found.value("pycolo_node_question_age_seconds", node="beta")
        assert age is not None
        assert 0.3 * silent_s < age < silent_s
        assert age == found.value("pycolo_node_question_age_max_seconds", node="beta")
        checkpoint = found.value("pycolo_checkpoint_age_seconds")
        assert checkpoint is not None
        assert 0.0 <= checkpoint < silent_s + 1.0
        life.world.qemu("beta").thaw()
        await time_passes(1.0)
        longest_s = (await client.get("/metrics")).value(
            "pycolo_node_silence_max_seconds", node="beta"
        )
        assert longest_s is not None
        assert 0.3 * silent_s < longest_s

    play(tmp_path, scenario)


def test_resync_is_shown_while_it_copies() -> None:
    """How far its step is, how long that still takes, and whether it waits for its turn."""
    copying = Underway(
        procedure="resume",
        step="alpha/wait/mirrored",
        number=9,
        steps=40,
        done_bytes=1000,
        total_bytes=5000,
        rate_bytes_s=500.0,
    )

    def shown(underway: Underway | None, *, is_queued: bool) -> Got:
        tally = Tally(pair="colo", clock=lambda: 0.0)
        measures = tally.measures(NO_SILENCE, underway, is_queued=is_queued)
        return Got(status=200, headers={}, text=_metrics.exposition((), (measures,)).decode())

    found = shown(copying, is_queued=False)
    assert 1000 == found.value("pycolo_resync_done_bytes")
    assert 5000 == found.value("pycolo_resync_total_bytes")
    assert 8 == found.value("pycolo_resync_left_seconds")
    assert 0 == found.value("pycolo_resync_queued")
    waiting = shown(None, is_queued=True)
    assert None is waiting.value("pycolo_resync_total_bytes")
    assert 1 == waiting.value("pycolo_resync_queued")


def test_pause_is_shown(tmp_path: Path) -> None:
    """While it lasts nobody is asked, so that no age of a question grows."""

    async def scenario(life: FakePair, watched: Watched, client: Client) -> None:
        count = await protected(watched)
        assert 0 == (await client.get("/metrics")).value("pycolo_pair_paused")
        watched.store.pause(life.pair.name, "by the test")
        await watched.until("supervision is paused", since=count)
        await time_passes(10.0)
        found = await client.get("/metrics")
        assert 1 == found.value("pycolo_pair_paused")
        assert not found.value("pycolo_node_question_age_seconds", node="beta")

    play(tmp_path, scenario)


def test_every_metric_has_a_help_and_a_known_name(tmp_path: Path) -> None:
    """Each begins with `pycolo_` and says what it is; none is about the process."""

    async def scenario(_: FakePair, watched: Watched, client: Client) -> None:
        await protected(watched)
        families = list(text_string_to_metric_families((await client.get("/metrics")).text))
        assert 24 == len(families)
        assert all(one.name.startswith("pycolo_") and one.documentation for one in families)
        assert all("pair" in sample.labels for one in families for sample in one.samples)

    play(tmp_path, scenario)


def test_nobody_waits_for_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are written the loop turns, so that a failover would be begun."""
    begun: list[Callable[[], object]] = []
    answered = threading.Event()

    def exposition(*_: object) -> bytes:
        begun[0]()
        assert answered.wait(20.0)
        return b"written"

    monkeypatch.setattr(_metrics, "exposition", exposition)

    async def scenario(_: FakePair, __: Watched, client: Client) -> None:
        writing, loop = asyncio.Event(), asyncio.get_running_loop()
        begun.append(lambda: loop.call_soon_threadsafe(writing.set))
        asking = asyncio.create_task(client.get("/metrics"))
        await writing.wait()
        assert 200 == (await client.get("/health/live")).status
        answered.set()
        assert "written" == (await asking).text

    play(tmp_path, scenario)


# -- what people and programs read


@final
class Seen(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.words = ""
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    @override
    def handle_data(self, data: str) -> None:
        self.words += f"{data} "


def test_pairs_are_told_to_programs(tmp_path: Path) -> None:
    """Each pair with what is wanted of it, and how it stands."""

    async def scenario(life: FakePair, watched: Watched, client: Client) -> None:
        await protected(watched)
        found = await client.get("/pairs")
        assert "application/json; charset=utf-8" == found.headers["Content-Type"]
        assert 1 == found.json()["format_version"]
        pairs = found.json()["pairs"]
        assert isinstance(pairs, list)
        (pair,) = pairs
        assert life.pair.name == pair["pair"]
        assert ("protected", None, True) == (pair["want"], pair["paused"], pair["protected"])
        assert {"alpha": "protected", "beta": "protected"} == pair["phases"]
        assert ("protected", "alpha", 1) == (pair["state"], pair["holder"], pair["epoch"])
        assert ("", "") == (pair["person"], pair["problem"])

    play(tmp_path, scenario)


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """No script, no file, no other address; it renews itself, and may not be framed."""

    async def scenario(_: FakePair, watched: Watched, client: Client) -> None:
        await protected(watched)
        found = await client.get("/")
        seen = Seen(found.text)
        assert set(seen.tags).isdisjoint({"script", "link", "img", "iframe", "a", "form"})
        assert {"src", "href"}.isdisjoint(seen.attributes)
        assert "url(" not in found.text
        assert "http-equiv" in seen.attributes
        policy = found.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert "every pair is as it is wanted" in seen.words
        assert "alpha: protected, beta: protected" in seen.words
        assert "prefers-color-scheme:dark" in found.text

    play(tmp_path, scenario)


def test_page_escapes_everything() -> None:
    """Whatever a message, a pause or a name holds, it stays text in one line."""
    standing = Standing(state="unknown", text=HOSTILE)
    status = attrs.evolve(
        SOUND, pair=HOSTILE, person=HOSTILE, standing=standing, phases={HOSTILE: "alone"}
    )
    seen = Seen(page((status, attrs.evolve(SOUND, paused=HOSTILE)), HOSTILE))
    assert "script" not in seen.tags
    assert 1 == seen.tags.count("title")
    assert 6 == seen.words.count("<script>alert(1)</script>")
    assert "\x1b" not in page((status,), "now")


def test_json_escapes_what_moves_a_cursor() -> None:
    """A terminal that shows it is not written to."""
    text = dumps(pairs_to_json((attrs.evolve(SOUND, person="\x1b[31m"),)))
    assert text.isprintable()
    assert "[31m" in text


def test_page_says_first_what_a_person_must_do() -> None:
    """The pair that needs one is above the others, and what to type is marked as such."""
    text = page(
        (
            attrs.evolve(SOUND, pair="sound"),
            attrs.evolve(HURT, pair="hurt"),
            attrs.evolve(HURT, pair="needy", person="type `pycolo <b>` & wait"),
        ),
        "now",
    )
    words = Seen(text).words
    assert "2 of 3 pairs need attention" in words
    assert words.index("needy") < words.index("hurt") < words.index("sound")
    assert "type <code>pycolo &lt;b&gt;</code> &amp; wait" in text


# -- who is answered


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9876", 200),
        ("localhost", 200),
        ("[::1]:9876", 200),
        ("elsewhere.example", 421),
        ("10.0.0.1:9876", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_name_of_another_machine_is_refused(tmp_path: Path, host: str, status: int) -> None:
    """A page from elsewhere reads nothing by having its own name point to loopback."""

    async def scenario(_: FakePair, __: Watched, client: Client) -> None:
        found = await client.get("/health/live", Host=host)
        assert status == found.status

    play(tmp_path, scenario)


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    """Every path is for reading, and what is not there is not found."""

    async def scenario(_: FakePair, __: Watched, client: Client) -> None:
        paths = ("/", "/pairs", "/health", "/health/live", "/metrics")
        assert {405} == {await client.post(path) for path in paths}
        assert 404 == (await client.get("/pairs/colo")).status

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9876", "127.0.0.1", 9876),
        ("127.9.9.9:1", "127.9.9.9", 1),
        ("[::1]:65535", "::1", 65535),
        ("localhost:0", "localhost", 0),
    ],
)
def test_address_is_read(text: str, host: str, port: int) -> None:
    """In the ways in which addresses are written."""
    assert HttpEndpoint(host=host, port=port) == HttpEndpoint.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:9876",
        "[::]:9876",
        "192.0.2.1:9876",
        "example.com:9876",
        "::1:9876",
        "127.0.0.1",
        "127.0.0.1:",
        ":9876",
        "9876",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:٣",
        "127.0.0.1:9876:1",
        "",
    ],
)
def test_address_that_others_reach_or_that_is_none_is_refused(text: str) -> None:
    """Nothing is listened at."""
    with pytest.raises(DeclarationError, match="must"):
        HttpEndpoint.parse(text)


async def test_port_in_use_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """Whoever asks for a port that is taken is told, before any pair is kept."""
    with Store(tmp_path) as store:
        supervisor = Supervisor((), {}, store)
        async with served(supervisor, ANY) as url:
            port = int(url.rstrip("/").rpartition(":")[2])
            taken = HttpEndpoint(host="127.0.0.1", port=port)
            with pytest.raises(OSError, match=str(port)):
                await served(supervisor, taken).__aenter__()
