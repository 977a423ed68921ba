"""Exit codes, which tell a caller how a command ended."""

from __future__ import annotations

from typing import Final

from pycolo.errors import CommandUnknown, CompileError, PycoloError
from pycolo.result import PlanFailed

DONE: Final = 0
REFUSED: Final = 1
"Refused or failed, and nothing was changed."
DIFFERENT: Final = 2
UNFINISHED: Final = 3
"Something was changed but not completed, or what was changed is not known."
UNKNOWN: Final = 3
"The exit code of `status --check` if the state of the pair cannot be found out."
DECIDE: Final = 4
"A person must decide, or change a file."
USAGE: Final = 64


def of_error(error: PycoloError | OSError) -> int:
    """The exit code for an error that ended a command."""
    match error:
        case PlanFailed(report=report):
            return report.exit_code
        case CommandUnknown():
            return UNFINISHED
        case CompileError(is_decidable=True):
            return DECIDE
        case _:
            return REFUSED
