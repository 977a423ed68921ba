"""An obstacle to a procedure, or a result of a preflight, as a value with a code.

A code is stable: programs may act on it, and `pycolo explain CODE` prints its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final

import attrs
from typing_extensions import override

Code: TypeAlias = Literal[
    "foreign-record",
    "managed-record",
    "undeclared-node",
    "two-births",
    "unread-record",
    "unread-records",
    "unwritten-record",
    "lost-record",
    "not-eligible",
    "outdated",
    "not-first-node",
    "commit-pending",
    "rival-unread",
    "two-holders",
    "not-holder",
    "holder-forgotten",
    "still-eligible",
    "shared-image-folder",
    "no-identity",
    "foreign-qemu",
    "no-answer",
    "runs-unseen",
    "answers",
    "survivor-unclear",
    "not-a-member",
    "no-pair",
    "no-primary",
    "primary-missing",
    "primary-anew",
    "too-early",
    "two-guests",
    "never-in-colo",
    "not-protected",
    "newest-not-launched",
    "spare-first",
    "place-unclear",
    "peer-is-holder",
    "not-in-document",
    "needs-snapshot",
    "offline-launch",
    "unknown-command",
    "checkpoint-deadlock",
    "lost-in-colo",
    "not-in-place",
    "used-secondary",
    "not-migratable",
    "other-copy",
    "failed-entry",
    "paused",
    "secondary-gone",
    "sizes-differ",
    "no-host",
    "disk-failed",
    "disk-overlaid",
    "cancelling",
    "other-secondary",
    "disks-exchanged",
    "unsupported-version",
    "supervised",
    "supervision-paused",
    "at-work",
    "no-agent",
    "fuse-armed",
    "host-unread",
    "fact-unread",
    "one-machine",
    "same-machine-id",
    "clocks-apart",
    "kernels-differ",
    "confined",
    "no-libvirt",
    "libvirt-user",
    "libvirt-confines",
    "logind-kills",
    "few-open-files",
    "locked-memory",
    "large-send-buffer",
    "state-folder",
    "run-folder",
    "no-folder",
    "no-program",
    "qemu-lacks",
    "unknown-option",
    "unknown-device",
    "machines-differ",
    "cpus-differ",
    "no-kvm",
    "emulated",
    "firmware-differs",
    "little-memory",
    "few-huge-pages",
    "no-image",
    "image-differs",
    "image-in-use",
    "little-space",
    "address-elsewhere",
    "name-unresolved",
    "names-differ",
    "port-in-use",
    "port-blocked",
    "ways-untried",
    "port-conflict",
    "mtu-differs",
    "mtu-not-carried",
    "no-tap",
    "tap-in-use",
    "tap-unconnected",
    "no-bridge",
    "unheld-traffic",
    "unread-file",
    "key-mode",
    "tls-refused",
    "tls-expires",
    "authorities-differ",
    "tls-not-admitted",
    "keys-differ",
    "no-fence",
    "not-forwarded",
]
"The codes that a finding may have."

Level: TypeAlias = Literal["error", "warning", "note"]
"How serious a finding is: an error is an obstacle, a warning may become one, a note informs."


@final
@attrs.frozen(kw_only=True)
class Finding:
    """One obstacle to a procedure, or one result of a preflight."""

    code: Code
    "The kind of the finding."
    node: str | None
    "The node that the finding is about; None if it is about the pair."
    what: str
    "What was found, as a sentence without a full stop."
    remedy: str
    "What a person must decide or do; empty if nothing can be done."
    level: Level = "error"
    "How serious the finding is."

    @override
    def __str__(self) -> str:
        """The text of the finding, then the remedy."""
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


MEANINGS: Final[Mapping[Code, str]] = {
    "foreign-record": (
        "A record beside the images belongs to another pair: two pairs were given one image or "
        "one state_dir. Give each its own."
    ),
    "managed-record": (
        "An arbiter holds the record, so only the agents that use this arbiter may change it. Say"
        " what you want to them: `pycolo want` or `pycolo pause`, with --agent. To act without"
        " them, type `pycolo release`."
    ),
    "undeclared-node": (
        "A record names a node that the pair file does not declare. Declare it, or take it out "
        "of the records with forget."
    ),
    "two-births": (
        "The records come from two pairs of one name. Find out which of them has the data that "
        "you need. Remove the other one's record, and keep the owner files."
    ),
    "unread-record": (
        "The record of a node could not be read, so nothing is known of its rights: its host is"
        " out of reach, its disk is not mounted, others may write to it, or its images belong "
        "to another record."
    ),
    "unread-records": (
        "None of the records could be read, and it is not a new pair. Correct what keeps them "
        "from being read."
    ),
    "unwritten-record": (
        "A node must lose a right before the next step, and its record is out of reach."
    ),
    "lost-record": (
        "The record of a node is absent or damaged, and no other record speaks for its QEMU."
    ),
    "not-eligible": (
        "The record does not name this QEMU as one that may run alone or take in a secondary. "
        "Only those that it names may."
    ),
    "outdated": (
        "Another node took over in a later epoch, so this node's data is old. End its QEMU and "
        "launch it again as a secondary."
    ),
    "not-first-node": ("A new pair starts on the first node of its declaration. Launch that node."),
    "commit-pending": (
        "A promoted node ended before its overlays were merged: its image alone lacks writes."
    ),
    "rival-unread": "Another node may have continued alone, and its record could not be read.",
    "two-holders": (
        "Two records of one epoch name different holders. Only a person can tell whose data is "
        "right."
    ),
    "not-holder": "Another node holds the newest data.",
    "holder-forgotten": "The node that holds the newest data cannot be taken out of the records.",
    "still-eligible": (
        "The record still lets another node take over, so the guest cannot be given a new "
        "secondary."
    ),
    "shared-image-folder": (
        "Two nodes use the same image folder, perhaps under different paths, or the same one of a "
        "file server. Give each its own: QEMU does not protect an image from another host."
    ),
    "no-identity": (
        "A QEMU has no name of the form PAIR:NODE:HEX, by which records and evidence know it."
    ),
    "foreign-qemu": (
        "The QEMU that answers for a node belongs to another pair or node: two QEMUs were given"
        " one run_dir or monitor."
    ),
    "no-answer": "A node that is needed does not answer on its control monitor.",
    "runs-unseen": (
        "A QEMU runs, as its host reports, and does not answer: another client holds its "
        "monitor, it is stopped or stuck, or its sockets were removed. It may serve."
    ),
    "answers": (
        "This node's QEMU still answers, while somebody says that it has ended, or that another "
        "node holds the newest data. End that QEMU first."
    ),
    "survivor-unclear": "Both nodes answer, so the survivor of a failover must be named.",
    "not-a-member": "The node is none of the two that the record names.",
    "no-pair": "There is no primary with a secondary.",
    "no-primary": (
        "No primary answers. If a secondary has the guest, run failover with evidence that the "
        "primary has ended; otherwise launch the pair."
    ),
    "primary-missing": "A secondary has the guest and its primary is missing: fail over to it.",
    "primary-anew": (
        "A primary was started anew, while the guest that runs is its former secondary's."
    ),
    "too-early": (
        "A secondary that is launched while a primary is in COLO connects to what a failover"
        " removes. Launch it afterwards."
    ),
    "two-guests": "Two nodes run a guest each. A person must end one.",
    "never-in-colo": "A secondary that never entered COLO has no guest that could run.",
    "not-protected": "A forced checkpoint, and a planned switch-over, need a protected pair.",
    "newest-not-launched": (
        "--newest names a node that this launch does not start. Launch that node too."
    ),
    "spare-first": (
        "A new pair starts on its two nodes. Launch those; a spare can replace one later."
    ),
    "place-unclear": "It is not clear which node the new one replaces.",
    "peer-is-holder": "The node that holds the newest data cannot protect itself.",
    "not-in-document": "QEMU's document has no such procedure.",
    "needs-snapshot": (
        "The procedure compares the declaration with what is live: compile it from a snapshot."
    ),
    "offline-launch": (
        "A launch that was compiled offline has identities that other launches have too."
    ),
    "unknown-command": "The QEMU of a node does not accept a command that the plan needs.",
    "checkpoint-deadlock": (
        "QEMU before 11.0 deadlocks at a checkpoint under TCG. Use KVM, or QEMU 11.0 or later."
    ),
    "lost-in-colo": "A part is missing that cannot be put back while COLO runs.",
    "not-in-place": (
        "This difference cannot be repaired while replication runs. Run stop, launch a new "
        "secondary, then run resume."
    ),
    "used-secondary": "The secondary is no fresh one: it is replaced, never used again.",
    "not-migratable": "QEMU cannot move this guest: a device of it blocks migration.",
    "other-copy": (
        "A disk holds a copy that was made for another secondary, or for an attempt that failed."
    ),
    "failed-entry": "The guest is in a state from which no copy starts.",
    "paused": "Somebody paused the guest. pycolo does not continue what it did not stop.",
    "secondary-gone": "The primary is in COLO with a secondary that is gone.",
    "sizes-differ": "The images of a disk have different sizes.",
    "no-host": "The guest is unprotected, and no host answers on which a secondary could start.",
    "disk-failed": (
        "The primary's own disk refused a read or a write. Whoever lets the primary run alone may "
        "lose a write that its secondary has: the report of a read can hide that of a write."
    ),
    "disk-overlaid": (
        "An external snapshot takes the guest's writes, so that no node's image gets them. Merge "
        "it into the disk with block-commit."
    ),
    "cancelling": (
        "A migration is being cancelled. Try again in a second. If it was cancelled inside COLO it "
        "never ends: end that QEMU, then fail over to its peer."
    ),
    "other-secondary": (
        "Another node waits as a secondary, and connects to the primary before the one that is "
        "wanted can."
    ),
    "disks-exchanged": (
        "A disk of a QEMU is the image of another disk of the declaration: their order was changed."
    ),
    "unsupported-version": (
        "A QEMU version cannot run COLO, was not tried, or differs from the other node's."
    ),
    "supervised": (
        "A supervisor on this machine keeps the pair and holds its control monitors. Have it do "
        "what you want, or pause the pair first."
    ),
    "supervision-paused": (
        "The supervisor does nothing with the pair while its supervision is paused. End the pause, "
        "or act on the pair yourself."
    ),
    "at-work": (
        "The supervisor or agent executes another plan, or finds out whether a QEMU has ended. Try"
        " again once it is done."
    ),
    "no-agent": (
        "A planned switch-over needs the arbiter, and the agent of the node that is to have the"
        " guest: without them the guest would stop. A move of the secondary needs the arbiter."
    ),
    "fuse-armed": (
        "The fuse of a host guards the QEMU of its node, and would stop it if the agent kept the"
        " pair no more. Have the guest run alone first."
    ),
    "host-unread": (
        "The host of a node cannot be asked: it is out of reach, ssh does not let pycolo in, or"
        " no way to it is declared."
    ),
    "fact-unread": (
        "Something could not be read on a host, so nothing is known of it. The other findings "
        "hold all the same."
    ),
    "one-machine": "Several nodes are on one machine: the pair does not survive its end.",
    "same-machine-id": (
        "Two hosts have the same /etc/machine-id, as copies of one installation have. It tells "
        "a host's evidence and records from another's, so it must differ. Make a new one on one"
        " of them with `systemd-machine-id-setup`, after you remove the file."
    ),
    "clocks-apart": (
        "The clocks of two hosts differ by more than 2 s. Times in records, reports and "
        "certificates then mislead. Have both follow a time server."
    ),
    "kernels-differ": (
        "The hosts run different kernels. COLO works with that; KVM may offer the guest "
        "different CPU features."
    ),
    "confined": (
        "A security module confines what the user's processes may do, QEMU among them. If QEMU "
        "cannot open a file that it may by its permissions, look there first."
    ),
    "no-libvirt": (
        "The libvirt that is to start a node's QEMU does not answer, or does not let this user "
        "manage domains. Start its daemon, or admit the user: to the group of its socket, or by "
        "polkit."
    ),
    "libvirt-user": (
        "libvirt runs QEMU as another user than the one as which pycolo acts on the host. QEMU "
        "could not make its sockets, nor open images that only their owner may write to. Set user "
        "and group in qemu.conf, or have pycolo act as that user."
    ),
    "libvirt-confines": (
        "libvirt confines each QEMU by SELinux or AppArmor to what the domain's XML names. pycolo's"
        " files are named in QEMU's arguments alone. Let QEMU open them, or set security_driver "
        'to "none" in qemu.conf.'
    ),
    "logind-kills": (
        "logind ends all processes of the user who starts QEMU with the user's last session. "
        "QEMU would end with the ssh connection. Set KillUserProcesses=no, or start QEMU as "
        "root."
    ),
    "few-open-files": (
        "A process of the user may have fewer than 1024 files open. QEMU needs one for each "
        "image, socket and tap. Raise the limit."
    ),
    "locked-memory": (
        "The guest's memory is to be locked, and the user may not lock so much. Raise the limit"
        " of locked memory."
    ),
    "large-send-buffer": (
        "The end of the RAM's copy waits in the send buffers of its TCP connections while the guest"
        " is paused, and a page of zeroes takes only a few bytes there (qemu-behaviour 22.5). "
        "Smaller buffers, to receive too, shorten the pause with which protection begins, but "
        "limit the rate of every TCP connection of the host to the buffer's size each round trip."
    ),
    "state-folder": (
        "The state folder cannot keep a record: it is missing, in memory alone, or others may "
        "write to it. The record says who may run alone, so this must be corrected."
    ),
    "run-folder": (
        "The run directory is there, and is not the user's alone. Remove it, or give it to that"
        " user with mode 0700."
    ),
    "no-folder": (
        "A folder is missing, or the user who starts QEMU cannot write to it. Make it, mount "
        "its disk, or change its owner."
    ),
    "no-program": (
        "QEMU or `qemu-img` is not found on a host. Install it, or set qemu_binary or "
        "qemu_img_binary."
    ),
    "qemu-lacks": (
        "QEMU on a host lacks what the pair needs: an object, a device, a block driver, a "
        "machine type or a CPU model. Install a build that has it, or the module of the block "
        "driver, which Debian has in `qemu-block-extra`; or change the declaration."
    ),
    "unknown-option": (
        "QEMU does not have an option of an image, or gives it another type, by its QMP schema. "
        "Correct options or file_options of the disk."
    ),
    "unknown-device": (
        "A host's QEMU does not have a device or a property that the pair file gives the guest, "
        "or the property takes another type. A note says that QEMU gave no answer about some."
    ),
    "machines-differ": (
        "The machine type means another machine on each host. Name the full one, such as "
        "pc-i440fx-10.0."
    ),
    "cpus-differ": (
        "The CPU model gives the guest other features on each host, so that the guest can fail "
        "after a failover. Name a CPU model that both hosts can give in full."
    ),
    "no-kvm": (
        "KVM is declared and cannot be used on a host. Load its module, let the user open "
        "/dev/kvm, or declare accelerator tcg."
    ),
    "emulated": (
        "The guest runs under TCG. QEMU keeps code that it translated before a checkpoint, "
        "although the checkpoint replaces the guest's memory. The secondary's guest can then "
        "crash or compute wrong results, and a failover continues that guest. With KVM this "
        "cannot happen."
    ),
    "firmware-differs": (
        "A file that goes into the guest's memory differs between the hosts: firmware, the ROM "
        "of a card, a kernel or an initrd. If the lengths differ, the guest's state cannot be "
        "loaded. Install the same packages on both."
    ),
    "little-memory": (
        "A host has too little memory available. A QEMU needs the guest's RAM, and as a "
        "secondary the same again for COLO's cache (qemu-behaviour 3.11)."
    ),
    "few-huge-pages": (
        "A host has too few free huge pages for the guest's RAM, so that its QEMU would end at "
        "once (qemu-behaviour 22.7). Set more aside, such as with sysctl vm.nr_hugepages, soon "
        "after the host's boot."
    ),
    "no-image": (
        "An image that must be there is not: the first node's, or with initial_sync identical "
        "each node's."
    ),
    "image-differs": (
        "An image or an overlay is not as it is declared, in its format, its size or its "
        "encryption, or it cannot be read. pycolo never overwrites it."
    ),
    "image-in-use": (
        "Another process has an image open. Two that write to it destroy it. End that process "
        "first."
    ),
    "little-space": (
        "The file system of images or overlays has little space left. A write that finds none "
        "pauses the guest, or ends its protection."
    ),
    "address-elsewhere": (
        "An address of a node is not one of its host's. QEMU cannot listen on it there."
    ),
    "name-unresolved": (
        "A host cannot resolve the name of a node. Add it to the name server or to /etc/hosts, "
        "or declare the address."
    ),
    "names-differ": (
        "A name stands for another address on each host, such as 127.0.1.1 on the host that has"
        " it. QEMU listens on one and its peer calls the other. Declare addresses, or make "
        "/etc/hosts equal."
    ),
    "port-in-use": (
        "A port of the pair is in use on a host. Declare other ports (ports.base), or end who "
        "listens there."
    ),
    "port-blocked": (
        "A host does not reach a port of another one: a firewall drops it, or there is no "
        "route. A closed port that refuses is what should be found."
    ),
    "ways-untried": (
        "The ports of the other hosts, and the packets to them, were not tried, since a QEMU that "
        "listens would take that for its peer (qemu-behaviour 19.8)."
    ),
    "port-conflict": (
        "A port of a host is open as another one sees it, and nobody listens on it there: another "
        "machine has the address, or something leads elsewhere."
    ),
    "mtu-differs": (
        "The largest packet differs by direction between two hosts. Set the same MTU on both "
        "ends, and on what lies between."
    ),
    "mtu-not-carried": (
        "Packets of the size that the host sends do not arrive, and nothing says so: the "
        "guest's state would never get through. Lower the MTU of the interface, or raise it on "
        "the way."
    ),
    "no-tap": (
        "A tap cannot be used on a host: it is missing, of another kind or another user's, or "
        "/dev/net/tun cannot be opened."
    ),
    "tap-in-use": "Another process has the tap. Each guest needs one of its own.",
    "tap-unconnected": "The tap is in no bridge, or is down, so that the guest reaches nobody.",
    "no-bridge": "A bridge that the pair names is missing, or is no bridge.",
    "unheld-traffic": (
        "COLO compares, and holds back until then, IPv4 without a VLAN tag alone. What the "
        "guest sends by IPv6 or in a VLAN leaves at once, and a failover can take it back "
        "(qemu-behaviour 17.2)."
    ),
    "unread-file": (
        "A file that QEMU needs cannot be read: of TLS, a secret, a kernel or an initrd."
    ),
    "key-mode": (
        "A key or a secret may be read or changed by others than its owner and group. Set mode "
        "0600."
    ),
    "tls-refused": (
        "A node's certificates do not work: one has expired, is not of this authority, does not"
        " go with its key, or does not hold the address that the peer calls."
    ),
    "tls-expires": (
        "A certificate expires within 30 days. QEMU reads certificates when it starts, so "
        "replace it in time for the next launch."
    ),
    "authorities-differ": (
        "The nodes trust different authorities. Each must accept the other's certificates."
    ),
    "tls-not-admitted": (
        "The name of a node's client certificate is not in tls.authz, so that its peer refuses it."
    ),
    "keys-differ": "The nodes have different keys, or one has no key of the declared name.",
    "no-fence": (
        "A command that fences a node is not found on this machine, or its input file cannot be"
        " read. It must be there where the supervisor runs."
    ),
    "not-forwarded": (
        "The sshd of a host does not carry monitors. See AllowStreamLocalForwarding and "
        "AllowTcpForwarding."
    ),
}
"The meaning of each code, whichever node a finding is about."
