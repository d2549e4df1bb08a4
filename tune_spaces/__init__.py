"""Search spaces of `pipelines/tune.py`: a new one is a file here and a line in `SPACES`."""

from __future__ import annotations

SPACES = {
    "architectures": "tune_spaces.architectures:Architectures",
    "gated_pixelcnn": "tune_spaces.pixelcnn:GatedPixelCNNSpace",
    "optimizer": "tune_spaces.optimizer:OptimizerSpace",
    "pixelcnn": "tune_spaces.pixelcnn:PixelCNNSpace",
    "pixelcnn_pp": "tune_spaces.pixelcnn_pp:PixelCNNPPSpace",
    "pixelrnn": "tune_spaces.pixelrnn:PixelRNNSpace",
    "pixelsnail": "tune_spaces.pixelsnail:PixelSNAILSpace",
}
