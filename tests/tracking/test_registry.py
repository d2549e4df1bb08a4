from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn
from weakref import WeakSet

import mlflow.models
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch

from pixelmodels.errors import MachineTrouble, UserError
from pixelmodels.models import Context
from pixelmodels.models.files import load_model, save_model
from pixelmodels.sampling import engine, reference_sample, sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.card import card_of
from pixelmodels.tracking.pyfunc import PixelModelPyfunc
from pixelmodels.tracking.registry import CARD, MODEL_ARTIFACT, save_pyfunc
from tests.tracking.conftest import NUM_CLASSES, SPEC, model_files, small_model

GIVEN = ImageSpec(channels=1, height=2, width=1, levels=SPEC.levels)
IMAGES_NCHW = np.random.default_rng(0).integers(0, SPEC.levels, (6, *SPEC.shape)).astype(np.uint8)


@pytest.fixture
def run_id(tracker: Tracker) -> str:
    return tracker.start_parent("registry", {})


@pytest.fixture(autouse=True)
def path_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow puts a loaded model's code on `sys.path` and leaves it there."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def conditional(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A class-conditional model, and what `mlflow.pyfunc` makes of its files."""
    model, folder = model_files(tmp_path / "model", NUM_CLASSES)
    save_pyfunc(tmp_path / "pyfunc", folder)
    return model, mlflow.pyfunc.load_model(str(tmp_path / "pyfunc"))


def test_a_version_is_the_model_without_pickles(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    model, folder = model_files(tmp_path / "model")
    version = registry.register(tracker, run_id, folder, "digits", {"test_bits_per_dim": "1.5"})
    assert version == "1"
    local = registry.model_folder(tracker, "models:/digits/1")
    assert sorted(file.name for file in local.iterdir()) == ["model.json", "model.safetensors"]
    again = load_model(local)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    files = [file for file in local.parents[1].rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"MLmodel", "pyfunc_entry.py", "requirements.txt"}
    assert not [file for file in files if file.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".pyc")]
    flavor = mlflow.models.Model.load(str(local.parents[1])).flavors["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model" and "python_model" not in flavor
    found = tracker.client.get_model_version("digits", version)
    assert found.run_id == run_id and found.tags["test_bits_per_dim"] == "1.5"
    (output,) = tracker.client.get_run(run_id).outputs.model_outputs
    logged = tracker.client.get_logged_model(output.model_id)
    assert logged.artifact_location == found.source and logged.status == "READY"


def test_versions_count_up_and_the_same_weights_make_no_new_one(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    _, first = model_files(tmp_path / "first", seed=1)
    _, second = model_files(tmp_path / "second", seed=2)
    assert [registry.register(tracker, run_id, folder, "counted") for folder in (first, first, second, first)] == ["1", "1", "2", "1"]
    tracker.client.set_registered_model_alias("counted", "champion", "1")
    folders = [registry.model_folder(tracker, f"models:/counted{end}") for end in ("@champion", "/1", "/latest", "/2")]
    assert folders[0] == folders[1] != folders[2] == folders[3]


def test_the_average_is_what_is_registered(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    _, folder = model_files(tmp_path / "last", seed=1)
    average, average_folder = model_files(tmp_path / "average", seed=2)
    (average_folder / "model.safetensors").rename(folder / "average.safetensors")
    registry.register(tracker, run_id, folder, "averaged")
    again = load_model(registry.model_folder(tracker, "models:/averaged/1")).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in average.state_dict().items())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/digit_s/1", r"registered model 'digit_s' unknown; have .*named.*; did you mean"),
        ("models:/named/7", "version of registered model 'named' '7' unknown; have 1"),
        ("models:/named@champ", "alias of registered model 'named' 'champ' unknown; have champion; did you mean 'champion'"),
        ("named/1", r"'named/1' does not name a registered model; give models:/name/version"),
    ],
)
def test_wrong_addresses_are_told_with_the_choices(uri: str, message: str, tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    _, folder = model_files(tmp_path / "model")
    for name in ("named", "digits_s"):
        registry.register(tracker, run_id, folder, name)
    tracker.client.set_registered_model_alias("named", "champion", "1")
    with pytest.raises(UserError, match=message):
        registry.model_folder(tracker, uri)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models are fetched, as those of a server are; the folder that they are kept in."""
    monkeypatch.setattr(registry, "local_path", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixelmodels" / "models"


@pytest.mark.parametrize("num_letters", [200, 237, 242])
def test_a_model_of_a_long_name_is_fetched(num_letters: int, tracker: Tracker, run_id: str, elsewhere: Path, tmp_path: Path) -> None:
    name = "d" * num_letters
    model, folder = model_files(tmp_path / "model")
    registry.register(tracker, run_id, folder, name)
    fetched = registry.model_folder(tracker, f"models:/{name}/1")
    assert fetched.parent == elsewhere and len(fetched.name) <= 255
    assert all(torch.equal(weight, model.state_dict()[key]) for key, weight in load_model(fetched).state_dict().items())


@pytest.mark.parametrize("place", ["tempfile.TemporaryDirectory", "pathlib.Path.mkdir"])
def test_a_cache_that_cannot_be_written_is_trouble_of_this_machine(
    place: str, tracker: Tracker, run_id: str, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds already is taken from it."""

    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    versions = []
    for seed in (1, 2):
        _, folder = model_files(tmp_path / f"model {seed}", seed=seed)
        versions.append(registry.register(tracker, run_id, folder, "read only"))
    there = registry.model_folder(tracker, f"models:/read only/{versions[0]}")
    assert there.is_relative_to(elsewhere)
    monkeypatch.setattr(place, denied)
    assert registry.model_folder(tracker, f"models:/read only/{versions[0]}") == there
    with pytest.raises(MachineTrouble, match=r"nothing can be written \(\[Errno 13\] Permission denied\); set XDG_CACHE_HOME to a folder"):
        registry.model_folder(tracker, f"models:/read only/{versions[1]}")


def test_a_folder_without_a_model_is_told(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        registry.register(tracker, run_id, tmp_path, "none")


def test_predict_scores_exactly(conditional) -> None:  # type: ignore[no-untyped-def]
    model, pyfunc = conditional
    labels_N = np.arange(len(IMAGES_NCHW)) % NUM_CLASSES
    with torch.inference_mode():
        nll_nats = -model.log_prob(torch.from_numpy(IMAGES_NCHW).long(), Context(torch.from_numpy(labels_N))).double().numpy()
    rows = [image.transpose(1, 2, 0).tobytes() for image in IMAGES_NCHW]  # as in the shards: rows, columns, channels
    for images in (rows, [image.tolist() for image in IMAGES_NCHW], list(IMAGES_NCHW)):
        scores = pyfunc.predict(pd.DataFrame({"image": images, "label": labels_N, "key": "anything"}))
        np.testing.assert_allclose(scores["nll_nats"], nll_nats, rtol=1e-6)
        np.testing.assert_allclose(scores["bits_per_dim"], nll_nats / np.log(2) / SPEC.num_subpixels, rtol=1e-6)
    one_class = pyfunc.predict(IMAGES_NCHW[labels_N == 2], params={"label": 2})
    np.testing.assert_allclose(one_class["nll_nats"], nll_nats[labels_N == 2], rtol=1e-6)


def test_predict_draws_the_same_samples(conditional) -> None:  # type: ignore[no-untyped-def]
    model, pyfunc = conditional
    drawn = pyfunc.predict(None, params={"n": 4, "seed": 5, "label": 1})
    assert drawn.dtype == np.uint8 and drawn.shape == (4, *SPEC.shape)
    np.testing.assert_array_equal(drawn, sample(model, 4, seed=5, context=Context(torch.full((4,), 1))).numpy())


def test_predict_draws_many_images_in_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(NUM_CLASSES).double()
    save_model(tmp_path, model)
    pyfunc = PixelModelPyfunc()
    pyfunc.load_context(SimpleNamespace(artifacts={MODEL_ARTIFACT: tmp_path}))
    drawings: WeakSet[object] = WeakSet()
    num_drawings, num_active = [], []
    drawing_of, step_row = engine.drawing_of, engine.Engine.step_row

    def watched_drawing(*args):  # type: ignore[no-untyped-def]
        drawing = drawing_of(*args)
        drawings.add(drawing)
        num_drawings.append(len(drawings))
        return drawing

    def watched_row(self):  # type: ignore[no-untyped-def]
        rows = step_row(self)
        num_active.append(self.num_active)
        return rows

    monkeypatch.setattr(engine, "drawing_of", watched_drawing)
    monkeypatch.setattr(engine.Engine, "step_row", watched_row)
    for given, n, label_B in (
        (None, 150, torch.full((150,), -1)),
        (pd.DataFrame({"label": [2, 0]}), 75, torch.tensor([2, 0]).repeat_interleave(75)),
    ):
        drawn = pyfunc.predict(None, given, params={"n": n, "seed": 5})
        np.testing.assert_array_equal(drawn, reference_sample(model, 150, seed=5, context=Context(label_B)).numpy())
    assert len(num_drawings) == 300 and max(num_drawings) == max(num_active) == 64


def test_predict_takes_classes_by_name(tmp_path: Path) -> None:
    model, folder = model_files(tmp_path / "model", NUM_CLASSES, class_names=("ant", "hot dog", "1"))
    save_pyfunc(tmp_path / "pyfunc", folder)
    pyfunc = mlflow.pyfunc.load_model(str(tmp_path / "pyfunc"))
    for params, label in (({"label_name": "Hot Dog"}, 1), ({"label_name": "1"}, 2), ({"label": 1}, 1), ({"label_name": "-1"}, -1)):
        drawn = pyfunc.predict(None, params={"n": 4, "seed": 5, **params})
        np.testing.assert_array_equal(drawn, sample(model, 4, seed=5, context=Context(torch.full((4,), label))).numpy())
    labels = ["ant", None, "1", "HOT DOG", 0, -1]
    drawn = pyfunc.predict(pd.DataFrame({"label": pd.Series(labels, dtype=object)}), params={"n": 1, "seed": 5})
    context = Context(torch.tensor([0, -1, 2, 1, 0, -1]))
    np.testing.assert_array_equal(drawn, sample(model, 6, seed=5, context=context).numpy())
    for params, message in (
        ({"label_name": "dog"}, "label 'dog' unknown; have 'ant', 'hot dog', '1'"),
        ({"label_name": "ant", "label": 0}, "label 0 and label_name 'ant' are two ways to choose a class; give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            pyfunc.predict(None, params={"n": 1, **params})


@pytest.fixture
def of_all_kinds(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A model of labels, vectors and given images, and what `mlflow.pyfunc` makes of its files."""
    model, folder = model_files(tmp_path / "model", NUM_CLASSES, vector_size=2, image=SPEC, small=GIVEN)
    save_pyfunc(tmp_path / "pyfunc", folder)
    return model, mlflow.pyfunc.load_model(str(tmp_path / "pyfunc"))


def test_predict_takes_every_kind_of_context_and_does_without(of_all_kinds) -> None:  # type: ignore[no-untyped-def]
    model, pyfunc = of_all_kinds
    given_NCHW = IMAGES_NCHW[:, :, ::2, ::3]
    vectors_NV = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    table = pd.DataFrame(
        {
            "image": list(IMAGES_NCHW),
            "label": [0, None, 2, -1, 1, 0],
            "vector": [None, *(list(vector) for vector in vectors_NV[1:])],
            "context_image": [None, *IMAGES_NCHW[:5]],
            "small_image": [given_NCHW[0].tolist(), given_NCHW[1].transpose(1, 2, 0).tobytes(), None, *given_NCHW[3:]],
        }
    )
    labels_B = torch.tensor([0, -1, 2, -1, 1, 0])
    vector_BV = torch.from_numpy(vectors_NV.copy())
    vector_BV[0] = torch.nan
    image_BCHW = torch.from_numpy(given_NCHW).long()
    image_BCHW[2] = -1
    whole_BCHW = torch.cat([torch.full((1, *SPEC.shape), -1), torch.from_numpy(IMAGES_NCHW[:5]).long()])
    context = Context(labels_B, vector_BV, whole_BCHW, image_BCHW)
    with torch.no_grad():
        given, absent = (-model.log_prob(torch.from_numpy(IMAGES_NCHW).long(), one).double().numpy() for one in (context, None))
    np.testing.assert_allclose(pyfunc.predict(table)["nll_nats"], given, rtol=1e-6)
    np.testing.assert_allclose(pyfunc.predict(table[["image"]])["nll_nats"], absent, rtol=1e-6)
    np.testing.assert_allclose(pyfunc.predict(IMAGES_NCHW)["nll_nats"], absent, rtol=1e-6)
    drawn = pyfunc.predict(table.drop(columns="image"), params={"n": 2, "seed": 4})
    np.testing.assert_array_equal(drawn, sample(model, 12, seed=4, context=context.rows(torch.arange(6).repeat_interleave(2))).numpy())
    np.testing.assert_array_equal(pyfunc.predict(None, params={"n": 3, "seed": 4}), sample(model, 3, seed=4).numpy())
    for column, values, message in (
        ("vector", [[1.0, 2.0, 3.0]] * 6, r"a value of shape \(3,\) is in column 'vector'; this model takes \(2,\)"),
        ("small_image", list(IMAGES_NCHW), r"a value of shape \(1, 4, 3\) is in column 'small_image'; this model takes \(1, 2, 1\)"),
        ("context_image", list(IMAGES_NCHW / 2), "column 'context_image' has values that are not whole numbers"),
        ("small_image", [image + 5 for image in given_NCHW], "level [5-9] is out of range"),
        ("small_image", [b"123"] * 6, "an image of 3 bytes given; this model takes 2"),
        ("vector", [*[[1.0, 2.0]] * 5, [1.0]], r"a value of shape \(1,\) is in column 'vector'; this model takes \(2,\)"),
        ("vector", [[1.0, [2.0, 3.0]]] * 6, r"column 'vector' has a value that is no array of numbers; this model takes \(2,\)"),
        ("vector", ["ab"] * 6, "column 'vector' has a value that is no array of numbers"),
        ("label", ["a"] * 6, r"label 'a' unknown; this model does not know its classes by name: give a number, 0\.\.2"),
        ("label", [b"a"] * 6, r"column 'label' has a value that is no array of numbers; this model takes \(\)"),
        ("context_image", [[[[1, 2], [3]]]] * 6, "column 'context_image' has a value that is no array of numbers"),
        ("image", [*IMAGES_NCHW[:5], IMAGES_NCHW[5, :, :2]], r"a value of shape \(1, 2, 3\) is in column 'image'"),
        ("image", [*IMAGES_NCHW[:5], None], "column 'image' has a value that is no array of numbers"),
    ):
        with pytest.raises(UserError, match=message):
            pyfunc.predict(table.assign(**{column: values}))


def test_an_unconditional_model_takes_a_shard_as_it_is_and_no_label(tmp_path: Path) -> None:
    model, folder = model_files(tmp_path / "model")
    save_pyfunc(tmp_path / "pyfunc", folder)
    pyfunc = mlflow.pyfunc.load_model(str(tmp_path / "pyfunc"))
    shard = pd.DataFrame({"image": list(IMAGES_NCHW), "label": 1, "vector": [[1.0]] * 6, "key": "anything"})
    with torch.no_grad():
        expected = -model.log_prob(torch.from_numpy(IMAGES_NCHW).long()).double().numpy()
    np.testing.assert_allclose(pyfunc.predict(shard)["nll_nats"], expected, rtol=1e-6)
    with pytest.raises(UserError, match="label is given to a model that is not conditioned on one; leave it out"):
        pyfunc.predict(shard, params={"label": 1})


@pytest.mark.parametrize(
    ("images", "params", "message"),
    [
        (None, {}, "neither images nor a number of samples given"),
        (None, {"n": 2, "label": 9}, r"label 9 is out of range; this model knows 0..2, and -1 for no label"),
        (pd.DataFrame({"label": [1, 4]}), {"n": 2}, "label 4 is out of range"),
        (pd.DataFrame({"label": [0.5]}), {"n": 2}, "column 'label' has values that are not whole numbers"),
        (IMAGES_NCHW[:, :, :2], {"label": 0}, r"images of shape \(6, 1, 2, 3\) given; this model takes \(images, 1, 4, 3\)"),
        (IMAGES_NCHW + 5, {"label": 0}, "pixel values 5..9 given; this model takes 0..4"),
        (IMAGES_NCHW / 5, {"label": 0}, "images of type float64 given"),
        (pd.DataFrame({"picture": [b""]}), {}, "no column 'image' among picture"),
        (pd.DataFrame({"image": [b"123"]}), {}, "an image of 3 bytes given; this model takes 12"),
    ],
)
def test_predict_tells_mistakes(images: object, params: dict[str, int], message: str, conditional) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        conditional[1].predict(images, params=params)


def test_a_version_brings_its_own_code(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    model, folder = model_files(tmp_path / "model")
    registry.register(tracker, run_id, folder, "alone")
    program = f"""

import mlflow; mlflow.set_tracking_uri("{tracker.uri}")
model = mlflow.pyfunc.load_model("models:/alone/1")
import pixelmodels; print(pixelmodels.__file__)
print(model.predict(None, params={{"n": 2, "seed": 3}}).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "loading is quiet"
    where, drawn = done.stdout.splitlines()
    assert Path(where).is_relative_to(tracker.storage.root)
    assert drawn == str(sample(model, 2, seed=3).tolist())


def test_names_and_versions_beyond_a_page_are_told(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"paged {number:03d}" for number in range(101)]  # MLflow's pages have 100
    for name in names:
        tracker.client.create_registered_model(name)
    with pytest.raises(UserError, match="registered model 'pagd 100' unknown") as error:
        registry.find_version(tracker, "models:/pagd 100/1")
    assert all(name in str(error.value) for name in names) and str(error.value).endswith("did you mean 'paged 100'?")
    for source in "abc":
        tracker.client.create_model_version("paged 100", source, await_creation_for=0)
    search = tracker.client.search_model_versions
    monkeypatch.setattr(tracker.client, "search_model_versions", lambda condition, page_token: search(condition, 1, page_token=page_token))
    assert str(registry.find_version(tracker, "models:/paged 100/latest").version) == "3"
    with pytest.raises(UserError, match="'4' unknown; have 1, 2, 3"):
        registry.find_version(tracker, "models:/paged 100/4")


def test_a_card_goes_with_its_version_and_a_long_one_is_cut_between_lines(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    _, folder = model_files(tmp_path / "model", seed=7)
    (folder / CARD).write_text("line\n" * 2000)
    (folder / "optimizer.safetensors").write_bytes(b"not for others")
    version = registry.register(tracker, run_id, folder, "carded", description="line\n" * 2000)
    local = registry.model_folder(tracker, f"models:/carded/{version}")
    assert sorted(file.name for file in local.iterdir()) == [CARD, "model.json", "model.safetensors"]
    found = card_of(tracker, f"models:/carded/{version}")
    assert found is not None and found.markdown == "line\n" * 2000 and found.picture is None
    described = str(tracker.client.get_model_version("carded", version).description)
    assert len(described) <= 5000 and set(described.splitlines()[:-2]) == {"line"} and "card.md" in described.splitlines()[-1]


def test_a_version_of_before_there_were_cards_has_none(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    _, folder = model_files(tmp_path / "model", seed=8)
    version = registry.register(tracker, run_id, folder, "cardless")
    assert card_of(tracker, f"models:/cardless/{version}") is None
