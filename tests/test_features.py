"""Which QEMU versions are accepted, and what differs between them."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import one_of_each

from pycolo import features
from pycolo.errors import VersionError
from pycolo.model import CHECKPOINTS_OFF_MS, Device, Machine, Migration
from pycolo.qmp.replies import Version


def _v(text: str) -> Version:
    return Version.parse(text)


@pytest.mark.parametrize("version", ["7.2.0", "7.2.22", "10.0.7", "10.0.13", "11.0.0", "11.1.3"])
def test_proven_series_are_accepted(version: str) -> None:
    """7.2.x, 10.0.7 and later, and 11.0 and later need nobody's word."""
    assert _v(version) == features.accept(_v(version)).version


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("8.2.0", "8.2.4"),
        ("8.2.3", "8.2.4"),
        ("9.0.0", "9.0.1"),
        ("10.0.2", "10.0.7"),
        ("10.0.6", "10.0.7"),
        ("10.1.2", "10.1.3"),
    ],
)
def test_known_broken_versions_are_refused_with_the_first_good_one(version: str, good: str) -> None:
    """The refusal names the version, the reason and where it is repaired."""
    with pytest.raises(VersionError, match=rf"QEMU {version}: .*good from {good}"):
        features.accept(_v(version))


@pytest.mark.parametrize("version", ["6.2.0", "8.2.4", "9.1.0", "10.1.3", "10.2.0"])
def test_versions_nobody_ran_are_refused_until_vouched_for(version: str) -> None:
    """An unproven series is refused with the way to vouch for it, and accepted with that word."""
    with pytest.raises(VersionError, match=rf"--assume-good {version}"):
        features.accept(_v(version))

    assert _v(version) == features.accept(_v(version), assume_good={_v(version)}).version


def test_a_repaired_build_of_a_broken_version_can_be_vouched_for() -> None:
    """Distributions repair without changing the triple, so the operator's word counts there too."""
    assert features.accept(_v("10.0.2"), assume_good={_v("10.0.2")}).pause_before_switchover


def test_the_word_for_one_version_is_none_for_another() -> None:
    """Vouching for 10.0.2 does not open 10.0.3."""
    with pytest.raises(VersionError):
        features.accept(_v("10.0.3"), assume_good={_v("10.0.2")})


def test_two_versions_are_refused() -> None:
    """Both sides must run the same triple; the refusal names who runs what."""
    with pytest.raises(VersionError, match=r"a runs 10\.0\.13, b runs 11\.1\.3"):
        features.accept_pair(one_of_each(), {"a": _v("10.0.13"), "b": _v("11.1.3")})


@pytest.mark.parametrize("version", ["7.2.22", "10.0.13"])
def test_tcg_below_11_needs_no_chains_and_no_checkpoints(version: str) -> None:
    """TCG deadlocks at the first checkpoint below 11.0, so whoever would meet one is refused."""
    pair = attrs.evolve(one_of_each(), machine=Machine(accelerator="tcg"))
    quiet = attrs.evolve(pair, checkpoint_delay_ms=CHECKPOINTS_OFF_MS)
    bare = attrs.evolve(quiet, chains=())
    qemu = {"alpha": _v(version)}

    with pytest.raises(VersionError, match="TCG"):
        features.accept_pair(pair, qemu)
    with pytest.raises(VersionError, match="TCG"):
        features.accept_pair(quiet, qemu)
    assert _v(version) == features.accept_pair(bare, qemu).version


@pytest.mark.parametrize("version", ["7.2.22", "10.0.13"])
def test_q35_multifd_and_a_dirty_ring_need_11(version: str) -> None:
    """What cannot be loaded a second time is refused below 11.0 and accepted from there."""
    q35 = attrs.evolve(one_of_each(), machine=Machine(machine_type="pc-q35-7.2"))
    multifd = attrs.evolve(one_of_each(), migration=Migration(multifd_channels=1))

    ring = attrs.evolve(one_of_each(), machine=Machine(dirty_ring_size=4096))

    for pair, word in ((q35, "q35"), (multifd, "multifd_channels"), (ring, "dirty_ring_size")):
        with pytest.raises(VersionError, match=word):
            features.accept_pair(pair, {"alpha": _v(version)})
        assert features.accept_pair(pair, {"alpha": _v("11.1.3")}).q35


@pytest.mark.parametrize("version", ["7.2.22", "10.0.13"])
def test_an_nvme_disk_needs_11(version: str) -> None:
    """Before, QEMU cannot move it."""
    one = one_of_each()
    pair = attrs.evolve(one, disks=(attrs.evolve(one.disks[0], device="nvme"),))

    with pytest.raises(VersionError, match="cannot move an NVMe disk"):
        features.accept_pair(pair, {"alpha": _v(version)})
    assert features.accept_pair(pair, {"alpha": _v("11.1.3")}).nvme


def test_a_disk_in_an_iothread_needs_10() -> None:
    """7.2 aborts, whether the disk itself is in a thread or its controller."""
    one = one_of_each()
    served = {"iothread": "io0"}
    device = Device(driver="virtio-scsi-pci", properties=served)
    controller = attrs.evolve(one, machine=Machine(devices=(device,)))
    disk = attrs.evolve(one, disks=(attrs.evolve(one.disks[0], properties=served),))

    for pair in (controller, disk):
        with pytest.raises(VersionError, match="aborts with a disk in an iothread"):
            features.accept_pair(pair, {"alpha": _v("7.2.22")})
        assert features.accept_pair(pair, {"alpha": _v("10.0.13")}).iothread


def test_the_table_is_what_features_are_made_from() -> None:
    """Each row is off just below its version and on from it, for every feature there is."""
    named = {field.name for field in attrs.fields(features.Features)} - {"version"}
    assert named == {row.feature for row in features.TABLE}

    below = Version(major=7, minor=2, micro=0)
    for row in features.TABLE:
        assert getattr(features.of(row.since), row.feature)
        assert not getattr(features.of(below), row.feature)
        assert f"| `{row.feature}` | {row.since} |" in features.table_text()
