"""Compiled passes: found again, for other weights too; what cannot be compiled, and where. Their images are tests of the engine."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelmodels.models import PixelModel
from pixelmodels.samples.drawing import draw_requests
from pixelmodels.sampling import Engine, Request, compiled, draw_all
from pixelmodels.sampling.compiled import CannotCompile, CompiledPasses, compiled_or_not
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.passes import Passes
from tests.conformance.conftest import random_context, small_model
from tests.sampling.test_engine import MODELS, NOT_COMPILED, model_of

NAME = "gated_pixelcnn-binary"


def split_into(values: Sequence[Any], lengths: Sequence[int]) -> Iterator[Sequence[Any]]:
    ends = [0, *accumulate(lengths)]
    return (values[first:end] for first, end in pairwise(ends))


def functions(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("*.pt2")}


def test_functions_are_made_once_for_all_weights(compiled_functions: Path) -> None:
    CompiledPasses(model_of(NAME), compiled_functions)
    before = functions(compiled_functions)
    assert len(before) >= 4  # row pass and columns, for one image and for several
    torch.manual_seed(1)
    other = small_model(*MODELS[NAME], levels=6, context="mix")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    request = Request(n=5, seed=2)
    x_NCHW = draw_all(other, request).numpy()
    compiled_x_NCHW = draw_requests(other, [request], make_passes=compiled_or_not)
    assert functions(compiled_functions) == before
    assert (compiled_x_NCHW == x_NCHW).all() and not (x_NCHW == draw_all(model_of(NAME), request).numpy()).all()


@pytest.mark.parametrize(
    ("name", "context"), [*((name, "mix") for name in MODELS if name not in NOT_COMPILED), (NAME, "none"), ("pixelsnail", "none")]
)
def test_what_is_compiled_draws_as_the_passes_do(name: str, context: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all models, and without compiling it: tests marked `compiled` do that."""

    def function(_: object, step: compiled._Step, arguments: tuple[Any, ...], forms: object, single: bool) -> compiled.Run:
        lengths = [len(part) for part in arguments[1:]]

        def run(tensors: list[torch.Tensor]) -> None:
            step(tensors[0], *(list(part) for part in split_into(tensors[1:], lengths)))

        return run

    monkeypatch.setattr(compiled._Maker, "function", function)
    model = small_model(*MODELS[name], context=context)
    requests = [Request(n=3, seed=1), Request(n=1, seed=2)]
    if context != "none":
        requests.append(Request(n=2, seed=3, context=random_context(model, 2, 0)))
    x_NCHW = [draw_all(model, request) for request in requests]
    for options in ({}, {"speculates": lambda width: True}):
        engine = Engine(model, num_slots=3, make_passes=partial(CompiledPasses, cache=tmp_path, speculates=bool(options)), **options)
        for request, expected in zip(requests, x_NCHW, strict=True):
            assert torch.equal(draw_all(engine, request), expected)


@pytest.fixture(autouse=True)
def where(compiled_functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "CACHE", compiled_functions)


@torch.no_grad()
def test_a_number_that_is_not_finite_is_found_in_any_column(compiled_functions: Path) -> None:
    model = model_of(NAME)
    passes = CompiledPasses(model, compiled_functions)
    u_BWU = noise(model, 4, seed=0)[:, 0]
    for column in range(model.spec.width):
        canvas = passes.start(4)
        passes.row(canvas)
        first = next(layer for layer in model.layers() if "pending" in canvas.states[layer])
        canvas.states[first]["pending"][2, column] = torch.nan
        finite = passes.draw(canvas, u_BWU).tolist()
        assert finite[:2] + finite[3:] == [True] * 3 and (not finite[2] or passes.num_columns <= column)


def test_without_a_compiler_models_are_drawn_as_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def none() -> str:
        raise RuntimeError("no g++ here")

    monkeypatch.setattr(compiled, "_compiler", none)
    compiled._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert type(compiled_or_not(model_of(NAME))) is Passes
    assert caplog.messages == ["GatedPixelCNN is drawn without compiled functions: there is no C++ compiler (no g++ here); install g++"]


def test_what_would_take_hours_to_compile_is_drawn_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = model_of(NAME)
    num_layers, count = len(list(model.layers())), compiled._columns_at_once(model)
    monkeypatch.setattr(compiled, "MOST_LAYERS", num_layers * count - 1)
    with pytest.raises(CannotCompile, match=f"{count} columns of {num_layers} layers would take hours to compile"):
        CompiledPasses(model, tmp_path)
    assert type(compiled_or_not(model, tmp_path)) is Passes


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(CannotCompile, match="holds code that is run, and others may write to it; give it to yourself alone"):
        CompiledPasses(model_of(NAME), tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCompile, match="for compiled functions cannot be made"):
        CompiledPasses(model_of(NAME), tmp_path / "file" / "functions")

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(CannotCompile, match=r"cannot be made \(Could not determine home directory"):
        CompiledPasses(model_of(NAME))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "functions"
    monkeypatch.setattr(compiled, "_FAILED", {})
    return folder


def test_what_fails_to_compile_is_drawn_as_ever_and_not_tried_again(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fails(*arguments: object) -> None:
        tries.append(arguments)
        raise OSError("omp.h: No such file or directory")

    monkeypatch.setattr(compiled, "_compile", fails)
    for _ in range(2):
        with pytest.raises(CannotCompile, match=r"its _Row cannot be compiled: OSError, omp\.h: No such file or directory"):
            CompiledPasses(model_of(NAME), own_folder)
    assert len(tries) == 1 and type(compiled_or_not(model_of(NAME), own_folder)) is Passes
    assert not [path.name for path in own_folder.iterdir() if not path.name.endswith(".lock")]


def test_a_damaged_function_is_made_again(own_folder: Path, compiled_functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CompiledPasses(model_of(NAME), compiled_functions)
    made = []

    def copied(step: object, arguments: object, single: bool, path: Path, num_threads: int) -> None:
        made.append(path.name)
        path.write_bytes((compiled_functions / path.name).read_bytes())

    monkeypatch.setattr(compiled, "_compile", copied)
    CompiledPasses(model_of(NAME), own_folder)
    assert len(made) == 4
    (own_folder / made[1]).write_bytes(b"damaged")
    CompiledPasses(model_of(NAME), own_folder)
    assert made[4:] == [made[1]]


def test_weights_that_would_be_compiled_in_are_a_fault_of_ours(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(*MODELS[NAME], levels=6, context="mix")
    head = model.head  # type: ignore[attr-defined]
    prepare = type(head).prepare
    monkeypatch.setattr(type(head), "pixel", lambda self, w, s, x_BC, at: x_BC @ prepare(self)["taps0"])
    with pytest.raises(RuntimeError, match="weights would be compiled in"):
        CompiledPasses(model, own_folder)


def test_the_functions_that_were_not_used_for_longest_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.pt2"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number % 3, 1000 + number % 3))
    (tmp_path / "5.pt2").write_bytes(bytes(1000))  # of this moment: it may be in use
    for name, age in (("building-1", 1000), ("building-2", None), ("1.lock", 1000), ("2.lock", None)):
        (tmp_path / name).mkdir() if name.startswith("building") else (tmp_path / name).touch()
        if age:
            os.utime(tmp_path / name, (age, age))
    monkeypatch.setattr(compiled, "MOST_CACHE_BYTES", 1350)
    compiled._limit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pt2", "2.lock", "2.pt2", "4.pt2", "5.pt2", "building-2"]


def test_kinds_are_apart_where_any_stage_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model of several stages, only the first of which can be compiled."""
    model = model_of("multiscale_pixelrnn")

    def make_passes(part: PixelModel) -> Passes:
        passes = Passes(part)
        if part is model.stages()[0].model:
            passes.num_columns = part.spec.width
        return passes

    engine = Engine(model, make_passes=make_passes)
    assert (
        engine._kind((0.0, 1.0, 1.0)) == "plain" and engine._kind((0.0, 0.9, 1.0)) == "shaped" and engine._kind((1.0, 1.0, 1.0)) == "guided"
    )
    assert Engine(model)._kind((0.0, 0.9, 1.0)) == "plain"


def test_a_folder_that_cannot_be_written_to_is_told_and_what_it_holds_is_used(
    own_folder: Path, compiled_functions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    CompiledPasses(model_of(NAME), compiled_functions)
    monkeypatch.setattr(compiled.os, "utime", read_only)
    monkeypatch.setattr(compiled.fcntl, "flock", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(CannotCompile, match=f"folder '{own_folder}' cannot be written to .*Read-only"):
        CompiledPasses(model_of(NAME), own_folder)
    CompiledPasses(model_of(NAME), compiled_functions)
