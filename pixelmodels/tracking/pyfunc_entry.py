"""Not imported by the library: MLflow copies this file into a model's artifacts and runs it to make the model, without pickles."""

from mlflow.models import set_model

from pixelmodels.tracking.pyfunc import PixelModelPyfunc

set_model(PixelModelPyfunc())
