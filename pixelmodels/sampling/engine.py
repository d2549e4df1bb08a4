"""The raster engine: exact samples for many requests at once, each beginning when it arrives (continuous batching)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.models.context import Given
from pixelmodels.products import products
from pixelmodels.sampling.lane import DrawnRow, Lane
from pixelmodels.sampling.passes import Passes
from pixelmodels.sampling.raster import evaluating
from pixelmodels.sampling.request import Drawing, Request, checked, draw_again, drawing_of
from pixelmodels.sampling.waiting import QueueFull, WaitingList

__all__ = ["Engine", "NotFinite", "QueueFull", "Request", "RowDone", "draw_all", "sample"]


_PLAIN, _SHAPED, _GUIDED = "plain", "shaped", "guided"  # kinds of drawings


@dataclass(frozen=True)
class RowDone:
    """One row of an image is final."""

    request_id: int
    image: int  # index in its request, 0..n-1
    stage: int  # 0 unless the model draws an image in several passes
    row: int  # of the stage's image, turned as the order has it
    levels_CW: npt.NDArray[np.uint8]  # this row of the stage's pixels
    is_last: bool  # the image is finished
    image_CHW: Tensor | None  # the whole image where it is finished, or is drawn again from now on, uint8, turned back
    order: int = 0  # by which the image is turned while it is drawn: `turns.row_in_image` says where the row's pixels are
    redraw: int = 0  # how often some of the image was drawn again, this time included (`resampling`)


class NotFinite(FloatingPointError):
    """The network gave parameters that are not finite: the weights, or the context of the requests, are broken."""

    def __init__(self, row: int, request_ids: set[int], rows: list[RowDone]):
        super().__init__(f"the parameters of row {row} are not finite: the weights are broken")
        self.request_ids = request_ids  # what was cancelled
        self.rows = rows  # what the step has drawn for others


class Engine:
    """At most `num_slots` images of any requests, in lockstep over columns, each at a row of its own.

    An image has a slot from its first row to its last. A batch costs what its images cost: it is compacted at row boundaries. Slots go
    round-robin over the requests that wait, one image of each in turn. Of a request that holds slots, further images leave `reserve`
    slots for requests that hold none (max(1, num_slots // 16) unless given): slots that are free, or will be within `soon` rows, an eighth
    of the image. So a request finds one within `soon` rows unless as many others came before it since: its first image then begins at
    the next row boundary of the model's phase, `period` - 1 rows later at most, and is finished within height + `soon` + `period` rows
    (summed over stages), whoever else is being drawn. Where w requests wait before it, it begins within (w // num_slots + 1) times that.
    An image that is drawn again in part gives its slot back each time, and waits for its request's turn.

    In float64 its images are those of the reference sampler; in float32 the width of the batch may flip a draw now and then.
    `make_passes` may give compiled ones (`compiled.compiled_or_not`); at widths that `speculates` names, rows are guessed (`speculation`).
    There is no thread and no clock in it: rows advance in `step_row`
    only. It puts the model into evaluation mode; the weights must stay as they are.
    """

    def __init__(
        self,
        model: PixelModel,
        *,
        num_slots: int = 64,
        max_waiting: int = 4096,
        reserve: int | None = None,
        make_passes: Callable[[PixelModel], Passes] = Passes,
        speculates: Callable[[int], bool] = lambda width: False,
    ):
        if num_slots < 1:
            raise UserError(f"{num_slots} slots asked for; give 1 or more")
        if max_waiting < 1:
            raise UserError(f"at most {max_waiting} waiting images asked for; give 1 or more")
        reserve = reserve_of(num_slots) if reserve is None else reserve
        if not 0 <= reserve <= num_slots:
            raise UserError(f"a reserve of {reserve} of {num_slots} slots asked for; give 0..{num_slots}")
        self.model, self.num_slots = model.eval(), num_slots
        self._waiting = WaitingList(max_waiting, reserve)
        self._soon = model.spec.height // 8  # rows
        self._left: dict[int, int] = {}  # of each request: images that are not finished
        self._ids = count()
        self.num_rows_drawn = 0  # by the last step; not those that were known
        self._between: list[Drawing] = []  # images that have a slot, and wait for the phase of their lane
        widths = slot_widths(num_slots, reserve)
        self._lanes: list[dict[str, Lane]] = []  # of each stage, by kind of drawing (see `_kind`)
        passes_of = [make_passes(stage.model) for stage in model.stages()]
        self._sets_plain_apart = any(passes.num_columns for passes in passes_of) or any(map(speculates, widths))
        for stage, passes in zip(model.stages(), passes_of, strict=True):
            lanes = {kind: Lane(stage, passes, widths, guided=kind == _GUIDED) for kind in (_SHAPED, _GUIDED)}
            self._lanes.append({_PLAIN: Lane(stage, passes, widths, speculates=speculates), **lanes})

    @property
    def num_active(self) -> int:
        """Images that have a slot."""
        return sum(self._waiting.num_held.values())

    @property
    def num_waiting(self) -> int:
        """Images that have none yet, or wait for one again."""
        return self._waiting.num_images + self._waiting.num_again

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.num_active and not self.num_waiting

    def submit(self, request: Request) -> int:
        """Let a request wait for slots; returns its id.

        Raises `UserError` for what does not fit the model, and `QueueFull` where more than `max_waiting` images would wait.
        """
        request = checked(self.model, request)
        request_id = next(self._ids)
        self._waiting.add(request_id, request)
        self._left[request_id] = request.n
        return request_id

    def cancel(self, request_id: int) -> None:
        """Forget a request: its slots are free at the next row. Ids of requests that are finished or unknown are ignored."""
        if self._left.pop(request_id, None) is None:
            return
        self._waiting.remove(request_id)
        self._between = [drawing for drawing in self._between if drawing.request_id != request_id]
        for lanes in self._lanes:
            for lane in lanes.values():
                lane.remove(lambda drawing: drawing.request_id == request_id)

    def step_row(self) -> list[RowDone]:
        """Every image that has a slot advances by one row of its stage, or more where rows are guessed; images begin where slots are free.

        Rows at the top of an image that are wholly known are taken in as it begins, and are among those returned. Raises `NotFinite`
        where the parameters of an image are not finite: its request is cancelled, all others go on.
        """
        with products("ieee", self.model.device):
            return self._step_row()

    def _step_row(self) -> list[RowDone]:
        num_soon = sum(lane.num_ending(self._soon) for lane in self._lanes[-1].values())
        begin = self._waiting.take(
            self.num_slots - self.num_active, num_soon, lambda request: self._lanes[0][self._kind(request.options)].may_join
        )
        self._between += [
            drawing_of(self.model, request_id, request, image) if isinstance(image, int) else image for request_id, request, image in begin
        ]
        drawn: list[RowDone] = []
        broken: list[DrawnRow] = []
        for stage, lanes in enumerate(self._lanes):
            for kind, lane in lanes.items():
                joining = [drawing for drawing in self._between if (drawing.stage, self._kind(drawing.options)) == (stage, kind)]
                if joining and lane.may_join:
                    gone = set(joining)
                    self._between = [drawing for drawing in self._between if drawing not in gone]
                    self._keep(lane.join(joining), lane, drawn, broken)
        num_taken = len(drawn)
        for lanes in self._lanes:
            for lane in lanes.values():
                self._keep(lane.step(), lane, drawn, broken)
        self.num_rows_drawn = len(drawn) - num_taken
        if broken:
            request_ids = {one.drawing.request_id for one in broken}
            for request_id in request_ids:
                self.cancel(request_id)
            raise NotFinite(broken[0].row, request_ids, [row for row in drawn if row.request_id not in request_ids])
        return drawn

    def _kind(self, options: tuple[float, float, float]) -> str:
        """Which lane an image is drawn in: a function of its own options, so that whoever is beside it changes nothing.

        What is compiled or guessed are images whose options are at their defaults; the others would have them drawn otherwise.
        """
        guidance, *others = options
        if guidance:
            return _GUIDED
        return _SHAPED if self._sets_plain_apart and others != [1.0, 1.0] else _PLAIN

    def _keep(self, rows: list[DrawnRow], lane: Lane, drawn: list[RowDone], broken: list[DrawnRow]) -> None:
        """Report rows; an image that is through with its stage goes on to the next one, is drawn again in part, or is finished."""
        for one in rows:
            drawing, stage = one.drawing, one.drawing.stage
            if not one.finite:
                broken.append(one)
                continue
            ends_stage = one.row == lane.height - 1
            is_whole = ends_stage and stage == len(self._lanes) - 1
            is_last = is_whole and not drawing.goes_on
            told = (drawing.finished() if is_whole else None, drawing.order, drawing.num_redraws)
            drawn.append(RowDone(drawing.request_id, drawing.image, stage, one.row, one.levels_CW, is_last, *told))
            if is_last:
                self._finish(drawing.request_id)
            elif is_whole:
                draw_again(self.model, drawing)
                self._waiting.give_back(drawing)
            elif ends_stage:
                drawing.finish_stage(lane.every)
                self._between.append(drawing)

    def _finish(self, request_id: int) -> None:
        self._waiting.release(request_id)
        self._left[request_id] -= 1
        if not self._left[request_id]:
            del self._left[request_id]


def reserve_of(num_slots: int) -> int:
    """Slots that are left to requests that hold none, unless another number is given."""
    return max(1, num_slots // 16)


def slot_widths(num_slots: int, reserve: int) -> tuple[int, ...]:
    """The widths that a batch is compacted to: 1, 2, 4, multiples of 4 (of more than 64 slots: of a sixteenth of them), and all slots.

    All slots without the reserve are one, too.
    """
    step = max(4, num_slots // 16)
    widths = {1, 2, 4, 8, num_slots, num_slots - reserve, *range(step, num_slots, step)} - {0}
    return tuple(sorted(width for width in widths if width <= num_slots))


def sample(
    model: PixelModel,
    n: int,
    *,
    seed: int,
    context: Given = None,
    guidance: float = 0.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    order: int | None = None,
) -> Tensor:
    """Draw `n` images, uint8 levels shaped N C H W on the model's device; image i is a function of (weights, its context, seed, i).

    Args: `guidance` w draws from p(x | context)^(1+w) / p(x)^w, made to sum to 1 for each sub-pixel (its exact
    table over levels); 0 is the model itself. `temperature` T then draws from softmax(log p / T), and `top_p` from the
    smallest set of levels whose probability reaches it, on the same table. `order`, of a model of several, by which all images are drawn;
    None: each one's is drawn from its seed.
    Raises `UserError` where the context does not fit the model, for options out of their range, or guidance without a context, and
    `NotFinite` where the network gives parameters that are not finite. The model's modes (training, evaluation) are left as they were.
    """
    with evaluating(model):
        request = Request(n=n, seed=seed, context=context, guidance=guidance, temperature=temperature, top_p=top_p, order=order)
        return draw_all(model, request).to(model.device)


def draw_all(engine: Engine | PixelModel, *requests: Request) -> Tensor:
    """Draw the images of requests, by an idle engine or one made for them, of 64 slots (256 on a GPU); uint8 levels shaped N C H W.

    The images of one request come after the other's. Raises what `Engine.submit` and `Engine.step_row` raise, and `ValueError` for an
    engine that is not idle; it is idle afterwards in any case.
    """
    n = sum(request.n for request in requests)
    if isinstance(engine, PixelModel):
        num_slots = min(max(n, 1), 64 if engine.device.type == "cpu" else 256)
        engine = Engine(engine, num_slots=num_slots, max_waiting=max(n, 1), reserve=0)
    elif not engine.is_idle:
        raise ValueError("the engine is drawing for others; submit the request and step it")
    first: dict[int, int] = {}  # of each request: where its images are
    num_before = 0
    x_NCHW = torch.zeros(n, *engine.model.spec.shape, dtype=torch.uint8)
    try:
        for request in requests:
            first[engine.submit(request)] = num_before
            num_before += request.n
        while not engine.is_idle:
            for row in engine.step_row():
                if row.image_CHW is not None:
                    x_NCHW[first[row.request_id] + row.image] = row.image_CHW
    finally:
        for request_id in first:
            engine.cancel(request_id)
    return x_NCHW
