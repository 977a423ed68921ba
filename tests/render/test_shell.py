"""The script of a plan: quoted, bounded, and true to the plan on a real QEMU."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from pycolo.conditions import (
    AllOf,
    AnyOf,
    CheckpointSeen,
    ColoExited,
    Condition,
    Gone,
    InstanceIs,
    JobFailed,
    MigrationIs,
    NoColoExit,
    PeerDead,
    PoweredOff,
    RunStateIs,
    VersionIs,
)
from pycolo.model import ColoPair, Node
from pycolo.plan import Check, CreateImage, Execute, Plan, Recovery, Refusal, RunHost, Wait
from pycolo.qmp import commands as qmp
from pycolo.qmp.objects import IoThread, YankBlockNode
from pycolo.qmp.replies import Version
from pycolo.render import shell

QEMU = Version(major=11, minor=1, micro=3)
MakePlan = Callable[..., Plan]


def execute(command: qmp.Command, accepts: tuple[Refusal, ...] = (), tail: str = "") -> Execute:
    """A step on alpha."""
    return Execute(
        address=f"alpha/{command.qmp_name}/{command.subject}{tail}",
        node="alpha",
        command=command,
        why="a test asks for it",
        limit_s=10,
        accepts=accepts,
    )


def wait(until: Condition, unless: Condition | None = None, limit_s: float = 10) -> Wait:
    """A wait on alpha."""
    return Wait(
        address="alpha/wait", node="alpha", until=until, unless=unless, why="so", limit_s=limit_s
    )


def run(
    script: str, tmp_path: Path, answers: str = "", sh: str = "sh"
) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder of its own and give what it said."""
    path = tmp_path / "plan.sh"
    path.write_text(script)
    return subprocess.run(
        [sh, str(path)], input=answers, capture_output=True, text=True, check=False, timeout=50
    )


def body(script: str) -> str:
    """The part that comes from the steps, without the library."""
    return script.partition("\n# alpha/")[2]


@pytest.mark.parametrize("sh", ["sh", "bash"])
def test_an_empty_plan_is_a_script_that_does_nothing(
    make_plan: MakePlan, tmp_path: Path, sh: str
) -> None:
    """A script without steps ends with 0 in every shell."""
    done = run(shell.render(make_plan()), tmp_path, sh=sh)
    said = "failover of pair colo for QEMU on alpha 11.1.3 (dialect auto): done\n"
    assert (0, said) == (done.returncode, done.stderr)


def test_a_step_reads_as_one_quoted_line(make_plan: MakePlan) -> None:
    """What a step sends stands in one line, with limit, accepted refusals and rescue."""
    yank = qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),))
    step = Execute(
        address="alpha/stop",
        node="alpha",
        command=qmp.Stop(),
        why="the guest\nstands",
        limit_s=2.5,
        accepts=(Refusal(text="it's so"),),
        rescue=(yank,),
    )
    _, said, sent, *_ = shell.render(make_plan(step)).partition("\n# alpha/")[2].splitlines()
    assert "say '1. alpha: stop'" == said
    assert [
        "send",
        "alpha",
        "2.5",
        '{"execute": "stop"}',
        '[{"class": "GenericError", "text": "it\'s so"}]',
        json.dumps([{"exec-oob": "yank", "arguments": yank.arguments()}]),
    ] == shlex.split(sent)


def test_no_text_of_a_plan_begins_a_line_of_its_own(make_plan: MakePlan) -> None:
    """Line ends in reasons and names cannot smuggle commands into the script."""
    step = Check(
        address="alpha/x\ntouch pwned",
        node="alpha",
        condition=InstanceIs(node="alpha", instance="one'\n; touch pwned; '"),
        why="because\ntouch pwned",
    )
    script = shell.render(make_plan(step))
    assert [] == [line for line in script.splitlines() if line.startswith("touch")]
    assert "one'\n; touch pwned; ';" in shlex.split(body(script), comments=True)


def test_images_are_made_with_every_word_quoted(make_plan: MakePlan, tmp_path: Path) -> None:
    """A path with quotes and spaces reaches the program that makes the image as it is."""
    path = str(tmp_path / 'it\'s "$(touch pwned)" here.qcow2')
    action = CreateImage(path=path, image_format="qcow2", size_bytes=1048576, argv=("touch", path))
    step = RunHost(address="alpha/image", node="alpha", action=action, why="needed", limit_s=5)
    plan = make_plan(step)
    kept = attrs.evolve(plan.pair.nodes[0], image_folder=str(tmp_path), state_dir=str(tmp_path))
    here = attrs.evolve(plan, pair=attrs.evolve(plan.pair, nodes=(kept, plan.pair.nodes[1])))
    done = run(shell.render(here), tmp_path)
    assert 0 == done.returncode, done.stderr
    assert Path(path).exists()
    assert not (tmp_path / "pwned").exists()


def test_far_nodes_are_reached_over_ssh(make_plan: MakePlan) -> None:
    """Commands for a loopback address run here, others on the node's host."""
    table = re.search(r"^on\(\) \{\n.*?^\}", shell.render(make_plan()), re.DOTALL | re.MULTILINE)
    assert table is not None
    assert """\
on() {
  name=$1
  shift
  case $name in
    alpha) "$@" ;;
    beta) over_ssh 10.0.0.2 "$@" ;;
    *) echo "no node $name" >&2; return 1 ;;
  esac
}""" == table[0]


def test_files_of_a_far_host_are_made_over_ssh(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs there reaches it, though it is longer than Linux takes as one word."""
    programs = tmp_path / "programs"
    programs.mkdir()
    # Runs the last word as sshd does: it is one word, of a shell on the other side.
    ssh = programs / "ssh"
    ssh.write_text('#!/bin/sh\nfor word in "$@"; do :; done\nexec sh -c "$word"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    path = str(tmp_path / "it's here.qcow2")
    action = CreateImage(path=path, image_format="qcow2", size_bytes=1048576, argv=("touch", path))
    step = RunHost(address="beta/image", node="beta", action=action, why="needed", limit_s=5)
    plan = make_plan(step)
    kept = attrs.evolve(plan.pair.nodes[1], image_folder=str(tmp_path), state_dir=str(tmp_path))
    there = attrs.evolve(plan, pair=attrs.evolve(plan.pair, nodes=(plan.pair.nodes[0], kept)))
    script = shell.render(there)
    assert "beta) over_ssh" in script
    done = run(script, tmp_path)
    assert 0 == done.returncode, done.stderr
    assert Path(path).exists()


@pytest.mark.parametrize(("answer", "code"), [("yes\n", 0), ("no\n", 4), ("", 4)])
def test_a_person_answers_for_a_death(
    make_plan: MakePlan, tmp_path: Path, answer: str, code: int
) -> None:
    """The script asks once whether the peer is dead, and only "yes" lets it continue."""
    dead = PeerDead(node="beta", instance="colo:beta:0000000b", epoch=4)
    check = Check(
        address="alpha/dead",
        node="alpha",
        condition=AllOf(conditions=(dead, dead)),
        why="two primaries lose data",
    )
    done = run(shell.render(make_plan(check)), tmp_path, answer)
    assert code == done.returncode
    assert 1 == done.stderr.count("Type yes to continue")
    assert "fenced by ops, 2026-01-02T03:04:05Z: pulled the plug" in done.stderr


def test_conditions_become_bounded_loops(make_plan: MakePlan) -> None:
    """A wait is a loop over questions, with what ends it and a limit in whole seconds."""
    until = AllOf(
        conditions=(
            RunStateIs(node="alpha", states=("running", "paused")),
            CheckpointSeen(node="alpha", since="alpha/stop/"),
        )
    )
    unless = AnyOf(conditions=(ColoExited(node="alpha"), Gone(node="beta")))
    script = shell.render(make_plan(execute(qmp.Stop()), wait(until, unless, limit_s=1.2)))
    assert "\nmark alpha 1\nsend alpha 10 " in script
    assert (
        """
until_2() { { holds alpha run-state running paused; } && { checkpoint_seen alpha 1; }; }
unless_2() { { colo_exited alpha; } || { holds beta gone; }; }
wait_until 2 until_2 unless_2
"""
        in script
    )
    assert script.index("listen alpha\n") < script.index("mark alpha 1")


def test_a_guest_that_powers_off_is_heard(make_plan: MakePlan) -> None:
    """Its QEMU tells it by an event, so that the script listens before it presses the button."""
    until = AllOf(conditions=(PoweredOff(node="alpha"), Gone(node="alpha")))
    script = shell.render(make_plan(execute(qmp.SystemPowerdown()), wait(until)))
    assert "{ { powered_off alpha; } && { holds alpha gone; }; }" in script
    assert script.index("listen alpha\n") < script.index("send alpha 10 ")


@pytest.mark.qemu
@pytest.mark.parametrize("sh", ["sh", "bash"])
def test_a_script_does_on_qemu_what_the_plan_says(
    make_plan: MakePlan, live_node: Node, pair: ColoPair, tmp_path: Path, sh: str
) -> None:
    """Commands, accepted refusals, waits, events, checks and images work on a real QEMU."""
    thread = qmp.ObjectAdd(object=IoThread(id="iothread1"))
    again = (Refusal(text="attempt to add duplicate property"),)
    unknown = qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),))
    gone = (Refusal(error_class="DeviceNotFound", text="Instance not found"),)
    image = str(Path(live_node.image_folder) / "disk.qcow2")
    argv = (live_node.qemu_img_binary, "create", "-f", "qcow2", image, "1048576")
    action = CreateImage(path=image, image_format="qcow2", size_bytes=1048576, argv=argv)
    first = RunHost(address="alpha/image", node="alpha", action=action, why="needed", limit_s=5)
    yank = Execute(
        address="alpha/yank",
        node="alpha",
        command=unknown,
        why="out of band",
        limit_s=5,
        oob=True,
        accepts=gone,
    )
    until = AllOf(
        conditions=(
            RunStateIs(node="alpha", states=("running",)),
            MigrationIs(node="alpha", statuses=("none",)),
            NoColoExit(node="alpha"),
            JobFailed(node="alpha", job="resync"),
            # Not COLO, but the guest stops and runs on, which is all that can be seen of one.
            CheckpointSeen(node="alpha", since="alpha/cont/"),
        )
    )
    check = Check(
        address="alpha/check",
        node="alpha",
        condition=AllOf(
            conditions=(
                InstanceIs(node="alpha", instance="one"),
                VersionIs(node="alpha", version=QEMU),
            )
        ),
        why="bound",
    )
    plan = make_plan(
        first,
        RunHost(address="alpha/image2", node="alpha", action=action, why="kept", limit_s=5),
        check,
        execute(thread),
        execute(thread, again, tail="2"),
        yank,
        execute(qmp.Cont()),
        execute(qmp.Stop()),
        execute(qmp.Cont(), tail="2"),
        wait(until, Gone(node="alpha")),
        execute(qmp.Quit()),
        Check(address="alpha/gone", node="alpha", condition=Gone(node="alpha"), why="it has ended"),
        of=ColoPair(name="colo", nodes=(live_node, pair.nodes[1])),
    )
    done = run(shell.render(plan), tmp_path, sh=sh)
    assert 0 == done.returncode, done.stderr
    assert "it exists: kept" in done.stderr
    assert "so already: attempt to add duplicate property" in done.stderr


@pytest.mark.qemu
def test_a_refusal_ends_the_script_and_brings_the_guest_back(
    make_plan: MakePlan, live_node: Node, pair: ColoPair, tmp_path: Path
) -> None:
    """The first refusal ends with 1, one after a change with 3; the range's recovery is sent."""
    of = ColoPair(name="colo", nodes=(live_node, pair.nodes[1]))
    missing = qmp.ObjectDel(id="comp0")
    refused = run(shell.render(make_plan(execute(missing), of=of)), tmp_path)
    assert (1, True) == (refused.returncode, "refused: " in refused.stderr), refused.stderr
    recovery = Recovery(
        first="alpha/stop/",
        last="alpha/object-del/comp0",
        steps=(execute(qmp.Cont()),),
        why="the guest is paused",
    )
    broken = make_plan(execute(qmp.Stop()), execute(missing), recoveries=(recovery,), of=of)
    done = run(shell.render(broken), tmp_path)
    assert 3 == done.returncode, done.stderr
    runs = Check(
        address="alpha/runs",
        node="alpha",
        condition=RunStateIs(node="alpha", states=("running",)),
        why="recovered",
    )
    assert 0 == run(shell.render(make_plan(runs, of=of)), tmp_path).returncode


@pytest.mark.qemu
def test_a_wait_gives_up_at_its_limit(
    make_plan: MakePlan, live_node: Node, pair: ColoPair, tmp_path: Path
) -> None:
    """What never comes true ends the script, and nothing was changed."""
    of = ColoPair(name="colo", nodes=(live_node, pair.nodes[1]))
    never = wait(MigrationIs(node="alpha", statuses=("colo",)), limit_s=0.5)
    done = run(shell.render(make_plan(never, of=of)), tmp_path)
    assert (1, "ended: it did not come true within 1 s") == (
        done.returncode,
        done.stderr.splitlines()[-1],
    )


@pytest.mark.qemu
def test_the_human_monitor_refuses_by_talking(
    make_plan: MakePlan, live_node: Node, pair: ColoPair, tmp_path: Path
) -> None:
    """Text in place of an error ends the script; a node that is gone counts as deleted."""
    of = ColoPair(name="colo", nodes=(live_node, pair.nodes[1]))
    add = qmp.HumanMonitorCommand.drive_add(
        node_name="replication0", host="127.0.0.1", port=1, export="parent0"
    )
    refused = run(shell.render(make_plan(execute(add), of=of)), tmp_path)
    assert (1, True) == (refused.returncode, "Connection refused" in refused.stderr)
    delete = qmp.HumanMonitorCommand.drive_del("replication0")
    assert 0 == run(shell.render(make_plan(execute(delete), of=of)), tmp_path).returncode
