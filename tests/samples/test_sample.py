"""Samples from the command line: the same images as the library draws, in every form, and mistakes in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.sample import main
from pixelmodels.data import dequantize, quantize
from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextBlend, ContextSpec, PixelModel, build
from pixelmodels.models.files import load_model, save_model
from pixelmodels.pictures import BACKGROUND, grid
from pixelmodels.samples import drawing as sample_drawing
from pixelmodels.samples import sample as sample_run
from pixelmodels.samples.blocks import Block
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.drawing import Means, PackedModel, draw_requests
from pixelmodels.samples.files import Output
from pixelmodels.samples.pictures import MAX_FRAMES, UInt8, film, gif_bytes, picture
from pixelmodels.sampling import Engine, Request, reference_sample, sample
from pixelmodels.sampling.passes import Passes
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_config, small_model
from tests.training.tiny_run import SPEC, TinyDataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 3 classes, of images of 3x2 with 7 levels."""
    save_model(tmp_path / "model", small_model("pixelcnn", "categorical", 1, 3, 2, levels=7, context="label"))
    return tmp_path / "model"


@pytest.fixture
def of_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PixelModel:
    """A model of the images and classes of the tiny data set, which is prepared; saved in `tmp_path` / tiny."""
    model = build(small_config("gated_pixelcnn"), SPEC, LikelihoodConfig("categorical"), ContextSpec(num_classes=2)).double().eval()
    save_model(tmp_path / "tiny", model)
    monkeypatch.setattr(sample_run, "find_dataset", lambda *_: TinyDataset())
    return model


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Path:
    assert main([str(argument) for argument in arguments]) == 0
    return Path(capsys.readouterr().out.splitlines()[-1])


def colours(images_NCHW: np.ndarray, levels: int) -> np.ndarray:
    """The picture of images alone."""
    return grid(images_NCHW, levels)


def test_arrays_are_what_the_library_draws(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, common = load_model(folder), [folder, "--storage", storage.root, "--out", tmp_path / "a" / "drawn.npz", "--n", "5"]
    options = {"guidance": 0.5, "temperature": 0.8, "top_p": 0.9}
    path = run(capsys, *common, "--seed", 3, "--label", 2, 0, "--guidance", 0.5, "--temperature", 0.8, "--top-p", 0.9)
    context = Context(label_B=torch.tensor([2, 0, 2, 0, 2]))
    assert np.array_equal(np.load(path)["images_NCHW"], sample(model, 5, seed=3, context=context, **options).numpy())
    assert np.array_equal(np.load(path)["label_N"], [2, 0, 2, 0, 2])
    assert np.array_equal(np.load(run(capsys, *common))["images_NCHW"], sample(model, 5, seed=0).numpy())


def test_picture_from_one_class_to_another(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--storage", storage.root, "--out", tmp_path / "way.png"]
    path = run(capsys, folder, *out, "--between", 0, 2, "--num-steps", 4, "--n", 6, "--batch-size", 5)
    first, second = (Context(label_B=torch.full((6,), label)) for label in (0, 2))
    shares = torch.linspace(0, 1, 4, dtype=torch.float64)
    steps = [sample(load_model(folder), 6, seed=0, context=ContextBlend(first, second, share.expand(6))) for share in shares]
    assert np.array_equal(np.asarray(Image.open(path)), grid(torch.cat(steps).numpy(), 7, columns=6))


def test_single_files_give_the_levels_back(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = [folder, "--storage", storage.root, "--out", f"{tmp_path}/single/"]
    path = run(capsys, *command, "--n", 11)
    files = sorted(path.iterdir())
    assert [file.name for file in files] == [f"{i:04d}.png" for i in range(11)]
    levels_NHW = quantize(np.stack([np.asarray(Image.open(file)) for file in files]), 7)
    assert np.array_equal(levels_NHW, sample(load_model(folder), 11, seed=0)[:, 0].numpy())
    with pytest.raises(UserError, match=r"holds '0010\.png', which is none of these samples; empty it"):
        main([str(argument) for argument in (*command, "--n", 10)])


def test_test_images_give_their_context_and_known_rows(
    of_tiny: PixelModel, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = [tmp_path / "tiny", "--storage", storage.root, "--dataset", "tiny", "--n", 9, "--samples-each", 3, "--guidance", 0.7]
    found = np.load(run(capsys, *command, "--known-rows", 2, "--out", tmp_path / "known.npz"))
    test = TinyDataset().some("test", 3)
    index_N = np.arange(9) // 3
    known_NCHW, mask_NHW = torch.from_numpy(test.images_NCHW[index_N]), torch.zeros(9, 4, 3, dtype=torch.bool)
    mask_NHW[:, :2] = True
    assert test.labels_N is not None
    context = Context(label_B=torch.from_numpy(test.labels_N[index_N]))
    x_NCHW = reference_sample(of_tiny, 9, seed=0, context=context, guidance=0.7, known_NCHW=known_NCHW, known_mask_NHW=mask_NHW)
    assert np.array_equal(found["images_NCHW"], x_NCHW.numpy())
    assert np.array_equal(found["originals_NCHW"], known_NCHW.numpy())
    assert np.array_equal(found["label_N"], test.labels_N[index_N])
    assert np.array_equal(found["known_HW"], mask_NHW[0].numpy())
    free = np.load(run(capsys, *command, "--out", tmp_path / "free.npz"))["images_NCHW"]
    assert np.array_equal(free, sample(of_tiny, 9, seed=0, context=context, guidance=0.7).numpy())


def test_files_are_completed_where_a_mask_is_black(
    of_tiny: PixelModel, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images_NCHW = TinyDataset().some("test", 2).images_NCHW
    (tmp_path / "images").mkdir()
    for name, image_CHW in zip("ab", dequantize(images_NCHW, SPEC.levels), strict=True):
        Image.fromarray(image_CHW[0]).save(tmp_path / "images" / f"{name}.png")
    mask_HW = torch.ones(4, 3, dtype=torch.bool)
    mask_HW[1, 1:] = False
    Image.fromarray(mask_HW.numpy().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    command = [tmp_path / "tiny", "--complete", tmp_path / "images", "--known", tmp_path / "mask.png", "--label", 1, "--n", 8]
    assert main([*map(str, command), "--storage", storage.root, "--out", str(tmp_path / "completed.npz")]) == 0
    said = capsys.readouterr().out
    assert "10 of 12 pixels of each are known; 6 of them come after pixels that are drawn: they stay as they are" in said
    x_NCHW = np.load(tmp_path / "completed.npz")["images_NCHW"]
    known_NCHW = torch.from_numpy(images_NCHW.repeat(4, 0))
    context = Context(label_B=torch.ones(8, dtype=torch.long))
    expected = reference_sample(of_tiny, 8, seed=0, context=context, known_NCHW=known_NCHW, known_mask_NHW=mask_HW.expand(8, 4, 3))
    assert np.array_equal(x_NCHW, expected.numpy())
    assert np.array_equal(x_NCHW[:, 0][:, mask_HW], known_NCHW[:, 0][:, mask_HW])


@pytest.mark.parametrize("architecture", ["pixelcnn", "multiscale_pixelrnn"])
def test_animation_shows_the_rows_that_the_engine_reports(architecture: str, tmp_path: Path, storage: Storage) -> None:
    model = small_model(architecture, "categorical", 1, 4, 4, levels=3)
    numbers_N = np.arange(6)
    commission, request = Commission(numbers_N, numbers_N * 0, seed=1), Request(n=6, seed=1)
    engine, x_NCHW = Engine(model, num_slots=6, reserve=0), np.zeros((6, 1, 4, 4), np.uint8)
    drawn_HW, pictures = np.zeros((4, 4), bool), [np.full_like(picture(commission, x_NCHW, model), BACKGROUND)]
    engine.submit(request)
    while not engine.is_idle:
        for row in engine.step_row():
            every = model.stages()[row.stage].every
            x_NCHW[row.image, :, row.row * every, ::every] = row.levels_CW
            drawn_HW[row.row * every, ::every] = True
        pictures.append(picture(commission, x_NCHW, model, drawn_HW))
    assert len(pictures) == 1 + (4 if architecture == "pixelcnn" else 6)
    found = film(commission, x_NCHW, model)
    assert np.array_equal(np.stack(found), np.stack(pictures))
    assert np.array_equal(found[-1], colours(x_NCHW, 3))
    (tmp_path / "a.gif").write_bytes(gif_bytes(found))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(pictures)
        for frame, expected in enumerate(pictures):
            gif.seek(frame)
            assert np.array_equal(np.asarray(gif.convert("RGB")), expected)


def test_animations_of_tall_images_have_few_frames() -> None:
    model = small_model("pixelcnn", "categorical", 3, 3 * MAX_FRAMES, 1, levels=256)
    x_NCHW = np.random.default_rng(0).integers(0, 256, (4, 3, 3 * MAX_FRAMES, 1)).astype(np.uint8)
    commission = Commission(np.arange(4), np.zeros(4, np.int64))
    pictures = film(commission, x_NCHW, model)
    assert len(pictures) == MAX_FRAMES
    assert np.array_equal(pictures[-1], picture(commission, x_NCHW, model))
    assert gif_bytes(pictures)[:3] == b"GIF"  # more colours than a GIF has


def test_gif_and_picture_from_the_command_line(
    of_tiny: PixelModel, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, gif = tmp_path / "completed.png", tmp_path / "drawing.gif"
    command = [tmp_path / "tiny", "--storage", storage.root, "--dataset", "tiny", "--known-rows", 2, "--n", 8]
    assert run(capsys, *command, "--out", out, "--gif", gif) == out
    with Image.open(gif) as image:
        assert image.n_frames == 3  # what is known, and two rows
        image.seek(0)
        first = np.asarray(image.convert("RGB"))
        image.seek(2)
        last = np.asarray(image.convert("RGB"))
    assert np.array_equal(last, np.asarray(Image.open(out)))
    assert not np.array_equal(first, last)


def test_soon_done_needs_no_ray(
    folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sample_drawing, "draw_on_ray")
    path = run(capsys, folder, "--storage", storage.root, "--out", tmp_path / "drawn.npz", "--n", 7, "--batch-size", 3)
    assert np.array_equal(np.load(path)["images_NCHW"], sample(load_model(folder), 7, seed=0).numpy())
    assert not storage.list("samples")


@pytest.mark.parametrize("use_gpu", [False, True])
def test_a_single_block_for_a_gpu_that_only_the_cluster_has_is_drawn_there(
    use_gpu: bool, folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, bool]] = []

    def on_cluster(
        packed: PackedModel, commission: Commission, blocks: list[Block], num_workers: int | None, means: Means
    ) -> Iterator[tuple[Block, UInt8]]:
        asked.append((num_workers, means))
        return ((block, draw_requests(packed.unpack(torch.device("cpu")), commission.requests(*block))) for block in blocks)

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(sample_drawing, "draw_on_ray", on_cluster)
    command = [folder, "--storage", storage.root, "--out", tmp_path / "drawn.npz", "--n", 7, *(["--use-gpu"] if use_gpu else [])]
    assert np.array_equal(np.load(run(capsys, *command))["images_NCHW"], sample(load_model(folder), 7, seed=0).numpy())
    assert asked == ([(None, Means(use_gpu=True))] if use_gpu else [])


def test_guessed_rows_are_the_same_images(
    folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    settle = Passes.settle
    monkeypatch.setattr(Passes, "settle", lambda passes, canvas, first: rounds.append(first) or settle(passes, canvas, first))
    command = [folder, "--storage", storage.root, "--out", tmp_path / "drawn.npz", "--n", 7, "--batch-size", 3]
    assert np.array_equal(np.load(run(capsys, *command, "--speculation"))["images_NCHW"], sample(load_model(folder), 7, seed=0).numpy())
    assert rounds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--speculation", "--top-p", "0.9"],
            "--speculation draws from the model itself; leave it out, or --guidance, --temperature and --top-p",
        ),
        (["--compiled", "--use-gpu"], "--compiled is for CPUs, and --use-gpu for GPUs; leave one of them out"),
        (["--n", "0"], "--n 0 is too few; give 1 or more"),
        (["--batch-size", "0"], "--batch-size 0 is too few"),
        (["--seed", "-1"], "--seed -1 is no seed"),
        (
            ["--n", "10000000000000", "--out", "x.npz"],
            "--n 10000000000000 is too many; give 100000000 images or fewer, and further",
        ),
        (["--n", "100000000000000000000"], "--n 100000000000000000000 is too many; give"),
        (["--between", "0", "1", "--n", "9", "--num-steps", "10000000000000"], "--n 9 is too many for --num-steps 10000000000000; give"),
        (
            ["--label", "99999999999999999999"],
            "label 99999999999999999999 is out of range; this model knows 0..2, and -1 for no label",
        ),
        (["--label", "1", "-99999999999999999999"], "label -99999999999999999999 is out of range"),
        (["--between", "0", "99999999999999999999"], "label 99999999999999999999 is out of range"),
        (["--batch-size", "100000000000000000000", "--out", "/proc/no/x.npz"], "cannot be written"),
        (["--known-rows", "100000000000000000000", "--complete", "PICTURE"], "is out of range"),
        (["--samples-each", "100000000000000000000", "--given", "PICTURE"], "is more than --n 64"),
        (
            ["--complete", "/dev/null", "--known-rows", "1"],
            "--complete '/dev/null' is neither a file nor a folder; give an image file, or a",
        ),
        (["--given", "PIPE"], "--given 'PIPE' is neither a file nor a folder; give"),
        (["--complete", "WHITE", "--known", "/dev/null"], "--known '/dev/null' not found"),
        (["--out", "taken/"], r"folder 'taken' holds '0001\.png', which is none of these samples"),
        (["--n", "20000000"], "20000000 images are too many for one picture; give a --n for 11184810 or fewer"),
        (["--out", "drawn.jpg"], r"drawn\.jpg.*\.png.*\.npz"),
        (["--out", "s3://bucket/drawn.png"], "is no local file"),
        (["--gif", "drawing.png"], r"--gif 'drawing\.png' is no name of an animation; give one that ends in \.gif"),
        (["--label", "3"], "label 3 is out of range; this model knows 0..2"),
        (["--label", "cat"], r"label 'cat' unknown; this model does not know its classes by name: give a number, 0\.\.2"),
        (["--label", "1", "--between", "0", "1"], "--between and --label"),
        (["--between", "0", "1", "--num-steps", "1"], "--num-steps 1 is too few"),
        (["--between", "0", "7"], "label 7 is out of range"),
        (["--guidance", "-1"], "guidance -1.0 is negative"),
        (["--temperature", "0"], "temperature 0.0 is out of range"),
        (["--top-p", "1.5"], "top_p 1.5 is out of range"),
        (["--dataset", "digits"], "data set 'digits' unknown"),
        (["--dataset", "digits", "--label", "1"], "--dataset gives test images with their own classes"),
        (["--given", "PICTURE"], "--given: the model is not given images; leave it out"),
        (["--given", "a.png", "--complete", "b.png"], "--given and --complete are two ways to give images"),
        (["--given", "a.png", "--between", "0", "1"], "leave out --given, or choose a --label"),
        (["--known-rows", "1"], "give --complete FILE, or --dataset NAME"),
        (["--complete", "a.png"], "needs what is known of it"),
        (["--complete", "a.png", "--known-rows", "1"], "--complete 'a.png' not found"),
        (["--complete", "a.png", "--known-rows", "1", "--known", "b.png"], "--known and --known-rows"),
        (["--complete", "PICTURE", "--known-rows", "3"], r"--known-rows 3 is out of range.*3 rows: give 1\.\.2"),
        (["--complete", "PICTURE", "--known-rows", "1"], r"PICTURE' is 5x4 \(height x width\), the model's images are 3x2"),
        (["--complete", "PICTURE", "--known", "PICTURE"], r"--known: '.*PICTURE' is 5x4"),
        (["--complete", "PICTURE", "--known", "WHITE"], "WHITE' knows every pixel"),
        (["--complete", "WHITE", "--known", "CLEAR"], "--known 'CLEAR': a mask with transparent pixels; give a mask that is black"),
        (["--complete", "WHITE", "--known", "SHADES"], r"--known 'SHADES': a mask of several shades \(1, 2\); give a mask that is black"),
        (["--complete", "WHITE", "--known", "none.png"], r"--known 'none\.png' not found"),
        (["--complete", "model/model.json", "--known-rows", "1"], r"model\.json' cannot be read"),
        (["--samples-each", "2"], "--samples-each 2 is of given images"),
        (["--out", "/proc/no/drawn.png"], "cannot be written"),
        (["--gif", "/proc/no/drawn.gif"], "cannot be written"),
        (["--use-gpu"], "no GPU that torch can use"),
    ],
)
def test_mistakes_are_told_in_one_line(
    folder: Path, storage: Storage, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    Image.fromarray(np.zeros((5, 4), np.uint8)).save("PICTURE", "PNG")
    Image.fromarray(np.full((3, 2), 255, np.uint8)).save("WHITE", "PNG")
    Image.fromarray(np.array([[255, 255], [255, 0], [0, 0]], np.uint8)[..., None].repeat(2, 2), "LA").save("CLEAR", "PNG")
    Image.fromarray(np.array([[1, 0], [0, 2], [0, 0]], np.uint8)).save("SHADES", "PNG")
    os.mkfifo("PIPE")
    Path("taken/0001.png").mkdir(parents=True)
    with pytest.raises(UserError, match=message) as error:
        main([str(folder), "--storage", storage.root, *arguments])
    assert "\n" not in str(error.value)
    assert not Path("samples.png").exists()


@pytest.mark.parametrize("length", [244, 255])
def test_a_name_that_is_as_long_as_it_may_be_is_written(length: int, folder: Path, storage: Storage, tmp_path: Path) -> None:
    out, gif = (tmp_path / "drawn" / ("a" * (length - 4) + end) for end in (".npz", ".gif"))
    assert main([str(folder), "--storage", storage.root, "--n", "2", "--out", str(out), "--gif", str(gif)]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == [gif.name, out.name]
    assert len(np.load(out)["images_NCHW"]) == 2


def test_an_output_that_cannot_be_written_after_all_is_told(folder: Path, storage: Storage, tmp_path: Path) -> None:
    """And what it was called meanwhile is removed, or is not there."""
    output = Output(tmp_path / "gone", "drawn.npz")
    with pytest.raises(UserError, match=r"--out '.*gone/drawn.npz' cannot be written \(No such file or directory\); give another place"):
        output.write(Commission(np.arange(1), np.zeros(1, np.int64)), np.zeros((1, 1, 3, 2), np.uint8), load_model(folder))


def test_names_that_are_not_utf_8_are_written_and_told(folder: Path, storage: Storage, tmp_path: Path) -> None:
    program = "from pipelines.sample import main; from pixelmodels.errors import exit_with; exit_with(main)"
    out = os.fsencode(tmp_path) + b"/caf\xe9.npz"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", program, str(folder), "--storage", storage.root, "--n", "2", "--out", out]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, os.fsencode(tmp_path) + b"/caf\\udce9.npz", b"")
    assert os.path.exists(out)


def test_options_without_a_table_are_told(folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder)
    monkeypatch.setattr(type(model.likelihood), "table", type(model.likelihood).__mro__[1].table)
    with pytest.raises(UserError, match="likelihood 'categorical' has no table over levels; leave guidance, temperature and top_p out"):
        main([str(folder), "--storage", storage.root, "--top-p", "0.9"])


def test_a_model_without_context_is_given_none(tmp_path: Path, of_tiny: PixelModel, storage: Storage) -> None:
    save_model(tmp_path / "plain", build(small_config("pixelcnn"), SPEC, LikelihoodConfig("categorical")))
    with pytest.raises(UserError, match="--dataset: the model is not conditioned on anything; leave it out"):
        main([str(tmp_path / "plain"), "--storage", storage.root, "--dataset", "tiny"])


def test_a_data_set_of_other_images_is_told(folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_run, "find_dataset", lambda *_: TinyDataset())
    with pytest.raises(UserError, match=r"trained on images of 1x3x2 with 7 levels, data set 'tiny' has 1x4x3 with 4 levels"):
        main([str(folder), "--storage", storage.root, "--dataset", "tiny"])
