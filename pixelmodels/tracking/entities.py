"""What MLflow calls entities: parameters out of a recipe, and a data set as the input of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Param

    from pixelmodels.data import Dataset
    from pixelmodels.storage import Storage

T = TypeVar("T")
MAX_ENTITIES = 100  # MLflow takes this many parameters, tags or metrics in one call
MAX_PARAM_CHARACTERS = 6000
MAX_DIGEST_CHARACTERS = 36


def flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as pairs of dotted name and text; lists and everything else as their JSON or text."""
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield name, json.dumps(value, default=str)
        else:
            yield name, str(value)


def param_entities(params: Mapping[str, Any]) -> list[Param]:
    """Parameters of nested mappings, each cut to the length that MLflow takes."""
    from mlflow.entities import Param

    return [Param(key, text[:MAX_PARAM_CHARACTERS]) for key, text in flatten(params)]


def dataset_input(dataset: Dataset, storage: Storage) -> DatasetInput:
    """A data set as a run's input: its name, fingerprint and place, and the size of its images and splits."""
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import DatasetInput, InputTag

    profile = {
        **asdict(dataset.spec),
        "classes": dataset.num_classes,
        **{f"{split}_images": dataset.num_images(split) for split in ("train", "validation", "test")},
    }
    entity = DatasetEntity(
        name=dataset.name,
        digest=dataset.fingerprint[:MAX_DIGEST_CHARACTERS],
        source_type=storage.kind,
        source=json.dumps({"uri": storage.uri(dataset.folder)}),
        profile=json.dumps(profile),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def parts(entities: list[T]) -> Iterator[list[T]]:
    """The entities in lists that MLflow takes in one call."""
    for start in range(0, len(entities), MAX_ENTITIES):
        yield entities[start : start + MAX_ENTITIES]
