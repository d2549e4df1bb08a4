"""The table of sources: a new format is one new file here and one line below."""

from __future__ import annotations

import importlib

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.source import Source
from pixelmodels.errors import UserError, unknown

SOURCES = {
    "binarized_mnist": "pixelmodels.data.sources.binarized_mnist:BinarizedMNIST",
    "cifar10": "pixelmodels.data.sources.cifar10:CIFAR10",
    "digits": "pixelmodels.data.sources.digits:Digits",
    "folder": "pixelmodels.data.sources.folder:Folder",
    "imagenet_downsampled": "pixelmodels.data.sources.imagenet_downsampled:ImageNetDownsampled",
    "mnist": "pixelmodels.data.sources.mnist:MNIST",
    "photos": "pixelmodels.data.sources.photos:Photos",
}
SHIPPED = ("digits", "photos")  # sources whose images come with a package: they take no path


def open_source(config: DatasetConfig) -> Source:
    """The source that a config names; raises `UserError` for an unknown name or options that it has no use for."""
    if config.source not in SOURCES:
        raise unknown("dataset source", config.source, SOURCES)
    if config.path is not None and config.source in SHIPPED:
        raise UserError(f"path '{config.path}' has no meaning for source '{config.source}'; give --source folder, or no path")
    module, name = SOURCES[config.source].split(":")
    source: Source = getattr(importlib.import_module(module), name)(config)
    return source
