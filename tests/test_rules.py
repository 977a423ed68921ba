"""The rules of a preflight: facts that are as they should be, and facts that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import attrs
import pytest

from pycolo import rules
from pycolo.facts import (
    ClockFacts,
    DeviceFacts,
    FileFacts,
    FolderFacts,
    ForwardingFacts,
    HostFacts,
    ImageFacts,
    Interface,
    InterfaceFacts,
    KvmFacts,
    LaunchFacts,
    LibvirtFacts,
    MemoryFacts,
    NameFacts,
    NoFacts,
    PairFacts,
    Part,
    PortAnswer,
    ProgramFacts,
    PskFacts,
    QemuFacts,
    SystemFacts,
    TlsFacts,
    UsedPort,
    WayFacts,
)
from pycolo.findings import Finding
from pycolo.model import (
    BackingImage,
    ColoPair,
    DiskOnNode,
    FilterChain,
    Firmware,
    Iscsi,
    Machine,
    Netdev,
    Nfs,
    Node,
    Rbd,
    ReplicationDisk,
)
from pycolo.model.memory import MemoryBackend
from pycolo.model.node import Libvirt
from pycolo.model.tls import X509
from pycolo.qmp.schema import packaged_entries

GIB = 2**30
NOW_S = 1_800_000_000.0
DAY_S = 86400.0
ALPHA = Node(name="alpha", address="192.0.2.11", image_folder="/vms")
BETA = Node(name="beta", address="192.0.2.12", image_folder="/vms")
TAP = Netdev(type="tap", options={"ifname": "tap0", "script": "no"})
PAIR = ColoPair(
    name="p",
    nodes=(ALPHA, BETA),
    machine=Machine(memory_mib=1024),
    disks=(ReplicationDisk(size_bytes=GIB),),
    chains=(FilterChain(netdev=TAP),),
)
IMAGE = "/vms/primary.qcow2"
TLS = attrs.evolve(PAIR, tls=X509(folder="/tls", authz=("O=p,CN=alpha", "O=p,CN=beta")))
SYSTEM = SystemFacts(
    user_id=0,
    machine_id="1",
    boot_id="one",
    kernel="6.1",
    open_files=1024,
    locked_bytes=None,
    confinement="",
    kills_user_processes=False,
)
OTHER_SYSTEM = attrs.evolve(SYSTEM, machine_id="2", boot_id="two")
QEMU = QemuFacts(
    version="11.1.3",
    lacks=(),
    machine="pc-i440fx-11.1",
    has_cpu=True,
    unavailable=(),
    cpu_digest="",
)
GOOD_TLS = TlsFacts(
    why="",
    authority_digest="a",
    server_ends_s=NOW_S + 365 * DAY_S,
    client_ends_s=NOW_S + 365 * DAY_S,
    client_name="O=p,CN=alpha",
)
GOOD_TAP = Interface(name="tap0", kind="tap", is_up=True, bridge="lan")


def _facts(
    alpha: HostFacts | NoFacts, beta: HostFacts | NoFacts, boots: frozenset[str] | None = None
) -> PairFacts:
    return PairFacts(hosts={"alpha": alpha, "beta": beta}, now_s=NOW_S, boots=boots)


def found(
    alpha: HostFacts | NoFacts,
    beta: HostFacts | NoFacts | None = None,
    *,
    pair: ColoPair = PAIR,
    boots: frozenset[str] | None = None,
) -> list[tuple[str, str, str | None]]:
    """What is found besides what is said of every pair with a card: level, code and node."""
    facts = _facts(alpha, HostFacts() if beta is None else beta, boots)
    findings = rules.evaluate(pair, facts)
    return [(f.level, f.code, f.node) for f in findings if f.code != "unheld-traffic"]


def test_option_that_is_misspelled_names_the_one_that_was_meant() -> None:
    """The nearest that the QEMU has for that driver, and that is not given."""
    disk = ReplicationDisk(size_bytes=GIB, options={"l2-cach-size": 2**20})
    pair = attrs.evolve(PAIR, disks=(disk,))
    asked = HostFacts(block_schema=packaged_entries("10.0.13"))
    facts = _facts(asked, HostFacts())
    (finding,) = (f for f in rules.evaluate(pair, facts) if f.code == "unknown-option")
    assert finding.what.endswith("l2-cach-size must be absent (did you mean l2-cache-size?)")


def test_version_that_cannot_run_the_machine_is_not_advised_to_be_vouched_for() -> None:
    """What helps is another declaration or version: --assume-good admits no more of the machine."""
    disk = ReplicationDisk(size_bytes=GIB, properties={"iothread": "io0"})
    pair = attrs.evolve(PAIR, disks=(disk,))
    old = HostFacts(qemu=attrs.evolve(QEMU, version="7.2.22"))
    (finding,) = (
        f for f in rules.evaluate(pair, _facts(old, HostFacts())) if f.code == "unsupported-version"
    )
    assert "QEMU 7.2.22: aborts with a disk in an iothread" == finding.what
    expected = (
        "leave iothread and iothread-vq-mapping out of the properties of disks and devices, or use"
        " QEMU 10.0.7"
    )
    assert expected == finding.remedy


def test_option_that_a_qemu_does_not_have_is_an_error() -> None:
    """By the schema of each host's QEMU; one that it has is none."""
    for name, expected in (
        ("l2-cache-size", []),
        ("l2-size", [("error", "unknown-option", "alpha")]),
    ):
        disk = ReplicationDisk(size_bytes=GIB, options={name: 2**20})
        pair = attrs.evolve(PAIR, disks=(disk,))
        asked = HostFacts(block_schema=packaged_entries("10.0.13"))
        assert expected == found(asked, pair=pair)


def test_device_that_a_qemu_does_not_accept_is_an_error() -> None:
    """A device or a property; what QEMU gave no answer about is a note."""
    clause = "QEMU knows no device virtio-blk-pcie (did you mean virtio-blk-pci?)"
    asked = HostFacts(devices=DeviceFacts(refused=(clause,), note="not looked at from VGA on"))
    expected = [("error", "unknown-device", "alpha"), ("note", "unknown-device", "alpha")]
    assert expected == found(asked)
    assert [] == found(HostFacts(devices=DeviceFacts(refused=(), note="")))


# -- the table ------------------------------------------------------------------------------------


def test_a_host_of_which_nothing_was_asked_has_no_finding() -> None:
    """Every rule is silent where its parts were not read."""
    assert [] == found(HostFacts())


def test_rules_find_what_they_name_and_read_parts_that_exist() -> None:
    """Each code belongs to a rule, and each part is one that can be read."""
    parts = {part for rule in rules.TABLE for part in rule.parts}
    assert parts == set(get_args(Part))
    assert not rules.NEVER_FORCED - rules.codes()


def test_before_a_procedure_only_its_errors_are_found() -> None:
    """What is a warning, or stops another procedure, does not stop this one."""
    host = HostFacts(
        system=attrs.evolve(SYSTEM, kernel="5"),
        kvm=KvmFacts(why="no"),
        names=(NameFacts(name="alpha", addresses=(), is_own=False),),
        interfaces=InterfaceFacts(tun_why="", known=(attrs.evolve(GOOD_TAP, is_up=False),)),
    )
    facts = _facts(host, HostFacts(system=OTHER_SYSTEM))
    stops = {before: rules.evaluate(PAIR, facts, before=before) for before in PROCEDURES}
    codes = {before: [one.code for one in findings] for before, findings in stops.items()}
    assert {"launch": ["no-kvm", "name-unresolved"], "start": [], "resume": []} == codes


PROCEDURES: tuple[Literal["launch", "start", "resume"], ...] = ("launch", "start", "resume")


def test_nothing_is_asked_before_a_procedure_that_is_slow_or_that_its_plan_checks() -> None:
    """A launch does not wait for a QEMU to answer, nor for ports; `start` checks its own."""
    asked = frozenset[Part]().union(*(rules.parts_for(before) for before in PROCEDURES))
    assert not asked & {"qemu", "firmware", "reach", "ports"}


# -- hosts ----------------------------------------------------------------------------------------


def test_host_that_cannot_be_asked_is_an_error() -> None:
    """The rest is found of the others."""
    assert [("error", "host-unread", "beta")] == found(HostFacts(), NoFacts(why="no route"))


def test_part_that_could_not_be_read_is_a_warning() -> None:
    """It says which one, so that nobody takes silence for good news."""
    host = HostFacts(unread={"images": "no answer within 5 s"})
    assert [("warning", "fact-unread", "alpha")] == found(host)


def test_sshd_that_forwards_no_monitor_is_an_error() -> None:
    """Else it is found when QEMU runs already."""
    why = HostFacts(forwarding=ForwardingFacts(why="AllowStreamLocalForwarding"))
    assert [("error", "not-forwarded", "alpha")] == found(why)
    assert [] == found(HostFacts(forwarding=ForwardingFacts(why="")))


def test_hosts_with_one_machine_id_are_an_error_and_one_machine_a_warning() -> None:
    """A copy of an installation is another machine with the same id; the same boot is the same."""
    alpha = HostFacts(system=SYSTEM)
    copied = HostFacts(system=attrs.evolve(SYSTEM, boot_id="two"))
    assert [("error", "same-machine-id", "beta")] == found(alpha, copied)
    assert [("warning", "one-machine", None)] == found(alpha, alpha)
    assert [] == found(alpha, HostFacts(system=OTHER_SYSTEM))


def test_clocks_apart_are_found_only_where_it_is_certain() -> None:
    """A slow answer says less of the clock, and may not be what makes the difference."""
    alpha = HostFacts(clock=ClockFacts(least_s=-0.1, most_s=0.1))
    apart = HostFacts(clock=ClockFacts(least_s=2.2, most_s=2.4))
    perhaps = HostFacts(clock=ClockFacts(least_s=0.5, most_s=9.0))
    assert [("warning", "clocks-apart", None)] == found(alpha, apart)
    assert [("warning", "clocks-apart", None)] == found(apart, alpha)
    assert [] == found(alpha, perhaps)


def test_kernels_that_differ_are_a_note() -> None:
    """It is to be known, and stands in nobody's way."""
    alpha = HostFacts(system=SYSTEM)
    newer = HostFacts(system=attrs.evolve(OTHER_SYSTEM, kernel="6.12"))
    assert [("note", "kernels-differ", None)] == found(alpha, newer)
    assert [] == found(alpha, HostFacts(system=OTHER_SYSTEM))


def test_confinement_is_a_note() -> None:
    """Whoever then cannot open a file knows where to look."""
    confined = HostFacts(system=attrs.evolve(SYSTEM, confinement="SELinux enforces"))
    assert [("note", "confined", "alpha")] == found(confined)
    assert [] == found(HostFacts(system=SYSTEM))


def test_logind_that_ends_processes_is_an_error() -> None:
    """QEMU would end with the ssh connection, unless a system's libvirt has started it."""
    kills = HostFacts(system=attrs.evolve(SYSTEM, kills_user_processes=True))
    assert [("error", "logind-kills", "alpha")] == found(kills)
    assert [] == found(kills, pair=_by_libvirt("qemu:///system"))
    assert [("error", "logind-kills", "alpha")] == found(kills, pair=_by_libvirt("qemu:///session"))
    assert [] == found(HostFacts(system=SYSTEM))


def _by_libvirt(uri: str) -> ColoPair:
    """The pair, with a libvirt that starts alpha's QEMU."""
    declared, program = Libvirt(uri=uri), "/usr/bin/qemu-system-x86_64"
    return attrs.evolve(
        PAIR, nodes=(attrs.evolve(ALPHA, libvirt=declared, qemu_binary=program), BETA)
    )


def test_libvirt_must_run_qemu_as_the_user_as_which_pycolo_acts() -> None:
    """Of a session's libvirt nobody need ask: it runs everything as its own user."""

    def having(libvirt: LibvirtFacts) -> HostFacts:
        return HostFacts(system=SYSTEM, libvirt=libvirt)

    other = having(LibvirtFacts(why="", user_id=64055))
    assert [("error", "libvirt-user", "alpha")] == found(other)
    assert [] == found(having(LibvirtFacts(why="", user_id=SYSTEM.user_id)))
    assert [] == found(having(LibvirtFacts(why="")))


def test_libvirt_that_does_not_answer_is_an_error() -> None:
    """It is to start QEMU."""
    silent = HostFacts(system=SYSTEM, libvirt=LibvirtFacts(why="authentication unavailable"))
    assert [("error", "no-libvirt", "alpha")] == found(silent)


def test_libvirt_that_confines_qemu_is_a_warning() -> None:
    """Whether it lets QEMU open a pair's files is in its rules, which are not read."""
    confines = LibvirtFacts(why="", confinement=("apparmor",))
    assert [("warning", "libvirt-confines", "alpha")] == found(
        HostFacts(system=SYSTEM, libvirt=confines)
    )


def test_limit_of_open_files_below_1024_is_a_warning() -> None:
    """1024, the usual one, is enough."""
    few = HostFacts(system=attrs.evolve(SYSTEM, open_files=1023))
    assert [("warning", "few-open-files", "alpha")] == found(few)
    assert [] == found(HostFacts(system=SYSTEM))


def test_limit_of_locked_memory_counts_where_memory_is_locked() -> None:
    """For a user who is not root, and for a guest that is to be locked."""
    locks = attrs.evolve(
        PAIR, machine=Machine(memory_mib=1024, arguments=("-overcommit", "mem-lock=on"))
    )
    small = HostFacts(system=attrs.evolve(SYSTEM, user_id=7, locked_bytes=2**20))
    assert [("error", "locked-memory", "alpha")] == found(small, pair=locks)
    assert [] == found(small)
    root = HostFacts(system=attrs.evolve(SYSTEM, locked_bytes=2**20))
    assert [] == found(root, pair=locks)


def test_large_send_buffers_are_a_note_for_a_guest_with_much_ram_on_kvm() -> None:
    """They lengthen an entry's pause; with little RAM, or under TCG, they are not its cause."""
    large = HostFacts(system=attrs.evolve(SYSTEM, send_buffer_bytes=4 * 2**20))
    assert [("note", "large-send-buffer", "alpha")] == found(large)
    for machine in (Machine(memory_mib=512), Machine(memory_mib=1024, accelerator="tcg")):
        codes = [code for _, code, _ in found(large, pair=attrs.evolve(PAIR, machine=machine))]
        assert "large-send-buffer" not in codes
    assert [] == found(HostFacts(system=attrs.evolve(SYSTEM, send_buffer_bytes=65536)))


def test_memory_must_do_for_the_guest_and_should_for_the_cache() -> None:
    """Less than the guest's RAM is hopeless; less than twice that ends it as a secondary."""

    def having(available_bytes: int, running: str = "") -> HostFacts:
        memory = MemoryFacts(total_bytes=64 * GIB, available_bytes=available_bytes)
        launch = LaunchFacts(running=running, state_why="", run_why="")
        return HostFacts(memory=memory, launch=launch)

    assert [("error", "little-memory", "alpha")] == found(having(GIB - 1))
    assert [("warning", "little-memory", "alpha")] == found(having(2 * GIB - 1))
    assert [] == found(having(2 * GIB))
    assert [("warning", "little-memory", "alpha")] == found(having(GIB - 1, "process 7"))
    assert [] == found(having(GIB, "process 7"))
    backend = MemoryBackend(kind="memfd", huge_page_size_mib=2)
    apart = attrs.evolve(PAIR, machine=Machine(memory_mib=1024, memory_backend=backend))
    assert [("warning", "little-memory", "alpha")] == found(having(GIB - 1), pair=apart)
    assert [] == found(having(GIB), pair=apart)


def test_huge_pages_must_do_for_the_guest() -> None:
    """A QEMU whose RAM they cannot hold ends at once; one that runs has them already."""

    def having(huge_bytes: int | None, running: str = "") -> HostFacts:
        memory = MemoryFacts(total_bytes=64 * GIB, available_bytes=32 * GIB, huge_bytes=huge_bytes)
        launch = LaunchFacts(running=running, state_why="", run_why="")
        return HostFacts(memory=memory, launch=launch)

    assert [("error", "few-huge-pages", "alpha")] == found(having(GIB - 1))
    assert [] == found(having(GIB))
    assert [] == found(having(GIB - 1, "process 7"))
    assert [] == found(having(None))


def test_folders_that_a_launch_would_refuse_are_errors() -> None:
    """In the words of the launch itself."""
    wrong = LaunchFacts(running="", state_why="/vms is on tmpfs", run_why="it has mode 0755")
    expected = [("error", "state-folder", "alpha"), ("error", "run-folder", "alpha")]
    assert expected == found(HostFacts(launch=wrong))
    assert [] == found(HostFacts(launch=LaunchFacts(running="", state_why="", run_why="")))


def test_fence_that_is_not_here_is_a_warning() -> None:
    """The supervisor may run elsewhere."""
    lacking = {"alpha": ("there is no program fence_x",), "beta": ()}
    facts = PairFacts(hosts={}, now_s=NOW_S, no_fences=lacking)
    findings = [f for f in rules.evaluate(PAIR, facts) if f.code != "unheld-traffic"]
    assert [("warning", "no-fence", "alpha")] == [(f.level, f.code, f.node) for f in findings]


# -- QEMU -----------------------------------------------------------------------------------------


def test_program_that_is_missing_is_an_error() -> None:
    """QEMU and qemu-img alike."""
    missing = HostFacts(programs=ProgramFacts(missing=("qemu-img",)))
    assert [("error", "no-program", "alpha")] == found(missing)
    assert [] == found(HostFacts(programs=ProgramFacts(missing=())))


def test_versions_are_those_that_a_plan_accepts() -> None:
    """Different ones, and one that is known to be broken, are refused here as there."""
    alpha = HostFacts(qemu=QEMU)
    other = HostFacts(qemu=attrs.evolve(QEMU, version="11.0.0"))
    assert [("error", "unsupported-version", None)] == found(alpha, other)
    broken = HostFacts(qemu=attrs.evolve(QEMU, version="10.0.3"))
    assert [("error", "unsupported-version", None)] == found(broken, broken)
    assert [] == found(alpha, alpha)


def test_build_without_what_the_pair_needs_is_an_error() -> None:
    """An object, a machine type or a CPU model."""
    for lacking in (
        attrs.evolve(QEMU, lacks=("filter-rewriter",)),
        attrs.evolve(QEMU, machine=""),
        attrs.evolve(QEMU, has_cpu=False),
    ):
        assert [("error", "qemu-lacks", "alpha")] == found(HostFacts(qemu=lacking))
    assert [] == found(HostFacts(qemu=QEMU))


def test_alias_that_means_two_machines_is_an_error() -> None:
    """Distributions give `pc` a meaning of their own."""
    other = HostFacts(qemu=attrs.evolve(QEMU, machine="pc-i440fx-noble"))
    assert [("error", "machines-differ", None)] == found(HostFacts(qemu=QEMU), other)
    assert [] == found(HostFacts(qemu=QEMU), HostFacts(qemu=QEMU))


def test_cpus_that_give_other_features_are_an_error() -> None:
    """What one host lacks of a model, or what a model takes from its host."""
    alpha = HostFacts(qemu=QEMU)
    for other in (
        attrs.evolve(QEMU, unavailable=("avx512f",)),
        attrs.evolve(QEMU, cpu_digest="b"),
    ):
        first = HostFacts(qemu=attrs.evolve(QEMU, cpu_digest="a" if other.cpu_digest else ""))
        assert [("error", "cpus-differ", None)] == found(first, HostFacts(qemu=other))
    lacking = HostFacts(qemu=attrs.evolve(QEMU, unavailable=("avx512f",)))
    assert [] == found(lacking, lacking)
    assert [] == found(alpha, alpha)


def test_kvm_that_cannot_be_used_is_an_error() -> None:
    """The words are the host's."""
    wrong = HostFacts(kvm=KvmFacts(why="/dev/kvm: No such file or directory"))
    assert [("error", "no-kvm", "alpha")] == found(wrong)
    assert [] == found(HostFacts(kvm=KvmFacts(why="")))


def test_a_guest_under_tcg_is_warned_of() -> None:
    """A failover may continue a guest whose code is not what its memory holds."""
    machine = attrs.evolve(PAIR.machine, accelerator="tcg")
    emulated = attrs.evolve(PAIR, machine=machine)
    assert [("warning", "emulated", None)] == found(HostFacts(), pair=emulated)
    assert [] == found(HostFacts())


def test_firmware_of_another_length_is_an_error_and_other_firmware_a_warning() -> None:
    """Memory blocks of another length are not loaded; what is in them is sent along."""
    rom = FileFacts(path="efi-e1000.rom", size_bytes=4096, digest="a")
    alpha = HostFacts(firmware=(rom,))
    longer = HostFacts(firmware=(attrs.evolve(rom, size_bytes=8192, digest="b"),))
    other = HostFacts(firmware=(attrs.evolve(rom, digest="b"),))
    missing = HostFacts(firmware=(FileFacts(path="efi-e1000.rom", why="not found"),))
    assert [("error", "firmware-differs", None)] == found(alpha, longer)
    assert [("error", "firmware-differs", None)] == found(alpha, missing)
    assert [("warning", "firmware-differs", None)] == found(alpha, other)
    assert [] == found(alpha, alpha)
    assert [] == found(missing, missing)


def test_kernels_of_the_guest_must_be_equal() -> None:
    """They are files of the hosts, which nothing copies."""
    pair = attrs.evolve(PAIR, machine=Machine(kernel="/boot/vmlinuz"))
    kernel = FileFacts(path="/boot/vmlinuz", size_bytes=1, digest="a")
    other = HostFacts(files=(attrs.evolve(kernel, digest="b"),))
    alpha = HostFacts(files=(kernel,))
    assert [("warning", "firmware-differs", None)] == found(alpha, other, pair=pair)
    assert [] == found(alpha, alpha, pair=pair)


def test_code_of_declared_firmware_must_be_equal() -> None:
    """Each host has a file of its own, while the variables may differ."""
    firmware = Firmware(code="/fw/code.fd", variables="/fw/vars.fd")
    pair = attrs.evolve(PAIR, machine=Machine(firmware=firmware))
    code = FileFacts(path=firmware.code, size_bytes=4096, digest="a")
    variables = FileFacts(path=firmware.variables, size_bytes=4096, digest="a")
    alpha = HostFacts(files=(code, variables))
    longer = HostFacts(files=(attrs.evolve(code, size_bytes=8192, digest="b"), variables))
    other = HostFacts(files=(code, attrs.evolve(variables, digest="b")))
    assert [("error", "firmware-differs", None)] == found(alpha, longer, pair=pair)
    assert [] == found(alpha, other, pair=pair)


# -- storage --------------------------------------------------------------------------------------


def test_folder_that_cannot_be_written_to_is_an_error() -> None:
    """Missing, or somebody else's."""
    good = FolderFacts(path="/vms", is_there=True, is_writable=True, free_bytes=64 * GIB)
    for wrong in (FolderFacts(path="/vms", is_there=False), attrs.evolve(good, is_writable=False)):
        assert [("error", "no-folder", "alpha")] == found(HostFacts(folders=(wrong,)))
    assert [] == found(HostFacts(folders=(good,)))


def _image(**changed: object) -> HostFacts:
    image = ImageFacts(path=IMAGE, is_there=True, image_format="qcow2", size_bytes=GIB)
    return HostFacts(images=(attrs.evolve(image, **changed),))  # type: ignore[arg-type]  # named


MISSING = HostFacts(images=(ImageFacts(path=IMAGE, is_there=False),))


def test_the_guests_image_must_be_somewhere() -> None:
    """A new pair's is the first node's, another's may be elsewhere; a launch names who needs it."""
    first = [("error", "no-image", "alpha")]
    assert first == found(MISSING, MISSING)
    assert [] == found(MISSING, _image())
    assert [("error", "host-unread", "alpha")] == found(NoFacts(why="away"), MISSING)
    assert first == found(MISSING, MISSING, boots=frozenset({"alpha"}))
    assert [("error", "no-image", "beta")] == found(MISSING, MISSING, boots=frozenset({"beta"}))
    assert [] == found(MISSING, MISSING, boots=frozenset())


def test_each_node_is_advised_what_it_lacks() -> None:
    """The guest's image, a copy of it, or a device that the first copy fills."""
    device = DiskOnNode(driver="host_device", image="/dev/sdx", image_format="raw")
    disk = ReplicationDisk(size_bytes=GIB, nodes={"beta": device})
    absent = HostFacts(images=(ImageFacts(path="/dev/sdx", is_there=False),))
    by_device = attrs.evolve(PAIR, disks=(disk,))
    identical = attrs.evolve(PAIR, initial_sync="identical")

    def remedies(pair: ColoPair, beta: HostFacts) -> list[str]:
        found = rules.evaluate(pair, _facts(MISSING, beta), before="launch")
        return [finding.remedy.partition(":")[0] for finding in found]

    guests = "put the guest's image there"
    assert [guests] == remedies(PAIR, MISSING)
    copied = "put a copy of the image there with which the guest starts"
    assert [guests, copied] == remedies(identical, MISSING)
    assert [guests, "make a device of that size"] == remedies(by_device, absent)


def test_identical_images_and_devices_must_be_on_each_node() -> None:
    """Pycolo makes neither."""
    identical = attrs.evolve(PAIR, initial_sync="identical")
    assert [("error", "no-image", "beta")] == found(_image(), MISSING, pair=identical)
    device = DiskOnNode(driver="host_device", image="/dev/sdx", image_format="raw")
    disk = ReplicationDisk(size_bytes=GIB, nodes={"beta": device})
    absent = HostFacts(images=(ImageFacts(path="/dev/sdx", is_there=False),))
    pair = attrs.evolve(PAIR, disks=(disk,))
    assert [("error", "no-image", "beta")] == found(_image(), absent, pair=pair)
    assert [] == found(_image(), _image(), pair=identical)


def test_image_that_is_not_as_declared_is_an_error() -> None:
    """Another format, another size, or one that cannot be read."""
    for changed in ({"image_format": "raw"}, {"size_bytes": 512}, {"why": "Permission denied"}):
        assert [("error", "image-differs", "alpha")] == found(_image(**changed))
    assert [] == found(_image())


def test_image_must_be_encrypted_as_declared() -> None:
    """QEMU opens neither an image in the clear with a key nor an encrypted one without."""
    disk = ReplicationDisk(size_bytes=GIB, secret_file="/keys/disk")  # noqa: S106 - a path
    encrypted = attrs.evolve(PAIR, disks=(disk,))
    assert [("error", "image-differs", "alpha")] == found(_image(), pair=encrypted)
    assert [("error", "image-differs", "alpha")] == found(_image(is_encrypted=True))
    assert [] == found(_image(is_encrypted=True), pair=encrypted)


def test_overlay_that_a_secondary_would_not_start_with_is_an_error() -> None:
    """Its size, format and encryption; a node that is started as primary opens none."""
    disk = ReplicationDisk(size_bytes=GIB, secret_file="/keys/disk")  # noqa: S106 - a path
    pair = attrs.evolve(PAIR, disks=(disk,))
    good = ImageFacts(
        path="/vms/secondary-active.qcow2",
        is_there=True,
        image_format="qcow2",
        size_bytes=GIB,
        is_encrypted=True,
    )

    def of(overlay: ImageFacts, boots: frozenset[str] | None = None) -> list[tuple[str, str]]:
        beta = HostFacts(overlays=(overlay,))
        return [
            (code, node or "") for _, code, node in found(HostFacts(), beta, pair=pair, boots=boots)
        ]

    assert [] == of(good)
    assert [] == of(ImageFacts(path=good.path, is_there=False))
    in_the_clear = attrs.evolve(good, is_encrypted=False)
    for wrong in (
        in_the_clear,
        attrs.evolve(good, size_bytes=512),
        attrs.evolve(good, image_format="raw"),
        attrs.evolve(good, why="Permission denied"),
    ):
        assert [("image-differs", "beta")] == of(wrong)
        assert [] == of(wrong, boots=frozenset({"beta"}))
    assert [("image-in-use", "beta")] == of(attrs.evolve(good, is_locked=True))
    facts = _facts(HostFacts(), HostFacts(overlays=(in_the_clear,)), frozenset({"alpha"}))
    (finding,) = rules.evaluate(pair, facts, before="launch")
    expected = (
        f"{good.path} on beta is unencrypted qcow2 of {GIB} bytes, declared is encrypted qcow2 of"
        f" {GIB} bytes"
    )
    assert expected == finding.what


def test_backing_images_must_be_as_declared() -> None:
    """The header above names each one, and each one on the host is there in its format."""
    chain = (
        BackingImage(image="/base"),
        BackingImage(image="http://host/base.raw", image_format="raw"),
    )
    disk = ReplicationDisk(size_bytes=GIB, backing=chain)
    pair = attrs.evolve(PAIR, disks=(disk,))
    top = ImageFacts(
        path=IMAGE, is_there=True, image_format="qcow2", size_bytes=GIB, backing="//base"
    )
    base = ImageFacts(
        path="/base", is_there=True, image_format="qcow2", backing="http://host/base.raw"
    )

    def levels(top: ImageFacts, base: ImageFacts) -> list[str]:
        return [code for _, code, _ in found(HostFacts(images=(top, base)), pair=pair)]

    assert [] == levels(top, base)
    assert ["image-differs"] == levels(attrs.evolve(top, backing=""), base)
    assert ["image-differs"] == levels(top, attrs.evolve(base, backing="http://host/other"))
    assert ["image-differs"] == levels(top, attrs.evolve(base, image_format="raw"))
    assert ["image-differs"] == levels(top, attrs.evolve(base, why="Permission denied"))
    assert ["no-image"] == levels(top, ImageFacts(path="/base", is_there=False))


@pytest.mark.parametrize(
    "remote",
    [
        Iscsi(portal="192.0.2.1", target="iqn.2026-01.com.example:a", lun=1),
        Nfs(host="192.0.2.1", path="/a"),
        Rbd(pool="guests", namespace="shop", image="a"),
    ],
    ids=lambda remote: type(remote).__name__,
)
def test_remote_image_must_open_and_be_as_declared(remote: Iscsi | Nfs | Rbd) -> None:
    """Whether it does not exist or its server is away, QEMU's words say."""
    disk = ReplicationDisk(size_bytes=GIB, nodes={"alpha": DiskOnNode(remote=remote)})
    pair = attrs.evolve(PAIR, disks=(disk,))
    good = {"path": remote.url, "image_format": "qcow2", "size_bytes": GIB}

    def findings(**changed: object) -> list[tuple[str, str, str | None]]:
        return found(_image(**{**good, **changed}), pair=pair)

    assert [] == findings()
    assert [("error", "no-image", "alpha")] == findings(why="Connection refused")
    assert [("error", "image-differs", "alpha")] == findings(size_bytes=512)
    assert [("error", "image-differs", "alpha")] == findings(image_format="raw")


def test_backing_image_of_a_web_server_must_open_and_be_as_declared() -> None:
    """Its server may be away; the header above may name another one."""
    url = "http://host/base.raw"
    layer = BackingImage(image=url, image_format="raw")
    disk = ReplicationDisk(size_bytes=GIB, backing=(layer,))
    pair = attrs.evolve(PAIR, disks=(disk,))
    (top,) = _image(backing=url).images or ()
    base = ImageFacts(path=url, is_there=True, image_format="raw")

    def codes(base: ImageFacts) -> list[str]:
        return [code for _, code, _ in found(HostFacts(images=(top, base)), pair=pair)]

    assert [] == codes(base)
    assert ["no-image"] == codes(attrs.evolve(base, why="Connection refused"))
    assert ["image-differs"] == codes(attrs.evolve(base, image_format="qcow2"))


def test_image_that_somebody_has_open_is_an_error() -> None:
    """It says who."""
    used = _image(is_locked=True, holders=("process 7 (qemu-nbd)",))
    assert [("error", "image-in-use", "alpha")] == found(used)
    (finding,) = (f for f in rules.evaluate(PAIR, _facts(used, HostFacts())) if f.node)
    assert f"{IMAGE} on alpha is open in process 7 (qemu-nbd)" == finding.what


def test_space_is_counted_for_images_that_are_made_and_for_overlays() -> None:
    """Nothing left is an error, less than they can grow to a warning."""

    def left(free_bytes: int, images: HostFacts) -> HostFacts:
        folder = FolderFacts(path="/vms", is_there=True, is_writable=True, free_bytes=free_bytes)
        return attrs.evolve(images, folders=(folder,))

    assert [] == found(left(2 * GIB, _image()))
    assert [("warning", "little-space", "alpha")] == found(left(2 * GIB - 1, _image()))
    assert [("warning", "little-space", "alpha")] == found(left(2 * GIB, MISSING), _image())
    assert [("error", "little-space", "alpha")] == found(left(2**20, _image()))


def test_folders_of_one_file_system_share_its_space() -> None:
    """What images and overlays need there is counted together, and told once."""
    apart = attrs.evolve(PAIR, nodes=(attrs.evolve(ALPHA, overlay_folder="/overlays"), BETA))

    def on(other: str) -> HostFacts:
        places = {"/vms": "1", "/overlays": other}
        folders = tuple(
            FolderFacts(
                path=path,
                is_there=True,
                is_writable=True,
                free_bytes=2 * GIB,
                file_system=file_system,
            )
            for path, file_system in places.items()
        )
        return attrs.evolve(MISSING, folders=folders)

    assert [("warning", "little-space", "alpha")] == found(on("1"), _image(), pair=apart)
    assert [] == found(on("2"), _image(), pair=apart)


def test_folder_that_is_missing_is_one_finding_for_all_its_files() -> None:
    """It names the folder first, since none of its files can be there."""
    names = ("ca-cert.pem", "server-cert.pem")
    files = [
        FileFacts(path=f"/tls/{name}", why="No such file", is_folder_there=False) for name in names
    ]
    facts = _facts(HostFacts(files=(*files,)), HostFacts())
    (finding,) = rules.evaluate(PAIR, facts, before="launch")
    assert ("unread-file", "alpha") == (finding.code, finding.node)
    assert "there is no folder /tls on alpha, for ca-cert.pem, server-cert.pem" == finding.what


def test_file_that_cannot_be_read_is_an_error() -> None:
    """Of TLS, a secret, a kernel or an initrd."""
    wrong = FileFacts(path="/tls/ca-cert.pem", why="Permission denied")
    assert [("error", "unread-file", "alpha")] == found(HostFacts(files=(wrong,)))
    assert [] == found(HostFacts(files=(FileFacts(path="/tls/ca-cert.pem", mode=0o600),)))


# -- the network ----------------------------------------------------------------------------------


def test_address_of_another_host_is_an_error_where_it_listens() -> None:
    """Where it is only called, something may lead from there to it."""
    own = NameFacts(name="192.0.2.11", addresses=("192.0.2.11",), is_own=True)
    other = attrs.evolve(own, is_own=False)
    assert [("error", "address-elsewhere", "alpha")] == found(HostFacts(names=(other,)))
    assert [] == found(HostFacts(names=(own,)))
    inside = NameFacts(name="10.0.0.1", addresses=("10.0.0.1",), is_own=True)
    behind = attrs.evolve(PAIR, nodes=(attrs.evolve(ALPHA, listen_address="10.0.0.1"), BETA))
    called = HostFacts(names=(other, inside))
    assert [("warning", "address-elsewhere", "alpha")] == found(called, pair=behind)


def test_name_that_does_not_resolve_is_an_error() -> None:
    """On whichever host."""
    unknown = NameFacts(name="beta", addresses=(), is_own=False)
    assert [("error", "name-unresolved", "alpha")] == found(HostFacts(names=(unknown,)))
    known = attrs.evolve(unknown, addresses=("192.0.2.12",))
    assert [] == found(HostFacts(names=(known,)))


def test_name_that_means_another_address_on_each_host_is_an_error() -> None:
    """As 127.0.1.1 on the host that has the name; if they share one, it is a warning."""

    def meaning(*addresses: str) -> HostFacts:
        return HostFacts(names=(NameFacts(name="alpha", addresses=addresses, is_own=True),))

    alpha = meaning("127.0.1.1")
    assert [("error", "names-differ", None)] == found(alpha, meaning("192.0.2.11"))
    shared = meaning("127.0.1.1", "192.0.2.11")
    assert [("warning", "names-differ", None)] == found(alpha, shared)
    assert [] == found(alpha, alpha)


RUNS = LaunchFacts(running="process 7", state_why="", run_why="")


def test_port_that_is_in_use_is_an_error() -> None:
    """Unless the node's own QEMU runs, which listens there."""
    used = HostFacts(ports=(UsedPort(port=9998, holders=("process 7 (nc)",)),))
    assert [("error", "port-in-use", "alpha")] == found(used)
    assert [] == found(attrs.evolve(used, launch=RUNS))
    assert [] == found(HostFacts(ports=()))


def _way(answer: str, **changed: object) -> HostFacts:
    way = WayFacts(node="beta", ports=(PortAnswer(port=9998, answer=answer),))
    return HostFacts(reach=(attrs.evolve(way, **changed),))  # type: ignore[arg-type]  # named


def test_port_of_the_peer_should_be_refused() -> None:
    """Silence is a firewall; an open port is somebody else's, unless the pair's QEMU runs there."""
    assert [] == found(_way("refused"))
    assert [("error", "port-blocked", "alpha")] == found(_way("silent"))
    assert [("error", "port-blocked", "alpha")] == found(_way("No route to host"))
    assert [("error", "port-conflict", "beta")] == found(_way("open"))
    assert [] == found(_way("open"), HostFacts(launch=RUNS))
    unreached = NoFacts(why="no route")
    assert [("error", "host-unread", "beta")] == found(_way("open"), unreached)


def test_ways_that_were_not_tried_are_a_note() -> None:
    """Else silence would be taken for good news."""
    hosts = {"alpha": HostFacts(), "beta": HostFacts()}
    for why, expected in (("a QEMU runs on alpha", ["note"]), ("", [])):
        findings = rules.evaluate(PAIR, PairFacts(hosts=hosts, now_s=NOW_S, untried=why))
        assert expected == [one.level for one in findings if one.code == "ways-untried"]


def test_packets_must_get_through_and_should_be_equal_both_ways() -> None:
    """A path that swallows large packets is an error, different sizes are a warning."""
    back = WayFacts(node="alpha", ports=(), mtu_bytes=1500, is_carried=True)
    beta = HostFacts(reach=(back,))
    assert [] == found(_way("refused", mtu_bytes=1500, is_carried=True), beta)
    assert [] == found(_way("refused", mtu_bytes=1500, is_carried=None), beta)
    lost = _way("refused", mtu_bytes=1500, is_carried=False)
    assert [("error", "mtu-not-carried", "alpha")] == found(lost, beta)
    larger = _way("refused", mtu_bytes=9000, is_carried=True)
    assert [("warning", "mtu-differs", None)] == found(larger, beta)


def _tap(user_id: int = 0, **changed: object) -> HostFacts:
    tap = attrs.evolve(GOOD_TAP, **changed)  # type: ignore[arg-type]  # named
    facts = InterfaceFacts(tun_why="", known=(tap,))
    return HostFacts(system=attrs.evolve(SYSTEM, user_id=user_id), interfaces=facts)


def test_tap_must_be_one_that_the_user_may_use() -> None:
    """Missing, of another kind, of another user; root's QEMU makes one that is missing."""
    assert [] == found(_tap())
    assert [("error", "no-tap", "alpha")] == found(_tap(user_id=7, kind=""))
    assert [("warning", "no-tap", "alpha")] == found(_tap(kind=""))
    assert [("error", "no-tap", "alpha")] == found(_tap(kind="other"))
    assert [("error", "no-tap", "alpha")] == found(_tap(user_id=7, owner_id=8))
    assert [] == found(_tap(user_id=7, owner_id=7))
    none = HostFacts(interfaces=InterfaceFacts(tun_why="/dev/net/tun: No such file", known=()))
    assert [("error", "no-tap", "alpha")] == found(none)


def test_tap_of_another_process_is_an_error() -> None:
    """The node's own QEMU may have it."""
    assert [("error", "tap-in-use", "alpha")] == found(_tap(is_attached=True))
    assert [] == found(attrs.evolve(_tap(is_attached=True), launch=RUNS))


def test_tap_that_leads_nowhere_is_a_warning() -> None:
    """In no bridge, or down."""
    assert [("warning", "tap-unconnected", "alpha")] == found(_tap(bridge=""))
    assert [("warning", "tap-unconnected", "alpha")] == found(_tap(is_up=False))


def test_bridge_that_is_missing_is_an_error() -> None:
    """For a netdev that has QEMU's helper put the tap into it."""
    pair = attrs.evolve(PAIR, chains=(FilterChain(netdev=Netdev(type="bridge")),))

    def having(kind: Literal["bridge", "other", ""]) -> HostFacts:
        known = (Interface(name="br0", kind=kind),)
        return HostFacts(interfaces=InterfaceFacts(tun_why="", known=known))

    assert [("error", "no-bridge", "alpha")] == found(having(""), pair=pair)
    assert [("error", "no-bridge", "alpha")] == found(having("other"), pair=pair)
    assert [] == found(having("bridge"), pair=pair)


def _unheld(alpha: HostFacts, pair: ColoPair = PAIR) -> list[Finding]:
    findings = rules.evaluate(pair, _facts(alpha, HostFacts()))
    return [one for one in findings if one.code == "unheld-traffic"]


def test_traffic_that_is_not_held_back_is_a_note_and_with_vlans_a_warning() -> None:
    """Nobody outside the guest knows whether it speaks IPv6; a pair without cards says nothing."""
    assert ["note"] == [one.level for one in _unheld(_tap())]
    assert ["warning"] == [one.level for one in _unheld(_tap(has_vlans=True))]
    assert [] == _unheld(HostFacts(), attrs.evolve(PAIR, chains=()))


# -- TLS ------------------------------------------------------------------------------------------


def _tls(**changed: object) -> HostFacts:
    return HostFacts(tls=attrs.evolve(GOOD_TLS, **changed))  # type: ignore[arg-type]  # named


def test_certificates_that_refuse_each_other_are_an_error() -> None:
    """In the words of the handshake, such as that one has expired."""
    wrong = HostFacts(tls=TlsFacts(why="certificate has expired"))
    assert [("error", "tls-refused", "alpha")] == found(wrong, pair=TLS)
    assert [] == found(_tls(), pair=TLS)


def test_certificate_that_expires_within_30_days_is_a_warning() -> None:
    """The server's and the client's."""
    for end in ("server_ends_s", "client_ends_s"):
        soon = _tls(**{end: NOW_S + 30 * DAY_S - 1})
        assert [("warning", "tls-expires", "alpha")] == found(soon, pair=TLS)
        assert [] == found(_tls(**{end: NOW_S + 30 * DAY_S}), pair=TLS)


def test_authorities_that_differ_are_a_warning() -> None:
    """A file may hold several, so that it is no error."""
    other = _tls(authority_digest="b")
    assert [("warning", "authorities-differ", None)] == found(_tls(), other, pair=TLS)
    assert [] == found(_tls(), _tls(), pair=TLS)


def test_client_that_is_not_listed_is_an_error() -> None:
    """Without a list every client of the authority is admitted."""
    other = _tls(client_name="O=p,CN=gamma")
    assert [("error", "tls-not-admitted", "alpha")] == found(other, pair=TLS)
    assert [] == found(other, pair=attrs.evolve(PAIR, tls=X509(folder="/tls")))
    assert [] == found(_tls(client_name=""), pair=TLS)


def test_keys_that_differ_are_an_error() -> None:
    """A key that one node does not have, and a key of another value."""
    alpha = HostFacts(psk=PskFacts(digest="a"))
    assert [("error", "keys-differ", "alpha")] == found(HostFacts(psk=PskFacts(digest="")))
    assert [("error", "keys-differ", None)] == found(alpha, HostFacts(psk=PskFacts(digest="b")))
    assert [] == found(alpha, alpha)


def test_key_that_others_may_read_is_a_warning() -> None:
    """A group may read it; a certificate is for everybody."""

    def having(name: str, mode: int) -> HostFacts:
        return HostFacts(files=(FileFacts(path=f"/tls/{name}", mode=mode),))

    assert [("warning", "key-mode", "alpha")] == found(having("server-key.pem", 0o644))
    assert [] == found(having("server-key.pem", 0o640))
    assert [] == found(having("server-cert.pem", 0o644))


@pytest.mark.parametrize("code", sorted(rules.codes()))
def test_every_code_of_a_rule_is_tried_here(code: str) -> None:
    """A rule without a test of both sides does not get in."""
    assert f'"{code}"' in Path(__file__).read_text(encoding="utf-8")
