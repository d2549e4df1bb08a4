"""Numbers, texts and arrays out of a pickle, without running any of it: for data sets that are published as pickles.

A pickle is a program for a small stack machine (the opcodes are described in Python's `pickletools`). Here the opcodes that make
numbers, texts, lists, tuples and dictionaries are understood, and the names by which NumPy's arrays are saved, and bytes by Python 3 at
protocol 2: as a text, of which `_codecs.encode` makes them. None of these is called or imported: what they would make is written down.
Everything else is refused. Long runs of bytes stay in the file.
"""

from __future__ import annotations

import codecs
import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_UINT8 = np.dtype(np.uint8)
LONG = 1 << 16  # bytes from which on a run of bytes stays in the file
_MOST_READ = 1 << 24  # bytes of a pickle outside such runs
_MOST_ENCODED = 1 << 29  # bytes of texts that stand for bytes: these are held in memory
_ENCODED_AT_A_TIME = 1 << 20
_LONGEST_NAME = 100  # bytes
_ARRAY_MAKERS = ("_reconstruct", "_frombuffer")
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_NAMES = ("ndarray", "dtype", *_ARRAY_MAKERS)
_ENCODE = ("_codecs", "encode")


@dataclass(frozen=True)
class Span:
    """A run of bytes that was left in the file."""

    start: int
    num_bytes: int
    is_text: bool = False  # UTF-8


@dataclass
class SavedArray:
    """An array, and where its values are."""

    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = _UINT8
    is_fortran: bool = False
    data: bytes | Span = b""

    def open(self, stream: IO[bytes]) -> IO[bytes]:
        """Its values, from the file that `stream` reads."""
        if isinstance(self.data, bytes):
            return io.BytesIO(self.data)
        stream.seek(self.data.start)
        return stream


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass
class _SavedType:
    code: str
    order: str = "|"

    def dtype(self) -> np.dtype[Any]:
        dtype = np.dtype(f"{'=' if self.order == '|' else self.order}{self.code}")
        if dtype.kind not in "iufb":
            raise ValueError(f"values of type {dtype}")
        return dtype


_MARK = object()
# Opcodes that push a number: how many bytes follow, and how they are read.
_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
# Opcodes that push text or bytes: how their length is written, and whether it is text.
_RUNS = {
    b"U": ("<B", False),  # a text of Python 2, whatever it holds
    b"T": ("<i", False),
    b"X": ("<I", True),
    b"\x8c": ("<B", True),
    b"\x8d": ("<Q", True),
    b"B": ("<I", False),
    b"C": ("<B", False),
    b"\x8e": ("<Q", False),
    b"\x96": ("<Q", False),
}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_TUPLES = {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3}


def read_pickled(stream: IO[bytes], num_bytes: int) -> Any:
    """What a pickle of `num_bytes` holds: dictionaries (keys as text), lists, tuples, texts, bytes, numbers and `SavedArray`.

    Raises `ValueError` for what is cut short, too large, or anything else than that.
    """
    try:
        return _Reader(stream, num_bytes).run()
    except (IndexError, TypeError, struct.error, KeyError, OverflowError, UnicodeError, RecursionError) as error:
        raise ValueError(f"no pickle of plain numbers and texts ({type(error).__name__})") from error


def read_batch(stream: IO[bytes], num_bytes: int, label_keys: Sequence[str]) -> tuple[SavedArray, list[npt.NDArray[np.int64]]]:
    """Images and labels of a pickle with a dictionary of `data` (images x pixels, uint8) and some lists of labels, one for each image.

    Raises `ValueError` for anything else.
    """
    batch = read_pickled(stream, num_bytes)
    if not isinstance(batch, dict) or (lacking := [key for key in ("data", *label_keys) if key not in batch]):
        found = f"it lacks {', '.join(lacking)}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
        raise ValueError(f"no dictionary of {', '.join(('data', *label_keys))}: {found}")
    data = batch["data"]
    if not isinstance(data, SavedArray) or data.dtype != np.uint8 or len(data.shape) != 2 or data.is_fortran:
        raise ValueError("its data are no uint8 array of images x pixels")
    labels = []
    for key in label_keys:
        values = batch[key]
        if isinstance(values, SavedArray) and len(values.shape) == 1 and values.dtype.kind in "iu" and values.shape[0] <= data.shape[0]:
            values = np.frombuffer(values.open(stream).read(values.shape[0] * values.dtype.itemsize), values.dtype).tolist()
        if not isinstance(values, list) or not all(type(value) is int and abs(value) < 1 << 31 for value in values):
            raise ValueError(f"its {key} are no list of whole numbers")
        if len(values) != data.shape[0]:
            raise ValueError(f"{len(values)} {key} for {data.shape[0]} images")
        labels.append(np.array(values, np.int64))
    return data, labels


def text_of(value: Any) -> str:
    """A text of Python 2 or 3; raises `ValueError` for anything else."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise ValueError(f"{type(value).__name__} where a text should be")


class _Reader:
    def __init__(self, stream: IO[bytes], num_bytes: int) -> None:
        self.stream, self.end = stream, stream.tell() + num_bytes
        self.num_read, self.num_encoded = 0, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self._take(1)) != b".":
            self._do(code)
        if len(self.stack) != 1:
            raise ValueError(f"{len(self.stack)} things at its end, not one")
        return self.stack[0]

    def _do(self, code: bytes) -> None:
        stack = self.stack
        if code in _NUMBERS:
            stack.append(self._number(_NUMBERS[code]))
        elif code in _RUNS:
            stack.append(self._run(*_RUNS[code]))
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _TUPLES:
            num = _TUPLES[code]
            self._replace(num, tuple(stack[len(stack) - num :]))
        elif code in b"qrhj\x94":
            self._remember(code)
        elif code == b"(":
            stack.append(_MARK)
        elif code == b"t":
            stack.append(tuple(self._since_mark()))
        elif code == b"}":
            stack.append({})
        elif code == b"]":
            stack.append([])
        elif code in b"ae":
            values = [stack.pop()] if code == b"a" else self._since_mark()
            self._top(list).extend(values)
        elif code in b"su":
            values = [stack.pop(), stack.pop()][::-1] if code == b"s" else self._since_mark()
            self._top(dict).update(zip(map(text_of, values[::2]), values[1::2], strict=True))
        elif code in b"c\x93":
            stack.append(self._name(code))
        elif code == b"R":
            arguments, name = stack.pop(), stack.pop()
            stack.append(self._encoded(*arguments) if name == _Name(_ENCODE[1]) else _made(name, arguments))
        elif code == b"b":
            state = stack.pop()
            _set_state(stack[-1], state)
        elif code == b"\x80":
            self._take(1)  # the protocol: what it adds is known by its opcodes
        elif code == b"\x95":
            self._take(8)  # the length of a frame
        elif code == b"\x8a":
            stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))
        else:
            raise ValueError(f"opcode {code!r}: more than plain numbers and texts, and no pickle is ever executed")

    def _take(self, num: int) -> bytes:
        self.num_read += num
        if self.num_read > _MOST_READ:
            raise ValueError(f"more than {_MOST_READ} bytes of numbers and texts")
        data = self.stream.read(num)
        if len(data) != num:
            raise ValueError("it ends in the middle")
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _run(self, form: str, is_text: bool) -> str | bytes | Span:
        num = self._number(form)
        start = self.stream.tell()
        if not 0 <= num <= self.end - start:
            raise ValueError("it ends in the middle")
        if num < LONG:
            data = self._take(num)
            return data.decode() if is_text else data
        self.stream.seek(start + num)
        return Span(start, num, is_text)

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        """The bytes that a text stands for, each of them a character."""
        if encoding != "latin1" or not (isinstance(text, str) or (isinstance(text, Span) and text.is_text)):
            raise TypeError
        self.num_encoded += len(text) if isinstance(text, str) else text.num_bytes  # a text may be asked for again and again
        if self.num_encoded > _MOST_ENCODED:
            raise ValueError(f"more than {_MOST_ENCODED} bytes as text; save it anew, with pickle.dump(..., protocol=4)")
        if isinstance(text, str):
            return text.encode("latin1")
        place, left, data, decoder = self.stream.tell(), text.num_bytes, bytearray(), codecs.getincrementaldecoder("utf-8")()
        self.stream.seek(text.start)
        while left:
            piece = self.stream.read(min(left, _ENCODED_AT_A_TIME))
            if not piece:
                raise ValueError("it ends in the middle")
            left -= len(piece)
            data += decoder.decode(piece, final=not left).encode("latin1")
        self.stream.seek(place)
        return bytes(data)

    def _remember(self, code: bytes) -> None:
        if code == b"\x94":
            self.memo[len(self.memo)] = self.stack[-1]
            return
        place = self._number("<B" if code in b"qh" else "<I")
        if code in b"qr":
            self.memo[place] = self.stack[-1]
        else:
            self.stack.append(self.memo[place])

    def _name(self, code: bytes) -> _Name:
        if code == b"c":
            module, name = self._line(), self._line()
        else:
            name, module = self.stack.pop(), self.stack.pop()
        if (module, name) != _ENCODE and (module not in _MODULES or name not in _NAMES):
            raise ValueError(f"it asks for {str(module)[:40]}.{str(name)[:40]}, and no pickle is ever executed")
        return _Name(name)

    def _line(self) -> str:
        line = b""
        while (byte := self._take(1)) != b"\n":
            line += byte
            if len(line) > _LONGEST_NAME:
                raise ValueError("it asks for a name without end, and no pickle is ever executed")
        return line.decode()

    def _since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            if place == 0:
                raise ValueError("no mark")
            place -= 1
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def _replace(self, num: int, value: Any) -> None:
        if num > len(self.stack):
            raise IndexError
        del self.stack[len(self.stack) - num :]
        self.stack.append(value)

    def _top(self, kind: type[Any]) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError
        return self.stack[-1]


def _made(name: Any, arguments: Sequence[Any]) -> SavedArray | _SavedType:
    """What a call of one of NumPy's names would make, written down."""
    if name == _Name("dtype"):
        return _SavedType(text_of(arguments[0]))
    if name == _Name("_reconstruct"):
        return SavedArray()
    if name == _Name("_frombuffer"):
        data, saved, shape, order = arguments
        return _array(shape, saved, text_of(order) == "F", data)
    told = f"{name!r:.60}" if isinstance(name, _Name) else f"a {type(name).__name__}"  # which may hold itself, or thousands of others
    raise ValueError(f"it calls {told}, and no pickle is ever executed")


def _set_state(made: Any, state: Sequence[Any]) -> None:
    if isinstance(made, _SavedType):
        made.order = text_of(state[1])
        return
    if not isinstance(made, SavedArray):
        raise TypeError
    _, shape, saved, is_fortran, data = state
    made.__dict__.update(_array(shape, saved, is_fortran, data).__dict__)


def _array(shape: Any, saved: Any, is_fortran: Any, data: Any) -> SavedArray:
    if not isinstance(saved, _SavedType) or not isinstance(data, (bytes, Span)) or (isinstance(data, Span) and data.is_text):
        raise TypeError
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise TypeError
    dtype, num_bytes = saved.dtype(), data.num_bytes if isinstance(data, Span) else len(data)
    if math.prod(shape) * dtype.itemsize != num_bytes:
        raise ValueError(f"{num_bytes} bytes for an array shaped {tuple(shape)}")
    return SavedArray(tuple(shape), dtype, bool(is_fortran) and len(shape) > 1, data)
