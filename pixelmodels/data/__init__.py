"""Images in: sources, quantization, Parquet shards with a manifest, and the ways to read them back."""

from __future__ import annotations

from pixelmodels.data.config import SPLITS, DatasetConfig
from pixelmodels.data.dataset import Dataset, Split, find_dataset
from pixelmodels.data.preparation import find_prepared, prepare
from pixelmodels.data.quantization import FIXED_EPOCH, binarize_dynamic, dequantize, quantize
from pixelmodels.data.shards import decode_labels, decode_rows, decode_vectors
from pixelmodels.data.sources import SOURCES
from pixelmodels.data.splits import draw_indices

__all__ = [
    "FIXED_EPOCH",
    "SOURCES",
    "SPLITS",
    "Dataset",
    "DatasetConfig",
    "Split",
    "binarize_dynamic",
    "decode_labels",
    "decode_rows",
    "decode_vectors",
    "dequantize",
    "draw_indices",
    "find_dataset",
    "find_prepared",
    "prepare",
    "quantize",
]
