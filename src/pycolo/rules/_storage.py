"""Rules about folders, images and files."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from pycolo.facts import HostFacts, ImageFacts, PairFacts
from pycolo.findings import Finding, Level
from pycolo.model._places import normal
from pycolo.model.disk import ReplicationDisk
from pycolo.model.pair import ColoPair
from pycolo.model.remote import Nbd
from pycolo.model.storage import BackingImage
from pycolo.rules._found import MIB, Rule, found, size_words

NO_SPACE_BYTES = 16 * MIB


def folders(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Folders that are missing or cannot be written to."""
    for name, host in facts.read.items():
        for folder in host.folders or ():
            if folder.is_there and folder.is_writable:
                continue
            why = "may not be written to" if folder.is_there else "is no folder"
            what = f"{folder.path} on {name} {why}"
            remedy = "make it, mount its disk, or give it to the user who starts QEMU"
            yield found("error", "no-folder", name, what, remedy)


def missing_images(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Missing images that a launch does not create."""
    for disk in pair.disks:
        known = {
            n: image for n, host in facts.read.items() if (image := _image(pair, n, disk, host))
        }
        first = pair.nodes[0].name
        for name, image in known.items():
            if image.is_there:
                continue
            what = f"there is no {image.path} on {name}"
            if facts.boots is not None:
                boots = name in facts.boots
            else:
                # A new pair starts on its first node; after a failover another has the guest.
                boots = name == first and not any(one.is_there for one in known.values())
            if boots:
                yield found("error", "no-image", name, what, "put the guest's image there")
            elif pair.initial_sync == "identical":
                remedy = "put a copy of the image there with which the guest starts"
                yield found("error", "no-image", name, what, remedy)
            elif disk.on(name).driver != "file":
                remedy = "make a device of that size: pycolo makes files alone, and fills it"
                yield found("error", "no-image", name, what, remedy)


def _image(pair: ColoPair, name: str, disk: ReplicationDisk, host: HostFacts) -> ImageFacts | None:
    """The facts about a disk's image on a node; None if they were not read."""
    remote = disk.on(name).remote
    if remote is None:
        return _at(disk.paths(pair.node(name))["image"], host)
    return None if isinstance(remote, Nbd) else _at(remote.url, host)


def _at(path: str, host: HostFacts) -> ImageFacts | None:
    """The facts about the image at a path of a host; None if they were not read."""
    return next((image for image in host.images or () if image.path == path), None)


def images(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Images that are not as declared, and images that another process has open."""
    for name, host in facts.read.items():
        for disk in pair.disks:
            image = _image(pair, name, disk, host)
            if image is None or not image.is_there:
                continue
            if image.why:
                is_local = disk.on(name).remote is None
                yield _unread(name, image.path, image.why, is_local=is_local)
            else:
                declared = attrs.evolve(
                    image,
                    image_format=disk.on(name).image_format,
                    size_bytes=disk.size_bytes,
                    is_encrypted=disk.on(name).secret_file is not None,
                )
                remedy = "correct the pair file, or put the right image there"
                yield from _compared(name, image, declared, remedy)
            yield from _used(name, image)


def overlays(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Overlays with which a secondary's QEMU would not start; a primary is started without any."""
    remedy = (
        "move it away, unless it holds writes that a failover has not merged: a new one is made"
    )
    for name, host in facts.read.items():
        if facts.boots is not None and name in facts.boots:
            continue
        known = {overlay.path: overlay for overlay in host.overlays or ()}
        for disk in pair.disks:
            paths, secret = disk.paths(pair.node(name)), disk.on(name).secret_file
            for path in (paths["active_image"], paths["hidden_image"]):
                overlay = known.get(path)
                if overlay is None or not overlay.is_there:
                    continue
                if overlay.why:
                    what = f"the overlay {path} on {name} cannot be read: {overlay.why}"
                    yield found("error", "image-differs", name, what, remedy)
                else:
                    declared = attrs.evolve(
                        overlay,
                        image_format="qcow2",
                        size_bytes=disk.size_bytes,
                        is_encrypted=secret is not None,
                    )
                    yield from _compared(name, overlay, declared, remedy)
                yield from _used(name, overlay)


def _compared(name: str, image: ImageFacts, declared: ImageFacts, remedy: str) -> Iterator[Finding]:
    """The finding that an image or an overlay is not as declared."""
    if image != declared:
        what = f"{image.path} on {name} is {_described(image)}, declared is {_described(declared)}"
        yield found("error", "image-differs", name, what, remedy)


def _described(image: ImageFacts) -> str:
    kind = "encrypted" if image.is_encrypted else "unencrypted"
    return f"{kind} {image.image_format} of {image.size_bytes} bytes"


def _used(name: str, image: ImageFacts) -> Iterator[Finding]:
    """The finding that another process has an image or an overlay open."""
    if image.is_locked:
        by = ", ".join(image.holders) or "a process that this user may not see"
        what = f"{image.path} on {name} is open in {by}"
        yield found("error", "image-in-use", name, what, "end that first")


def _unread(name: str, what: str, why: str, *, is_local: bool) -> Finding:
    """The finding that an image cannot be read; of a remote one, nobody knows whether it exists."""
    clause = f"{what} on {name} cannot be read: {why}"
    if is_local:
        remedy = "correct it: pycolo overwrites no image"
        return found("error", "image-differs", name, clause, remedy)
    remedy = "start its server, make the image, or correct the pair file"
    return found("error", "no-image", name, clause, remedy)


def backing_images(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Backing images that are missing or not as declared, and headers that name another one."""
    for name, host in facts.read.items():
        for disk in pair.disks:
            here = disk.on(name)
            above = _image(pair, name, disk, host)
            for layer in here.backing:
                yield from _named(name, above, layer)
                above = _at(layer.image, host)
                yield from _layer(name, above, layer)


def _named(name: str, above: ImageFacts | None, layer: BackingImage) -> Iterator[Finding]:
    """The finding that the header of an image does not name the image declared below it."""
    if above is None or not above.is_there or above.why:
        return
    if not _is_same_place(above.backing, layer.image):
        what = (
            f"the header of {above.path} on {name} names {above.backing or 'no backing image'},"
            f" declared is {layer.image}"
        )
        remedy = "correct the pair file, or the header with `qemu-img rebase`"
        yield found("error", "image-differs", name, what, remedy)


def _is_same_place(named: str, declared: str) -> bool:
    """Whether a header's backing image is the declared one, by its path or URL."""
    return named == declared or (
        named[:1] == declared[:1] == "/" and normal(named) == normal(declared)
    )


def _layer(name: str, image: ImageFacts | None, layer: BackingImage) -> Iterator[Finding]:
    """The findings about one backing image; none if it was not read."""
    if image is None:
        return
    if not image.is_there:
        what = f"there is no backing image {image.path} on {name}"
        yield found("error", "no-image", name, what, "put it there, or correct the pair file")
    elif image.why:
        what = f"the backing image {image.path}"
        yield _unread(name, what, image.why, is_local=layer.is_local)
    elif image.image_format != layer.image_format:
        what = (
            f"the backing image {image.path} on {name} has format {image.image_format}, declared"
            f" is {layer.image_format}"
        )
        remedy = "correct the pair file, or put the right image there"
        yield found("error", "image-differs", name, what, remedy)


def space(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Too little space for images that are to be created, and for overlays."""
    # Each of the two overlays may grow to the size of the disk.
    overlays_bytes = 2 * sum(disk.size_bytes for disk in pair.disks)
    for name, host in facts.read.items():
        place = pair.node(name)
        missing = [
            disk.size_bytes
            for disk in pair.disks
            if (image := _image(pair, name, disk, host)) is not None and not image.is_there
        ]
        needed = {place.image_folder: sum(missing)}
        needed[place.overlay_folder] = needed.get(place.overlay_folder, 0) + overlays_bytes
        seen: set[str] = set()
        for folder in host.folders or ():
            if not folder.is_there or folder.file_system in seen:
                continue
            seen.add(folder.file_system)
            wanted_bytes = sum(
                needed.get(other.path, 0)
                for other in host.folders or ()
                if other.file_system == folder.file_system
            )
            if folder.free_bytes >= wanted_bytes:
                continue
            what = f"{folder.path} on {name} has {size_words(folder.free_bytes)} left"
            remedy = f"have {size_words(wanted_bytes)} there, for images and overlays at their most"
            level: Level = (
                "error" if folder.free_bytes < min(NO_SPACE_BYTES, wanted_bytes) else "warning"
            )
            yield found(level, "little-space", name, what, remedy)


def files(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Files that QEMU needs and cannot read, and folders that such files should be in."""
    for name, host in facts.read.items():
        absent: dict[str, list[str]] = {}
        for file in host.files or ():
            if not file.is_folder_there:
                folder, _, own = file.path.rpartition("/")
                absent.setdefault(folder, []).append(own)
        for folder, names in absent.items():
            what = f"there is no folder {folder} on {name}, for {', '.join(names)}"
            remedy = "make it, for the user who starts QEMU to read, or correct the pair file"
            yield found("error", "unread-file", name, what, remedy)
        for file in host.files or ():
            if file.why and file.is_folder_there:
                what = f"{file.path} on {name} cannot be read: {file.why}"
                remedy = "put it there, for the user who starts QEMU to read"
                yield found("error", "unread-file", name, what, remedy)


RULES = (
    Rule(codes=("no-folder",), check=folders, parts=("folders",), before=("launch",)),
    Rule(codes=("no-image",), check=missing_images, parts=("images",), before=("launch",)),
    Rule(
        codes=("no-image", "image-differs", "image-in-use"),
        check=images,
        parts=("images",),
        before=("launch",),
    ),
    Rule(
        codes=("image-differs", "image-in-use"),
        check=overlays,
        parts=("overlays",),
        before=("launch",),
    ),
    Rule(
        codes=("no-image", "image-differs"),
        check=backing_images,
        parts=("images",),
        before=("launch",),
    ),
    Rule(codes=("little-space",), check=space, parts=("folders", "images")),
    Rule(codes=("unread-file",), check=files, parts=("files",), before=("launch",)),
)
