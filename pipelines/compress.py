"""Write images into one file without loss, by a model's likelihood, and back: `python pipelines/compress.py --help`.

python pipelines/compress.py encode models:/digits/1 --images my_digits/ --out digits.pxc
python pipelines/compress.py decode digits.pxc --out decoded/
python pipelines/compress.py show digits.pxc
"""

from __future__ import annotations

from pixelmodels.commandline import parse_one
from pixelmodels.compression.compress import decode, encode, show
from pixelmodels.compression.options import Decode, Encode, Show
from pixelmodels.errors import exit_with
from pixelmodels.runs.loading import find_model
from pixelmodels.storage import Storage

COMMANDS = {"encode": Encode, "decode": Decode, "show": Show}


def main(argv: list[str] | None = None) -> int:
    """Print where the file or folder is, or what is in a file; status 0."""
    options = parse_one(COMMANDS, argv)
    if isinstance(options, Encode):
        storage = Storage(options.storage)
        print(encode(options, find_model(options.model, storage), storage))
    elif isinstance(options, Decode):
        print(decode(options, Storage(options.storage)))
    elif isinstance(options, Show):
        print("\n".join(show(options)))
    return 0


if __name__ == "__main__":
    exit_with(main)
