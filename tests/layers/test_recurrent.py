"""Rows of several LSTM layers in one go."""

import torch

from pixelmodels.layers.base import Frame
from pixelmodels.layers.recurrent import ReversedDiagonalLSTM

BATCH, WIDTH = 2, 5


def test_scans_of_all_layers_in_one_loop_are_those_of_each_layer():
    torch.manual_seed(0)
    layers = [ReversedDiagonalLSTM(groups).double() for groups in ((0,) * 4, (0,) * 3, (0, 1, 0, 1))]
    for layer in layers:
        torch.nn.init.normal_(layer.first_hidden)
        torch.nn.init.normal_(layer.first_cell)
    frame = Frame(BATCH, 3, WIDTH, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        weights = {layer: layer.prepare() for layer in layers}
        together, alone = ({layer: layer.start(frame) for layer in layers} for _ in range(2))
        for _ in range(3):
            extras = {layers[0]: torch.randn(BATCH, WIDTH, 16, dtype=torch.float64)}
            gates = {layer: torch.randn(BATCH, WIDTH, 4 * layer.num_hidden, dtype=torch.float64) for layer in layers}
            for states in (together, alone):
                for layer in layers:
                    states[layer]["gates"].copy_(gates[layer])
            ReversedDiagonalLSTM.rows(layers, weights, together, extras)
            for layer in layers:
                layer.row(weights[layer], alone[layer], extras.get(layer))
                torch.testing.assert_close(together[layer], alone[layer], rtol=1e-12, atol=1e-12)
    assert all(states["hidden"].abs().max() > 0.1 for states in together.values())
