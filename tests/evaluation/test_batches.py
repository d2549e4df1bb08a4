"""Whether a data set's classes are those that a model was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from pixelmodels.errors import UserError
from pixelmodels.evaluation.batches import check_context_fits
from pixelmodels.models import ContextSpec
from pixelmodels.recipes.context import context_spec
from tests.training.tiny_run import TinyDataset, tiny_recipe

PETS = ("cat", "dog", "owl")


def fits(names: tuple[str, ...], *, known: tuple[str, ...] = PETS, num_classes: int = 3) -> None:
    """Check a data set with classes of these names against a model of `num_classes`."""
    dataset: Any = TinyDataset(name="zoo", num_classes=len(names), names=names)
    check_context_fits(ContextSpec(num_classes, class_names=known), dataset, ("test",), "score it with --without-context")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("ant", "cat", "dog"), r"other classes than data set 'zoo' has \(only the model knows 'owl'; only the data set knows 'ant'\)"),
        (("cat", "owl", "dog"), r"other classes than data set 'zoo' has \(label 1 is 'dog' to the model and 'owl' there\)"),
        (("Cat", "dog", "owl"), r"\(only the model knows 'cat'; only the data set knows 'Cat'\)"),
        (("0", "1", "2"), r"\(only the model knows 'cat', 'dog', 'owl'; only the data set knows '0', '1', '2'\)"),
        (("cat", "dog", "owl "), r"\(only the model knows 'owl'; only the data set knows 'owl '\)"),
        (("cat", "dog"), r"conditioned on 3 classes, data set 'zoo' has 2 \(only the model knows 'owl'\)"),
        (("cat", "cow", "dog", "owl"), r"conditioned on 3 classes, data set 'zoo' has 4 \(only the data set knows 'cow'\)"),
        ((), r"conditioned on 3 classes, data set 'zoo' has 0; use"),
    ],
)
def test_other_classes_are_refused_with_the_names_that_differ(names, says):
    with pytest.raises(UserError, match=says) as found:
        fits(names)
    assert str(found.value).endswith("; use one that fits, or score it with --without-context") and "\n" not in str(found.value)


def test_many_names_are_cut_short():
    ours, theirs = (tuple(f"{kind}{i}" for i in range(1000)) for kind in "mt")
    with pytest.raises(UserError, match=r"knows 'm0', 'm1', 'm2', 'm3', 'm4' and 995 more; only the data set knows 't0'") as found:
        fits(theirs, known=ours, num_classes=1000)
    assert len(str(found.value)) < 400


def test_the_same_classes_in_the_same_order_fit():
    fits(PETS)
    fits(("0", "1", "2"), known=("0", "1", "2"))


def test_a_model_of_before_that_knows_no_names_goes_by_their_number():
    fits(("ant", "bee", "cow"), known=())
    with pytest.raises(UserError, match="conditioned on 3 classes, data set 'zoo' has 2; use"):
        fits(("ant", "bee"), known=())


def test_a_model_without_labels_takes_any_classes():
    dataset: Any = TinyDataset(names=("x", "y"))
    check_context_fits(ContextSpec(vector_size=3), dataset, ("test",), "remedy")


def test_a_run_takes_the_names_of_its_data_set():
    dataset: Any = TinyDataset(names=("left", "right"))
    assert context_spec(tiny_recipe(), dataset).class_names == ("left", "right")
    assert context_spec(tiny_recipe(condition_on=("vector",)), dataset).class_names == ()
