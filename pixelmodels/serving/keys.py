"""API keys: only their hashes are kept, and comparing tells nothing by how long it takes."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from pixelmodels.errors import UserError

VARIABLE = "PIXELMODELS_API_KEYS"  # hashes, separated by commas or spaces
_HASH = re.compile(r"[0-9a-f]{64}")


def new_key() -> str:
    """A key that nobody guesses: 256 random bits."""
    return f"pm_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """SHA-256, hexadecimal. Keys are random, so that a slow hash with salt would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_hashes(path: Path) -> tuple[str, ...]:
    """Hashes in a file, one a line; what follows a hash on its line, and lines with # in front, are remarks. Raises `UserError`."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the keys in '{path}' cannot be read ({error}); give a file with a hash on each line") from error
    words = [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return checked(words, f"'{path}'")


def hashes_of_environment() -> tuple[str, ...]:
    """Hashes in the variable `PIXELMODELS_API_KEYS`; raises `UserError` for what is none."""
    return checked(os.environ.get(VARIABLE, "").replace(",", " ").split(), VARIABLE)


def checked(words: Iterable[str], place: str) -> tuple[str, ...]:
    """The words of a place in lower case; raises `UserError` where one is no hash."""
    hashes = tuple(word.lower() for word in words)
    for index, word in enumerate(hashes):
        if not _HASH.fullmatch(word):
            raise UserError(f"entry {index + 1} of {place} is no SHA-256 hash; give 64 hexadecimal digits (serve.py --new-key makes a key)")
    return hashes


def is_known(key: str, hashes: Iterable[str]) -> bool:
    """Whether a key has one of the hashes; all of them are compared, each in constant time."""
    mine = hash_of(key)
    known = False
    for one in hashes:
        known |= hmac.compare_digest(mine, one)
    return known
