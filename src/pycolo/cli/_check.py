"""The findings of a preflight as text and as JSON, and which of them `--force` may override."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, get_args

import click

from pycolo import operate, rules
from pycolo._json import JsonObject, JsonValue
from pycolo._printable import brief
from pycolo.cli import _say
from pycolo.errors import CompileError
from pycolo.findings import MEANINGS, Code, Finding, Level
from pycolo.plan import Procedure

_COLOURS: Final[Mapping[Level, str]] = {"error": "red", "warning": "yellow", "note": "cyan"}

force = click.option(
    "--force",
    "forced",
    metavar="CODE",
    multiple=True,
    help="launch, start, resume: continue in spite of this finding of `pycolo check`.",
)


def text(pair: str, found: Sequence[Finding], *, colour: bool) -> str:
    """The findings about one pair as text.

    Args:
        pair: The pair's name.
        found: The findings.
        colour: Whether to use colours.
    """
    lines = [f"{pair}: {_counts(found)}"]
    for one in found:
        level = click.style(one.level, fg=_COLOURS[one.level]) if colour else one.level
        lines.append(f"  {level} {one.code}: {brief(one.what)}")
        lines.append(f"    {brief(one.remedy)}")
    return "\n".join(lines) + "\n"


def _counts(found: Sequence[Finding]) -> str:
    counted = Counter(one.level for one in found)
    parts = [
        f"{counted[level]} {level}{'' if counted[level] == 1 else 's'}"
        for level in get_args(Level)
        if counted[level]
    ]
    return ", ".join(parts) or "nothing was found"


def to_json(found: Mapping[str, Sequence[Finding]]) -> JsonObject:
    """The findings about all pairs as JSON.

    Args:
        found: Pair name to its findings.
    """
    pairs: list[JsonValue] = [
        {"pair": pair, "findings": [finding_to_json(one) for one in findings]}
        for pair, findings in found.items()
    ]
    return {"format_version": 1, "pairs": pairs}


def finding_to_json(found: Finding) -> JsonObject:
    """One finding as JSON."""
    return {
        "code": found.code,
        "level": found.level,
        "node": found.node,
        "what": brief(found.what),
        "remedy": brief(found.remedy),
    }


def has_errors(found: Collection[Finding]) -> bool:
    """Whether any finding is an error, which stops a procedure."""
    return any(one.level == "error" for one in found)


def refuse_unready(found: Collection[Finding], forced: Collection[Code]) -> None:
    """Refuse a procedure if a finding stops it that is not overridden.

    Args:
        found: The errors that were found.
        forced: The codes that are overridden; each of them that was found is printed.

    Raises:
        CompileError: At least one error is not overridden.
    """
    left = [one for one in found if one.code not in forced]
    if left:
        raise CompileError(*left)
    for one in found:
        _say.note(brief(f"continued in spite of {one.code}: {one.what}"))


def forced_codes(codes: Sequence[str], procedure: Procedure) -> frozenset[Code]:
    """Parse and check the codes that `--force` gives.

    Args:
        codes: The values of the option.
        procedure: The procedure that will be executed.

    Raises:
        click.UsageError: The procedure has no `--force`, or a value is no code, or may not be
            overridden, or does not stop this procedure.
    """
    return frozenset(_forced_code(code, procedure) for code in codes)


def _forced_code(text_: str, procedure: Procedure) -> Code:
    code = next((known for known in MEANINGS if known == text_), None)
    if procedure not in operate.PREFLIGHTED:
        users = ", ".join(operate.PREFLIGHTED)
        raise click.UsageError(f"{procedure} has no --force: it is for {users}")
    if code is None:
        near = difflib.get_close_matches(text_, MEANINGS, n=1)
        advice = f"did you mean {near[0]}?" if near else "`pycolo check` shows codes"
        raise click.UsageError(f"--force {text_!r} is no code: {advice}")
    if code in rules.NEVER_FORCED or code not in rules.codes():
        why = "it is about records, evidence or identity, or about what QEMU can do"
        raise click.UsageError(f"--force {code}: nobody may override it, since {why}")
    if code not in rules.codes(procedure):
        raise click.UsageError(f"--force {code}: it does not stop {procedure}")
    return code
