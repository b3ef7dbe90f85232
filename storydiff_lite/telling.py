"""From a story text to a comic, and a video: what ``storydiff tell`` does, for Python.

    told = tell(Recipe(text), "comic.png")
    again = retell("comic.png", "again.png")       # the same pixels

All that a comic was made from stands in the picture itself, as text that the PNG carries: the story, the
seed, every setting, the model. A run that stops half way leaves a folder beside its output, with the latents
of the last denoising step and the panels that were finished; the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from . import weights
from .attention import SamplingSchedule
from .comic import LAYOUTS, check_letters, comic, plan
from .pipeline import StoryPipeline
from .story import parse

KEY = "storydiff"  # of the text in the PNG

SCHEDULES = {"always": SamplingSchedule.always, "released": SamplingSchedule.released}

#: settings of `StoryPipeline.__call__` that a recipe may have
SETTINGS = (
    "consistency",
    "window",
    "long_story",
    "start_merge_step",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "negative_prompt",
    "same_noise",
    "layers",
    "schedule",
    "height",
    "width",
)

#: how a video is made, unless a recipe says otherwise
FILM = {
    "frames": 16,
    "hold": 4,
    "fps": 8,
    "model": "micro",
    "motion": None,
    "image_encoder": None,
    "lora": "passages",
    "refine": None,
}

#: schedulers that keep nothing between two steps, so that a run can go on at any of them
STATELESS = ("DDIMScheduler", "EulerDiscreteScheduler")


class RecipeError(ValueError):
    """A picture that says nothing about how it was made, or something that cannot be read."""


@dataclass(frozen=True)
class Recipe:
    """All that a comic is made from.

    Parameters
    ----------
    story : str
        The text, see `story.parse`.
    seed : int
        0 to 2**63 - 1.
    model : str
        ``"micro"``, a pipeline folder, or a model of the hub.
    settings : dict
        Of `StoryPipeline.__call__`, those of `SETTINGS`; ``schedule`` is a name: ``"always"`` or
        ``"released"``.
    pictures : dict
        Name of a character -> files of its reference pictures.
    identity : str
        Identity encoder that reads them: ``"micro"`` or a folder.
    layout, font, size
        As of `comic.comic`.
    film : dict
        How a video is made, those of `FILM`: ``frames`` of a transition and how many each panel is held, a
        second's frames ``fps``, the video ``model``, its ``motion`` weights, ``image_encoder`` and ``lora``
        (as of `video.TransitionPipeline.from_pretrained`; the shipped LoRA is for the shipped model alone),
        and how strongly frames are redrawn, ``refine`` (as of `video.story_to_video`).

    Raises
    ------
    ValueError
        A setting or a layout that there is not.
    """

    story: str
    seed: int = 0
    model: str = "micro"
    settings: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    identity: str = "micro"
    layout: str = "page"
    font: str | None = None
    size: int | None = None
    film: dict = field(default_factory=dict)

    def __post_init__(self):
        unknown = sorted(set(self.settings) - set(SETTINGS))
        if unknown:
            raise ValueError(f"No setting is called {unknown[0]!r}; there are {', '.join(SETTINGS)}.")
        unknown = sorted(set(self.film) - set(FILM))
        if unknown:
            raise ValueError(f"Nothing of a film is called {unknown[0]!r}; there are {', '.join(FILM)}.")
        refine = self.film.get("refine")
        if refine is not None and not 0 <= refine <= 1:
            raise ValueError(f"refine is {refine}; it must be from 0, not at all, to 1.")
        if self.settings.get("schedule", "always") not in SCHEDULES:
            raise ValueError(
                f"No schedule is called {self.settings['schedule']!r}; there are {', '.join(SCHEDULES)}."
            )
        if self.layout not in LAYOUTS:
            raise ValueError(f"There is no layout {self.layout!r}: choose one of {', '.join(LAYOUTS)}.")

    def complete(self):
        """The same with every setting said: what a comic carries, so that no default can change under it."""
        known = inspect.signature(StoryPipeline.__call__).parameters
        default = {name: known[name].default for name in SETTINGS} | {"schedule": "always"}
        return replace(self, settings=default | self.settings, film=FILM | self.film)

    def call(self):
        """Arguments of the pipeline call."""
        settings = self.complete().settings
        return settings | {"seed": self.seed, "schedule": SCHEDULES[settings["schedule"]]()}


@dataclass(frozen=True)
class Told:
    """What `tell` made.

    Parameters
    ----------
    comic : PIL.Image.Image
    images : list of PIL.Image
        The panels.
    panels : list of Panel
    path : Path
        Of the comic.
    video : Path or None
    same : bool or None
        Of `retell`: whether every pixel of every panel is as it was.
    """

    comic: Image.Image
    images: list
    panels: list
    path: Path
    video: Path | None = None
    same: bool | None = None


# ------------------------------------------------------------------------------------------------- telling


def tell(
    recipe,
    out,
    video=None,
    *,
    pipe=None,
    device="cpu",
    dtype="float32",
    offload=False,
    keep=False,
    progress=True,
):
    """Draw a story and write its comic, and its video if asked for.

    Parameters
    ----------
    recipe : Recipe
    out : str or Path
        The comic, a .png: it carries the recipe.
    video : str or Path, optional
        An .mp4 or a .gif: from panel to panel, as ``recipe.film`` says.
    pipe : StoryPipeline, optional
        Instead of loading ``recipe.model``.
    device : str
    dtype : {"float32", "float16", "bfloat16"}
    offload : bool
        Keep on the GPU only the part that works (``enable_model_cpu_offload``).
    keep : bool
        Keep the folder with the panels beside the output.
    progress : bool
        Bars: for the denoising steps, for the panels, for the video's transitions.

    Returns
    -------
    Told

    Raises
    ------
    ValueError, OSError
        Whatever is wrong with the story, the settings or the files; all that can be found out before the
        drawing begins is found out then.  Outputs are written whole or not at all.
    """
    out, video = check_output(out, (".png",)), video and check_output(video, (".mp4", ".gif"))
    recipe = recipe.complete()
    story = parse(recipe.story)
    captions = [panel.text for panel in story.panels]
    check_letters(captions, recipe.font)
    plan(len(story.panels), recipe.layout)
    pictures = {name: [open_picture(f) for f in files] for name, files in recipe.pictures.items()}
    mover = load_mover(recipe, video, len(story.panels), device) if video else None
    pipe = pipe or load_pipe(recipe, device, dtype, offload)
    made = made_by(recipe, pipe)
    folder = unfinished(out, recipe, made, pictures)
    images = _draw(recipe, story.panels, pipe, pictures, folder, progress)

    page = comic(images, captions, recipe.layout, recipe.font, recipe.size)
    made["panels"] = [_hash(image) for image in images]
    write_comic(out, page, recipe, made, captions)
    if video:
        _write_video(mover, video, images, story.panels, recipe, progress)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return Told(page, images, story.panels, out, video)


def retell(png, out, video=None, changes=None, **how):
    """Tell again what a comic tells, from the recipe that it carries.

    Parameters
    ----------
    png : str or Path
        A comic that `tell` wrote.
    out, video, **how
        As of `tell`.
    changes : dict, optional
        Fields of the recipe to change, such as ``{"layout": "strip"}``.

    Returns
    -------
    Told
        ``same`` says whether the panels are the same, pixel by pixel.

    Raises
    ------
    RecipeError
        The picture carries no recipe.

    Warns
    -----
    UserWarning
        Another model, or other versions of the libraries, than the comic was made with: pixels may differ.
    """
    recipe, made = read_recipe(png)
    changed = Recipe(**(asdict(recipe) | (changes or {})))
    told = tell(changed, out, video, **how)
    _, now = read_recipe(told.path)
    for what in ("model", "torch", "diffusers", "device", "dtype"):
        if made.get(what) != now.get(what) and "model" not in (changes or {}):
            warnings.warn(
                f"The comic was made with another {what} ({made.get(what)}; now {now.get(what)}): its "
                "pixels need not be the same.",
                stacklevel=2,
            )
    return Told(**(vars(told) | {"same": made["panels"] == now["panels"]}))


def _draw(recipe, panels, pipe, pictures, folder, progress):
    """The panels' pictures: those that are finished as they are, the others drawn."""
    files = [folder / f"panel-{i + 1:02}.png" for i in range(len(panels))]
    steps, latents = folder / "steps.safetensors", folder / "latents.safetensors"
    bar = {"disable": not progress, "leave": False}
    if not all(f.exists() for f in files) and not latents.exists():
        before = getattr(pipe, "_progress_bar_config", {})
        pipe.set_progress_bar_config(desc=f"{len(panels)} panels together", unit="step", **bar)
        with_steps = type(pipe.scheduler).__name__ in STATELESS
        call = recipe.call() | {"output_type": "latent", "id_images": pictures or None}
        resume = _kept(steps) if with_steps else None

        def keep(pipe, step, t, tensors):
            x = tensors["latents"].detach().cpu().contiguous()
            done = {"latents": x, "step": torch.tensor(step + 1)}
            weights.atomic_save(steps, lambda to: save_file(done, to))
            return {}

        if resume and resume[0] == call["num_inference_steps"]:  # stopped just after the last step
            done = resume[1]
        else:
            done = pipe(
                panels, callback_on_step_end=keep if with_steps else None, resume=resume, **call
            ).images
        pipe.set_progress_bar_config(**before)
        done = done.detach().cpu().contiguous()
        weights.atomic_save(latents, lambda to: save_file({"latents": done}, to))
    images = []
    for i, file in enumerate(tqdm(files, desc="panels", unit="panel", **bar)):
        if not file.exists():
            x = load_file(latents)["latents"][i : i + 1].to(pipe._execution_device)
            with torch.no_grad():
                image = pipe._decode(x, "pil")[0]
            weights.atomic_save(file, image.save)
        with Image.open(file) as image:
            images.append(image.convert("RGB"))
    pipe.maybe_free_model_hooks()
    return images


def _kept(file):
    """(step, latents) of an interrupted run, or None."""
    if not file.exists():
        return None
    found = load_file(file)
    return int(found["step"]), found["latents"]


# ------------------------------------------------------------------------------------------------- its parts


def load_pipe(recipe, device="cpu", dtype="float32", offload=False):
    """The pipeline of a recipe, on its device.

    Raises
    ------
    WeightsError
        A folder that is no pipeline, and whatever else `StoryPipeline.from_pretrained` tells.
    ValueError
        A device that there is not.
    """
    if len(Path(recipe.model).parts) != 2 and recipe.model != "micro" and not Path(recipe.model).exists():
        raise ValueError(
            f"There is no model {recipe.model}. Give 'micro', a folder in the layout of diffusers, or the "
            "name of a model on the hub (owner/name)."
        )
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"There is no device {device!r} here: no CUDA GPU was found. Leave --device out.")
    pipe = StoryPipeline.from_pretrained(recipe.model, dtype=getattr(torch, dtype))
    if recipe.pictures:
        pipe.load_identity(recipe.identity)
    if offload:
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)


def load_mover(recipe, path, panels, device="cpu"):
    """What makes a video of panels: a TransitionPipeline, with all that writing ``path`` needs.

    Raises
    ------
    ValueError, OSError
        A story of one panel; or a part that is missing, and how to get it.
    """
    from . import video  # its libraries take a moment to load

    if panels < 2:
        raise ValueError("A video moves from panel to panel: the story needs at least two.")
    film = recipe.complete().film
    if recipe.model != "micro" and film["model"] == "micro":
        raise ValueError(
            "The shipped video model moves pictures of the micro model. For panels of another one name a "
            "video model and its motion weights (--video-model and --motion on the command line)."
        )
    if path.suffix.lower() == ".mp4":
        try:
            video._ffmpeg()
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    parts = {k: film[k] for k in ("motion", "image_encoder", "lora")}
    shipped = film["model"] == "micro" and film["motion"] is None
    if film["lora"] == FILM["lora"] and not shipped:
        parts["lora"] = None
    refiner = True if film["refine"] else None
    return video.TransitionPipeline.from_pretrained(film["model"], **parts, refiner=refiner).to(device)


def _write_video(mover, path, images, panels, recipe, progress):
    from .video import save_video, story_to_video

    film = recipe.film
    before = getattr(mover, "_progress_bar_config", {})
    mover.set_progress_bar_config(disable=not progress, desc=f"{len(images) - 1} transitions", leave=False)
    more = {} if film["refine"] is None else {"refine": film["refine"]}
    frames = story_to_video(
        mover, images, panels, num_frames=film["frames"], hold=film["hold"], seed=recipe.seed, **more
    )
    mover.set_progress_bar_config(**before)
    save_video(frames, path, fps=film["fps"], progress=progress)


def open_picture(file):
    """A reference picture, in RGB; ValueError says what is wrong with the file."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"There is no picture {file}.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is no picture that can be read ({error}).") from None


def check_output(path, endings):
    """The path of an output, if it can be written.

    Raises
    ------
    ValueError
        Another ending, a folder in its place, or a folder that is not there or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise ValueError(f"The output {path} must end in {' or '.join(endings)}.")
    if path.is_dir():
        raise ValueError(f"The output {path} is a folder. Give the name of a file.")
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} of the output is not there. Make it first.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"Nothing can be written to {path.parent}: {error.strerror}.") from error
    return path


def unfinished(out, recipe, made, pictures):
    """The folder of a run beside its output; it is made when there is something to keep.

    Its name holds a fingerprint of all that the panels depend on, so that another story never goes on from
    this one's panels.
    """
    parts = asdict(recipe) | {
        "made": made,
        "pictures": {n: [_hash(i) for i in p] for n, p in pictures.items()},
    }
    for name in ("layout", "font", "size", "film"):
        parts.pop(name)
    print_ = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    return out.with_name(f"{out.stem}.unfinished-{print_}")


# ------------------------------------------------------------------------------------------------- the recipe


def made_by(recipe, pipe):
    """What the pixels depend on beside the recipe: versions, device, and which weights."""
    return {
        "storydiff_lite": _version("storydiff_lite"),
        "torch": torch.__version__.split("+")[0],
        "diffusers": _version("diffusers"),
        "device": pipe._execution_device.type,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "model": model_print(recipe.model),
    }


def model_print(name):
    """A fingerprint of a model: of the shipped one by its checksums, of a folder by its configurations and
    the sizes of its files, of one on the hub by its name.
    """
    if name == "micro":
        manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
        text = json.dumps({k: v for k, v in manifest.items() if k.startswith("micro/")}, sort_keys=True)
    elif Path(name).is_dir():
        files = sorted(f for f in Path(name).rglob("*") if f.is_file() and not f.name.startswith("."))
        text = "\n".join(
            f"{f.relative_to(name).as_posix()} {f.read_text() if f.suffix == '.json' else f.stat().st_size}"
            for f in files
        )
    else:
        text = name
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_comic(out, page, recipe, made, captions):
    """Write a comic with its recipe, whole or not at all."""
    info = PngImagePlugin.PngInfo()
    text = {"version": 1, "recipe": asdict(recipe), "made": made}
    info.add_itxt(KEY, json.dumps(text, ensure_ascii=False), zip=True)
    said = "\n".join(f"{i}. {c}" for i, c in enumerate(captions, 1))
    info.add_itxt("Description", f"A comic of {len(captions)} panels.\n{said}")
    weights.atomic_save(Path(out), lambda to: page.save(to, pnginfo=info))


def read_recipe(png):
    """The recipe of a comic, and what it was made with.

    Returns
    -------
    (Recipe, dict)

    Raises
    ------
    RecipeError
    """
    try:
        with Image.open(png) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEY)
    except FileNotFoundError:
        raise RecipeError(f"There is no file {png}.") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise RecipeError(f"{png} is no picture that can be read ({error}).") from None
    if text is None:
        raise RecipeError(
            f"{png} does not say how it was made. Only a .png that `storydiff tell` wrote carries its "
            "recipe, and only as long as no other program has saved it anew."
        )
    try:
        found = json.loads(text)
        known = {f.name for f in fields(Recipe)}
        more = set(found["recipe"]) - known
        if found["version"] != 1 or more:
            what = ", ".join(sorted(more)) or f"version {found['version']}"
            raise RecipeError(f"{png} was written by another version of storydiff ({what}).")
        if found["recipe"].get("film"):  # one of before there were these
            found["recipe"]["film"] = {"lora": None, "refine": 0.0} | found["recipe"]["film"]
        return Recipe(**found["recipe"]), found["made"]
    except RecipeError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"The recipe in {png} cannot be read ({error}).") from error


def _hash(image):
    """SHA-256 of a picture's pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder, not installed
        return "unknown"
