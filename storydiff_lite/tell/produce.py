"""Tell a story: from its recipe to a comic and a video, from a comic to the same again.

All that a comic was made from stands in the picture itself (`recipe`).  A run that stops half way leaves a
folder beside its output (`resume`), and the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from .. import weights
from ..comic import check_letters, comic, plan
from ..pictures import as_rgb
from ..pipeline import StoryPipeline
from ..settings import RESUMABLE, VideoSettings
from ..story import parse
from .checks import check_how, check_model, check_output, check_page, check_video, open_picture
from .fingerprint import made_by
from .recipe import Recipe, read_recipe, write_comic
from .resume import at_work, drop, kept_panel, kept_tensors, put, save_tensors, unfinished


@dataclass(frozen=True)
class ComicOutput:
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
        Of `retell`: whether every pixel of every panel is as it was.  None where that is not known: the
        comic was drawn in a browser, which rounds sums in another order (a pixel may differ by 1 of 255).
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
        An .mp4 or a .gif: from panel to panel, as ``recipe.video`` says.
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
    ComicOutput

    Raises
    ------
    ValueError, OSError
        Whatever is wrong with the story, the settings or the files; all that can be found out before the
        drawing begins is found out then.  Outputs are written whole or not at all.  An error while it
        draws says where the work is kept (its attribute ``kept``): the same call goes on from there.
    """
    recipe, out = recipe.complete(), check_output(out, (".png",))
    if video:
        video = check_output(video, (".mp4", ".gif"))
    check_how(device, dtype)
    if pipe is None:
        check_model(recipe.model)
    story = parse(recipe.story)
    captions = [panel.text for panel in story.panels]
    check_letters(captions, recipe.font)
    plan(len(story.panels), recipe.layout)
    pictures = {name: [open_picture(f) for f in files] for name, files in recipe.pictures.items()}
    if video:
        check_video(recipe, video, len(story.panels))
    where = device, dtype, offload
    shares = pipe is None and recipe.video_settings().model == recipe.model
    pipe = pipe or load_pipe(recipe, *where)
    if video:
        transition_pipe = load_transition_pipe(recipe, *where, base=pipe if shares else None)
    recipe = recipe.complete(pipe)
    height, width = pipe.picture_size(recipe.settings["height"], recipe.settings["width"])
    check_page(len(story.panels), width, height, recipe.size)
    if video:
        transition_pipe.check(width, height, recipe.video["frames"], refine=recipe.video["refine"])
    made = made_by(recipe, pipe)
    folder = unfinished(out, recipe, made)
    with at_work(folder, out):
        images = _draw(recipe, story.panels, pipe, pictures, folder, progress)
        page = comic(images, captions, recipe.layout, recipe.font, recipe.size)
        made["panels"] = [_hash(image) for image in images]
        written = folder / "written"  # here, so that a run that is killed leaves nothing beside its output
        write_comic(written / out.name, page, recipe, made, captions)
        put(written / out.name, out)
        if video:
            if offload:
                _placed(transition_pipe, device, offload)
            _write_video(transition_pipe, written / video.name, images, story.panels, recipe, progress)
            put(written / video.name, video)
        shutil.rmtree(written, ignore_errors=True)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return ComicOutput(page, images, story.panels, out, video or None)


def retell(png, out, video=None, changes=None, **how):
    """Tell again what a comic tells, from the recipe that it carries.

    Parameters
    ----------
    png : str or Path
        A comic that `tell` wrote, or that the page that draws saved.
    out, video, **how
        As of `tell`.
    changes : dict, optional
        Fields of the recipe to change, such as ``{"layout": "strip"}``.

    Returns
    -------
    ComicOutput
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
    unknown = sorted(set(changes or {}) - {f.name for f in fields(Recipe)})
    if unknown:
        known = ", ".join(f.name for f in fields(Recipe))
        raise ValueError(f"A recipe has no {unknown[0]!r} to change; it has {known}.")
    changed = Recipe(**(asdict(recipe) | (changes or {})))
    output = tell(changed, out, video, **how)
    _, now = read_recipe(output.path)
    in_browser = made.get("drawn_in") == "browser"  # the page that draws has neither torch nor a device
    names = ["model"] if in_browser else ["model", "torch", "diffusers", "device", "dtype"]
    other = [what for what in names if made.get(what) != now.get(what)]
    if not other and "pipeline" in made and made["pipeline"] != now["pipeline"]:
        other = ["pipeline"]  # the same by its name: other weights, adapters or another scheduler
    for what in other if "model" not in (changes or {}) else ():
        warnings.warn(
            f"The comic was made with another {what} ({made.get(what)}; now {now.get(what)}): its "
            "pixels need not be the same.",
            stacklevel=2,
        )
    return replace(output, same=None if in_browser else made.get("panels") == now["panels"])


def _draw(recipe, panels, pipe, pictures, folder, progress):
    """The panels' pictures: those that are finished as they are, the others drawn."""
    files = [folder / f"panel-{i + 1:02}.png" for i in range(len(panels))]
    height, width = pipe.picture_size(recipe.settings["height"], recipe.settings["width"])
    images = [kept_panel(file, (width, height)) for file in files]
    bar = {"disable": not progress, "leave": False}
    latents = _latents(recipe, panels, pipe, pictures, folder, bar) if None in images else None
    for i, file in enumerate(tqdm(files, desc="panels", unit="panel", **bar)):
        if images[i] is not None:
            continue
        with torch.no_grad():
            image = pipe.decode(latents[i : i + 1], "pil", [f"Panel {i + 1}"])[0]
        weights.atomic_save(file, image.save)
        images[i] = image.convert("RGB")
    pipe.maybe_free_model_hooks()
    return images


def _latents(recipe, panels, pipe, pictures, folder, bar):
    """Latents of all panels [F, 4, h, w]: those that an interrupted run left, or drawn."""
    file, steps = folder / "latents.safetensors", folder / "steps.safetensors"
    found = kept_tensors(file, len(panels))
    if found is not None:
        return found["latents"]
    settings = recipe.story_settings()
    # what finds the subject in earlier steps cannot go on from latents alone
    with_steps = type(pipe.scheduler).__name__ in RESUMABLE and settings.picks == "random"
    found = kept_tensors(steps, len(panels)) if with_steps else None
    most = settings.num_inference_steps
    if found is not None and not 0 < int(found.get("step", 0)) <= most:
        found = drop(steps)

    def keep(pipe, step, t, tensors):
        x = tensors["latents"].detach().cpu().contiguous()
        save_tensors(steps, {"latents": x, "step": torch.tensor(step + 1)})
        return {}

    if found is not None and int(found["step"]) == most:  # stopped just after the last step
        done = found["latents"]
    else:
        resume = (int(found["step"]), found["latents"]) if found is not None else None
        with _bar(pipe, desc=f"{len(panels)} panels together", unit="step", **bar):
            done = pipe(
                panels,
                pictures or None,
                seed=recipe.seed,
                output_type="latent",
                callback_on_step_end=keep if with_steps else None,
                resume=resume,
                **vars(settings),
            ).images
    done = done.detach().cpu().contiguous()
    save_tensors(file, {"latents": done})
    return done


# ------------------------------------------------------------------------------------------------- its parts


def load_pipe(recipe, device="cpu", dtype="float32", offload=False):
    """The pipeline of a recipe, on its device.

    Raises
    ------
    WeightsError
        A folder that is no pipeline, and whatever else `StoryPipeline.from_pretrained` raises.
    ValueError
        A device that there is not.
    """
    check_how(device, dtype)
    check_model(recipe.model)
    pipe = StoryPipeline.from_pretrained(recipe.model, dtype=getattr(torch, dtype))
    if recipe.pictures:
        pipe.load_identity(recipe.identity)
    return _placed(pipe, device, offload)


def load_transition_pipe(recipe, device="cpu", dtype="float32", offload=False, base=None):
    """What makes a recipe's video of panels: a TransitionPipeline, which shares the parts of ``base``, a
    StoryPipeline of the same model on the same device.

    Raises
    ------
    ValueError, OSError
        A part that is missing, and how to get it; motion weights of another model.
    """
    from ..video import TransitionPipeline  # its libraries take a moment to load

    check_how(device, dtype)
    settings = recipe.video_settings()
    shipped = settings.model == "micro" and settings.motion is None
    pipe = TransitionPipeline.from_pretrained(
        settings.model,
        motion=settings.motion,
        image_encoder=settings.image_encoder,
        dtype=getattr(torch, dtype),
        lora=None if settings.lora == VideoSettings.lora and not shipped else settings.lora,
        refiner=True if settings.refine else None,
        base=base,
    )
    # parts that are shared come and go as the panels' pipeline says, until these are drawn (`tell`)
    return pipe if offload and base is not None else _placed(pipe, device, offload)


def _placed(pipe, device, offload):
    if offload:
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)


def _write_video(pipe, path, images, panels, recipe, progress):
    from ..video import save_video, story_to_video

    settings = recipe.video_settings()
    more = {} if settings.refine is None else {"refine": settings.refine}
    with _bar(pipe, disable=not progress, desc=f"{len(images) - 1} transitions", leave=False):
        frames = story_to_video(
            pipe, images, panels, num_frames=settings.frames, hold=settings.hold, seed=recipe.seed, **more
        )
    save_video(frames, path, fps=settings.fps, progress=progress)


@contextmanager
def _bar(pipe, **config):
    """A pipeline's progress bar like this within the block."""
    before = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(**config)
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)


def _hash(image):
    """SHA-256 of a picture's pixels."""
    return hashlib.sha256(f"{image.size}".encode() + as_rgb(image).tobytes()).hexdigest()
