"""Columns of a row as compiled functions: what pixel passes and draws cost without Python between their operations.

A function draws a few columns, from any one on, of a row whose row pass was made: the pixel pass of each and the draw from its parameters,
in place. It is traced (`torch.export`), compiled as C++ by Inductor ahead of time (AOTInductor) and kept on disk. Weights are among its
inputs, so that it serves all weights of an architecture. There is one for a single image, and one for any number; and for each phase of
the strides whose rows differ. What is compiled rounds otherwise than what is not: in float32 a draw may flip now and then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from itertools import chain, product
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

from pixelmodels.errors import first_line
from pixelmodels.layers.base import Layer, Place, Recent, State, Weights, column
from pixelmodels.layers.wiring import PixelPass
from pixelmodels.models import PixelModel
from pixelmodels.models.context_encoder import Features, PositionLinear
from pixelmodels.models.registry import describe
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.machine import digest_of_sources, processor
from pixelmodels.sampling.passes import Passes, in_phase, row_pass
from pixelmodels.sampling.speculation import no_guesses, settle

logger = logging.getLogger(__name__)
CACHE = Path("~/.cache/pixelmodels/compiled")
MOST_CACHE_BYTES = 2 << 30  # the functions that were not used for longest are removed beyond it
MOST_PASSES = 6  # pixel passes that are one function: more take longer to compile, fewer cost more calls
MOST_LAYERS = 600  # of all passes that are one function: 392 take some minutes, 824 hours
PART_OF_ROW = 16  # columns of a round that does not take in the whole row; strides divide it
_ENDING, _LOCK = ".pt2", ".lock"
_BUILDING = "building-"  # begins the name of a folder in which something is being compiled
_IN_USE_S = 24 * 3600  # for which a function that was used is not removed
_FAILED: dict[str, str] = {}  # functions that this process could not make, and why: it does not try again

Run = Callable[[list[Tensor]], object]
Names = tuple[tuple[int, str], ...]  # of tensors: the number of their layer, in the order of the model's, and the name that it has for it


class CannotCompile(Exception):
    """Why there are no compiled functions of a model."""


class NotMade(Exception):
    """A function is not in the folder, and was to be compiled by nobody."""


class _Baked(RuntimeError):
    """A layer makes a pass from weights that are not among those that it prepared: other weights would be drawn as these."""


class CompiledPasses(Passes):
    """Passes whose row pass is one compiled function, and whose columns are drawn by a few calls of another one.

    Args: `cache`, the folder of compiled functions, `~/.cache/pixelmodels/compiled` unless given; `num_threads` that the functions use,
    those of torch unless given; `speculates`, whether there are rounds of guesses, too; `instead`, raised where a function is not there,
    in place of compiling it. Raises `CannotCompile`, also for a folder that will not do.
    """

    def __init__(
        self,
        model: PixelModel,
        cache: Path | None = None,
        num_threads: int | None = None,
        *,
        speculates: bool = False,
        instead: CannotCompile | NotMade | None = None,
    ):
        super().__init__(model)
        _check_can_compile(model)
        self._counts = _counts(model)
        self.count = _columns_at_once(model)
        self.num_columns = model.spec.width // self.count * self.count
        self._rows, self._columns = dict[tuple[int, bool], _Function](), dict[tuple[int, bool], _Function]()
        self._rounds = dict[tuple[int, bool], list[_Function]]()
        folder = _folder(cache)
        with torch.no_grad(), _Maker(folder, num_threads or torch.get_num_threads(), instead) as maker:
            for phase, single in product(sorted({_same_phase(phase) for phase in range(model.period)}), (True, False)):
                canvas = self.start(1 if single else 3)
                canvas.phase = phase
                context = self.context_of_row(canvas)
                row, columns = _Row(model, phase, context), _Columns(model, phase, self.count)
                self._rows[phase, single] = _Function(row, self, canvas, _row_inputs(canvas, context), single, maker)
                super().row(canvas)
                self._columns[phase, single] = _Function(columns, self, canvas, _example(model, canvas), single, maker)
                if speculates:
                    canvas.guesses = no_guesses(model, len(canvas.row_B))
                    inputs, rounds = _guess_inputs(canvas), [_Round(model, phase, count) for count in self._counts]
                    self._rounds[phase, single] = [_Function(one, self, canvas, inputs, single, maker) for one in rounds]
        _limit(folder)

    @torch.no_grad()
    def row(self, canvas: Canvas) -> None:
        context = self.context_of_row(canvas)
        self._rows[_same_phase(canvas.phase), len(canvas.row_B) == 1](canvas, _row_inputs(canvas, context))

    @torch.no_grad()
    def draw(self, canvas: Canvas, u_BWU: Tensor, known_BWC: Tensor | None = None, mask_BW: Tensor | None = None) -> Tensor:
        if self not in canvas.views:
            canvas.views[self] = (_nothing(canvas),)
        ((no_levels_BWC, no_BW),) = canvas.views[self]
        finite_B = torch.ones(len(canvas.row_B), dtype=torch.bool)
        known_BWC, mask_BW = no_levels_BWC if known_BWC is None else known_BWC, no_BW if mask_BW is None else mask_BW
        inputs = _column_inputs(canvas, finite_B, known_BWC, mask_BW, u_BWU)
        self._columns[_same_phase(canvas.phase), len(canvas.row_B) == 1](canvas, inputs, range(0, self.num_columns, self.count))
        return finite_B

    @torch.no_grad()
    def settle(self, canvas: Canvas, first: int) -> None:
        width = self.model.spec.width
        place = next(place for place, count in enumerate(self._counts) if count >= width - first)
        run = self._rounds[_same_phase(canvas.phase), len(canvas.row_B) == 1][place]
        run(canvas, _guess_inputs(canvas), (width - self._counts[place],))


def compiled_or_not(
    model: PixelModel,
    cache: Path | None = None,
    num_threads: int | None = None,
    *,
    speculates: bool = False,
    instead: CannotCompile | NotMade | None = None,
) -> Passes:
    """Compiled passes of a model, or those that are always right where there can be none, which is said once for each reason.

    Args: as of `CompiledPasses`. Raises `NotMade` where that is what is raised `instead`.
    """
    try:
        return CompiledPasses(model, cache, num_threads, speculates=speculates, instead=instead)
    except CannotCompile as error:
        _say_once(f"{type(model).__name__} is drawn without compiled functions: {error}")
        return Passes(model)


@lru_cache(maxsize=100)
def _say_once(text: str) -> None:
    logger.warning(text)


def _row_inputs(canvas: Canvas, context: Features) -> list[Tensor]:
    return [canvas.above_BWC, canvas.shifted_BWC, *(value.contiguous() for value in context.values())]


def _nothing(canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Levels and mask of a row of which nothing is known."""
    return torch.zeros_like(canvas.x_BWC), torch.zeros(canvas.x_BWC.shape[:2], dtype=torch.bool)


def _example(model: PixelModel, canvas: Canvas) -> list[Tensor]:
    """Inputs of columns, of the form of those that will be given."""
    batch, width = canvas.x_BWC.shape[:2]
    u_BWU = torch.full((batch, width, model.likelihood.num_uniforms), 0.5, dtype=torch.float64)
    return _column_inputs(canvas, torch.ones(batch, dtype=torch.bool), *_nothing(canvas), u_BWU)


def _column_inputs(canvas: Canvas, finite_B: Tensor, known_BWC: Tensor, mask_BW: Tensor, u_BWU: Tensor) -> list[Tensor]:
    inputs = [canvas.shifted_BWC, canvas.x_BWC, finite_B, known_BWC.contiguous(), mask_BW.contiguous(), u_BWU.contiguous()]
    if canvas.direct_BWP is not None:
        inputs.append(canvas.direct_BWP.expand(-1, canvas.above_BWC.shape[1], -1).contiguous())
    return inputs


def _guess_inputs(canvas: Canvas) -> list[Tensor]:
    return [canvas.shifted_BWC, canvas.x_BWC, *canvas.guesses.values()]


# --- what is compiled ---


class _Step(nn.Module):
    """A part of a row; `names` are those of the weights and the states that it uses, of its model's layers."""

    names: tuple[Names, Names]

    def __init__(self, model: PixelModel, phase: int):
        super().__init__()
        self._model = (model,)  # in a tuple: its parameters are none of this module's
        self.phase = phase

    @property
    def model(self) -> PixelModel:
        """The model, of which nothing but its wiring and its buffers is used."""
        return self._model[0]

    def of_layers(self, tensors: Sequence[Tensor], names: Names) -> dict[Layer, dict[str, Tensor]]:
        """Tensors by layer and name."""
        layers = list(self.model.layers())
        found: dict[Layer, dict[str, Tensor]] = {layer: {} for layer in layers}
        for (number, name), tensor in zip(names, tensors, strict=True):
            found[layers[number]][name] = tensor
        return found

    def run(self, w: Mapping[Layer, Weights], s: Mapping[Layer, State], inputs: Sequence[Tensor], first: int, num_rows: int) -> None:
        """Change inputs and states in place; `first` is the first column, `num_rows` as in a `Place`."""
        raise NotImplementedError

    def forward(self, numbers: Tensor, inputs: list[Tensor], weights: list[Tensor], states: list[Tensor]) -> None:
        """What is traced. Args: `numbers`, the first column, and the rows that are final."""
        first, num_rows = cast(list[int], numbers.tolist())
        torch._check(num_rows >= 0)
        torch._check(num_rows <= self.model.spec.height)
        self.run(self.of_layers(weights, self.names[0]), self.of_layers(states, self.names[1]), inputs, first, num_rows)


class _Row(_Step):
    """The row pass; `takers` are those whose features of the context it is given, in their order."""

    def __init__(self, model: PixelModel, phase: int, takers: Iterable[PositionLinear]):
        super().__init__(model, phase)
        self._takers = tuple(takers)

    def run(self, w: Mapping[Layer, Weights], s: Mapping[Layer, State], inputs: Sequence[Tensor], first: int, num_rows: int) -> None:
        above_BWC, shifted_BWC, *context = inputs
        features: Features = dict(zip(self._takers, context, strict=True))
        row_pass(self.model, in_phase(self.model, self.phase), w, s, self.phase, above_BWC, shifted_BWC, features)


class _Columns(_Step):
    """Pixel passes and draws of `count` columns."""

    def __init__(self, model: PixelModel, phase: int, count: int):
        super().__init__(model, phase)
        self.count = count

    def run(self, w: Mapping[Layer, Weights], s: Mapping[Layer, State], inputs: Sequence[Tensor], first: int, num_rows: int) -> None:
        shifted_BWC, x_BWC, finite_B, known_BWC, mask_BW, u_BWU, *direct = inputs
        model = self.model
        torch._check(first >= 0)
        torch._check(first <= x_BWC.shape[1] - self.count)
        recent: Recent = {}
        for offset in range(self.count):
            c = first + offset
            for channel in range(model.spec.channels):
                if not channel or model.num_groups > 1:
                    at = Place(self.phase, c, channel, shifted_BWC, offset=offset, num_rows=num_rows, recent=recent)
                    params_BP = model.here(PixelPass(w, s, at), column(shifted_BWC, 1 + c))
                    if direct:
                        direct_BP = column(direct[0], c)
                        params_BP = params_BP + (direct_BP if model.num_groups == 1 else direct_BP[:, model.params_of_group[channel]])
                    finite_B &= torch.isfinite(params_BP).all(1)
                x_B = model.likelihood.draw(params_BP, channel, column(x_BWC, c), column(u_BWU, c))
                x_B = torch.where(column(mask_BW, c), column(known_BWC[..., channel], c), x_B.to(torch.uint8))
                column(x_BWC[..., channel], c).copy_(x_B)
                column(shifted_BWC[..., channel], 1 + c).copy_(x_B.to(shifted_BWC.dtype) * model.spec.step - 1)
        for layer, inputs_BC in recent.items():
            layer.keep(s[layer], first // layer.resolution, inputs_BC)


class _Round(_Step):
    """A round of guessed columns, `count` of them."""

    def __init__(self, model: PixelModel, phase: int, count: int):
        super().__init__(model, phase)
        self.count = count

    def run(self, w: Mapping[Layer, Weights], s: Mapping[Layer, State], inputs: Sequence[Tensor], first: int, num_rows: int) -> None:
        shifted_BWC, x_BWC, *guesses = inputs
        named = dict(zip(no_guesses(self.model, 1), guesses, strict=True))
        if self.count == self.model.spec.width:
            first = 0
        else:
            torch._check(first >= 0)
            torch._check(first <= x_BWC.shape[1] - self.count)
        settle(self.model, w, s, Place(self.phase, first, 0, shifted_BWC, num_rows=num_rows), self.count, x_BWC, named)


class _Touched(dict[str, Tensor]):
    """A layer's tensors, and the names of those that were asked for."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__(tensors)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)


def _touched(step: _Step, passes: Passes, canvas: Canvas, inputs: Sequence[Tensor]) -> tuple[Names, Names]:
    """Which weights and which states a step uses."""
    weights = {layer: _Touched(own) for layer, own in passes.weights.items()}
    states = {layer: _Touched(own) for layer, own in canvas.states.items()}
    step.run(weights, states, inputs, 0, 0)

    def names(of: dict[Layer, _Touched]) -> Names:
        return tuple((number, name) for number, own in enumerate(of.values()) for name in own if name in own.names)

    return names(weights), names(states)


class _Maker:
    """Finds functions in a folder, or compiles them there; a context, in which the compiler's own files are in a folder that is removed.

    Those would else be in a folder of all processes, below a name that anybody may have taken before.
    """

    def __init__(self, folder: Path, num_threads: int, instead: CannotCompile | NotMade | None = None):
        self._folder, self._num_threads, self._instead = folder, num_threads, instead
        self._stack = ExitStack()
        self._begun = False

    def __enter__(self) -> _Maker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def function(self, step: _Step, arguments: tuple[Any, ...], forms: Sequence[object], single: bool) -> Run:
        """The function of a step, ready to run; raises `CannotCompile`, and what is raised in place of compiling it."""
        name = self._name(step, forms, single)
        path = self._folder / f"{name}{_ENDING}"
        if (found := _load(path)) is not None:  # without the lock, which another process has for as long as it compiles the function
            return found
        if self._instead is not None:
            raise self._instead
        try:
            return self._made(step, arguments, single, name, path)
        except OSError as error:
            raise CannotCompile(f"folder '{self._folder}' cannot be written to ({first_line(error)})") from error

    def _made(self, step: _Step, arguments: tuple[Any, ...], single: bool, name: str, path: Path) -> Run:
        with _locked(self._folder / f"{name}{_LOCK}"):
            if (found := _load(path)) is not None:
                return found
            if why := _FAILED.get(name):
                raise CannotCompile(why)
            if not self._begun:
                logger.warning("compiling the passes of %s, which takes a minute or some, once", type(step.model).__name__)
                scratch = tempfile.TemporaryDirectory(prefix=_BUILDING, dir=self._folder, ignore_cleanup_errors=True)
                self._stack.enter_context(temporary_cache_dir(self._stack.enter_context(scratch)))
                self._begun = True
            try:
                _compile(step, arguments, single, path, self._num_threads)
                made = _load(path)
            except _Baked:
                raise
            except Exception as error:
                made, _FAILED[name] = None, f"its {type(step).__name__} cannot be compiled: {type(error).__name__}, {first_line(error)}"
            if made is None:
                raise CannotCompile(_FAILED.setdefault(name, f"its {type(step).__name__} was compiled, and cannot be loaded"))
            return made

    def _name(self, step: _Step, forms: Sequence[object], single: bool) -> str:
        made_of = {
            "step": [type(step).__name__, {name: value for name, value in vars(step).items() if isinstance(value, int)}, step.names],
            "model": {name: value for name, value in describe(step.model).items() if name != "context"},
            "forms": [str(form) for form in forms],
            "single": single,
            "threads": self._num_threads,
            "torch": torch.__version__,
            "processor": processor(),
            "sources": digest_of_sources(),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def _load(path: Path) -> Run | None:
    """A function of a file; None where there is none, or none that can be run here, which is removed."""
    if not path.exists():
        return None
    with suppress(OSError):  # others may have made it, in a folder that is read only
        os.utime(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            run: Run = torch._inductor.aoti_load_package(str(path)).loader.boxed_run
        return run
    except Exception:
        with suppress(OSError):
            path.unlink()
        return None


class _Function:
    """A step as a compiled function, made or found in a folder; for a single image, or any number of them from two on.

    Args: `canvas` and `inputs`, of the form of those that will be given.
    """

    def __init__(self, step: _Step, passes: Passes, canvas: Canvas, inputs: list[Tensor], single: bool, maker: _Maker):
        step.names = _touched(step, passes, canvas, inputs)
        layers = list(passes.weights)
        self._height = passes.model.spec.height
        self._states = [(layers[number], name) for number, name in step.names[1]]
        self._weights = [passes.weights[layers[number]][name] for number, name in step.names[0]]
        arguments = (torch.tensor([0, 0]), inputs, self._weights, self._states_of(canvas))
        self._forms = [_form(one) for one in chain(*arguments[1:])]
        self._run = maker.function(step, arguments, self._forms, single)

    def __call__(self, canvas: Canvas, inputs: list[Tensor], firsts: Iterable[int] = (0,)) -> None:
        """Run it, from each of some columns on."""
        if self not in canvas.views:
            kept = (*self._weights, *self._states_of(canvas))
            self._check([*inputs, *kept])
            canvas.views[self] = (kept,)
        (kept,) = canvas.views[self]
        num_rows = self._height if canvas.num_rows is None else canvas.num_rows
        for first in firsts:
            self._run([_numbers(first, num_rows), *inputs, *kept])

    def _check(self, tensors: Sequence[Tensor]) -> None:
        if [_form(one) for one in tensors] != self._forms:
            raise RuntimeError("a compiled function was given tensors of another form than it was compiled for")

    def _states_of(self, canvas: Canvas) -> list[Tensor]:
        return [canvas.states[layer][name] for layer, name in self._states]


@lru_cache(maxsize=10_000)
def _numbers(first: int, num_rows: int) -> Tensor:
    """A tensor that nobody writes to."""
    return torch.tensor([first, num_rows])


def _compiler() -> str:
    """The name of the C++ compiler; raises where there is none."""
    return str(get_cpp_compiler())


def _check_can_compile(model: PixelModel) -> None:
    """Raise `CannotCompile` where there is no compiler, images are narrower than what is compiled, or it would take hours."""
    if model.device.type != "cpu":
        raise CannotCompile(f"functions are compiled for CPUs, and the model is on {model.device}")
    if model.period > model.spec.width:
        narrow = f"images of {model.spec.width} columns are narrower than the {model.period} after which its strides repeat"
        raise CannotCompile(narrow)
    num_layers = sum(1 for _ in model.layers())
    if num_layers * _columns_at_once(model) * model.num_groups > MOST_LAYERS:
        raise CannotCompile(f"{_columns_at_once(model)} columns of {num_layers} layers would take hours to compile")
    try:
        _compiler()
    except Exception as error:
        raise CannotCompile(f"there is no C++ compiler ({first_line(error)}); install g++") from error


def _form(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    """What a compiled function takes for granted: all but the number of images."""
    return tensor.shape[1:], tensor.stride()[1:], tensor.dtype


def _compile(step: _Step, arguments: tuple[Any, ...], single: bool, path: Path, num_threads: int) -> None:
    """Trace and compile; the file is there whole or not at all."""
    batch = None if single else {0: torch.export.Dim("batch", min=2, max=1 << 16)}
    _, inputs, weights, states = arguments
    shapes = (None, [batch] * len(inputs), [None] * len(weights), [batch] * len(states))
    with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=path.parent) as scratch, warnings.catch_warnings(action="ignore"):
        program = torch.export.export(step, arguments, dynamic_shapes=shapes, strict=False)
        if baked := [name for name, value in program.constants.items() if isinstance(value, Tensor) and value.is_floating_point()]:
            raise _Baked(f"weights would be compiled in: {', '.join(baked)}")
        program = program.run_decompositions(_OF_ONE_IMAGE if single else _OF_SEVERAL)
        # without its patterns: one would put together again what `_product_and_sum` took apart
        options = {"cpp.threads": num_threads, "pattern_matcher": False}
        made = torch._inductor.aoti_compile_and_package(program, package_path=f"{scratch}/made{_ENDING}", inductor_configs=options)
        os.replace(made, path)


def _product_and_sum(bias: Tensor, x_BI: Tensor, weight_IO: Tensor) -> Tensor:
    """`addmm` as a product and a sum, which is compiled together with what comes after it: `addmm` copies what is added first."""
    return bias + x_BI @ weight_IO


def _vector_times_matrix(bias: Tensor, x_1I: Tensor, weight_IO: Tensor) -> Tensor:
    """`addmm` of one row as a sum, which is compiled together with what comes before and after it."""
    return bias + (x_1I.transpose(0, 1) * weight_IO).sum(0, keepdim=True) if x_1I.shape[0] == 1 else NotImplemented


def _convolution_of_a_row(x_1CHW: Tensor, weight_OCHK: Tensor, bias: Tensor | None = None, *options: Any) -> Tensor:
    """A convolution that makes one row of one image as a product: oneDNN would lay out its weights anew at each call."""
    _, channels, rows, columns = weight_OCHK.shape
    if options or x_1CHW.shape[:3] != (1, channels, rows):  # with a stride, or of several rows
        return NotImplemented
    windows_WI = x_1CHW[0].unfold(2, columns, 1).permute(2, 0, 1, 3).flatten(1)
    y_WO = windows_WI @ weight_OCHK.flatten(1).T
    return (y_WO if bias is None else y_WO + bias).T[None, :, None]


_OF_SEVERAL = {torch.ops.aten.addmm.default: _product_and_sum}
_OF_ONE_IMAGE = {torch.ops.aten.addmm.default: _vector_times_matrix, torch.ops.aten.conv2d.default: _convolution_of_a_row}


def _columns_at_once(model: PixelModel) -> int:
    """Columns of one call: a multiple of the strides' period, that leaves none over where it can."""
    period, width = model.period, model.spec.width
    if period > 1:
        return period
    return next(count for count in range(max(1, MOST_PASSES // model.num_groups), 0, -1) if width % count == 0)


def _counts(model: PixelModel) -> tuple[int, ...]:
    """Columns that a round may take in, the fewest first: a part of the row, or all of it."""
    width = model.spec.width
    return (PART_OF_ROW, width) if PART_OF_ROW < width == model.padded(width) else (width,)


def _same_phase(phase: int) -> int:
    """The first phase whose rows fire the same layers: those that as many halvings leave even."""
    return phase & -phase


# --- the folder of compiled functions ---


def _folder(cache: Path | None) -> Path:
    """The folder, made where it is not there; raises `CannotCompile` where somebody else could write code into it."""
    try:
        folder = (cache or CACHE).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:  # of a user without a home
        raise CannotCompile(f"folder '{cache or CACHE}' for compiled functions cannot be made ({first_line(error)})") from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CannotCompile(f"folder '{folder}' holds code that is run, and others may write to it; give it to yourself alone (chmod 700)")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _limit(folder: Path) -> None:
    """Remove the functions that were not used for longest, as long as all take too much, and what killed compilations left.

    What was used within `_IN_USE_S` stays: another process may be about to load it.
    """
    found, left, old = list[tuple[float, int, Path]](), MOST_CACHE_BYTES, time.time() - _IN_USE_S
    with suppress(OSError):
        for path in folder.iterdir():
            status = path.stat()
            if path.name.endswith(_ENDING):
                found.append((status.st_mtime, status.st_size, path))
            elif path.name.endswith(_LOCK) and status.st_mtime < old:
                path.unlink(missing_ok=True)
            elif path.name.startswith(_BUILDING) and status.st_mtime < old:
                shutil.rmtree(path, ignore_errors=True)
    for used, size, path in sorted(found, reverse=True):
        left -= size
        if left < 0 and used < old:
            with suppress(OSError):
                path.unlink()
