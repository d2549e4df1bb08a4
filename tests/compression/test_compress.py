"""The command: images of folders and data sets come back as they were, and mistakes are one line."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.compress import main
from pixelmodels.compression import compress, sources
from pixelmodels.compression.container import Container
from pixelmodels.compression.images import write_pngs
from pixelmodels.data import dequantize
from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.files import load_model, save_model
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_config, small_model
from tests.training.tiny_run import SIZES, SPEC, TinyDataset

LEVELS = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 3 classes, of grey images of 4x3 with 7 levels."""
    save_model(tmp_path / "model", small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=LEVELS, context="label"))
    return tmp_path / "model"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """11 image files that such a model can hold, one of them in capitals, and a hidden file."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate([*(f"{i}.png" for i in range(9)), "ä b.PNG", "c.bmp"]):
        pixels_HW = dequantize(rng.integers(0, LEVELS, (4, 3)).astype(np.uint8), LEVELS)
        Image.fromarray(pixels_HW if i else np.repeat(pixels_HW[..., None], 3, 2)).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / ".hidden").write_text("no image")
    return tmp_path / "pictures"


@pytest.fixture
def of_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the images, classes and vectors of the tiny data set, which is prepared."""
    monkeypatch.setattr(sources, "find_dataset", lambda *_: ShardedDataset())
    context = ContextSpec(num_classes=2, vector_size=3)
    model = build(small_config("gated_pixelcnn"), SPEC, LikelihoodConfig("categorical"), context).double().eval()
    save_model(tmp_path / "tiny", model)
    return tmp_path / "tiny"


class ShardedDataset(TinyDataset):
    """In shards of three images."""

    def shards(self, split: str) -> list[int]:
        return list(range(-(-SIZES[split] // 3)))

    def read_shard(self, split: str, number: int) -> object:
        whole = self.read(split)
        return whole.take(np.arange(3 * number, min(3 * number + 3, len(whole))))


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as error:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def pixels(file: Path, channels: str = "L") -> np.ndarray:
    return np.asarray(Image.open(file).convert(channels))


@pytest.mark.parametrize("block", [1, 4, 64])
def test_a_folder_comes_back(block: int, folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "x.pxc", tmp_path / "decoded"
    run("encode", folder, "--images", pictures, "--out", file, "--block", block)
    said = capsys.readouterr().out.splitlines()
    blocks = {1: "11 blocks of 1", 4: "3 blocks of 4", 64: "1 block of 64"}[block]
    assert said[-1] == str(file) and said[-2].startswith(f"11 images in {blocks}: {file.stat().st_size:,} bytes (")
    of_pixels, others = (int(number) for number in re.findall(r"(\d+) of (?:pixels|head)", said[-2]))
    assert of_pixels + others == file.stat().st_size and others > 9 * (-(-11 // block))
    run("decode", file, "--out", out)
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    names = {name: f"{name}.png" if name == "c.bmp" else name for name in os.listdir(pictures) if name != ".hidden"}
    assert sorted(os.listdir(out)) == sorted(names.values())
    for name, decoded in names.items():
        assert np.array_equal(pixels(pictures / name), pixels(out / decoded))


def test_names_are_left_out_and_blocks_decoded_alone(folder: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.pxc"
    run("encode", folder, "--images", pictures, "--out", file, "--block", 4, "--no-names")
    run("decode", file, "--out", tmp_path / "all")
    assert sorted(os.listdir(tmp_path / "all")) == [f"{i:04d}.png" for i in range(11)]
    run("decode", file, "--out", tmp_path / "some", "--blocks", 2, 0)
    assert sorted(os.listdir(tmp_path / "some")) == [f"{i:04d}.png" for i in (0, 1, 2, 3, 8, 9, 10)]
    for i, name in enumerate(sorted(path.name for path in pictures.iterdir() if path.name != ".hidden")):
        assert np.array_equal(pixels(pictures / name), pixels(tmp_path / "all" / f"{i:04d}.png"))
    assert "--blocks 3: '" in (said := refused("decode", file, "--out", tmp_path / "none", "--blocks", 3)) and "give 0..2" in said
    assert not (tmp_path / "none").exists()


def test_the_file_says_what_it_is(folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.pxc"
    run("encode", folder, "--images", pictures, "--out", file, "--label", 2)
    capsys.readouterr()
    run("show", file)
    said = capsys.readouterr().out
    for part in ("11 of 1x4x3 with 7 levels", str(folder), "conditions label", "float64, eager, 1 threads", f"torch {torch.__version__}"):
        assert part in said


def test_one_class_for_all(folder: Path, pictures: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "x.pxc", tmp_path / "out.npz"
    run("encode", folder, "--images", pictures, "--out", file, "--label", 2, "--block", 4)
    run("decode", file, "--out", out)
    arrays = np.load(out)
    assert arrays["images_NCHW"].shape == (11, 1, 4, 3) and arrays["label_N"].tolist() == [2] * 11 and len(arrays["names"]) == 11
    assert "label 3 is out of range; this model knows 0..2" in refused("encode", folder, "--images", pictures, "--out", file, "--label", 3)


@pytest.mark.parametrize("asked", [(), ("label",), ("vector", "label")])
def test_a_data_set_with_its_labels_and_vectors(asked: tuple[str, ...], of_tiny: Path, tmp_path: Path) -> None:
    file, out, split = tmp_path / "x.pxc", tmp_path / "out.npz", TinyDataset().read("test")
    condition_on = ("--condition-on", *asked) if asked else ()
    run("encode", of_tiny, "--dataset", "tiny", "--out", file, "--block", 4, *condition_on)
    run("decode", file, "--out", out)
    arrays = np.load(out)
    assert np.array_equal(arrays["images_NCHW"], split.images_NCHW) and "names" not in arrays
    assert ("label_N" in arrays, "vector_NV" in arrays) == ("label" in asked, "vector" in asked)
    assert "label" not in asked or np.array_equal(arrays["label_N"], split.labels_N)
    assert "vector" not in asked or np.array_equal(arrays["vector_NV"], split.vectors_NV)


def test_what_would_be_lost_is_refused_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    rng, names = np.random.default_rng(1), ["grey.png", "colour.png", "clear.png", "deep.png"]
    given = tmp_path / "given"
    given.mkdir()
    exact_HW = dequantize(rng.integers(0, LEVELS, (4, 3)).astype(np.uint8), LEVELS)
    Image.fromarray(rng.integers(0, 256, (4, 3)).astype(np.uint8)).save(given / names[0])
    Image.fromarray(dequantize(rng.integers(0, LEVELS, (4, 3, 3)).astype(np.uint8), LEVELS)).save(given / names[1])
    Image.fromarray(np.stack([exact_HW, np.full((4, 3), 90, np.uint8)], 2), "LA").save(given / names[2])
    Image.fromarray(exact_HW.astype(np.uint16) * 257 + 3).save(given / names[3])
    reasons = ("none of the 7 that the model's levels stand for (0, 42, 85, ...)", "colours, the model's images are grey")
    for name, reason in zip(names, (*reasons, "transparent pixels", "more than 8 bits a sample"), strict=True):
        said = refused("encode", folder, "--images", given / name, "--out", tmp_path / "x.pxc")
        assert reason in said and said.endswith("--quantize has it lost, and keeps exactly what is left")
    assert not (tmp_path / "x.pxc").exists()
    run("encode", folder, "--images", given, "--out", tmp_path / "x.pxc", "--quantize")
    run("decode", tmp_path / "x.pxc", "--out", tmp_path / "out")
    run("encode", folder, "--images", tmp_path / "out", "--out", tmp_path / "again.pxc")  # nothing is lost any more
    assert (tmp_path / "again.pxc").read_bytes() == (tmp_path / "x.pxc").read_bytes()


def test_animations_are_more_than_an_image(folder: Path, tmp_path: Path) -> None:
    frames = [Image.fromarray(dequantize(np.full((4, 3), level, np.uint8), LEVELS)) for level in (0, 1)]
    for name in ("a.png", "a.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        said = refused("encode", folder, "--images", tmp_path / name, "--out", tmp_path / "x.pxc")
        assert "has several frames, which would be lost" in said


def test_nothing_but_such_a_file_is_overwritten(folder: Path, pictures: Path, tmp_path: Path) -> None:
    before = (pictures / "0.png").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for there in (pictures / "0.png", tmp_path / "pipe"):
        assert "is there already, and no file that compress.py encoded" in refused("encode", folder, "--images", pictures, "--out", there)
    assert (pictures / "0.png").read_bytes() == before and (tmp_path / "pipe").is_fifo()
    file = tmp_path / "x.pxc"
    file.touch()
    for images in (pictures / "0.png", pictures):  # an empty file, and one that was encoded
        run("encode", folder, "--images", images, "--out", file)
    assert compress.read(str(file)).num_images == 11


def test_what_is_left_out_of_a_folder_is_told(folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("encode", folder, "--images", pictures, "--out", tmp_path / "x.pxc")
    assert "left out" not in capsys.readouterr().out
    (pictures / "inside").mkdir()
    (pictures / "lost.png").symlink_to("nowhere.png")
    run("encode", folder, "--images", pictures, "--out", tmp_path / "y.pxc")
    assert "left out, as they are no files: 'inside', 'lost.png'" in capsys.readouterr().out
    assert (tmp_path / "x.pxc").read_bytes() == (tmp_path / "y.pxc").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("num_before", [0, 3])
def test_writing_that_is_stopped_leaves_whole_images_alone(
    error: BaseException, num_before: int, folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out, replace_with, done = tmp_path / "x.pxc", tmp_path / "out", Path.replace, [0]
    run("encode", folder, "--images", pictures, "--out", file)

    def stopped(self: Path, target: Path) -> Path:
        done[0] += 1
        if done[0] > num_before:
            raise error
        return replace_with(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
        run("decode", file, "--out", out)
    left = sorted(os.listdir(out)) if out.exists() else []
    assert len(left) == num_before and out.exists() == bool(num_before)
    for name in left:
        assert np.array_equal(pixels(pictures / name), pixels(out / name))
    size, done[0] = file.stat().st_size, num_before
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
        run("encode", folder, "--images", pictures / "0.png", "--out", file)
    assert file.stat().st_size == size and not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_two_names_that_a_file_system_takes_for_one(tmp_path: Path) -> None:
    images_NCHW = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
    with pytest.raises(UserError, match=r"has 'a.png' by now, or a name like it; give a folder that tells them apart, or .npz"):
        write_pngs(tmp_path, ("a.png", "a.png"), images_NCHW, 2)
    assert pixels(tmp_path / "a.png").tolist() == [[0]]


def test_a_file_of_any_length_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", 1 << 38)
    assert "is no file of images that compress.py encoded" in refused("decode", tmp_path / "long", "--out", tmp_path / "out")


def test_no_folder_is_left_by_a_file_that_does_not_fit(folder: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.pxc"
    run("encode", folder, "--images", pictures, "--out", file)
    container = compress.read(str(file))
    file.write_bytes(replace(container, head=replace(container.head, kinds=2)).to_bytes())
    for out in ("none", "none/x.npz"):
        assert "the images are conditioned on what this model is not" in refused("decode", file, "--out", tmp_path / out)
        assert not (tmp_path / "none").exists()


def test_colours(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model("pixelcnn", "categorical", 3, 4, 3, levels=256).float())
    (tmp_path / "given").mkdir()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (4, 3, 3)).astype(np.uint8)).save(tmp_path / "given" / "a.png")
    Image.fromarray(rng.integers(0, 256, (4, 3)).astype(np.uint8)).save(tmp_path / "given" / "b.png")
    run("encode", tmp_path / "model", "--images", tmp_path / "given", "--out", tmp_path / "x.pxc")
    run("decode", tmp_path / "x.pxc", "--out", tmp_path / "out")
    for name in ("a.png", "b.png"):
        assert np.array_equal(pixels(tmp_path / "given" / name, "RGB"), pixels(tmp_path / "out" / name, "RGB"))


def test_the_model_is_found_by_its_name_or_given(folder: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.pxc"
    run("encode", folder, "--images", pictures, "--out", file)
    moved, sha = folder.rename(tmp_path / "moved"), compress.read(str(file)).head.weights.hex()[:16]
    said = refused("decode", file, "--out", tmp_path / "out")
    assert f"was encoded with a model that is not found here (model '{folder}' not found" in said and f"sha256 {sha}" in said
    run("decode", file, "--out", tmp_path / "out", "--model", moved)
    other = small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=LEVELS, context="label")
    next(other.parameters()).data[0] += 1e-9
    save_model(tmp_path / "other", other)
    said = refused("decode", file, "--out", tmp_path / "none", "--model", tmp_path / "other")
    assert f"was encoded with another model: model '{tmp_path / 'other'}' has weights of sha256 " in said and sha in said
    assert not (tmp_path / "none").exists()


def test_the_averaged_weights_are_the_model(folder: Path, pictures: Path, tmp_path: Path) -> None:
    """What samples are drawn from is what images are coded by, whatever file it was in."""
    model = load_model(folder)
    copied = tmp_path / "copied"
    save_model(copied, model)
    (copied / "model.safetensors").rename(copied / "average.safetensors")
    save_model(tmp_path / "fresh", small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=LEVELS, context="label"))
    (tmp_path / "fresh" / "model.safetensors").rename(copied / "model.safetensors")
    run("encode", folder, "--images", pictures, "--out", tmp_path / "x.pxc")
    run("decode", tmp_path / "x.pxc", "--out", tmp_path / "out", "--model", copied)


def wrong_file(folder: Path, pictures: Path, file: Path, block: int) -> Container:
    """A file whose checksum fits, in which a block is not what it says."""
    run("encode", folder, "--images", pictures, "--out", file, "--block", 4)
    container = Container.of_bytes(file.read_bytes(), "it")
    blocks = list(container.blocks)
    blocks[block] = replace(blocks[block], payload=b"\x55" + blocks[block].payload[1:])
    file.write_bytes(replace(container, blocks=tuple(blocks)).to_bytes())
    return container


def test_nothing_wrong_is_written(folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Of a block that comes out otherwise no image is; those before it are right."""
    file, out = tmp_path / "x.pxc", tmp_path / "out"
    container = wrong_file(folder, pictures, file, 1)
    said = refused("decode", file, "--out", out)
    assert "block 1 of '" in said and "cannot be decoded" in said and f"(4 images of earlier blocks are right, and in '{out}')" in said
    assert container.names is not None and sorted(os.listdir(out)) == sorted(container.names[:4])
    for name in container.names[:4]:
        assert np.array_equal(pixels(pictures / name), pixels(out / name))
    assert "(nothing was written)" in refused("decode", file, "--out", tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()
    wrong_file(folder, pictures, file, 0)
    assert "(nothing was written)" in refused("decode", file, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_another_machine_is_named(folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.pxc"
    container = wrong_file(folder, pictures, file, 0)
    machine = replace(container.head.machine, capability="AVX1024", torch_version="1.0", processor="00000000", device="Tesla")
    changed = replace(container, head=replace(container.head, machine=machine))
    file.write_bytes(changed.to_bytes())
    run("decode", file, "--out", tmp_path / "out")  # it may well be right: then it is
    assert "was encoded with device Tesla (here cpu); torch 1.0 (here" in capsys.readouterr().out
    wrong_file(folder, pictures, file, 0)
    wrong = Container.of_bytes(file.read_bytes(), "it")
    file.write_bytes(replace(wrong, head=changed.head).to_bytes())
    said = refused("decode", file, "--out", tmp_path / "other")
    assert "torch's instructions AVX1024 (here" in said and "ATEN_CPU_CAPABILITY=avx1024 sets them" in said
    assert said.endswith("decode it on a machine like that, or encode with --portable (nothing was written)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"no command given; give one of encode, decode, show"),
        (("encod", "MODEL"), r"command 'encod' unknown; have decode, encode, show; did you mean 'encode'\?"),
        (("encode", "MODEL", "--out", "x"), r"--images FOLDER and --dataset NAME say what to encode, and neither is given"),
        (("encode", "MODEL", "--out", "x", "--images", "A", "--dataset", "B"), r"and both are given; give one of them"),
        (("encode", "MODEL", "--images", "NOWHERE", "--out", "x"), r"--images 'NOWHERE' not found; give a folder of images"),
        (("encode", "MODEL", "--images", "EMPTY", "--out", "x"), r"--images 'EMPTY' is a folder without files"),
        (("encode", "MODEL", "--images", "TEXT", "--out", "x"), r"'TEXT' cannot be read \(not an image file"),
        (("encode", "MODEL", "--images", "LARGE.png", "--out", "x"), r"'LARGE.png' is 5x3 \(height x width\), the model's images are 4x3;"),
        (("encode", "MODEL", "--images", "PICTURES", "--out", "s3://a/b"), r"--out 's3://a/b' is no local file"),
        (("encode", "MODEL", "--images", "PICTURES", "--out", "EMPTY"), r"--out 'EMPTY' is a folder"),
        (("encode", "MODEL", "--images", "PICTURES", "--out", "no/x"), r"--out 'no/x': there is no folder 'no'; make it"),
        (("encode", "MODEL", "--images", "PICTURES", "--out", "x", "--block", "0"), r"--block 0 is too few"),
        (("encode", "MODEL", "--images", "PICTURES", "--out", "x", "--block", "5000"), r"--block 5000 is too many; give 1024 or fewer"),
        (
            ("encode", "MODEL", "--images", "TWINS", "--out", "x"),
            r"the name 'a.bmp.png' of 'TWINS/a.bmp', decoded, is another image's, too",
        ),
        (
            ("encode", "MODEL", "--images", "A", "--out", "x", "--condition-on", "label"),
            r"--condition-on label: image files have none; give --label",
        ),
        (
            ("encode", "MODEL", "--images", "A", "--out", "x", "--condition-on", "grey"),
            r"--condition-on grey: the model is not conditioned on that",
        ),
        (("encode", "NOWHERE", "--images", "A", "--out", "x"), r"model 'NOWHERE' not found"),
        (("decode", "NOWHERE", "--out", "x"), r"'NOWHERE' not found; give a file that compress.py encoded"),
        (("decode", "PICTURES", "--out", "x"), r"'PICTURES' is a folder; give a file"),
        (("decode", "TEXT", "--out", "x"), r"'TEXT' is no file of images that compress.py encoded"),
        (("decode", "CUT", "--out", "x"), r"'CUT' is cut off or was changed, its checksum does not fit"),
        (("decode", "FILE", "--out", "PICTURES"), r"--out: 'PICTURES' holds '0.png' already; empty it, or give another folder"),
        (("decode", "FILE", "--out", "s3://a/b"), r"--out 's3://a/b' is no local folder"),
        (("show", "CUT"), r"'CUT' is cut off or was changed"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], message: str, folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder.rename("MODEL")
    pictures.rename("PICTURES")
    Path("EMPTY").mkdir()
    Path("TEXT").write_text("no image")
    Path("TWINS").mkdir()
    for name in ("a.bmp", "a.bmp.png"):
        Image.new("L", (3, 4)).save(Path("TWINS") / name)
    Image.new("L", (3, 5)).save("LARGE.png")
    run("encode", "MODEL", "--images", "PICTURES", "--out", "FILE")
    Path("CUT").write_bytes(Path("FILE").read_bytes()[:-1])
    assert re.search(message, refused(*arguments))
    assert not Path("x").exists()


def test_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as end:
            main([flag])
        assert not end.value.code
        said = capsys.readouterr().out
        assert [line.split()[0] for line in said.splitlines()[:3]] == ["encode", "decode", "show"]


def test_a_data_set_that_does_not_fit(folder: Path, of_tiny: Path, tmp_path: Path, storage: Storage) -> None:
    said = refused("encode", folder, "--dataset", "tiny", "--out", tmp_path / "x")
    assert "trained on images of 1x4x3 with 7 levels, data set 'tiny' has 1x4x3 with 4 levels" in said


def test_every_architecture_is_known_by_its_weights(folder: Path) -> None:
    from pixelmodels.compression.weights import sha256_of

    model: PixelModel = load_model(folder)
    before = sha256_of(model)
    assert before == sha256_of(load_model(folder))
    assert len({before, *(sha256_of(model.to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float16))}) == 4
