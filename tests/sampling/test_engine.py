"""The engine: every image is the reference sampler's alone, whoever comes, goes and is cancelled meanwhile."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pixelmodels.errors import UserError
from pixelmodels.likelihoods.base import draw_from_table
from pixelmodels.models import Context, ContextBlend
from pixelmodels.models.context import join_contexts
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.sampling import Engine, QueueFull, Request, draw_all, reference_sample, sample
from pixelmodels.sampling.choosing import Choice, cut, shaped_table
from pixelmodels.sampling.compiled import CannotCompile, CompiledPasses
from pixelmodels.sampling.engine import NotFinite, slot_widths
from pixelmodels.sampling.passes import Passes
from pixelmodels.sampling.raster import KnownRow, draw_row
from pixelmodels.sampling.request import drawing_of
from tests.conformance.conftest import random_context, small_config, small_model
from tests.sampling.test_choosing import CPU, Operations

SMALL_TWICE = MultiscalePixelRNNConfig(2, small_config("pixelcnn"), small_config("gated_pixelcnn"))
TWICE = MultiscalePixelRNNConfig(2, SMALL_TWICE, small_config("pixelcnn"))
SMALL_PP = replace(small_config("pixelcnn_pp"), num_layers=1, num_features=4)
MODELS = {
    "gated_pixelcnn-rgb": ("gated_pixelcnn", "categorical", 3, 4, 3),
    "gated_pixelcnn-binary": ("gated_pixelcnn", "bernoulli", 1, 4, 4),
    "multiscale_pixelrnn": ("multiscale_pixelrnn", "categorical", 1, 5, 3),
    "three_stages": (TWICE, "categorical", 1, 5, 4),
    "pixelcnn": ("pixelcnn", "discretized_logistic_mixture", 1, 3, 4),
    "pixelcnn_pp": (SMALL_PP, "discretized_logistic_mixture", 3, 5, 3),
    "pixelcnn_pp-wide": (SMALL_PP, "discretized_logistic_mixture", 3, 3, 6),
    "pixelrnn_diagonal_bilstm": ("pixelrnn_diagonal_bilstm", "categorical", 1, 4, 3),
    "pixelrnn_row_lstm": ("pixelrnn_row_lstm", "categorical", 3, 4, 3),
    "pixelsnail": ("pixelsnail", "discretized_logistic_mixture", 3, 4, 3),
}
COMPILED = ("gated_pixelcnn-binary", "pixelrnn_row_lstm")  # in each run of the tests: the others take minutes
NOT_COMPILED = {
    "pixelcnn_pp": "images of 3 columns are narrower than the 4 after which its strides repeat",
}


@cache
def model_of(name):
    return small_model(*MODELS[name], levels=6, context="mix")


def tiny(height=4, context="none"):
    return small_model("pixelcnn", "categorical", 1, height, 3, levels=6, context=context)


CONTEXTS = ("none", "one", "each", "label", "blend")
MASKS = ("none", "top", "whole", "some")


@st.composite
def requests(draw, name):
    """A request of a few images with options of every kind."""
    model, n = model_of(name), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 5))
    some, other = random_context(model, n, seed), random_context(model, n, seed + 1)
    contexts = {"none": None, "one": some.rows(slice(0, 1)), "each": some, "label": Context(label_B=some.label_B)}
    contexts["blend"] = ContextBlend(some, other, torch.linspace(0, 1, n))
    rng = torch.Generator().manual_seed(seed)
    height, width = model.spec.shape[1:]
    mask_NHW = torch.rand(n, height, width, generator=rng) < 0.4
    kind = draw(st.sampled_from(MASKS))
    if kind == "top":
        mask_NHW[:, : draw(st.integers(1, height))] = True
    elif kind == "whole":
        mask_NHW[torch.rand(n, height, generator=rng) < 0.6] = True
    known_NCHW = torch.randint(model.spec.levels, (n, *model.spec.shape), generator=rng, dtype=torch.uint8)
    return Request(
        n=n,
        seed=seed,
        first=draw(st.integers(0, 3)),
        context=contexts[draw(st.sampled_from(CONTEXTS))],
        guidance=draw(st.sampled_from((0.0, 0.0, 1.5))),
        temperature=draw(st.sampled_from((1.0, 1.0, 0.6, 1.7))),
        top_p=draw(st.sampled_from((1.0, 1.0, 0.7))),
        known_NCHW=None if kind == "none" else known_NCHW,
        known_mask_NHW=None if kind == "none" else mask_NHW,
    )


def expected(model, request, image):
    """One image of a request by the reference sampler, alone."""
    context = request.context
    if context is not None:
        mine = image % len(context)
        context = context.rows(slice(mine, mine + 1))
    known = {
        field: value if value is None else value[image % len(value)][None]
        for field, value in (("known_NCHW", request.known_NCHW), ("known_mask_NHW", request.known_mask_NHW))
    }
    options = {field: getattr(request, field) for field in ("seed", "guidance", "temperature", "top_p")}
    return reference_sample(model, 1, first=request.first + image, context=context, **options, **known)[0]


@pytest.mark.parametrize("name", MODELS)
def test_every_image_is_the_reference_samplers(name):
    check_engine(name, Passes)


@pytest.mark.parametrize("name", MODELS)
def test_every_image_of_guessed_rows_is_the_reference_samplers(name):
    check_engine(name, Passes, lambda width: width in (1, 4))  # images go from one way of drawing to the other as others come and go


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in COMPILED else pytest.mark.compiled) for name in MODELS])
def test_every_image_of_a_compiled_row_is_the_reference_samplers(name, compiled_functions):
    if name in NOT_COMPILED:
        with pytest.raises(CannotCompile, match=NOT_COMPILED[name]):
            CompiledPasses(model_of(name), compiled_functions)
        return
    made, speculates = {}, name != "pixelrnn_row_lstm"  # which is compiled in each run: one net with rounds of guesses is enough there

    def make_passes(model):
        if model not in made:
            made[model] = CompiledPasses(model, compiled_functions, speculates=speculates)
        return made[model]

    check_engine(name, make_passes)
    if speculates:
        check_engine(name, make_passes, lambda width: width != 2)


def check_engine(name, make_passes, speculates=lambda width: False):
    """Requests that come and are cancelled at any moment get the reference sampler's images."""
    model = model_of(name)
    stages = model.stages()

    @settings(max_examples=6, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(st.data())
    def check(data):
        engine = Engine(model, num_slots=data.draw(st.integers(1, 6)), make_passes=make_passes, speculates=speculates)
        submitted, rows, cancelled = {}, {}, set()
        for _ in range(data.draw(st.integers(2, 7))):
            action = data.draw(st.sampled_from(("submit", "submit", "step", "cancel")))
            if action == "submit":
                request = data.draw(requests(name))
                submitted[engine.submit(request)] = request
            elif action == "cancel" and submitted:
                cancelled.add(data.draw(st.sampled_from(sorted(submitted))))
                for request_id in cancelled:
                    engine.cancel(request_id)
            for _ in range(data.draw(st.integers(0, 3))):
                step(engine, rows, cancelled)
        while not engine.is_idle:
            step(engine, rows, cancelled)
        for request_id in set(submitted) - cancelled:
            assert {image for of, image in rows if of == request_id} == set(range(submitted[request_id].n))
        for (request_id, image), found in rows.items():
            if not found[-1].is_last:
                assert request_id in cancelled
                continue
            x_CHW = expected(model, submitted[request_id], image)
            assert torch.equal(found[-1].image_CHW, x_CHW), (submitted[request_id], image)
            order = [(i, r) for i, stage in enumerate(stages) for r in range(stage.model.spec.height)]
            assert [(row.stage, row.row) for row in found] == order
            for row in found:
                every = stages[row.stage].every
                assert torch.equal(torch.as_tensor(row.levels_CW), x_CHW[:, row.row * every, ::every])

    check()


def step(engine, rows, cancelled):
    held = engine.num_active
    for row in engine.step_row():
        assert row.request_id not in cancelled
        assert row.is_last == (row.image_CHW is not None)
        rows.setdefault((row.request_id, row.image), []).append(row)
    assert max(held, engine.num_active) <= engine.num_slots


@pytest.mark.parametrize("options", [{}, {"guidance": 0.5, "top_p": 0.8}, {"temperature": 0.5}], ids=str)
def test_samples_of_more_images_than_slots_are_the_reference_samplers(options, monkeypatch):
    model, n, active = tiny(context="label"), 67, []
    step_row = Engine.step_row
    monkeypatch.setattr(Engine, "step_row", lambda engine: (step_row(engine), active.append(engine.num_active))[0])
    context = random_context(model, n)
    assert torch.equal(sample(model, n, seed=4, context=context, **options), reference_sample(model, n, seed=4, context=context, **options))
    assert max(active) == 64


def test_sampling_leaves_the_modes_of_modules_as_they_were():
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 3)
    model.train()
    model.output.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    expected_NCHW = reference_sample(model, 2, seed=1)
    assert torch.equal(sample(model, 2, seed=1), expected_NCHW)
    assert {name: module.training for name, module in model.named_modules()} == modes
    model.output.bias.data.fill_(float("nan"))
    with pytest.raises(NotFinite, match="the parameters of row 0 are not finite"):
        sample(model, 2, seed=1)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_tables_are_those_of_temperature_and_top_p():
    likelihood = tiny().likelihood
    log_p_L = torch.log(torch.tensor([0.05, 0.3, 0.2, 0.3, 0.1, 0.05], dtype=torch.float64))
    params, nothing = [log_p_L[None].repeat(4, 1)], torch.zeros(4, 1)

    def tables(*options):
        return shaped_table(likelihood, params, 0, nothing, Choice.of(options, torch.device("cpu"))).exp()

    found = tables((0, 1.0, 0.6), (0, 0.5, 1.0), (0, 1.0, 0.61), (0, 1e-12, 1.0))
    p = log_p_L.exp()
    wanted = torch.stack([p * (p == 0.3) / 0.6, p**2 / (p**2).sum(), p * (p > 0.15) / 0.8, (p == 0.3) / 2])
    torch.testing.assert_close(found, wanted.double(), rtol=0, atol=1e-12)
    assert torch.equal(tables(*[(0, 1.0, 1e-9)] * 4)[0], torch.eye(6, dtype=torch.float64)[1])  # of equal levels the lower one
    torch.testing.assert_close(tables(*[(0, 2.0, 0.9)] * 4)[0], reference_top_p((p**0.5) / (p**0.5).sum(), 0.9), rtol=0, atol=1e-12)
    n = 20000
    u_N = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    counts = torch.bincount(draw_from_table(found[2].log().expand(n, -1), u_N), minlength=6)
    torch.testing.assert_close(counts / n, wanted[2].float(), rtol=0, atol=1e-4)


def reference_top_p(p_L, top_p):
    left, total = torch.zeros_like(p_L), 0.0
    for level in sorted(range(len(p_L)), key=lambda level: (-float(p_L[level]), level)):
        if total < top_p:
            left[level], total = p_L[level], total + float(p_L[level])
    return left / left.sum()


def test_top_p_of_one_leaves_the_table_as_it_is_beside_others():
    log_p_BL = torch.log_softmax(torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 30, 1)
    assert torch.equal(cut(log_p_BL, torch.tensor([1.0, 0.5]))[0], log_p_BL[0])


def num_steps_until_done(engine, request_id):
    for steps in range(1, 1000):
        if any(row.request_id == request_id and row.is_last for row in engine.step_row()):
            return steps
    raise AssertionError("it was never finished")


@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn_pp", "gated_pixelcnn-binary", "multiscale_pixelrnn"])
@pytest.mark.parametrize("num_slots", [2, 5, 16])
def test_one_image_is_not_kept_waiting_by_a_thousand(name, num_slots):
    model = model_of(name)
    bound = sum(stage.model.spec.height + stage.model.period for stage in model.stages())
    engine = Engine(model, num_slots=num_slots)
    engine.submit(Request(n=1000))
    for num_before in range(6):
        engine.step_row()
        assert engine.num_active <= num_slots - max(1, num_slots // 16)
        if num_before % 3 == 0:
            one = engine.submit(Request(seed=9, context=random_context(model, 1)))
            assert num_steps_until_done(engine, one) <= bound


def test_slots_go_round_robin_over_requests():
    model, num_slots = tiny(), 4
    engine = Engine(model, num_slots=num_slots)
    first, second = engine.submit(Request(n=50)), engine.submit(Request(n=50))
    held = engine._waiting.num_held
    engine.step_row()
    assert held == {first: 2, second: 1}
    late = [engine.submit(Request(n=20)) for _ in range(9)]
    bound = (11 // num_slots + 1) * (model.spec.height + model.period)
    begun = {row.request_id for _ in range(bound) for row in engine.step_row()}
    assert begun >= set(late)


def test_more_images_than_may_wait_are_refused():
    engine = Engine(tiny(), num_slots=2, max_waiting=5)
    engine.submit(Request(n=4))
    with pytest.raises(QueueFull, match=r"2 images asked for while 4 wait; at most 5 may wait; ask for fewer, or again"):
        engine.submit(Request(n=2))
    last = engine.submit(Request(n=1))
    assert engine.num_waiting == 5
    engine.step_row()
    assert (engine.num_active, engine.num_waiting) == (2, 3)
    engine.submit(Request(n=2))
    engine.cancel(last)
    while not engine.is_idle:
        engine.step_row()
    with pytest.raises(QueueFull):
        engine.submit(Request(n=6))


def test_the_slots_of_a_cancelled_request_are_free_at_the_next_row():
    model = tiny()
    engine = Engine(model, num_slots=4)
    first = engine.submit(Request(n=9))
    engine.step_row()
    assert engine.num_active == 3
    engine.cancel(first)
    assert engine.is_idle
    second = engine.submit(Request(n=3, seed=2))
    assert {(row.request_id, row.row) for row in engine.step_row()} == {(second, 0)}
    engine.cancel(first)
    engine.cancel(77)
    assert num_steps_until_done(engine, second) == model.spec.height - 1


def test_a_batch_is_compacted_to_the_images_that_are_left(monkeypatch):
    assert slot_widths(64, 8) == (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64)
    assert slot_widths(256, 32)[:6] == (1, 2, 4, 8, 16, 32)
    assert slot_widths(5, 1) == (1, 2, 4, 5)
    assert slot_widths(1, 1) == (1,)
    model = tiny()
    engine = Engine(model, num_slots=16, reserve=0)
    many, few = engine.submit(Request(n=13)), engine.submit(Request(n=3, seed=1))
    widths = []
    row = Passes.row
    monkeypatch.setattr(Passes, "row", lambda passes, canvas: widths.append(len(canvas.row_B)) or row(passes, canvas))
    engine.step_row()
    engine.cancel(many)
    rest = [row for _ in range(3) for row in engine.step_row()]
    assert widths == [16, 4, 4, 4]
    done = {row.image: row.image_CHW for row in rest if row.is_last}
    assert all(torch.equal(done[i], x_CHW) for i, x_CHW in enumerate(reference_sample(model, 3, seed=1))) and few == rest[0].request_id


@pytest.fixture
def poisoned_memory():
    """What is allocated without being filled holds NaN, and the largest integers."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
def test_a_lane_allocates_all_slots_once_and_lets_go_of_them_when_it_is_empty():
    model = model_of("gated_pixelcnn-rgb")
    engine, drawn = Engine(model, num_slots=16, reserve=0), {}
    lane, submitted, places = engine._lanes[0]["plain"], {}, set()
    for number, n in enumerate((1, 2, 6, 3)):
        request = Request(n=n, seed=number, context=random_context(model, n, seed=number))
        submitted[engine.submit(request)] = request
        step(engine, drawn, ())
        tensors = list(lane._canvases[0].tensors())
        assert {len(tensor) for tensor in tensors} == {16}
        places.add(tuple(tensor.data_ptr() for tensor in tensors))
    assert len(places) == 1
    while not engine.is_idle:
        step(engine, drawn, ())
    assert not lane._canvases and len(drawn) == 12
    for (request_id, image), rows in drawn.items():
        assert torch.equal(rows[-1].image_CHW, expected(model, submitted[request_id], image))


def test_images_that_fill_all_slots_at_once_are_copied_nowhere(monkeypatch):
    made, start = [], Passes.start
    monkeypatch.setattr(Passes, "start", lambda *given: made.append(start(*given)) or made[-1])
    engine = Engine(tiny(), num_slots=7)
    engine._lanes[0]["plain"].join([drawing_of(engine.model, 0, Request(n=7), image) for image in range(7)])
    assert engine._lanes[0]["plain"]._canvases == made


def test_what_is_known_of_a_row_changes_no_operation_of_it():
    passes, names = Passes(tiny()), []
    for columns in ([0], [2], [0, 1]):
        mask_BW = np.zeros((2, 3), dtype=np.bool_)
        mask_BW[:, columns] = True
        known = KnownRow.of(np.full((2, 3, 1), 4, np.uint8), mask_BW, CPU, np.ones(2, np.bool_))
        canvas, u_BWU = passes.start(2), torch.full((2, 3, 1), 0.01, dtype=torch.float64)
        with Operations() as done:
            draw_row(passes, [canvas], u_BWU, Choice.of([(0.0, 1.0, 1.0)] * 2, CPU), known)
        assert torch.equal(canvas.x_BWC[..., 0] == 4, known.mask_BW)
        names.append(done.names)
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_waits_for_a_device_inside_a_row_or_lies_on_another(name):
    # tensors of the meta device have no values: to ask for one is an error, and so is a tensor of another device beside them
    model, meta = deepcopy(model_of(name)).to("meta"), torch.device("meta")
    context, x_BCHW = random_context(model, 2).to(meta), torch.zeros(2, *model.spec.shape, dtype=torch.uint8, device=meta)
    plain, warm, guided = (0.0, 1.0, 1.0), (0.0, 0.7, 0.9), (1.5, 1.0, 1.0)
    for stage in model.stages():
        passes, (channels, _, width) = Passes(stage.model), stage.model.spec.shape
        u_BWU = torch.zeros(2, width, model.likelihood.num_uniforms, dtype=torch.float64, device=meta)
        some_BW = np.array([[True] + [False] * (width - 1)] * 2)
        for options in ([plain, plain], [plain, warm], [warm, warm], [guided, guided]):
            canvases = [passes.start(2, stage.context(given, x_BCHW)) for given in ((context, None) if guided in options else (context,))]
            for mask_BW in (~some_BW & some_BW, some_BW, some_BW | ~some_BW):
                known = KnownRow.of(np.zeros((2, width, channels), np.uint8), mask_BW, meta, np.ones(2, np.bool_))
                assert draw_row(passes, canvases, u_BWU, Choice.of(options, meta), known).device == meta


def test_a_row_is_waited_for_once(monkeypatch):
    engine, waits = Engine(model_of("gated_pixelcnn-rgb")), []
    engine.submit(Request(n=3, top_p=0.9))
    engine.submit(Request(n=2, context=random_context(engine.model, 2)))
    engine.step_row()
    for name in ("cpu", "tolist", "item", "__bool__", "__int__", "__float__", "nonzero"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *given, name=name, method=method: waits.append(name) or method(*given))
    assert len(engine.step_row()) == 5 and waits == ["cpu"]


def test_known_rows_at_the_top_are_taken_in_as_an_image_begins():
    model = model_of("pixelcnn_pp")  # of period 4
    mask_1HW = torch.zeros(1, 5, 3, dtype=torch.bool)
    mask_1HW[:, :4] = True
    known = {"known_NCHW": torch.full((1, 3, 5, 3), 2), "known_mask_NHW": mask_1HW}
    engine = Engine(model)
    engine.submit(Request(n=2, **known))
    assert [(row.image, row.row) for row in engine.step_row() if row.row > 2] == [(0, 3), (1, 3), (0, 4), (1, 4)]
    assert engine.is_idle
    whole = draw_all(model, Request(n=1, known_NCHW=known["known_NCHW"], known_mask_NHW=torch.ones_like(mask_1HW)))
    assert torch.equal(whole, known["known_NCHW"].to(torch.uint8))


def test_parameters_that_are_not_finite_end_their_request_alone():
    model = small_model("pixelcnn", "categorical", 1, 4, 3, levels=6, context="label")
    model.encoder.label.weight.data[1] = float("nan")
    engine = Engine(model, num_slots=8)
    good = engine.submit(Request(n=2, context=Context(label_B=torch.tensor([0]))))
    bad = engine.submit(Request(n=2, context=Context(label_B=torch.tensor([0, 1]))))
    with pytest.raises(NotFinite, match="the parameters of row 0 are not finite") as caught:
        engine.step_row()
    assert caught.value.request_ids == {bad} and {row.request_id for row in caught.value.rows} == {good}
    done = {row.image: row.image_CHW for _ in range(3) for row in engine.step_row() if row.is_last}
    expected_NCHW = reference_sample(model, 2, seed=0, context=Context(label_B=torch.tensor([0, 0])))
    assert torch.equal(torch.stack([done[0], done[1]]), expected_NCHW) and engine.is_idle


def test_contexts_join_on_their_device():
    label = Context(label_B=torch.tensor([2], device="meta"))
    joined = join_contexts([label, None, ContextBlend(label, label, torch.zeros(1, device="meta"))])
    assert joined.share_B.device.type == joined.second.label_B.device.type == "meta"


def test_contexts_of_different_kinds_join_as_they_are():
    label, vector = Context(label_B=torch.tensor([2], dtype=torch.uint8)), Context(vector_BV=torch.tensor([[0.5, 1.0]]))
    joined = join_contexts([label, None, vector])
    assert joined.label_B.tolist() == [2, -1, -1] and joined.image_BCHW is None
    assert joined.vector_BV[2].tolist() == [0.5, 1.0] and joined.vector_BV[:2].isnan().all()
    blend = join_contexts([label, ContextBlend(label, vector, torch.tensor([0.25]))])
    assert blend.share_B.tolist() == [0, 0.25] and blend.first.label_B.tolist() == [2, 2] and blend.second.label_B.tolist() == [2, -1]


GOOD_MASK = torch.zeros(1, 4, 3, dtype=torch.bool)
LEVELS = torch.full((1, 1, 4, 3), 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "0 images asked for; give 1 or more"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"first": -2}, "first -2 is negative"),
        ({"temperature": 0.0}, r"temperature 0\.0 is out of range"),
        ({"temperature": float("nan")}, "temperature nan is out of range"),
        ({"top_p": 0.0}, r"top_p 0\.0 is out of range"),
        ({"top_p": 1.1}, r"top_p 1\.1 is out of range"),
        ({"guidance": -1.0}, r"guidance -1\.0 is negative"),
        ({"guidance": float("inf")}, "guidance inf is negative or not finite"),
        ({"context": Context(label_B=torch.tensor([3]))}, "label 3 is out of range"),
        ({"context": Context(label_B=torch.tensor([1, 1]))}, "one integer for each image"),
        ({"known_NCHW": LEVELS}, "one without the other"),
        ({"known_NCHW": LEVELS, "known_mask_NHW": ~GOOD_MASK}, "level 6 is out of range"),
        ({"known_NCHW": LEVELS[..., :2], "known_mask_NHW": GOOD_MASK}, "images of shape"),
        ({"known_NCHW": LEVELS, "known_mask_NHW": GOOD_MASK[:, :2]}, r"a mask of torch.bool and shape \(1, 2, 3\)"),
        ({"known_NCHW": LEVELS, "known_mask_NHW": GOOD_MASK.long()}, "a mask of torch.int64"),
        ({"known_NCHW": LEVELS.repeat(2, 1, 1, 1), "known_mask_NHW": GOOD_MASK}, "2 known images given for 3 images"),
        ({"known_NCHW": LEVELS, "known_mask_NHW": GOOD_MASK.repeat(2, 1, 1)}, "2 masks given for 3 images"),
    ],
)
def test_requests_that_do_not_fit_are_refused(changes, message):
    engine = Engine(tiny(context="label"))
    with pytest.raises(UserError, match=message):
        engine.submit(replace(Request(n=3), **changes))
    assert engine.is_idle
    engine.submit(Request(known_NCHW=LEVELS, known_mask_NHW=GOOD_MASK, context=Context()))  # unknown pixels are not looked at


def test_engines_that_cannot_be_are_refused():
    for options, message in (({"num_slots": 0}, "0 slots"), ({"max_waiting": 0}, "at most 0"), ({"reserve": 65}, "a reserve of 65")):
        with pytest.raises(UserError, match=message):
            Engine(tiny(), **options)
    engine = Engine(tiny())
    engine.submit(Request())
    with pytest.raises(ValueError, match="drawing for others"):
        draw_all(engine, Request())
    with pytest.raises(UserError, match="guidance 1 asked of a model without context"):
        engine.submit(Request(guidance=1))


def test_an_engine_is_idle_after_requests_one_of_which_is_refused():
    engine = Engine(tiny())
    with pytest.raises(UserError, match="0 images asked for"):
        draw_all(engine, Request(n=2), Request(n=0))
    assert engine.is_idle and torch.equal(draw_all(engine, Request(seed=3)), sample(tiny(), 1, seed=3))


def test_no_images_are_refused_by_the_reference_sampler_too():
    with pytest.raises(UserError, match="0 samples asked for; give 1 or more"):
        reference_sample(tiny(), 0, seed=0)


def test_a_small_image_that_is_given_is_known():
    model = small_model("pixelcnn", "categorical", 1, 4, 4, levels=6, context="small")
    engine, drawn = Engine(model, num_slots=3), {}
    mask_NHW = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask_NHW[:, 1, :3] = True
    known_NCHW = torch.full((1, 1, 4, 4), 5)
    wanted = [Request(n=2, seed=1, context=random_context(model, 2)), Request(seed=2)]
    wanted.append(Request(seed=3, context=random_context(model, 1), known_NCHW=known_NCHW, known_mask_NHW=mask_NHW))
    submitted = {engine.submit(request): request for request in wanted}
    while not engine.is_idle:
        for row in engine.step_row():
            if row.is_last:
                drawn[row.request_id, row.image] = row.image_CHW
    for (request_id, image), x_CHW in drawn.items():
        request = submitted[request_id]
        assert torch.equal(x_CHW, expected(model, request, image))
        if request.context is not None:
            assert torch.equal(x_CHW[:, ::2, ::2], request.context.small_BCHW[image].to(torch.uint8))
    assert len(drawn) == 4
    mask_NHW[:, 2, 2] = True
    known_NCHW[:, :, 2, 2] = (random_context(model, 1).small_BCHW[0, 0, 1, 1] + 1) % 6
    with pytest.raises(UserError, match=r"pixel \(2, 2\) of image 0 is known to differ, in channel 0, from the small image that is given"):
        engine.submit(Request(context=random_context(model, 1), known_NCHW=known_NCHW, known_mask_NHW=mask_NHW))
