"""Blocks: every architecture, likelihood and condition comes back exactly, at the cost that the model's likelihood says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelmodels.compression import conditions
from pixelmodels.compression.arithmetic import Way, portable, usual
from pixelmodels.compression.codec import Block, Codec, WrongTables
from pixelmodels.compression.range_coding import RangeDecoder
from pixelmodels.compression.tables import frequencies
from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LIKELIHOODS, LikelihoodConfig, build_likelihood
from pixelmodels.likelihoods.base import Tables
from pixelmodels.models import Context, ContextSpec, PixelModel, build
from pixelmodels.models.orders import ensemble_log_prob, log_probs_of_orders
from pixelmodels.sampling import sample
from pixelmodels.shapes import ImageSpec
from tests.conformance.conftest import KINDS, PAIRS, WITHOUT_SMALL, random_context, small_model

WIDTH, NUM = 4, 3  # of the batch, and images in it
OVERHEAD_BITS = 10  # of the end of a stream: less than a byte and a half
CLEAR = 1e-4  # of the bits: how far the integers of tables may be off


def random_images(model: PixelModel, num: int = NUM, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, model.spec.levels, (num, *model.spec.shape)).astype(np.uint8)


def own_context(model: PixelModel, images_NCHW: np.ndarray) -> Context | None:
    """A context of every kind that the model knows, in numbers that can be stored; small images are made of the images."""
    context = random_context(model, len(images_NCHW))
    if context.vector_BV is not None:
        context = replace(context, vector_BV=context.vector_BV.float())
    if context.small_BCHW is not None:
        context = replace(context, small_BCHW=torch.from_numpy(images_NCHW[:, :, ::2, ::2]).long())
    return context if len(context) else None


def codec_of(model: PixelModel, context: Context | None = None, **changes: object) -> Codec:
    return Codec(model, replace(usual(model, WIDTH), **changes), conditions.kinds_of(context))  # type: ignore[arg-type]


def stored_bits(model: PixelModel, context: Context | None) -> float:
    """What a context costs beside the images."""
    spec, bits = model.context_spec, 0.0
    if context is not None and context.label_B is not None:
        bits += len(context.label_B) * math.log2(spec.num_classes + 1)
    if context is not None and context.vector_BV is not None:
        bits += 32 * context.vector_BV.numel()
    for value, image in ((getattr(context, "image_BCHW", None), spec.image), (getattr(context, "small_BCHW", None), spec.small)):
        if value is not None and image is not None:
            bits += value.numel() * math.log2(image.levels + 1)
    return bits


def check(model: PixelModel, images_NCHW: np.ndarray, context: Context | None) -> None:
    codec = codec_of(model, context)
    block = codec.encode(images_NCHW, context)
    decoded_NCHW, told = codec.decode(block)
    assert decoded_NCHW.dtype == np.uint8 and np.array_equal(decoded_NCHW, images_NCHW)
    for name in conditions.KINDS:
        given, back = getattr(context, name, None), getattr(told, name, None)
        assert (given is None) == (back is None) and (given is None or torch.equal(given, back))
    with torch.no_grad():
        bits = -float(model.log_prob(torch.from_numpy(images_NCHW), context).sum()) / math.log(2) + stored_bits(model, context)
    assert 8 * len(block.payload) <= bits * (1 + CLEAR) + OVERHEAD_BITS


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def test_every_model_with_every_likelihood(pair: tuple[str, str, int]) -> None:
    architecture, likelihood, channels = pair
    model = small_model(architecture, likelihood, channels, 4, 3, levels=5)
    check(model, random_images(model), None)


SEVERAL = [("gated_pixelcnn", 3, 4, 4), ("multiscale_pixelrnn", 1, 5, 5), ("gated_pixelcnn", 1, 4, 6)]


@pytest.mark.parametrize("context_kind", ["orders", "mix_and_orders"])
@pytest.mark.parametrize("one", SEVERAL, ids=lambda one: "-".join(map(str, one)))
def test_images_cost_what_the_mixture_of_several_orders_says(one: tuple[str, int, int, int], context_kind: str) -> None:
    model = small_model(one[0], "categorical", *one[1:], levels=5, context=context_kind)
    num_orders = model.context_spec.num_orders
    pool_NCHW = np.concatenate([sample(model, 8, seed=order, order=order).numpy() for order in range(num_orders)])
    pool = own_context(model, pool_NCHW)
    with torch.no_grad():
        likeliest_N = log_probs_of_orders(model, torch.from_numpy(pool_NCHW), pool).argmax(1).numpy()
    index_N = np.sort(np.unique(likeliest_N, return_index=True)[1])[-NUM:]  # of images of several orders, which share a batch
    images_NCHW, context = pool_NCHW[index_N], None if pool is None else pool.rows(torch.from_numpy(index_N))
    num, codec = len(index_N), codec_of(model, context)
    assert num > 1
    with torch.no_grad():
        bits = -float(ensemble_log_prob(model, torch.from_numpy(images_NCHW), context).sum()) / math.log(2) + stored_bits(model, context)
    block = codec.encode(images_NCHW, context)
    decoder = RangeDecoder(block.payload)
    conditions.read(codec.kinds, model.context_spec, num, decoder)
    assert decoder.take_uniform(num, num_orders).tolist() == likeliest_N[index_N].tolist()
    assert np.array_equal(codec.decode(block)[0], images_NCHW)
    assert 8 * len(block.payload) <= (bits + num * math.log2(num_orders)) * (1 + CLEAR) + OVERHEAD_BITS


def test_a_model_of_orders_and_small_images_keeps_to_the_raster_order() -> None:
    one = small_model("pixelcnn", "categorical", 1, 4, 4, context="small")
    spec = ContextSpec(small=ImageSpec(1, 2, 2, 3), num_orders=2)
    model = build(one.config, one.spec, one.likelihood.config, spec).double().eval()
    images_NCHW = random_images(model)
    for context in (None, Context(small_BCHW=torch.from_numpy(images_NCHW[:, :, ::2, ::2]).long())):
        codec = codec_of(model, context)
        assert np.array_equal(codec.decode(codec.encode(images_NCHW, context))[0], images_NCHW)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16])
def test_levels_of_any_integers_come_back(dtype: type) -> None:
    model = small_model("pixelcnn", "categorical", 1, 4, 3, levels=5)
    codec, images_NCHW = codec_of(model), random_images(model)
    assert codec.encode(images_NCHW.astype(dtype)) == codec.encode(images_NCHW)
    for wrong in (np.float16, np.float32):
        with pytest.raises(UserError, match=r"images of type torch.float.. given; give integers in \[0, 5\)"):
            codec.encode(np.full(images_NCHW.shape, np.nan, wrong))


@pytest.mark.parametrize("pair", WITHOUT_SMALL[::4], ids=lambda pair: "-".join(map(str, pair)))
def test_pixels_of_a_small_image_are_stored_once(pair: tuple[str, str, int]) -> None:
    model = small_model(*pair, 4, 4, levels=5, context="small")
    images_NCHW = random_images(model)
    check(model, images_NCHW, own_context(model, images_NCHW))


@pytest.mark.parametrize("pair", PAIRS[::3], ids=lambda pair: "-".join(map(str, pair)))
@pytest.mark.parametrize("kind", KINDS)
def test_conditions_come_back(pair: tuple[str, str, int], kind: str) -> None:
    architecture, likelihood, channels = pair
    model = small_model(architecture, likelihood, channels, 3, 4, levels=5, context=kind)
    images_NCHW = random_images(model)
    check(model, images_NCHW, own_context(model, images_NCHW))


def test_conditions_that_some_images_lack() -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 3, 4, levels=5, context="mix")
    images_NCHW = random_images(model)
    context = own_context(model, images_NCHW)
    assert context is not None and context.label_B is not None and context.vector_BV is not None and context.image_BCHW is not None
    lacking = Context(context.label_B.clone(), context.vector_BV.clone(), context.image_BCHW.clone())
    lacking.label_B[0], lacking.vector_BV[1], lacking.image_BCHW[2] = -1, torch.nan, -1  # type: ignore[index]
    codec = codec_of(model, lacking)
    decoded_NCHW, told = codec.decode(codec.encode(images_NCHW, lacking))
    assert np.array_equal(decoded_NCHW, images_NCHW) and told is not None
    assert torch.equal(told.label_B, lacking.label_B) and torch.equal(told.image_BCHW, lacking.image_BCHW)  # type: ignore[arg-type]
    assert torch.equal(told.vector_BV.nan_to_num(7), lacking.vector_BV.nan_to_num(7))  # type: ignore[union-attr]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("channels", [1, 3])
def test_its_own_samples_cost_their_likelihood(likelihood: str, channels: int) -> None:
    """In float32, as models are; of 256 levels where there may be so many."""
    model = small_model("gated_pixelcnn", likelihood, channels, 6, 5, levels=256).float()
    check(model, sample(model, WIDTH, seed=1).numpy(), None)


@pytest.mark.parametrize("level", [0, 255, None])
def test_images_that_the_model_cannot_believe(level: int | None) -> None:
    """Levels of probability zero in float32 have a place: at most 24 bits, and as many as the integers need."""
    model = small_model("gated_pixelcnn", "categorical", 1, 5, 5, levels=256).float()
    for parameter in model.parameters():
        parameter.data.mul_(30)
    images_NCHW = random_images(model) if level is None else np.full((NUM, *model.spec.shape), level, np.uint8)
    codec = codec_of(model)
    block = codec.encode(images_NCHW)
    assert np.array_equal(codec.decode(block)[0], images_NCHW)
    assert 8 * len(block.payload) <= 24 * images_NCHW.size + OVERHEAD_BITS


def test_images_that_a_mixture_cannot_believe() -> None:
    """A group, and which level of it: at most 24 bits each."""
    model = small_model("gated_pixelcnn", "discretized_logistic_mixture", 3, 5, 5, levels=256).float()
    for parameter in model.parameters():
        parameter.data.mul_(8)
    images_NCHW = random_images(model)
    codec = codec_of(model)
    block = codec.encode(images_NCHW)
    assert np.array_equal(codec.decode(block)[0], images_NCHW)
    assert 8 * len(block.payload) <= 48 * images_NCHW.size + OVERHEAD_BITS


def test_levels_of_a_group_far_from_the_mean_have_all_their_digits() -> None:
    """33 scales away: of the share below an edge float32 has no digit left there, and of a bin given its group all."""
    head = build_likelihood(LikelihoodConfig("discretized_logistic_mixture", 1), ImageSpec(1, 2, 2, 256))
    params_BP = torch.tensor([[0.0, 20 * head.spec.step - 1, math.log(7 * head.spec.step)]]).expand(16, -1)  # 7 levels wide, around 20
    x_BC = torch.zeros(16, 1, dtype=torch.uint8)
    tables = head.tables(params_BP)
    groups_BS = tables.groups(0, x_BC)
    assert groups_BS is not None and groups_BS[0, -1] < 2**-24
    exact_BGS = head.table(params_BP.double(), 0, x_BC).unflatten(1, (16, 16))
    group_B = np.arange(16, dtype=np.uint8)
    exact_BS = torch.softmax(exact_BGS[torch.arange(16), torch.arange(16)], 1)
    found_BS = torch.from_numpy(tables.levels(0, x_BC, group_B)).double()
    torch.testing.assert_close(found_BS, exact_BS, rtol=1e-4, atol=0)


@pytest.mark.parametrize("levels", [33, 43, 50, 145, 241, 250])
def test_levels_that_there_are_not_are_not_decoded(levels: int) -> None:
    """Groups that end, or begin, behind the last level leave room for levels of chance alone: noise that decodes to them is noise."""
    model = small_model("pixelcnn_pp", "discretized_logistic_mixture", 1, 8, 8, levels=levels).float()
    images_NCHW = np.full((NUM, *model.spec.shape), levels - 1, np.uint8)
    codec = codec_of(model)
    block = codec.encode(images_NCHW)
    assert np.array_equal(codec.decode(block)[0], images_NCHW)
    rng = np.random.default_rng(0)
    for _ in range(20):
        with pytest.raises(WrongTables, match="a level that there is not"):
            codec.decode(replace(block, payload=b"\xff" * 4 + rng.bytes(len(block.payload))))


def coded_probabilities(tables: Tables, channel: int, x_BC: torch.Tensor, levels: int) -> torch.Tensor:
    """Of all levels, by the tables that they are coded by; B L."""
    groups_BS, size = tables.groups(channel, x_BC), tables.group_size
    if groups_BS is None:
        found_BL = tables.levels(channel, x_BC, None)
        assert frequencies(found_BL).shape == (len(x_BC), levels) and size == levels
        return torch.from_numpy(found_BL)
    assert frequencies(groups_BS).shape == (len(x_BC), size)
    parts = []
    for group in range(-(-levels // size)):
        one_BS = tables.levels(channel, x_BC, np.full(len(x_BC), group, np.uint8))
        assert frequencies(one_BS).shape == (len(x_BC), size)
        parts.append(groups_BS[:, group, None] * one_BS)
    found_BL = np.concatenate(parts, 1)
    assert (groups_BS[:, len(parts) :] == 0).all() and (found_BL[:, levels:] == 0).all()
    return torch.from_numpy(found_BL[:, :levels])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_are_those_of_the_exact_table(likelihood: str, dtype: torch.dtype) -> None:
    spec = ImageSpec(3, 2, 2, 2 if likelihood == "bernoulli" else 256)
    head, rng = build_likelihood(LikelihoodConfig(likelihood, num_mixtures=4), spec), torch.Generator().manual_seed(0)
    for scale in (0.3, 3.0, 12.0):
        params_BP = torch.randn(50, head.num_params, generator=rng).to(dtype) * scale
        x_BC = torch.randint(spec.levels, (50, 3), generator=rng).to(torch.uint8)
        for channel in range(3):
            own = [place for place, owner in enumerate(head.param_channels) if head.orders_channels or owner == channel]
            if channel == 0 or not head.orders_channels:
                tables = head.tables(params_BP[:, own])
            found_BL = coded_probabilities(tables, channel, x_BC, spec.levels)
            exact_BL = head.table(params_BP[:, own].double(), channel, x_BC).exp()
            assert found_BL.dtype == dtype and (found_BL >= 0).all()
            torch.testing.assert_close(found_BL.double(), exact_BL, rtol=0, atol=2e-3 * scale if dtype == torch.float32 else 1e-11)
            torch.testing.assert_close(found_BL.sum(1).double(), torch.ones(50).double(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("levels", [2, 3, 17, 32, 33, 64, 100, 250, 256])
def test_edges_of_a_mixture_of_any_number_of_levels(levels: int) -> None:
    spec = ImageSpec(1, 2, 2, levels)
    head = build_likelihood(LikelihoodConfig("discretized_logistic_mixture", num_mixtures=3), spec)
    params_BP = torch.randn(200, head.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(levels)) * 5
    x_BC = torch.zeros(200, 1, dtype=torch.uint8)
    exact_BL = head.table(params_BP, 0, x_BC).exp()
    torch.testing.assert_close(coded_probabilities(head.tables(params_BP), 0, x_BC, levels), exact_BL, rtol=0, atol=1e-11)
    assert coded_probabilities(head.tables(params_BP.float()), 0, x_BC, levels).shape == (200, levels)


@pytest.mark.parametrize("levels", [2, 17, 200, 256])
def test_tables_of_mixtures_of_any_scale(levels: int) -> None:
    """From narrower than a bin to wider than all of them, near and far: sums are 1 to well within what tables spare."""
    head, rng = build_likelihood(LikelihoodConfig("discretized_logistic_mixture", 5), ImageSpec(3, 2, 2, levels)), torch.Generator()
    for log_scale in range(-8, 32, 3):
        for distance in (0.5, 50.0, 1e4, 1e12, 1e17):
            params_BP = torch.randn(64, head.num_params, generator=rng)
            of_channels = params_BP[:, 5:].unflatten(1, (3, -1))
            of_channels[..., :5] *= distance
            of_channels[..., 5:10] = log_scale + torch.rand(64, 3, 5, generator=rng)
            x_BC, tables = torch.randint(levels, (64, 3), generator=rng).to(torch.uint8), head.tables(params_BP)
            for channel in range(3):
                found_BL = coded_probabilities(tables, channel, x_BC, levels)  # tables that are none raise
                assert (found_BL.double().sum(1) - 1).abs().max() < 2**-18


def test_a_block_is_a_function_of_its_images_alone() -> None:
    """And what it was coded beside before leaves nothing behind."""
    model = small_model("gated_pixelcnn", "categorical", 3, 4, 3, levels=5).float()
    codec, images_NCHW = codec_of(model), random_images(model)
    first = codec.encode(images_NCHW)
    codec.encode(random_images(model, WIDTH, seed=9))
    assert codec.encode(images_NCHW) == first == codec_of(model).encode(images_NCHW)
    assert first.num_images == NUM


def test_wrong_tables_are_found() -> None:
    """A weight that differs by a thousandth, or a payload in which a byte differs, gives other images, which are not given out."""
    model = small_model("gated_pixelcnn", "categorical", 1, 6, 5, levels=17).float()
    images_NCHW = sample(model, NUM, seed=0).numpy()
    block = codec_of(model).encode(images_NCHW)
    for place in range(len(block.payload)):
        payload = bytearray(block.payload)
        payload[place] ^= 0x11
        with pytest.raises(WrongTables):
            codec_of(model).decode(replace(block, payload=bytes(payload)))
    with pytest.raises(WrongTables):
        codec_of(model).decode(replace(block, payload=b""))
    next(model.parameters()).data.mul_(1.001)
    with pytest.raises(WrongTables):
        codec_of(model).decode(block)


def test_another_context_is_found() -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=5, context="label")
    images_NCHW = random_images(model)
    context = Context(label_B=torch.tensor([0, 1, 2]))
    block = codec_of(model, context).encode(images_NCHW, context)
    with pytest.raises(WrongTables):
        codec_of(model).decode(block)  # as if it had none


def test_a_codec_of_another_precision_or_width_refuses_or_is_right() -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 8, 8, levels=17).float()
    images_NCHW = random_images(model)
    block = codec_of(model).encode(images_NCHW)
    for changes in ({"precision": "float64"}, {"width": 16}, {"width": NUM}, {"table_bits": 20}, {"grid_bits": 8}):
        try:
            assert np.array_equal(codec_of(model, **changes).decode(block)[0], images_NCHW), changes
        except WrongTables:
            continue


def test_the_portable_way_comes_back_and_costs_hardly_more() -> None:
    for likelihood in ("categorical", "discretized_logistic_mixture"):
        model = small_model("gated_pixelcnn", likelihood, 1, 8, 8, levels=256).float()
        images_NCHW = sample(model, WIDTH, seed=0).numpy()
        codecs = [Codec(model, way(model, WIDTH)) for way in (usual, portable)]
        blocks = [codec.encode(images_NCHW) for codec in codecs]
        assert np.array_equal(codecs[1].decode(blocks[1])[0], images_NCHW)
        assert len(blocks[1].payload) <= 1.005 * len(blocks[0].payload) + 2
        assert model.dtype == torch.float32  # a copy was converted


def test_the_portable_way_forgives_what_float64_rounds_otherwise() -> None:
    """Parameters that differ by a few roundings give the same bytes, where they do not on the usual way."""
    same = {}
    for name, way in (("usual", usual), ("portable", portable)):
        payloads = []
        for rounding in (0.0, 1e-14 if name == "portable" else 3e-7):
            model = small_model("gated_pixelcnn", "categorical", 1, 8, 8, levels=256).float()
            images_NCHW = sample(model, WIDTH, seed=0).numpy()
            codec = Codec(model, way(model, WIDTH))
            for _, passes in codec._stages:
                for weights in passes.weights.values():
                    for value in weights.values():
                        value.mul_(1 + rounding)
            payloads.append(codec.encode(images_NCHW).payload)
        same[name] = payloads[0] == payloads[1]
    assert same == {"usual": False, "portable": True}


def test_the_model_is_left_as_it_was() -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=5).float()
    before, num_threads = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_num_threads()
    Codec(model, Way("float64", WIDTH, 2)).encode(random_images(model))
    assert torch.get_num_threads() == num_threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_told() -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=5, context="mix")
    images_NCHW = random_images(model)
    with pytest.raises(UserError, match=r"level 200 is out of range"):
        codec_of(model).encode(np.full_like(images_NCHW, 200))
    with pytest.raises(UserError, match="images of shape"):
        codec_of(model).encode(images_NCHW[:, :, :2])
    context = replace(random_context(model, NUM), vector_BV=torch.full((NUM, 2), 0.1, dtype=torch.float64))
    with pytest.raises(UserError, match="no float32"):
        codec_of(model, context).encode(images_NCHW, context)
    with pytest.raises(UserError, match="is not; give the model"):
        Codec(small_model("gated_pixelcnn", "categorical", 1, 4, 3), Way(), kinds=1)
    small = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=5, context="small")
    images_NCHW = random_images(small)
    context = Context(small_BCHW=(torch.from_numpy(images_NCHW[:, :, ::2, ::2]).long() + 1) % 5)
    with pytest.raises(UserError, match="not made of the image's own pixels"):
        codec_of(small, context).encode(images_NCHW, context)


@pytest.mark.parametrize("likelihood", ["categorical", "discretized_logistic_mixture"])
def test_weights_that_are_not_finite_are_told(likelihood: str) -> None:
    model = small_model("gated_pixelcnn", likelihood, 1, 4, 3, levels=50)
    images_NCHW = random_images(model)
    block = codec_of(model).encode(images_NCHW)
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        codec_of(model).encode(images_NCHW)
    with pytest.raises(WrongTables):
        codec_of(model).decode(block)


@pytest.mark.parametrize("field", ["precision", "path", "width", "threads", "grid_bits", "table_bits"])
def test_ways_that_there_are_not(field: str) -> None:
    with pytest.raises(UserError, match=field):
        Way(**{field: "float16" if field in ("precision", "path") else -1})  # type: ignore[arg-type]


def test_an_empty_block_is_none() -> None:
    with pytest.raises(ValueError, match="0 images"):
        codec_of(small_model("pixelcnn", "categorical", 1, 4, 3)).decode(Block(0, b"", b""))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_a_model_can_be_given(kind: str) -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 3, context=kind)
    assert conditions.most_kinds(model.context_spec) == conditions.kinds_of(random_context(model, 2))
