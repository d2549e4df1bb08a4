"""Not imported by the library: MLflow copies this file into a model's artifacts and runs it to make the model, without pickles."""

import sys
from pathlib import Path

from mlflow.models import set_model

# MLflow puts the folder of the model's code on the path; Python reads a package from an archive too, if that is named itself.
sys.path[:0] = [str(archive) for folder in sys.path if (archive := Path(folder) / "pixelmodels.zip").is_file()]

from pixelmodels.tracking.pyfunc import PixelModelPyfunc  # noqa: E402

set_model(PixelModelPyfunc())
