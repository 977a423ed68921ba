"""What an image is opened from and stands on."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from tests.compiler.cases import one_of_each

from pycolo.errors import DeclarationError
from pycolo.model import BackingImage, ColoPair, DiskOnNode, ReplicationDisk

SIZE_BYTES = 2**20


def refused(make: Callable[[], object]) -> tuple[str, str]:
    """The field that an error names, and its rule."""
    with pytest.raises(DeclarationError) as caught:
        make()
    return caught.value.field, caught.value.rule


# -- backing images


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        ("base.qcow2", "be an absolute path, or begin with http:// or https://"),
        ("ftp://host/base", "be an absolute path, or begin with http:// or https://"),
        ("/images/", "be an absolute path, or begin with http:// or https://"),
        ("http:///base", "be a URL with a host and without spaces"),
        ("http://host/a b", "be a URL with a host and without spaces"),
        ("http://[::1/base", "be a URL (Invalid IPv6 URL)"),
        (
            "https://me:word@host/base",
            "hold no user or password, which every user of the host could read",
        ),
    ],
)
def test_backing_image_is_a_path_or_a_url(image: str, rule: str) -> None:
    """Anything else is refused with the rule that it breaks."""
    assert ("BackingImage.image", rule) == refused(lambda: BackingImage(image=image))


def test_url_is_no_block_device() -> None:
    """The driver is for paths."""
    made = refused(lambda: BackingImage(image="http://host/base", driver="host_device"))
    assert ("BackingImage.driver", "be file for a URL") == made


def test_only_a_qcow2_has_something_below_it() -> None:
    """The disk's image, and each image of the chain but the last."""
    base = BackingImage(image="/base", image_format="raw")
    for wanted in ("raw", "luks"):
        disk = {"size_bytes": SIZE_BYTES, "image_format": wanted, "backing": (base,)}
        field, _ = refused(lambda: ReplicationDisk(**disk))  # type: ignore[arg-type]  # noqa: B023 - named
        assert "ReplicationDisk.backing" == field
    two = (base, BackingImage(image="/below"))
    field, rule = refused(lambda: ReplicationDisk(size_bytes=SIZE_BYTES, backing=two))
    assert "ReplicationDisk.backing[0].image_format" == field
    assert "be qcow2 if there is an image below it" == rule


def test_image_does_not_back_itself() -> None:
    """Neither twice in a chain, nor as what a QEMU of that host writes to."""
    twice = (BackingImage(image="/base"), BackingImage(image="/base"))
    field, _ = refused(lambda: ReplicationDisk(size_bytes=SIZE_BYTES, backing=twice))
    assert "ReplicationDisk.backing[1].image" == field
    own = BackingImage(image="/var/lib/vm0//primary.qcow2")
    disk = attrs.evolve(one_of_each().disks[0], backing=(own,))
    field, rule = refused(lambda: attrs.evolve(one_of_each(), disks=(disk,)))
    assert "ColoPair.nodes[0].disks[0].backing[0].image" == field
    assert "differ from nodes[0].disks[0].image, which is written to" == rule


def test_backing_images_differ_by_node() -> None:
    """An empty list leaves a node without; both nodes may read one image."""
    base = BackingImage(image="http://images.example/base.raw", image_format="raw")
    disk = ReplicationDisk(
        size_bytes=SIZE_BYTES, backing=(base,), nodes={"beta": DiskOnNode(backing=())}
    )
    pair: ColoPair = attrs.evolve(one_of_each(), disks=(disk,))
    assert [(base,), (), (base,)] == [pair.disks[0].on(name).backing for name in pair.names]
