"""Compile a procedure by its name, and check a plan by compiling it again."""

from __future__ import annotations

from typing import assert_never, get_args

from pycolo.compiler import procedures
from pycolo.compiler.converge import converge
from pycolo.errors import DeclarationError, ParseError, compile_error
from pycolo.model import _rules as rules
from pycolo.model.pair import ColoPair
from pycolo.plan import OFFLINE_BIRTH, DialectName, Options, Plan, Procedure
from pycolo.snapshot import Snapshot


def compile_plan(  # noqa: C901 - one case a procedure
    procedure: Procedure,
    pair: ColoPair,
    snapshot: Snapshot,
    options: Options | None = None,
    *,
    dialect: DialectName = "auto",
) -> Plan:
    """Compile a procedure.

    Args:
        procedure: Its name, as on the command line.
        pair: The declaration.
        snapshot: The states of the nodes and their records.
        options: The procedure's further arguments; their defaults if None. Those that the
            procedure does not have are ignored.
        dialect: `auto` or `doc`; `converge` and `forget` ignore it.

    Raises:
        DeclarationError: `procedure` is not one of `Procedure`, a name is not one of the pair's,
            another option breaks its rule, or `forget` is given no `gone`.
        RefusedError: See the procedure.
    """
    rules.one_of(*get_args(Procedure))("procedure", procedure)
    asked = options or Options()
    good = asked.assume_good
    match procedure:
        case "launch":
            return procedures.launch(
                pair,
                snapshot,
                qemu=asked.qemu,
                nodes=asked.nodes,
                newest=asked.newest,
                instances=asked.instances,
                birth=asked.birth,
                dialect=dialect,
                assume_good=good,
            )
        case "start":
            return procedures.start(
                pair, snapshot, peer=asked.peer, dialect=dialect, assume_good=good
            )
        case "resume":
            return procedures.resume(
                pair, snapshot, peer=asked.peer, dialect=dialect, assume_good=good
            )
        case "stop":
            return procedures.stop(pair, snapshot, dialect=dialect, assume_good=good)
        case "failover":
            return procedures.failover(
                pair, snapshot, survivor=asked.survivor, dialect=dialect, assume_good=good
            )
        case "switch-over":
            return procedures.switch_over(
                pair, snapshot, left_to=asked.left_to, dialect=dialect, assume_good=good
            )
        case "shutdown":
            return procedures.shutdown(pair, snapshot, dialect=dialect, assume_good=good)
        case "checkpoint":
            return procedures.checkpoint(pair, snapshot, dialect=dialect, assume_good=good)
        case "set-checkpoint-delay":
            delay = _delay_ms(pair, asked)
            return procedures.set_checkpoint_delay(
                pair, snapshot, delay, dialect=dialect, assume_good=good
            )
        case "converge":
            return converge(pair, snapshot, peer=asked.peer, assume_good=good)
        case "forget":
            return procedures.forget(pair, snapshot, _gone(asked))
        case _:
            assert_never(procedure)


def _delay_ms(pair: ColoPair, asked: Options) -> int:
    """The delay that was asked for, or else the declared one."""
    given = asked.checkpoint_delay_ms
    return pair.checkpoint_delay_ms if given is None else given


def _gone(asked: Options) -> str:
    """The node to forget.

    Raises:
        DeclarationError: No node was named.
    """
    if asked.gone is None:
        raise DeclarationError("options.gone", None, "name the node that is gone for good")
    return asked.gone


def check_compiled(plan: Plan) -> None:
    """Refuse a plan that is not what its own declaration, snapshot and options compile to.

    So a plan file cannot carry commands of its own: compiling is pure, and the comparison covers
    every command, command line and record in the plan.

    Raises:
        ParseError: The plan differs. The error names the first step of the plan that does. If none
            does, such as when steps are missing at the end, it names the procedure.
        DeclarationError: An option of the plan breaks its rule.
        RefusedError: No plan can be compiled from the declaration, snapshot and options.
    """
    again = compile_plan(
        plan.procedure, plan.pair, plan.prior_state, plan.options, dialect=plan.dialect
    )
    if again == plan:
        return
    rule = "be what the plan's own declaration, snapshot and options compile to"
    for n, step in enumerate(plan.steps):
        if n >= len(again.steps) or step != again.steps[n]:
            raise ParseError(f"steps[{n}]", rule, step.address)
    raise ParseError("", rule, plan.procedure)


def refuse_offline(plan: Plan) -> None:
    """Refuse to execute a `launch` that was compiled offline.

    Its identities and its birth are fixed, not random: QEMUs of another launch may have the same
    identities, and another pair the same birth. Plans of other procedures pass.

    Raises:
        CompileError: The plan is a `launch` that was compiled offline.
    """
    if plan.procedure == "launch" and plan.options.birth == OFFLINE_BIRTH:
        why = "this launch was compiled offline, so its identities are not random"
        raise compile_error("offline-launch", why, "save one with plan launch --live")
