"""Mistakes of the user's, told in one line, and the exit status they lead to."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(Exception):
    """A mistake of the user's: one line that names the value, the choices and the remedy."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is not in a table, with the choices and the nearest of them."""
    have = sorted(choices)
    near = difflib.get_close_matches(str(value), have, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return UserError(f"{kind} '{value}' unknown; have {', '.join(have) or 'none'}{hint}")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that something found no room in memory, of the machine or of a GPU."""
    import torch  # here: this module is imported where torch is not needed

    texts = ("can't allocate memory", "not enough memory")  # a plain `RuntimeError` on the CPU
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def device_failed(error: BaseException) -> bool:
    """Whether an accelerator failed: whatever is asked of it afterwards fails, too. Memory that is short is no such failure."""
    texts = ("CUDA error", "HIP error", "cuDNN error", "CUBLAS_STATUS", "device-side assert")
    if lacks_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (isinstance(error, RuntimeError) and any(text in str(error) for text in texts))


def one_line(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says, for a message of one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Run a pipeline's `main` and leave with its status; a `UserError` is one line and status 2."""
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
