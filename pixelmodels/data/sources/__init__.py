"""The table of sources: a new format is one new file here and one line below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pixelmodels.data.config import AUTO, RECORDS, DatasetConfig
from pixelmodels.data.encoded import EncodedSource
from pixelmodels.data.recognition import recognized
from pixelmodels.data.source import Source
from pixelmodels.errors import UserError
from pixelmodels.plain import load

SOURCES = {
    "arrays": "pixelmodels.data.sources.arrays:Arrays",
    "binarized_mnist": "pixelmodels.data.sources.binarized_mnist:BinarizedMNIST",
    "cifar10": "pixelmodels.data.sources.cifar10:CIFAR10",
    "cifar100": "pixelmodels.data.sources.cifar100:CIFAR100",
    "digits": "pixelmodels.data.sources.digits:Digits",
    "emnist": "pixelmodels.data.sources.emnist:EMNIST",
    "folder": "pixelmodels.data.sources.folder:Folder",
    "huggingface": "pixelmodels.data.sources.huggingface:HuggingFace",
    "imagenet_downsampled": "pixelmodels.data.sources.imagenet_downsampled:ImageNetDownsampled",
    "mnist": "pixelmodels.data.sources.mnist:MNIST",
    "parquet": "pixelmodels.data.sources.parquet:Parquet",
    "photos": "pixelmodels.data.sources.photos:Photos",
    "svhn": "pixelmodels.data.sources.svhn:SVHN",
    "webdataset": "pixelmodels.data.sources.webdataset:WebDataset",
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


def with_files(config: DatasetConfig, path: str | None, say: Callable[[str], None]) -> DatasetConfig:
    """The data set of a recipe with its files at `path`, or where it says (None); what ships with a package becomes what the path holds.

    Raises `UserError` where that is not recognized; `say` is given one line about what is.
    """
    if path is not None:
        config = replace(config, path=path, source=AUTO if config.source in SHIPPED else config.source)
    return recognized(config, say)


def open_source(config: DatasetConfig) -> AnySource:
    """The source that a config names, or its path holds; raises `UserError` for an unknown name, options or paths that will not do."""
    config = recognized(config)
    if config.path is not None and config.source in SHIPPED:
        raise UserError(f"path '{config.path}' has no meaning for source '{config.source}'; give --source folder, or no path")
    for option, column in (("image-column", config.image_column), ("label-column", config.label_column)):
        if column is not None and config.source not in RECORDS:
            raise UserError(f"--{option} '{column}' has no meaning for source '{config.source}'; it is for {', '.join(RECORDS)}")
    if config.path is not None and config.patch_size != DatasetConfig.patch_size:
        remedy = "it is for photos, which comes with a package; give --size HEIGHT WIDTH"
        raise UserError(f"--patch-size {config.patch_size} has no meaning for source '{config.source}'; {remedy}")
    kind = load(SOURCES, config.source, "dataset source")
    if config.variant is not None and not getattr(kind, "variants", ()):
        raise UserError(f"variant '{config.variant}' is given, and source '{config.source}' has none; leave it out")
    source: AnySource = kind(config)
    return source
