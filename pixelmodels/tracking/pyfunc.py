"""A trained pixel model behind MLflow's `predict`: it draws images, and it scores them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from pixelmodels.errors import UserError
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.class_names import label_of
from pixelmodels.models.context import ABSENT
from pixelmodels.models.files import load_model
from pixelmodels.models.orders import ensemble_log_prob
from pixelmodels.sampling import Request, draw_all
from pixelmodels.shapes import ImageSpec
from pixelmodels.tracking.registry import MODEL_ARTIFACT

SCORING_BATCH = 64  # images of one forward pass


class PixelModelPyfunc(PythonModel):
    """What `mlflow.pyfunc.load_model("models:/digits@champion")` returns the `predict` of.

        model.predict(images_NCHW)                                    -> table with nll_nats and bits_per_dim, a row an image
        model.predict(table with column image)                        -> the same; a data set's Parquet shard can be given as it is
        model.predict(None, params={"n": 16, "seed": 1, "label": 3})  -> 16 images (16, C, H, W), uint8
        model.predict(table without column image, params={"n": 4})    -> 4 images for each row, one row's after the other's

    What the images are conditioned on comes in a table's columns label, vector, context_image (such as a grey one) and small_image
    (sub-sampled); `label` of `params` (or `label_name`), if given, is the class of all images instead. The column may hold names of classes
    as text, too; `models.class_names` says what a text means. Each is optional, as a column and in each row (-1 for a label, or null): the
    model does without. Columns that the model is not conditioned on are left alone. Images are integers in `[0, levels)`.
    """

    _model: PixelModel

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights; MLflow calls this once."""
        self._model = load_model(Path(context.artifacts[MODEL_ARTIFACT])).eval()

    # MLflow reads the hint of `model_input`: of a plain array it makes no schema. Tables, lists and None come as well.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Draw `params["n"]` images if that is above 0, else score the images given; raises `UserError` when there is neither."""
        given = {"n": 0, "seed": 0, "label": ABSENT, "label_name": "", **(params or {})}
        label = int(given["label"])
        if given["label_name"]:
            if label != ABSENT:
                raise UserError(f"label {label} and label_name '{given['label_name']}' are two ways to choose a class; give one of them")
            label = label_of(str(given["label_name"]), self._model.context_spec, ABSENT)
        images: Any = model_input
        table = images if isinstance(images, pd.DataFrame) and len(images) else None
        if given["n"] > 0:
            return self.sample(int(given["n"]), seed=int(given["seed"]), label=label, table=table)
        if images is None or len(images) == 0:
            raise UserError("neither images nor a number of samples given; give images to score, or params={'n': 16} to draw some")
        images_NCHW = _array(images) if table is None else self._images(table)
        return self.score(images_NCHW, self._context(len(images_NCHW), table, label))

    def sample(self, n: int, *, seed: int = 0, label: int = ABSENT, table: pd.DataFrame | None = None) -> npt.NDArray[np.uint8]:
        """Draw `n` images, or `n` for each row of a table of contexts: (images, C, H, W), uint8; the same seed draws the same images.

        64 of them are being drawn at a time: what is kept of the others is their levels.
        """
        num_rows = 1 if table is None else len(table)
        context = self._context(num_rows, table, label)
        contexts = [None if context is None else context.rows(slice(row, row + 1)) for row in range(num_rows)]
        requests = [Request(n=n, seed=seed, first=row * n, context=one) for row, one in enumerate(contexts)]
        images: npt.NDArray[np.uint8] = draw_all(self._model, *requests).numpy()
        return images

    def score(self, images_NCHW: npt.NDArray[Any], context: Context | None = None) -> pd.DataFrame:
        """Exact negative log-likelihood of each image: columns `nll_nats` (of the whole image) and `bits_per_dim`.

        Of a model of several orders under the mixture of all of them, from which `sample` draws.
        """
        self._check(images_NCHW)
        nll_nats: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(images_NCHW), SCORING_BATCH):
                part = slice(start, start + SCORING_BATCH)
                x_BCHW = torch.from_numpy(np.ascontiguousarray(images_NCHW[part]).astype(np.int64))
                log_prob_B = ensemble_log_prob(self._model, x_BCHW, None if context is None else context.rows(part))
                nll_nats.extend((0.0 - log_prob_B.double()).tolist())  # certain is 0, not -0
        bits = [float(bits_per_dim(nats, self._model.spec.num_subpixels)) for nats in nll_nats]
        return pd.DataFrame({"nll_nats": nll_nats, "bits_per_dim": bits})

    def _context(self, num: int, table: pd.DataFrame | None, label: int) -> Context | None:
        """The context of `num` images out of a table's columns, with one label for all of them if it is not -1; None: nothing is given."""
        spec, values = self._model.context_spec, dict[str, Any]()
        columns = set() if table is None else set(table.columns)
        if label != ABSENT:
            values["label_B"] = np.full(num, label)
        elif table is not None and spec.num_classes and "label" in columns:
            values["label_B"] = _stacked(table["label"], np.array(ABSENT), self._label)
        if table is not None and spec.vector_size and "vector" in columns:
            absent = np.full(spec.vector_size, np.nan, np.float32)
            values["vector_BV"] = _stacked(table["vector"], absent, lambda value: np.asarray(value, np.float32))
        for column, image, name in (("context_image", spec.image, "image_BCHW"), ("small_image", spec.small, "small_BCHW")):
            if table is not None and image is not None and column in columns:
                absent = np.full(image.shape, ABSENT, np.int64)
                values[name] = _stacked(table[column], absent, partial(self._image, spec=image))
        return Context(**{name: torch.from_numpy(value) for name, value in values.items()}) if values else None

    def _label(self, value: Any) -> npt.NDArray[Any]:
        """A label as it is, or of the class that a text means."""
        return np.asarray(label_of(value, self._model.context_spec, ABSENT) if isinstance(value, str) else value)

    def _images(self, table: pd.DataFrame) -> npt.NDArray[Any]:
        if "image" not in table.columns:
            raise UserError(f"no column 'image' among {', '.join(map(str, table.columns))}; give the images in one")
        return np.stack(_values(table["image"], self._model.spec.shape, partial(self._image, spec=self._model.spec)))

    @staticmethod
    def _image(value: Any, spec: ImageSpec) -> npt.NDArray[Any]:
        """One image (C, H, W) from nested lists, an array, or the bytes of a data set's shard (rows, columns, channels)."""
        if not isinstance(value, (bytes, bytearray, memoryview)):
            return np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else value)
        if len(value) != spec.num_subpixels:
            raise UserError(
                f"an image of {len(value)} bytes given; this model takes {spec.num_subpixels} ({spec.height}x{spec.width}x{spec.channels})"
            )
        return np.frombuffer(value, np.uint8).reshape(spec.height, spec.width, spec.channels).transpose(2, 0, 1)

    def _check(self, images_NCHW: npt.NDArray[Any]) -> None:
        spec = self._model.spec
        if images_NCHW.ndim != 4 or images_NCHW.shape[1:] != spec.shape:
            raise UserError(f"images of shape {images_NCHW.shape} given; this model takes (images, {', '.join(map(str, spec.shape))})")
        if not np.issubdtype(images_NCHW.dtype, np.integer):
            raise UserError(f"images of type {images_NCHW.dtype} given; give integers in [0, {spec.levels})")
        if images_NCHW.min() < 0 or images_NCHW.max() >= spec.levels:
            raise UserError(f"pixel values {images_NCHW.min()}..{images_NCHW.max()} given; this model takes 0..{spec.levels - 1}")


def _array(given: Any) -> npt.NDArray[Any]:
    """Images that are an array, or nested lists."""
    try:
        return np.asarray(given)
    except ValueError as error:
        raise UserError("images of different shapes given; give one array (images, channels, rows, columns)") from error


def _stacked(column: pd.Series, absent: npt.NDArray[Any], read: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """A column's values as one array, `absent` for null; raises `UserError` where they have another shape, or are no whole numbers."""
    values = _values(column, absent.shape, read, absent)
    stacked = np.stack(values)
    if absent.dtype.kind == "i" and not (stacked == np.floor(stacked)).all():
        raise UserError(f"column '{column.name}' has values that are not whole numbers; give integers")
    return stacked.astype(absent.dtype)


def _values(
    column: pd.Series, shape: tuple[int, ...], read: Callable[[Any], npt.NDArray[Any]], absent: npt.NDArray[Any] | None = None
) -> list[npt.NDArray[Any]]:
    """A column's values as arrays of numbers of one shape, `absent` for null where that may be; raises `UserError` for others."""
    values: list[npt.NDArray[Any]] = []
    for value, missing in zip(column, column.isna(), strict=True):
        try:
            found = absent if missing and absent is not None else read(value)
        except (TypeError, ValueError) as error:
            raise _no_numbers(column, shape) from error
        if found.dtype.kind not in "biuf":
            raise _no_numbers(column, shape)
        if found.shape != shape:
            raise UserError(f"a value of shape {found.shape} is in column '{column.name}'; this model takes {shape}")
        values.append(found)
    return values


def _no_numbers(column: pd.Series, shape: tuple[int, ...]) -> UserError:
    return UserError(f"column '{column.name}' has a value that is no array of numbers; this model takes {shape}")
