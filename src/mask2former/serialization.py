"""Config dataclasses <-> plain dictionaries, strictly: an unknown key is an error that names it."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """A tree of dataclasses as plain dictionaries, lists and scalars.

    Where a field may hold one of several dataclasses, its dictionary says which under "type"; the
    first of them is what is read where that is missing.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = typing.get_type_hints(type(config))
        tree: dict[str, Any] = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            tree[field.name] = to_dict(value)
            if len(_dataclasses_in(hints[field.name])) > 1 and value is not None:
                tree[field.name] = {"type": type(value).__name__, **tree[field.name]}
        return tree
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    return config


def from_dict(cls: type[T], tree: Any, where: str = "config") -> T:
    """The reverse of `to_dict`. ValueError names the place, the fault and the nearest valid key."""
    if not isinstance(tree, dict):
        raise ValueError(
            f"{where}: expected a mapping with the fields of {cls.__name__}, got {tree!r}"
        )
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(fields)}"
            raise ValueError(f"{where}: unknown key '{key}'; {hint}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in tree:
            raise ValueError(f"{where}: key '{name}' is missing")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in tree.items()})


def _dataclasses_in(hint: Any) -> list[type]:
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]  # type: ignore[misc]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _value(hint: Any, value: Any, where: str) -> Any:
    if _is_union(hint) and value is None and type(None) in typing.get_args(hint):
        return None
    classes = _dataclasses_in(hint)
    if classes:
        return _dataclass_value(classes, value, where)
    if _is_union(hint):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        errors = []
        for option in options:
            try:
                return _value(option, value, where)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError(errors[-1])
    return _plain_value(hint, value, where)


def _dataclass_value(classes: list[type], value: Any, where: str) -> Any:
    if len(classes) == 1:
        return from_dict(classes[0], value, where)
    names = {cls.__name__: cls for cls in classes}
    if isinstance(value, dict) and "type" not in value:
        return from_dict(classes[0], value, where)  # written when there was no choice
    if not isinstance(value, dict) or value.get("type") not in names:
        raise ValueError(f"{where}.type: expected one of {', '.join(names)}")
    rest = {key: item for key, item in value.items() if key != "type"}
    return from_dict(names[value["type"]], rest, where)


def _plain_value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise ValueError(f"{where}: expected {len(args)} values, got {len(value)}")
        items = zip(args, value, strict=True)
        return tuple(_value(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(items))
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{where}: {value!r} is none of {', '.join(map(repr, args))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
