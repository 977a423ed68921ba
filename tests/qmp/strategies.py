"""Strategies for every command, for the tests of whatever carries commands."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import strategies as st

from pycolo.qmp import (
    NULL,
    AuthZList,
    AuthZRule,
    BlockNode,
    ColoCompare,
    Command,
    FileNode,
    FilterMirror,
    FilterRedirector,
    FilterRewriter,
    HostDeviceNode,
    HttpNode,
    HttpsNode,
    InetSocketAddress,
    IoThread,
    IscsiNode,
    LuksNode,
    MigrateSetParameters,
    NbdNode,
    NfsNode,
    NfsServer,
    Null,
    Qcow2Node,
    QmpValue,
    QuorumNode,
    RawNode,
    RbdNode,
    RbdServer,
    ReplicationNode,
    SocketClient,
    SocketServer,
    TlsCredsPsk,
    TlsCredsX509,
    UnixSocketAddress,
    XBlockdevChange,
    YankBlockNode,
    YankChardev,
    YankMigration,
)

_T = TypeVar("_T")

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
"""Ids, node names, paths: any text, since QMP carries any."""

json_values: st.SearchStrategy[QmpValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
"""What JSON can say."""


def _values(hint: object) -> st.SearchStrategy[object]:
    """Give the values of a field's type."""
    if hint is QmpValue:
        return json_values
    if hint is str:
        return names
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(min_value=1, max_value=65535)
    if hint is type(None):
        return st.none()
    if hint is Null:
        return st.just(NULL)
    if isinstance(hint, type) and hint in _RECORDS:
        return st.deferred(lambda: _RECORDS[hint])
    return _composed(hint)


def _composed(hint: object) -> st.SearchStrategy[object]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(_values(args[0]), min_size=1, max_size=2).map(tuple)
    if origin in (Union, types.UnionType):
        return st.one_of([_values(arg) for arg in args])
    if origin is Mapping:
        # Options that no field holds: a name made up is one that no version of QEMU knows.
        return st.just({})
    if isinstance(hint, type):
        return _made(hint)
    raise TypeError(hint)


def _made(kind: type[_T], **special: st.SearchStrategy[object]) -> st.SearchStrategy[_T]:
    """Make values of an attrs class from its annotations; ``special`` replaces some fields."""

    def build() -> st.SearchStrategy[_T]:
        attrs_class: type = kind
        hints: dict[str, object] = get_type_hints(kind)
        names_of_fields = [field.name for field in attrs.fields(attrs_class)]
        fields = {name: _values(hints[name]) for name in names_of_fields}
        return st.builds(kind, **{**fields, **special})

    return st.deferred(build)


_positions = st.none() | st.sampled_from(["head", "tail"]) | names.map("id={}".format)


def _redirectors() -> st.SearchStrategy[FilterRedirector]:
    ends = st.lists(names, min_size=2, max_size=2, unique=True)
    shapes = st.sampled_from([(True, False), (False, True), (True, True)])
    chosen = st.tuples(ends, shapes)
    return chosen.flatmap(
        lambda pair: _made(
            FilterRedirector,
            position=_positions,
            indev=st.just(pair[0][0] if pair[1][0] else None),
            outdev=st.just(pair[0][1] if pair[1][1] else None),
        )
    )


def _compares() -> st.SearchStrategy[ColoCompare]:
    return st.lists(names, min_size=3, max_size=3, unique=True).flatmap(
        lambda ids: _made(
            ColoCompare,
            primary_in=st.just(ids[0]),
            secondary_in=st.just(ids[1]),
            outdev=st.just(ids[2]),
        )
    )


_children = st.deferred(lambda: st.one_of(names, _leaves, _RECORDS[Qcow2Node]))
_leaves: st.SearchStrategy[BlockNode] = st.one_of(
    _made(FileNode),
    _made(HostDeviceNode),
    _made(HttpNode),
    _made(HttpsNode),
    _made(NbdNode),
    _made(IscsiNode),
    _made(NfsNode),
    _made(RbdNode),
)

_RECORDS: dict[type, st.SearchStrategy[object]] = {
    InetSocketAddress: _made(InetSocketAddress),
    UnixSocketAddress: _made(UnixSocketAddress),
    SocketServer: _made(SocketServer),
    SocketClient: _made(SocketClient, reconnect_ms=st.none())
    | _made(SocketClient, reconnect_s=st.none()),
    FilterMirror: _made(FilterMirror, position=_positions),
    FilterRedirector: _redirectors(),
    FilterRewriter: _made(FilterRewriter, position=_positions),
    ColoCompare: _compares(),
    IoThread: _made(IoThread),
    TlsCredsX509: _made(TlsCredsX509),
    TlsCredsPsk: _made(TlsCredsPsk),
    AuthZRule: _made(AuthZRule),
    AuthZList: _made(AuthZList),
    FileNode: _made(FileNode),
    HostDeviceNode: _made(HostDeviceNode),
    HttpNode: _made(HttpNode),
    HttpsNode: _made(HttpsNode),
    IscsiNode: _made(IscsiNode),
    NfsNode: _made(NfsNode),
    NfsServer: _made(NfsServer),
    RbdNode: _made(RbdNode),
    RbdServer: _made(RbdServer),
    LuksNode: _made(LuksNode, file=names | _leaves),
    NbdNode: _made(NbdNode),
    Qcow2Node: _made(
        Qcow2Node, file=names | _leaves, backing=st.none() | st.just(NULL) | names | _leaves
    ),
    RawNode: _made(RawNode, file=names | _leaves),
    ReplicationNode: _made(
        ReplicationNode, mode=st.just("primary"), top_id=st.none(), file=_children
    )
    | _made(ReplicationNode, mode=st.just("secondary"), top_id=names, file=_children),
    QuorumNode: _made(
        QuorumNode,
        vote_threshold=st.just(1),
        children=st.lists(_children, min_size=1, max_size=3).map(tuple),
    ),
    YankBlockNode: _made(YankBlockNode),
    YankChardev: _made(YankChardev),
    YankMigration: _made(YankMigration),
}


def _commands_of(kind: type[Command]) -> st.SearchStrategy[Command]:
    if kind is XBlockdevChange:
        return _made(kind, child=st.none(), node=names) | _made(kind, child=names, node=st.none())
    if kind is MigrateSetParameters:
        delays_ms = st.none() | st.integers(min_value=0, max_value=2**32 - 1)
        return _made(kind, x_checkpoint_delay_ms=delays_ms)
    return _made(kind)


commands: st.SearchStrategy[Command] = st.one_of([_commands_of(kind) for kind in get_args(Command)])
"""Every command, with every argument."""
