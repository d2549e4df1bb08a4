"""Classes by number and by name: every text means one class, or is told in one line."""

from __future__ import annotations

import re

import pytest

from pixelmodels.errors import UserError
from pixelmodels.models import ContextSpec
from pixelmodels.models.class_names import class_name, classes_of, label_of, told
from pixelmodels.models.context import ABSENT

ANIMALS = ("ant", "Bee", "hot dog", "caf\u00e9", "Cat", "cat", "7", "caf\udce9")
SPEC, UNNAMED = ContextSpec(len(ANIMALS), class_names=ANIMALS), ContextSpec(8)
LETTERS = ContextSpec(26, class_names=tuple(map(str, range(1, 27))))


@pytest.mark.parametrize("spec", [SPEC, LETTERS, UNNAMED])
def test_a_number_is_a_label_and_every_name_is_its_class(spec: ContextSpec) -> None:
    assert [label_of(label, spec) for label in range(spec.num_classes)] == list(range(spec.num_classes))
    assert [label_of(name, spec) for name in spec.class_names] == list(range(len(spec.class_names)))
    assert [label_of(told(name), spec) for name in spec.class_names] == list(range(len(spec.class_names)))


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ("ANT", 0),
        ("bee", 1),
        ("Hot Dog", 2),
        ("cafe\u0301", 3),  # as macOS composes it
        ("CAFE\u0301", 3),
        ("cat", 5),
        ("7", 6),  # a name, though there is a label 7
        ("5", 5),
        ("07", 7),  # digits that no class is called
        (r"caf\udce9", 7),  # as it is told
    ],
)
def test_a_text_is_a_name_then_a_number_then_a_name_in_other_letters(asked: str, label: int) -> None:
    assert label_of(asked, SPEC) == label


def test_texts_of_digits_are_names_where_there_are_such() -> None:
    assert (label_of("1", LETTERS), label_of(1, LETTERS), label_of("26", LETTERS), label_of("0", LETTERS)) == (0, 1, 25, 0)
    assert [label_of(str(label), UNNAMED) for label in range(8)] == list(range(8))
    signed = ContextSpec(3, class_names=("-1", "0", "1"))
    assert (label_of("-1", signed, ABSENT), label_of(-1, signed, ABSENT), label_of("2", signed)) == (0, -1, 2)


@pytest.mark.parametrize(
    ("asked", "spec", "message"),
    [
        ("CAT", SPEC, "label 'CAT' may be 'Cat' (label 4) or 'cat' (label 5); give one of them as it is written, or its number"),
        (8, SPEC, "label 8 is out of range; this model knows 0..7 ('ant', 'Bee', 'hot dog', 'café', 'Cat', 'cat', '7', 'caf\\udce9')"),
        ("9" * 25, UNNAMED, f"label {'9' * 25} is out of range; this model knows 0..7"),
        (-1, UNNAMED, "label -1 is out of range; this model knows 0..7"),
        ("-1", SPEC, "label -1 is out of range; this model knows 0..7 ('ant', "),
        ("hotdog", SPEC, "label 'hotdog' unknown; have 'ant', 'Bee', "),
        ("hotdog", SPEC, "or their numbers, 0..7; did you mean 'hot dog'?"),
        ("", SPEC, "label '' unknown; have "),
        ("1.0", SPEC, "label '1.0' unknown; have "),
        ("27", LETTERS, "label 27 is out of range; this model knows 0..25 ('1', '2', "),
        ("a", LETTERS, "'11', '12' and 14 more, or their numbers, 0..25"),
        ("a\nb\udce9", SPEC, r"label 'a\nb\udce9' unknown; have "),
        ("cat", UNNAMED, "label 'cat' unknown; this model does not know its classes by name: give a number, 0..7"),
        ("cat", ContextSpec(), "a context label is given to a model that is not conditioned on one; leave it out"),
    ],
)
def test_what_is_no_class_is_told_in_one_line(asked: str | int, spec: ContextSpec, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        label_of(asked, spec)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_long_text_is_told_short() -> None:
    with pytest.raises(UserError) as error:
        label_of("x" * 10_000, SPEC)
    assert len(str(error.value)) < 400


def test_no_label_is_one_where_it_is_allowed() -> None:
    assert label_of(-1, SPEC, ABSENT) == label_of("-1", UNNAMED, ABSENT) == ABSENT
    with pytest.raises(UserError, match=r"label -2 is out of range; this model knows 0\.\.7, and -1 for no label"):
        label_of(-2, UNNAMED, ABSENT)


def test_names_are_told_as_text() -> None:
    assert class_name(7, SPEC) == r"caf\udce9" and class_name(3, SPEC) == "caf\u00e9"
    assert class_name(ABSENT, SPEC) is None and class_name(8, SPEC) is None and class_name(0, UNNAMED) is None
    assert told("a\tb\u2028c\x7f") == r"a\tb\u2028c\x7f" and told("鳥 \u200d👍") == "鳥 \u200d👍"
    assert classes_of(UNNAMED) == "0..7" and classes_of(LETTERS).endswith("'12' and 14 more")
