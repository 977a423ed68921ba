"""Clusters of real etcd for tests: fetched as the QEMU builds are, on loopback addresses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, final

import pytest
from tests import debian
from tests.qemu.life import loopback

ETCD: Final = [pytest.mark.etcd, pytest.mark.heavy]
"Marks a test that runs on a real etcd."
NAMES: Final = ("one", "two", "three")
"What the members of a cluster are called."
_LIMIT_S: Final = 20.0


def program(name: str) -> list[str]:
    """The command line that runs one of etcd's programs."""
    return debian.program(name, "etcd-server", "etcd-client")


@final
class Member:
    """One etcd."""

    def __init__(
        self,
        name: str,
        address: str,
        folder: Path,
        options: Sequence[str] = (),
        *,
        environment: Mapping[str, str] = MappingProxyType({}),
        enter: Sequence[str] = (),
    ) -> None:
        self.name: Final = name
        self.address: Final = address
        self.folder: Final = folder
        self._argv = [*enter, *program("etcd"), "--data-dir", str(folder), *options]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with what it holds."""
        with self.folder.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Freeze it: none of its threads runs when this returns."""
        process = self._signal(signal.SIGSTOP)
        end_s = time.monotonic() + _LIMIT_S
        while not all(_is_stopped(stat) for stat in Path(f"/proc/{process}/task").glob("*/stat")):
            assert time.monotonic() < end_s, f"{self.name} does not stop"

    def resume(self) -> None:
        """Let it continue."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.pid


def _is_stopped(stat: Path) -> bool:
    # The state comes after the name, which is in brackets and may hold any character.
    return stat.read_text().rpartition(")")[2].split()[0] == "T"


class Addresses(Protocol):
    """Addresses that are free."""

    def address(self, n: int) -> str:
        """The n-th of them, from 1."""


def _here(_: str) -> Sequence[str]:
    return ()


@final
class Members:
    """Three members of one cluster, none of them started at first.

    Args:
        folder: Where their data lies.
        net: Their addresses.
        label: What tells the cluster from others on the same addresses.
        tls: Options for TLS; with them, clients and members talk to each other by https.
        enter: Gives what to put before a command so that it runs where the member of a name is.
    """

    def __init__(
        self,
        folder: Path,
        net: Addresses,
        label: str = "first",
        tls: Sequence[str] = (),
        enter: Callable[[str], Sequence[str]] = _here,
    ) -> None:
        self.label: Final = label
        "What tells the cluster from others on the same addresses."
        self._enter = enter
        self._scheme = "https" if tls else "http"
        hosts = {name: net.address(number) for number, name in enumerate(NAMES, 1)}
        self.peers: Final = ",".join(f"{n}={self._scheme}://{a}:2380" for n, a in hosts.items())
        "What each of them is told of all of them."
        self.all: Final = tuple(
            Member(
                name,
                host,
                folder / f"{label}-{name}",
                [*self._options(name, host, label), *tls],
                enter=enter(name),
            )
            for name, host in hosts.items()
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The client URLs of its members."""
        return tuple(f"{self._scheme}://{member.address}:2379" for member in self.all)

    def start(self) -> None:
        """Start every member; whoever asks them waits until they serve."""
        for member in self.all:
            member.start()

    def kill(self) -> None:
        """End every member."""
        for member in self.all:
            member.kill()

    def leader(self) -> Member:
        """The member that leads, as all of them say; waits until all of them serve."""
        end_s = time.monotonic() + _LIMIT_S
        told: list[tuple[str, str]] = []
        while time.monotonic() < end_s:
            with contextlib.suppress(subprocess.CalledProcessError):
                told = [self._status(member) for member in self.all]
                leaders = {leader for _, leader in told}
                for member, (own, _) in zip(self.all, told, strict=True):
                    if leaders == {own}:
                        return member
            time.sleep(0.02)
        raise AssertionError(f"no leader: {told}")

    def _status(self, member: Member) -> tuple[str, str]:
        """Its identity, and that of its leader; none is 0."""
        url = f"http://{member.address}:2379"
        asked = (
            "--command-timeout=1s",
            "--endpoints",
            url,
            "endpoint",
            "status",
            "--write-out=json",
        )
        argv = [*self._enter(member.name), *program("etcdctl"), *asked]
        done = subprocess.run(argv, check=True, capture_output=True, timeout=_LIMIT_S)
        status = json.loads(done.stdout)[0]["Status"]
        return str(status["header"]["member_id"]), str(status.get("leader", 0))

    def _options(self, name: str, host: str, label: str) -> list[str]:
        clients, peers = f"{self._scheme}://{host}:2379", f"{self._scheme}://{host}:2380"
        return [
            *("--name", name, "--initial-cluster", self.peers, "--initial-cluster-token", label),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--logger", "zap", "--log-level", "warn"),
        ]


@contextmanager
def members(folder: Path) -> Generator[Members]:
    """A cluster that serves, until the context is left."""
    with loopback() as net:
        cluster = Members(folder, net)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.kill()
