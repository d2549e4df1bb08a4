"""Recipes as YAML files: what a sweep found best, or what a person wrote."""

from __future__ import annotations

from pathlib import Path

import yaml

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.training.recipes import Recipe


def recipe_text(recipe: Recipe, notes: tuple[str, ...] = ()) -> str:
    """A recipe as YAML, with notes as comments above it."""
    plain = yaml.safe_dump(recipe.to_dict(), sort_keys=False, default_flow_style=None, width=120)
    return "".join(f"# {note}\n" for note in notes) + plain


def read_recipe(path: str, storage: Storage) -> Recipe:
    """The recipe of a YAML file: a local one, or one below the storage root by its path or URI.

    Raises `UserError` in one line for a file that is not there, is no YAML, or has a field that no recipe has.
    """
    text = _text(path, storage)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"recipe file '{path}' is no YAML ({' '.join(str(error).split())}); give one such as a sweep's best.yaml"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"recipe file '{path}' holds {type(values).__name__}, not the fields of a recipe; see a sweep's best.yaml")
    try:
        return Recipe.from_dict(values)
    except (UserError, TypeError) as error:
        raise UserError(f"recipe file '{path}': {error}") from error


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
