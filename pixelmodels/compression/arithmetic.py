"""What tables are computed by: what a decoder takes over from a file, and what of its machine has to be as the encoder's was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch

from pixelmodels.compression.tables import MIN_TABLE_BITS, PRECISION
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.sampling.machine import digest_of_sources, processor

DTYPES = {"float32": torch.float32, "float64": torch.float64}
EAGER = "eager"
PATHS = (EAGER,)  # ways to run a model's passes
CHOICES = {"precision": tuple(DTYPES), "path": PATHS}  # of a way's words, in the order by which files number them
MAX_WIDTH, MAX_THREADS, MAX_GRID_BITS = 1024, 256, 40
_HELD = ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES")  # of the environment
# Steps of parameters, as powers of 1/2: far above the rounding of float64, far below what changes a table. A mixture's narrow components
# turn small steps of their means into larger ones of their tables.
_GRID_BITS, _GRID_BITS_OF_MIXTURE = 8, 16
_PORTABLE_TABLE_BITS = 20


@dataclass(frozen=True)
class Way:
    """How tables are computed, by choice: the decoder does the same."""

    precision: str = "float32"  # of the network and of its tables
    width: int = 64  # images of a batch, of which a block is one; those that a block lacks are blank
    threads: int = 1  # of torch
    path: str = EAGER
    grid_bits: int = 0  # the network's parameters are rounded to multiples of 2^-grid_bits; 0: they are not
    table_bits: int = PRECISION  # of the tables' integers

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} '{getattr(self, name)}' is not known here; this version has {', '.join(choices)}")
        for name, least, most in (
            ("width", 1, MAX_WIDTH),
            ("threads", 1, MAX_THREADS),
            ("grid_bits", 0, MAX_GRID_BITS),
            ("table_bits", MIN_TABLE_BITS, PRECISION),
        ):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} {getattr(self, name)} is out of range; give {least}..{most}")

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's numbers."""
        return DTYPES[self.precision]


def usual(model: PixelModel, width: int) -> Way:
    """As the model itself is, by as many threads as torch has here."""
    precision = next((name for name, dtype in DTYPES.items() if dtype == model.dtype), "float32")
    return Way(precision, width, min(torch.get_num_threads(), MAX_THREADS))


def portable(model: PixelModel, width: int) -> Way:
    """The way on which other roundings, of another machine, hardly ever change a table: float64, parameters on a grid, coarser tables."""
    is_mixture = model.likelihood.config.name == "discretized_logistic_mixture"
    grid_bits = _GRID_BITS_OF_MIXTURE if is_mixture else _GRID_BITS
    return Way("float64", width, 1, grid_bits=grid_bits, table_bits=_PORTABLE_TABLE_BITS)


@dataclass(frozen=True)
class Machine:
    """What rounds in a way of its own, and is not chosen by the decoder."""

    device: str  # cpu, or the name of a GPU
    torch_version: str
    numpy_version: str
    capability: str  # instructions that torch uses: DEFAULT, AVX2, AVX512
    isa: str  # what oneDNN, MKL and numpy are held to: the environment's words; empty where it says nothing
    processor: str  # 8 hexadecimal digits of a hash of what the processor can do
    code: str  # 8 hexadecimal digits of a hash of this package's models, layers, likelihoods and passes

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """This one."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        held = ",".join(f"{key}={os.environ[key]}" for key in _HELD if os.environ.get(key))
        kind, _, flags = processor().split(" ")  # without what torch makes of it, which is `capability`
        hashed = hashlib.sha256(f"{kind} {flags}".encode()).hexdigest()[:8]
        capability = torch.backends.cpu.get_cpu_capability()
        return cls(name, str(torch.__version__), np.__version__, capability, held, hashed, digest_of_sources()[:8])

    def differences(self, there: Machine) -> list[str]:
        """How another one, which wrote a file, differs from this one, in words with what can be done about it."""
        told = {
            "device": "device {1} (here {0})",
            "torch_version": "torch {1} (here {0})",
            "numpy_version": "numpy {1} (here {0})",
            "capability": "torch's instructions {1} (here {0}; ATEN_CPU_CAPABILITY={2} sets them)",
            "isa": f"{', '.join(_HELD[:-1])} or {_HELD[-1]} set to '{{1}}' (here '{{0}}')",
            "processor": "another kind of processor",
            "code": "another version of pixelmodels' models or layers",
        }
        pairs = {one.name: (getattr(self, one.name), getattr(there, one.name)) for one in fields(self)}
        return [told[name].format(mine, theirs, theirs.lower()) for name, (mine, theirs) in pairs.items() if mine != theirs]


@contextmanager
def threads(num: int) -> Iterator[None]:
    """Torch with so many threads, and afterwards as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
