"""Images of one stage that are drawn in lockstep over columns, each at a row of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.models.base import Stage
from pixelmodels.models.context import join_contexts, order_alone
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.choosing import Choice
from pixelmodels.sampling.passes import Passes
from pixelmodels.sampling.raster import KnownRow, draw_row
from pixelmodels.sampling.request import Drawing
from pixelmodels.sampling.speculation import first_open, guess_row, no_guesses, num_steps

MOST_PARTS = 64  # views of runs of slots that are kept


@dataclass(frozen=True)
class DrawnRow:
    """One more row of an image."""

    drawing: Drawing
    row: int  # of the stage
    levels_CW: npt.NDArray[np.uint8]
    finite: bool  # whether the parameters were


class Lane:
    """Up to `num_slots` images of one stage: slots are rows of the canvases' tensors, and row passes are of the first `width` of them.

    The width is the smallest of `widths` that holds all images; images beyond it move into free slots at the row
    boundary. A slot without an image (below the width) repeats what the slot of another image held.
    The canvases are allocated once, with all slots, when images join a lane that has none, and are let go with its last image.
    Guided images have two canvases, with their context and without. Where the width is one of those that `speculates` names, rows are
    guessed: an image goes on to its next row as soon as its own is settled (all at once in a model with strides).
    """

    def __init__(
        self,
        stage: Stage,
        passes: Passes,
        widths: tuple[int, ...],
        *,
        guided: bool = False,
        speculates: Callable[[int], bool] = lambda width: False,
    ):
        self.stage, self.model, self.every = stage, stage.model, stage.every
        self.passes, self.widths, self.guided, self.speculates = passes, widths, guided, speculates
        self._may_speculate = any(map(speculates, widths))
        self.height = stage.model.spec.height
        self._clear()

    def _clear(self) -> None:
        self._within = set[Drawing]()  # images that are in the middle of a row that was guessed
        self._slots: list[Drawing | None] = []
        self._row = np.zeros(0, dtype=np.int64)  # of each slot, as the canvases have it
        self._canvases: list[Canvas] = []  # of all slots
        self._running: list[Canvas] = []  # views of the first `width` slots

    @property
    def drawings(self) -> list[Drawing]:
        """The images that have a slot here."""
        return [drawing for drawing in self._slots if drawing is not None]

    @property
    def may_join(self) -> bool:
        """Whether the next row of all images here has the phase of row 0."""
        return not self._canvases or self._canvases[0].phase == 0

    def num_ending(self, num_rows: int) -> int:
        """Images that have at most so many rows of this stage before them."""
        at_end = self._row >= self.height - num_rows
        return sum(drawing is not None and bool(ends) for drawing, ends in zip(self._slots, at_end, strict=True))

    def remove(self, gone: Callable[[Drawing], bool]) -> None:
        """Free the slots of some of the images."""
        self._slots = [None if drawing is not None and gone(drawing) else drawing for drawing in self._slots]
        self._within.intersection_update(self.drawings)
        if not any(self._slots):
            self._clear()

    @torch.inference_mode()
    def join(self, drawings: Iterable[Drawing]) -> list[DrawnRow]:
        """Take images in at row 0, or below those rows at their top that are wholly known: these are done, and returned.

        An image all of whose rows are known gets no slot. Whole periods of rows are taken so, the others with everybody's.
        """
        drawn: list[DrawnRow] = []

        def num_taken(drawing: Drawing) -> int:
            num_known = drawing.num_leading_known(self.every)
            return num_known if num_known == self.height else num_known - num_known % self.model.period

        for num_rows, same in groupby(sorted(drawings, key=num_taken), num_taken):
            group = list(same)
            canvases = self._start(group)
            for row in range(num_rows):
                drawn += self._draw(group, canvases, np.full(len(group), row))
            if num_rows < self.height:
                self._place(group, canvases, num_rows)
        return drawn

    def _start(self, group: list[Drawing]) -> list[Canvas]:
        x_BCHW = torch.from_numpy(np.stack([drawing.x_CHW for drawing in group])).to(self.model.device)
        given = join_contexts([drawing.context for drawing in group])
        canvases = [
            self.passes.start(len(group), self.stage.context(one, x_BCHW))
            for one in ((given, order_alone(given)) if self.guided else (given,))
        ]
        if self._may_speculate:
            canvases[0].guesses = no_guesses(self.model, len(group))
        return canvases

    def _place(self, group: list[Drawing], canvases: list[Canvas], row: int) -> None:
        """Put images that begin into free slots. The first ones of all make the canvases, with every slot that there may be."""
        if not self._canvases:
            num_slots = self.widths[-1]
            self._slots, self._row = [None] * num_slots, np.full(num_slots, self.height)  # a slot beyond the last row holds nothing yet
            is_full = len(group) == num_slots
            self._canvases = canvases if is_full else [canvas.empty(num_slots) for canvas in canvases]
        free = [slot for slot, drawing in enumerate(self._slots) if drawing is None][: len(group)]
        if self._canvases is not canvases:
            index_N = torch.tensor(free, device=self.model.device)
            for canvas, joining in zip(self._canvases, canvases, strict=True):
                canvas.write(index_N, joining)
        for slot, drawing in zip(free, group, strict=True):
            self._slots[slot] = drawing
        self._row[free] = row

    def _width(self, num_images: int) -> int:
        return next(width for width in self.widths if width >= num_images)

    def step(self) -> list[DrawnRow]:
        """Every image's next row, and more of some where rows are guessed; those that are at the end of the stage leave."""
        if not self._canvases:
            return []
        with torch.inference_mode():
            self._compact()
            width = self._running[0].row_B.shape[0]
            speculates = self.speculates(width)
            if speculates or self._within:  # where rows are not guessed any more, those that were begun are ended before
                drawn = self._guess(width, together=not speculates or self.model.period > 1)
            else:
                drawn = self._draw(self._slots[:width], self._running, self._row[:width])
                self._row[:width] += 1
        for canvas, running in zip(self._canvases, self._running, strict=True):
            canvas.phase = running.phase
        ended = {one.drawing for one in drawn if self._is_last(one)}
        self.remove(lambda drawing: drawing in ended)
        return drawn

    def _is_last(self, row: DrawnRow) -> bool:
        return row.row == self.height - 1 or not row.finite

    def _guess(self, width: int, *, together: bool) -> list[DrawnRow]:
        """Rounds until every image has a row more; `together`, where none begins another row before, and none is left in the middle of one.

        A round is of all slots: where an image has a final row it has begun the next one, or what is recorded would not stay as it is.
        """
        (running,) = self._running
        images = {slot: drawing for slot, drawing in enumerate(self._slots[:width]) if drawing is not None}
        within = [slot for slot, drawing in images.items() if drawing in self._within]
        behind, begin = set(images), [slot for slot in images if slot not in within]
        all_at_once = [range(width)] if self.model.period > 1 else []  # rows of one phase: none is begun yet
        settled, drawn = running.guesses["settled"].tolist(), list[DrawnRow]()
        while behind:
            for run in (all_at_once or runs(begin)) if begin else ():
                self._begin(run, self._part(run))
            for slot in begin:
                settled[slot] = 0
            within += begin
            running.num_rows = int(max(self._row[slot] for slot in within))
            self.passes.settle(running, min(first_open(self.model, settled[slot]) for slot in within))
            settled = running.guesses["settled"].tolist()
            begin, ended = [], [slot for slot in within if settled[slot] == num_steps(self.model)]
            if not ended or (together and len(ended) < len(within)):
                continue
            rows = [row for run in all_at_once or runs(ended) for row in self._end(run, self._part(run))]
            within = [slot for slot in within if slot not in ended]
            behind.difference_update(ended)
            over = {row.drawing for row in rows if self._is_last(row)}
            begin = [slot for slot in ended if images[slot] not in over]
            drawn += rows
        self._within = {images[slot] for slot in within}
        return drawn

    def _part(self, run: range) -> Canvas:
        """The canvas of a run of slots, none of which is beyond the width."""
        (running,) = self._running
        if len(run) == len(running.row_B):
            return running
        if run not in self._parts:
            if len(self._parts) >= MOST_PARTS:
                self._parts.clear()
            self._parts[run] = running.take(slice(run.start, run.stop))
        return self._parts[run]

    def _begin(self, run: range, part: Canvas) -> None:
        """The next rows of a run of slots."""
        self.passes.row(part)
        given = self._given([self._slots[slot] for slot in run], self._row[run.start : run.stop])
        guess_row(part, self.model.spec, *(torch.from_numpy(one) for one in given))

    def _end(self, run: range, part: Canvas) -> list[DrawnRow]:
        """The rows of a run of slots, which are settled; those of slots without an image are as good as any."""
        self.passes.commit(part)
        rows = self._keep([self._slots[slot] for slot in run], self._row[run.start : run.stop], part.x_BWC, part.guesses["finite"])
        self._row[run.start : run.stop] += 1
        return rows

    def _compact(self) -> None:
        """Move images from beyond the width into free slots below it; see to it that no slot below it is beyond the last row."""
        width = self._width(len(self.drawings))
        beyond = [slot for slot in range(width, len(self._slots)) if self._slots[slot] is not None]
        free = [slot for slot in range(width) if self._slots[slot] is None][: len(beyond)]
        self._copy(free, beyond)
        for to, slot in zip(free, beyond, strict=True):
            self._slots[to], self._slots[slot] = self._slots[slot], None
        stale = [slot for slot in range(width) if self._slots[slot] is None and self._row[slot] >= self.height]
        alive = next(slot for slot in range(width) if self._slots[slot] is not None)
        self._copy(stale, [alive] * len(stale))
        if not self._running or self._running[0].row_B.shape[0] != width:
            self._running = [canvas.take(slice(width)) for canvas in self._canvases]
            self._parts = dict[range, Canvas]()

    def _copy(self, to: list[int], slots: list[int]) -> None:
        if to:
            index_N, from_N = (torch.tensor(one, device=self.model.device) for one in (to, slots))
            for canvas in self._canvases:
                canvas.write(index_N, canvas.take(from_N))
            self._row[to] = self._row[slots]

    def _draw(self, slots: Sequence[Drawing | None], canvases: list[Canvas], row_B: npt.NDArray[np.int64]) -> list[DrawnRow]:
        """One row of the canvases' images, kept in those images that there are."""
        device = self.model.device
        u_BWU, x_BWC, mask_BW = self._given(slots, row_B)
        options_of_any = next(drawing.options for drawing in slots if drawing is not None)
        options = [options_of_any if drawing is None else drawing.options for drawing in slots]
        known = KnownRow.of(x_BWC, mask_BW, device, counts_B=np.array([drawing is not None for drawing in slots]))
        u = torch.from_numpy(u_BWU).to(device)
        for canvas in canvases:
            canvas.num_rows = int(max(row_B[slot] for slot, drawing in enumerate(slots) if drawing is not None))
        finite_B = draw_row(self.passes, canvases, u, Choice.of(options, device), known)
        return self._keep(slots, row_B, canvases[0].x_BWC, finite_B)

    def _given(
        self, slots: Sequence[Drawing | None], row_B: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Noise of the slots' rows (B W U), levels that are known (B W C), and which pixels are."""
        channels, _, columns = self.model.spec.shape
        u_BWU = np.zeros((len(slots), columns, self.model.likelihood.num_uniforms))
        x_BWC = np.zeros((len(slots), columns, channels), dtype=np.uint8)
        mask_BW = np.zeros((len(slots), columns), dtype=np.bool_)
        for slot, drawing in enumerate(slots):
            if drawing is not None:
                r = row_B[slot] * self.every
                u_BWU[slot] = drawing.u_HWU[r, :: self.every]
                if drawing.known_HW is not None:
                    x_BWC[slot] = drawing.x_CHW[:, r, :: self.every].T
                    mask_BW[slot] = drawing.known_HW[r, :: self.every]
        return u_BWU, x_BWC, mask_BW

    def _keep(self, slots: Sequence[Drawing | None], row_B: npt.NDArray[np.int64], x_BWC: Tensor, finite_B: Tensor) -> list[DrawnRow]:
        """The slots' rows, written to those images that there are."""
        drawn = torch.cat([x_BWC.flatten(1), finite_B[:, None]], 1).cpu().numpy()  # in one: the host waits for a row once
        x_BCW, rows = drawn[:, :-1].reshape(x_BWC.shape).transpose(0, 2, 1), list[DrawnRow]()
        for slot, drawing in enumerate(slots):
            if drawing is not None:
                drawing.x_CHW[:, row_B[slot] * self.every, :: self.every] = x_BCW[slot]
                rows.append(DrawnRow(drawing, int(row_B[slot]), x_BCW[slot], bool(drawn[slot, -1])))
        return rows


def runs(slots: Sequence[int]) -> Iterator[range]:
    """Slots, in order, as runs of those that follow one another."""
    for _, run in groupby(enumerate(sorted(slots)), lambda one: one[1] - one[0]):
        first, *others = [slot for _, slot in run]
        yield range(first, first + 1 + len(others))
