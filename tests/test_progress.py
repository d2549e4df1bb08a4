"""Lines from workers to the terminal."""

from __future__ import annotations

import pytest

from pixelmodels.progress import Progress, beside_the_driver, duration, sayer


def test_lines_come_in_order_and_once(ray_cluster: None) -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    say = sayer(progress.actor)
    say("one")
    say("two")
    progress.drain()
    progress.drain()
    assert lines == ["one", "two"]
    say("three")
    progress.close()
    progress.drain()
    progress.show("four")
    assert lines == ["one", "two"]  # what is torn down has no news


def test_lines_that_were_lost_with_their_machine_stop_nothing(ray_cluster: None) -> None:
    import ray

    progress = Progress(print)
    ray.kill(progress.actor)
    progress.drain()


def test_what_serves_the_driver_needs_the_drivers_own_node(ray_cluster: None) -> None:
    """One that needs nothing is started anywhere."""
    import ray

    (here,) = ray.nodes()
    ((name, amount),) = beside_the_driver()["resources"].items()
    assert name == f"node:{here['NodeManagerAddress']}" and name in here["Resources"] and 0 < amount < 0.1


@pytest.mark.parametrize(("seconds", "text"), [(41.7, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_lengths_of_time_are_said_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
