"""CIFAR-100: 60,000 RGB images of 32x32 in 100 classes, or in their 20 coarse ones, in train and test; binary or Python version.

Format: as CIFAR-10's (`cifar10.py`), with two labels in front of each image: the coarse one, then the fine one.
"""

from __future__ import annotations

from collections.abc import Mapping

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.sources.cifar10 import CIFAR10


class CIFAR100(CIFAR10):
    """Source `cifar100`; keys are `test/0000000` and `train/0000000`, in the order of the files. Variant `coarse`: the 20 classes."""

    name = "cifar100"
    about = "the page 'The CIFAR-10 dataset' (cs.toronto.edu/~kriz/cifar.html: CIFAR-100), in the binary or the Python version"
    variants = ("fine", "coarse")
    split_of: Mapping[str, str] = {"train": "train", "test": "test"}
    label_keys: Mapping[str, int] = {"coarse_labels": 20, "fine_labels": 100}

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config)
        variant = self.variant or "fine"
        self.label_key = f"{variant}_labels"
        self.names_key = f"{variant}_label_names"
        self.name_files = (f"{variant}_label_names.txt", "meta")
