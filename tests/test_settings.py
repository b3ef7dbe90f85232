"""One list of settings: the call, the command line and the recipe follow from it; steps by default."""

from __future__ import annotations

import inspect
import json
from argparse import ArgumentParser
from dataclasses import FrozenInstanceError, dataclass, fields

import diffusers
import pytest
from PIL import Image, PngImagePlugin

from storydiff_lite import cli, settings
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.settings import StorySettings, VideoSettings, carried, default_steps, options
from storydiff_lite.tell import Recipe, read_recipe, retell, tell
from storydiff_lite.tell.recipe import KEY

pytestmark = pytest.mark.usefixtures("few_threads")


def test_the_call_takes_every_setting_with_its_default():
    taken = inspect.signature(StoryPipeline.__call__).parameters
    assert {f.name: taken[f.name].default for f in fields(StorySettings)} == vars(StorySettings())


@dataclass(frozen=True)
class More(StorySettings):
    brightness: float = settings._setting(0.5, 0, 1, "how bright it is")


def test_a_new_setting_is_one_line():
    assert carried(More)["brightness"] == 0.5
    with pytest.raises(
        ValueError, match="brightness is 2; it is how bright it is and must be between 0 and 1"
    ):
        More(brightness=2)
    parser = ArgumentParser()
    cli._add_settings(parser, More)
    assert "0 to 1: how bright it is (default 0.5)" in " ".join(parser.format_help().split())
    assert cli._given(parser.parse_args(["--brightness", "0.2"]), More) == {"brightness": 0.2}


def test_what_is_not_asked_for_is_not_given():
    parser = ArgumentParser()
    for kind in (StorySettings, VideoSettings):
        cli._add_settings(parser, kind)
    for kind in (StorySettings, VideoSettings):
        assert cli._given(parser.parse_args([]), kind) == {}
        assert options(kind).keys() <= carried(kind).keys()


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        StorySettings().consistency = 1.0


@pytest.mark.parametrize(
    "name, steps",
    [
        ("UniPCMultistepScheduler", 12),
        ("DPMSolverMultistepScheduler", 12),
        ("DPMSolverSinglestepScheduler", 12),
        ("DEISMultistepScheduler", 12),
        ("DDIMScheduler", 25),
        ("EulerDiscreteScheduler", 25),
        ("HeunDiscreteScheduler", 25),
        ("LCMScheduler", 25),
    ],
)
def test_default_steps(name, steps):
    assert default_steps(getattr(diffusers, name)()) == steps


@pytest.mark.parametrize("kind, steps", [("UniPCMultistepScheduler", 12), ("DDIMScheduler", 25)])
def test_a_comic_says_how_many_steps_it_took(tiny_pipe, tmp_path, kind, steps):
    """Also where nobody said how many; told again, it takes as many."""
    tiny_pipe.scheduler = getattr(diffusers, kind).from_config(tiny_pipe.scheduler.config)
    tiny_pipe("a bear", output_type="latent")
    assert tiny_pipe.num_timesteps == steps
    tiny_pipe.tell_many(["a bear"], output_type="latent", num_inference_steps=2)
    assert tiny_pipe.num_timesteps == 2
    tell(Recipe("a bear"), tmp_path / "a.png", pipe=tiny_pipe, progress=False)
    settings = read_recipe(tmp_path / "a.png")[0].settings
    assert settings["num_inference_steps"] == steps
    assert (settings["guidance_start"], settings["guidance_stop"]) == (0.0, 1.0)  # this model's own
    again = retell(tmp_path / "a.png", tmp_path / "b.png", pipe=tiny_pipe, progress=False)
    assert again.same and tiny_pipe.num_timesteps == steps


def test_a_comic_of_before_is_read(tmp_path):
    """The settings of its video were called a film, and it says 25 steps."""
    recipe = {"story": "a bear", "settings": {"num_inference_steps": 25}, "film": {"frames": 9, "fps": 0}}
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps({"version": 1, "recipe": recipe, "made": {}}))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    found, _ = read_recipe(tmp_path / "a.png")
    assert found.settings == {"num_inference_steps": 25}
    assert found.video == {"frames": 9, "lora": None, "refine": 0.0}


def test_a_comic_of_before_was_guided_in_all_steps(tmp_path):
    recipe = vars(Recipe("a bear").complete())
    for name in ("guidance_start", "guidance_stop"):
        del recipe["settings"][name]
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps({"version": 1, "recipe": recipe, "made": {}}))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    found = read_recipe(tmp_path / "a.png")[0].settings
    assert (found["guidance_start"], found["guidance_stop"]) == (0.0, 1.0)
