"""Classes by name over HTTP and with the client: a sampler in this process behind the application, without Ray."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextSpec, PixelModel, build
from pixelmodels.models.files import save_model
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.pictures import grid
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from pixelmodels.serving.client import Client, ServiceError
from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.ingress import make_app
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Sampler
from pixelmodels.serving.settings import Settings
from tests.serving.conftest import SPEC
from tests.serving.test_ingress import ask

NAMES = ("ant", "hot dog", "1", "caf\udce9", "Größe")  # one that is another's number, one that is no text


def named_model(names: tuple[str, ...]) -> PixelModel:
    torch.manual_seed(0)
    config = GatedPixelCNNConfig(num_layers=2, num_features=6, head_features=8)
    return build(config, SPEC, LikelihoodConfig("categorical"), ContextSpec(len(NAMES), class_names=names)).double().eval()


def app_of(sampler: Sampler) -> Any:
    """The application in front of one sampler that is called as it is."""

    async def answer(remote: Any) -> Any:
        found = await remote
        if isinstance(found, Refused):
            raise found
        return found

    async def stream(asked: Any) -> Any:
        async for part in sampler.stream(asked, 60.0):
            if isinstance(part, Refused):
                raise part
            yield part

    async def models() -> Any:
        handle = SimpleNamespace(available=SimpleNamespace(remote=sampler.available))
        gateway = Gateway(handle, sampler.settings)  # type: ignore[arg-type]
        gateway.states = lambda: _listed(sampler)  # type: ignore[method-assign]
        return await gateway.models()

    gateway = SimpleNamespace(
        settings=sampler.settings,
        num_retries=0,
        sample=lambda asked: answer(sampler.sample(asked, 60.0)),
        score=lambda asked: answer(sampler.score(asked, 60.0)),
        explain=lambda asked: answer(sampler.explain(asked, 60.0)),
        stream=stream,
        models=models,
    )
    return make_app(gateway, ())  # type: ignore[arg-type]


async def _listed(sampler: Sampler) -> list[dict[str, Any]]:
    return [await sampler.state()]


def started(folder: Path, names: tuple[str, ...]) -> Sampler:
    save_model(folder / "model", named_model(names))
    return Sampler(Settings(model=str(folder / "model"), storage=str(folder), cpus=1, slots=8, max_waiting=64, max_n=64))


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampler]:
    made = started(tmp_path_factory.mktemp("named"), NAMES)
    yield made
    made._ended.set()
    made.thread.stop()


@pytest.fixture(scope="module")
def client(sampler: Sampler) -> Iterator[Client]:
    """Of the application over real HTTP."""
    server = uvicorn.Server(uvicorn.Config(app_of(sampler), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    listening = server.config.bind_socket()
    listening.listen()  # who connects before the thread serves waits
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
    server.should_exit = True
    thread.join()


def drawn(label: int | None, n: int = 3) -> np.ndarray:
    context = None if label is None else Context(label_B=torch.tensor([label]))
    return draw_all(named_model(NAMES), Request(n=n, seed=5, context=context)).numpy()


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ("hot dog", 1),
        ("HOT DOG", 1),
        (1, 1),
        ("1", 2),  # a name
        ("0", 0),  # no name
        ("Gro\u0308ße", 4),
        ("GRÖSSE", 4),
        (r"caf\udce9", 3),
        (np.str_("ant"), 0),
        (np.int64(3), 3),
    ],
)
def test_the_client_asks_by_name(client: Client, asked: Any, label: int) -> None:
    found = client.samples(3, seed=5, label=asked)
    name = NAMES[label] if label != 3 else r"caf\udce9"
    assert (found.label, found.label_name, found.seed) == (label, name, 5)
    assert np.array_equal(found.images_NCHW, drawn(label))


def test_without_a_class_none_is_told(client: Client, sampler: Sampler) -> None:
    found = client.samples(3, seed=5)
    assert (found.label, found.label_name) == (None, None) and np.array_equal(found.images_NCHW, drawn(None))
    status, headers, body = ask(app_of(sampler), "/v1/samples", b'{"seed": 5}')
    assert status == 200 and (json.loads(body)["label"], json.loads(body)["label_name"]) == (None, None) and "x-label" not in headers


def test_scores_streams_and_completions_take_and_tell_names(client: Client) -> None:
    levels_NCHW = drawn(4)
    by_name, by_number, other = (client.scores(levels_NCHW, label=label) for label in ("größe", 4, 0))
    assert by_name == by_number != other
    found = client.completions(levels_NCHW[0], known_rows=6, label="ant", n=2)
    assert (found.label, found.label_name) == (0, "ant") and np.array_equal(found.images_NCHW, levels_NCHW[[0, 0]])
    start, *_ = client.stream(1, label="ant")
    assert (start.kind, start.data["label"], start.data["label_name"]) == ("start", 0, "ant")
    start, *_ = client.stream(1)
    assert (start.data["label"], start.data["label_name"]) == (None, None)


def test_answers_tell_number_and_name(sampler: Sampler) -> None:
    app, body = app_of(sampler), {"n": 3, "seed": 5, "label": "GRÖSSE"}
    status, headers, answer = ask(app, "/v1/samples", json.dumps(body).encode())
    told = json.loads(answer)
    assert status == 200 and (told["label"], told["label_name"]) == (4, "Größe")
    assert (headers["x-label"], unquote(headers["x-label-name"])) == ("4", "Größe")
    status, headers, answer = ask(app, "/v1/samples", json.dumps({**body, "format": "grid"}).encode())
    picture = np.asarray(Image.open(io.BytesIO(answer)))
    assert np.array_equal(picture, grid(drawn(4), SPEC.levels, captions=["Größe"] * 3)) and unquote(headers["x-label-name"]) == "Größe"
    image = told["images"][0]
    status, _, answer = ask(app, "/v1/scores", json.dumps({"images": [image], "label": r"caf\udce9"}).encode())
    assert status == 200 and (json.loads(answer)["label"], json.loads(answer)["label_name"]) == (3, r"caf\udce9")
    assert "label" not in json.loads(ask(app, "/v1/scores", json.dumps({"images": [image]}).encode())[2])


def test_models_list_their_classes(client: Client) -> None:
    (info,) = client.models()["loaded"]
    assert info["num_classes"] == 5 and info["class_names"] == ["ant", "hot dog", "1", r"caf\udce9", "Größe"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("hotdog", r"label 'hotdog' unknown; have 'ant', 'hot dog', '1', .*, or their numbers, 0\.\.4; did you mean 'hot dog'\?"),
        (5, r"label 5 is out of range; this model knows 0\.\.4 \('ant', 'hot dog', "),
        ("5", r"label 5 is out of range"),
        ("-1", r"label -1 is out of range"),
        (-1, r"give a class of the model: its number, 0\.\.1048576, or its name as text"),
        (1.5, "give a class of the model"),
        (True, "give a class of the model"),
        ("", "give a class of the model"),
        ("x" * 1025, "give a class of the model"),
        (["ant"], "give a class of the model"),
    ],
)
def test_what_is_no_class_is_one_sentence_about_the_label(client: Client, label: Any, message: str) -> None:
    for call in (client.samples, client.scores):
        with pytest.raises(ServiceError, match=message) as error:
            call(*([drawn(None, 1)] if call == client.scores else []), label=label)
        assert (error.value.status, error.value.code, error.value.field) == (422, "invalid", "label")


def test_a_model_of_before_knows_numbers_only(tmp_path: Path) -> None:
    made = started(tmp_path, ())
    try:
        app = app_of(made)
        status, headers, answer = ask(app, "/v1/samples", b'{"n": 3, "seed": 5, "label": 1}')
        assert status == 200 and (json.loads(answer)["label"], json.loads(answer)["label_name"]) == (1, None)
        assert headers["x-label"] == "1" and "x-label-name" not in headers
        status, _, answer = ask(app, "/v1/samples", b'{"n": 3, "seed": 5, "label": 1, "format": "grid"}')
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer))), grid(drawn(1), SPEC.levels))
        status, _, answer = ask(app, "/v1/samples", b'{"label": "ant"}')
        assert status == 422 and "does not know its classes by name: give a number, 0..4" in json.loads(answer)["message"]
        assert json.loads(ask(app, "/v1/models")[2])["loaded"][0]["class_names"] == []
    finally:
        made._ended.set()
        made.thread.stop()


def test_the_description_says_what_a_label_is(sampler: Sampler) -> None:
    schemas = json.loads(ask(app_of(sampler), "/openapi.json")[2])["components"]["schemas"]
    for request in ("SampleRequest", "CompletionRequest", "ScoreRequest", "ExplanationRequest"):
        field = schemas[request]["properties"]["label"]
        text = json.dumps(field)
        assert (
            '"type": "integer"' in text and '"type": "string"' in text and '"type": "null"' in text and "its name" in field["description"]
        )
    assert schemas["ModelInfo"]["properties"]["class_names"]["items"] == {"type": "string"}
    assert {"label", "label_name"} <= set(schemas["Samples"]["properties"]) & set(schemas["Scores"]["properties"])
