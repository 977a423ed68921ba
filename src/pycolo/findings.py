"""What stands in the way of a procedure, as a value with a code.

A code is stable: programs may act on it, and `pycolo explain CODE` says what it means.
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
    "cancelling",
    "other-secondary",
    "disks-exchanged",
    "unsupported-version",
    "supervised",
    "supervision-paused",
    "at-work",
]
"What a finding may be."


@final
@attrs.frozen(kw_only=True)
class Finding:
    """One thing that stands in the way."""

    code: Code
    "What kind of thing it is."
    node: str | None
    "The node that it is about; None if it is about the pair."
    what: str
    "What was found, as a sentence without a full stop."
    remedy: str
    "What a person must decide or do; empty if nothing can be done."

    @override
    def __str__(self) -> str:
        """What was found, then the remedy."""
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


MEANINGS: Final[Mapping[Code, str]] = {
    "foreign-record": (
        "A record beside the images belongs to another pair: two pairs were given one image or "
        "one state_dir. Give each its own."
    ),
    "managed-record": (
        "An arbiter holds the record, so only the agents that use this arbiter may change it. Say"
        " what you want to them: `pycolo want` or `pycolo pause`, with --agent."
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
        "The primary's own disk refused a write that its secondary has: whoever lets the primary "
        "run alone loses that write."
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
        "The supervisor executes another plan, or finds out whether a QEMU has ended. Try again "
        "once it is done."
    ),
}
"Code to what it means, whatever node it is about."
