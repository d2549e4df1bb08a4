"""Registered models are found by name or page by page, however many there are."""

from __future__ import annotations

import pytest

from pixelmodels.errors import UserError
from pixelmodels.promotion.candidates import choose_name
from pixelmodels.tracking import Tracker

NAMES = ["paged a", "paged b", "paged c"]


@pytest.fixture(autouse=True)
def names(tracker: Tracker) -> None:
    have = {model.name for model in tracker.client.search_registered_models()}
    for name in set(NAMES) - have:
        tracker.client.create_registered_model(name)


def test_all_pages_are_read(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    search = tracker.client.search_registered_models
    every = sorted(model.name for model in search())
    monkeypatch.setattr(tracker.client, "search_registered_models", lambda page_token=None: search(max_results=1, page_token=page_token))
    with pytest.raises(UserError) as caught:
        choose_name(tracker, None)
    assert str(caught.value) == f"several registered models: {', '.join(every)}; choose one with --name"
    with pytest.raises(UserError, match=r"registered model 'paged d' unknown; have .*paged a, paged b, paged c.*; did you mean"):
        choose_name(tracker, "paged d")


def test_one_that_is_named_is_not_looked_for_among_all(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mlflow.MlflowClient.search_registered_models")
    assert choose_name(tracker, "paged b") == "paged b"
