"""A GPU that is pretended: tensors that say they are on `cuda:0` and hold real values on the CPU.

Each operation is refused whose tensors are on both devices (as CUDA refuses it: a number or an index may be on the CPU), else it runs on
the CPU, so that results can be compared bit by bit. Each wait of the host for a value of the device is counted by its kind in `waits`.
It cannot see streams, memory, or how a real kernel rounds. `begin` changes torch for good: it is for a process of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import tempfile
from collections import Counter
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Self

_SOURCE = Path(__file__).with_suffix(".cpp")


def _load_hooks() -> None:
    """Compile the hooks for the installed torch, once for each version, and load them: before torch itself is imported."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    key = hashlib.sha256(_SOURCE.read_bytes() + f"{root}{(root / 'version.py').read_text()}".encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"pixelmodels-pretended-{os.getuid()}-{key}.so"
    if not library.exists() or library.stat().st_uid != os.getuid():
        made = library.with_suffix(f".{os.getpid()}")
        paths = [f"-I{root}/include", f"-L{root}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root}/lib"]
        subprocess.run(["g++", "-std=c++20", "-O0", "-shared", "-fPIC", str(_SOURCE), "-o", str(made), *paths], check=True)
        os.replace(made, library)
    ctypes.CDLL(str(library))


_load_hooks()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default, aten._unsafe_index.Tensor}
_VALUES = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}
waits: Counter[str] = Counter()


class Misplaced(RuntimeError):
    """Tensors of both devices in one operation."""


class Pretended(Tensor):
    """A tensor on the device."""

    held: Tensor  # its values

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        options: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": DEVICE}
        made: Pretended = Tensor._make_wrapper_subclass(cls, held.shape, **options)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        waits["tolist"] += 1
        return self.held.tolist()

    def record_stream(self, stream: object) -> None:
        """Its memory belongs to nobody here."""

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """While it is entered, whatever is made on `cuda:0` is `Pretended`."""

    def __enter__(self) -> Self:
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        entered: Self = super().__enter__()
        return entered

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def held(value: Any) -> Any:
    """The values of a tensor, or of those in a list, wherever they are."""
    if isinstance(value, list | tuple):
        return type(value)(map(held, value))
    return value.held if isinstance(value, Pretended) else value


def on_device(module: nn.Module) -> nn.Module:
    """A module whose parameters and buffers are moved, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(Pretended(parameter.detach().clone()), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Pretended(buffer.detach().clone())
    return module


def begin() -> None:
    """Have this process believe in its GPU."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `module.to` makes new parameters
    inference: Any = torch.autograd.grad_mode.inference_mode  # wrappers cannot be inference tensors everywhere
    inference.__enter__ = lambda self: (setattr(self, "instead", torch.no_grad()), self.instead.__enter__())[1]
    inference.__exit__ = lambda self, *error: self.instead.__exit__(*error)
    stream = _Stream()
    stands_in: dict[str, Any] = {
        "_initialized": True,  # so that nobody looks for a driver
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "_exchange_device": lambda _: 0,
        "_maybe_exchange_device": lambda _: 0,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "_get_device_properties": lambda _: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "Stream": lambda *_: stream,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda *_: stream,
    }
    for name, value in stands_in.items():
        setattr(torch.cuda, name, value)
    Tensor.pin_memory = lambda self, device=None: self  # type: ignore[method-assign]


class _Stream:
    def record_event(self) -> _Stream:
        return self

    def wait_event(self, event: object) -> None:
        pass


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the CPU, if a GPU could make it."""
    if func is aten._pin_memory.default:
        return args[0]
    if func is aten.is_pinned.default:
        return False
    tensors = _tensors((*args, *kwargs.values()))
    some_there = any(isinstance(tensor, Pretended) for tensor in tensors)
    target = kwargs.get("device")
    if some_there:
        _check(func, args, tensors)
        _count(func, args, target)
    to_device = some_there if target is None else torch.device(target).type == "cuda"
    if func is aten.copy_.default:
        to_device = isinstance(args[0], Pretended)
    held_kwargs = {name: held(value) for name, value in kwargs.items() if name != "pin_memory"}
    if target is not None:
        held_kwargs["device"] = torch.device("cpu")
    result = func(*map(held, args), **held_kwargs)
    if not to_device:
        return result
    result = _put(result)
    return return_and_correct_aliasing(func, args, kwargs, result) if some_there and _aliases(func) else result


def _tensors(values: Any) -> list[Tensor]:
    """Those among the arguments of an operation, and in their lists."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [one for one in value if isinstance(one, Tensor)]
    return found


def _put(result: Any) -> Any:
    """What an operation made, on the device."""
    if isinstance(result, Tensor):
        return result if isinstance(result, Pretended) else Pretended(result)
    return type(result)(map(_put, result)) if isinstance(result, list | tuple) else result


@cache
def _aliases(func: Any) -> bool:
    """Whether an operation writes to its arguments, or makes views of them."""
    return any(argument.alias_info is not None for argument in func._schema.arguments)


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise `Misplaced` where a tensor of the CPU is among them that must not be.

    That is any but what is copied, an index, and a number that is not changed.
    """
    here = [tensor for tensor in tensors if not isinstance(tensor, Pretended)]
    if func in _COPIES:
        return
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and any(value is one for one in here):
            raise Misplaced(f"{func}: a tensor of the CPU is changed by what is on the device")
    if func in _INDEXING:
        here = [one for one in (args[0], *args[2:3]) if isinstance(one, Tensor) and not isinstance(one, Pretended)]
        if here and here[0] is args[0]:
            raise Misplaced(f"{func}: a tensor of the CPU is indexed by, or filled with, what is on the device")
    if wrong := [tuple(one.shape) for one in here if one.dim()]:
        raise Misplaced(f"{func}: {wrong} on the CPU, {[tuple(one.shape) for one in tensors if isinstance(one, Pretended)]} on the device")


def _count(func: Any, args: Any, target: Any) -> None:
    """Count what makes the host wait."""
    if func in _VALUES:
        waits[str(func)] += 1
    elif func in _COPIES:
        to_cpu = (
            torch.device(target).type == "cpu" if target is not None else func is aten.copy_.default and not isinstance(args[0], Pretended)
        )
        waits["to the CPU"] += to_cpu
    elif func in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        waits["boolean index"] += any(index.dtype == torch.bool for index in indices)
        waits["index from the CPU"] += sum(not isinstance(index, Pretended) for index in indices)


_library = torch.library.Library("_", "IMPL")
_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
