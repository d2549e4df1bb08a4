"""Requests and answers of the HTTP API; what they cannot hold is refused before anything is decoded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from pixelmodels.models.turns import Side
from pixelmodels.sampling.resampling import MOST_OF_SWEEP
from pixelmodels.serving.pngs import Scale
from pixelmodels.serving.settings import MAX_IMAGES

MAX_TEXT = 1 << 26  # characters of an encoded image, whatever a service is told (its own limit is far below)
MAX_VECTOR = 1 << 16
MAX_STEPS = 1000  # of a dream
MAX_SWEEPS = 100
UNKNOWN = "unknown_field"  # type of the error for a field that a request does not have; `name` in its context

Png = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="a PNG file in base64, or a data: URL of one")]
Number = Annotated[float, Field(allow_inf_nan=False)]
MAX_LABEL = 1 << 20
MAX_NAME = 1024  # characters of a class's name


def _class(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One error for what is neither a number nor a name, and not one for each of the two."""
    try:
        return check(given)
    except ValidationError:
        what = "give a class of the model: its number, 0..{most}, or its name as text"
        raise PydanticCustomError("class", what, {"most": MAX_LABEL}) from None


Class = Annotated[
    Annotated[int, Field(ge=0, le=MAX_LABEL)] | Annotated[str, Field(min_length=1, max_length=MAX_NAME)],
    WrapValidator(_class),
]


ADDRESS = r"^[^/@\s]+([/@][^/@\s]+)?$"
Address = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=256,
        pattern=ADDRESS,
        description="an alias (champion) or a version (3) of the service's model, or name@alias or name/version of another one",
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _knows_all(cls, given: Any) -> Any:
        """At the first field that is not known the rest is not looked at: an error for each of very many would take very long."""
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                context = {"name": str(name)[:200].encode(errors="replace").decode(), "have": ", ".join(cls.model_fields)}
                raise PydanticCustomError(UNKNOWN, "no such field; have {have}", context)
        return given


class _Request(_Strict):
    model: Address = None
    timeout_s: Annotated[float | None, Field(ge=1, le=86400, description="seconds after which the answer is of no use")] = None

    label: Annotated[
        Class | None,
        Field(
            description="a class: its number, from 0, or (as text) its name, as `class_names` of `/v1/models` has it or in another case of "
            "letters that fits one class only; a text of digits is a number where no class is called that"
        ),
    ] = None
    vector: Annotated[list[Number] | None, Field(min_length=1, max_length=MAX_VECTOR, fail_fast=True)] = None
    context_image: Annotated[Png | None, Field(description="such as a grey image, for a model that colours")] = None
    small_image: Annotated[Png | None, Field(description="a sub-sampled image, for a model that enlarges")] = None
    scale: Annotated[
        Scale,
        Field(
            description="what the values of the images are: grey values 0..255, or the model's levels (8 bits, no transparency); "
            "unsure: grey values, refused where all of them could be levels as well"
        ),
    ] = "grey"


class Toward(_Strict):
    """Where an image is on its way to: another class or vector (what the model makes of both is mixed), and another seed."""

    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="of the way: 0 is the request as it is without this")]
    label: Class | None = None
    vector: Annotated[list[Number] | None, Field(min_length=1, max_length=MAX_VECTOR, fail_fast=True)] = None
    seed: Annotated[
        int | None, Field(ge=0, lt=1 << 63, description="its noise is mixed in so that all on the way is as good a draw as either end")
    ] = None


class SampleRequest(_Request):
    """Images to draw; image i of a seed is the same on any replica."""

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="images")] = 1
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63, description="of the noise; one is chosen, and told, unless given")] = None
    first: Annotated[int, Field(ge=0, lt=1 << 31, description="index of the first image in the seed's stream")] = 0
    temperature: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    order: Annotated[
        int | None,
        Field(
            ge=0,
            le=7,
            description="of a model of several orders: by which one all images are drawn; without it each has its own: the one in which "
            "its known pixels come first, or one that is drawn with the image",
        ),
    ] = None
    dream: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_STEPS,
            description="draw each image again in so many squares, one after the other; a stream with every=image has an event for each. "
            "Known pixels stay",
        ),
    ] = None
    dream_region: Annotated[int, Field(ge=1, le=1 << 16, description="side of these squares, pixels")] = 4
    toward: Annotated[Toward | None, Field(description="draw what is between two classes, vectors or seeds")] = None
    format: Annotated[
        Literal["grid", "png", "npz"], Field(description="one PNG of all images, JSON with a PNG each, or a NumPy archive of levels")
    ] = "png"
    stream: Annotated[bool, Field(description="server-sent events; `format` is then png")] = False
    every: Annotated[Literal["row", "image"], Field(description="what an event is sent for, of a stream")] = "row"

    @model_validator(mode="after")
    def _streams_are_png(self) -> SampleRequest:
        if self.stream and self.format != "png":
            raise ValueError("stream: events hold PNGs; leave format out")
        return self

    @property
    def most_passes(self) -> int:
        """How often an image is drawn at most, whole or in part."""
        return 1 + (self.dream or 0)


class CompletionRequest(SampleRequest):
    """Images to draw of which some pixels are known: `mask`, or the rows above."""

    image: Png
    mask: Annotated[Png | None, Field(description="of the image's size: black where pixels are drawn, one colour where they are known")] = (
        None
    )
    known_rows: Annotated[int | None, Field(ge=0, le=1 << 16, description="rows at the top (see known_side) that are known")] = None
    known_side: Annotated[Side, Field(description="the side from which known_rows counts; from the left and right it counts columns")] = (
        "top"
    )

    sweeps: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_SWEEPS,
            description="of a model of several orders: draw the unknown pixels again so often, in squares, each by an order drawn for it; "
            "an approximation, for what is known on all sides of a hole",
        ),
    ] = 0

    @property
    def most_passes(self) -> int:
        """As of other samples; sweeps draw again too."""
        return max(super().most_passes, 1 + self.sweeps * MOST_OF_SWEEP)

    @model_validator(mode="after")
    def _one_of_two(self) -> CompletionRequest:
        if (self.mask is None) == (self.known_rows is None):
            raise ValueError("mask: give either mask or known_rows")
        if self.known_side != "top" and self.known_rows is None:
            raise ValueError("known_side: says what known_rows counts; give known_rows")
        if self.sweeps and self.dream is not None:
            raise ValueError("sweeps: these and a dream are two ways to draw pixels again; leave one of them out")
        return self


class ScoreRequest(_Request):
    """Images to score: their exact negative log-likelihood, given the context that all of them have."""

    images: Annotated[list[Png], Field(min_length=1, max_length=MAX_IMAGES, fail_fast=True)]
    map: Annotated[bool, Field(description="also what each pixel costs; of a model of several orders in one of them")] = False
    order: Annotated[
        int | None, Field(ge=0, le=7, description="of a model of several orders: score by this one, and not by the mixture of all")
    ] = None
    p_value: Annotated[
        bool,
        Field(
            description="also how many test images are as unlike the others; of registered models whose data set is at hand. "
            "Of a conditional model give what belongs to the images, as the test images were"
        ),
    ] = False


class ExplanationRequest(_Request):
    """Images to explain: what the model expects of each of their pixels, given the context that all of them have."""

    images: Annotated[list[Png], Field(min_length=1, max_length=MAX_IMAGES, fail_fast=True)]
    pixel: Annotated[
        list[Annotated[int, Field(ge=0, le=1 << 16)]] | None,
        Field(min_length=2, max_length=2, description="row and column, from 0: also on which pixels before it its prediction depends"),
    ] = None
    most_passes: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_IMAGES,
            description="of the network for an image's occlusion; where that is too few the nearest pixels are told. Unless given 255, "
            "or those of the 4 nearest sub-pixels where these are more, or what the service allows for so many images",
        ),
    ] = None
    order: Annotated[
        int | None, Field(ge=0, le=7, description="of a model of several orders, which has to be given: explain by this one")
    ] = None


class Orders(BaseModel):
    """By which orders images were drawn, of a model of several, and which known pixels came too late to count."""

    orders: list[int]  # of each image; of a model of one order it is 0
    num_unused: int  # known pixels that come after an unknown one, of each image: what is drawn before them does not know of them
    unused: str | None  # which ones, a PNG file in base64: white where they are; null where there are none


class Samples(BaseModel):
    """Images that were drawn."""

    model: str  # name/version
    seed: int  # the same again gives the same images
    first: int
    label: int | None = None  # the number of their class, where one was asked for
    label_name: str | None = None  # its name, where the model knows it
    images: list[str]  # PNG files in base64
    drawn_by: Orders | None = None  # of a model of several orders


class Score(BaseModel):
    """What one image costs."""

    nats: float  # negative log-likelihood of the whole image
    bits_per_dim: float  # the same in bits, for each sub-pixel
    map_bits: list[list[float]] | None = None  # bits of each pixel (all its channels), rows of columns
    arrangement_bits: float | None = None  # with `p_value`: higher is less like the test images (docs/anomalies.md)
    p_value: float | None = None  # share of test images, this one counted among them, whose `arrangement_bits` are no lower


class Scores(BaseModel):
    """Scores in the order of the images."""

    model: str
    label: int | None = None  # the number of the class that they were given, where one was
    label_name: str | None = None  # its name, where the model knows it
    scores: list[Score]
    num_normal: int | None = None  # with `p_value`: test images that the scores are held against


class Explanation(BaseModel):
    """What the model expects of one image, each pixel given the pixels before it."""

    nats: float  # negative log-likelihood of the whole image
    bits_per_dim: float  # the same in bits, for each sub-pixel
    surprise_bits: list[list[float]]  # bits of each pixel (all its channels), rows of columns; they sum to the bits of the image
    entropy_bits: list[list[float]]  # what they are on average, over all that the model holds possible there
    expected: list[list[list[float]]]  # mean of each sub-pixel's distribution, levels; channels of rows of columns
    likeliest: list[list[list[int]]]  # its likeliest level
    gradient_bits_per_level: list[list[list[float]]] | None = None  # how steeply the surprise of `pixel` changes with each sub-pixel
    occlusion_bits: list[list[list[float | None]]] | None = None  # how many bits more it would cost without it; null: not looked at


class Explanations(BaseModel):
    """Explanations in the order of the images."""

    model: str
    label: int | None = None  # the number of the class that they were given, where one was
    label_name: str | None = None  # its name, where the model knows it
    explanations: list[Explanation]


class ModelInfo(BaseModel):
    """A version that a replica holds, and what it takes."""

    model: str  # name/version
    names: list[str]  # what requests call it
    channels: int
    height: int
    width: int
    levels: int
    num_classes: int  # 0: not conditioned on a label
    class_names: list[str]  # in the order of their numbers; empty where the model does not know them
    vector_size: int  # 0: not conditioned on a vector
    context_image: list[int] | None  # channels, height, width, levels
    small_image: list[int] | None
    num_orders: int = 1  # in which it draws and scores images
    architecture: str = "unknown"
    likelihood: str = "unknown"
    num_parameters: int = 0
    replicas: int = 1  # that hold it


class Models(BaseModel):
    """What is served."""

    default: str
    loaded: list[ModelInfo]
    available: dict[str, list[str]]  # of each registered name: what requests may ask for
    refused: dict[str, str]  # versions that did not pass their checks, and why


class VersionInfo(BaseModel):
    """A registered version, as the registry and its run tell; null is what they do not."""

    model: str  # name/version
    aliases: list[str]  # such as champion
    architecture: str
    recipe: str
    dataset: str  # name and fingerprint of what it was trained on
    condition_on: str  # what its images are given: label,small/2; empty: nothing. Others do not compare with it
    likelihood: str | None
    parameters: int | None
    test_bits_per_dim: float | None
    test_bits_per_dim_stderr: float | None  # standard error of that mean over the test images
    images_per_second: float | None  # that one worker drew at the end of its training
    registered_at: float | None  # seconds since 1970
    put_aside: bool  # it failed a check, or was rolled back
    reason: str  # of the last decision on it
    run_id: str  # of MLflow


class Decision(BaseModel):
    """What was decided on a version, and why."""

    model: str  # name/version
    outcome: str  # promoted, refused, rolled back
    reason: str
    champion_then: str | None  # number of the version
    decided_at: float  # seconds since 1970
    difference: float | None  # bits/dim to the champion, below zero: better; with the ends of its interval
    low: float | None
    high: float | None
    run_id: str  # of MLflow


class Versions(BaseModel):
    """The leaderboard: all versions of the names that are served, newest first, and the decisions on them."""

    versions: list[VersionInfo]
    decisions: list[Decision]
    mlflow: str | None  # where MLflow shows them: its server, or where `make ui` does
    experiment: str | None  # of MLflow, that the runs are in


class FitRequest(_Strict):
    """Images to be fitted to what a model takes."""

    model: Address = None
    files: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]],
        Field(min_length=1, max_length=64, fail_fast=True, description="image files in base64: PNG, JPEG, WebP, GIF, TIFF, ..."),
    ]
    kind: Annotated[
        Literal["image", "context_image", "small_image"],
        Field(description="what the model takes them as: its own images, or made of those what it is given"),
    ] = "image"


class Fitted(BaseModel):
    """Images as a model sees them."""

    model: str  # name/version
    images: list[str]  # PNG files in base64, of the size that the model takes, a grey value for each level


class TestScores(BaseModel):
    """What the test images cost a version, bits/dim, as its training measured it."""

    __test__ = False  # no test of pytest's

    model: str  # name/version
    num_images: int
    mean: float
    stderr: float | None  # of that mean
    counts: list[int]  # of a histogram's bars
    edges: list[float]  # of them, one more
    percentiles: list[float]  # 0 to 100


class ShownImage(BaseModel):
    """An image of a data set."""

    index: int  # in its split
    key: str  # where it came from
    label: int | None
    label_name: str | None
    image: str  # a PNG file in base64, as the model sees it


class Shown(BaseModel):
    """Images of a data set, where the service shows them."""

    model: str  # name/version that was trained on it
    dataset: str
    split: str
    first: int
    total: int  # images of the split
    images: list[ShownImage]


class NeighboursRequest(_Strict):
    """An image whose nearest training images are wanted."""

    model: Address = None
    timeout_s: Annotated[float | None, Field(ge=1, le=86400)] = None
    image: Png
    scale: Scale = "grey"
    layer: Annotated[str | None, Field(min_length=1, max_length=256, description="of the network; the last unless given")] = None
    n: Annotated[int, Field(ge=1, le=64, description="training images")] = 8


class Neighbour(ShownImage):
    """A training image that is near."""

    distance: float  # Euclidean, between pooled activations


class Neighbours(BaseModel):
    """The nearest training images, and how near test images have theirs."""

    model: str  # name/version
    layer: str
    layers: list[str]  # that may be asked for
    num_train: int  # images that were compared, spread evenly over
    num_train_of: int  # so many
    num_test: int
    test_percentiles: list[float]  # 0 to 100, of the distances of test images to their nearest training image
    share_of_test_nearer: float | None  # of the test images: those that are nearer to a training image than this one
    neighbours: list[Neighbour]


class ErrorBody(BaseModel):
    """Every answer that is no."""

    code: str
    message: str
    field: str | None = None


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "the body is no JSON",
        401: "no key, or one that is not known",
        403: "the service shows no images of its data sets",
        404: "no such model",
        408: "the body did not arrive in time",
        413: "the body is too large",
        415: "the body is not sent as JSON",
        422: "a field that cannot be used",
        429: "too much waits; see Retry-After",
        503: "the sampler was lost, the version cannot be loaded yet, or the service is ending",
        504: "not finished by the deadline",
    }.items()
}
