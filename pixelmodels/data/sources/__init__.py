"""The table of sources: a new format is one new file here and one line below."""

from __future__ import annotations

import os
from pathlib import Path

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.encoded import EncodedSource
from pixelmodels.data.source import Source
from pixelmodels.errors import UserError, shown
from pixelmodels.plain import load
from pixelmodels.storage import SCHEMES

SOURCES = {
    "binarized_mnist": "pixelmodels.data.sources.binarized_mnist:BinarizedMNIST",
    "cifar10": "pixelmodels.data.sources.cifar10:CIFAR10",
    "digits": "pixelmodels.data.sources.digits:Digits",
    "folder": "pixelmodels.data.sources.folder:Folder",
    "imagenet_downsampled": "pixelmodels.data.sources.imagenet_downsampled:ImageNetDownsampled",
    "mnist": "pixelmodels.data.sources.mnist:MNIST",
    "photos": "pixelmodels.data.sources.photos:Photos",
}
AnySource = Source | EncodedSource
SHIPPED = ("digits", "photos")  # sources whose images come with a package: they take no path


def check_has_files(config: DatasetConfig) -> None:
    """Raise `UserError` where the images are in files that nobody has named, or the options make no sense."""
    if config.path is None and config.source not in SHIPPED:
        raise UserError(
            f"training is on source '{config.source}', whose files do not come with a package; "
            "give their folder with --data-path, or a prepared data set with --dataset"
        )
    open_source(config)


def open_source(config: DatasetConfig) -> AnySource:
    """The source that a config names; raises `UserError` for an unknown name, or options or paths that will not do."""
    for option, path in (("path", config.path), ("vectors", config.vectors)):
        try:
            str(Path(path).absolute() if path else "").encode()  # also where the working directory is not
        except UnicodeEncodeError as error:
            raise UserError(
                f"--{option} {os.fsencode(str(error.object))!r} is not UTF-8, so no file below it can be opened; rename it"
            ) from error
        if "://" in (path or "") and not str(path).startswith(SCHEMES):
            raise UserError(f"--{option} '{shown(str(path))}' is not supported; give a local path, s3://... or gs://...")
    if config.path is not None and config.source in SHIPPED:
        raise UserError(f"path '{config.path}' has no meaning for source '{config.source}'; give --source folder, or no path")
    source: AnySource = load(SOURCES, config.source, "dataset source")(config)
    return source
