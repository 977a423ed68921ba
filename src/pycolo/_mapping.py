"""Mappings that cannot be changed, for the fields of frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NoReturn, TypeVar, final

import attrs
from typing_extensions import override

_K = TypeVar("_K")
_V = TypeVar("_V")


@final
class ReadOnlyDict(dict[_K, _V], Generic[_K, _V]):
    """A dict that cannot be changed: every method that would change it raises TypeError."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("it is part of a frozen value: make a new one with attrs.evolve")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    @override
    def __reduce__(self) -> tuple[type[ReadOnlyDict[_K, _V]], tuple[dict[_K, _V]]]:
        """Have pickle and copy make the dict from all its items: items cannot be added later."""
        return type(self), (dict(self),)


def read_only(value: Mapping[_K, _V]) -> Mapping[_K, _V]:
    """A copy of a mapping that cannot be changed."""
    return value if isinstance(value, ReadOnlyDict) else ReadOnlyDict(value)


def read_only_mappings(
    _: type, fields: list[attrs.Attribute[object]]
) -> list[attrs.Attribute[object]]:
    """Make each mapping field of a class read-only: a `field_transformer` for `attrs.frozen`.

    A field that has a converter is left as it is. Each class could instead name `read_only` as the
    converter of its fields, but type checkers do not understand a generic converter.
    """
    return [
        field.evolve(converter=read_only)
        if str(field.type).startswith("Mapping[") and field.converter is None
        else field
        for field in fields
    ]
