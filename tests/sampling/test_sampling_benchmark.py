"""The batchers and the clock of the sampling benchmark, on cases small enough to follow by hand, and what its rows say."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

from benchmarks import sampling_rows
from benchmarks.sampling import Arguments, goals, rounded, table
from benchmarks.sampling_load import (
    Arrival,
    Continuous,
    Costs,
    Real,
    Served,
    Simulated,
    Static,
    Stepped,
    compare,
    describe,
    late_singles,
    measure_costs,
    poisson,
    serve,
    stand_in,
)
from benchmarks.sampling_rows import GATED, float32_differences, num_different, rows_of, state_bytes
from pixelmodels.models import ARCHITECTURES
from pixelmodels.sampling.passes import Passes

HEIGHT = 4
UNIT = Costs({1: 1.0, 2: 1.0, 4: 1.0}, {1: 0.0})  # a row takes a second, however many images


def served_by(kind, arrivals, num_slots=4, costs=UNIT, until_s=float("inf")):
    return serve([kind(stand_in(HEIGHT), num_slots)], arrivals, [Simulated(costs)], until_s)[0].finished_s


def test_continuous_images_begin_at_the_next_row_and_static_ones_at_the_next_batch():
    arrivals = [Arrival(0.5, 1), Arrival(1.0, 1), Arrival(5.0, 2)]
    assert served_by(Continuous, arrivals) == [[4.5], [5.5], [9.5, 9.5]]
    assert served_by(Static, arrivals) == [[4.5], [8.5], [12.5, 12.5]]


def test_a_static_batch_takes_what_waits_in_the_order_of_arrival_up_to_its_slots():
    arrivals = [Arrival(0.0, 1), Arrival(0.1, 1), Arrival(0.2, 6), Arrival(0.3, 1)]
    assert served_by(Static, arrivals) == [[4.0], [8.0], [8.0, 8.0, 8.0, 12.0, 12.0, 12.0], [12.0]]


def test_static_batches_leave_no_slot_free_and_continuous_ones_the_reserve():
    many = [Arrival(0.0, 8)]
    assert served_by(Static, many) == [[4.0] * 4 + [8.0] * 4]
    assert served_by(Continuous, many) == [[4.0] * 3 + [8.0] * 3 + [12.0] * 2]


@pytest.mark.parametrize("kind", [Continuous, Static])
def test_rows_cost_what_their_width_and_their_beginners_do(kind):
    costs = Costs({1: 1.0, 2: 3.0, 4: 10.0}, {1: 0.5, 3: 1.5})
    assert [costs.seconds(n, begun) for n, begun in ((1, 0), (2, 0), (3, 0), (4, 1), (4, 2), (4, 4))] == [1, 3, 10, 10.5, 11, 11.5]
    assert served_by(kind, [Arrival(2.0, 1)], costs=costs) == [[2 + 0.5 + 4 * 1.0]]
    assert served_by(kind, [Arrival(2.0, 1), Arrival(2.0, 1), Arrival(2.0, 1)], costs=costs) == [[2 + 1.5 + 4 * 10.0]] * 3


def test_no_row_is_begun_after_the_end():
    arrivals = [Arrival(0.0, 1), Arrival(2.0, 1)]
    assert served_by(Continuous, arrivals, until_s=3.5) == [[4.0], []]
    assert served_by(Continuous, arrivals, until_s=5.5) == [[4.0], [6.0]]


def test_the_pixels_are_those_of_the_request_in_either_batcher():
    rows = {}
    for kind in (Continuous, Static):
        batcher = kind(stand_in(HEIGHT), 2)
        step_row, images = batcher.engine.step_row, []
        batcher.engine.step_row = lambda step_row=step_row, images=images: images.extend(found := step_row()) or found
        serve([batcher], [Arrival(0.0, 3), Arrival(1.0, 1)], [Simulated(UNIT)])
        rows[kind] = sorted(row.image_CHW.flatten().tolist() for row in images if row.is_last)
    assert rows[Continuous] == rows[Static] and len(rows[Static]) == 4


def test_latency_is_from_arrival_to_the_last_image_and_what_is_not_finished_does_not_count():
    served = Served([Arrival(0.0, 1), Arrival(1.0, 2), Arrival(2.0, 1), Arrival(3.0, 2)], [[4.0], [5.0, 6.5], [6.5], [7.0]])
    assert served.latencies_s(1) == [4.0, 4.5] and served.latencies_s(1, from_s=0.5) == [4.5] and served.latencies_s(2) == [5.5]
    found = describe(served, 10.0)
    assert found["single_requests"] == 1 and found["single_median_s"] == found["single_p95_s"] == 4.5 and found["of_2_median_s"] == 5.5


def test_throughput_is_over_whole_batches():
    served = Served([Arrival(0.0, 8)], [[4.0] * 4 + [8.0] * 4])
    assert served.images_per_s(0, 10) == 1.0
    assert served.images_per_s(5, 10) == 0.0
    continuous = Served([Arrival(0.0, 1)] * 4, [[1.0], [1.5], [2.0], [3.0]])
    assert continuous.images_per_s(0, 10) == 1.5 and continuous.images_per_s(1.2, 3.0) == 2.0


def test_arrivals_have_the_rate_and_the_mix_that_were_asked_for():
    singles, mixed = poisson(5.0, 4000, seed=0), poisson(5.0, 4000, seed=0, every=10, many=64)
    assert poisson(5.0, 4000, seed=0) == singles and {arrival.n for arrival in singles} == {1}
    assert len(singles) / 4000 == pytest.approx(5.0, rel=0.02)
    assert sum(arrival.n for arrival in mixed) / 4000 == pytest.approx(5.0, rel=0.1)
    assert sum(arrival.n == 64 for arrival in mixed) / len(mixed) == pytest.approx(0.1, abs=0.02)
    assert all(one.time_s < other.time_s < 4000 for one, other in itertools.pairwise(singles))


def test_under_load_continuous_batches_answer_sooner_at_the_same_throughput():
    costs = Costs({1: 1.0, 2: 1.1, 4: 1.3, 8: 1.6}, {8: 0.0})
    found = [compare(stand_in(HEIGHT), costs, 8, 300.0, simulated=True) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["single"]["single_p95_ratio"] < 0.85 and found[0]["mix"]["single_p95_ratio"] < 0.85
    assert found[0]["single"]["saturated_ratio"] == pytest.approx(1.0, abs=0.02)
    late = late_singles(stand_in(HEIGHT), costs, 8, 2, simulated=True)
    assert late["single_images"] == 82 and 1.0 * (1.3 / 1.6) < late["median_ratio"] <= late["worst_ratio"] <= (HEIGHT + 1) / HEIGHT


TINY = replace(GATED, size=4, num_features=4, num_layers=1)


def test_rows_of_every_architecture_have_the_keys_that_are_promised():
    keys = {
        "model",
        "likelihood",
        "image_channels",
        "size",
        "width",
        "mode",
        "batch",
        "seconds",
        "forward_passes",
        "speedup_over_reference",
    }
    for name in ARCHITECTURES:
        rows = rows_of(replace(TINY, architecture=name), (2,), 1, lambda line: None)
        assert [row["mode"] for row in rows] == ["forward", "raster", "reference"] and all(set(row) >= keys for row in rows)
        forward, raster, reference = rows
        assert forward["forward_passes"] == 1 and forward["speedup_over_reference"] is None and reference["speedup_over_reference"] == 1
        assert raster["forward_passes"] == raster["seconds"] / forward["seconds"]
        assert raster["speedup_over_reference"] == reference["seconds"] / raster["seconds"]
        assert (raster["model"], raster["batch"], raster["size"], raster["width"]) == (name, 2, 4, 4)


def test_the_state_of_a_slot_is_counted_from_its_tensors():
    canvas = Passes(TINY.build()).start(5)
    assert 5 * state_bytes(TINY.build()) == sum(value.nbytes for value in canvas.tensors())


def test_quick_measures_every_architecture_and_the_gated_net_at_every_batch():
    cases = Arguments(quick=True).cases()
    assert [case.architecture for case, _, _ in cases] == list(ARCHITECTURES)
    assert [batches for case, batches, _ in cases if case == GATED] == [(1, 16, 64)]
    assert (GATED.likelihood, GATED.size, GATED.num_layers, GATED.num_features) == ("bernoulli", 28, 8, 64)


def test_images_alone_and_in_a_batch_are_compared_for_each_number_of_levels(monkeypatch):
    assert num_different(TINY.build().double(), 5, 4) == 0
    drawn = [torch.zeros(5, 1, 4, 4), torch.zeros(5, 1, 4, 4)]
    drawn[1][1, 0, 2, 2] = drawn[1][1, 0, 3, 3] = drawn[1][4, 0, 0, 0] = 1
    turns = itertools.cycle(drawn)
    monkeypatch.setattr(sampling_rows, "draw_all", lambda engine, request: next(turns))
    found = float32_differences(TINY, (2, 16), 5, 64)
    assert [(row["levels"], row["batch"], row["images_that_differ"], row["share"]) for row in found] == [(2, 5, 2, 0.4), (16, 5, 2, 0.4)]


def test_in_real_time_each_clock_runs_while_its_own_rows_are_drawn():
    clocks = [Real(), Real()]
    served = serve([Continuous(stand_in(HEIGHT), 2), Static(stand_in(HEIGHT), 2)], [Arrival(5.0, 1)], clocks)
    assert all(clock.now_s == one.finished_s[0][0] > 5.0 for clock, one in zip(clocks, served, strict=True))
    clocks[0].stepped(Stepped(1, 0, []), 0.25)
    assert clocks[0].now_s == served[0].finished_s[0][0] + 0.25 and clocks[1].now_s == served[1].finished_s[0][0]


def test_costs_are_of_every_width():
    costs = measure_costs(stand_in(HEIGHT), 4, 1)
    assert list(costs.of_width) == [1, 2, 3, 4] and all(seconds > 0 for seconds in costs.of_width.values())
    assert costs.begin_seconds(0) == 0 and costs.begin_seconds(3) >= 0


def test_the_table_tells_what_was_missed():
    rows = [{"mode": "raster", "model": "gated_pixelcnn", "likelihood": "bernoulli", "batch": 64, "forward_passes": 2.1}]
    found = goals([{**rows[0], "speedup_over_reference": 400.0}], {})
    assert [(goal.measured, goal.met) for goal in found] == [(2.1, False), (400.0, True)]
    assert [line.split()[-1] for line in table(found).splitlines()] == ["met", "NO", "yes"]
    assert json.dumps(rounded({"a": [1.23456789, 2, None]})) == '{"a": [1.2346, 2, null]}'
