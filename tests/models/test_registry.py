"""Models as plain values: what a file says comes back, types are checked as a recipe's are, and files of before still load."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ARCHITECTURES, ContextSpec, build, describe, from_description
from pixelmodels.models.files import DESCRIPTION, load_model, save_model
from pixelmodels.shapes import ImageSpec
from tests.conformance.conftest import random_context, small_config, small_model


def description(architecture: str = "pixelcnn", context: str = "mix") -> dict[str, Any]:
    """What a file holds of a small model."""
    found: dict[str, Any] = json.loads(json.dumps(describe(small_model(architecture, "categorical", 1, 4, 4, context=context))))
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_description_comes_back_from_json(architecture):
    values = description(architecture)
    model = from_description(values)
    assert json.loads(json.dumps(describe(model))) == values
    assert isinstance(model, type(small_model(architecture, "categorical", 1, 4, 4)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_without_later_fields_and_with_whole_numbers_for_floats_is_the_same_model(architecture, tmp_path):
    model = small_model(architecture, "categorical", 1, 4, 4, context="label")
    save_model(tmp_path, model)
    values = json.loads((tmp_path / DESCRIPTION).read_text())
    configs = [values["config"], *(values["config"].get(stage, {}).get("config", {}) for stage in ("small", "large"))]
    for config in configs:
        for later in ("shortcuts", "weight_norm", "gating", "residual"):  # at their defaults
            config.pop(later, None)
        config |= {"dropout": 0} if "dropout" in config else {}
    del values["context"]["small"], values["context"]["vector_size"]
    (tmp_path / DESCRIPTION).write_text(json.dumps(values))
    found = load_model(tmp_path)
    x_BCHW, context = torch.randint(3, (2, 1, 4, 4)), random_context(model, 2)
    assert torch.equal(found.log_prob(x_BCHW, context), model.log_prob(x_BCHW, context))
    assert describe(found) == describe(model)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("config", "num_layers"), "six", r"PixelCNNConfig\.num_layers is 'six'; give int"),
        (("config", "num_layers"), True, r"PixelCNNConfig\.num_layers is True; give int"),
        (("config", "dropout"), "0.1", r"PixelCNNConfig\.dropout is '0\.1'; give float"),
        (("config", "kernel_size"), 4, r"kernel_size 4 has no middle"),
        (("image_spec", "height"), 4.5, r"ImageSpec\.height is 4\.5; give int"),
        (("likelihood", "name"), 3, r"LikelihoodConfig\.name is 3; give str"),
        (("context", "num_classes"), None, r"ContextSpec\.num_classes is None; give int"),
        (("context", "image", "levels"), "3", r"ImageSpec\.levels is '3'; give int"),
        (("config", "depth"), 3, r"PixelCNNConfig has no field 'depth'; the model was saved by another version of pixelmodels"),
        (("image_spec", "depth"), 3, r"ImageSpec has no field 'depth'; the model was saved by another version"),
        (("likelihood", "depth"), 3, r"LikelihoodConfig has no field 'depth'; the model was saved by another version"),
        (("context", "depth"), 3, r"ContextSpec has no field 'depth'; the model was saved by another version"),
        (("context", "image", "depth"), 3, r"ImageSpec has no field 'depth'; the model was saved by another version"),
        (("architecture",), "pixelcnn9", r"model 'pixelcnn9' unknown; have .*pixelcnn.*did you mean"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_name(place, value, says, tmp_path):
    save_model(tmp_path, small_model("pixelcnn", "categorical", 1, 4, 4, context="mix"))
    values = json.loads((tmp_path / DESCRIPTION).read_text())
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(UserError, match=says) as found:
        load_model(tmp_path)
    assert str(found.value).startswith(f"{tmp_path / DESCRIPTION}: ") and "\n" not in str(found.value)


def test_a_field_that_lacks_is_named():
    values = description()
    del values["image_spec"]["levels"]
    with pytest.raises(UserError, match="ImageSpec lacks levels"):
        from_description(values)


def test_names_of_classes_are_kept_and_shape_nothing(tmp_path):
    named, unnamed = ContextSpec(3, class_names=("cat", "caf\udce9", "\u9ce5")), ContextSpec(3)
    assert named == unnamed and hash(named) == hash(unnamed)
    models = []
    for spec in (named, unnamed):
        torch.manual_seed(0)
        models.append(build(small_config("multiscale_pixelrnn"), ImageSpec(1, 4, 4, 3), LikelihoodConfig(), spec))
    assert all(map(torch.equal, models[0].state_dict().values(), models[1].state_dict().values()))
    save_model(tmp_path, models[0])
    assert load_model(tmp_path).context_spec.class_names == named.class_names
    assert "class_names" not in describe(models[1])["context"]  # as files of before


@pytest.mark.parametrize(
    ("names", "says"),
    [(["cat"], "1 names given for 3 classes"), (["a", "b", 3], "class_names is 3; give str"), ("abc", "class_names is 'abc'")],
)
def test_names_that_are_not_one_for_each_class_are_refused(names, says):
    values = description(context="label")
    values["context"]["class_names"] = names
    with pytest.raises(UserError, match=says):
        from_description(values)


def test_a_context_of_nothing_is_no_context():
    values = description(context="none") | {"context": {}}
    assert from_description(values).context_spec == ContextSpec() and not from_description(values).context_spec
