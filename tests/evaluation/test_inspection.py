from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import inspect_data
from pipelines.inspect_data import Arguments
from pixelmodels.commandline import parse
from pixelmodels.data import SPLITS, Dataset, DatasetConfig, prepare
from pixelmodels.errors import UserError
from pixelmodels.evaluation import html_page, inspection, inspection_page
from pixelmodels.evaluation.baselines import baselines_of
from pixelmodels.evaluation.inspection import inspect
from pixelmodels.evaluation.inspection_page import page
from pixelmodels.storage import Storage

CLASS = "<b>b&\"'"  # a folder that is a name of HTML


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(DatasetConfig(rows_per_shard=500), Storage(tmp_path_factory.mktemp("digits")), say=lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 12 train, 3 validation and 3 test images of 20x20; the first test image of each is in train, too; one file is none."""
    for k, split in enumerate(SPLITS):
        for c, name in enumerate(("ants", CLASS)):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(12 if split == "train" else 3):
                source = (2, c, 0) if split == "train" and i == 0 else (k, c, i)
                small_HWC = np.random.default_rng(source).integers(0, 256, (5, 5, 3), np.uint8)
                picture = Image.fromarray(small_HWC).resize((20, 20), Image.Resampling.BICUBIC)
                picture.save(tmp_path / "pictures" / split / name / f"{i:02d}<script>.png")
    (tmp_path / "pictures" / "train" / "ants" / "<i>none.png").write_bytes(b"no image")
    return tmp_path / "pictures"


class Pictures(HTMLParser):
    """The pictures, tags and text of a page."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.pictures: list[tuple[Image.Image, int, int]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(values[name]) for name in ("src", "href", "data", "action") if name in values]
        if tag == "img":
            head, _, data = str(values["src"]).partition(",")
            assert head == "data:image/png;base64"
            self.pictures.append((Image.open(io.BytesIO(base64.b64decode(data))), int(values["width"] or 0), int(values["height"] or 0)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_digits(digits: Dataset) -> None:
    found = inspect(digits)
    for split in SPLITS:
        part = digits.read(split)
        assert part.labels_N is not None
        assert [row[split] for row in found.class_counts.values()] == np.bincount(part.labels_N, minlength=10).tolist()
        levels = next(levels for levels in found.levels if levels.split == split)
        np.testing.assert_array_equal(levels.counts_CL[0], np.bincount(part.images_NCHW.ravel(), minlength=17))
        assert levels.mean == pytest.approx(part.images_NCHW.mean()) and levels.share_used == 1
    train = digits.read("train")
    for label, some in enumerate(found.examples):
        assert some.name == str(label) and len(some.images_NCHW) == inspection.MOST_EXAMPLES
        of_class = {image.tobytes() for image in train.images_NCHW[train.labels_N == label]}
        assert {image.tobytes() for image in some.images_NCHW} <= of_class
    assert found.num_baseline_images == digits.num_images("test")
    whole = {row.model: row.test_bits_per_dim for row in baselines_of([digits])}
    assert {row.model: row.test_bits_per_dim for row in found.baselines} == whole
    assert found.num_bytes == sum(path.stat().st_size for path in Path(digits.storage.uri(digits.folder)).iterdir())
    assert not found.rejected and all(one.counts()["train_exact"] == 0 for one in found.copies)


def test_a_page_is_whole_by_itself_and_says_everything(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--source", "folder", "--path", str(folder), "--max-bad-share", "0.1", "--storage", storage.root]
    assert inspect_data.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    data = Path(lines[-1]).read_bytes()
    shown = Pictures(data)
    assert not {"script", "link", "iframe", "b", "i"} & set(shown.tags)
    assert all(address.startswith("data:image/png;base64,") for address in shown.addresses) and b"url(" not in data
    told = (CLASS, "<i>none.png", "not an image", "test/ants/00<script>.png", "exact", "WebP (lossless)", "--max-bad-share")
    assert [text for text in told[:6] if text not in shown.text] == []
    for picture, width, height in shown.pictures:  # crisp: whole multiples
        assert width % picture.width == height % picture.height == 0 and width // picture.width == height // picture.height >= 2
    pairs = [np.asarray(picture) for picture, *_ in shown.pictures if picture.size == (43, 22)]
    assert len(pairs) == 2
    for pair_HWC in pairs:
        np.testing.assert_array_equal(pair_HWC[1:21, 1:21], pair_HWC[1:21, 22:42])
    assert any(re.match(r" ants +12 +3 +3 +18", line) for line in lines) and any(CLASS in line for line in lines)
    assert inspect_data.main(["--dataset", "pictures", "--storage", storage.root]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == lines[-1]


def test_options_are_told_as_a_command_line_has_them(folder: Path, storage: Storage) -> None:
    config = DatasetConfig("folder", str(folder), size=(6, 5), labels=False, max_bad_share=0.1, drop_duplicates="exact", seed=4)
    told = page(inspect(prepare(config, storage, say=lambda _: None))).decode()
    table = told.partition("Options it was prepared with</h3>")[2].partition("</table>")[0]
    words = [word for cell in re.findall("<td[^>]*>(.*?)</td>", table) for word in shlex.split(html.unescape(cell))]
    assert words[:6] == ["--source", "folder", "--size", "6", "5", "--channels"]
    given = parse(DatasetConfig, [*words, "--path", str(folder)])
    assert given == dataclasses.replace(config, channels=3, levels=256) and "Without the path, which is not kept" in told


def test_only_words_that_are_too_long_are_broken(folder: Path, storage: Storage) -> None:
    long = "a" * 90
    (folder / "train" / "ants" / f"{long}.png").write_bytes(b"no image")
    told = page(inspect(prepare(DatasetConfig("folder", str(folder), max_bad_share=0.1), storage, say=lambda _: None))).decode()
    style, body = told.partition("<style>")[2].split("</style>")
    assert [rule for rule in re.findall(r"([^{}\n]*) {[^}]*overflow-wrap", style)] == [" .long", " figcaption"]
    kinds = {html.unescape(text): kind for kind, text in re.findall("<td(?: class=([a-z]+))?>(.*?)</td>", body)}
    assert [kinds[text] for text in ("fingerprint", "size on disk", "WebP (lossless)")] == ["short"] * 3
    assert kinds["not an image file, or of a format that is not read"] == ""
    assert [text for text, kind in kinds.items() if kind == "long"] == [kind for kind in kinds if "sha256" in kind or long in kind]


@pytest.mark.parametrize(("num", "side", "columns"), [(12, 16, 6), (10, 16, 10), (80, 16, 10), (1, 16, 1), (2, 120, 2), (5, 120, 3)])
def test_rows_of_pictures_are_about_equally_long(num: int, side: int, columns: int) -> None:
    drawn = inspection_page._picture(np.zeros((num, 1, side, side), np.uint8), 2, "", 48)
    ((picture, *_),) = Pictures(drawn.encode()).pictures
    assert picture.size == (columns * (side + 1) + 1, -(-num // columns) * (side + 1) + 1)
    assert "max-width: 100%" in html_page.STYLE.partition("img {")[2].partition("}")[0]


def test_images_that_are_drawn_anew_are_shown_as_grey(folder: Path, storage: Storage) -> None:
    config = DatasetConfig("folder", str(folder), binarize="dynamic", channels=1, max_bad_share=0.1)
    found = inspect(prepare(config, storage, say=lambda _: None))
    assert not found.copies and "cannot be compared" in Pictures(page(found)).text
    assert [levels.counts_CL.shape[1] for levels in found.levels] == [256, 2, 2]
    assert next(row for row in found.baselines if row.model == "uniform").test_bits_per_dim == 1


def test_a_page_of_many_large_images_is_small(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pictures as there is room for: here of noise, which no PNG makes smaller, in the largest size."""
    monkeypatch.setattr(inspection, "BASELINE_PIXELS", 1)
    noise = np.random.default_rng(0)
    for i in range(40):
        image = Image.fromarray(noise.integers(0, 256, (128, 128, 3), np.uint8))
        for split in ("train", "test") if i % 2 else ("train",):
            path = tmp_path / "noise" / split / f"{i // 2:02d}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    dataset = prepare(DatasetConfig("folder", str(tmp_path / "noise"), size=(256, 256)), storage, say=lambda _: None)
    found = inspect(dataset)
    assert found.pairs and found.num_baseline_images == 1
    assert sum(some.images_NCHW.size for some in found.examples) <= 3 * inspection.EXAMPLE_PIXELS
    assert len(page(found)) < 10_000_000


def test_long_tables_are_cut_and_say_so(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection_page, "MOST_ROWS", 4)
    monkeypatch.setattr(inspection, "MOST_CLASSES", 3)
    monkeypatch.setattr(inspection, "MOST_SHARDS", 1)
    shown = Pictures(page(inspect(digits)))
    assert "and 6 more classes" in shown.text and "3 of 10 classes" in shown.text and "some shards only" in shown.text


def test_what_is_prepared_takes_no_options(storage: Storage) -> None:
    with pytest.raises(UserError, match="--dataset 'digits' is prepared already, and options that prepare one are given"):
        inspect_data.main(["--dataset", "digits", "--source", "photos", "--storage", storage.root])
    with pytest.raises(UserError, match="data set 'digits' unknown; have none"):
        inspect_data.main(["--dataset", "digits", "--storage", storage.root])


def test_the_command_line_leaves_the_source_open() -> None:
    assert parse(Arguments, ["--path", "x"]).data.source == "auto"
    assert parse(Arguments, ["--dataset", "digits"]).data == DatasetConfig() != parse(Arguments, ["--path", "x"]).data
