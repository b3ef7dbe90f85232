"""The command line, on a tiny pipeline with random weights: comics, retelling, going on, errors."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from storydiff_lite import cli, telling, weights
from storydiff_lite.telling import Recipe, RecipeError, read_recipe

STORY = """[Bruno] a bear
[Mia] a cat

[Bruno] walking in the forest   # Bruno went for a walk.
[Mia] sitting in the city       # Mia did not.
[Bruno] and [Mia] waving        # They met.
[NC] an empty scene on the moon # The moon looked on.
"""


@pytest.fixture(scope="module")
def model(_tiny, tmp_path_factory):
    """A folder with a tiny pipeline."""
    from storydiff_lite.pipeline import StoryPipeline

    folder = tmp_path_factory.mktemp("model") / "tiny"
    StoryPipeline(**_tiny, force_zeros_for_empty_prompt=False, add_watermarker=False).save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(STORY, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def loaded(model):
    return telling.load_pipe(Recipe("x", model=str(model)))


@pytest.fixture
def run(here, model, loaded, capsys, monkeypatch):
    """The command line; the tiny pipeline is loaded once, whatever else it is asked for is really loaded."""
    load = telling.load_pipe

    def load_once(recipe, device="cpu", *more):
        plain = recipe.model == str(model) and device == "cpu" and not recipe.pictures
        return loaded if plain else load(recipe, device, *more)

    monkeypatch.setattr(telling, "load_pipe", load_once)

    def run(*arguments):
        arguments = [str(a) for a in arguments]
        if arguments[0] == "tell" and "--model" not in arguments:
            arguments += ["--model", str(model)]
        if arguments[0] == "tell" and "--steps" not in arguments:
            arguments += ["--steps", "3"]
        status = cli.main(arguments)
        return status, *capsys.readouterr()

    return run


def leftovers(folder):
    return [f for f in folder.iterdir() if "unfinished" in f.name or f.name.startswith(".")]


# ------------------------------------------------------------------------------------------- telling


def test_a_comic_that_carries_its_recipe(run, here, model):
    status, out, _ = run("tell", "story.txt", "--out", "comic.png", "--seed", 7, "--layout", "mixed")
    assert status == 0 and "comic.png: 4 panels, seed 7" in out
    recipe, made = read_recipe("comic.png")
    assert (recipe.story, recipe.seed, recipe.model, recipe.layout) == (STORY, 7, str(model), "mixed")
    assert set(recipe.settings) == set(telling.SETTINGS)  # every one, also those that were not asked for
    assert recipe.settings["num_inference_steps"] == 3 and recipe.settings["consistency"] == 0.5
    assert made["torch"] == torch.__version__.split("+")[0] and len(set(made["panels"])) == 4
    with Image.open("comic.png") as image:
        image.load()
        assert "Bruno went for a walk." in image.text["Description"]
    assert leftovers(here) == []


def test_the_same_command_and_retelling_give_the_same_bytes(run):
    assert run("tell", "story.txt", "--out", "a.png", "--seed", 3)[0] == 0
    assert run("tell", "story.txt", "--out", "b.png", "--seed", 3)[0] == 0
    status, out, err = run("retell", "a.png", "--out", "c.png")
    assert status == 0 and "the same pixels in every panel" in out and "note" not in err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() == Path("c.png").read_bytes()
    assert run("tell", "story.txt", "--out", "d.png", "--seed", 4)[0] == 0
    assert Path("a.png").read_bytes() != Path("d.png").read_bytes()


def test_retelling_with_another_layout_draws_the_same_panels(run):
    run("tell", "story.txt", "--out", "a.png")
    status, out, _ = run("retell", "a.png", "--out", "b.png", "--layout", "strip", "--size", 80)
    assert status == 0 and "the same pixels" in out
    assert Image.open("a.png").size != Image.open("b.png").size
    assert read_recipe("b.png")[0].layout == "strip"


def test_retelling_elsewhere_says_so(run, monkeypatch):
    run("tell", "story.txt", "--out", "a.png")
    recipe, made = read_recipe("a.png")
    made["torch"], made["panels"][0] = "1.0", "0"
    telling.write_comic("old.png", Image.open("a.png"), recipe, made, ["x"])
    status, out, err = run("retell", "old.png", "--out", "b.png")
    assert status == 0 and "pixels differ" in out and "another torch (1.0; now" in err


def test_all_settings_reach_the_pipeline(run):
    asked = "--consistency .25 --layers all --schedule released --window 2 --guidance 1.5 --negative rain "
    asked += (
        "--guidance-rescale .5 --same-noise --start-merge-step .5 --height 40 --width 48 --long-story passes"
    )
    assert run("tell", "story.txt", "--out", "a.png", "--steps", 2, *asked.split())[0] == 0
    settings = read_recipe("a.png")[0].settings
    assert settings == {
        "consistency": 0.25,
        "layers": "all",
        "schedule": "released",
        "window": 2,
        "long_story": "passes",
        "num_inference_steps": 2,
        "guidance_scale": 1.5,
        "guidance_rescale": 0.5,
        "negative_prompt": "rain",
        "same_noise": True,
        "start_merge_step": 0.5,
        "height": 40,
        "width": 48,
    }


def test_check_draws_nothing(run, here):
    status, out, _ = run("check", "story.txt")
    assert status == 0
    assert "[Bruno] a bear" in out and "  1. a bear walking in the forest   (Bruno)" in out
    assert "(nobody)" in out and "# They met." in out
    assert [f.name for f in here.iterdir()] == ["story.txt"]


def test_recipe_is_printed(run):
    run("tell", "story.txt", "--out", "a.png")
    status, out, _ = run("recipe", "a.png")
    assert status == 0 and json.loads(out)["recipe"]["story"] == STORY


def test_a_story_from_the_standard_input(run, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("a bear\na cat"))
    assert run("tell", "-", "--out", "a.png")[0] == 0
    assert read_recipe("a.png")[0].story == "a bear\na cat"


def test_as_a_program(here):
    """Its help needs no torch, and comes at once."""
    code = (
        "import sys, storydiff_lite.cli as c\ntry: c.main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    root = Path(cli.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert "retell" in done.stdout and done.stdout.strip().endswith("False"), done.stderr


# ------------------------------------------------------------------------------------------- going on


def stop_at(monkeypatch, step, error=KeyboardInterrupt):
    """The U-Net stops in this step (from 0)."""
    from storydiff_lite.pipeline import StoryPipeline

    predict, calls = StoryPipeline._predict, []

    def stopping(self, *args):
        if len(calls) == step:
            raise error
        calls.append(1)
        return predict(self, *args)

    monkeypatch.setattr(StoryPipeline, "_predict", stopping)
    return calls


@pytest.mark.parametrize("step", [0, 1, 2])
def test_interrupted_while_drawing_then_goes_on(run, here, monkeypatch, step):
    run("tell", "story.txt", "--out", "whole.png")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        status, _, err = run("tell", "story.txt", "--out", "a.png")
    assert status == 130 and "interrupted" in err and "goes on from there" in err
    assert not Path("a.png").exists()
    with monkeypatch.context() as patch:
        calls = stop_at(patch, 99)
        assert run("tell", "story.txt", "--out", "a.png")[0] == 0
        assert len(calls) == 3 - step  # the steps that were done are not done again
    assert Path("a.png").read_bytes() == Path("whole.png").read_bytes()
    assert leftovers(here) == []


@pytest.mark.parametrize("panel", [0, 2])
def test_interrupted_between_panels_keeps_those_that_are_finished(run, here, monkeypatch, panel):
    from storydiff_lite.pipeline import StoryPipeline

    run("tell", "story.txt", "--out", "whole.png")
    decode, calls = StoryPipeline._decode, []

    def stopping(self, *args):
        if len(calls) == panel:
            raise KeyboardInterrupt
        calls.append(1)
        return decode(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StoryPipeline, "_decode", stopping)
        assert run("tell", "story.txt", "--out", "a.png")[0] == 130
    (folder,) = leftovers(here)
    assert len(list(folder.glob("panel-*.png"))) == panel
    with monkeypatch.context() as patch:
        steps = stop_at(patch, 99)
        status, *_ = run("tell", "story.txt", "--out", "a.png")
        assert status == 0 and steps == []  # nothing is drawn again
    assert Path("a.png").read_bytes() == Path("whole.png").read_bytes()


def test_another_story_does_not_go_on_from_this_ones_panels(run, here, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        run("tell", "story.txt", "--out", "a.png")
    Path("story.txt").write_text(STORY.replace("a bear", "a robot"))
    with monkeypatch.context() as patch:
        calls = stop_at(patch, 99)
        assert run("tell", "story.txt", "--out", "a.png")[0] == 0
        assert len(calls) == 3
    assert len(leftovers(here)) == 1  # the first one's


def test_keep(run, here):
    assert run("tell", "story.txt", "--out", "a.png", "--keep")[0] == 0
    (folder,) = leftovers(here)
    assert sorted(f.name for f in folder.glob("*.png")) == [f"panel-0{i}.png" for i in (1, 2, 3, 4)]


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["tell", "none.txt", "--out", "a.png"], "There is no story file none.txt"),
        (["tell", ".", "--out", "a.png"], "is a folder"),
        (["tell", "empty.txt", "--out", "a.png"], "story is empty"),
        (["tell", "latin.txt", "--out", "a.png"], "no text in UTF-8"),
        (["tell", "typo.txt", "--out", "a.png"], "Line 3, column 1 of the story: [Brunno] was never "
         "declared. Did you mean [Bruno]?"),
        (["tell", "kanji.txt", "--out", "a.png"], "has no '漢'"),
        (["tell", "story.txt", "--out", "a.jpg"], "must end in .png"),
        (["tell", "story.txt", "--out", "nowhere/a.png"], "folder nowhere of the output is not there"),
        (["tell", "story.txt", "--out", "folder.png"], "is a folder"),
        (["tell", "story.txt", "--out", "a.png", "--model", "empty"], "no model_index.json"),
        (["tell", "story.txt", "--out", "a.png", "--model", "./none"], "There is no model"),
        (["tell", "story.txt", "--out", "a.png", "--model", "story.txt"], "not a safetensors"),
        (["tell", "story.txt", "--out", "a.png", "--seed", "-1"], "The seed is -1"),
        (["tell", "story.txt", "--out", "a.png", "--consistency", "2"], "between 0 and 1"),
        (["tell", "story.txt", "--out", "a.png", "--steps", "0"], "at least 1"),
        (["tell", "story.txt", "--out", "a.png", "--font", "none.ttf"], "no font file"),
        (["tell", "story.txt", "--out", "a.png", "--pictures", "Bruno"], "write NAME=FILE"),
        (["tell", "story.txt", "--out", "a.png", "--pictures", "Bruno=none.png"], "no picture none.png"),
        (["tell", "story.txt", "--out", "a.png", "--pictures", "Bruno=story.txt"], "no picture that can be"),
        (["tell", "story.txt", "--out", "a.png", "--pictures", "Bruno=empty"], "no picture (.png"),
        (["tell", "story.txt", "--out", "a.png", "--video", "a.avi"], "must end in .mp4 or .gif"),
        (["tell", "one.txt", "--out", "a.png", "--video", "a.gif"], "at least two"),
        (["tell", "story.txt", "--out", "a.png", "--video", "a.gif"], "--video-model and --motion"),
        (["retell", "story.txt", "--out", "a.png"], "no picture that can be read"),
        (["retell", "none.png", "--out", "a.png"], "no file none.png"),
        (["retell", "plain.png", "--out", "a.png"], "does not say how it was made"),
        (["check", "none.txt"], "no story file"),
        (["recipe", "plain.png"], "does not say"),
    ],
)  # fmt: skip
def test_bad_input_costs_one_line_and_writes_nothing(run, here, arguments, words):
    Path("empty.txt").write_text(" \n")
    Path("one.txt").write_text("a bear")
    Path("latin.txt").write_bytes("ein Bär".encode("latin-1"))
    Path("typo.txt").write_text("[Bruno] a bear\n\n[Brunno] walking")
    Path("kanji.txt").write_text("a bear # 漢", encoding="utf-8")
    Path("empty").mkdir()
    Path("folder.png").mkdir()
    Image.new("RGB", (9, 9)).save("plain.png")
    before = sorted(f.name for f in here.iterdir())
    status, out, err = run(*arguments)
    last = err.strip().splitlines()[-1]  # before it: bars of a model that was loaded, if it came that far
    assert status == 1 and last.startswith("storydiff: error: ") and words in last
    assert out == "" and "Traceback" not in err and err.count("storydiff:") == 1
    assert sorted(f.name for f in here.iterdir()) == before


@pytest.mark.parametrize(
    "arguments", [[], ["tell"], ["tell", "x.txt"], ["sing"], ["tell", "x", "--seed", "y"]]
)
def test_usage(arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(run, here):
    Path("locked").mkdir(mode=0o500)
    status, _, err = run("tell", "story.txt", "--out", "locked/a.png")
    assert status == 1 and "Nothing can be written to locked" in err


def test_nothing_can_be_written(run, monkeypatch):
    """As above, also where root runs the tests."""

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(telling.tempfile, "TemporaryFile", refuse)
    status, _, err = run("tell", "story.txt", "--out", "a.png")
    assert status == 1 and "Nothing can be written to .: Permission denied" in err


@pytest.mark.parametrize("what", ["steps", "panel", "comic"])
def test_a_full_disk_leaves_nothing_half_written_and_loses_nothing(run, here, monkeypatch, what):
    run("tell", "story.txt", "--out", "a.png")
    old = Path("a.png").read_bytes()
    save = weights.atomic_save

    def full(target, write):
        if what in Path(target).name or (what == "comic" and Path(target).name == "a.png"):

            def write_half(to, write=write):
                write(to)
                os.truncate(to, 10)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return save(target, write_half)
        return save(target, write)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "atomic_save", full)
        status, _, err = run("tell", "story.txt", "--out", "a.png", "--seed", 5)
    assert status == 1 and "the disk is full" in err and "run the same command again" in err
    assert Path("a.png").read_bytes() == old  # the old one, whole
    (folder,) = leftovers(here)
    assert folder.name in err and not [f for f in folder.iterdir() if f.name.startswith(".")]
    for file in folder.glob("*.png"):
        Image.open(file).load()
    assert run("tell", "story.txt", "--out", "a.png", "--seed", 5)[0] == 0
    assert read_recipe("a.png")[0].seed == 5 and leftovers(here) == []


def test_out_of_memory_says_what_to_switch_on(run, monkeypatch):
    stop_at(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    status, _, err = run("tell", "story.txt", "--out", "a.png")
    assert status == 1 and "--window 4" in err and "--offload" in err


def test_notes_are_of_this_package(run, monkeypatch):
    import warnings

    def warn(self, *args, **kwargs):
        warnings.warn("words were cut", stacklevel=1)
        warnings.warn_explicit("old argument", UserWarning, "lib/site-packages/diffusers/x.py", 1)
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        raise ValueError("enough")

    monkeypatch.setattr("storydiff_lite.pipeline.StoryPipeline._tell", warn)
    _, _, err = run("tell", "story.txt", "--out", "a.png")
    assert "note: words were cut" in err and "old argument" not in err and "soon gone" not in err


def test_no_gpu(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--device", "cuda")
    assert status == 1 and "no CUDA GPU was found" in err


def test_a_mistake_of_ours_is_not_hidden(run, monkeypatch):
    stop_at(monkeypatch, 0, RuntimeError("a shape"))
    with pytest.raises(RuntimeError, match="a shape"):
        run("tell", "story.txt", "--out", "a.png")


@pytest.mark.parametrize(
    "recipe, words",
    [
        ({"settings": {"colour": 1}}, "No setting is called 'colour'"),
        ({"settings": {"schedule": "never"}}, "No schedule"),
        ({"layout": "spiral"}, "no layout"),
    ],
)
def test_a_recipe_is_checked(recipe, words):
    with pytest.raises(ValueError, match=words):
        Recipe("a bear", **recipe)


def test_a_recipe_of_another_version(here):
    from PIL import PngImagePlugin

    later = {"version": 2, "recipe": {}, "made": {}}
    more = {"version": 1, "recipe": {"story": "x", "z": 1}, "made": {}}
    for text, words in (
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps(later), "another version"),
        (json.dumps(more), "(z)"),
    ):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(telling.KEY, text)
        Image.new("RGB", (4, 4)).save("b.png", pnginfo=info)
        with pytest.raises(RecipeError) as caught:
            read_recipe("b.png")
        assert words in str(caught.value)


# ------------------------------------------------------------------------------------------- pictures


def test_pictures_of_characters(run, here, monkeypatch):
    """Files reach the pipeline by name; a folder stands for the pictures in it."""
    from storydiff_lite.pipeline import StoryPipeline

    Path("faces").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(f"faces/{i}.png")
    Image.new("RGB", (8, 8), (9, 0, 0)).save("mia.png")
    seen, tell = [], StoryPipeline._tell

    def watch(self, *args, id_images, **more):
        seen.append(id_images[0])
        return tell(self, *args, id_images=[None], **more)

    monkeypatch.setattr(StoryPipeline, "_tell", watch)
    monkeypatch.setattr(StoryPipeline, "load_identity", lambda self, name: self)
    given = ["--pictures", "Bruno=faces", "--pictures", "Mia=mia.png"]
    assert run("tell", "story.txt", "--out", "a.png", *given)[0] == 0
    assert {k: [i.getpixel((0, 0))[0] for i in v] for k, v in seen[0].items()} == {
        "Bruno": [0, 1],
        "Mia": [9],
    }
    assert read_recipe("a.png")[0].pictures == {"Bruno": ["faces/0.png", "faces/1.png"], "Mia": ["mia.png"]}


# ------------------------------------------------------------------------------------------- video


class Mover:
    """Stands for a TransitionPipeline: cross-fades."""

    asked = []

    @classmethod
    def from_pretrained(cls, name, **parts):
        cls.asked.append((name, parts))
        return cls()

    def to(self, device):
        return self

    def set_progress_bar_config(self, **config):
        self.config = config

    def __call__(self, firsts, lasts, prompts, num_frames, seed):
        from types import SimpleNamespace

        self.asked.append((prompts, num_frames, seed))
        times = [i / (num_frames - 1) for i in range(num_frames)]
        return [
            SimpleNamespace(frames=[Image.blend(a, b, t) for t in times])
            for a, b in zip(firsts, lasts, strict=True)
        ]


@pytest.fixture
def mover(monkeypatch):
    from storydiff_lite import video

    Mover.asked = []
    monkeypatch.setattr(video, "TransitionPipeline", Mover)
    return Mover


FILM = ["--video-model", "somebody/video", "--motion", "m", "--frames", "5", "--hold", "2", "--fps", "5"]


def test_a_comic_and_a_video(run, mover):
    status, out, _ = run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", "--seed", 3, *FILM)
    assert status == 0 and "a.gif" in out
    with Image.open("a.gif") as film:
        milliseconds = 0
        for i in range(film.n_frames):  # a GIF holds equal frames once, for longer
            film.seek(i)
            milliseconds += film.info["duration"]
    assert milliseconds == 200 * (4 * 2 + 3 * 3)
    (name, parts), (prompts, frames, seed) = mover.asked
    assert name == "somebody/video" and parts == {
        "motion": "m",
        "image_encoder": None,
        "lora": None,
        "refiner": None,
    }
    assert frames == 5 and seed == 3
    assert prompts[0] == "a cat sitting in the city"  # of the panel that it leads to
    assert read_recipe("a.png")[0].film["frames"] == 5


def test_a_video_is_told_again_from_the_recipe(run, mover):
    run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *FILM)
    assert run("retell", "a.png", "--out", "b.png", "--video", "b.gif")[0] == 0
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()
    assert run("retell", "a.png", "--out", "c.png", "--video", "c.gif", "--hold", "3")[0] == 0
    assert Path("a.gif").read_bytes() != Path("c.gif").read_bytes()
    assert read_recipe("c.png")[0].film == read_recipe("a.png")[0].film | {"hold": 3}


def test_a_video_that_stops_half_way_keeps_the_panels(run, here, mover, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mover, "__call__", stop)
        assert run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *FILM)[0] == 130
    assert Path("a.png").exists() and not Path("a.gif").exists() and len(leftovers(here)) == 1
    with monkeypatch.context() as patch:
        calls = stop_at(patch, 99)
        assert run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *FILM)[0] == 0
        assert calls == []
    assert Path("a.gif").exists() and leftovers(here) == []


def test_no_ffmpeg(run, mover, monkeypatch):
    """Found out before anything is drawn."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--video", "a.mp4", *FILM)
    assert status == 1 and "ffmpeg" in err and ".gif" in err and not Path("a.png").exists()
