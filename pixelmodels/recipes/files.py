"""Recipes as YAML files: what a sweep found best, or what a person wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pixelmodels.errors import UserError
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.storage import Storage

_MOST_VALUES = 10_000  # of a recipe file, each counted as often as an alias names it
_INTEGER = r"[-+]?(?:[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)"
_REAL = r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
PREPARED = "prepared"  # entry beside the recipe's own: the prepared data set that it was found on, as name-fingerprint


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2, which are those of the command line: `1e-3` is a number, `010` is 10, dates are text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A table; raises `YAMLError` where it names an entry twice."""
        names = [child.value for child, _ in node.value if child.tag != "tag:yaml.org,2002:merge"]
        twice = [str(name) for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' is there twice{node.start_mark}")
        return super().construct_mapping(node, deep=deep)


def _whole(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if "0x" in text or "0o" in text else int(text)


_OWN = ("int", "float", "timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in _OWN]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{_INTEGER})$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_REAL})$"), list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def recipe_text(recipe: Recipe, notes: tuple[str, ...] = (), prepared: str | None = None) -> str:
    """A recipe as YAML, with notes as comments above it, and the prepared data set (name-fingerprint) that it was found on."""
    values = recipe.to_dict() if prepared is None else {**recipe.to_dict(), PREPARED: prepared}
    plain = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)
    return "".join(f"# {note}\n" for note in notes) + plain


def read_recipe(path: str, storage: Storage) -> Recipe:
    """The recipe of a YAML file: a local one, or one below the storage root by its path or URI.

    Raises `UserError` in one line for a file that is not there, is no YAML, or has a field that no recipe has.
    """
    values = {name: value for name, value in _values(path, storage).items() if name != PREPARED}
    try:
        return Recipe.from_dict(values)
    except (UserError, TypeError, OverflowError, ValueError) as error:
        raise UserError(f"recipe file '{path}': {error}") from error


def prepared_of(path: str, storage: Storage) -> str | None:
    """The prepared data set that a recipe file names; none where it names none. Raises `UserError` as `read_recipe` does."""
    prepared = _values(path, storage).get(PREPARED)
    return None if prepared is None else str(prepared)


def _values(path: str, storage: Storage) -> dict[str, Any]:
    try:
        values = yaml.load(_text(path, storage).removeprefix("\ufeff"), _Loader)
        _count(values)
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # a tag that does not fit: any of these
        raise UserError(
            f"recipe file '{path}' is no YAML ({' '.join(str(error).split())}); give one such as a sweep's best.yaml"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"recipe file '{path}' holds {type(values).__name__}, not the fields of a recipe; see a sweep's best.yaml")
    return values


def _count(value: Any, left: int = _MOST_VALUES) -> int:
    """How many more values there may be after `value`; raises `ValueError` when there are too many (aliases of aliases)."""
    left -= 1
    for one in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        left = _count(one, left)
    if left < 0:
        raise ValueError(f"more than {_MOST_VALUES} values")
    return left


def _text(path: str, storage: Storage) -> str:
    try:
        if Path(path).is_file():
            return Path(path).read_text()
        below = path.removeprefix(storage.root + "/")
        if ".." not in below.split("/") and storage.is_file(below):
            return storage.read_bytes(below).decode()
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"recipe file '{path}' cannot be read ({error}); give a YAML file such as a sweep's best.yaml") from error
    raise UserError(f"recipe file '{path}' does not exist, here or below the storage root '{storage.root}'; see sweeps/*/best.yaml there")
