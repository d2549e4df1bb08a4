"""EMNIST as its IDX files: handwritten digits and letters, grey, 28x28, in train and test, in six ways of making classes of them.

Format: Cohen, Afshar, Tapson and van Schaik, arXiv:1702.05373: MNIST's, but that each image is stored with rows and columns exchanged.
It is put right here. Names of classes are those of the file `emnist-<set>-mapping.txt`, else as the paper has them: the labels of
the letters, 1..26, are classes a..z.
"""

from __future__ import annotations

import functools
import posixpath
import re
import string
from dataclasses import replace

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.packed import Contents, Part
from pixelmodels.data.recognition import EMNIST_FILE
from pixelmodels.data.sources.mnist import MNIST
from pixelmodels.errors import UserError

_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"  # small letters that look like their capitals are with these
# The classes of each set, in the order of its labels.
SETS = {
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": string.ascii_lowercase,
    "digits": string.digits,
    "mnist": string.digits,
}
_FIRST_LABEL = {"letters": 1}  # of the others 0


class EMNIST(MNIST):
    """Source `emnist`; keys are `train/0000000` and `test/0000000`, in the order of the files."""

    name = "emnist"
    about = "the page 'The EMNIST Dataset' (nist.gov/itl/products-and-services/emnist-dataset, binary format)"
    variants = tuple(SETS)
    axes = "WH"

    def __init__(self, config: DatasetConfig) -> None:
        folder, _, last = (config.path or "").rpartition("/")
        if file := re.fullmatch(EMNIST_FILE, last):  # one file stands for its set
            if config.variant not in (None, file["set"]):
                raise UserError(f"'{config.path}' is of EMNIST's '{file['set']}', and --variant {config.variant} is given; leave one out")
            config = replace(config, path=folder or posixpath.curdir, variant=file["set"])
        super().__init__(config)

    def parts(self) -> list[Part]:
        return [self.part(split, f"emnist-{self.set_name}-{split}") for split in ("train", "test")]

    def look(self, part: Part) -> Contents:
        contents, first, num_classes = super().look(part), _FIRST_LABEL.get(self.set_name, 0), len(SETS[self.set_name])
        if contents.labels is None or part.labels is None:
            return contents
        labels = [label - first for label in contents.labels if label is not None]
        if min(labels, default=0) < 0 or max(labels, default=0) >= num_classes:
            wrong = next(label for label in labels if not 0 <= label < num_classes) + first
            raise self.bad(part.labels, f"label {wrong} is not in {first}..{first + num_classes - 1}")
        return replace(contents, labels=labels)

    @property
    def names_file(self) -> str:  # type: ignore[override]
        """The file that names the classes of the set; optional."""
        return f"emnist-{self.set_name}-mapping.txt"

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        classes, first = SETS[self.set_name], _FIRST_LABEL.get(self.set_name, 0)
        if not self.storage.is_file(self.names_file):
            return tuple(classes)
        try:  # lines of a label and the codes of the characters that it stands for
            lines = [list(map(int, line.split())) for line in self.read_bytes(self.names_file).decode("ascii").splitlines() if line.strip()]
            names = {numbers[0] - first: chr(numbers[-1]) for numbers in lines}
        except (ValueError, IndexError, OverflowError) as error:
            raise self.bad(self.names_file, "it is no list of labels and codes of characters") from error
        if set(names) != set(range(len(classes))):
            raise self.bad(self.names_file, f"it does not name the labels {first}..{first + len(classes) - 1}")
        return tuple(names[label] for label in range(len(classes)))

    @functools.cached_property
    def set_name(self) -> str:
        """The set that is asked for, or the only one that is there."""
        if self.variant is not None:
            return self.variant
        with self.reading(""):
            sets = sorted({file["set"] for name in self.storage.list() if (file := re.fullmatch(EMNIST_FILE, name))})
        if len(sets) > 1:
            raise UserError(f"'{self.storage.root}' holds EMNIST's {', '.join(sets)}; give --variant NAME, such as --variant {sets[0]}")
        return sets[0] if sets else "balanced"
