"""Recipes as YAML files: what a sweep found best, or what a person wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.training.recipes import Recipe

PREPARED = "prepared"  # entry beside the recipe's own: the prepared data set that it was found on, as name-fingerprint


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
    except (UserError, TypeError) as error:
        raise UserError(f"recipe file '{path}': {error}") from error


def prepared_of(path: str, storage: Storage) -> str | None:
    """The prepared data set that a recipe file names; none where it names none. Raises `UserError` as `read_recipe` does."""
    prepared = _values(path, storage).get(PREPARED)
    return None if prepared is None else str(prepared)


def _values(path: str, storage: Storage) -> dict[str, Any]:
    try:
        values = yaml.safe_load(_text(path, storage))
    except yaml.YAMLError as error:
        raise UserError(
            f"recipe file '{path}' is no YAML ({' '.join(str(error).split())}); give one such as a sweep's best.yaml"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"recipe file '{path}' holds {type(values).__name__}, not the fields of a recipe; see a sweep's best.yaml")
    return values


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
