"""Mistakes of the user's, told in one line, and the exit status they lead to."""

from __future__ import annotations

import atexit
import difflib
import errno
import io
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import unquote, urlsplit


class UserError(Exception):
    """A mistake of the user's: one line that names the value, the choices and the remedy."""


class MachineTrouble(UserError):
    """Something about this machine that its user can mend: no finding about the model or the images that it got in the way of."""


LARGEST_SEED = 2**64 - 1
THREADS_END_S = 10.0  # that a program which was interrupted gives its threads


def check_seed(what: str, seed: int | None) -> None:
    """Raise `UserError` where `what` (`--seed`, or a field) is no seed: every generator takes whole numbers of 64 bits."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{what} {seed} is no seed; give a whole number from 0 to {LARGEST_SEED}")


def check_at_least(options: object, **least: int) -> None:
    """Raise `UserError` for an option that is given and is less than it may be."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise UserError(f"--{name.replace('_', '-')} {value} is too few; give {smallest} or more")


def check_finite(what: str, value: object) -> None:
    """Raise `UserError` where `what` is a number that is none, or an infinite one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{what} {value} is no finite number; give one")


def unknown(kind: str, value: object, choices: Iterable[str], where_none: str = "") -> UserError:
    """The error for a name that is not in a table, with the choices and the nearest of them; `where_none`, what to do if there are none."""
    have = sorted(choices)
    near = difflib.get_close_matches(str(value), have, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; {where_none}" if where_none and not have else ""
    return UserError(f"{kind} '{value}' unknown; have {', '.join(have) or 'none'}{hint}")


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in quotes, and how many more there are than `most`."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


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


def first_line(error: BaseException) -> str:
    """The first line of what an error says (its kind where it says nothing), at most 160 characters."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= 160 else line[:157] + "..."


def one_line(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says, for a message of one line."""
    return without_logins(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": "))


def mistake_in(error: BaseException) -> UserError | None:
    """The mistake of the user's that an error is, or that Ray has wrapped on its way from another process; none where there is none."""
    found: BaseException | None = error
    while found is not None and type(found).__module__.startswith("ray."):
        found = getattr(found, "cause", None) or found.__cause__
    if isinstance(found, OSError) and found.errno == errno.ENAMETOOLONG:  # whichever option it came from, and whoever met it first
        return UserError(f"a path is longer than its file system takes ({first_line(found)}); give a shorter one")
    if isinstance(found, PermissionError) and found.filename is not None:
        return UserError(f"'{found.filename}' may not be read or written ({found.strerror}); change its permissions, or give another place")
    return found if isinstance(found, UserError) else None


def shown(address: str) -> str:
    """An address as messages show it: without user name and password, whatever is in them, and without its query, where others have theirs.

    They are left out of an address that is mistyped, too: one without its scheme or its host. The address of a local file has none of
    these, and is shown as it is.
    """
    if re.match(r"(sqlite|file)(\+\w+)?:///|/(?!/)", address):
        return address
    scheme = re.match(r"([A-Za-z][\w+.-]*:/+)?", address)[0]  # type: ignore[index]  # it matches always
    login, at, place = address.removeprefix(scheme).rpartition("@")
    if "=" in login.partition("?")[2]:  # an @ in a query, or in a password like one
        return f"{scheme}***"
    place, mark, _ = place.partition("?")
    # What is no port is a password, whose host was forgotten.
    place = re.sub(r"^(\[[^\]]*\]|[^:/\[]*):(?!\d*(/|$)).*", r"\1:***", place, flags=re.DOTALL)
    return scheme + ("***@" if at else "") + place + ("?***" if mark else "")


def without_logins(text: str) -> str:
    """A text without the user names and passwords of addresses in it."""
    return re.sub(r"(\w://|(?:\w:/|//)(?=[^\s/\"]*:[^\s/\"]*@))[^\s/\"]*@", r"\1***@", text)


def said_of(address: str, error: BaseException) -> str:
    """The first line of what an error says of an address, or its kind alone where that would tell what is not `shown` of the address."""
    said, known = without_logins(first_line(error)), shown(address)
    with suppress(ValueError):  # whose database it is, is no secret
        parts = urlsplit(address)
        known += f" {parts.username}" if parts.password else ""
    hidden = {word for text in (address, unquote(address)) for word in re.findall(r"\w+", text)}.difference(re.findall(r"\w+", known))
    return type(error).__name__ if any(word in said for word in hidden) else said


def without_files(folder: Path, remedy: str) -> str:
    """Of a folder that has no files of its own: what it has, and the remedy."""
    inside = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not inside:
        return f"is a folder without files; {remedy}"
    more = f" and {len(inside) - 2} more" if len(inside) > 2 else ""
    return (
        f"has no files of its own, only folders ({', '.join(inside[:2])}{more}), which are not gone through; {remedy}, such as one of these"
    )


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Run a pipeline's `main` and leave with its status; a `UserError` is one line and status 2.

    Ctrl-c is status 130, and SIGTERM 143 (see `end_on_sigterm`); threads that wait for what is gone by then do not hold up the end.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8 are printed, too
    try:
        status = main() or 0
    except Exception as error:
        mistake = mistake_in(error)
        if mistake is None:
            raise
        print(f"error: {without_logins(' '.join(str(mistake).split()))}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as end:
        is_told = isinstance(end, Terminated)
        print("ended by SIGTERM" if is_told else "interrupted", file=sys.stderr)
        status = 143 if is_told else 130
        _leave_threads(status)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as ctrl-c does."""


def end_on_sigterm() -> None:
    """Have SIGTERM raise `Terminated` in the main thread, so that what was begun is put in order; elsewhere nothing happens."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _leave_threads(status: int) -> None:
    """End the process where threads that the interpreter would wait for do not end in time."""
    deadline = time.monotonic() + THREADS_END_S
    waited_for = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    for thread in waited_for:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in waited_for):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
