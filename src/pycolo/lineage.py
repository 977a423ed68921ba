"""Which node holds the newest data: durable, since QEMU does not know it.

After a failover the other node's image is stale, and booting it would lose writes that were
acknowledged. A small file beside each node's first image says which node is newest and in which
epoch; each promotion begins a new epoch. Of the files of two nodes the higher epoch is right.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self, final

import attrs

from pycolo.errors import CompileError, ParseError
from pycolo.model.node import Node
from pycolo.model.pair import ColoPair

FORMAT_VERSION: Final = 1


@final
@attrs.frozen(kw_only=True)
class Lineage:
    """What is known of the data's descent."""

    newest: str
    "The node with the newest data."
    epoch: int
    "How many times a node was promoted; higher is later."
    pair: str
    "The pair's name."

    @classmethod
    def from_json(cls, value: object, path: str) -> Self:
        """Parse the file's content.

        Raises:
            ParseError: It is not of this format, or of one that is not known.
        """
        if not isinstance(value, dict):
            raise ParseError(path, "be an object", value)
        if value.get("format_version") != FORMAT_VERSION:
            rule = f"have the format_version {FORMAT_VERSION}"
            raise ParseError(path, rule, value.get("format_version"))
        newest, epoch, pair = value.get("newest"), value.get("epoch"), value.get("pair")
        if not isinstance(newest, str) or type(epoch) is not int or not isinstance(pair, str):
            raise ParseError(path, "have newest, epoch and pair", value)
        return cls(newest=newest, epoch=epoch, pair=pair)

    def to_json(self) -> dict[str, object]:
        """Give the file's content."""
        return {
            "format_version": FORMAT_VERSION,
            "newest": self.newest,
            "epoch": self.epoch,
            "pair": self.pair,
        }


def path_of(pair: ColoPair, node: Node) -> Path:
    """Where a node keeps it: beside its first image, or in its run directory without disks."""
    if pair.disks:
        return Path(node.image_path(pair.disks[0].image) + ".lineage.json")
    return Path(node.run_dir) / "lineage.json"


def read(path: Path) -> Lineage | None:
    """Read one file; None where there is none.

    Raises:
        ParseError: It cannot be understood; nothing may be launched on a guess.
        OSError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise ParseError(str(path), "be JSON", text) from error
    return Lineage.from_json(value, str(path))


def write(path: Path, lineage: Lineage, *, durably: bool = True) -> None:
    """Replace one file, whole or not at all.

    Args:
        path: The file.
        lineage: What it shall say.
        durably: Return only when it is on the disk, which can take some milliseconds.

    Raises:
        OSError: It could not be written; the old one is still there.
    """
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(lineage.to_json()) + "\n")
        stream.flush()
        if durably:
            os.fsync(stream.fileno())
    fresh.replace(path)
    if not durably:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def newest(found: Iterable[Lineage | None]) -> Lineage | None:
    """Of what several nodes keep, what is true: the highest epoch; None where none keeps any.

    Raises:
        CompileError: Two of the same epoch name different nodes: a person must decide.
    """
    known = [lineage for lineage in found if lineage is not None]
    if not known:
        return None
    top = max(known, key=lambda lineage: lineage.epoch)
    rivals = sorted({x.newest for x in known if x.epoch == top.epoch})
    if len(rivals) > 1:
        why = f"in epoch {top.epoch} each of {' and '.join(rivals)} is said to hold the newest data"
        raise CompileError(why, "say which one with --newest NODE")
    return top


@final
class LineageFiles:
    """Keeps the files of all nodes whose image folder is on this machine."""

    def __init__(self, pair: ColoPair) -> None:
        self._pair = pair

    def read(self) -> Mapping[str, Lineage | None]:
        """What each node within reach keeps.

        Raises:
            CompileError: One is of another pair: its image was not made for this one.
            ParseError: One cannot be understood.
            OSError: One cannot be read.
        """
        found = {name: read(path) for name, path in self._paths().items()}
        for name, lineage in found.items():
            if lineage is not None and lineage.pair != self._pair.name:
                why = f"the image of {name} is one of the pair {lineage.pair}"
                raise CompileError(why, f"take another image, or remove {self._paths()[name]}")
        return found

    def keeps(self, node: str) -> bool:
        """Whether the node's file is within reach."""
        return node in self._paths()

    def known(self) -> Lineage | None:
        """What is true by the files within reach.

        Raises:
            CompileError: They contradict each other: a person must decide.
            ParseError: One cannot be understood.
            OSError: One cannot be read.
        """
        return newest(self.read().values())

    def promote(self, survivor: str) -> None:
        """Begin a new epoch in which the survivor is newest.

        Raises:
            OSError: The survivor's own file could not be written; others only hold less.
        """
        self._write(survivor, 1 + self._highest())

    def claim(self, primary: str) -> None:
        """Say that the primary is newest; a new epoch only where another one was.

        Raises:
            OSError: The primary's own file could not be written.
        """
        found = [x for x in self._found() if x.epoch == self._highest()]
        same = bool(found) and all(x.newest == primary for x in found)
        self._write(primary, self._highest() + (0 if same else 1))

    def _write(self, holder: str, epoch: int) -> None:
        lineage = Lineage(newest=holder, epoch=epoch, pair=self._pair.name)
        paths = self._paths()
        if holder not in paths:
            raise FileNotFoundError(f"the image folder of {holder} is not on this machine")
        # Only the holder's must not be missed, by a power cut even; the guest waits for it.
        write(paths.pop(holder), lineage)
        for path in paths.values():
            with contextlib.suppress(OSError):
                write(path, lineage, durably=False)

    def _highest(self) -> int:
        return max((lineage.epoch for lineage in self._found()), default=0)

    def _found(self) -> list[Lineage]:
        found = []
        for path in self._paths().values():
            try:
                lineage = read(path)
            except (OSError, ParseError):
                # What cannot be read must not keep a promotion from being written down.
                continue
            if lineage is not None:
                found.append(lineage)
        return found

    def _paths(self) -> dict[str, Path]:
        nodes = (*self._pair.nodes, *self._pair.spares)
        paths = {node.name: path_of(self._pair, node) for node in nodes}
        return {name: path for name, path in paths.items() if path.parent.is_dir()}
