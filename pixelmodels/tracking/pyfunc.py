"""A trained pixel model behind MLflow's `predict`: it draws images, and it scores them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from mlflow.pyfunc import PythonModel, PythonModelContext

from pixelmodels.errors import UserError
from pixelmodels.tracking.registry import MODEL_ARTIFACT, NO_LABEL

if TYPE_CHECKING:
    import pandas as pd

    from pixelmodels.models import Context, PixelModel

SCORING_BATCH = 64  # images of one forward pass


class PixelModelPyfunc(PythonModel):
    """What `mlflow.pyfunc.load_model("models:/digits@champion")` returns the `predict` of.

        model.predict(images_NCHW)                                      -> table with nll_nats and bits_per_dim, a row an image
        model.predict(table with columns image and, optionally, label)  -> the same; a data set's Parquet shard can be given as it is
        model.predict(None, params={"n": 16, "seed": 1, "label": 3})    -> 16 images (16, C, H, W), uint8

    `label` of `params` is the class of all images, -1 for none. Images are integers in `[0, levels)`.
    """

    _model: PixelModel

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights; MLflow calls this once."""
        from pixelmodels.models.files import load_model

        self._model = load_model(Path(context.artifacts[MODEL_ARTIFACT])).eval()

    # MLflow reads the hint of `model_input`: of a plain array it makes no schema. Tables, lists and None come as well.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Draw `params["n"]` images if that is above 0, else score the images given; raises `UserError` when there is neither."""
        given = {"n": 0, "seed": 0, "label": NO_LABEL, **(params or {})}
        if given["n"] > 0:
            return self.sample(int(given["n"]), seed=int(given["seed"]), label=int(given["label"]))
        images: Any = model_input
        if images is None or len(images) == 0:
            raise UserError("neither images nor a number of samples given; give images to score, or params={'n': 16} to draw some")
        images_NCHW, labels_N = self._images(images)
        if int(given["label"]) != NO_LABEL:
            labels_N = np.full(len(images_NCHW), int(given["label"]))
        return self.score(images_NCHW, labels_N)

    def sample(self, n: int, *, seed: int = 0, label: int = NO_LABEL) -> npt.NDArray[np.uint8]:
        """Draw `n` images (n, C, H, W), uint8; the same seed draws the same images."""
        from pixelmodels.sampling import sample

        labels_N = None if label == NO_LABEL else np.full(n, label)
        images: npt.NDArray[np.uint8] = sample(self._model, n, seed=seed, context=self._context(labels_N)).cpu().numpy().astype(np.uint8)
        return images

    def score(self, images_NCHW: npt.NDArray[Any], labels_N: npt.NDArray[Any] | None = None) -> pd.DataFrame:
        """Exact negative log-likelihood of each image: columns `nll_nats` (of the whole image) and `bits_per_dim`."""
        import pandas as pd
        import torch

        from pixelmodels.likelihoods.bits import bits_per_dim

        self._check(images_NCHW)
        nll_nats: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(images_NCHW), SCORING_BATCH):
                part = slice(start, start + SCORING_BATCH)
                x_BCHW = torch.from_numpy(np.ascontiguousarray(images_NCHW[part]).astype(np.int64))
                log_prob_B = self._model.log_prob(x_BCHW, self._context(None if labels_N is None else labels_N[part]))
                nll_nats.extend((-log_prob_B.double()).tolist())
        bits = [float(bits_per_dim(nats, self._model.spec.num_subpixels)) for nats in nll_nats]
        return pd.DataFrame({"nll_nats": nll_nats, "bits_per_dim": bits})

    def _context(self, labels_N: npt.NDArray[Any] | None) -> Context | None:
        import torch

        from pixelmodels.models import Context

        if labels_N is None:
            return None
        num_classes = self._model.context_spec.num_classes
        if num_classes == 0:
            raise UserError("this model knows no labels; leave the label out")
        if labels_N.min() < 0 or labels_N.max() >= num_classes:
            raise UserError(f"label {labels_N.min()}..{labels_N.max()} is outside 0..{num_classes - 1}; give one of the model's classes")
        return Context(label_B=torch.from_numpy(labels_N.astype(np.int64)))

    def _images(self, given: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Images and labels out of what `predict` was given: an array, nested lists, or a table."""
        import pandas as pd

        if not isinstance(given, pd.DataFrame):
            return np.asarray(given), None
        if "image" not in given.columns:
            raise UserError(f"no column 'image' among {', '.join(map(str, given.columns))}; give the images in one")
        images_NCHW = np.stack([self._image(value) for value in given["image"]])
        if "label" not in given.columns or given["label"].isna().all() or self._model.context_spec.num_classes == 0:
            return images_NCHW, None
        if given["label"].isna().any():
            raise UserError("some rows have a label and some have none; score them apart")
        return images_NCHW, given["label"].to_numpy().astype(np.int64)

    def _image(self, value: Any) -> npt.NDArray[Any]:
        """One image (C, H, W) from nested lists, an array, or the bytes of a data set's shard (rows, columns, channels)."""
        spec = self._model.spec
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
