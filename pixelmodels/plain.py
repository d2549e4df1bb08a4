"""Dataclasses to plain JSON values and back, and names in tables to what they stand for."""

from __future__ import annotations

import dataclasses
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pixelmodels.errors import UserError, check_finite, unknown

FieldsOf = Callable[[Any], Iterable[dataclasses.Field[Any]]]  # of a dataclass instance


def load(table: Mapping[str, str], name: str, kind: str) -> Any:
    """What the entry `name` of a table (`module:attribute` by name) stands for; `UserError`, with the choices, where there is none.

    Args: `kind`, what the table's entries are, for the message.
    """
    if name not in table:
        raise unknown(kind, name, table)
    return pkgutil.resolve_name(table[name])


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """`value` of plain JSON types as an instance of the annotated type `kind`.

    Raises `UserError`, naming `where`, when the type is another or a dataclass has no such field.
    """
    check_finite(where, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} is {value!r}; give a table of the fields of {kind.__name__}")
        return construct(kind, value, where)
    if origin in (Union, types.UnionType):
        for choice in arguments:
            try:
                return from_plain(choice, value, where)
            except UserError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise unknown(where, value, map(str, arguments))
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return tuple(from_plain(arguments[0], item, where) for item in value)
            if len(arguments) == len(value):
                return tuple(from_plain(one, item, where) for one, item in zip(arguments, value, strict=True))
    elif kind is type(None):
        if value is None:
            return None
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    raise UserError(f"{where} is {value!r}; give {getattr(kind, '__name__', None) or kind}")


def construct(kind: Any, values: Mapping[str, Any], where: str, **ready: Any) -> Any:
    """A dataclass from plain values of its fields, but those that are `ready`; `UserError` as `from_plain`, and for fields that lack."""
    hints = get_type_hints(kind)
    names = {spec.name for spec in dataclasses.fields(kind) if spec.init}
    for name in values:
        if name not in names:
            raise unknown(f"field of {where}", name, names)
    fields = {name: from_plain(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    missing = [
        spec.name
        for spec in dataclasses.fields(kind)
        if spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING and spec.name not in {**fields, **ready}
    ]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; give every field without a default")
    return kind(**fields, **ready)


def _plain(value: Any, fields_of: FieldsOf) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {spec.name: _plain(getattr(value, spec.name), fields_of) for spec in fields_of(value) if spec.init}
    if isinstance(value, (list, tuple)):
        return [_plain(item, fields_of) for item in value]
    return value
