"""A plan as a shell script that an operator can read and run.

The script is POSIX shell with a small QMP client in Python. It sends the commands of the plan, asks
QEMU repeatedly during a wait, and ends at the first refusal that the plan does not accept.
"""

from __future__ import annotations

import ipaddress
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, assert_never

import attrs

from pycolo import conditions as c
from pycolo import helper, record
from pycolo._printable import one_line
from pycolo.conditions import describe
from pycolo.model.node import Monitor, Node, TcpMonitor, UnixMonitor
from pycolo.plan import (
    OFFLINE_BIRTH,
    Check,
    CheckDevices,
    CheckPorts,
    CreateImage,
    Execute,
    HostAction,
    LaunchQemu,
    Plan,
    Record,
    RunHost,
    Step,
    StopQemu,
    Wait,
)
from pycolo.qmp.commands import Migrate, MigrateIncoming
from pycolo.record import DamagedRecord, NoRecord
from pycolo.render._shell_client import CLIENT
from pycolo.render._shell_library import LIBRARY
from pycolo.render._wire import step_line, wire_line
from pycolo.render._words import (
    change_words,
    command_words,
    devices_words,
    evidence_words,
    ports_words,
)
from pycolo.snapshot import Dead

_HEAD: Final = """\
#!/bin/sh
# {title}
#
# It needs sh and python3 on every host, and talks to the control monitors as pycolo does. Between
# two steps it holds no connection: see that nobody else works on the nodes meanwhile.
#
# It ends with 0 when all is done, 1 when it was refused and nothing was changed, 3 when something
# was or may have been changed, and 4 if a person must decide.
set -eu

client=$(cat <<'END_OF_CLIENT'
{client}END_OF_CLIENT
)

# The helper: it runs on a node's host and works on the files and processes there.
helper=$(cat <<'END_OF_HELPER'
{helper}END_OF_HELPER
)

# How a command reaches each node's host, and where its monitors are. Correct these if necessary.
{places}
{library}"""


_OFFLINE: Final = """\
# Compiled offline: every such script has these identities. For a pair that you keep, make a script
# from `plan launch --live`."""


def render(plan: Plan) -> str:
    """Show a plan as a shell script.

    Args:
        plan: Any plan; an empty one gives a script that does nothing.

    Returns:
        The script. Every word that comes from the plan is quoted.
    """
    marks = _marks(plan)
    listening = "".join(f"listen {shlex.quote(node)}\n" for node in _listened(plan))
    parts = [_head(plan), *_recoveries(plan)]
    for number, step in enumerate(plan.steps, 1):
        if listening and not isinstance(step, RunHost | Record):
            parts.append(listening)
            listening = ""
        parts.append("\n".join(_step(plan, number, step, marks)) + "\n")
    return "\n".join([*parts, f"say {shlex.quote(_title(plan) + ': done')}\n"])


def _title(plan: Plan) -> str:
    versions = ", ".join(f"{node} {version}" for node, version in plan.qemu.items())
    on = f" for QEMU on {versions}" if versions else ""
    return one_line(f"{plan.procedure} of pair {plan.pair.name}{on} (dialect {plan.dialect})")


def _head(plan: Plan) -> str:
    everyone = plan.pair.all_nodes
    nodes = [node for node in everyone if node in plan.pair.nodes or node.name in plan.nodes()]
    places = "\n".join(
        (
            _table("on", {node.name: _way(node) for node in nodes}, before="name=$1\n  shift\n  "),
            _table("control", {n.name: _place(n.control_monitor) for n in nodes}),
            _table("observer", {n.name: _place(n.observer_monitor) for n in nodes}),
            _table("process", {n.name: _process(plan, n.name) for n in nodes}),
        )
    )
    if plan.procedure == "launch" and plan.options.birth == OFFLINE_BIRTH:
        places = f"{_OFFLINE}\n{places}"
    return _HEAD.format(
        title=_title(plan), client=CLIENT, helper=helper.text(), places=places, library=LIBRARY
    )


def _table(name: str, rows: Mapping[str, str], before: str = "") -> str:
    """A shell function that prints or runs the row of a node; another name is an error.

    Args:
        name: The function's name.
        rows: Node name to a line of shell.
        before: Shell that runs before the choice; it must set `name` to the node's name.
    """
    word = "$name" if before else "$1"
    cases = "".join(f"    {shlex.quote(node)}) {row} ;;\n" for node, row in rows.items())
    unknown = f'    *) echo "no node {word}" >&2; return 1 ;;\n'
    return f"{name}() {{\n  {before}case {word} in\n{cases}{unknown}  esac\n}}"


def _way(node: Node) -> str:
    """The shell words that run a command on a node's host."""
    return '"$@"' if _is_here(node) else f'over_ssh {shlex.quote(node.address)} "$@"'


def _is_here(node: Node) -> bool:
    """Whether a node's address is a loopback address, so that its host is this one."""
    try:
        return ipaddress.ip_address(node.address).is_loopback
    except ValueError:
        return node.address == "localhost"


def _place(monitor: Monitor) -> str:
    """The shell line that prints the address of a monitor."""
    match monitor:
        case UnixMonitor(path=path):
            place = f"unix:{path}"
        case TcpMonitor(host=host, port=port):
            place = f"tcp:{host}:{port}"
        case _:
            assert_never(monitor)
    return f"printf '%s\\n' {shlex.quote(place)}"


def _process(plan: Plan, node: str) -> str:
    """The shell line that prints the helper's request about a node's QEMU process."""
    monitors = [helper.monitor_json(monitor) for _, monitor in plan.pair.node(node).monitors]
    request = json.dumps({"process": plan.pair.process_path(node), "monitors": monitors})
    return f"printf '%s\\n' {shlex.quote(request)}"


# -- events, which need a listener and marks ------------------------------------------------------


def _conditions(plan: Plan) -> Iterator[c.Leaf]:
    """Every single condition of the plan's checks and waits."""
    for step in plan.steps:
        if isinstance(step, Check):
            yield from c.leaves(step.condition)
        if isinstance(step, Wait):
            yield from c.leaves(step.until)
            yield from c.leaves(step.unless) if step.unless is not None else ()


def _listened(plan: Plan) -> tuple[str, ...]:
    """The nodes whose events the plan's conditions need."""
    kinds = (c.NoColoExit, c.ColoExited, c.CheckpointSeen, c.Replicates, c.PoweredOff)
    return tuple(dict.fromkeys(leaf.node for leaf in _conditions(plan) if isinstance(leaf, kinds)))


def _begins_colo(step: Step) -> bool:
    """Whether a step starts a migration, after which an older COLO_EXIT does not count."""
    return isinstance(step, Execute) and isinstance(step.command, Migrate | MigrateIncoming)


def _marks(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Address of each step from which checkpoints are counted, to the nodes that must show them."""
    marks: dict[str, tuple[str, ...]] = {}
    for leaf in _conditions(plan):
        if isinstance(leaf, c.CheckpointSeen) and leaf.node not in marks.get(leaf.since, ()):
            marks[leaf.since] = (*marks.get(leaf.since, ()), leaf.node)
    return marks


# -- recoveries ------------------------------------------------------------------------------------


def _recoveries(plan: Plan) -> Iterator[str]:
    """The shell functions of the plan's recoveries; a step of several has one number."""
    addresses = dict.fromkeys(
        step.address for recovery in plan.recoveries for step in recovery.steps
    )
    numbers = {address: str(number) for number, address in enumerate(addresses, 1)}
    for number, recovery in enumerate(plan.recoveries, 1):
        sends = [f"  {_send(('recover', numbers[s.address]), s)}\n" for s in recovery.steps]
        body = "".join(sends) or "  :\n"
        yield f"# {one_line(recovery.why)}\nrecovery_{number}() {{\n{body}}}\n"


def _entered(plan: Plan, address: str) -> Iterator[str]:
    """The lines that begin the recoveries whose range begins with a step."""
    # `enter` puts a recovery before the others, so the one that is entered last runs first.
    for number, recovery in reversed(list(enumerate(plan.recoveries, 1))):
        if recovery.first == address:
            yield f"enter recovery_{number}"


def _left(plan: Plan, address: str) -> Iterator[str]:
    """The lines that end the recoveries whose range ends with a step."""
    for number, recovery in enumerate(plan.recoveries, 1):
        if recovery.last == address:
            yield f"leave recovery_{number}"


def _send(call: Sequence[str], step: Execute) -> str:
    """The line that sends a step's command, by the shell function that `call` begins with."""
    accepts = [{"class": refusal.error_class, "text": refusal.text} for refusal in step.accepts]
    rescue = [json.loads(wire_line(yank, oob=True)) for yank in step.rescue]
    words = [*call, step.node, f"{step.limit_s:g}", step_line(step)]
    return shlex.join([*words, json.dumps(accepts), json.dumps(rescue)])


# -- steps -----------------------------------------------------------------------------------------


def _step(
    plan: Plan, number: int, step: Step, marks: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    yield f"# {one_line(step.address)}: {one_line(step.why)}"
    yield f"say {shlex.quote(f'{number}. {_what(step)}')}"
    yield from _entered(plan, step.address)
    for node in marks.get(step.address, ()):
        yield shlex.join(["mark", node, str(number)])
    if _begins_colo(step) and step.node in _listened(plan):
        yield shlex.join(["begin_colo", step.node])
    numbers = {s.address: n for n, s in enumerate(plan.steps, 1)}
    match step:
        case Execute():
            yield _maybe(step, _send(("send",), step))
        case Wait():
            yield from _wait(number, step, numbers)
        case Check():
            yield from _check(plan, step, numbers)
        case RunHost():
            yield _maybe(step, _run_host(plan, step))
            yield from _ended(plan, step)
        case Record():
            yield _maybe(step, _record(plan, step))
        case _:
            assert_never(step)
    yield from _left(plan, step.address)
    if step.address == plan.restored_after:
        yield "say 'the guest serves again'"


def _what(step: Step) -> str:
    match step:
        case Execute(command=command):
            return one_line(f"{step.node}: {command_words(command)}")
        case Wait(until=until, limit_s=limit_s):
            return one_line(f"wait until {describe(until)}, at most {limit_s:g} s")
        case Check(condition=condition):
            return one_line(f"require that {describe(condition)}")
        case RunHost(action=action):
            return one_line(f"{step.node}: {_action(action)}")
        case Record(change=change):
            return one_line(f"{step.node}: {change_words(change)}")
        case _:
            assert_never(step)


def _maybe(step: Execute | RunHost | Record, line: str) -> str:
    return f"maybe {line}" if step.may_fail else line


def _action(action: HostAction) -> str:
    match action:
        case CreateImage(path=path):
            return f"create {path}"
        case LaunchQemu(role=role, instance=instance):
            return f"launch the {role} {instance}"
        case StopQemu(instance=instance, at_once=at_once):
            return f"{'kill' if at_once else 'stop'} {instance}"
        case CheckDevices(devices=devices):
            return f"check that QEMU knows {devices_words(devices)}"
        case CheckPorts(host=host, ports=ports):
            return f"check that {host} lets through TCP {ports_words(ports)}"
        case _:
            assert_never(action)


def _wait(number: int, step: Wait, numbers: Mapping[str, int]) -> Iterator[str]:
    yield f"until_{number}() {{ {_test(step.until, numbers)}; }}"
    unless = "never"
    if step.unless is not None:
        unless = f"unless_{number}"
        yield f"{unless}() {{ {_test(step.unless, numbers)}; }}"
    line = f"wait_until {math.ceil(step.limit_s)} until_{number} {unless}"
    yield f"maybe {line}" if step.may_fail else line


def _check(plan: Plan, step: Check, numbers: Mapping[str, int]) -> Iterator[str]:
    for leaf in c.leaves(step.condition):
        state = plan.prior_state.state(leaf.node)
        if isinstance(leaf, c.PeerDead) and isinstance(state, Dead):
            words = one_line(
                f"   the plan was compiled with {leaf.node} dead: {evidence_words(state.evidence)}"
            )
            yield f"say {shlex.quote(words)}"
    yield f"if ! {{ {_test(step.condition, numbers)}; }}; then fail 'it is not true'; fi"


def _run_host(plan: Plan, step: RunHost) -> str:
    name, request = helper.request_of(plan.pair, step.node, step.action, step.limit_s)
    return shlex.join(["host", step.node, name, json.dumps(request)])


def _ended(plan: Plan, step: RunHost) -> Iterator[str]:
    """The line that keeps the end of a QEMU on its host as evidence for later steps."""
    for victim in plan.victims():
        if isinstance(step.action, StopQemu) and step.action.instance == victim.instance:
            words = [
                victim.node,
                victim.instance,
                str(victim.epoch),
                step.node,
                "its host ended it",
            ]
            yield shlex.join(["ended", "exit", *words])


def _record(plan: Plan, step: Record) -> str:
    expects, becomes = step.change.expects, step.change.becomes
    if isinstance(expects, DamagedRecord):
        return shlex.join(["fail", f"the record of {step.node} is damaged: {expects.why}"])
    there = "null" if isinstance(expects, NoRecord) else record.dumps(expects).strip()
    kept = json.dumps(helper.kept_by(plan.pair, step.node))
    words = [step.node, kept, f"{step.limit_s:g}", there]
    return shlex.join(["record", *words, record.dumps(becomes).strip()])


# -- conditions ------------------------------------------------------------------------------------


def _test(condition: c.Condition, numbers: Mapping[str, int]) -> str:
    """A condition as a shell test.

    Args:
        condition: The condition.
        numbers: The address of each step to its number in the plan.
    """
    match condition:
        case c.AllOf(conditions=()):
            return "true"
        case c.AnyOf(conditions=()):
            return "false"
        case c.AllOf(conditions=parts):
            return " && ".join(f"{{ {_test(part, numbers)}; }}" for part in parts)
        case c.AnyOf(conditions=parts):
            return " || ".join(f"{{ {_test(part, numbers)}; }}" for part in parts)
        case leaf:
            return shlex.join(_words(leaf, numbers))


def _words(leaf: c.Leaf, numbers: Mapping[str, int]) -> list[str]:  # noqa: C901 - one line a leaf
    """A single condition as the words of a shell command."""
    node = leaf.node
    match leaf:
        case c.RunStateIs(states=states):
            return ["holds", node, "run-state", *states]
        case c.ColoModeIs(mode=mode):
            return ["holds", node, "colo-mode", mode]
        case c.NoColoExit():
            return ["no_colo_exit", node]
        case c.ColoExited():
            return ["colo_exited", node]
        case c.CheckpointSeen(since=since):
            return ["checkpoint_seen", node, str(numbers.get(since, 0))]
        case c.MigrationIs(statuses=statuses):
            return ["holds", node, "migration", *statuses]
        case c.JobIs(job=job, statuses=statuses):
            return ["holds", node, "job", job, *statuses]
        case c.JobFailed(job=job):
            return ["holds", node, "job-failed", job]
        case c.ChardevConnected(chardev=chardev):
            return ["holds", node, "chardev", chardev]
        case c.ChildIs(quorum=quorum, child=child, child_node=child_node):
            return ["holds", node, "child", quorum, child, child_node]
        case c.Replicates(child_node=child_node):
            return ["replicates", node, child_node]
        case c.SizeIs(block_node=block_node, size_bytes=size_bytes):
            return ["holds", node, "size", block_node, str(size_bytes)]
        case c.Committed(quorum=quorum):
            return ["holds", node, "committed", quorum]
        case c.PartsAre():
            listed = attrs.asdict(leaf, filter=lambda field, _: field.name != "node")
            return ["holds", node, "parts", json.dumps(listed, separators=(",", ":"))]
        case c.InstanceIs(instance=instance):
            return ["holds", node, "name", instance]
        case c.VersionIs(version=version):
            return ["holds", node, "version", str(version)]
        case c.Gone():
            return ["holds", node, "gone"]
        case c.PoweredOff():
            return ["powered_off", node]
        case c.PeerDead(instance=instance, epoch=epoch):
            return ["proven_dead", node, instance, str(epoch)]
        case c.NotRunning():
            return ["not_running", node]
        case _:
            assert_never(leaf)
