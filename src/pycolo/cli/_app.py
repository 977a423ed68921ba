"""The commands: parse, call, print."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import getpass
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeAlias, assert_never, get_args

import attrs
import click

import pycolo
from pycolo import catalogue, compiler, features, libvirt, operate, pairfile, wire
from pycolo._json import JsonObject
from pycolo.cli import (
    _agent_file,
    _check,
    _files,
    _interrupts,
    _list,
    _manual,
    _measure,
    _options,
    _progress,
    _refusal,
    _say,
    _status,
    _supervise,
    _supervised,
    _timeline,
    _watch,
    _wishes,
)
from pycolo.cli._exits import DECIDE, DIFFERENT, DONE, REFUSED, UNFINISHED, UNKNOWN
from pycolo.cli._options import Asked, Detail
from pycolo.cli._template import TEMPLATE
from pycolo.compiler import check_members
from pycolo.compiler.launch import Role
from pycolo.diff import diff as difference
from pycolo.errors import StoreError, UndecidedError
from pycolo.evidence import instance_of
from pycolo.findings import MEANINGS, Code, Finding
from pycolo.journal import Journal, json_schema, line_to_json
from pycolo.model import ColoPair
from pycolo.observers import Observer, Recorder
from pycolo.plan import LaunchQemu, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.reconcile import Want
from pycolo.render import html, mermaid, qmp, shell, text, timeline
from pycolo.result import Report
from pycolo.standing import Standing, standing
from pycolo.supervise import HttpEndpoint, Store
from pycolo.supervise.control import find, find_keeper, of_agents

_PLAN_FORMS: Final[Mapping[str, Callable[[Plan], str]]] = {
    "text": lambda plan: text.render(plan, colour=_say.results_in_colour()),
    "qmp": qmp.render,
    "json": lambda plan: wire.dumps(wire.plan_to_json(plan)),
    "shell": shell.render,
    "mermaid": mermaid.render,
}
_SCHEMAS: Final[Mapping[str, Callable[[], JsonObject]]] = {
    "plan": lambda: wire.json_schema("plan"),
    "report": lambda: wire.json_schema("report"),
    "snapshot": lambda: wire.json_schema("snapshot"),
    "pairfile": pairfile.json_schema,
    "journal": json_schema,
}


@click.group(cls=_options.Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pycolo.__version__, prog_name="pycolo")
def app() -> None:
    """Fault-tolerant virtual machines: QEMU COLO pairs, from one declaration.

    Exit codes: 0 done; 1 refused or failed, nothing changed; 2 different; 3 changed but
    unfinished, or unknown; 4 a person must decide, or do what is said; 64 usage.
    """


@app.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", default="guest", show_default=True, help="The pair's name.")
@_options.output("text", "json")
def init(*, file: Path, name: str, form: str) -> None:
    """Write a commented pair file to FILE, for you to edit.

    No file is overwritten.
    """
    if file == _files.STDIN:
        raise click.UsageError("init writes a file: give it a name other than -")
    written = TEMPLATE.format(name=name)
    pair = pairfile.loads(written)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(written)
    except FileExistsError:
        raise click.UsageError(f"{file} is there: move it away, or give another name") from None
    except FileNotFoundError:
        raise click.UsageError(f"there is no folder {file.parent}: make it first") from None
    except OSError as error:
        why = f"{file} cannot be made ({error.strerror}): give another name"
        raise click.UsageError(why) from error
    _say.result(_pair_forms(pair, form, f"{file} is written: edit what is marked with <-"))


@app.command()
@_options.pair_files
@_options.output("text", "json")
def validate(*, pair_files: tuple[Path, ...], form: str) -> None:
    """Check each PAIRFILE, and ask nobody.

    Each is reported, also if another one is wrong. Several are also checked against each other: no
    two may use one port of one host. `--as json` writes a single one out with every default.
    """
    if form == "json" and len(pair_files) > 1:
        raise click.UsageError("--as json takes a single pair file")
    found = _files.read_pairs(pair_files)
    for path, pair in found.pairs.items():
        nodes = ", ".join(pair.names)
        parts = f"{_count(pair.disks, 'disk')}, {_count(pair.chains, 'network card')}"
        _say.result(_pair_forms(pair, form, f"{path}: pair {pair.name} on {nodes}; {parts}"))
    if found.error is not None:
        raise found.error


def _count(parts: Sequence[object], noun: str) -> str:
    return f"{len(parts)} {noun}{'' if len(parts) == 1 else 's'}"


def _pair_forms(pair: ColoPair, form: str, text_: str) -> str:
    return pairfile.dumps(pair) if form == "json" else f"{text_}\n"


@app.command()
@_options.pair_files
@_options.output("text", "json")
def check(*, pair_files: tuple[Path, ...], form: str) -> int:
    """Find on the hosts what would prevent the protection of a pair.

    Nothing is changed. Programs, versions, memory, images, ports and firewalls, taps, certificates,
    clocks and more are examined, on each host and between each two. Ends with 4 if there is an
    error, else with 1 if a PAIRFILE is wrong; the others are checked all the same. Warnings and
    notes do not change how it ends. `pycolo explain CODE` says more.
    """
    files = _files.read_pairs(pair_files)
    found = asyncio.run(_checked(tuple(files.pairs.values())))
    code = DONE if files.error is None else REFUSED
    if any(map(_check.has_errors, found.values())):
        code = DECIDE
    if form == "json":
        refused = {} if files.error is None else _refusal.to_json(files.error, code)
        _say.result(wire.dumps({**_check.to_json(found), **refused}))
    else:
        colour = _say.results_in_colour()
        for pair, findings in found.items():
            _say.result(_check.text(pair, findings, colour=colour))
    if files.error is not None:
        _refusal.note(files.error)
    return code


async def _checked(pairs: Sequence[ColoPair]) -> Mapping[str, Sequence[Finding]]:
    found = await asyncio.gather(*(operate.check(pair) for pair in pairs))
    return dict(zip((pair.name for pair in pairs), found, strict=True))


@app.command()
@_options.procedure
@_options.pair_file
@_options.asked
@click.option(
    "--qemu",
    metavar="VERSION",
    type=_options.version,
    help=f"The QEMU version on both nodes; {_options.NEWEST} if not given.",
)
@click.option(
    "--from",
    "prior_state",
    metavar="FILE",
    type=_options.FILE,
    help="Compile from the state that this plan leads to, or from this snapshot.",
)
@click.option("--live", is_flag=True, help="Compile from what is live: what `apply` executes.")
@_supervise.store
@_options.output("text", "qmp", "json", "shell", "mermaid")
def plan(
    *,
    procedure: Procedure,
    pair_file: Path,
    asked: Asked,
    qemu: Version | None,
    prior_state: Path | None,
    live: bool,
    folder: Path,
    form: str,
) -> None:
    """Show what PROCEDURE would do, and change nothing.

    PROCEDURE is one of launch, start, resume, failover, stop, switch-over, shutdown, checkpoint,
    set-checkpoint-delay, converge, forget. With --live nodes and records are read, and the plan as
    JSON is what `apply` executes. Else nobody is asked: without --from, `launch` begins with a new
    pair, `start` with two QEMUs just launched, `failover` with the state that `start` leads to and
    the other node dead, `resume` with the state that this failover leads to, and every other one
    with the state that `start` leads to.
    """
    pair = _files.pair(pair_file)
    asked.check(pair, procedure, offline=not live)
    if live and (prior_state is not None or qemu is not None):
        raise click.UsageError("--live reads what is there: give neither --from nor --qemu")
    if live:
        _supervised.refuse(folder, pair.name)
        _say.result(_PLAN_FORMS[form](asyncio.run(_compiled(pair, procedure, asked))))
        return
    if procedure == "converge" and prior_state is None:
        raise click.UsageError("converge needs --live or --from: offline every pair is as declared")
    if asked.fenced is not None:
        raise click.UsageError("--fenced needs --live: offline the death is assumed")
    made = compiler.compile_offline(
        procedure,
        pair,
        version=qemu or _options.NEWEST,
        prior_state=None if prior_state is None else _files.prior_state(prior_state),
        survivor=asked.survivor,
        peer=asked.peer,
        checkpoint_delay_ms=asked.ms,
        nodes=() if procedure == "forget" else asked.nodes,
        newest=asked.newest,
        gone=asked.nodes[0] if procedure == "forget" else None,
        dialect=asked.dialect,
        assume_good=asked.assume_good,
    )
    _say.result(_PLAN_FORMS[form](made))


async def _compiled(pair: ColoPair, procedure: Procedure, asked: Asked) -> Plan:
    async with _connect(pair, asked) as connection:
        return await _compile(connection, procedure, asked)


async def _run(
    pair: ColoPair,
    procedure: Procedure,
    asked: Asked,
    observer: Observer,
    *,
    forced: frozenset[Code],
    recorder: Recorder | None,
) -> Report:
    async with _connect(pair, asked) as connection:
        plan = await _compile(connection, procedure, asked)
        _check.refuse_unready(await connection.preflight(plan), forced)
        return await connection.execute(plan, observer, recorder=recorder)


def _connect(pair: ColoPair, asked: Asked) -> AbstractAsyncContextManager[operate.Connection]:
    return operate.connect(pair, dialect=asked.dialect, assume_good=asked.assume_good)


def _compile(  # noqa: C901 - one case a procedure
    connection: operate.Connection, procedure: Procedure, asked: Asked
) -> Coroutine[object, object, Plan]:
    match procedure:
        case "launch":
            return connection.launch(nodes=asked.nodes, newest=asked.newest)
        case "start":
            return connection.start(peer=asked.peer)
        case "resume":
            return connection.resume(peer=asked.peer)
        case "converge":
            return connection.converge(peer=asked.peer)
        case "failover":
            return connection.failover(survivor=asked.survivor, fenced=asked.fenced)
        case "forget":
            return connection.forget(asked.nodes[0], fenced=asked.fenced)
        case "stop":
            return connection.stop()
        case "switch-over":
            return connection.switch_over()
        case "shutdown":
            return connection.shutdown()
        case "checkpoint":
            return connection.checkpoint()
        case "set-checkpoint-delay":
            return connection.set_checkpoint_delay(asked.ms)
        case _:
            assert_never(procedure)


@app.command()
@click.argument("first", metavar="A", type=_options.FILE)
@click.argument("second", metavar="[B]", type=_options.FILE, required=False)
@click.option("--live", is_flag=True, help="A is a pair file: compare it with what is live.")
@click.option(
    "--procedure",
    metavar="PROCEDURE",
    type=_options.PROCEDURE,
    help="A and B are pair files: compare what this procedure does to each.",
)
@click.option(
    "--qemu",
    metavar="VERSION",
    type=_options.version,
    default=str(_options.NEWEST),
    show_default=True,
    help="With --procedure: the QEMU version on both nodes.",
)
@_options.output("text", "json")
def diff(
    *,
    first: Path,
    second: Path | None,
    live: bool,
    procedure: Procedure | None,
    qemu: Version,
    form: str,
) -> int:
    """Compare two plans, or a pair file with what is live.

    A and B are plan files, or pair files with --procedure; A with --live is a pair file. Ends with
    2 if they differ.
    """
    if live == (second is not None):
        raise click.UsageError("give either a second file or --live")
    if second is None:
        return _drift(_files.pair(first), form)
    found = difference(_plan_of(first, procedure, qemu), _plan_of(second, procedure, qemu))
    if form == "json":
        _say.result(wire.dumps(found.to_json()))
    else:
        _say.result(text.render_diff(found, colour=_say.results_in_colour()))
    return DIFFERENT if found else 0


def _drift(pair: ColoPair, form: str) -> int:
    found = compiler.drift(pair, asyncio.run(operate.status(pair)))
    if form == "json":
        _say.result(wire.dumps(wire.drift_to_json(found)))
    else:
        _say.result(text.render_drift(found, colour=_say.results_in_colour()))
    return DIFFERENT if found else 0


def _plan_of(path: Path, procedure: Procedure | None, qemu: Version) -> Plan:
    made = _files.plan_if_one(path)
    if made is not None and procedure is None:
        return made
    if made is not None:
        raise click.UsageError(f"{path} is a plan: --procedure is for pair files")
    if procedure is None:
        raise click.UsageError(f"{path} is no plan; two pair files are compared with --procedure")
    return compiler.compile_offline(procedure, _files.pair(path), version=qemu)


@app.command()
@click.argument("pair_files", metavar="PAIRFILE", nargs=-1, type=_options.FILE)
@click.option(
    "--watch",
    "is_watch",
    is_flag=True,
    help="Show, until Ctrl-C, the pairs that a supervisor or this host's agent keeps: all of them,"
    " or those of the PAIRFILEs. If standard output is not a terminal, print one line for each"
    " change.",
)
@click.option(
    "--check",
    "is_check",
    is_flag=True,
    help="One line, and the exit codes of a monitoring plugin: 0 protected, 1 joining or"
    " unprotected, 2 at risk, two guests, or stopped, 3 unknown or an error.",
)
@_supervise.store
@_options.output("text", "json")
def status(
    *, pair_files: tuple[Path, ...], is_watch: bool, is_check: bool, folder: Path, form: str
) -> int:
    """Read nodes and records, and change nothing.

    The observer monitors are asked, so that a running procedure is not disturbed. If agents hold
    them, the agent of this host is asked.
    """
    if is_watch and is_check:
        raise click.UsageError("give either --watch or --check")
    if is_watch:
        names = [_files.pair(path).name for path in pair_files]
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch.watch(folder, names, form))
        return DONE
    if len(pair_files) != 1:
        raise click.UsageError("give one PAIRFILE; only --watch takes none, or more")
    (pair_file,) = pair_files
    if is_check:
        # For a monitoring plugin, exit code 1 means a state of the pair, so an error must end with
        # another code.
        click.get_current_context().meta[_options.ERROR_CODE] = UNKNOWN
    pair = _files.pair(pair_file)
    snapshot = asyncio.run(operate.status(pair))
    # That a person must decide is a state of the pair too: show it instead of failing.
    with contextlib.suppress(UndecidedError):
        check_members(pair, snapshot)
    found = standing(snapshot)
    said: Standing | None = None
    if found.state == "unknown":
        # If two agents hold both observer monitors, nobody else can connect to them: ask this
        # host's agent.
        said = asyncio.run(_watch.said_by_agent(folder, pair.name))
        found = said or found
    if form == "json":
        _say.result(wire.dumps(_status.to_json(snapshot, found)))
    elif is_check:
        verdict = text.verdict(snapshot) if said is None else said.words
        _say.result(f"{pair.name}: {verdict}\n")
    else:
        _say.console().print(_status.table(snapshot))
        _say.result(text.verdict(snapshot))
        if said is not None:
            _say.result(f"this host's agent says: {said.words}\n")
    return found.code if is_check else DONE


@app.command("list")
@click.argument(
    "folders",
    metavar="[FOLDER]...",
    nargs=-1,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@_options.output("text", "json")
def list_pairs(*, folders: tuple[Path, ...], form: str) -> None:
    """List the pairs of some folders, one line each.

    Every pair file that lies in a FOLDER is read, in the current one if none is given, and its
    nodes are asked as `status` does.
    """
    found = asyncio.run(_list.listed(folders or (Path(),)))
    if form == "json":
        _say.result(wire.dumps(_list.to_json(found)))
    else:
        _say.result(_list.table(found))


@app.command()
@_options.procedure
@_options.pair_file
@_options.asked
@_check.force
@_options.said
@_options.journal
@_supervise.store
@_options.output("text", "json")
def run(
    *,
    procedure: Procedure,
    pair_file: Path,
    asked: Asked,
    forced: tuple[str, ...],
    detail: Detail,
    journal: Path | None,
    folder: Path,
    form: str,
) -> int:
    """Compile PROCEDURE from what is live, and execute it.

    PROCEDURE is one of launch, start, resume, failover, stop, switch-over, shutdown, checkpoint,
    set-checkpoint-delay, converge, forget. A procedure that stopped half-way is finished by running
    it again. A failover needs evidence that the other node's QEMU has ended: its host is asked, or
    you state it with --fenced.

    launch, start and resume first examine the hosts as `pycolo check` does, and are refused before
    anything is changed if an error would stop them. --force continues in spite of one such error,
    and never of one about records, evidence or identity.

    If a supervisor keeps the pair, switch-over, checkpoint, shutdown and set-checkpoint-delay are
    done by it. For the others pause it first. If agents keep the pair, the agent of this host does
    these four; type the last three on the host that has the guest. For the others `release` the
    pair first.
    """
    pair = _files.pair(pair_file)
    asked.check(pair, procedure)
    codes = _check.forced_codes(forced, procedure)
    act = _supervised.acts(folder, pair.name, procedure, asked)
    if act is not None and journal is not None:
        raise click.UsageError("--journal is not for what a supervisor does: pause it first")
    if act is not None:
        return _reported(act, detail, None, form, wait=_waited)
    return _reported(
        functools.partial(_run, pair, procedure, asked, forced=codes), detail, journal, form
    )


@app.command()
@click.argument("plan_file", metavar="PLANFILE", type=_options.FILE)
@_options.said
@_options.journal
@_supervise.store
@_options.output("text", "json")
def apply(*, plan_file: Path, detail: Detail, journal: Path | None, folder: Path, form: str) -> int:
    """Execute a saved plan, exactly as it is written.

    It is compiled again from what it holds; a plan that differs is refused.
    """
    saved = _files.plan(plan_file)
    _supervised.refuse(folder, saved.pair.name)
    return _reported(functools.partial(operate.apply, saved), detail, journal, form)


_Wait: TypeAlias = Callable[
    [Coroutine[object, object, Report], _progress.Kept], Coroutine[object, object, Report]
]


class _Act(Protocol):
    """A function that executes a plan and reports its progress to an observer."""

    def __call__(
        self, observer: Observer, *, recorder: Recorder | None
    ) -> Coroutine[object, object, Report]: ...


async def _waited(execution: Coroutine[object, object, Report], _: _progress.Kept) -> Report:
    """Wait for a plan that another process executes; an interrupt ends only the wait."""
    return await execution


def _reported(
    act: _Act,
    detail: Detail,
    journal_file: Path | None,
    form: str,
    *,
    wait: _Wait = _interrupts.interruptible,
) -> int:
    with _journal(journal_file) as recorder, _progress.on_stderr(detail) as progress:
        execution = act(progress, recorder=recorder)
        report = asyncio.run(wait(execution, progress))
    is_brief = detail == "quiet" or (progress.has_lines and _say.is_one_stream())
    try:
        if form == "json":
            _say.result(wire.dumps(wire.report_to_json(report)))
        else:
            colour = _say.results_in_colour()
            _say.result(text.render_report(report, colour=colour, is_brief=is_brief))
    except OSError as error:
        # The procedure was executed all the same, so the exit code must be that of its report.
        _say.note(f"the report cannot be written: {error.strerror}")
    return report.exit_code


@contextmanager
def _journal(path: Path | None) -> Iterator[Journal | None]:
    if path is None:
        yield None
        return
    try:
        opened = Journal(path)
    except FileExistsError:
        why = f"--journal: {path} is there: give the name of a new file, or move this one away"
        raise click.UsageError(why) from None
    except OSError as error:
        why = f"--journal: {path} cannot be made ({error.strerror}): give another name"
        raise click.UsageError(why) from error
    with opened as made:
        yield made
    if made.failure is not None:
        _say.note(f"the journal is incomplete: {made.failure}")


@app.command()
@_options.pair_files
@_supervise.store
@_supervise.http
@_options.output("text", "json")
def supervise(
    *, pair_files: tuple[Path, ...], folder: Path, endpoint: HttpEndpoint | None, form: str
) -> None:
    """Keep pairs protected without an operator.

    Launches what is missing, protects it, fails over when a QEMU has ended or stops answering, and
    makes a new secondary. It writes one line for each event; `!` marks what a person must do. While
    it runs it holds the control monitors, and `run` asks it. SIGTERM ends it, and every QEMU keeps
    running. Exit code 4: a file must be changed before it can run.
    """
    with _options.changed_by_hand(OSError, _files.BadFiles):
        pairs = _files.pairs(pair_files)
    with _options.changed_by_hand():
        asyncio.run(_supervise.supervised(pairs, folder, endpoint, form))


@app.command()
@click.argument("agent_file", metavar="AGENTFILE", type=click.Path(dir_okay=False, path_type=Path))
@_options.pair_files
@_supervise.store
@_supervise.http
@_options.output("text", "json")
def agent(
    *,
    agent_file: Path,
    pair_files: tuple[Path, ...],
    folder: Path,
    endpoint: HttpEndpoint | None,
    form: str,
) -> None:
    """Keep this host's nodes protected, beside other hosts' agents.

    AGENTFILE says which node of each PAIRFILE runs here, where the arbiter is, by which the agents
    agree, and where this host's fuse is. It writes one line for each event; `!` marks what a person
    must do. SIGTERM ends it, and every QEMU keeps running; its fuse stops a primary in COLO that
    nobody renews. Exit code 4: a file must be changed before it can run.
    """
    with _options.changed_by_hand(OSError, _files.BadFiles):
        own, pairs = _agent_file.load(agent_file), _files.pairs(pair_files)
    with contextlib.suppress(OSError):
        # If the folder cannot be made, a note says so later, and the pairs are kept all the same.
        of_agents(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _options.changed_by_hand():
        asyncio.run(_supervise.agent(pairs, own, folder, endpoint, form))


@app.command()
@click.argument("wanted", metavar="WANT", type=click.Choice(get_args(Want)))
@_options.pair_file
@_wishes.option
@_supervise.store
@_options.output("text", "json")
def want(
    *, wanted: Want, pair_file: Path, agent_file: Path | None, folder: Path, form: str
) -> None:
    """Tell the supervisor, or the agents, what is wanted of a pair.

    WANT is protected, unprotected (the guest runs alone) or stopped (no QEMU runs; the guest is not
    asked to shut down first). It holds from now on, also after the supervisor is started again. If
    a supervisor runs, wait until it has read it, for a minute at most; it acts on it afterwards. If
    none runs, this is said, and the next one acts on it. Run it on the supervisor's machine, as the
    supervisor's user. If agents keep the pair, give --agent: without it they hear nothing.
    """
    pair = _files.pair(pair_file)
    with _wishes.wishes(folder, agent_file) as kept:
        kept.want(pair.name, wanted)
        _say.result(_wish(pair, kept, form))


@app.command()
@_options.pair_file
@click.option("--why", metavar="TEXT", help="The reason, for whoever finds the pair paused.")
@_wishes.option
@_supervise.store
@_options.output("text", "json")
def pause(
    *, pair_file: Path, why: str | None, agent_file: Path | None, folder: Path, form: str
) -> None:
    """Pause a pair: its supervisor or agents watch it and do nothing.

    A plan or a fence that has begun is finished. If a QEMU ends during the pause, there is no
    failover. The pause lasts until `unpause`, also across a reboot. During it, `run` works on the
    pair, unless agents keep it. If a supervisor runs, wait until it uses no control monitor any
    more, for a minute at most.
    """
    pair = _files.pair(pair_file)
    with _wishes.wishes(folder, agent_file) as kept:
        kept.pause(pair.name, _supervise.by_whom(why))
        _say.result(_wish(pair, kept, form))


@app.command()
@_options.pair_file
@_wishes.option
@_supervise.store
@_options.output("text", "json")
def unpause(*, pair_file: Path, agent_file: Path | None, folder: Path, form: str) -> None:
    """End a pause: supervisor or agents act on the pair again.

    If a supervisor runs, wait until it has read that, for a minute at most.
    """
    pair = _files.pair(pair_file)
    with _wishes.wishes(folder, agent_file) as kept:
        kept.pause(pair.name, None)
        _say.result(_wish(pair, kept, form))


@app.command()
@_options.pair_file
@_wishes.required
@_options.output("text", "json")
def release(*, pair_file: Path, agent_file: Path, form: str) -> int:
    """Hand a pair back from its agents, so that `run` works on it.

    Its nodes' files count again. Type it on the host of the agent whose file you name, after `want
    unprotected` with --agent, once its guest runs alone. The files of all nodes must be within
    reach, spares included. From then on the agents only observe, until you type `want` with
    --agent. If it is interrupted, or ends with 3, type it again.
    """
    pair = _files.pair(pair_file)
    done = _wishes.released(pair, agent_file)
    if form == "json":
        said: JsonObject = {
            "pair": pair.name,
            "epoch": done.record.epoch,
            "holder": done.record.holder,
            "unwritten": dict(done.unwritten),
        }
        _say.result(wire.dumps({"format_version": 1, **said}))
    else:
        _say.result(f"{pair.name}: its files count from now on, and name {done.record.holder}\n")
    for node, why in done.unwritten.items():
        _say.note(f"the file of {node} was not written: {why}; type `pycolo release` again")
    return UNFINISHED if done.unwritten else DONE


@app.command()
@_options.pair_file
@click.argument("node", metavar="NODE")
@click.option("--how", metavar="TEXT", required=True, help="How you have made sure of it.")
@click.option("--who", metavar="NAME", help="Who has; the user who types it if not given.")
@click.option(
    "--instance",
    metavar="ID",
    help="The QEMU that has ended, PAIR:NODE:HEX; the one that the record names if not given.",
)
@_supervise.store
@_options.output("text", "json")
def fenced(
    *,
    pair_file: Path,
    node: str,
    how: str,
    who: str | None,
    instance: str | None,
    folder: Path,
    form: str,
) -> None:
    """State to the supervisor or agent that a QEMU has ended.

    For a host that nobody can reach: switch it off first. The supervisor relies on your word as on
    a fence: if it is wrong, two guests run. It is refused while that QEMU answers. Where agents
    keep the pair, type it on the host of the node that is left.
    """
    pair = _files.pair(pair_file)
    _options.check_node(pair, "NODE", node)
    control = find_keeper(folder, pair.name)
    if control is None:
        why = f"no supervisor or agent of {pair.name} listens; without one"
        raise StoreError(str(folder), f"{why}, type `pycolo run failover` with --fenced")
    state = control.state_fence(node, who=who or getpass.getuser(), how=how, instance=instance)
    evidence = asyncio.run(state)
    if form == "json":
        _say.result(wire.dumps({"format_version": 1, "evidence": attrs.asdict(evidence)}))
    else:
        _say.result(f"{pair.name}: from now on {evidence.instance} is taken to have ended\n")


@app.command()
@_options.pair_file
@click.option("--to", metavar="NODE", required=True, help="The spare.")
@_options.said
@_supervise.store
@_options.output("text", "json")
def move(*, pair_file: Path, to: str, detail: Detail, folder: Path, form: str) -> int:
    """Move the secondary to a spare, while the guest runs.

    The supervisor ends the secondary, and then protects the guest with the spare. Where agents keep
    the pair, type it on the host that has the guest. The command ends when the old secondary has
    ended; `pycolo status --watch` shows how far the new one is.
    """
    pair = _files.pair(pair_file)
    _options.check_node(pair, "--to", to)
    control = find_keeper(folder, pair.name)
    if control is None:
        why = f"no supervisor or agent of {pair.name} listens; without one"
        raise StoreError(str(folder), f"{why}, type `pycolo run stop`, then launch the spare")
    return _reported(_supervised.Move(control=control, to=to), detail, None, form, wait=_waited)


@app.command()
@_options.pair_file
@click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(1.0, 86400.0),
    default=30.0,
    show_default=True,
    help="How long to listen.",
)
@_supervise.store
@_options.output("text", "json")
def measure(*, pair_file: Path, seconds: float, folder: Path, form: str) -> int:
    """Measure the checkpoints of a pair, and suggest a delay.

    It listens, and changes nothing. Where agents keep the pair, type it on the host that has the
    guest. If neither a supervisor nor agents keep it, it holds the observer monitor of the primary,
    and `status` says `unknown` until it ends. It ends early if COLO ends, and with 1 if no
    checkpoint came.
    """
    pair = _files.pair(pair_file)
    pace = asyncio.run(_measure.measured(pair, folder, seconds))
    if form == "json":
        _say.result(wire.dumps(_measure.to_json(pair, pace)))
    else:
        _say.result(_measure.text(pair, pace))
    return DONE if pace.pauses_s else REFUSED


def _wish(pair: ColoPair, kept: _wishes.Wishes, form: str) -> str:
    """What is wanted, once a supervisor that runs has heard it."""
    wish = kept.read(pair.name)
    control = find(kept.folder, pair.name) if isinstance(kept, Store) else None
    if control is not None:
        asyncio.run(_supervised.wait_applied(control, wish))
    elif isinstance(kept, Store):
        _say.note(_supervised.unheard(kept.folder, pair.name))
    if form == "json":
        said: JsonObject = {"pair": pair.name, "want": wish.want, "paused": wish.paused}
        return wire.dumps({"format_version": 1, **said})
    paused = "" if wish.paused is None else f", and its supervision is paused {wish.paused}"
    return f"{pair.name}: {wish.want} is wanted{paused}\n"


@app.command()
@click.argument("journal_file", metavar="FILE", type=_options.FILE)
@_options.output("text", "html", "json")
def report(*, journal_file: Path, form: str) -> None:
    """Draw a journal on a time axis.

    FILE is what `run` or `apply` wrote with --journal. `--as html` gives one page that needs
    nothing else. A journal that ends in the middle, as after a crash, is read as far as it goes.
    """
    recording = _files.recording(journal_file)
    made = timeline.timeline(recording)
    match form:
        case "html":
            _say.result(html.render(made))
        case "json":
            lines = [line_to_json(line) for line in (recording.began, *recording.lines)]
            cut = recording.cut is not None
            _say.result(wire.dumps({"format_version": 1, "lines": [*lines], "cut": cut}))
        case _:
            console = _say.console()
            for line in _timeline.lines(made, console.width):
                console.print(line, soft_wrap=True)


@app.command()
@_options.output("text", "json")
def demo(*, form: str) -> int:
    """Live the whole life of a pair on this machine.

    A supervisor keeps a guest protected while its QEMUs are killed and stopped, and the cable
    between its hosts is cut. Takes about a minute; QEMU and a small guest are fetched the first
    time. If they cannot be had, the same life is lived on fakes, and that is said.
    """
    # Imported here because no other command needs these modules.
    from pycolo.demo import builds, fakes, life  # noqa: PLC0415
    from pycolo.demo import timeline as drawing  # noqa: PLC0415

    try:
        report = life.run(life.LifeOptions(), _say.note)
    except builds.FetchError as error:
        fake = fakes.run(str(error), _say.note)
        text_ = wire.dumps(fake.to_json()) if form == "json" else "\n".join(fake.lines()) + "\n"
        _say.result(text_)
        return 0 if fake.ok else UNFINISHED
    if form == "json":
        _say.result(wire.dumps(report.to_json()))
    else:
        drawing.show(report, _say.console())
    return 0 if report.ok else UNFINISHED


@app.command(cls=_options.TakesMessage)
@click.argument("message")
@click.option("--command", metavar="NAME", help="The command that was answered so.")
@click.option("--qemu", metavar="VERSION", type=_options.version, help="The QEMU that said it.")
@_options.output("text", "json")
def explain(*, message: str, command: str | None, qemu: Version | None, form: str) -> int:
    """Say what a message of QEMU, or a code of pycolo, means.

    MESSAGE is what QEMU said, what pycolo quotes of it, or the JSON of the reply; or the code of
    what stood in the way of a procedure, such as `runs-unseen`. Ends with 1 if nothing is known of
    it.
    """
    code = next((known for known in MEANINGS if known == message), None)
    if code is not None:
        meaning: JsonObject = {"code": code, "meaning": MEANINGS[code]}
        as_json = wire.dumps({"format_version": 1, "finding": meaning})
        _say.result(as_json if form == "json" else f"{code}: {MEANINGS[code]}\n")
        return DONE
    found = catalogue.explain(message, command=command, version=qemu)
    if form == "json":
        _say.result(wire.dumps(wire.explanations_to_json(found)))
    else:
        _say.result(text.render_explanations(found, colour=_say.results_in_colour()))
    near = [] if found else difflib.get_close_matches(message, MEANINGS, n=1)
    if near:
        _say.note(f"did you mean the code {near[0]}?")
    return DONE if found else REFUSED


@app.command()
@click.argument("target", metavar="TARGET", type=click.Choice(("libvirt",)))
@_options.pair_file
@click.option("--node", metavar="NODE", required=True, help="The node whose QEMU is shown.")
@click.option(
    "--role",
    type=click.Choice(get_args(Role)),
    help="What it starts as; the first node as primary, the others not, if not given.",
)
@click.option(
    "--qemu",
    metavar="VERSION",
    type=_options.version,
    default=str(_options.NEWEST),
    show_default=True,
    help="The QEMU version on that node.",
)
@_options.output("xml", "json")
def export(
    *, target: str, pair_file: Path, node: str, role: Role | None, qemu: Version, form: str
) -> None:
    """Print a node's QEMU for another program, and ask nobody.

    TARGET is libvirt: the XML of the transient domain that `launch` has libvirt create if the node
    declares `libvirt`. It is for reading: no record knows of the identity in it.
    """
    pair = _files.pair(pair_file)
    _options.check_node(pair, "--node", node)
    role = role or ("primary" if node == pair.nodes[0].name else "secondary")
    instance = instance_of(pair.name, node, 1)
    known = features.accept_pair(pair, {node: qemu})
    argv = compiler.launch_argv(pair, node, role=role, instance=instance, features=known)
    made = libvirt.domain(pair, LaunchQemu(role=role, instance=instance, argv=argv))
    if form == "json":
        exported: JsonObject = {"target": target, "node": node, "role": role, "xml": made}
        _say.result(wire.dumps({"format_version": 1, **exported}))
    else:
        _say.result(made)


@app.command()
def manual() -> None:
    """Print the manual page, for `man`."""
    _say.result(_manual.page(app))


@app.command()
@click.argument("document", type=click.Choice(tuple(_SCHEMAS)))
@_options.output("json")
def schema(*, document: str, form: str) -> None:  # noqa: ARG001 - there is one form
    """Print the JSON Schema of a document of pycolo's."""
    _say.result(wire.dumps(_SCHEMAS[document]()))
