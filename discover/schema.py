"""What can be said about options from their dataclasses alone: names, values as words, and values that come as words."""

import difflib
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from discover.errors import UsageError


def options(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every option."""
    for entry in fields(schema):
        nested = typing.get_type_hints(schema)[entry.name]
        if is_dataclass(nested):
            yield from options(typing.cast(type, nested), f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name


def check_option(name: str, schema: type, prefix: str = "") -> None:
    """Refuse an option that does not exist, naming the near ones."""
    known = list(options(schema, prefix))
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [option for option in known if option.split(".")[-1] == name.split(".")[-1] and option not in near]
    told = f"did you mean {' or '.join(near)}?" if near else f"the options are {', '.join(known)}."
    raise UsageError(f"There is no option {name!r}; {told}")


def value_of(name: str, told: str, value: Any, schema: type) -> Any:
    """Return the value of the option `name` of `schema` as that holds it, from what JSON or YAML say.

    Args:
        name: the option.
        told: what to call it in an error.
        value: a number, a word, a list or None.
        schema: the dataclass.

    Raises:
        UsageError: it is of another kind.
    """
    kind = typing.get_type_hints(schema)[name]
    if isinstance(kind, type) and issubclass(kind, Enum):
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        raise UsageError(f"{told}={value} is none of {', '.join(kind.__members__)}.")
    allowed = tuple(typing.get_origin(one) or one for one in _kinds(kind))
    # Yes and no are numbers to Python, and a whole number is as good as any.
    fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
    if not fits and not (float in allowed and type(value) is int):
        wanted = " or ".join("null" if one is type(None) else one.__name__ for one in allowed)
        raise UsageError(f"{told}={value!r} must be of kind {wanted}.")
    if isinstance(value, list):
        (element,) = typing.get_args(kind)
        if any(type(one) is not element for one in value):
            raise UsageError(f"{told}={value!r} must be a list of kind {element.__name__}.")
    return float(value) if float in allowed and value is not None else value


def plain(value: Any) -> Any:
    """Return a config as plain dictionaries, lists and words, as they stand in run.json."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    return value.name if isinstance(value, Enum) else value


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option of a plain config with its dotted name."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def config_from(saved: dict[str, Any], schema: type) -> Any:
    """Return the config that `plain` wrote; an unknown key is refused."""
    kinds = typing.get_type_hints(schema)
    values = {}
    for name, value in saved.items():
        if name not in kinds:
            raise UsageError(f"The saved config holds the option {name!r}, which {schema.__name__} does not have.")
        kind = kinds[name]
        if is_dataclass(kind):
            value = config_from(value, typing.cast(type, kind))
        elif isinstance(kind, type) and issubclass(kind, Enum):
            value = kind[value]
        values[name] = value
    return schema(**values)


def positive(section: object, prefix: str, *names: str, optional: bool = False) -> None:
    """Refuse every named field that is not a finite number above 0 (or null, where that is a choice)."""
    for name in names:
        value = getattr(section, name)
        if value is None and optional:
            continue
        if not math.isfinite(value) or value <= 0:
            raise UsageError(f"{prefix}.{name}={value} must be a finite number above 0{' or null' if optional else ''}.")


def _kinds(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
