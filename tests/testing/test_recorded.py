"""Lives recorded on real QEMUs, played again on fakes: the same answers, the same events."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, final

import attrs
import pytest
from tests.testing.recording import Line, is_query, load, read_part
from tests.testing.testbed import NAMES, SIZE_BYTES, VERSIONS

from pycolo._probe import QUESTIONS, with_reply
from pycolo.errors import ParseError
from pycolo.model.node import Node
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import PackagedVersion
from pycolo.snapshot import Live
from pycolo.testing import FakeQemu, World
from pycolo.testing._monitor import Client

STEP_S = 0.002
PATIENCE_S = 10.0
TOLD: Final = (
    *("STOP", "RESUME", "MIGRATION", "JOB_STATUS_CHANGE", "BLOCK_JOB_READY"),
    *("BLOCK_JOB_COMPLETED", "BLOCK_EXPORT_DELETED", "SHUTDOWN"),
)
ASKED: Final = (*(type(question) for question in QUESTIONS), qmp.QomGet)


@final
class Player:
    """Plays recorded lines on fakes, and lets time pass where they were ahead."""

    def __init__(self, version: PackagedVersion, lines: list[Line]) -> None:
        """Make the world in which the recording was made."""
        self.world = World(version)
        self.lines = lines
        self._block = re.findall(r"127\.0\.(\d+)\.1", json.dumps(lines))[0]
        self._clients: dict[str, Client] = {}
        self._came: dict[str, list[Line]] = {}
        self._seen: dict[tuple[str, str], Live] = {}
        self._number = 0

    def play(self) -> None:
        """Play every line."""
        for number, line in enumerate(self.lines, 1):
            if is_passing(line, self.lines[number:]):
                continue
            match line:
                case {"launch": str(name), "argv": list(argv)}:
                    self._launch(name, [str(word) for word in argv])
                case {"kill": str(name)}:
                    # The recorded deaths came between two checkpoints.
                    while any(q.live.run_state == "colo" for q in self.world.processes if q.alive):
                        self.world.advance(STEP_S)
                    self.world.qemu(name).kill()
                case {"send": dict(sent), "node": str(node)}:
                    self._catch_up(node, self.lines[:number])
                    self._send(f"line {number}", node, sent, line)
                case _:
                    pass

    def events(self, node: str) -> list[Line]:
        """The events of a node."""
        return [message for message in self._came[node] if "event" in message]

    def _launch(self, name: str, argv: list[str]) -> None:
        address = f"127.0.{self._block}.{NAMES.index(name) + 1}"
        node = Node(
            name=name,
            address=address,
            image_folder=f"/pair/{name}",
            run_dir=f"/pair/{name}/run",
        )
        for image in ("disk.raw", "secondary-active.qcow2", "secondary-hidden.qcow2"):
            self.world.create_image(node, node.image_path(image), SIZE_BYTES)
        self._meet(self.world.launch(argv, node))

    def _meet(self, qemu: FakeQemu) -> None:
        came = self._came.setdefault(qemu.node.name, [])

        def hear(data: bytes) -> None:
            came.append(json.loads(data))

        client = Client(hear, lambda: None)
        self._clients[qemu.node.name] = client
        qemu.monitors[0].join(client)
        enable = {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}
        qemu.monitors[0].receive(client, json.dumps(enable).encode())

    def _answer(self, node: str, sent: Line) -> Mapping[str, object] | None:
        self._number += 1
        number = self._number
        message = json.dumps({**sent, "id": number}).encode()
        self.world.qemu(node).monitors[0].receive(self._clients[node], message)
        for _ in range(int(PATIENCE_S / STEP_S)):
            for found in reversed(self._came[node]):
                if found.get("id") == number:
                    return found
            self.world.advance(STEP_S)
        return None

    def _catch_up(self, node: str, before: list[Line]) -> None:
        """Let time pass until the fake has told as much as the real one had by then."""
        told = order([line for line in before if line.get("node") == node and "event" in line])
        end_s = self.world.now_s + PATIENCE_S
        while len(order(self.events(node))) < len(told) and self.world.now_s < end_s:
            self.world.advance(STEP_S)

    def _send(self, where: str, node: str, sent: Line, line: Line) -> None:
        wanted = self._part(node, "real", sent, line)
        found = self._fake(node, sent)
        end_s = self.world.now_s + PATIENCE_S
        while is_query(sent) and wanted != found and self.world.now_s < end_s:
            self.world.advance(STEP_S)
            found = self._fake(node, sent)
        assert wanted == found, f"{where}, {self.world.version}, {node}: {sent}"

    def _fake(self, node: str, sent: Line) -> object:
        answer = self._answer(node, sent)
        assert answer is not None, f"{node} did not answer {sent}"
        return self._part(node, "fake", sent, answer)

    def _part(self, node: str, kind: str, sent: Line, answer: Mapping[str, object]) -> object:
        """What a snapshot would know from an answer; all of it where that is nothing."""
        if "error" in answer:
            return answer["error"]
        value = answer["return"]
        if not is_query(sent):
            return value
        name = sent.get("execute", sent.get("exec-oob"))
        try:
            command = qmp.command_from_qmp(
                {"execute": name, "arguments": sent.get("arguments", {})}
            )
        except ParseError:
            return read_part(sent, value)
        known = self._seen.get((node, kind), Live(version=Version.parse(self.world.version)))
        if isinstance(command, ASKED):
            known = with_reply(known, command, command.parse_reply(value))
            self._seen[node, kind] = known
        # The numbers in names that QEMU makes up are not the same twice.
        exports = {
            name: node.rstrip("0123456789") if node.startswith("#") else node
            for name, node in known.exports.items()
        }
        # The recordings keep nothing of caches, and query-block was not asked then.
        known = attrs.evolve(known, exports=exports, caches=None, drives=None)
        return attrs.asdict(known, recurse=False)


def is_passing(line: Line, later: list[Line]) -> bool:
    """Whether it is an answer to a poll that was asked again: its moment cannot be met."""
    sent = line.get("send")
    if not isinstance(sent, dict) or not is_query(sent):
        return False
    for other in later:
        if other.get("node") == line["node"] and "send" in other:
            if other["send"] == sent:
                return True
            assert isinstance(other["send"], dict)
            if not is_query(other["send"]):
                return False
    return False


def order(events: list[Line]) -> list[object]:
    """The events that say what happened, without checkpoints: those come when their time is."""
    told: list[object] = []
    stopped: int | None = None
    for event in events:
        name = event["event"]
        if name not in TOLD:
            continue
        if name == "RESUME" and stopped is not None:
            del told[stopped]
            stopped = None
            continue
        stopped = len(told) if name == "STOP" else None if name == "MIGRATION" else stopped
        data = event.get("data", {})
        assert isinstance(data, dict)
        told.append((name, data.get("status")) if "status" in data else name)
    return told


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_life_is_the_same_on_fakes(version: PackagedVersion) -> None:
    """Each command is answered as the real QEMU did, and each node tells the same in that order."""
    lines = load(version)
    player = Player(version, lines)
    player.play()
    player.world.advance(0.2)
    for node in ("alpha", "beta", "gamma", "delta"):
        real = order([line for line in lines if line.get("node") == node and "event" in line])
        assert real == order(player.events(node)), (version, node)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recording_has_both_failovers(version: PackagedVersion) -> None:
    """The recorded lives are whole: each was promoted once and continued alone once."""
    sent = [str(line.get("send")) for line in load(version)]
    assert 2 == sum("x-colo-lost-heartbeat" in command for command in sent) - sum(
        "quit" in command for command in sent
    )
