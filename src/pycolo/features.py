"""Every difference between QEMU versions that a plan depends on, in one table.

`TABLE` has one row per feature, with the first version that has it. `KNOWN_BROKEN` lists the
versions whose COLO does not work at all, with the first good one. No other module of the package
compares versions.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, final, get_args

import attrs

from pycolo.errors import VersionError
from pycolo.model.hardware import Property
from pycolo.model.machine import Accelerator, Machine
from pycolo.model.pair import CHECKPOINTS_OFF_MS, ColoPair
from pycolo.qmp.replies import Version

Feature = Literal[
    "reconnect_ms",
    "pause_before_switchover",
    "return_path",
    "tcg",
    "q35",
    "multifd",
    "dirty_ring",
    "iothread",
    "nvme",
]


def _version(text: str) -> Version:
    return Version.parse(text)


@final
@attrs.frozen(kw_only=True)
class Row:
    """One feature: the first version with which a plan uses it, and its meaning."""

    feature: Feature
    since: Version
    meaning: str
    source: str
    "The entries of docs/qemu-behaviour.md that describe it."
    accelerators: tuple[Accelerator, ...] = get_args(Accelerator)
    "The accelerators with which a plan uses the feature."


TABLE: tuple[Row, ...] = (
    Row(
        feature="reconnect_ms",
        since=_version("9.2.0"),
        meaning="client sockets reconnect after `reconnect-ms`; before, after `reconnect` seconds",
        source="2.3",
    ),
    Row(
        feature="pause_before_switchover",
        since=_version("10.0.0"),
        meaning="COLO entry can pause before the switch-over, so the guest runs during a resync",
        source="17.6, 17.11, 18.1",
        # Not under TCG: pages that a running guest writes would be missing on the secondary.
        accelerators=("kvm",),
    ),
    Row(
        feature="return_path",
        since=_version("11.0.0"),
        meaning="x-colo needs the capability return-path on both sides; before, it breaks COLO",
        source="2.3, 4.7",
    ),
    Row(
        feature="tcg",
        since=_version("11.0.0"),
        meaning="checkpoints work under TCG; before, the first one deadlocks the primary",
        source="1.6",
    ),
    Row(
        feature="q35",
        since=_version("11.0.0"),
        meaning="machine type q35 survives a checkpoint",
        source="2.4",
    ),
    Row(
        feature="multifd",
        since=_version("11.0.0"),
        meaning="multifd survives a checkpoint, and the RAM is sent by it",
        source="2.4, 22.2",
    ),
    Row(
        feature="dirty_ring",
        since=_version("11.0.0"),
        meaning="KVM's dirty ring survives a checkpoint; before, the primary aborts at the first",
        source="22.3",
        accelerators=("kvm",),
    ),
    Row(
        feature="iothread",
        since=_version("10.0.0"),
        meaning="a disk may be served by an iothread; before, QEMU aborts",
        source="23.3",
    ),
    Row(
        feature="nvme",
        since=_version("11.0.0"),
        meaning="an NVMe disk can be moved; before, it blocks migration",
        source="19.4, 23.2",
    ),
)


@final
@attrs.frozen(kw_only=True)
class Broken:
    """A range of versions whose COLO does not work."""

    first: Version
    last: Version
    reason: str
    good: Version
    "The first version of that series that works."


KNOWN_BROKEN: tuple[Broken, ...] = (
    Broken(
        first=_version("8.2.0"),
        last=_version("8.2.3"),
        reason="the secondary aborts when it enters COLO",
        good=_version("8.2.4"),
    ),
    Broken(
        first=_version("9.0.0"),
        last=_version("9.0.0"),
        reason="the secondary aborts when it enters COLO",
        good=_version("9.0.1"),
    ),
    Broken(
        first=_version("10.0.0"),
        last=_version("10.0.6"),
        reason="COLO is never entered: the migration completes and no guest runs",
        good=_version("10.0.7"),
    ),
    Broken(
        first=_version("10.1.0"),
        last=_version("10.1.2"),
        reason="COLO is never entered: the migration completes and no guest runs",
        good=_version("10.1.3"),
    ),
)

# The series that were tested with COLO: the first version, and the first version after the series.
PROVEN: tuple[tuple[Version, Version | None], ...] = (
    (_version("7.2.0"), _version("7.3.0")),
    (_version("10.0.7"), _version("10.1.0")),
    (_version("11.0.0"), None),
)


@final
@attrs.frozen(kw_only=True)
class Features:
    """The features that one QEMU version has, as far as COLO plans depend on them; see `TABLE`."""

    version: Version
    reconnect_ms: bool
    pause_before_switchover: bool
    return_path: bool
    tcg: bool
    q35: bool
    multifd: bool
    dirty_ring: bool
    iothread: bool
    nvme: bool


@functools.cache
def of(version: Version, accelerator: Accelerator | None = None) -> Features:
    """The features of a version, whether or not its COLO works.

    Args:
        version: QEMU's version triple.
        accelerator: The accelerator that runs the guest; None for the features that the version has
            with at least one accelerator.
    """
    has = {
        row.feature: version >= row.since and accelerator in (None, *row.accelerators)
        for row in TABLE
    }
    return Features(version=version, **has)


def accept(version: Version, *, assume_good: Collection[Version] = ()) -> Features:
    """The features of a version that COLO plans may be compiled for.

    Args:
        version: QEMU's version triple.
        assume_good: Versions that the operator vouches for, for example because a distribution
            repaired them without changing the triple.

    Raises:
        VersionError: COLO is known to be broken in this version (the error names the first good
            version), or the series was not tested; never for a version in `assume_good`.
            Source: qemu-behaviour 2.1, 2.4, 12.1.
    """
    if version in assume_good:
        return of(version)
    for broken in KNOWN_BROKEN:
        if broken.first <= version <= broken.last:
            why = f"{broken.reason}, from {broken.first} to {broken.last}"
            remedy = (
                f"install a later one, good from {broken.good}, or vouch for a repaired one with"
                f" --assume-good {version}"
            )
            raise VersionError((str(version),), why, remedy)
    if not any(first <= version and (end is None or version < end) for first, end in PROVEN):
        why = "not proven: 7.2.x, 10.0.7 and later 10.0.x, and 11.0 and later are"
        remedy = f"install one of those, or vouch for it with --assume-good {version}"
        raise VersionError((str(version),), why, remedy)
    return of(version)


def accept_pair(
    pair: ColoPair, qemu: Mapping[str, Version], *, assume_good: Collection[Version] = ()
) -> Features:
    """The features that both nodes of a pair have with the pair's accelerator.

    Args:
        pair: The declaration; the version must be able to protect its machine.
        qemu: Node name to QEMU version, at least one node.
        assume_good: Versions that the operator vouches for; see `accept`.

    Raises:
        VersionError: `accept` refuses a version, or the versions differ, or this version cannot
            protect the pair's machine.
    """
    versions = dict.fromkeys(qemu.values())
    if len(versions) != 1:
        found = ", ".join(f"{node} runs {version}" for node, version in qemu.items())
        raise VersionError(
            tuple(map(str, versions)),
            f"both nodes must run the same version: {found}",
            "install one version on both hosts",
        )
    features = accept(next(iter(versions)), assume_good=assume_good)
    _check_machine(pair, pair.machine, features)
    return of(features.version, pair.machine.accelerator)


def _check_machine(pair: ColoPair, machine: Machine, features: Features) -> None:
    """Check that a version can protect a machine.

    Raises:
        VersionError: The version cannot; the error names the setting to change.
    """
    if machine.accelerator == "tcg" and not features.tcg:
        off = pair.checkpoint_delay_ms == CHECKPOINTS_OFF_MS
        if pair.chains or not off:
            why = "deadlocks at the first checkpoint under TCG"
            remedy = (
                "use KVM or QEMU 11.0, or declare no chains and put checkpoints off"
                f" (checkpoint_delay_ms = {CHECKPOINTS_OFF_MS})"
            )
            raise VersionError((str(features.version),), why, remedy)
    if "q35" in machine.machine_type and not features.q35:
        why = "cannot load a q35's state twice"
        remedy = "use machine_type pc or QEMU 11.0"
        raise VersionError((str(features.version),), why, remedy)
    if pair.migration.multifd_channels and not features.multifd:
        why = "cannot load a checkpoint with multifd, and its secondary ends"
        remedy = "leave migration.multifd_channels out or use QEMU 11.0"
        raise VersionError((str(features.version),), why, remedy)
    if machine.dirty_ring_size is not None and not features.dirty_ring:
        why = "aborts at the first checkpoint with KVM's dirty ring"
        remedy = "leave machine.dirty_ring_size out or use QEMU 11.0"
        raise VersionError((str(features.version),), why, remedy)
    if not features.iothread and any(_IOTHREADS & told.keys() for told in _disk_properties(pair)):
        why = "aborts with a disk in an iothread"
        named = " and ".join(sorted(_IOTHREADS))
        remedy = f"leave {named} out of the properties of disks and devices, or use QEMU 10.0.7"
        raise VersionError((str(features.version),), why, remedy)
    if not features.nvme and any(disk.device == "nvme" for disk in pair.disks):
        why = "cannot move an NVMe disk ('non-migratable device')"
        remedy = "give the disk another device, or use QEMU 11.0"
        raise VersionError((str(features.version),), why, remedy)


_IOTHREADS = frozenset({"iothread", "iothread-vq-mapping"})


def _disk_properties(pair: ColoPair) -> Iterator[Mapping[str, Property]]:
    """The properties of the disks, and of the other devices, which may be disk controllers."""
    yield from (disk.properties for disk in pair.disks)
    yield from (device.properties for device in pair.machine.devices)


def table_text() -> str:
    """The table as Markdown, for the documentation."""
    head = "| feature | from QEMU | with | meaning | qemu-behaviour |\n|---|---|---|---|---|\n"
    rows = (
        f"| `{row.feature}` | {row.since} | {', '.join(row.accelerators)} | {row.meaning}"
        f" | {row.source} |\n"
        for row in TABLE
    )
    return head + "".join(rows)


_BESIDE_DOCUMENT = "print this plan, or use dialect auto"


def refuse_document(pair: ColoPair, version: Version) -> None:
    """Refuse to run a plan of dialect `doc` if QEMU would not accept its commands.

    Args:
        pair: The declaration.
        version: QEMU's version triple.

    Raises:
        VersionError: The plan's commands do not work with this version or with the pair's
            accelerator, or `accept` refuses the version, even if the operator vouches for it.
            Source: qemu-behaviour 18.2.
    """
    features = of(version)
    if not features.reconnect_ms:
        why = "does not know the document's reconnect-ms"
        raise VersionError((str(version),), why, _BESIDE_DOCUMENT)
    if features.return_path:
        why = "refuses the document's capabilities"
        raise VersionError((str(version),), why, _BESIDE_DOCUMENT)
    accept(version)
    if pair.machine.accelerator != "kvm":
        why = "runs the document's plan with KVM alone"
        raise VersionError((str(version),), why, _BESIDE_DOCUMENT)
