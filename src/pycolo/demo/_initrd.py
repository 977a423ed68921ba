"""Make an initial RAM disk without the cpio program and without root.

The format is "newc" of the kernel's document "initramfs buffer format". A device node is only an
entry in the archive, so that making one needs no privilege.
"""

import gzip
import stat
from collections.abc import Iterable
from typing import Final, final

import attrs

_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"
_HEADER_FIELDS: Final = 13
_HEADER_BYTES: Final = len(_MAGIC) + 8 * _HEADER_FIELDS


@final
@attrs.frozen(kw_only=True)
class Entry:
    """One file, folder or device node of an archive."""

    path: str
    """The path, without a leading slash."""
    mode: int
    """The file type and permissions, as in `st_mode`."""
    content: bytes = b""
    """The content of a file; empty for folders and device nodes."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def folder(path: str) -> Entry:
    """Make the entry of a folder with mode 0755.

    Args:
        path: The folder's path, without a leading slash.
    """
    return Entry(path=path, mode=stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Entry:
    """Make the entry of an executable file with mode 0755.

    Args:
        path: The file's path, without a leading slash.
        content: The file's content.
    """
    return Entry(path=path, mode=stat.S_IFREG | 0o755, content=content)


def character_device(path: str, major: int, minor: int) -> Entry:
    """Make the entry of a character device that only root may use.

    Args:
        path: The device node's path, without a leading slash.
        major: Major device number.
        minor: Minor device number.
    """
    return Entry(path=path, mode=stat.S_IFCHR | 0o600, device=(major, minor))


def to_newc(entries: Iterable[Entry]) -> bytes:
    """Write an archive in the kernel's newc format.

    Args:
        entries: The entries, each folder before the entries inside it.

    Returns:
        The archive, uncompressed.
    """
    written = [_record(number, entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*written, _record(0, Entry(path=_END, mode=0))])


def from_newc(archive: bytes) -> tuple[Entry, ...]:
    """Read an archive in the kernel's newc format.

    Args:
        archive: The archive, uncompressed.

    Returns:
        Its entries, in order.

    Raises:
        ValueError: The archive ends, or holds something else, at an offset at which a newc header
            must be.
    """
    found: list[Entry] = []
    offset = 0
    while True:
        header = archive[offset : offset + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise ValueError(f"archive at byte {offset} must hold a newc header, not {header!r}")
        fields = [int(header[start : start + 8], 16) for start in range(6, _HEADER_BYTES, 8)]
        mode, size, major, minor, path_bytes = (fields[index] for index in (1, 6, 9, 10, 11))
        start = offset + _HEADER_BYTES
        path = archive[start : start + path_bytes - 1].decode()
        content_at = _aligned(start + path_bytes)
        if path == _END:
            return tuple(found)
        content = archive[content_at : content_at + size]
        found.append(Entry(path=path, mode=mode, content=content, device=(major, minor)))
        offset = _aligned(content_at + size)


def compressed(archive: bytes) -> bytes:
    """Compress an archive so that the kernel can unpack it; equal input gives equal output.

    Args:
        archive: The archive, uncompressed.
    """
    return gzip.compress(archive, compresslevel=6, mtime=0)


def _record(number: int, entry: Entry) -> bytes:
    path = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(number, entry.mode, 0, 0, links, 0, len(entry.content)),
        *(0, 0, *entry.device, len(path), 0),
    )
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(entry.content)


def _padded(part: bytes) -> bytes:
    return part.ljust(_aligned(len(part)), b"\0")


def _aligned(size: int) -> int:
    return (size + 3) // 4 * 4
