"""The two styles of commands, as a table of everything in which they differ.

`auto` is pycolo's own style. `doc` is that of QEMU's `docs/COLO-FT.txt`, and the module `document`
compiles it. In both, the procedures choose the primary, write records and refuse what is unsafe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeAlias, final

import attrs

from pycolo.compiler import _disks, document, tune
from pycolo.compiler._draft import Draft
from pycolo.compiler.failover import fail_over
from pycolo.compiler.launch import Role, own_argv
from pycolo.compiler.protect import is_recorded, protect
from pycolo.errors import DeclarationError, compile_error
from pycolo.features import Features, accept_pair, of
from pycolo.model.pair import ColoPair
from pycolo.plan import DialectName, Procedure
from pycolo.qmp.replies import Version

Accept: TypeAlias = Callable[[ColoPair, Mapping[str, Version], Collection[Version]], Features]
Argv: TypeAlias = Callable[[ColoPair, str, Role, str, Features], tuple[str, ...]]
Protect: TypeAlias = Callable[[Draft, Procedure, str, str, Features], None]


@final
@attrs.frozen(kw_only=True)
class Dialect:
    """One style of commands."""

    accept: Accept
    """Returns the features of the nodes' QEMU.

    Raises VersionError if this style cannot use that version, or CompileError if the style cannot
    express the declaration."""
    argv: Argv
    "Returns the command line of a QEMU, for a node, its role and the QEMU's identity."
    is_secondary_first: bool
    "Whether the secondary is launched before its primary."
    are_images_given: Callable[[Draft], bool]
    "Whether the operator provides the secondary's images, so that `launch` creates none."
    protect: Protect
    "Emits `start` or `resume`, for a primary and a secondary."
    set_delay: Callable[[Draft, str, int, Features], None]
    "Emits `set-checkpoint-delay`."
    fail_over: Callable[[Draft, str], None]
    "Emits `failover`."
    ends_protection: bool
    "Whether this style has `stop`, `switch-over`, `shutdown` and `checkpoint`."


def of_name(name: DialectName) -> Dialect:
    """The dialect that has this name.

    Raises:
        DeclarationError: There is no dialect of that name.
    """
    if name not in _DIALECTS:
        raise DeclarationError("dialect", name, f"be one of {', '.join(_DIALECTS)}")
    return _DIALECTS[name]


def refuse_ending(name: DialectName, what: str) -> None:
    """Refuse `stop`, `switch-over`, `shutdown` or `checkpoint` in a dialect that lacks them.

    Args:
        name: The dialect's name.
        what: What the procedure does, as words that follow "how to" in the message.

    Raises:
        CompileError: The dialect has none of these procedures.
        DeclarationError: There is no dialect of that name.
    """
    if not of_name(name).ends_protection:
        raise compile_error(
            "not-in-document", f"QEMU's document does not say how to {what}", "use dialect auto"
        )


def launch_argv(
    pair: ColoPair,
    node: str,
    *,
    role: Role,
    instance: str,
    features: Features,
    dialect: DialectName = "auto",
) -> tuple[str, ...]:
    """The command line that starts a node's QEMU.

    Args:
        pair: The declaration.
        node: The node's name.
        role: The role in which the QEMU starts.
        instance: The identity that the QEMU gets, which query-name then returns.
        features: What the QEMU's version understands.
        dialect: `auto`, or `doc` for the command line of QEMU's COLO document.

    Returns:
        The arguments, the binary first.

    Raises:
        DeclarationError: The pair has no such node, or there is no such dialect.
    """
    return of_name(dialect).argv(pair, node, role, instance, features)


# -- pycolo's own ----------------------------------------------------------------------------------


def _accept_own(
    pair: ColoPair, qemu: Mapping[str, Version], assume_good: Collection[Version]
) -> Features:
    return accept_pair(pair, qemu, assume_good=assume_good)


def _protect_own(
    draft: Draft, procedure: Procedure, primary: str, secondary: str, features: Features
) -> None:
    del procedure  # `start` and `resume` emit the same steps: those that are missing
    states = [draft.live(node) for node in (primary, secondary)]
    in_colo = all(live.colo_mode != "none" and not live.jobs for live in states)
    if not (in_colo and is_recorded(draft, primary, secondary)):
        draft.check_instances((primary, secondary))
        draft.check_parts((primary, secondary))
    protect(draft, primary, secondary, features)


# -- the document's --------------------------------------------------------------------------------


def _accept_any(
    pair: ColoPair, qemu: Mapping[str, Version], assume_good: Collection[Version]
) -> Features:
    # The document's commands are the same for every version, even if a QEMU refuses some of them.
    del assume_good
    if pair.tls is not None:
        why = "QEMU's document does not say how to encrypt, and tls is declared"
        raise compile_error("not-in-document", why, "use dialect auto, or declare no tls")
    if any(disk.properties for disk in pair.disks):
        why = "QEMU's document makes disks without properties, and disks have some"
        raise compile_error("not-in-document", why, "use dialect auto, or declare no properties")
    return of(next(iter(qemu.values())))


def _document_argv(
    pair: ColoPair, node: str, role: Role, instance: str, features: Features
) -> tuple[str, ...]:
    del features
    return document.launch_argv(pair, node, role, instance)


def _protect_document(
    draft: Draft, procedure: Procedure, primary: str, secondary: str, features: Features
) -> None:
    del features
    (document.start if procedure == "start" else document.resume)(draft, primary, secondary)


def _document_delay(draft: Draft, primary: str, delay_ms: int, features: Features) -> None:
    del features
    document.set_delay(draft, primary, delay_ms)


_DIALECTS: Final[Mapping[DialectName, Dialect]] = {
    "auto": Dialect(
        accept=_accept_own,
        argv=own_argv,
        is_secondary_first=False,
        are_images_given=_disks.must_be_there,
        protect=_protect_own,
        set_delay=tune.set_delay,
        fail_over=fail_over,
        ends_protection=True,
    ),
    "doc": Dialect(
        accept=_accept_any,
        argv=_document_argv,
        # With the document's command line a primary waits for its secondary (qemu-behaviour 3.1).
        is_secondary_first=True,
        are_images_given=lambda _: True,
        protect=_protect_document,
        set_delay=_document_delay,
        fail_over=document.fail_over,
        ends_protection=False,
    ),
}
