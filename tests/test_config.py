"""Recipes: the same schema in TOML and on the command line, and errors that help."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condvae.config import Config, DataConfig, from_dict, load_recipe, recipe_names, to_toml
from condvae.errors import UserError
from condvae.models.families import build_model
from condvae.objectives import OBJECTIVES


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_a_model_and_reads_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    config = load_recipe(name)
    assert config.about
    shape = (3, 32, 32) if "cifar" in name or name == "folder" else (1, 28, 28)
    model = build_model(config.model, shape, 10)
    OBJECTIVES.build(config.training.objective, model=model, images=1000)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(config), "utf-8")
    assert load_recipe(path) == config


@given(st.text(max_size=30), st.floats(0, 1), st.lists(st.text(max_size=5), max_size=3))
def test_any_values_survive_toml(text: str, share: float, names: list[str]) -> None:
    import tomllib

    base = Config()
    config = dataclasses.replace(
        base,
        about=text,
        data=dataclasses.replace(base.data, source=text, validation=share),
        model=dataclasses.replace(base.model, label_reaches=tuple(names)),
    )
    assert from_dict(tomllib.loads(to_toml(config)), "x") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nlatnts = 3", "unknown field 'model.latnts'; did you mean 'latents'"),
        ("[trainning]\nepochs = 3", "unknown field 'trainning'; did you mean 'training'"),
        ("[model]\nlatents = '3'", "'model.latents' must be of type int, not '3'"),
        ("[model]\nlatents = true", "'model.latents' must be of type int, not True"),
        ("[model]\nlabel_reaches = 'encoder'", "must be a list of strings"),
        ("model = 3", "'model' is a table"),
        ("[model\nlatents = 3", "not a TOML file"),
        ("[training]\nepochs = 1.5\nepochs = 2", "not a TOML file"),
    ],
)
def test_a_wrong_recipe_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert message in str(caught.value) and "mine.toml" in str(caught.value)


def test_an_unknown_recipe_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load_recipe("mnst")
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="could not be read as a recipe"):
        load_recipe(path)


def test_an_integer_may_stand_for_a_float() -> None:
    assert from_dict({"training": {"epochs": 3}}, "x").training.epochs == 3.0
    assert from_dict({"data": {"validation": 0}}, "x").data == DataConfig(validation=0.0)
