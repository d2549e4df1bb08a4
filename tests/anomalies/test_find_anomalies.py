"""The command: tables, thresholds, pages, and mistakes told before anything is scored."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from pipelines.find_anomalies import main
from pixelmodels import ray_cluster
from pixelmodels.data import DatasetConfig, find_dataset, prepare
from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, build
from pixelmodels.models.files import load_model, save_model
from pixelmodels.models.orders import ensemble_log_prob
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_config, small_model

NUM_BLANK = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A storage root with the digits of 17 levels, models of them, and a folder of blank images: one large, one broken."""
    folder = tmp_path_factory.mktemp("anomalies")
    storage = Storage(str(folder / "storage"))
    prepare(DatasetConfig(source="digits"), storage, say=lambda _: None)
    for name, context in (("model", "none"), ("orders", "orders")):
        save_model(folder / name, small_model("pixelcnn", "categorical", 1, 8, 8, levels=17, context=context).float())
    (folder / "blank").mkdir()
    for number in range(NUM_BLANK):
        side = 20 if number == 5 else 8
        Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(folder / "blank" / f"{number:02d}.png")
    (folder / "blank" / "<b>.png").write_bytes(b"no image")
    return storage


def place(root: Storage, name: str) -> str:
    return str(Path(root.root).parent / name)


def table_of(folder: str) -> dict[str, np.ndarray]:
    return {name: column.to_numpy() for name, column in zip(*_columns(folder), strict=True)}


def _columns(folder: str) -> tuple[list[str], list]:
    table = pq.read_table(Path(folder) / "scores.parquet")
    return table.column_names, table.columns


def found(root: Storage, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, list[str]]:
    """The folder that the command wrote, and what it said before."""
    assert main([*map(str, arguments), "--storage", root.root, "--num-workers", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    return said[-1], said[:-1]


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_is_scored_and_what_is_no_image_named(root: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    folder, said = found(root, capsys, place(root, "model"), "--normal", "digits", "--sets", place(root, "blank"), "--rate", 0.1)
    table, model = table_of(folder), load_model(Path(place(root, "model")))
    assert table["key"].tolist() == [f"{number:02d}.png" for number in range(NUM_BLANK)]
    x_BCHW = torch.zeros(1, 1, 8, 8, dtype=torch.int64)  # of 17 levels, all of these are the first
    nats = -float(model.log_prob(x_BCHW).detach())
    assert table["nats"] == pytest.approx(nats, rel=1e-5) and table["bits_per_dim"] == pytest.approx(nats / np.log(2) / 64, rel=1e-5)
    assert (table["codec_bits"] == 0).all() and table["input_complexity"] == pytest.approx(nats / np.log(2), rel=1e-5)
    normal = find_dataset(root, "digits").read("validation").images_NCHW
    normal_nats = -model.log_prob(torch.from_numpy(normal.astype(np.int64))).detach().numpy()
    assert table["typicality"] == pytest.approx(abs(nats - normal_nats.mean()), rel=1e-4)
    assert table["p_nats"] == pytest.approx((1 + (normal_nats >= nats).sum()) / (len(normal) + 1))
    assert set(table) >= {"set", "label", "arrangement", "p_arrangement", "is_anomalous"} and "likelihood_ratio" not in table
    assert ((table["p_arrangement"] <= 0.1) == table["is_anomalous"]).all()
    assert (Path(folder) / "rejected.csv").read_text().splitlines()[1].startswith(f"{place(root, 'blank')},<b>.png,")
    told = " ".join(said)
    assert "12 images; " in told and "1 were of another size and were resized" in told and "1 inputs are no images" in told
    page = (Path(folder) / "anomalies.html").read_text()
    assert page.count('alt="bits by pixel"') == page.count('alt="image"') == NUM_BLANK and "<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:image/png)|<script|url\(", page) and not (Path(folder) / "roc.png").exists()
    summary = json.loads((Path(folder) / "anomalies.json").read_text())
    assert summary["num_normal"] == len(normal) and summary["sets"][0]["num_told"] == table["is_anomalous"].sum()
    assert summary["thresholds"]["0.001"]["nats"] is None and summary["thresholds"]["0.1"]["nats"] > normal_nats.min()
    assert "No p-value is below" in page and "too few images" in page


@pytest.mark.usefixtures("ray_cluster")
def test_two_sets_are_compared_by_every_score(root: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("digits/test", place(root, "blank"))
    folder, said = found(
        root, capsys, place(root, "orders"), "--normal", "digits", "--background", place(root, "model"), "--sets", *sets, "--resamples", 50
    )
    table, summary = table_of(folder), json.loads((Path(folder) / "anomalies.json").read_text())
    test = find_dataset(root, "digits").read("test")
    is_normal = table["set"] == "digits/test"
    assert table["key"][is_normal].tolist() == test.keys and (~is_normal).sum() == NUM_BLANK
    model = load_model(Path(place(root, "orders")))
    x_BCHW = torch.from_numpy(test.images_NCHW.astype(np.int64))
    with torch.no_grad():
        assert table["nats"][is_normal] == pytest.approx(-ensemble_log_prob(model, x_BCHW).numpy(), rel=1e-5)
    names = {"nats", "bits_per_dim", "input_complexity", "arrangement", "likelihood_ratio", "typicality", "order_spread"}
    assert set(summary["separations"]) == names
    for name in names:
        assert summary["separations"][name]["auroc"]["value"] == pytest.approx(roc_auc_score(~is_normal, table[name]))
    assert Image.open(io.BytesIO((Path(folder) / "roc.png").read_bytes())).format == "PNG"
    assert any("AUROC" in line for line in said) and any("arrangement" in line for line in said)


class Connected(Exception):
    """Ray would be joined now, and images scored."""


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise Connected

    monkeypatch.setattr(ray_cluster, "connect", connect)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sets", "digits/validation"), "--sets 'digits/validation' is what scores are held against; give another split"),
        (("--sets", "digits", "digits"), "--sets names 'digits' twice; give two sets, or one"),
        (("--sets", "digits", "digits/train", "a"), "--sets names 3 sets; give one to look at, or two"),
        (("--rate", "0"), "--rate 0 is no false-alarm rate; give a share above 0 and below 1"),
        (("--rate", "1"), "--rate 1 is no false-alarm rate"),
        (("--codecs", "gif"), "codec 'gif' unknown; have jpegxl, png, webp"),
        (("--codecs", "png", "png"), "--codecs png png names one twice; give each once"),
        (("--background", "OTHER"), "--background: the model was trained on images of 1x4x4 with 5 levels"),
        (("--num-images", "0"), "--num-images 0 is too few; give 1 or more"),
        (("--normal", "nothing"), "data set 'nothing' unknown"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(arguments: tuple[str, ...], words: str, root: Storage) -> None:
    save_model(Path(place(root, "other")), small_model("pixelcnn", "categorical", 1, 4, 4, levels=5))
    arguments = tuple(place(root, "other") if word == "OTHER" else word for word in arguments)
    normal = () if "--normal" in arguments else ("--normal", "digits")
    with pytest.raises(UserError) as error:
        main([place(root, "model"), *normal, *arguments, "--storage", root.root])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert root.list("anomalies") == [] or all("scores.parquet" in root.list(f"anomalies/{one}") for one in root.list("anomalies"))


@pytest.mark.usefixtures("no_ray")
def test_files_have_no_labels(root: Storage) -> None:
    classes = ContextSpec(num_classes=10)
    by_class = build(small_config("pixelcnn"), ImageSpec(1, 8, 8, 17), LikelihoodConfig("categorical"), classes).eval()
    save_model(Path(place(root, "by_class")), by_class)
    arguments = [place(root, "by_class"), "--normal", "digits", "--storage", root.root, "--sets", place(root, "blank")]
    with pytest.raises(UserError, match=r"on what image files do not have \(labels or vectors\); score it with --without-context"):
        main(arguments)
    for allowed in ([*arguments, "--without-context"], arguments[:-2]):
        with pytest.raises(Connected):
            main(allowed)
    with pytest.raises(UserError, match="--background: the model is conditioned on what image files do not have"):
        main([place(root, "model"), *arguments[1:], "--background", place(root, "by_class")])
