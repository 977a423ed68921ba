"""What may be declared of the RAM and of its copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pycolo.errors import DeclarationError
from pycolo.model import Machine, MemoryBackend, Migration

HUGE = MemoryBackend(kind="memfd", huge_page_size_mib=1024)
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no such kind": (
        lambda: MemoryBackend(kind="epc"),  # type: ignore[arg-type]  # what a file may hold
        "MemoryBackend.kind must be one of ram, file, memfd, not 'epc'",
    ),
    "a file nowhere": (lambda: MemoryBackend(kind="file"), "folder must be given for kind file"),
    "anonymous in a folder": (lambda: MemoryBackend(folder="/dev/shm"), "and for no other"),
    "a folder anywhere": (
        lambda: MemoryBackend(kind="file", folder="hugepages"),
        "folder must be an absolute path, not 'hugepages'",
    ),
    "huge and anonymous": (lambda: MemoryBackend(huge_page_size_mib=2), "must go with kind memfd"),
    "pages of no host": (
        lambda: MemoryBackend(kind="memfd", huge_page_size_mib=4),
        "huge_page_size_mib must be 2 or 1024",
    ),
    "pages of a broken number": (
        lambda: MemoryBackend(kind="memfd", huge_page_size_mib=2.0),  # type: ignore[arg-type]  # what a file may hold
        "huge_page_size_mib must be 2 or 1024",
    ),
    "half a page": (
        lambda: Machine(memory_mib=1536, memory_backend=HUGE),
        r"memory_mib must be a multiple of memory_backend.huge_page_size_mib \(1024\), not 1536",
    ),
    "preallocated twice": (lambda: Machine(arguments=("-mem-prealloc",)), "be one of -action"),
    "no power of two": (lambda: Machine(dirty_ring_size=3000), "must be one of 1024, 2048"),
    "a ring for an emulator": (
        lambda: Machine(dirty_ring_size=4096, accelerator="tcg"),
        "dirty_ring_size must go with accelerator kvm",
    ),
    "a speed below nothing": (
        lambda: Migration(max_bandwidth_bytes_per_s=-1),
        "max_bandwidth_bytes_per_s must be a whole number from 0",
    ),
    "a pause of hours": (
        lambda: Migration(downtime_limit_ms=2_000_001),
        "downtime_limit_ms must be a whole number from 0 to 2000000",
    ),
    "too many channels": (
        lambda: Migration(multifd_channels=256),
        "multifd_channels must be a whole number from 0 to 255",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused(case: str) -> None:
    """The refusal names the field, the value and the rule."""
    make, why = WRONG[case]
    with pytest.raises(DeclarationError, match=why):
        make()


def test_huge_pages_fill_the_ram() -> None:
    """RAM of whole pages is taken."""
    assert 2048 == Machine(memory_mib=2048, memory_backend=HUGE).memory_mib
