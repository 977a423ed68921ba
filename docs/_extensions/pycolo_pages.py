"""What the manual takes from the code when it is built: help texts, tables, links to facts."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, get_args, get_origin, get_type_hints

import attrs
import click
import sequence
import states
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.directives.patches import Figure
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from typing_extensions import override

from pycolo import catalogue, errors, features, findings, rules
from pycolo.cli._agent_file import AgentFile, EtcdPlace, SqlitePlace
from pycolo.cli._app import app as command_line
from pycolo.model import (
    X509,
    BackingImage,
    Cdrom,
    Channel,
    ColoPair,
    Device,
    DeviceObject,
    DiskOnNode,
    Fence,
    FilterChain,
    Firmware,
    Iscsi,
    Libvirt,
    Machine,
    MemoryBackend,
    Migration,
    Nbd,
    Netdev,
    Nfs,
    Node,
    Ports,
    Psk,
    Rbd,
    RbdMonitor,
    ReplicationDisk,
    Ssh,
    Supervision,
    TcpMonitor,
    Throttle,
    Timeouts,
    UnixMonitor,
    Vnc,
)
from pycolo.model.filters import ChainPorts
from pycolo.plan import Procedure
from pycolo.supervise import table

PAGE = "qemu-behaviour"
CITATION = re.compile(rf"({PAGE} )(\d+(?:\.\d+)?(?:(?:,| and| to) \d+(?:\.\d+)?)*)")
RAISES = re.compile(rf":raises ({'|'.join(errors.__all__)}):")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


class CommandLineHelp(SphinxDirective):
    """The help text of every command of `pycolo`, as it prints it."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        return [node for words in _commands() for node in self._one(words)]

    def _one(self, words: tuple[str, ...]) -> Iterator[nodes.Node]:
        name = " ".join(("pycolo", *words))
        section = nodes.section(ids=[name.replace(" ", "-")], names=[name])
        section += nodes.title("", "", nodes.literal(text=name))
        section += nodes.literal_block(text=_help(words), language="text")
        yield section


def _commands() -> Iterator[tuple[str, ...]]:
    yield ()
    for name in command_line.list_commands(click.Context(command_line)):
        yield (name,)


def _help(words: tuple[str, ...]) -> str:
    settings = command_line.context_settings
    context = click.Context(command_line, info_name="pycolo", terminal_width=88, **settings)
    for word in words:
        command = command_line.get_command(context, word)
        assert command is not None  # noqa: S101 - the group has just listed it
        context = click.Context(command, parent=context, info_name=word, terminal_width=88)
    return context.get_help()


class FeatureTable(SphinxDirective):
    """The features that depend on QEMU's version, from `pycolo.features`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        return self.parse_text_to_nodes(features.table_text())


class BrokenVersions(SphinxDirective):
    """The versions that are refused, from `pycolo.features`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        rows = (
            f"| {b.first} to {b.last} | {b.good} | {b.reason} |\n" for b in features.KNOWN_BROKEN
        )
        return self.parse_text_to_nodes(
            "| refused | good from | because |\n|---|---|---|\n" + "".join(rows)
        )


class FindingTable(SphinxDirective):
    """What the codes of findings that refuse a procedure mean, from `pycolo.findings`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        rows = (
            f"| `{code}` | {meaning} |\n"
            for code, meaning in findings.MEANINGS.items()
            if code not in rules.codes() or code in REFUSALS_TOO
        )
        return self.parse_text_to_nodes("| code | it means |\n|---|---|\n" + "".join(rows))


class PreflightTable(SphinxDirective):
    """What a preflight may find, from `pycolo.rules`, and which procedures an error stops."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        codes = dict.fromkeys(code for rule in rules.TABLE for code in rule.codes)
        rows = (f"| `{code}` | {findings.MEANINGS[code]} | {_stops(code)} |\n" for code in codes)
        head = "| code | it means | its errors stop |\n|---|---|---|\n"
        return self.parse_text_to_nodes(head + "".join(rows))


# A procedure is refused by it as well.
REFUSALS_TOO: Final = ("unsupported-version",)


def _stops(code: findings.Code) -> str:
    stopped = [name for name in get_args(Procedure) if code in rules.codes(name)]
    always = ", always" if code in rules.NEVER_FORCED and stopped else ""
    return ", ".join(f"`{name}`" for name in stopped) + always


class DecisionTable(SphinxDirective):
    """What a node's supervisor does in each state, from `pycolo.supervise.table`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        return [node for state in table.STATES for node in self._one(state)]

    def _one(self, state: table.State) -> Iterator[nodes.Node]:
        section = nodes.section(ids=[f"state-{state}"], names=[f"state {state}"])
        section += nodes.title("", "", nodes.literal(text=state))
        rows = (
            f"| {_codes(row.events)} | {_codes(row.actions) or 'nothing'} | `{row.phase}` |\n"
            for row in table.ROWS
            if row.state == state
        )
        section += self.parse_text_to_nodes(
            "| event | actions | leads to |\n|---|---|---|\n" + "".join(rows)
        )
        yield section


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


class SupervisionLimits(SphinxDirective):
    """The limits of a supervisor, from `pycolo.model.Supervision`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        rows = "".join(_key_rows(Supervision))
        return self.parse_text_to_nodes(
            f"| field | type | default | meaning |\n|---|---|---|---|\n{rows}"
        )


class PairFileKeys(SphinxDirective):
    """Every key of a pair file, from the classes of `pycolo.model`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        return [self._table(heading, cls) for heading, cls in self._tables().items()]

    def _tables(self) -> Mapping[str, type[attrs.AttrsInstance]]:
        return TABLES

    def _table(self, heading: str, cls: type[attrs.AttrsInstance]) -> nodes.section:
        section = nodes.section(ids=[f"key-{cls.__name__.lower()}"], names=[heading.lower()])
        is_key = heading.startswith("[")
        title = nodes.literal(text=heading) if is_key else nodes.Text(heading)
        section += nodes.title("", "", title)
        rows = "".join(_key_rows(cls))
        section += self.parse_text_to_nodes(
            f"| key | type | default | meaning |\n|---|---|---|---|\n{rows}"
        )
        return section


class AgentFileKeys(PairFileKeys):
    """Every key of an agent file, from its classes."""

    @override
    def _tables(self) -> Mapping[str, type[attrs.AttrsInstance]]:
        return {"The file itself": AgentFile, "[etcd]": EtcdPlace, "[sqlite]": SqlitePlace}


# The spares are the third and later `[[nodes]]`.
TABLES: Mapping[str, type[attrs.AttrsInstance]] = {
    "The file itself": ColoPair,
    "[machine]": Machine,
    "[machine.memory_backend]": MemoryBackend,
    "[migration]": Migration,
    "[[machine.objects]]": DeviceObject,
    "[[machine.devices]]": Device,
    "[[machine.cdroms]]": Cdrom,
    "[[machine.channels]]": Channel,
    "[machine.firmware]": Firmware,
    "[[nodes]]": Node,
    "[nodes.vnc]": Vnc,
    "[nodes.ssh]": Ssh,
    "[nodes.libvirt]": Libvirt,
    "[[nodes.fences]]": Fence,
    "[nodes.control], [nodes.observer]: a socket": UnixMonitor,
    "[nodes.control], [nodes.observer]: a port": TcpMonitor,
    "[[disks]]": ReplicationDisk,
    "[disks.nodes.NODE]": DiskOnNode,
    "[[disks.backing]], [[disks.nodes.NODE.backing]]": BackingImage,
    "[disks.remote], [disks.nodes.NODE.remote]: Ceph": Rbd,
    "[[disks.remote.monitors]]": RbdMonitor,
    "[disks.remote], [disks.nodes.NODE.remote]: iSCSI": Iscsi,
    "[disks.remote], [disks.nodes.NODE.remote]: NFS": Nfs,
    "[disks.remote], [disks.nodes.NODE.remote]: NBD": Nbd,
    "[disks.throttle]": Throttle,
    "[[chains]]": FilterChain,
    "[chains.netdev], [chains.netdevs.NODE]": Netdev,
    "[chains.ports]": ChainPorts,
    "[ports]": Ports,
    "[tls]: certificates": X509,
    "[tls]: shared keys": Psk,
    "[timeouts]": Timeouts,
    "[supervision]": Supervision,
}


def _key_rows(cls: type[attrs.AttrsInstance]) -> Iterator[str]:
    if cls in (ColoPair, AgentFile):
        yield "| `format_version` | integer | | 1. |\n"
    if cls in (X509, Psk, Rbd, Iscsi, Nfs, Nbd):
        yield f"| `kind` | string | required | `{cls.__name__.lower()}`. |\n"
    meanings = _meanings(cls)
    for field in attrs.fields(cls):
        if cls is ColoPair and field.name == "spares":
            continue
        # A field without a meaning is a KeyError: the manual does not build.
        meaning = meanings[field.name].replace("|", "\\|")
        kind = _type_words(field, get_type_hints(cls)[field.name])
        yield f"| `{field.name}` | {kind} | {_default_words(field)} | {meaning} |\n"


def _meanings(cls: type[attrs.AttrsInstance]) -> dict[str, str]:
    """Field to what it means: by the class's Args, or by the text below the field."""
    told = inspect.getdoc(cls) or ""
    args = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", told, re.MULTILINE | re.DOTALL)
    parts = [] if args is None else re.split(r"^ {4}(\w+): ", args[1], flags=re.MULTILINE)[1:]
    found = {
        name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 - its source
    for field, below in itertools.pairwise(tree.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
            case _:
                pass
    return found


def _type_words(field: attrs.Attribute[object], hint: object) -> str:
    text = str(field.type).removesuffix(" | None")
    kinds = (hint, *get_args(hint))
    chosen = next((kind for kind in kinds if get_origin(kind) is Literal), None)
    if chosen is not None:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in get_args(chosen))
    words = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}
    if text.startswith(("Mapping", "tuple")):
        return "table" if text.startswith("Mapping") else "array"
    return words.get(text, "table")


def _default_words(field: attrs.Attribute[object]) -> str:
    default = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, str | int | float):
        return f"`{json.dumps(default)}`"
    return ""


class ErrorCatalogue(SphinxDirective):
    """What QEMU's refusals mean, by subject, from `pycolo.catalogue`."""

    @override
    def run(self) -> Sequence[nodes.Node]:
        return [self._part(title, entries) for title, entries in catalogue.PARTS.items()]

    def _part(self, title: str, entries: Sequence[catalogue.Entry]) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(title)], names=[title.lower()])
        section += nodes.title("", title)
        for entry in entries:
            section += self._entry(entry)
        return section

    def _entry(self, entry: catalogue.Entry) -> nodes.section:
        section = nodes.section(ids=[f"error-{entry.name}"], names=[entry.name])
        section += nodes.title("", entry.name)
        section += nodes.literal_block(text=_wordings(entry), language="text")
        section += self.parse_text_to_nodes(
            f"From {_commands_of(entry)}.\n\nIt means: {entry.meaning}.\n\n"
            f"Goal reached: {catalogue.goal_words(entry)}.\n\nDo: {entry.remedy}"
            f" (qemu-behaviour {entry.source})."
        )
        return section


def _wordings(entry: catalogue.Entry) -> str:
    return "\n".join(f"{wording.text}{_versions(wording)}" for wording in entry.wordings)


def _versions(wording: catalogue.Wording) -> str:
    since = "" if wording.since is None else f" from {wording.since}"
    until = "" if wording.until is None else f" before {wording.until}"
    return f"   [{(since + until).strip()}]" if since or until else ""


def _commands_of(entry: catalogue.Entry) -> str:
    if entry.place == "stderr":
        return "QEMU's standard error"
    named = (
        "any command" if name == catalogue.EVERY else f"`{name.removeprefix('hmp:')}`"
        for name in entry.commands
    )
    told = ", as an error that it tells of" if entry.place == "query" else ""
    return ", ".join(named) + told


class SequenceDiagram(SphinxDirective):
    """A sequence diagram, drawn by `sequence` from the lines inside."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    @override
    def run(self) -> Sequence[nodes.Node]:
        try:
            drawn = sequence.draw(self.arguments[0], "\n".join(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        # What is too wide for a narrow screen is scrolled, not shrunk beyond reading.
        return [nodes.raw("", f'<div style="overflow-x: auto">{drawn}</div>', format="html")]


class MeasuredPlot(Figure):
    """A benchmark's plot as a figure, with the caption inside; nothing if none is published."""

    @override
    def run(self) -> list[nodes.Node]:
        name = f"/_static/measured/{self.arguments[0]}.svg"
        source = self.state.document.settings.env.srcdir
        if not Path(f"{source}{name}").exists():
            return []
        self.arguments[0] = name
        return super().run()


class StateDiagram(SphinxDirective):
    """The states of a node and the transitions between them, drawn by `states` from the table."""

    required_arguments = 1
    final_argument_whitespace = True

    @override
    def run(self) -> Sequence[nodes.Node]:
        drawn = states.draw(self.arguments[0], table.ROWS)
        return [nodes.raw("", f'<div style="overflow-x: auto">{drawn}</div>', format="html")]


class LinkToFacts(SphinxPostTransform):
    """Make each citation of docs/qemu-behaviour.md lead to its entry."""

    default_priority = 200

    @override
    def run(self) -> None:
        if self.app.builder.format != "html":
            return
        for text in list(self.document.findall(nodes.Text)):
            plain = not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.title)
            if plain and text.parent.parent is not None and CITATION.search(text):
                text.parent.replace(text, list(self._linked(str(text))))

    def _linked(self, text: str) -> Iterator[nodes.Node]:
        end = 0
        for found in CITATION.finditer(text):
            yield nodes.Text(text[end : found.start()] + found[1])
            for n, part in enumerate(NUMBER.split(found[2])):
                yield self._link(part) if n % 2 else nodes.Text(part)
            end = found.end()
        yield nodes.Text(text[end:])

    def _link(self, number: str) -> nodes.reference:
        page = self.app.builder.get_relative_uri(self.env.docname, PAGE)
        return nodes.reference("", number, internal=True, refuri=f"{page}#{_anchor(number)}")


def _anchor(number: str) -> str:
    return f"behaviour-{number.replace('.', '-')}"


def _name_entries(app: Sphinx, document: nodes.document) -> None:
    """Give each part and entry of the page the anchor that citations lead to."""
    if app.env.docname != PAGE:
        return
    for section in document.findall(nodes.section):
        number = re.match(r"(\d+(?:\.\d+)?)\.? ", section[0].astext())
        if number:
            section["ids"].append(_anchor(number[1]))


def _keep_first_line(_app: Sphinx, what: str, *rest: object) -> None:
    """Keep napoleon from reading an attribute's "What: which" as a type and its text."""
    lines = rest[-1]
    if isinstance(lines, list) and what in ("attribute", "data"):
        lines[:1] = [f": {line}" for line in lines[:1]]


def _name_errors(_app: Sphinx, *rest: object) -> None:
    """Let "Raises" mean the error where a value has the same name."""
    lines = rest[-1]
    if isinstance(lines, list):
        lines[:] = [RAISES.sub(r":raises ~pycolo.errors.\1:", line) for line in lines]


def _show_factories(
    _app: Sphinx, _what: str, _name: str, documented: object, _options: object, *rest: str | None
) -> tuple[str | None, str | None] | None:
    """Show what makes a default, where attrs shows that it keeps no value itself."""
    signature, returns = rest
    if signature is None or not isinstance(documented, type) or not attrs.has(documented):
        return None
    for field in attrs.fields(documented):
        default: object = field.default
        if isinstance(default, attrs.Factory):
            made = f"{default.factory.__name__.lstrip('_')}()"
            signature = re.sub(rf"\b{field.name}=NOTHING", f"{field.name}={made}", signature)
    if "NOTHING" in signature:
        raise ValueError(f"{documented.__name__} has a default that cannot be shown: {signature}")
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of it."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("command-line-help", CommandLineHelp)
    app.add_directive("feature-table", FeatureTable)
    app.add_directive("broken-versions", BrokenVersions)
    app.add_directive("error-catalogue", ErrorCatalogue)
    app.add_directive("finding-table", FindingTable)
    app.add_directive("preflight-table", PreflightTable)
    app.add_directive("pair-file-keys", PairFileKeys)
    app.add_directive("agent-file-keys", AgentFileKeys)
    app.add_directive("decision-table", DecisionTable)
    app.add_directive("supervision-limits", SupervisionLimits)
    app.add_directive("sequence-diagram", SequenceDiagram)
    app.add_directive("state-diagram", StateDiagram)
    app.add_directive("measured-plot", MeasuredPlot)
    app.add_post_transform(LinkToFacts)
    app.connect("doctree-read", _name_entries)
    app.connect("autodoc-process-signature", _show_factories)
    app.connect("autodoc-process-docstring", _keep_first_line, priority=100)
    app.connect("autodoc-process-docstring", _name_errors, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
