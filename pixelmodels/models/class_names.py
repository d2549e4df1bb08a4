"""A class by its number or its name: wherever one is asked for, and as it is told.

- A number is a label, counted from 0.
- A text is the name of a class. Digits that no class is called are a label. Last, letters of another case, or composed in another way
  (as names of files are on some systems), are the name of the one class that they fit.

So where classes are called `1` to `26`, the text 1 is the first of them, whose label is 0, and the number 1 is the second.
"""

from __future__ import annotations

import difflib
import re
import unicodedata

from pixelmodels.errors import UserError, listed
from pixelmodels.models.context import ABSENT, Context, ContextSpec

MOST_TOLD = 12  # names in a message
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # categories of what breaks lines, and of bytes of a file's name that are no text


def label_of(asked: str | int, spec: ContextSpec, least: int = 0) -> int:
    """The label of the class that is asked for; raises `UserError` where the model has none like it.

    Args: `least`, the first label that is taken: `ABSENT` where that is one, too.
    """
    if not spec.num_classes:
        raise UserError("a context label is given to a model that is not conditioned on one; leave it out")
    if not isinstance(asked, str):
        return _checked(int(asked), spec, least)
    alike = [i for i, name in enumerate(spec.class_names) if asked in (name, told(name))]
    if not alike and re.fullmatch(r"-?[0-9]{1,30}", asked):
        return _checked(int(asked), spec, least)
    alike = alike or [i for i, name in enumerate(spec.class_names) if _folded(asked) == _folded(name)]
    if not alike:
        raise _unknown(asked, spec)
    if len(alike) > 1:
        which = " or ".join(f"'{told(spec.class_names[i])}' (label {i})" for i in alike[:4])
        raise UserError(f"label '{told(asked)}' may be {which}; give one of them as it is written, or its number")
    return alike[0]


def class_name(label: int, spec: ContextSpec) -> str | None:
    """The name of a class as it is told; None where there is no such class, or the model was trained before names were kept."""
    return told(spec.class_names[label]) if 0 <= label < len(spec.class_names) else None


def names_of(context: Context | None, spec: ContextSpec) -> list[str]:
    """The name of the class of each row of a context, empty where it has none; nothing where there are no labels."""
    labels = [] if context is None or context.label_B is None else context.label_B.tolist()
    return [class_name(label, spec) or "" for label in labels]


def told(name: str) -> str:
    """A name as it is printed, drawn and sent: what is no text, or would break a line, is escaped."""
    return "".join(ascii(letter)[1:-1] if unicodedata.category(letter) in _ESCAPED else letter for letter in name)


def classes_of(spec: ContextSpec) -> str:
    """The classes of a model in words, some of many: their names, or their numbers where these are all that is known."""
    return listed([told(name) for name in spec.class_names], MOST_TOLD) if spec.class_names else f"0..{spec.num_classes - 1}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", told(name)).casefold()


def _checked(label: int, spec: ContextSpec, least: int) -> int:
    if least <= label < spec.num_classes:
        return label
    names = f" ({classes_of(spec)})" if spec.class_names else ""
    absent = f", and {ABSENT} for no label" if least == ABSENT else ""
    raise UserError(f"label {label} is out of range; this model knows 0..{spec.num_classes - 1}{names}{absent}")


def _unknown(asked: str, spec: ContextSpec) -> UserError:
    what = f"label '{told(asked)[:80]}' unknown"
    if not spec.class_names:
        return UserError(f"{what}; this model does not know its classes by name: give a number, 0..{spec.num_classes - 1}")
    names = {_folded(name): told(name) for name in spec.class_names}
    near = difflib.get_close_matches(_folded(asked)[:80], names, n=3)
    hint = f"; did you mean {' or '.join(repr(names[name]) for name in near)}?" if near else ""
    return UserError(f"{what}; have {classes_of(spec)}, or their numbers, 0..{spec.num_classes - 1}{hint}")
