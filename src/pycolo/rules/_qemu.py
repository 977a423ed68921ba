"""Rules about QEMU, and about the machine, CPU and firmware that it gives the guest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from pycolo import features, topology
from pycolo.errors import ParseError, VersionError
from pycolo.facts import FileFacts, HostFacts, PairFacts
from pycolo.findings import Finding
from pycolo.model.pair import ColoPair
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import Schema
from pycolo.rules._found import Rule, both, by_name, found


def programs(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Programs that the node needs and its host lacks."""
    for name, host in facts.read.items():
        for program in () if host.programs is None else host.programs.missing:
            what = f"there is no program {program} on {name}"
            remedy = "install it, or set qemu_binary or qemu_img_binary"
            yield found("error", "no-program", name, what, remedy)


def versions(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Versions of QEMU that cannot run the pair, or that differ."""
    known = {n: host.qemu.version for n, host in facts.read.items() if host.qemu is not None}
    if not known:
        return
    try:
        features.accept_pair(pair, {name: Version.parse(one) for name, one in known.items()})
    except VersionError as error:
        yield found("error", "unsupported-version", None, error.what, error.remedy)
    except ParseError as error:
        remedy = "set qemu_binary to a QEMU that pycolo accepts"
        yield found("error", "unsupported-version", None, str(error), remedy)


def parts(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Parts that the pair needs and a host's QEMU lacks."""
    for name, host in facts.read.items():
        if host.qemu is None:
            continue
        lacks = list(host.qemu.lacks)
        if not host.qemu.machine:
            lacks.append(f"machine type {pair.machine.machine_type.partition(',')[0]}")
        elif not host.qemu.has_cpu:
            lacks.append(f"CPU model {(pair.machine.cpu or 'of its own').partition(',')[0]}")
        if lacks:
            what = f"QEMU {host.qemu.version} on {name} has no {', no '.join(lacks)}"
            remedy = (
                "install a build that has it, or its module (on Debian in qemu-block-extra), or"
                " change the declaration"
            )
            yield found("error", "qemu-lacks", name, what, remedy)


def options(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Options of an image that a host's QEMU does not have, or of another type."""
    for name, host in facts.read.items():
        if host.block_schema is not None:
            schema = Schema.from_reply(host.block_schema)
            for what in topology.refused_options(pair, name, schema):
                yield found("error", "unknown-option", name, what, topology.OPTIONS_REMEDY)


def devices(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Devices and properties of the guest that a host's QEMU does not accept."""
    for name, host in facts.read.items():
        if host.devices is None:
            continue
        for clause in host.devices.refused:
            remedy = "correct the pair file, or install a QEMU that has it"
            yield found("error", "unknown-device", name, f"{clause}, on {name}", remedy)
        if host.devices.note:
            what = f"the devices of {name} were {host.devices.note}"
            remedy = "see whether the launch accepts them"
            yield found("note", "unknown-device", name, what, remedy)


def machines(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A machine type whose name means different machines on the hosts."""
    known = {n: host.qemu.machine for n, host in facts.read.items() if host.qemu is not None}
    if len(set(filter(None, known.values()))) > 1:
        what = f"machine type {pair.machine.machine_type} is {by_name(known)}"
        yield found("error", "machines-differ", None, what, "declare the full name of one")


def cpus(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A CPU model that gives the guest different features on two hosts."""
    model = pair.machine.cpu or "of the machine"
    for (one, first), (other, second) in both(facts, lambda host: host.qemu):
        lacking = set(first.unavailable) ^ set(second.unavailable)
        if lacking:
            listed = ", ".join(sorted(lacking))
            what = f"CPU model {model} lacks on only one of {one} and {other}: {listed}"
        elif first.cpu_digest and second.cpu_digest and first.cpu_digest != second.cpu_digest:
            what = f"CPU model {model} takes other features from {one} than from {other}"
        else:
            continue
        remedy = "declare a CPU model that both hosts can give in full"
        yield found("error", "cpus-differ", None, what, remedy)


def kvm(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """KVM that is declared and cannot be used on a host."""
    for name, host in facts.read.items():
        if host.kvm is not None and host.kvm.why:
            what = f"KVM cannot be used on {name}: {host.kvm.why}"
            remedy = "load its module, let the user open /dev/kvm, or declare accelerator tcg"
            yield found("error", "no-kvm", name, what, remedy)


def emulation(pair: ColoPair, _facts: PairFacts) -> Iterator[Finding]:
    """TCG, under which a failover can give a guest that no longer works."""
    if pair.machine.accelerator == "tcg":
        where = "qemu-behaviour 1.12"
        what = f"under TCG a secondary can run code that a checkpoint has replaced ({where})"
        remedy = "use KVM for a guest that matters; TCG is for trials"
        yield found("warning", "emulated", None, what, remedy)


def firmware(_pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """Firmware files that differ between hosts; a file that no host has is not compared."""
    yield from _different(facts, lambda host: host.firmware or ())


def boot_files(pair: ColoPair, facts: PairFacts) -> Iterator[Finding]:
    """A kernel, an initrd or the code of declared firmware that differs between hosts."""
    declared = pair.machine.firmware
    code = None if declared is None else declared.code
    booted = (pair.machine.kernel, pair.machine.initrd, code)
    yield from _different(
        facts, lambda host: [one for one in host.files or () if one.path in booted]
    )


def _different(
    facts: PairFacts, pick: Callable[[HostFacts], Collection[FileFacts]]
) -> Iterator[Finding]:
    """The findings about files of one path that differ between hosts."""
    known: dict[str, dict[str, FileFacts]] = {}
    for name, host in facts.read.items():
        for one in pick(host):
            known.setdefault(one.path, {})[name] = one
    for path, files in known.items():
        remedy = "install the same packages, or the same file, on both"
        if len({one.digest for one in files.values()}) == 1:
            continue
        if len({one.size_bytes for one in files.values()}) > 1:
            sizes = by_name({n: f"{f.size_bytes} bytes" for n, f in files.items()})
            what = f"{path} differs in length: {sizes}"
            yield found("error", "firmware-differs", None, what, remedy)
        else:
            what = f"{path} differs between {' and '.join(files)}"
            yield found("warning", "firmware-differs", None, what, remedy)


RULES = (
    Rule(codes=("no-program",), check=programs, parts=("programs",), before=("launch",)),
    Rule(codes=("unsupported-version",), check=versions, parts=("qemu",)),
    Rule(codes=("qemu-lacks",), check=parts, parts=("qemu",)),
    Rule(codes=("unknown-option",), check=options, parts=("block_schema",), before=("launch",)),
    # Stops no procedure: the plan of a launch itself checks the devices (`CheckDevices`).
    Rule(codes=("unknown-device",), check=devices, parts=("devices",)),
    Rule(codes=("machines-differ",), check=machines, parts=("qemu",)),
    Rule(codes=("cpus-differ",), check=cpus, parts=("qemu",)),
    Rule(codes=("emulated",), check=emulation),
    Rule(codes=("no-kvm",), check=kvm, parts=("kvm",), before=("launch",)),
    Rule(codes=("firmware-differs",), check=firmware, parts=("firmware",)),
    Rule(codes=("firmware-differs",), check=boot_files, parts=("files",), before=("launch",)),
)
