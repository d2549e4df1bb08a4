"""What probes are made of: pooled activations of a trained model on a prepared data set, by Ray Data over the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pixelmodels.data import FIXED_EPOCH, SPLITS, Dataset, binarize_dynamic, decode_labels, decode_rows
from pixelmodels.data.feeds import first_rows
from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.evaluation.probes import BASELINE, LAYER, PIXELS, POOLED_PIXELS, UNTRAINED, Examples, Name, ProbeRow, pool, probe
from pixelmodels.models import ContextSpec, PixelModel, describe, from_description

FIRST_STEP = 64  # images that the untrained network begins with, where it takes something from them: a recipe's batch, unless it says


@dataclass(frozen=True)
class Source:
    """Whose activations, and where they are computed."""

    actors: Actors
    seed: int  # of the weights of the untrained network, and of the draws where images are stored as grey values
    first: Rows | None = None  # what the untrained network is initialized from; None where the architecture takes nothing


class Pooler:
    """An actor that holds the model, and the same one untrained, and gives pooled activations of every layer, and the pixels themselves."""

    def __init__(self, source: Source, drawn: Mapping[str, int] | None) -> None:
        self._device = source.actors.device
        trained = source.actors.model()
        with torch.random.fork_rng([]):
            torch.manual_seed(source.seed)
            untrained = from_description(describe(trained)).to(trained.dtype).eval()
        if source.first is not None:
            spec = trained.context_spec if source.actors.with_context else ContextSpec()
            untrained.initialize(*to_tensors(source.first, torch.device("cpu"), spec))
        self._models = {UNTRAINED: untrained.to(self._device), LAYER: trained.to(self._device)}
        self._seed, self._drawn = source.seed, drawn  # the training images' positions where they are stored as grey values

    @torch.no_grad()
    def __call__(self, batch: pa.Table) -> dict[str, np.ndarray]:
        """Rows with columns image, label, key and split to the last three and, for each input of probes, kind/name: D floats a row."""
        images_NCHW = decode_rows(batch["image"], self._models[LAYER].spec.shape)
        splits_N, keys_N = (np.array(batch[name].to_pylist(), object) for name in ("split", "key"))
        if self._drawn is not None:
            grey_N = splits_N == "train"
            indices = [self._drawn[key] for key in keys_N[grey_N]]
            images_NCHW[grey_N] = binarize_dynamic(images_NCHW[grey_N], seed=self._seed, epoch=FIXED_EPOCH, indices_N=indices)
        x_BCHW = torch.from_numpy(images_NCHW).to(self._device)
        inputs = {(BASELINE, POOLED_PIXELS): pool(x_BCHW), (BASELINE, PIXELS): x_BCHW.flatten(1).float()}
        for kind, model in self._models.items():  # without a context: a label that is given would be read off
            inputs |= {(kind, layer): h_BD for layer, h_BD in model.all_features(x_BCHW, each=pool).items()}
        columns = {"/".join(name): value.cpu().numpy() for name, value in inputs.items()}
        return {"split": splits_N, "key": keys_N, "label": decode_labels(batch["label"])} | columns


def first_step(model: PixelModel, dataset: Dataset, seed: int) -> Rows | None:
    """What training would initialize a fresh model of this architecture from; None where it takes nothing from images."""
    if type(model).initialize is PixelModel.initialize:
        return None
    return first_rows(dataset, seed=seed, batch_size=FIRST_STEP)


def choose_images(dataset: Dataset, num_images: int, seed: int) -> dict[str, dict[str, int]]:
    """For each split, the key and position of each image that probes use: those with a label, of train at most `num_images`.

    Which of the training images is for `seed` to say. Raises `UserError` when the data set has no labels, or too few to train or test on.
    """
    if dataset.num_classes == 0:
        raise UserError(
            f"data set '{dataset.name}' has no labels to probe for; put its images into their classes' folders, or omit --probe"
        )
    chosen = {}
    for split in SPLITS:
        labels_N, keys = dataset.read_labels(split)
        assert labels_N is not None
        labelled = np.flatnonzero(labels_N >= 0)
        if split == "train":
            labelled = np.sort(np.random.default_rng(seed).permutation(labelled)[:num_images])
        num_classes = len(np.unique(labels_N[labelled]))
        if num_classes < (2 if split == "train" else 1):
            raise UserError(
                f"the {len(labelled)} labelled {split} images that a probe may use have {num_classes} class(es); "
                "raise --probe-images, label more, or omit --probe"
            )
        chosen[split] = {keys[index]: int(index) for index in labelled}
    return chosen


def probe_model(source: Source, dataset: Dataset, chosen: Mapping[str, Mapping[str, int]]) -> list[ProbeRow]:
    """A probe of each baseline and layer (see `probe`) on the chosen images."""
    examples = _examples(source, dataset, chosen)
    return probe(examples["train"], examples["validation"], examples["test"], each=_on_the_cluster)


def _on_the_cluster(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """`map` by Ray, one task with one thread for each call."""
    import ray

    task = ray.remote(num_cpus=1)(function)
    return ray.get([task.remote(*arguments) for arguments in zip(*columns, strict=True)])


def _examples(source: Source, dataset: Dataset, chosen: Mapping[str, Mapping[str, int]]) -> dict[str, Examples]:
    """The chosen images of each split, ordered by their positions in it."""
    streams = [
        dataset.stream(split).map_batches(
            _mark, fn_kwargs={"split": split, "wanted": pa.array(list(chosen[split]), pa.string())}, batch_format="pyarrow"
        )
        for split in SPLITS
    ]
    num_shards = sum(len(dataset.shards(split)) for split in SPLITS)
    drawn = chosen["train"] if dataset.train_images_are_grey else None
    rows = source.actors.over(streams[0].union(*streams[1:]), num_shards, Pooler, source, drawn)
    parts = [part for part in rows.iter_batches(batch_size=None, batch_format="numpy") if len(part["key"])]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    del parts
    splits_N, keys_N, labels_N = columns.pop("split"), columns.pop("key"), columns.pop("label")
    examples = {}
    for split, positions in chosen.items():
        indices = np.flatnonzero(splits_N == split)
        if len(indices) != len(positions):
            raise RuntimeError(f"{len(indices)} images of split '{split}' were read, {len(positions)} were asked for")
        order = indices[np.argsort([positions[key] for key in keys_N[indices]])]
        examples[split] = Examples({_name(column): values_ND[order] for column, values_ND in columns.items()}, labels_N[order])
    return examples


def _mark(batch: pa.Table, split: str, wanted: pa.Array) -> pa.Table:
    """The rows with these keys, with a column that says which split they are of."""
    batch = batch.filter(pa.compute.is_in(batch["key"], wanted))
    return batch.append_column("split", pa.array([split] * len(batch), pa.string()))


def _name(column: str) -> Name:
    kind, _, layer = column.partition("/")
    return kind, layer
