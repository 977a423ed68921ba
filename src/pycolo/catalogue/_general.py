"""Messages with which QEMU may answer any command."""

from __future__ import annotations

from typing import Final

from pycolo.catalogue._entry import EVERY, HUMAN, Entry, words

ENTRIES: Final = (
    Entry(
        name="command-unknown",
        wordings=(words("The command {NAME} has not been found"),),
        commands=(EVERY,),
        meaning="this version has no such command",
        goal="missed",
        remedy="compile the plan again for the version that runs",
        source="2.3",
        error_class="CommandNotFound",
    ),
    Entry(
        name="argument-unknown",
        wordings=(words("Parameter '{NAME}' is unexpected"),),
        commands=(EVERY,),
        meaning="this version does not know that argument, or does not know it there",
        goal="missed",
        remedy="compile the plan again for the version that runs",
        source="2.3",
    ),
    Entry(
        name="argument-missing",
        wordings=(words("Parameter '{NAME}' is missing"),),
        commands=(EVERY,),
        meaning="an argument is missing; for an address it may stand in the wrong nesting",
        goal="missed",
        remedy="correct the command: some commands wrap an address in `data`, others do not",
        source="3.13",
    ),
    Entry(
        name="value-unknown",
        wordings=(words("Parameter '{NAME}' does not accept value '{VALUE}'"),),
        commands=(EVERY,),
        meaning="this version does not know that value of the argument",
        goal="missed",
        remedy="compile the plan again for the version that runs",
        source="2.3",
    ),
    Entry(
        name="human-command-unknown",
        wordings=(words("unknown command: '{NAME}'"),),
        commands=(HUMAN,),
        meaning="the human monitor of this version has no such command",
        goal="missed",
        remedy="compile the plan again for the version that runs",
        source="11.3",
    ),
)
