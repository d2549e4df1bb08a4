"""What a service is told when it starts; also the `args` of the application in a Serve configuration file."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pixelmodels.serving import keys
from pixelmodels.storage import DEFAULT_STORAGE

MAX_IMAGES = 4096  # of one request, whatever a service is told
DEFAULT_MAX_N = 1024


class Settings(BaseModel):
    """A service: what it serves, with how much, and what it lets in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What is served. A name alone is its champion, or its best version while it has none; a folder is a run or a checkpoint.
    model: Annotated[str, Field(min_length=1)] = "digits"  # registered name, name@alias, name/version, or a folder
    others: tuple[str, ...] = ()  # further registered names that requests may ask for
    chosen: dict[str, str] = {}  # of names without a champion: the version that serves; unless given the best when a replica first looks
    storage: str = DEFAULT_STORAGE  # storage root whose registry it is, unless MLFLOW_TRACKING_URI names one
    max_models: Annotated[int, Field(ge=1)] = 3  # versions that a replica holds; the least recently used is unloaded
    poll_s: Annotated[float, Field(gt=0)] = 5.0  # seconds between looks at where the aliases point

    # With how much.
    replicas: Annotated[int, Field(ge=1)] = 1  # samplers; the least number of them where max_replicas is more
    max_replicas: Annotated[int | None, Field(ge=1)] = None  # samplers are added while images wait; None: never
    images_per_replica: Annotated[int, Field(ge=1)] = 128  # unfinished images that one sampler is kept busy with, for adding more
    cpus: Annotated[int, Field(ge=1)] = 1  # cores of a sampler: the threads of its engine
    compiled: bool = False  # whether models are compiled before they are loaded, by a process of its own: a minute or some, once
    speculation: Literal["auto", "on", "off"] = "auto"  # whether rows are guessed; auto: at the widths at which that was found to be faster
    gpus: Annotated[float, Field(ge=0)] = 0.0  # GPUs of a sampler; above 0 its models are on one
    slots: Annotated[int, Field(ge=1)] = 32  # images that a sampler draws at once; 64 with several cores or a GPU
    max_waiting: Annotated[int, Field(ge=1)] = 1024  # images that wait at a sampler beyond those; then 429

    # What it lets in.
    max_n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = (
        DEFAULT_MAX_N  # images drawn, or scored, by one request; at most slots + max_waiting
    )
    max_stream_rows_n: Annotated[int, Field(ge=1)] = 64  # images of a request that streams rows
    max_stream_bytes: Annotated[int, Field(ge=1)] = 64 << 20  # sub-pixels of all pictures of such a stream (each row has one)
    max_map_pixels: Annotated[int, Field(ge=1)] = 1 << 20  # of all images of a request for what each pixel costs; numbers of explanations
    max_image_bytes: Annotated[int, Field(ge=64)] = 1 << 20  # of one PNG
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 << 20  # of one request
    max_bodies_bytes: Annotated[int, Field(ge=1024)] = 256 << 20  # of all requests that are being read or answered; then 429
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # for a request's body to arrive
    timeout_s: Annotated[float, Field(ge=1)] = 60.0  # for an answer, unless the request says; at most max_timeout_s
    max_timeout_s: Annotated[float, Field(ge=1)] = 600.0  # that a request may ask for
    drain_s: Annotated[float, Field(ge=0)] = 60.0  # that requests are given to finish when the service ends
    cors_origins: tuple[str, ...] = ()  # whose pages may call this from a browser, such as https://lab.example; "*": anybody's
    show_data: bool = False  # whether images of the data sets that versions were trained on are shown to who has a key
    key_hashes: tuple[str, ...] = ()  # SHA-256 of the keys that are let in, hexadecimal; PIXELMODELS_API_KEYS adds to them
    require_key: bool = True  # do not start without a key

    @field_validator("speculation", mode="before")
    @classmethod
    def _of_yaml(cls, value: object) -> object:
        """YAML's `on` and `off` without quotes."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("model")
    @classmethod
    def _without_scheme(cls, model: str) -> str:
        """A registered model may be named as everywhere else."""
        return model.removeprefix("models:/")

    @field_validator("others")
    @classmethod
    def _others_without_scheme(cls, others: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one.removeprefix("models:/") for one in others)

    @field_validator("key_hashes")
    @classmethod
    def _are_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        return keys.checked(hashes, "key_hashes")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """Browsers compare them letter by letter: one with a path, or without its scheme, would never be let in."""
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?", origin):
                raise ValueError(f"'{origin}' is no origin; give one such as https://lab.example or http://127.0.0.1:3000 (no path), or *")
        return origins

    @model_validator(mode="after")
    def _can_be_kept(self) -> Settings:
        """A request of as many images, or without a time of its own, is not refused always."""
        if self.max_n > self.slots + self.max_waiting:
            raise ValueError(f"max_n: at most slots + max_waiting = {self.slots + self.max_waiting} images may be unfinished")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: at least replicas = {self.replicas}")
        if self.compiled and self.gpus:
            raise ValueError("compiled: passes are compiled for CPUs; leave compiled out, or gpus")
        if self.timeout_s > self.max_timeout_s:
            raise ValueError(f"timeout_s: a request may ask for max_timeout_s = {self.max_timeout_s:g} at most")
        return self
