"""`pycolo list`: the pairs whose files are in some folders, and the state of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, final

import attrs

from pycolo import _decode, operate, pairfile
from pycolo._json import JsonObject, JsonValue
from pycolo._printable import brief, one_line, page, reason
from pycolo.errors import DeclarationError, ParseError, PycoloError
from pycolo.model import ColoPair
from pycolo.snapshot import Snapshot, role_of
from pycolo.standing import Standing, standing

LIMIT_S: Final = 10.0
AT_ONCE: Final = 8


@final
@attrs.frozen(kw_only=True)
class Listed:
    """One pair file, and the state of its pair."""

    file: Path
    "The path of the file."
    pair: ColoPair | None
    "The pair that the file declares; None if the declaration is not valid."
    found: Standing
    "The state of the pair."
    snapshot: Snapshot | None = None
    "What the nodes answered; None if they were not asked, or did not answer in time."


async def listed(folders: Sequence[Path]) -> tuple[Listed, ...]:
    """Read every pair file of some folders, and ask the nodes of `AT_ONCE` pairs at a time.

    Args:
        folders: The folders; their subfolders are not read.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def one(path: Path) -> Listed:
        async with places:
            return await _one(path)

    return tuple(await asyncio.gather(*(one(path) for path in _pair_files(folders))))


def _pair_files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix in (".toml", ".json") and path.is_file() and _declares_nodes(path):
                yield path


def _declares_nodes(path: Path) -> bool:
    """Whether a file could be a pair file; other programs' files have the same extensions.

    A TOML file that cannot be read could be one: a pair must not vanish by a slip of the hand.
    """
    try:
        text = _decode.file_text(path)
        value = _decode.json_value(text) if path.suffix == ".json" else _decode.toml_value(text)
    except (ParseError, OSError):
        return path.suffix == ".toml"
    return isinstance(value, dict) and isinstance(value.get("nodes"), list)


async def _one(path: Path) -> Listed:
    try:
        pair = pairfile.load(path)
    except (DeclarationError, OSError) as error:
        found = Standing(state="unknown", text=brief(reason(error)))
        return Listed(file=path, pair=None, found=found)
    try:
        async with asyncio.timeout(LIMIT_S):
            snapshot = await operate.status(pair)
    except (PycoloError, OSError, TimeoutError) as error:
        why = reason(error) or f"no answer within {LIMIT_S:g} s"
        return Listed(file=path, pair=pair, found=Standing(state="unknown", text=brief(why)))
    return Listed(file=path, pair=pair, found=standing(snapshot), snapshot=snapshot)


def table(found: Sequence[Listed]) -> str:
    """One line for each pair: its name, its state, and a sentence about the state.

    If two files declare pairs of one name, their lines name the files instead.
    """
    if not found:
        return "no pair file lies here\n"
    given = Counter(one.pair.name for one in found if one.pair is not None)
    names = [
        one_line(str(one.file) if one.pair is None or given[one.pair.name] > 1 else one.pair.name)
        for one in found
    ]
    name_width = max(map(len, names))
    state_width = max(len(one.found.state) for one in found)
    lines = [
        f"{name:{name_width}}  {one.found.state:{state_width}}  {one_line(one.found.text)}"
        for name, one in zip(names, found, strict=True)
    ]
    return page(lines, colour=False)


def to_json(found: Sequence[Listed]) -> JsonObject:
    """The listed pairs as JSON."""
    pairs: list[JsonValue] = [_row(one) for one in found]
    return {"format_version": 1, "pairs": pairs}


def _row(one: Listed) -> JsonObject:
    states = {} if one.snapshot is None else one.snapshot.nodes
    return {
        "file": str(one.file),
        "pair": None if one.pair is None else one.pair.name,
        "state": one.found.state,
        "text": one.found.text,
        "roles": {name: role_of(state) for name, state in states.items()},
    }
