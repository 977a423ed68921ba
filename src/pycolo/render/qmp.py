"""A plan as lines of QMP to paste into the monitors of both nodes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import assert_never

from pycolo._printable import page
from pycolo.conditions import describe
from pycolo.plan import (
    Check,
    CheckDevices,
    CheckPorts,
    CreateImage,
    Execute,
    HostAction,
    LaunchQemu,
    Plan,
    Record,
    Recovery,
    RunHost,
    Step,
    StopQemu,
    Wait,
)
from pycolo.render._wire import capabilities_line, step_line, wire_line
from pycolo.render._words import change_words, devices_words, ports_words


def render(plan: Plan) -> str:
    """Show a plan as QMP lines with comments between them.

    Paste the lines that begin with `{`, in the order shown, into the monitor of the node that the
    last `# node` line names. Do not paste the lines that begin with `#`: they are for people, and
    QMP has no comments.

    Args:
        plan: Any plan; for an empty one the text says that there is nothing to do.

    Returns:
        The text, which ends with a newline.
    """
    lines = [f"# {plan.procedure} of pair {plan.pair.name}"]
    lines += list(_body(plan)) if plan.steps else ["# nothing to do"]
    return page(lines)


def _body(plan: Plan) -> Iterator[str]:
    oob = _oob_nodes(plan)
    begin = {r.first: r for r in plan.recoveries}
    ends = {r.last for r in plan.recoveries}
    opened: set[str] = set()
    node = ""
    for step in plan.steps:
        if step.node != node:
            node = step.node
            yield from ("", f"# node {node}")
        if isinstance(step, Execute) and node not in opened:
            opened.add(node)
            yield capabilities_line(oob=node in oob)
        if step.address in begin:
            yield from _recovery(begin[step.address])
        yield from _step(step)
        if step.address in ends:
            yield "# from here on it may be left as it is"
        if step.address == plan.restored_after:
            yield "# the guest serves again"


def _oob_nodes(plan: Plan) -> frozenset[str]:
    """The nodes to which out-of-band commands are sent, in steps, rescues or recoveries."""
    executes = [step for step in plan.steps if isinstance(step, Execute)]
    executes += [step for recovery in plan.recoveries for step in recovery.steps]
    return frozenset(step.node for step in executes if step.oob or step.rescue)


def _recovery(recovery: Recovery) -> Iterator[str]:
    yield f"# if it has to be left before {recovery.last} is done, send ({recovery.why}):"
    for step in recovery.steps:
        yield f"#   to {step.node}: {step_line(step)}"


def _step(step: Step) -> Iterator[str]:
    match step:
        case Execute():
            yield step_line(step)
            yield from _answers(step)
        case Wait():
            yield f"# wait until {describe(step.until)} (at most {step.limit_s:g} s)"
            if step.unless is not None:
                yield f"#   give up as soon as {describe(step.unless)}"
        case Check():
            yield f"# require that {describe(step.condition)}"
        case RunHost():
            yield f"# on {step.node}'s host: {_action(step.action)}"
        case Record():
            yield f"# {step.node}'s own file of the pair: {change_words(step.change)}"
        case _:
            assert_never(step)


def _answers(step: Execute) -> Iterator[str]:
    for refusal in step.accepts:
        yield f"#   an error {refusal.error_class} with {refusal.text!r} in it is fine here"
    for yank in step.rescue:
        yield f"#   no answer after {step.limit_s:g} s? {wire_line(yank, oob=True)}"


def _action(action: HostAction) -> str:
    match action:
        case CreateImage(argv=argv, path=path):
            return f"unless {shlex.quote(path)} exists, {shlex.join(argv)}"
        case LaunchQemu(argv=argv):
            return shlex.join(argv)
        case StopQemu(instance=instance, at_once=at_once):
            return f"end the QEMU {instance}{' at once' if at_once else ''}"
        case CheckDevices(devices=devices):
            return f"see that QEMU knows {devices_words(devices)}"
        case CheckPorts(host=host, ports=ports):
            return f"see that {host} lets TCP {ports_words(ports)} through"
        case _:
            assert_never(action)
