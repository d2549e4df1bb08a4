"""What was kept of versions: data sets that are shown only where that was asked for, tests, nearest training images."""

from __future__ import annotations

import asyncio
import io
import shutil
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelmodels.anomalies.level_code import level_bits
from pixelmodels.data import Dataset
from pixelmodels.data.quantization import dequantize
from pixelmodels.evaluation.probes import pool
from pixelmodels.models import PixelModel
from pixelmodels.models.orders import ensemble_log_prob
from pixelmodels.serving import catalogue
from pixelmodels.serving import neighbours as nearby
from pixelmodels.serving.archive import Archive
from pixelmodels.serving.catalogue import catalogue_of
from pixelmodels.serving.pngs import base64_png
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Sampler
from pixelmodels.serving.schemas import Neighbours, NeighboursRequest
from pixelmodels.storage import Storage
from tests.studio.conftest import CLASSES, NAME, SPEC, Registry, context_of_labels, make_registry, settings_of


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return make_registry(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def archive(registry: Registry) -> Archive:
    return Archive(registry.tracker.storage.root, registry.tracker, show_data=True)


def test_the_leaderboard(registry: Registry) -> None:
    found = catalogue_of(registry.tracker, registry.tracker.storage, (NAME, "enlarging", "none"))
    assert [one.model for one in found.versions] == [f"{NAME}/2", f"{NAME}/1", "enlarging/1"]
    assert found.versions[1].aliases == ["champion"] and found.versions[0].aliases == []
    assert (found.versions[1].test_bits_per_dim, found.versions[1].dataset) == (2.5, registry.dataset_ref)
    assert found.versions[2].condition_on == "small/2"
    (decision,) = found.decisions
    assert (decision.model, decision.outcome, decision.reason, decision.champion_then) == (f"{NAME}/1", "promoted", "it is the first", None)


def test_of_very_many_decisions_the_newest_are_asked_for_once() -> None:
    calls = list[dict[str, Any]]()

    def search_runs(experiments: list[str], condition: str, **options: Any) -> list[Any]:
        calls.append(options)
        return Page([])

    tracker = SimpleNamespace(client=SimpleNamespace(search_runs=search_runs), experiment_id="0")
    assert catalogue._decisions(tracker, NAME) == []  # type: ignore[arg-type]
    assert calls == [{"max_results": catalogue.MOST_DECISIONS, "order_by": ["attributes.start_time DESC"]}]


class Page(list[Any]):
    """One of many of a search of MLflow's."""

    @property
    def token(self) -> str:
        raise AssertionError("nobody needs the next one")


def test_a_histogram_of_the_test(archive: Archive, registry: Registry) -> None:
    found = archive.test_scores(f"{NAME}/1")
    assert sum(found.counts) == found.num_images == registry.dataset.num_images("test")
    assert len(found.edges) == len(found.counts) + 1 and found.edges == sorted(found.edges)
    assert found.edges[0] <= found.percentiles[0] <= found.mean <= found.percentiles[100] <= found.edges[-1]


def test_what_test_images_score(archive: Archive, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    test = registry.dataset.read("test")
    with torch.no_grad():
        model = registry.models[f"{NAME}/1"]
        nats_N = -ensemble_log_prob(model, torch.from_numpy(test.images_NCHW), context_of_labels(model, test.labels_N)).numpy()
    wanted_N = nats_N / np.log(2) - level_bits(test.images_NCHW, SPEC.levels)
    assert np.array_equal(archive.normal(f"{NAME}/1"), wanted_N)
    monkeypatch.setattr("pixelmodels.serving.archive.MOST_NORMAL", 3)
    few = Archive(registry.tracker.storage.root, registry.tracker, show_data=False)  # numbers are no images
    assert np.array_equal(few.normal(f"{NAME}/1"), wanted_N[np.arange(3) * len(wanted_N) // 3])


def test_a_test_that_is_damaged_or_empty_has_no_scores(archive: Archive, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry.dataset), "shards", lambda *_: [{"file": "gone.parquet", "num_images": 99, "sha256": ""}])
    for ask in (lambda: archive.normal(f"{NAME}/1"), lambda: archive.shown(f"{NAME}/1", "test", 0, 1)):
        with pytest.raises(Refused, match=r"shard '.*gone\.parquet' is damaged") as error:
            ask()
        assert (error.value.status, error.value.code) == (404, "not_kept")
    monkeypatch.setattr(type(registry.dataset), "num_images", lambda *_: 0)
    with pytest.raises(Refused, match="its test has no scores"):
        archive.normal(f"{NAME}/1")


def test_images_of_a_split(archive: Archive, registry: Registry) -> None:
    split = registry.dataset.read("train")
    found = archive.shown(f"{NAME}/1", "train", 3, 5)
    assert (found.total, found.first, len(found.images)) == (len(split), 3, 5)
    for place, one in enumerate(found.images, 3):
        assert (one.index, one.key) == (place, split.keys[place])
        assert split.labels_N is not None and one.label_name == CLASSES[split.labels_N[place]]
        pixels = np.asarray(Image.open(io.BytesIO(b64decode(one.image))))
        assert np.array_equal(pixels, dequantize(split.images_NCHW[place, 0], SPEC.levels))
    assert archive.shown(f"{NAME}/1", "test", 10**6, 5).images == []


def test_what_is_not_shown_and_not_there(registry: Registry, archive: Archive, tmp_path: Path) -> None:
    root = registry.tracker.storage.root
    for made, call, status, code in (
        (Archive(root, registry.tracker, show_data=False), lambda one: one.shown(f"{NAME}/1", "test", 0, 1), 403, "not_shown"),
        (Archive(root, None, show_data=True), lambda one: one.shown("local/model", "test", 0, 1), 404, "not_kept"),
        (Archive(str(tmp_path), registry.tracker, show_data=True), lambda one: one.shown(f"{NAME}/1", "test", 0, 1), 404, "not_kept"),
        (archive, lambda one: one.shown(f"{NAME}/1", "exam", 0, 1), 422, "invalid"),
        (archive, lambda one: one.shown(f"{NAME}/77", "test", 0, 1), 404, "not_kept"),
        (archive, lambda one: one.test_scores("enlarging/1"), 404, "not_kept"),
        (archive, lambda one: one.normal("enlarging/1"), 404, "not_kept"),
        (Archive(str(tmp_path), registry.tracker, show_data=True), lambda one: one.normal(f"{NAME}/1"), 404, "not_kept"),
        (Archive(root, None, show_data=True), lambda one: one.test_scores("local/model"), 404, "not_kept"),
    ):
        with pytest.raises(Refused) as caught:
            call(made)
        assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("damage", ["a shard is gone", "a shard is another one", "the storage does not answer"])
def test_a_data_set_that_cannot_be_read_is_told(registry: Registry, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, root = registry.dataset, Path(registry.tracker.storage.root)
    folder = tmp_path / "storage" / dataset.folder
    shutil.copytree(root / dataset.folder, folder)
    status, code, told = 404, "not_kept", "is damaged"
    for shard in folder.rglob("*.parquet"):
        if damage == "a shard is gone":
            shard.unlink()
        elif damage == "a shard is another one":
            shard.write_bytes(b"PAR1" + shard.read_bytes()[4:-1])
    storage = Storage(str(tmp_path / "storage"))
    if damage == "the storage does not answer":
        status, code, told = 503, "not_loaded", "no route"

        def refused(_: Storage, path: str) -> bytes:
            raise OSError("no route")

        monkeypatch.setattr(Storage, "read_bytes", refused)
    made, address = Dataset(storage, dataset.folder, dataset.manifest), f"{NAME}/1"
    archive = Archive(storage.root, registry.tracker, show_data=True)
    archive._nats = lambda _: None  # type: ignore[assignment]
    known = nearby.Known(np.arange(2), np.zeros((2, 1), np.float32), np.zeros(0))
    for call in (
        lambda: archive.shown(address, "train", 0, 1),
        lambda: archive.normal(address),
        lambda: nearby.read_images(registry.models[address], made, address),
        lambda: nearby.nearest(known, np.zeros(1, np.float32), 1, made, (address, "0", ("0",))),
    ):
        with pytest.raises(Refused, match=told) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (status, code)


def test_the_nearest_training_images(registry: Registry) -> None:
    model, dataset = registry.models[f"{NAME}/1"], registry.dataset
    x_NCHW, places_M, num_test = nearby.read_images(model, dataset, f"{NAME}/1")
    layer, layers = nearby.layer_of(model, None)
    assert layer == layers[-1] and num_test == dataset.num_images("test")
    known = nearby.known_of(nearby.features(model, x_NCHW, layer), places_M, num_test)
    train = torch.from_numpy(dataset.read("train").images_NCHW)
    with torch.no_grad():
        wanted_ND = pool(model.all_features(train)[layer]).double()
        asked_D = pool(model.all_features(x_NCHW[-1:])[layer]).double()[0]
    away_N = (wanted_ND - asked_D).norm(dim=1)
    h_D = nearby.features(model, x_NCHW[-1:], layer)[0]
    found = nearby.nearest(known, h_D, 4, dataset, (f"{NAME}/1", layer, layers))
    assert [one.index for one in found.neighbours] == away_N.argsort()[:4].tolist()
    assert [one.distance for one in found.neighbours] == pytest.approx(away_N.sort().values[:4].tolist(), rel=1e-4)
    # a test image is one of those that it is held against
    assert min(abs(known.distances_T - float(away_N.min()))) < 1e-4
    assert found.share_of_test_nearer == pytest.approx(float((known.distances_T < found.neighbours[0].distance).mean()))
    copied = nearby.nearest(known, known.h_MD[7], 1, dataset, (f"{NAME}/1", layer, layers))
    assert (copied.neighbours[0].index, copied.neighbours[0].distance, copied.share_of_test_nearer) == (7, 0.0, 0.0)


def test_layers_and_data_sets_that_do_not_fit(registry: Registry) -> None:
    with pytest.raises(Refused, match="unknown; have"):
        nearby.layer_of(registry.models[f"{NAME}/1"], "none")
    with pytest.raises(Refused, match="the model's 3x6x6"):
        nearby.read_images(registry.models["colouring/1"], registry.dataset, "colouring/1")


def test_training_images_are_looked_through_for_one_request_at_a_time(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are in memory meanwhile; who asks for the same layer then has what was found. One that goes away lets the next one on."""
    sampler, reads = Sampler(settings_of(registry)), list[str]()

    def counted(model: PixelModel, dataset: Dataset, address: str) -> Any:
        reads.append(address)
        return nearby.read_images(model, dataset, address)

    monkeypatch.setattr("pixelmodels.serving.replica.read_images", counted)
    image = base64_png(registry.dataset.read("test").images_NCHW[0], SPEC.levels)
    asked = NeighboursRequest(model=f"{NAME}/1", image=image, n=2)

    async def found() -> Any:
        return [part async for part in sampler.neighbours(asked, 60.0)][-1]

    async def left() -> None:
        parts = aiter(sampler.neighbours(asked, 60.0))
        await anext(parts)
        await parts.aclose()  # type: ignore[attr-defined]

    async def ask() -> list[Any]:
        await left()
        return await asyncio.gather(found(), found(), found())

    try:
        first, *others = asyncio.run(asyncio.wait_for(ask(), 60))
        assert isinstance(first, Neighbours) and others == [first, first]
        assert reads == [f"{NAME}/1"] * 2  # by the one that went away, and by the first of the others
    finally:
        sampler._ended.set()
        sampler.thread.stop()


def test_features_of_the_layers_asked_for_last_are_held() -> None:
    index = nearby.Index()
    made = {layer: nearby.Known(np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros(0)) for layer in "abc"}
    for layer in "ab":
        index.keep("m/1", layer, made[layer])
    assert index.find("m/1", "a") is made["a"]
    index.keep("m/1", "c", made["c"])
    assert index.find("m/1", "b") is None and index.find("m/1", "a") is made["a"] and index.find("m/2", "a") is None


def test_fewer_features_are_held_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "MOST_NUMBERS", 12)
    h_ND = np.arange(22, dtype=np.float32).reshape(11, 2)
    known = nearby.known_of(h_ND, np.arange(10), 1)
    assert known.places_M.tolist() == [0, 2, 4, 6, 8] and np.array_equal(known.h_MD, h_ND[:10:2])
    assert nearby.known_of(h_ND[:1], np.zeros(0, np.int64), 1).distances_T.tolist() == []
