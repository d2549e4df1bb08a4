"""Linear probes: what they read off made-up activations is known, and what they choose is a function of the seed."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pixelmodels.data import FIXED_EPOCH, Dataset, binarize_dynamic
from pixelmodels.data.feeds import epoch_order
from pixelmodels.errors import UserError
from pixelmodels.evaluation.activations import Pooler, Source, choose_images, first_step
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.probes import (
    BASELINE,
    LAYER,
    MAJORITY,
    PIXELS,
    POOLED_PIXELS,
    STRENGTHS,
    UNTRAINED,
    Examples,
    ProbeRow,
    fit,
    pool,
    print_probes,
    probe,
    probe_files,
)
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextSpec, build, describe, from_description
from pixelmodels.models.files import save_model
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from tests.training.tiny_run import SIZES, TinyDataset


def examples(seed: int, num_images: int = 120) -> Examples:
    """Three classes, half of them class 2, that a layer tells apart and its untrained self knows nothing of."""
    rng = np.random.default_rng(seed)
    labels_N = np.concatenate([np.full(num_images // 2, 2), np.arange(num_images - num_images // 2) % 2]).astype(np.int32)
    noise = {name: rng.normal(size=(num_images, 4)).astype(np.float32) for name in ("pooled", "pixels", "untrained")}
    clear = 1e4 * np.eye(3, dtype=np.float32)[labels_N] + 1e6  # far from zero and of another scale: the probe has to scale it
    inputs = {
        (BASELINE, POOLED_PIXELS): noise["pooled"],
        (BASELINE, PIXELS): noise["pixels"],
        (UNTRAINED, "entry"): noise["untrained"],
        (LAYER, "entry"): clear,
    }
    return Examples(inputs, labels_N)


def test_rows_of_known_examples():
    rows = probe(examples(0), examples(1), examples(2))
    assert [(row.kind, row.layer, row.features) for row in rows] == [
        (BASELINE, MAJORITY, 0),
        (BASELINE, POOLED_PIXELS, 4),
        (BASELINE, PIXELS, 4),
        (UNTRAINED, "entry", 4),
        (LAYER, "entry", 3),
    ]
    majority, *noise, layer = rows
    assert (majority.strength, majority.accuracy) == (None, 0.5)
    assert majority.accuracy_stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 120), rel=1e-12)
    assert (layer.accuracy, layer.accuracy_stderr, layer.strength) == (1, 0, 1e-2)  # of the strengths that get all right the smallest
    assert all(0.3 < row.accuracy < 0.6 and row.strength in STRENGTHS for row in noise)
    assert rows == probe(examples(0), examples(1), examples(2))


def test_the_validation_split_chooses_and_the_test_split_is_not_looked_at():
    # weakly regularized, a probe follows the noisy second feature, which only the training images have
    rng = np.random.default_rng(0)
    labels_N = np.arange(40) % 2
    truth_N = labels_N * 2.0 - 1
    train = np.stack([truth_N + rng.normal(size=40) * 2, truth_N * 3 + rng.normal(size=40)], 1).astype(np.float32)
    other = np.stack([truth_N, -0.6 * truth_N], 1).astype(np.float32)
    by_strength = {strength: _accuracy_of(strength, (train, labels_N), (other, labels_N)) for strength in STRENGTHS}
    strength, right_N = fit((train, labels_N), (other, labels_N), (other, labels_N))
    assert strength == next(key for key in STRENGTHS if by_strength[key] == max(by_strength.values()))
    assert right_N.mean() == max(by_strength.values())
    upside_down, wrong_N = fit((train, labels_N), (other, labels_N), (other, 1 - labels_N))
    assert upside_down == strength and np.array_equal(wrong_N, ~right_N)


def _accuracy_of(strength, train, other) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train[0])
    return LogisticRegression(C=strength).fit(scaler.transform(train[0]), train[1]).score(scaler.transform(other[0]), other[1])


@pytest.mark.parametrize(
    ("size", "means"),
    [
        ((4, 6), [[4, 7], [16, 19]]),  # quarters of 0..23 in rows of 6
        ((1, 4), [[0.5, 2.5]]),
        ((2, 1), [[0], [1]]),
        ((3, 3), [[2, 3], [5, 6]]),  # the middle row and column belong to both sides
    ],
)
def test_pooling_is_the_mean_of_each_quarter(size, means):
    h_BFHW = torch.arange(size[0] * size[1], dtype=torch.float64).view(1, 1, *size).repeat(2, 3, 1, 1)
    h_BFHW[:, 1] *= 10
    expected = torch.tensor(means, dtype=torch.float32).flatten()
    pooled_BD = pool(h_BFHW)
    assert pooled_BD.dtype == torch.float32
    torch.testing.assert_close(pooled_BD, torch.cat([expected, expected * 10, expected]).expand(2, -1))


def test_files_hold_every_row(capsys):
    rows = [
        ProbeRow(MAJORITY, BASELINE, 0, None, 0.25, 0.125),
        ProbeRow(POOLED_PIXELS, BASELINE, 4, 0.1, 0.5, 0.03),
        ProbeRow(PIXELS, BASELINE, 64, 1.0, 0.75, 0.02),
        ProbeRow("entry", UNTRAINED, 128, 0.01, 0.625, 0.01),
        ProbeRow("entry", LAYER, 128, 0.001, 1 / 3, 0.04),
    ]
    files = probe_files(rows, "a title")
    lines = list(csv.DictReader(io.StringIO(files["probe.csv"].decode())))
    assert list(lines[0]) == ["layer", "kind", "features", "strength", "accuracy", "accuracy_stderr"]
    assert [(line["layer"], line["kind"], float(line["accuracy"])) for line in lines] == [
        (row.layer, row.kind, row.accuracy) for row in rows
    ]
    assert lines[0]["strength"] == ""
    assert set(files) == {"probe.csv", "probe.png"} and files["probe.png"].startswith(b"\x89PNG")
    print_probes(rows, "a title")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a title"
    (entry,) = (line for line in printed if line.strip().startswith("entry"))
    assert entry.split() == ["entry", "128", "0.3333", "±", "0.0400", "0.6250", "±", "0.0100"]


class PartlyLabelled(TinyDataset):
    """Every third image has no label."""

    def read_labels(self, split):
        labels_N, keys = super().read_labels(split)
        labels_N[::3] = -1
        return labels_N, keys


def test_images_are_chosen_by_seed_and_only_where_there_is_a_label():
    everything = choose_images(PartlyLabelled(), 10_000, seed=0)
    for split, size in SIZES.items():
        assert everything[split] == {f"{split}/{i}": i for i in range(size) if i % 3}
    few = choose_images(PartlyLabelled(), 6, seed=0)
    assert len(few["train"]) == 6 and few["train"].items() <= everything["train"].items()
    assert few["validation"] == everything["validation"] and few["test"] == everything["test"]
    assert few == choose_images(PartlyLabelled(), 6, seed=0) != choose_images(PartlyLabelled(), 6, seed=1)
    assert choose_images(PartlyLabelled(), 5, seed=0)["train"].keys() < few["train"].keys()  # the first ones of one permutation


def test_a_split_of_one_class_is_told():
    with pytest.raises(UserError, match=r"the 1 labelled train images .* have 1 class\(es\); raise --probe-images"):
        choose_images(PartlyLabelled(), 1, seed=0)


def test_no_labels_are_told(storage: Storage):
    manifest = {"name": "bare", "label_names": []}
    with pytest.raises(UserError, match="data set 'bare' has no labels to probe for; put its images into their classes' folders"):
        choose_images(Dataset(storage, "datasets/bare-0", manifest), 10, seed=0)


def test_activations_are_of_the_images_that_a_model_is_trained_on(storage: Storage, tmp_path: Path):
    spec = ImageSpec(1, 4, 3, 2)
    model = build(
        PixelCNNConfig(num_layers=1, num_features=4, first_kernel_size=3), spec, LikelihoodConfig("bernoulli"), ContextSpec()
    ).eval()
    save_model(tmp_path, model)
    source = Source(Actors(str(tmp_path), Tracker(storage)), seed=3)
    grey_NCHW = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 3)).astype(np.uint8)
    grey_NCHW[3:] %= 2  # of the test split: drawn when they were prepared
    batch = pa.table(
        {
            "image": [image.tobytes() for image in grey_NCHW],
            "label": pa.array([0, 1, 1, 0, 1], pa.int32()),
            "key": ["c", "a", "b", "a", "b"],
            "split": ["train"] * 3 + ["test"] * 2,
        }
    )
    columns = Pooler(source, {"a": 7, "b": 2, "c": 11})(batch)
    x_NCHW = grey_NCHW.copy()
    x_NCHW[:3] = binarize_dynamic(grey_NCHW[:3], seed=3, epoch=FIXED_EPOCH, indices_N=[11, 7, 2])
    np.testing.assert_array_equal(columns["baseline/pixels"], x_NCHW.reshape(5, -1))
    torch.manual_seed(3)
    for kind, network in ((LAYER, model), (UNTRAINED, from_description(describe(model)).eval())):
        for name in model.feature_names():
            with torch.no_grad():
                expected = pool(network.features(torch.from_numpy(x_NCHW), name))
            np.testing.assert_allclose(columns[f"{kind}/{name}"], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert columns["key"].tolist() == ["c", "a", "b", "a", "b"] and columns["label"].tolist() == [0, 1, 1, 0, 1]
    assert columns["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert set(columns) - {"key", "label", "split", "baseline/pixels", "baseline/pixels, pooled"} == {
        f"{kind}/{name}" for kind in (LAYER, UNTRAINED) for name in model.feature_names()
    }


@pytest.mark.parametrize("with_context", [True, False])
def test_the_untrained_network_is_the_one_that_training_begins_with(with_context: bool, storage: Storage, tmp_path: Path):
    dataset, mixture = TinyDataset(), LikelihoodConfig("discretized_logistic_mixture", num_mixtures=2)
    config = PixelCNNPPConfig(num_layers=1, num_features=4, dropout=0.2)
    torch.manual_seed(0)
    model = build(config, dataset.spec, mixture, ContextSpec(num_classes=2)).eval()
    save_model(tmp_path, model)
    first = first_step(model, dataset, seed=3)
    assert first is not None
    train, order = dataset.read("train"), epoch_order(3, 0, SIZES["train"])
    np.testing.assert_array_equal(first.images_NCHW, train.images_NCHW[order])
    np.testing.assert_array_equal(first.labels_N, train.labels_N[order])
    source = Source(Actors(str(tmp_path), Tracker(storage), with_context=with_context), seed=3, first=first)
    torch.manual_seed(3)
    fresh = from_description(describe(model)).eval()
    before = pool(fresh.features(torch.from_numpy(train.images_NCHW[:4]), "level1.down0")).detach()
    label_B = torch.from_numpy(train.labels_N[order]).long()
    fresh.initialize(torch.from_numpy(train.images_NCHW[order]).long(), Context(label_B) if with_context else None)
    batch = {"image": [image.transpose(1, 2, 0).tobytes() for image in train.images_NCHW[:4]]}
    columns = Pooler(source, None)(pa.table({**batch, "label": pa.array([0] * 4, pa.int32()), "key": list("abcd"), "split": ["train"] * 4}))
    for name in model.feature_names():
        expected = pool(fresh.features(torch.from_numpy(train.images_NCHW[:4]), name)).detach()
        np.testing.assert_allclose(columns[f"untrained/{name}"], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(columns["untrained/level1.down0"], before.numpy(), rtol=1e-2)


def test_an_architecture_that_takes_nothing_from_images_is_given_none():
    model = build(PixelCNNConfig(num_layers=1, num_features=4), TinyDataset().spec, LikelihoodConfig("categorical"))
    assert first_step(model, TinyDataset(), seed=0) is None
