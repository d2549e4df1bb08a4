"""Convolutional LSTMs over rows and diagonals (arXiv:1601.06759, sections 3.1 and 3.2).

A cell's input is its input-to-state map (the gates before the non-linearities: o, f, i, g, each of all hidden
features), made by a masked convolution of the wiring; state-to-state convolutions are inside the cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.base import CausalLayer, Frame, Layer, Place, State, Weights, column
from pixelmodels.layers.channel_groups import Grouped, Groups, group_slices
from pixelmodels.layers.convolution import convolve, init_uniform


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """New hidden state and cell: eq. 3, arXiv:1601.06759, with a tanh content gate."""
    o, f, i, g = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


class _LSTM(Grouped):
    """What all of them share: state-to-state weights of each gate, a learned first state, and features sorted by group."""

    def __init__(self, hidden_groups: Groups, *shape_in: int):
        super().__init__(hidden_groups * 4, hidden_groups * 4)
        self.num_hidden, self.hidden_slices = len(hidden_groups), group_slices(hidden_groups)
        self.weight = nn.Parameter(torch.empty(4 * self.num_hidden, *shape_in))
        init_uniform(self.weight, math.prod(shape_in))
        self.first_hidden = nn.Parameter(torch.zeros(self.num_hidden))
        self.first_cell = nn.Parameter(torch.zeros(self.num_hidden))

    def forward(self, gates_BHWG: Tensor, extra_BHWG: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        return self.scan(gates_BHWG if extra_BHWG is None else gates_BHWG + extra_BHWG)

    def scan(self, gates_BHWG: Tensor) -> Tensor:
        """Hidden states of a whole map from what its pixels give to the gates."""
        raise NotImplementedError


class RowLSTM(_LSTM):
    """Row LSTM: the state of a row comes from the one above (the first state above row 0) by a 1 x `kernel` unmasked convolution."""

    def __init__(self, hidden_groups: Groups, kernel: int = 3):
        super().__init__(hidden_groups, len(hidden_groups), 1, kernel)
        self.side = kernel // 2

    def state_to_state(self, hidden_BWH: Tensor, weight: Tensor) -> Tensor:
        """Gates that a row takes from the hidden states of the row above; zeros beyond its ends."""
        return convolve(F.pad(hidden_BWH, (0, 0, self.side, self.side))[:, None], weight)[:, 0]

    def scan(self, gates_BHWG: Tensor) -> Tensor:
        batch, _, width, _ = gates_BHWG.shape
        hidden, cell = self.first_hidden.expand(batch, width, -1), self.first_cell.expand(batch, width, -1)
        rows = []
        for gates_BWG in gates_BHWG.unbind(1):
            hidden, cell = lstm(gates_BWG + self.state_to_state(hidden, self.weight), cell)
            rows.append(hidden)
        return torch.stack(rows, 1)

    def prepare(self) -> Weights:
        return {"state": self.weight[self.order]}

    def start(self, frame: Frame) -> State:
        shape = (frame.batch, frame.width, self.num_hidden)
        s = {"hidden": self.first_hidden.expand(shape).clone(), "cell": self.first_cell.expand(shape).clone()}
        return {**s, "cell_above": s["cell"].clone(), "pending": frame.zeros(frame.width, 4 * self.num_hidden)}

    def row(self, w: Weights, s: State, extra_BWG: Tensor | None) -> None:
        pending = self.state_to_state(s["hidden"], w["state"])
        s["pending"].copy_(pending if extra_BWG is None else pending + extra_BWG[..., self.order])
        s["cell_above"].copy_(s["cell"])

    def pixel(self, w: Weights, s: State, gates_BG: Tensor, at: Place) -> Tensor:
        mine, c = self.hidden_slices[at.group], at.column
        gates_BG = gates_BG + column(s["pending"], c)[:, self.out_slices[at.group]]
        hidden, cell = lstm(gates_BG, column(s["cell_above"], c)[:, mine])
        column(s["hidden"], c)[:, mine], column(s["cell"], c)[:, mine] = hidden, cell
        return hidden

    def take_row(self, w: Weights, s: State, gates_BKG: Tensor, at: Place) -> Tensor:
        columns = slice(at.column, at.column + gates_BKG.shape[1])
        hidden, cell = lstm(gates_BKG + s["pending"][:, columns][..., self.unsort], s["cell_above"][:, columns])
        s["hidden"][:, columns], s["cell"][:, columns] = hidden, cell
        return hidden


@lru_cache(maxsize=64)
def diagonals(height: int, width: int) -> tuple[list[int], list[int], list[int]]:
    """The pixels of a map (r * width + c) by r + c and then r, each pixel's place in that order, and the number of each r + c."""
    order = sorted(range(height * width), key=lambda i: (i // width + i % width, i // width))
    places = sorted(range(height * width), key=order.__getitem__)
    return order, places, [min(d, height - 1) - max(0, d - width + 1) + 1 for d in range(height + width - 1)]


class _DiagonalLSTM(_LSTM):
    """What the two directions of the Diagonal BiLSTM share: two taps, above and before (the first state before column 0)."""

    def __init__(self, hidden_groups: Groups):
        super().__init__(hidden_groups, 2 * len(hidden_groups))  # taps: the pixel before, the pixel above
        self._diagonals: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor, list[int]]] = {}

    def diagonals(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
        """`diagonals` as tensors on a device, which are made once."""
        key = height, width, device
        if key not in self._diagonals:
            *indices, sizes = diagonals(height, width)
            with torch.inference_mode(False):  # kept for passes with gradients, too
                order, places = (torch.tensor(index, device=device) for index in indices)
            self._diagonals[key] = order, places, sizes
        return self._diagonals[key]

    def scan(self, gates_BHWG: Tensor) -> Tensor:
        """Left-to-right hidden states of a whole map, one diagonal after another: H + W - 1 steps.

        Step d computes the pixels with r + c = d: a column of the map whose row r is skewed by r, without the places
        of it where the skewed map is empty.
        """
        height, width = gates_BHWG.shape[1:3]
        order, places, sizes = self.diagonals(height, width, gates_BHWG.device)
        gates_TBG = gates_BHWG.flatten(1, 2).transpose(0, 1)[order]
        hidden_nBH = self.first_hidden.expand(0, gates_BHWG.shape[0], -1)
        cell_nBH = self.first_cell.expand(0, gates_BHWG.shape[0], -1)
        nothing_1BH = torch.zeros_like(self.first_hidden).expand(1, gates_BHWG.shape[0], -1)
        first_hidden_1BH, first_cell_1BH = (first.expand(1, gates_BHWG.shape[0], -1) for first in (self.first_hidden, self.first_cell))
        before, above = self.weight.split(self.num_hidden, 1)
        taps = torch.cat([before, above])  # both taps of all that the step before left, in one product
        steps = []
        for d, gates_nBG in enumerate(gates_TBG.split(sizes)):
            if d < height:  # a row begins, from its learned first state
                hidden_nBH, cell_nBH = torch.cat([hidden_nBH, first_hidden_1BH]), torch.cat([cell_nBH, first_cell_1BH])
            if d < width:  # the first row is still there: nothing is above it
                hidden_nBH = torch.cat([nothing_1BH, hidden_nBH])
            else:  # the row above the first one has ended
                cell_nBH = cell_nBH[1:]
            from_before, from_above = F.linear(hidden_nBH, taps).chunk(2, -1)
            hidden_nBH, cell_nBH = lstm(gates_nBG + from_before[1:] + from_above[:-1], cell_nBH)
            steps.append(hidden_nBH)
        hidden_BTH = torch.cat(steps)[places].transpose(0, 1)
        return hidden_BTH.unflatten(1, (height, width))

    def prepare(self) -> Weights:
        before, above = self.weight.split(self.num_hidden, 1)
        w = {"before": before.T, "above": above, "first_hidden": self.first_hidden, "first_cell": self.first_cell}
        return w | {f"before{g}": before[self.order[rows]].T.contiguous() for g, rows in enumerate(self.out_slices)}

    def scan_row(self, w: Weights, gates_BWG: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states and cells of columns, left to right: from gates that hold what comes from above, and the state before them."""
        before, steps, cells = w["before"], [], []
        for gates_BG in gates_BWG.unbind(1):
            hidden, cell = lstm(torch.addmm(gates_BG, hidden, before), cell)
            steps.append(hidden)
            cells.append(cell)
        return torch.stack(steps, 1), torch.stack(cells, 1)


class DiagonalLSTM(_DiagonalLSTM):
    """The left-to-right half: the state of (r, c) comes from (r, c-1) and (r-1, c)."""

    def start(self, frame: Frame) -> State:
        width, batch = frame.width, frame.batch
        # one column more: the learned state before column 0
        first = {"hidden": self.first_hidden, "cell": self.first_cell}
        s = {name: torch.cat([value.expand(batch, 1, -1), frame.zeros(width, self.num_hidden)], 1) for name, value in first.items()}
        return {**s, "pending": frame.zeros(width, 4 * self.num_hidden)}

    def row(self, w: Weights, s: State, extra_BWG: Tensor | None) -> None:
        pending = F.linear(s["hidden"][:, 1:], w["above"])
        pending = pending if extra_BWG is None else pending + extra_BWG
        s["pending"].copy_(pending[..., self.order])

    def pixel(self, w: Weights, s: State, gates_BG: Tensor, at: Place) -> Tensor:
        mine, c = self.hidden_slices[at.group], at.column
        gates_BG = gates_BG + column(s["pending"], c)[:, self.out_slices[at.group]]
        gates_BG = torch.addmm(gates_BG, column(s["hidden"], c), w[f"before{at.group}"])
        hidden, cell = lstm(gates_BG, column(s["cell"], c)[:, mine])
        column(s["hidden"], c + 1)[:, mine], column(s["cell"], c + 1)[:, mine] = hidden, cell
        return hidden

    def take_row(self, w: Weights, s: State, gates_BKG: Tensor, at: Place) -> Tensor:
        first, end = at.column, at.column + gates_BKG.shape[1]
        before = column(s["hidden"], first), column(s["cell"], first)
        hidden, cell = self.scan_row(w, gates_BKG + s["pending"][:, first:end][..., self.unsort], *before)
        s["hidden"][:, 1 + first : 1 + end], s["cell"][:, 1 + first : 1 + end] = hidden, cell
        return hidden


class ReversedDiagonalLSTM(_DiagonalLSTM):
    """The right-to-left half, shifted down a row: row r of its output is the scan of row r-1, zeros for row 0."""

    def scan(self, gates_BHWG: Tensor) -> Tensor:
        hidden = super().scan(gates_BHWG.flip(2)).flip(2)
        return F.pad(hidden, (0, 0, 0, 0, 1, 0))[:, :-1]

    def start(self, frame: Frame) -> State:
        return {
            "hidden": frame.zeros(frame.width, self.num_hidden),  # of the row before
            "gates": frame.zeros(frame.width, 4 * self.num_hidden),  # of the row before, then of this row
            "extra": frame.zeros(frame.width, 4 * self.num_hidden),
            "started": frame.zeros(1, 1),  # 1 from row 1 on
        }

    def row(self, w: Weights, s: State, extra_BWG: Tensor | None) -> None:
        self.rows([self], {self: w}, {self: s}, {} if extra_BWG is None else {self: extra_BWG})

    @classmethod
    def rows(
        cls, layers: Sequence[CausalLayer], w: Mapping[Layer, Weights], s: Mapping[Layer, State], extras: Mapping[Layer, Tensor]
    ) -> None:
        """The scans of all layers in one loop over the columns: a step is one product for all of them."""
        by_shape: dict[tuple[int, ...], list[ReversedDiagonalLSTM]] = {}
        for layer in layers:
            assert isinstance(layer, ReversedDiagonalLSTM)
            by_shape.setdefault(tuple(s[layer]["gates"].shape[1:]), []).append(layer)
        for alike in by_shape.values():
            gates_LBWG = torch.stack([layer._gates(w[layer], s[layer]) for layer in alike])
            batch = gates_LBWG.shape[1]
            hidden_LBH, cell_LBH = (torch.stack([w[layer][n].expand(batch, -1) for layer in alike]) for n in ("first_hidden", "first_cell"))
            before_LHG = torch.stack([w[layer]["before"] for layer in alike])
            steps: list[Tensor] = []
            for gates_LBG in reversed(gates_LBWG.unbind(2)):
                hidden_LBH, cell_LBH = lstm(torch.baddbmm(gates_LBG, hidden_LBH, before_LHG), cell_LBH)
                steps.append(hidden_LBH)
            for layer, hidden_BWH in zip(alike, torch.stack(steps[::-1], 2), strict=True):
                layer._end_row(s[layer], hidden_BWH, extras.get(layer))

    def _gates(self, w: Weights, s: State) -> Tensor:
        """What the row before gives to its scan, but for what its pixels take from each other."""
        return s["gates"][..., self.unsort] + s["extra"] + F.linear(s["hidden"], w["above"])

    def _end_row(self, s: State, hidden_BWH: Tensor, extra_BWG: Tensor | None) -> None:
        s["hidden"].copy_(hidden_BWH * s["started"])
        s["started"].fill_(1)
        if extra_BWG is not None:
            s["extra"].copy_(extra_BWG.expand_as(s["extra"]))

    def pixel(self, w: Weights, s: State, gates_BG: Tensor, at: Place) -> Tensor:
        column(s["gates"], at.column)[:, self.out_slices[at.group]] = gates_BG
        return column(s["hidden"], at.column)[:, self.hidden_slices[at.group]]

    def take_row(self, w: Weights, s: State, gates_BKG: Tensor, at: Place) -> Tensor:
        columns = slice(at.column, at.column + gates_BKG.shape[1])
        s["gates"][:, columns] = gates_BKG[..., self.order]
        return s["hidden"][:, columns]
