"""Samples of a trained model: of chosen classes, guided, from one class to another, or of given images, which may be completed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from pixelmodels.data import find_dataset
from pixelmodels.errors import UserError, check_at_least, check_seed
from pixelmodels.models import Context, ContextBlend, PixelModel
from pixelmodels.models.class_names import MOST_TOLD, class_name, label_of
from pixelmodels.models.context import ABSENT
from pixelmodels.models.turns import ORDERS, Side, check_order
from pixelmodels.progress import Say, counting, duration
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.drawing import DrawnCommission, Means
from pixelmodels.samples.dreaming import check_dream, dream_frames
from pixelmodels.samples.files import PICTURE, outputs_of
from pixelmodels.samples.given import FilesToComplete, FilesToGive, HeldOut, Images, absent_kinds, known_pixels, num_known_later, shares
from pixelmodels.samples.pictures import check_size
from pixelmodels.sampling.orders import order_of_image
from pixelmodels.sampling.resampling import Dream
from pixelmodels.storage import DEFAULT_STORAGE, Storage

MOST = 100_000_000  # images of one call, which are all in memory
_FEWER = f"give {MOST} images or fewer, and further ones with another --seed"
_TWO_WAYS = {
    ("between", "label"): "choose classes",
    ("known", "known_rows"): "say what is known",
    ("dataset", "given", "complete"): "give images",
}


@dataclass(frozen=True)
class Sample:
    """Draw samples of a trained model: exact, each a function of the seed and its number.

    More images than --batch-size are drawn in blocks, over the Ray cluster. Each block that is finished is kept in the storage root until
    the output is written, so the same command goes on where it was killed.

    To complete images, say what is known of them. Known pixels stay as they are given; those that come after an unknown pixel (in the
    order of the model, or the best of its orders) are not taken into account by what is drawn there: such an image is no draw given all
    that is known.
    """

    model: Annotated[str, tyro.conf.Positional]  # folder of a run or checkpoint (path or URI), or models:/name/version
    n: int = 64  # images; with --between, columns of the picture
    out: str = "samples.png"  # a name that ends in .png: one picture; in .npz: levels, N C H W, with what was given; in /: single PNGs
    gif: Path | None = None  # also an animation of the picture being drawn row by row: a name that ends in .gif
    seed: int = 0  # of the noise
    # Classes in turn, of a model of classes; without any it does without a class. Each is the class's name, or its number from 0 where no
    # class is called that; letters may be of another case where one class only fits.
    label: tuple[str | int, ...] = ()
    between: tuple[str | int, str | int] | None = None  # two classes: rows of the picture go from one to the other, the noise held fixed
    num_steps: int = 9  # rows of that picture
    guidance: float = 0.0  # how far to go beyond the model towards what it is conditioned on; 0: the model itself
    temperature: float = 1.0  # below 1: likelier levels more often; 1: the model itself
    top_p: float = 1.0  # draw from the smallest set of levels whose probability reaches this; 1: the model itself
    dataset: str | None = None  # prepared data set: its test images give what the model is conditioned on, or are completed
    given: str | None = None  # image file, or folder of them, that the model is given: grey to be coloured, or small to be enlarged
    complete: str | None = None  # image file, or folder of them, to complete: as large as the model's images
    known_rows: int | None = None  # of the images of --complete, or of test images of --dataset: rows at the top that are known
    known_side: Side = "top"  # the side from which --known-rows counts; from the left and right it counts columns
    known: Path | None = None  # the same as a mask, an image: white where pixels are known, black where they are drawn
    # Of a model of several orders (docs/orders.md): draw every image by this one. Without it each has its own: the one in which its known
    # pixels come first, or, where none are known, one that is drawn with the image.
    order: int | None = None
    # Of a model of several orders: draw the unknown pixels of a completion again in so many sweeps, in squares, each by an order drawn for
    # it. An approximation, for what is known on all sides of a hole.
    sweeps: int = 0
    dream: int | None = None  # draw each image again in so many squares, one after the other, and keep every step (docs/explanations.md)
    dream_region: int = 4  # side of these squares, pixels
    samples_each: int | None = None  # samples of each given image; 4 or more unless given
    batch_size: int = 64  # images of a block: drawn at a time by one process
    num_workers: int | None = None  # blocks drawn at a time, where there are several; as many as the cluster has room for unless given
    use_gpu: bool = False  # one GPU a worker
    compiled: bool = False  # compile the model's passes before (a minute or some, kept for the next time), to draw faster on CPUs
    speculation: bool = False  # guess rows, and check the guesses all at once: faster for few images of few levels
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix

    def __post_init__(self) -> None:
        check_at_least(self, n=1, batch_size=1, num_workers=1, samples_each=1)
        check_seed("--seed", self.seed)
        if self.num_steps < 2:
            raise UserError(f"--num-steps {self.num_steps} is too few; give 2 (the two ends) or more")
        if self.n * (1 if self.between is None else self.num_steps) > MOST:
            raise UserError(f"--n {self.n} is too many{'' if self.between is None else f' for --num-steps {self.num_steps}'}; {_FEWER}")
        outputs_of(self.out, self.gif)
        for names, what in _TWO_WAYS.items():
            given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) not in (None, ())]
            if len(given) > 1:
                raise UserError(f"{given[0]} and {given[1]} are two ways to {what}; give one of them")
        (way,) = given or [""]  # to give images, which are the last
        if self.dataset is not None and (self.label or self.between):
            raise UserError("--dataset gives test images with their own classes; leave out --label and --between")
        if way and self.between is not None:
            raise UserError(f"--between goes from one class to another, not on with given images; leave out {way}, or choose a --label")
        if self.completes and self.dataset is None and self.complete is None:
            raise UserError("--known-rows and --known say what is known of given images; give --complete FILE, or --dataset NAME, too")
        if self.complete is not None and not self.completes and self.dream is None:
            raise UserError(f"--complete '{self.complete}' needs what is known of it; give --known-rows N, or --known MASK")
        if self.known_side != "top" and self.known_rows is None:
            raise UserError(f"--known-side {self.known_side} says what --known-rows counts; give --known-rows N too")
        self._check_redraws()
        if self.compiled and self.use_gpu:
            raise UserError("--compiled is for CPUs, and --use-gpu for GPUs; leave one of them out")
        for flag in ("compiled", "speculation"):
            if getattr(self, flag) and (self.guidance, self.temperature, self.top_p) != (0, 1, 1):
                raise UserError(f"--{flag} draws from the model itself; leave it out, or --guidance, --temperature and --top-p")
        if self.samples_each is not None and not way:
            raise UserError(f"--samples-each {self.samples_each} is of given images; give --dataset, --given or --complete, or only --n")
        if self.samples_each is not None and self.samples_each > self.n:
            raise UserError(f"--samples-each {self.samples_each} is more than --n {self.n}; raise --n, which counts all samples")

    def _check_redraws(self) -> None:
        check_at_least(self, sweeps=0, dream=1, dream_region=1)
        if self.sweeps and not self.completes:
            raise UserError(f"--sweeps {self.sweeps} are over what is not known of given images; give --known-rows or --known too")
        if self.sweeps and self.dream is not None:
            raise UserError("--sweeps and --dream are two ways to draw pixels again; leave one of them out")
        if self.dream is not None and self.num_workers is not None:
            raise UserError("--dream is drawn by this process, which keeps every step; leave --num-workers out")
        if self.dream is not None and self.speculation:
            raise UserError("--speculation guesses rows, and a --dream has none: it draws squares; leave one of them out")
        if self.dream is None and self.dream_region != Sample.dream_region:
            raise UserError("--dream-region is the size of the squares of a dream; give --dream STEPS too")

    @property
    def completes(self) -> bool:
        """Whether pixels of given images are known."""
        return self.known is not None or self.known_rows is not None


def draw_samples(options: Sample, model: PixelModel, storage: Storage, say: Say = print) -> list[Path]:
    """Draw, write, return the files' paths, `--out` last; raises `UserError` for what does not fit the model or cannot be written."""
    if options.order is not None:
        check_order(options.order, model.context_spec.num_orders)
    outputs = outputs_of(options.out, options.gif)
    if outputs[-1].name.endswith(PICTURE):
        check_size(options.n * (1 if options.between is None else options.num_steps), model)
    commission = commission_of(options, model, storage, say)
    commission.check(model)
    if commission.dream is not None:
        check_dream(commission, model)
    for output in outputs:
        output.check(commission, model)
    started = time.monotonic()
    means = Means(options.use_gpu, options.compiled, options.speculation)
    if commission.dream is not None:
        with counting("dreaming", commission.n, "images") as advance:
            frames_SNCHW = dream_frames(model, commission, options.batch_size, means, advance)
        say(f"{commission.n:,} dreams of {options.model} in {duration(time.monotonic() - started)}")
        return [output.write(commission, frames_SNCHW[-1], model, frames_SNCHW) for output in outputs]
    drawing = DrawnCommission(model, commission, options.batch_size, options.num_workers, means)
    images_NCHW, finish = drawing.images(storage, say)
    say(f"{commission.n:,} images of {options.model} in {duration(time.monotonic() - started)}")
    paths = [output.write(commission, images_NCHW, model) for output in outputs]
    finish()
    return paths


def commission_of(options: Sample, model: PixelModel, storage: Storage, say: Say) -> Commission:
    """What is to be drawn; raises `UserError` for images or a data set that do not fit the model."""
    shared: dict[str, Any] = {name: getattr(options, name) for name in ("seed", "guidance", "temperature", "top_p", "order", "sweeps")}
    shared["dream"] = None if options.dream is None else Dream(options.dream, options.dream_region)
    numbers_N = np.arange(options.n)
    if options.between is not None:
        ends = _labels(options.between, model)
        _tell_classes("from {} to {}", ends, model, say)
        first, second = (Context(label_B=torch.tensor([label] * options.num_steps)) for label in ends)
        _tell_absent(model, first, say)
        blend = ContextBlend(first, second, torch.linspace(0, 1, options.num_steps, dtype=torch.float64))
        rows_N = np.arange(options.num_steps).repeat(options.n)
        return Commission(np.tile(numbers_N, options.num_steps), rows_N, context=blend, columns=options.n, **shared)
    if options.dataset is not None or options.given is not None or options.complete is not None:
        return replace(_of_given(options, model, storage, say), **shared)
    labels = _labels(options.label, model)
    context = Context(label_B=torch.tensor(labels)) if labels else None
    _tell_absent(model, context, say)
    if context is not None:
        _tell_classes("classes in turn: {}", labels, model, say)
        return Commission(numbers_N, numbers_N % len(options.label), context=context, columns=_columns(options, model), **shared)
    return Commission(numbers_N, np.zeros_like(numbers_N), **shared)


def _of_given(options: Sample, model: PixelModel, storage: Storage, say: Say) -> Commission:
    """Samples of test images or files: of what is given of them, or of what is known of them."""
    known_HW = known_pixels(options.known_rows, options.known, model.spec, options.known_side) if options.completes else None
    images: Images
    if options.dataset is not None:
        if known_HW is None and options.dream is None and not model.context_spec:
            raise UserError("--dataset: the model is not conditioned on anything; leave it out, or complete its images with --known-rows")
        images = HeldOut(find_dataset(storage, options.dataset))
    elif options.complete is not None:
        images = FilesToComplete(options.complete)
    else:
        images = FilesToGive(str(options.given))
    used, each = shares(options.n, images.num, options.samples_each)
    x_MCHW, context = images.first(used, model)
    say(f"{each} samples of each of {used:,} of {images.num:,} {images.what}")
    if known_HW is not None:
        say(_told_of(known_HW, model, options.order, options.sweeps))
    rows_N = np.arange(used).repeat(each)
    if options.label:  # of files, which have none of their own: a row of the context for each pair of image and class
        labels, classes = _labels(options.label, model), len(options.label)
        _tell_classes("classes in turn: {}", labels, model, say)
        pairs, rows_N = np.unique(rows_N * classes + np.arange(len(rows_N)) % classes, return_inverse=True)
        rows = (context or Context()).rows(torch.from_numpy(pairs // classes))
        context = replace(rows, label_B=torch.tensor(labels)[torch.from_numpy(pairs % classes)])
    _tell_absent(model, context, say)
    return Commission(np.arange(len(rows_N)), rows_N, context=context, originals_MCHW=x_MCHW, samples_each=each, known_HW=known_HW)


def _labels(asked: Sequence[str | int], model: PixelModel) -> list[int]:
    """The labels of classes that are asked for; raises `UserError` where the model has none like one of them."""
    return [label_of(one, model.context_spec, ABSENT) for one in asked]


def _tell_classes(text: str, labels: Sequence[int], model: PixelModel, say: Say) -> None:
    """Say which classes they are, where the model knows their names: each with its number."""
    spec = model.context_spec
    if spec.class_names:
        names = [f"'{class_name(label, spec)}' ({label})" if label != ABSENT else "no class" for label in labels]
        shown = names[:MOST_TOLD] + [f"{len(names) - MOST_TOLD} more"] * (len(names) > MOST_TOLD)
        say(text.format(*names) if text.count("{}") > 1 else text.format(", ".join(shown)))


def _tell_absent(model: PixelModel, context: Context | None, say: Say) -> None:
    if absent := absent_kinds(model.context_spec, context):
        also = "" if context is None else "also "
        say(f"the model is {also}conditioned on {' and '.join(absent)}, of which nothing is given: the samples do without")


def _told_of(known_HW: Tensor, model: PixelModel, asked: int | None, sweeps: int) -> str:
    """How much is known, by which order the rest is drawn, and whether the completions are draws given all that is known."""
    told = f"{int(known_HW.sum()):,} of {known_HW.numel():,} pixels of each are known"
    order = order_of_image(model, 0, 0, known_HW.numpy(), asked)
    if model.context_spec.num_orders > 1:
        told += f", the others drawn by order {order} ({ORDERS[order]})"
    later = num_known_later(model, known_HW, order)
    if not later:
        return told
    told += f"; {later:,} of them come after pixels that are drawn: they stay as they are, and what is drawn before them ignores them"
    return f"{told}, until it is drawn again in {sweeps:,} sweeps by several orders, which is an approximation" if sweeps else told


def _columns(options: Sample, model: PixelModel) -> int | None:
    """Columns of a picture of classes in turn: each class has its own, in a picture about as wide as high."""
    classes = len(options.label)
    if not 1 < classes <= options.n:
        return None
    return max(1, round(math.sqrt(options.n * model.spec.height / model.spec.width) / classes)) * classes
