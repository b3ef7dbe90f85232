"""The command line, on a tiny pipeline with random weights: comics, retelling, going on, errors."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from storydiff_lite import cli, weights
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.settings import StorySettings, carried
from storydiff_lite.tell import Recipe, RecipeError, produce, read_recipe, resume, retell, tell, write_comic
from storydiff_lite.tell.recipe import KEY

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
    return produce.load_pipe(Recipe("x", model=str(model)))


@pytest.fixture
def run(here, model, loaded, capsys, monkeypatch):
    """The command line; the tiny pipeline is loaded once, whatever else it is asked for is really loaded."""
    load = produce.load_pipe

    def load_once(recipe, device="cpu", *more):
        plain = recipe.model == str(model) and device == "cpu" and not recipe.pictures
        return loaded if plain else load(recipe, device, *more)

    monkeypatch.setattr(produce, "load_pipe", load_once)

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
    assert set(recipe.settings) == set(
        carried(StorySettings)
    )  # every one, also those that were not asked for
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
    write_comic("old.png", Image.open("a.png"), recipe, made, ["x"])
    status, out, err = run("retell", "old.png", "--out", "b.png")
    assert status == 0 and "pixels differ" in out and "another torch (1.0; now" in err


def test_all_settings_reach_the_pipeline(run):
    asked = "--consistency .25 --layers all --schedule released --window 2 --guidance 1.5 --negative rain "
    asked += (
        "--guidance-start .1 --guidance-stop .8 --guidance-rescale .5 --same-noise --start-merge-step .5 "
        "--height 40 --width 48 --long-story passes --generator portable --picks random --apart words"
    )
    assert run("tell", "story.txt", "--out", "a.png", "--steps", 2, *asked.split())[0] == 0
    settings = read_recipe("a.png")[0].settings
    assert settings == {
        "consistency": 0.25,
        "layers": "all",
        "schedule": "released",
        "window": 2,
        "long_story": "passes",
        "picks": "random",
        "apart": "words",
        "num_inference_steps": 2,
        "guidance_scale": 1.5,
        "guidance_start": 0.1,
        "guidance_stop": 0.8,
        "guidance_rescale": 0.5,
        "negative_prompt": "rain",
        "same_noise": True,
        "start_merge_step": 0.5,
        "height": 40,
        "width": 48,
        "generator": "portable",
    }


def test_check_draws_nothing(run, here):
    status, out, _ = run("check", "story.txt")
    assert status == 0
    assert "[Bruno] a bear" in out and "  1. a bear walking in the forest   (Bruno)" in out
    assert "(nobody)" in out and "# They met." in out
    assert [f.name for f in here.iterdir()] == ["story.txt"]


def test_check_says_who_he_is(run, here):
    Path("free.txt").write_text("a grey bear in a hat reads\nhe sleeps # Good night.\nshe waves")
    status, out, err = run("check", "free.txt")
    assert status == 0 and not err
    assert "  2. a bear sleeps   (a bear is a grey bear in a hat)\n     # Good night." in out
    Path("free.txt").write_text("[A] a bear\n[B] a cat\n\n[A] reads\n[B] sleeps\nhe waves")
    status, out, err = run("check", "free.txt")
    assert status == 0 and "  3. a cat waves   (B)" in out
    assert err.startswith("storydiff: note: Line 6, column 1 of the story: 'he' may be [A] or [B]")


def test_a_story_with_boxes_is_told_and_told_again(run, here):
    story = "[A] a bear\n[B] a cat\n\n[A] reads\n[B] sleeps\n[A] at 0 20 50 100 and [B] right wave"
    Path("boxes.txt").write_text(story)
    status, out, _ = run("check", "boxes.txt")
    assert status == 0 and "  3. a bear and a cat wave   (A at 0 20 50 100, B right)\n     # A and B" in out
    status, _, err = run("tell", "boxes.txt", "--out", "a.png", "--apart", "regions")
    assert status == 0 and "note" not in err
    assert read_recipe("a.png")[0].story == story
    status, out, _ = run("retell", "a.png", "--out", "b.png")
    assert status == 0 and "the same pixels in every panel" in out
    Path("boxes.txt").write_text(story.replace("at 0 20 50 100", "left"))
    assert run("tell", "boxes.txt", "--out", "c.png", "--apart", "regions")[0] == 0
    panels = [read_recipe(name)[1]["panels"] for name in ("a.png", "c.png")]
    assert panels[0][2] != panels[1][2]
    _, _, err = run("tell", "boxes.txt", "--out", "d.png")
    assert "note: Panel 3 says where its characters stand" in err and "--apart regions" in err
    Path("boxes.txt").write_text(story.replace("0 20 50 100", "0 20 5 100"))
    status, _, err = run("tell", "boxes.txt", "--out", "e.png", "--apart", "regions")
    assert status == 1 and "the box of A, 'at 0 20 5 100'" in err and not Path("e.png").exists()


def test_a_story_with_he_is_told_and_told_again(run, here):
    Path("free.txt").write_text("a grey bear in a hat reads\nhe sleeps # Good night.")
    Path("plain.txt").write_text("a grey bear in a hat reads\na bear sleeps # Good night.")
    assert run("tell", "free.txt", "--out", "a.png", "--consistency", 0)[0] == 0
    assert run("tell", "plain.txt", "--out", "b.png", "--consistency", 0)[0] == 0
    first, second = (read_recipe(f)[1]["panels"] for f in ("a.png", "b.png"))
    assert first[0] == second[0] and first[1] != second[1]
    status, out, _ = run("retell", "a.png", "--out", "c.png")
    assert status == 0 and "the same pixels in every panel" in out


def test_recipe_is_printed(run):
    run("tell", "story.txt", "--out", "a.png")
    status, out, _ = run("recipe", "a.png")
    assert status == 0 and json.loads(out)["recipe"]["story"] == STORY


def test_a_story_from_the_standard_input(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a bear\na cat"))
    assert run("tell", "-", "--out", "a.png")[0] == 0
    assert read_recipe("a.png")[0].story == "a bear\na cat"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffa bear"))
    assert cli.read_text("-") == "a bear"
    monkeypatch.setattr(sys, "stdin", None)
    assert "no standard input" in run("check", "-")[2]


def storydiff(*arguments, **how):
    """The command line in a process of its own, with this encoding."""
    env = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent.parent), "PYTHONUTF8": "0"}
    env |= {"PYTHONIOENCODING": how.pop("encoding", "utf-8")}
    program = [sys.executable, "-m", "storydiff_lite.cli", *arguments]
    return subprocess.Popen(
        program,
        env=env,
        stdin=subprocess.PIPE,
        stdout=how.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
    )


LETTERS = "[Zo\u00eb] a cat\n\n[Zo\u00eb] sitting # She said \u00ab\u6f22\u00bb."


@pytest.mark.parametrize(
    "encoding, name, said", [("ascii", b"[Zo?]", b"?"), ("cp1252", b"[Zo\xeb]", b"\xab?\xbb")]
)
def test_an_encoding_that_lacks_letters(here, encoding, name, said):
    Path("letters.txt").write_text(LETTERS, encoding="utf-8")
    run = storydiff("check", "letters.txt", encoding=encoding)
    out, err = run.communicate()
    assert (run.returncode, err) == (0, b"") and name in out and said in out
    Path("wrong.txt").write_text(LETTERS + "\n[\u6f22] sits", encoding="utf-8")
    run = storydiff("check", "wrong.txt", encoding=f"{encoding}:strict")
    out, err = run.communicate()
    assert run.returncode == 1 and out == b"" and err.startswith(b"storydiff: error: Line 4, column 1")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_a_recipe_keeps_its_letters_in_every_encoding(here, monkeypatch, encoding):
    write_comic("a.png", Image.new("RGB", (8, 8)), Recipe(LETTERS), {"panels": []}, [""])
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    assert cli.main(["recipe", "a.png"]) == 0
    assert json.loads(out.getvalue().decode(encoding))["recipe"]["story"] == LETTERS


@pytest.mark.parametrize(
    "arguments", [["check", "long.txt"], ["check", "story.txt"], ["--help"], ["check", "-"]]
)
def test_nobody_reads_the_output(here, arguments):
    """As in `storydiff check long.txt | head -1`: it ends without a word."""
    Path("long.txt").write_text("a bear walking\n" * 20000)
    reads, writes = os.pipe()
    os.close(reads)
    run = storydiff(*arguments, stdout=writes)
    os.close(writes)
    _, err = run.communicate(STORY.encode())
    assert (run.returncode, err) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_the_output_cannot_be_written(here):
    with open("/dev/full", "wb") as full:
        run = storydiff("check", "story.txt", stdout=full)
        _, err = run.communicate()
    assert run.returncode == 1 and err.count(b"\n") == 1 and b"disk is full" in err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_the_standard_input_is_utf_8(here, encoding):
    run = storydiff("check", "-", encoding=encoding)
    out, err = run.communicate(("\ufeff" + LETTERS.replace("\n", "\r\n")).encode("utf-8"))
    assert (run.returncode, err) == (0, b"") and b"1. a cat sitting" in out
    run = storydiff("check", "-", encoding=encoding)
    out, err = run.communicate("ein B\u00e4r".encode("latin-1"))
    assert run.returncode == 1 and out == b"" and b"standard input is no text in UTF-8 (byte 6" in err


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
    from storydiff_lite import denoising

    predict, calls = denoising.predict, []

    def stopping(*args):
        if len(calls) == step:
            raise error
        calls.append(1)
        return predict(*args)

    monkeypatch.setattr(denoising, "predict", stopping)
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


def test_with_picks_of_the_subject_a_story_that_stopped_begins_anew(run, here, monkeypatch):
    """Where the subject is was found in the steps before: they are drawn again, and nothing is refused."""
    asked = ("tell", "story.txt", "--picks", "subject", "--out")
    run(*asked, "whole.png")
    assert read_recipe("whole.png")[0].settings["picks"] == "subject"
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert run(*asked, "a.png")[0] == 130
    with monkeypatch.context() as patch:
        calls = stop_at(patch, 99)
        assert run(*asked, "a.png")[0] == 0
        assert len(calls) == 3
    assert Path("a.png").read_bytes() == Path("whole.png").read_bytes()


@pytest.mark.parametrize("panel", [0, 2])
def test_interrupted_between_panels_keeps_those_that_are_finished(run, here, monkeypatch, panel):
    from storydiff_lite.pipeline import StoryPipeline

    run("tell", "story.txt", "--out", "whole.png")
    decode, calls = StoryPipeline.decode, []

    def stopping(self, *args):
        if len(calls) == panel:
            raise KeyboardInterrupt
        calls.append(1)
        return decode(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StoryPipeline, "decode", stopping)
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


def test_what_is_kept_is_known_by_what_the_pipeline_is(here, model, tiny_pipe):
    """Not by its name: another scheduler, then other weights, and the panels are drawn anew."""
    from diffusers import EulerDiscreteScheduler

    recipe = Recipe("a bear\na cat", model=str(model), settings={"num_inference_steps": 1})

    def told():
        done = tell(recipe, "a.png", pipe=tiny_pipe, keep=True, progress=False)
        return [image.tobytes() for image in done.images]

    first = told()
    assert told() == first
    tiny_pipe.scheduler = EulerDiscreteScheduler()
    second = told()
    assert second != first
    next(tiny_pipe.vae.decoder.parameters()).data += 0.5
    third = told()
    assert third not in (first, second)
    assert len(leftovers(here)) == 3


@pytest.mark.parametrize("content", [b"", b"rubbish", b"cut"])
@pytest.mark.parametrize("name", ["latents.safetensors", "steps.safetensors", "panel-02.png"])
def test_what_cannot_be_read_is_drawn_again(run, here, name, content):
    arguments = ("tell", "story.txt", "--out", "a.png", "--keep", "--steps", 2)
    assert run(*arguments)[0] == 0
    whole = Path("a.png").read_bytes()
    (folder,) = leftovers(here)
    (folder / name).write_bytes((folder / name).read_bytes()[:-99] if content == b"cut" else content)
    for other in {"panel-02.png", "latents.safetensors"} - {name} if name != "panel-02.png" else ():
        (folder / other).unlink()  # so that the broken one is asked for
    status, _, err = run(*arguments)
    assert status == 0 and f"{name} cannot be read, and is drawn again" in err
    assert Path("a.png").read_bytes() == whole and (folder / "panel-02.png").stat().st_size > 20


@pytest.mark.parametrize("name", ["latents.safetensors", "panel-02.png"])
def test_what_belongs_to_another_story_is_drawn_again(run, here, name):
    """Files that can be read, and do not fit: of another number of panels, of another size."""
    from safetensors.torch import save_file

    arguments = ("tell", "story.txt", "--out", "a.png", "--keep", "--steps", 2)
    assert run(*arguments)[0] == 0
    whole = Path("a.png").read_bytes()
    (folder,) = leftovers(here)
    (folder / "panel-02.png").unlink()
    if name == "panel-02.png":
        Image.new("RGB", (8, 8)).save(folder / name)
    else:
        save_file({"latents": torch.zeros(3, 4, 8, 8)}, folder / name)
    assert run(*arguments)[0] == 0 and Path("a.png").read_bytes() == whole


def test_an_output_with_glob_characters_is_named_rightly(run, here, monkeypatch):
    (here / "a 2.unfinished-12345678").mkdir()  # of another comic
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        status, _, err = run("tell", "story.txt", "--out", "a [2].png")
    assert status == 130 and "kept in a [2].unfinished-" in err
    with monkeypatch.context() as patch:
        stop_at(patch, 0)
        status, _, err = run("tell", "story.txt", "--out", "a [2].png", "--seed", 3)
    assert status == 130 and "kept in" not in err  # nothing is finished of this one
    assert len(leftovers(here)) == 2


def test_two_runs_into_one_folder(run, here, monkeypatch):
    """The second says so, and disturbs nothing; one into the same comic with another story is free to."""
    from storydiff_lite.pipeline import StoryPipeline

    decode, seen = StoryPipeline.decode, []

    def meanwhile(self, *args):
        if not seen:
            same = "tell", "story.txt", "--out", "a.png"
            seen.append(None)
            seen[0] = run(*same), run(*same, "--seed", 9)
        return decode(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StoryPipeline, "decode", meanwhile)
        assert run("tell", "story.txt", "--out", "a.png")[0] == 0
    (status, _, err), (other, *_) = seen[0]
    assert status == 1 and "Another run is drawing this story into a.png" in err and other == 0
    assert read_recipe("a.png")[0].seed == 0 and leftovers(here) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", [0, 2, 3, 4, 6, 8])
def test_killed_while_writing_then_goes_on(run, here, monkeypatch, few_threads, moment):
    """kill -9 in the middle of the n-th file; what was whole before is used, and no rubbish stays."""
    assert run("tell", "story.txt", "--out", "whole.png")[0] == 0
    save, calls = weights.atomic_save, []

    def killed(target, write):
        def half(to):
            write(to)
            if len(calls) == moment:
                os.truncate(to, 10)
                os.kill(os.getpid(), 9)
            calls.append(target)

        return save(target, half)

    child = os.fork()
    if child == 0:
        weights.atomic_save = killed
        run("tell", "story.txt", "--out", "a.png")
        os._exit(7)
    assert os.waitpid(child, 0)[1] == 9 and not Path("a.png").exists()
    with monkeypatch.context() as patch:
        steps = stop_at(patch, 99)
        assert run("tell", "story.txt", "--out", "a.png")[0] == 0
    assert len(steps) == max(0, 3 - moment)
    assert Path("a.png").read_bytes() == Path("whole.png").read_bytes() and leftovers(here) == []


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
        (["tell", "story.txt", "--out", "a.png", "--video", "a.gif", "--fps", "60"], "at most 50 frames"),
        (["tell", "story.txt", "--out", "a.png", "--video", "a.mp4", "--fps", "0"], "fps is 0"),
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

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_refuses(run, here, monkeypatch, number):
    """Files of tensors too: safetensors' own writing has an error of its own for that."""

    def refuse(self, data):
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        status, _, err = run("tell", "story.txt", "--out", "a.png")
    assert status == 1 and err.count("\n") == 1 and "Errno" not in err and "is kept in a.unfinished-" in err
    assert ("the disk is full" in err) == (number != errno.EROFS)


def test_a_folder_of_an_interrupted_run_that_cannot_be_written_to(run, here, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(resume.FileLock, "acquire", refuse)
    calls = stop_at(monkeypatch, 0)
    status, _, err = run("tell", "story.txt", "--out", "a.png")
    assert status == 1 and "Nothing can be written to a.unfinished-" in err and calls == []


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


GIF = ["--video", "a.gif", "--video-model", "somebody/video", "--motion", "m"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--device", "gpu"], "There is no device 'gpu', there are cpu"),
        (["--device", "mps"], "There is no device 'mps', there are cpu"),
        (["--device", "foo"], "There is no device 'foo', there are cpu"),
        (["--device", "meta"], "There is no device 'meta', there are cpu"),
        (["--device", ""], "There is no device '', there are cpu"),
        (["--device", "cuda:99"], "There is no device 'cuda:99', there are cpu"),
        ([*GIF, "--device", "cuda"], "There is no device 'cuda', there are cpu"),
        ([*GIF, "--fps", "0"], "fps is 0; it must be more than 0"),
        ([*GIF, "--fps", "-1"], "fps is -1"),
        ([*GIF, "--fps", "60"], "fps is 60: a GIF plays at most 50 frames a second"),
        ([*GIF, "--hold", "0"], "hold is 0; it must be at least 1"),
        ([*GIF, "--hold", "6000"], "stand still for 750 seconds"),
        ([*GIF, "--frames", "0"], "frames is 0; it must be at least 2"),
        ([*GIF, "--frames", "1"], "frames is 1; it must be at least 2"),
        ([*GIF, "--refine", "2"], "refine is 2.0; it must be between 0 and 1"),
        ([*GIF, "--refine", ".002"], "refine is 0.002; in 3 steps it must be 0, for not at all, or between"),
        ([*GIF, "--refine", "nan"], "refine is nan"),
        (["--fps", "0"], "fps is 0"),  # also where there is no video: the comic would carry it
        (["--hold", "-3"], "hold is -3"),
        (["--size", "10"], "size is 10; it must be at least 64"),
        (["--steps", "0"], "error: --steps: num_inference_steps is 0"),
        (["--guidance", "nan"], "error: --guidance: guidance_scale is nan"),
        (["--guidance-rescale", "1.5"], "guidance_rescale is 1.5"),
        (["--consistency", "-1"], "error: consistency is -1"),
        (["--window", "0"], "window is 0"),
        (["--height", "0"], "height is 0"),
        (["--start-merge-step", "2"], "start_merge_step is 2.0"),
        (["--seed", str(2**63)], "The seed is"),
        (["--negative", "\udcff"], "The negative prompt has a character that is none"),
        (["--out", "nowhere/a.png"], "folder nowhere of the output is not there"),
        (["--out", "a.jpeg"], "must end in .png"),
        (["--out", "a" * 240 + ".png"], "is too long"),
        (["--video", "nowhere/a.gif"], "folder nowhere of the output is not there"),
        (["--video", "a.webm"], "must end in .mp4 or .gif"),
        (["--video", "a" * 240 + ".gif"], "is too long"),
        (["--video", "folder.gif"], "folder.gif is a folder"),
    ],
)  # fmt: skip
def test_what_can_be_known_is_told_before_anything_is_loaded(run, here, monkeypatch, arguments, words):
    def never(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    Path("folder.gif").mkdir()
    from storydiff_lite import video

    monkeypatch.setattr(StoryPipeline, "from_pretrained", never)
    monkeypatch.setattr(video.TransitionPipeline, "from_pretrained", never)
    monkeypatch.setattr(produce, "load_pipe", never)
    out = [] if "--out" in arguments else ["--out", "a.png"]
    status, out, err = run("tell", "story.txt", *out, *arguments)
    assert status == 1 and words in err and err.count("\n") == 1 and out == ""
    assert sorted(f.name for f in here.iterdir()) == ["folder.gif", "story.txt"]


@pytest.mark.parametrize(
    "how, words",
    [
        ({"device": "gpu"}, "There is no device 'gpu', there are"),
        ({"device": torch.device("meta")}, "There is no device 'meta', there are"),
        ({"device": None}, "There is no device 'None', there are"),
        ({"dtype": "float8"}, "dtype is 'float8'; it must be 'float32', 'float16' or 'bfloat16'"),
    ],
)
def test_python_says_the_same(here, how, words):
    recipe = Recipe("a bear\na cat", model="./none")
    for call in (
        lambda: tell(recipe, "a.png", **how),
        lambda: produce.load_pipe(recipe, **how),
        lambda: produce.load_transition_pipe(recipe, **how),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            call()


def test_a_page_larger_than_memory_is_refused_before_it_is_drawn(run, here, monkeypatch):
    calls = stop_at(monkeypatch, 0)
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--size", "90000")
    assert status == 1 and "The page would have" in err and calls == []
    assert leftovers(here) == []


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
        ({"video": {"frames": 2.5}}, "frames must be a whole number, not 2.5"),
        ({"video": {"hold": True}}, "hold must be a whole number"),
        ({"video": {"fps": "fast"}}, "fps must be a number"),
        ({"video": {"refine": True}}, "refine must be a number"),
        ({"settings": {"window": 1.5}}, "window must be a whole number"),
        ({"settings": {"start_merge_step": -2}}, "start_merge_step is -2"),
        ({"settings": {"long_story": "scroll"}}, "long_story is 'scroll'"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"size": 99.5}, "size must be a whole number"),
        ({"pictures": {"Bruno": "bruno.png"}}, "must be a list of files"),
        ({"story": None}, "The story must be a text"),
        ({"story": "a \ud800 bear"}, "half of a pair, '\\\\ud800', the 3. of the text"),
    ],
)
def test_a_recipe_is_checked(recipe, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Recipe(**{"story": "a bear"} | recipe)


def test_a_recipe_holds_what_a_picture_can_carry():
    import numpy as np

    given = {"window": np.int64(2), "guidance_scale": np.float32(2)}
    recipe = Recipe(
        "a bear", model=Path("m"), seed=np.int64(3), settings=given, pictures={"B": [Path("b.png")]}
    )
    whole = recipe.complete()
    assert json.loads(json.dumps(vars(whole))) == vars(whole)
    assert (whole.model, whole.seed, whole.pictures) == ("m", 3, {"B": ["b.png"]})
    with pytest.raises(TypeError, match="A recipe holds texts, numbers and lists"):
        Recipe("a bear", settings={"negative_prompt": object()}).complete()


def test_video_settings_that_older_versions_let_into_a_comic_can_be_told_anew(here):
    recipe = Recipe("a bear\na cat").complete()
    recipe.video.update(fps=0, hold=0, frames=9)
    write_comic("old.png", Image.new("RGB", (9, 9)), recipe, {}, ["x"])
    found = read_recipe("old.png")[0].complete().video
    assert (found["fps"], found["hold"], found["frames"]) == (8, 4, 9)


def test_what_a_recipe_cannot_change(here):
    write_comic("a.png", Image.new("RGB", (9, 9)), Recipe("a bear"), {}, ["x"])
    with pytest.raises(ValueError, match="A recipe has no 'colour' to change; it has story"):
        retell("a.png", "b.png", changes={"colour": 1})


def test_own_comics_are_readable_whatever_their_size(run, here, monkeypatch):
    """Pillow's guard against pictures that fill the memory is for those of others."""
    arguments = "tell", "story.txt", "--out", "a.png", "--steps", 1, "--height", 64, "--width", 64
    assert run(*arguments, "--keep")[0] == 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # twice as many are refused
    with pytest.raises(Image.DecompressionBombError):
        Image.open("a.png")
    assert run("recipe", "a.png")[0] == 0
    status, _, err = run(*arguments)  # from the panels that were kept
    assert status == 0 and "drawn again" not in err
    status, out, _ = run("retell", "a.png", "--out", "b.png")
    assert status == 0 and "the same pixels" in out and leftovers(here) == []


def test_a_recipe_of_any_length_is_read(here):
    """Pillow unpacks a megabyte of text and no more."""
    story = "a bear # " + "growls " * 300_000
    write_comic("a.png", Image.new("RGB", (9, 9)), Recipe(story), {}, ["x"])
    assert read_recipe("a.png")[0].story == story
    whole = Path("a.png").read_bytes()
    Path("a.png").write_bytes(whole[:-30])  # its pixels are cut off: the story is not lost
    assert read_recipe("a.png")[0].story == story


def test_pictures_that_would_fill_the_memory(run, here, monkeypatch):
    Image.new("RGB", (200, 200)).save("big.png")
    Path("broken.png").write_bytes(Path("big.png").read_bytes()[:90])
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--pictures", "Bruno=broken.png")
    assert status == 1 and "broken.png is no picture that can be read" in err
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--pictures", "Bruno=big.png")
    assert (
        status == 1 and err.count("\n") == 1 and "big.png has more pixels than the 200 that are read" in err
    )


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
        info.add_itxt(KEY, text)
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


class FakeTransitionPipe:
    """Stands for a TransitionPipeline: cross-fades."""

    asked = []

    @classmethod
    def from_pretrained(cls, name, **parts):
        cls.asked.append((name, parts))
        return cls()

    def to(self, device):
        self.asked.append(("to", device))
        return self

    def enable_model_cpu_offload(self, device):
        self.asked.append(("offload", device))

    def set_progress_bar_config(self, **config):
        self.config = config

    def check(self, *size_and_frames, refine):
        pass

    def __call__(self, firsts, lasts, prompts, num_frames, seed):
        from types import SimpleNamespace

        self.asked.append((prompts, num_frames, seed))
        times = [i / (num_frames - 1) for i in range(num_frames)]
        return [
            SimpleNamespace(frames=[Image.blend(a, b, t) for t in times])
            for a, b in zip(firsts, lasts, strict=True)
        ]


@pytest.fixture
def transition_pipe(monkeypatch):
    from storydiff_lite import video

    FakeTransitionPipe.asked = []
    monkeypatch.setattr(video, "TransitionPipeline", FakeTransitionPipe)
    return FakeTransitionPipe


VIDEO = ["--video-model", "somebody/video", "--motion", "m", "--frames", "5", "--hold", "2", "--fps", "5"]


def test_a_comic_and_a_video(run, transition_pipe):
    status, out, _ = run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", "--seed", 3, *VIDEO)
    assert status == 0 and "a.gif" in out
    with Image.open("a.gif") as gif:
        milliseconds = 0
        for i in range(gif.n_frames):  # a GIF holds equal frames once, for longer
            gif.seek(i)
            milliseconds += gif.info["duration"]
    assert milliseconds == 200 * (4 * 2 + 3 * 3)
    (name, parts), where, (prompts, frames, seed) = transition_pipe.asked
    assert where == ("to", "cpu")
    assert name == "somebody/video" and parts == {
        "motion": "m",
        "image_encoder": None,
        "dtype": torch.float32,
        "lora": None,
        "refiner": None,
        "base": None,
    }
    assert frames == 5 and seed == 3
    assert prompts[0] == "a cat sitting in the city"  # of the panel that it leads to
    assert read_recipe("a.png")[0].video["frames"] == 5


def test_a_video_of_the_same_model_shares_its_parts(run, here, model, loaded, transition_pipe):
    video = ["--video", "a.gif", *VIDEO, "--video-model", model]
    assert run("tell", "story.txt", "--out", "a.png", *video)[0] == 0
    assert transition_pipe.asked[0][1]["base"] is loaded
    transition_pipe.asked.clear()
    tell(read_recipe("a.png")[0], "b.png", "b.gif", pipe=loaded, progress=False)
    assert transition_pipe.asked[0][1]["base"] is None  # the caller's own: it is left where it is


def test_a_video_is_told_again_from_the_recipe(run, transition_pipe):
    run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *VIDEO)
    assert run("retell", "a.png", "--out", "b.png", "--video", "b.gif")[0] == 0
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()
    assert run("retell", "a.png", "--out", "c.png", "--video", "c.gif", "--hold", "3")[0] == 0
    assert Path("a.gif").read_bytes() != Path("c.gif").read_bytes()
    assert read_recipe("c.png")[0].video == read_recipe("a.png")[0].video | {"hold": 3}


def test_a_video_that_stops_half_way_keeps_the_panels(run, here, transition_pipe, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transition_pipe, "__call__", stop)
        assert run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *VIDEO)[0] == 130
    assert Path("a.png").exists() and not Path("a.gif").exists() and len(leftovers(here)) == 1
    with monkeypatch.context() as patch:
        calls = stop_at(patch, 99)
        assert run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *VIDEO)[0] == 0
        assert calls == []
    assert Path("a.gif").exists() and leftovers(here) == []


def test_no_ffmpeg(run, transition_pipe, monkeypatch):
    """Found out before anything is drawn."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--video", "a.mp4", *VIDEO)
    assert status == 1 and "ffmpeg" in err and ".gif" in err and not Path("a.png").exists()


def test_precision_and_offloading_are_the_videos_too(here, transition_pipe):
    video = {"model": "somebody/video", "motion": "m"}
    recipe = Recipe("a bear\na cat", video=video)
    produce.load_transition_pipe(recipe, "cpu", "bfloat16", True)
    (_, parts), where = transition_pipe.asked
    assert parts["dtype"] is torch.bfloat16 and where == ("offload", "cpu")


def test_a_video_that_does_not_fit_the_panels_is_told_before_they_are_drawn(
    run, here, transition_pipe, monkeypatch
):
    def check(self, width, height, num_frames, refine):
        raise ValueError(f"no {width} x {height}, {num_frames}, {refine}")

    monkeypatch.setattr(transition_pipe, "check", check, raising=False)
    calls = stop_at(monkeypatch, 0)
    status, _, err = run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", "--width", 40, *VIDEO)
    assert status == 1 and "no 40 x 32, 5, None" in err and calls == [] and leftovers(here) == []


def test_a_killed_video_leaves_nothing_beside_its_output(run, here, transition_pipe, monkeypatch):
    from storydiff_lite import video

    def broken(frames, path, **how):
        (path.parent / ".a.gif-xyz").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(video, "save_video", broken)
        assert run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *VIDEO)[0] == 130
    assert [f.name for f in leftovers(here) if f.name.startswith(".")] == [] and len(leftovers(here)) == 1
    assert run("tell", "story.txt", "--out", "a.png", "--video", "a.gif", *VIDEO)[0] == 0
    assert leftovers(here) == []


def test_a_video_on_another_disk(here, monkeypatch):
    replace, calls = os.replace, []

    def elsewhere(a, b):
        calls.append(b)
        if len(calls) == 1:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(a, b)

    Path("in").write_text("x")
    monkeypatch.setattr(os, "replace", elsewhere)
    resume.put(Path("in"), Path("out"))
    assert Path("out").read_text() == "x"
