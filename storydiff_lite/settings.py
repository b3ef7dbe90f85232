"""Every setting of a story and of a video, once: its default, its range, its option on the command line.

The call of `StoryPipeline`, the recipe that a comic carries and the options of ``storydiff`` are made from
the fields of two dataclasses, which check themselves: what is wrong is found before a model is loaded.  A new
setting is one line here (and its use, and its place in the signature of ``StoryPipeline.__call__``).

Nothing here imports torch, so that ``storydiff --help`` comes at once.
"""

from __future__ import annotations

import math
import numbers
import warnings
from dataclasses import dataclass, field, fields

from .checks import check_choice, check_layers, check_number, check_pair, check_refine, check_text

DTYPES = ("float32", "float16", "bfloat16")
#: how panels beyond the window are reached; in which steps panels read each other, by name
LONG_STORIES, SCHEDULES = ("passes", "attention", "bank"), ("always", "released")
#: which tokens of a panel the others read: any at random, or those where the words of its prompt are
PICKS = ("random", "subject")
#: what draws random numbers, beside torch's generator
GENERATORS = ("portable",)
#: what keeps characters of one panel apart
APART = ("words", "regions", "isolated")
#: solvers of order 2 and more, by their class names in diffusers
MULTISTEP = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
#: schedulers that keep nothing but the latents between two steps: a story can go on at any of them
RESUMABLE = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
#: the shares of the steps between which the micro model is guided: the cleanest on validation stories
GUIDED = (0.25, 0.75)
#: how strongly the frames between two panels of a story are redrawn: the best on validation stories
REFINE = 0.5
#: frames a second of a video, at most
FPS = 1000
#: seconds that a GIF's frame can stand still: it counts them in 16 bits
LONGEST = 655


def _setting(default, low=None, high=math.inf, means=None, carried=True, **option):
    """A field: the range of a number (none without ``low``), what it is in the words of errors and of help,
    whether a recipe holds it, and its option on the command line, if there are words for one: its ``name``
    where that is not the field's, and what argparse's ``add_argument`` takes.
    """
    ours = {"low": low, "high": high, "means": means, "carried": carried, "option": option}
    return field(default=default, metadata=ours)


@dataclass(frozen=True)
class StorySettings:
    """How a story is drawn: all but the story, its seed and its pictures of people.

    Parameters
    ----------
    consistency : float
        0 to 1: the fraction of each panel's tokens that the other panels read in self-attention. 0: plain
        sampling.
    window : int, optional
        Panels that go through the U-Net together, at least 1: a longer story needs no more memory than a
        story of this length.  ``None``: every panel reads every other.
    long_story : {"passes", "attention", "bank"}
        How panels beyond the window are reached (`windows.passes`): overlapping windows over whole
        passes, averaged; sliding windows inside each layer (Algorithm 1, whose memory still grows with
        the story); or a bank, written by the first ``window`` panels and read by the others.
    picks : {"random", "subject"}
        Which of a panel's tokens the others read: any, as in the paper, or first those where the words of
        its prompt are (`neighbours.picks`), found in earlier steps of the same run; in the first step any.
        ``"subject"`` goes with windows, banks, a cast and pictures of people; not with ``resume``.
    apart : {"words", "regions", "isolated"}
        What keeps the characters of one panel apart, where a panel shows several.  ``"words"``: nothing but
        the prompt.  ``"regions"``: each has a part of the panel, and reads its own looks alone in other
        panels (`regions`), which keeps looks that no prompt names, and costs some clean pictures (chapter
        10); ``"isolated"``: nor do they read each other within the panel.
    start_merge_step : int or float, optional
        Delayed conditioning, as released: the steps up to and including this one (counted from 0) read
        the text alone, the later ones the identity too; -1: all read the identity.  A float from 0.0 to
        1.0 is the share of the steps that read the text alone.  0.2 by default, about the released 10 of
        50.  Without ``id_images`` it changes nothing.  1 is a step and 1.0 a share: 1 reads the identity
        from the third step on, 1.0 never; a warning says so, and where no step is left that reads the
        identity (a step equal to ``num_inference_steps`` says that plainly, and is not warned of).
    num_inference_steps : int, optional
        Denoising steps, at least 1; by default as many as the scheduler needs (`default_steps`).
    guidance_scale : float
        Classifier-free guidance, at least 0; 1 or less: none, and one forward pass instead of two.
    guidance_start, guidance_stop : float, optional
        0 to 1: the shares of the steps between which there is guidance (`guidance.guided_steps`).  By default
        what the model was made with: all steps (0 and 1), as in diffusers; ``"micro"`` .25 and .75.
    guidance_rescale : float
        0 to 1 (Lin et al. 2305.08891, Eq. 15-16); 0: off.
    negative_prompt : str, or list of F str and None, optional
        For all panels, or one for each; a panel's own goes before it.  Without guidance nothing reads it.
    same_noise : bool
        Start all panels from one noise instead of one each. (The released low-memory code sets the seed
        anew for each group of panels: its later panels share one noise, reference panels do not.)
    layers : str or list of str
        Where panels read each other: ``"up"`` (as released), ``"mid"``, ``"down"``, ``"all"``, or
        beginnings of names.
    schedule : SamplingSchedule, optional
        In which steps; always by default, ``SamplingSchedule.released()`` as in the released full-memory
        scripts.
    height, width : int, optional
        Pixels; what the model was made for by default. Multiples of the autoencoder's and the U-Net's
        scale.
    original_size, target_size : (int, int), optional
        (height, width) of SDXL's micro-conditioning (2307.01952, section 2.2), in pixels; the picture's size
        by default.
    crops_coords_top_left : (int, int)
        (top, left) of the same.
    eta : float
        Of DDIM, 0 to 1; schedulers without it ignore it.
    generator : {None, "portable"}
        What draws noise and picks from the seed: torch's generator, or one that other languages can draw too
        (`portable`), as the page does that draws stories without Python.

    Raises
    ------
    ValueError, TypeError
        A value that no model can draw with.
    """

    consistency: float = _setting(
        0.5, 0, 1, "the fraction of a panel's tokens that the other panels read", metavar="RATE"
    )
    window: int | None = _setting(None, 1, help="panels that are drawn together", metavar="PANELS")
    long_story: str = _setting("passes", help="beyond the window", choices=LONG_STORIES)
    picks: str = _setting(
        "random", help="which tokens they read: any, or where the prompt's words are", choices=PICKS
    )
    apart: str = _setting("words", help="what keeps characters of one panel apart", choices=APART)
    start_merge_step: float | int | None = _setting(
        None, help="share of steps by text alone", metavar="SHARE"
    )
    num_inference_steps: int | None = _setting(
        None, 1, name="steps", help="denoising steps (default 25; 12 with a multistep solver)"
    )
    guidance_scale: float = _setting(5.0, 0, means="how strongly the prompt pulls", name="guidance")
    guidance_start: float | None = _setting(
        None, 0, 1, "the share of the steps before guidance begins", metavar="SHARE"
    )
    guidance_stop: float | None = _setting(
        None, 0, 1, "the share of the steps after which it ends", metavar="SHARE"
    )
    guidance_rescale: float = _setting(0.0, 0, 1, "how far guidance's overexposure is undone")
    negative_prompt: str | list | None = _setting(
        None, name="negative", help="what is not drawn", metavar="PROMPT"
    )
    same_noise: bool = _setting(False, help="start all panels from one noise")
    layers: str | list = _setting("up", help="where they read", choices=("up", "mid", "down", "all"))
    schedule: object = _setting(None, help="in which steps they read", choices=SCHEDULES)
    height: int | None = _setting(None, 1, help="pixels")
    width: int | None = _setting(None, 1, help="pixels")
    original_size: tuple | None = _setting(None, carried=False)
    crops_coords_top_left: tuple = _setting((0, 0), carried=False)
    target_size: tuple | None = _setting(None, carried=False)
    eta: float = _setting(0.0, 0, 1, "how much noise each step of DDIM adds", carried=False)
    generator: str | None = _setting(
        None, help="portable: noise and picks as the page of the book draws them", choices=GENERATORS
    )

    def __post_init__(self):
        _check_fields(self)
        if self.generator is not None and self.generator not in GENERATORS:
            raise ValueError(
                f"generator is {self.generator!r}; it must be 'portable', or a torch.Generator, or left out."
            )
        check_layers(self.layers)
        start = self.start_merge_step
        if isinstance(start, numbers.Real) and not isinstance(start, (bool, numbers.Integral)):
            check_number(
                "start_merge_step", start, high=1, means="the share of the steps that read the text alone"
            )
        else:
            check_number("start_merge_step", start, numbers.Integral, -1, optional=True)
        if self.schedule is not None:
            from .schedule import SamplingSchedule

            if not isinstance(self.schedule, SamplingSchedule):
                raise TypeError(
                    "schedule must be a SamplingSchedule, such as SamplingSchedule.released(), not "
                    f"{self.schedule!r}."
                )
        for name, least in (("original_size", 0), ("crops_coords_top_left", -math.inf), ("target_size", 0)):
            if getattr(self, name) is not getattr(StorySettings, name):  # a default needs no check
                check_pair(name, getattr(self, name), least)
        if isinstance(self.negative_prompt, str):
            check_text(self.negative_prompt, "The negative prompt")

    @property
    def of_subject(self):
        """Whether picks are drawn from the subject: where none or all of the tokens are read, none are."""
        return self.picks == "subject" and 0 < self.consistency < 1

    def negatives(self, panels):
        """A negative prompt, or None, for each panel of a story of so many."""
        prompt = self.negative_prompt
        if prompt is None or isinstance(prompt, str):
            return [prompt] * panels
        if not isinstance(prompt, (list, tuple)) or not all(p is None or isinstance(p, str) for p in prompt):
            raise TypeError(
                f"negative_prompt must be text, or a list with one for each panel, not {prompt!r}."
            )
        if len(prompt) != panels:
            raise ValueError(
                f"The story has {panels} panels and negative_prompt {len(prompt)}: give one for all, or one "
                "for each."
            )
        return list(prompt)

    def first_merged_step(self, steps, warn=True):
        """The first of ``steps`` (counted from 0) that reads the identity.

        Warns where a share may have been meant, and where there is no such step.
        """
        start = 0.2 if self.start_merge_step is None else self.start_merge_step
        merge = start + 1 if isinstance(start, numbers.Integral) else round(float(start) * steps)
        if warn and merge >= steps and merge != steps + 1:  # a step equal to `steps` says it plainly
            warnings.warn(
                f"start_merge_step={start!r} of {steps} steps: no step reads the identity, and id_images "
                "change nothing. Give a smaller share (0.2), or a smaller step.",
                stacklevel=7,
            )
        elif warn and merge == 2 and start == 1:
            warnings.warn(
                "start_merge_step=1 is a step, counted from 0: the identity is read from the third step on. "
                "A share of the steps is written with a point: 1.0 is all of them, which never reads it.",
                stacklevel=7,
            )
        return merge


@dataclass(frozen=True)
class VideoSettings:
    """How a story's panels become a video.

    Parameters
    ----------
    frames : int
        Of a transition, with both panels: at least 2.
    hold : int
        Frames that each panel stands still, at least 1.
    fps : float
        Frames a second, more than 0, at most `FPS`.
    model, motion, image_encoder, lora
        As of `video.TransitionPipeline.from_pretrained`; the shipped LoRA is for the shipped model alone.
    refine : float, optional
        How strongly frames are redrawn, 0 to 1, as of `video.story_to_video`.

    Raises
    ------
    ValueError, TypeError
    """

    frames: int = _setting(16, 2, help="frames from one panel to the next, with both")
    hold: int = _setting(4, 1, help="frames that a panel stands still")
    fps: float = _setting(8, 0, FPS, help="frames a second", type=int)
    model: str = _setting(
        "micro",
        name="video_model",
        help="video model, for panels of another model than 'micro'",
        metavar="MODEL",
    )
    motion: str | None = _setting(None, help="its motion weights", metavar="FOLDER")
    image_encoder: str | None = _setting(None, help="its image encoder", metavar="FOLDER")
    lora: str | None = _setting("passages")
    refine: float | None = _setting(
        None,
        0,
        1,
        metavar="STRENGTH",
        help="how strongly the U-Net that drew the panels redraws the frames between them, from 0 to 1 "
        f"(default {REFINE}; for another model 0, not at all)",
    )

    def __post_init__(self):
        _check_fields(self)
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be more than 0.")
        if self.refine:
            check_refine(self.refine)

    def check_file(self, path):
        """Raise ValueError if a panel stands longer than a file with this path's ending can show it."""
        if path.suffix.lower() == ".gif" and self.hold / self.fps > LONGEST:
            raise ValueError(
                f"A panel would stand still for {self.hold / self.fps:.0f} seconds (hold / fps); in a .gif "
                f"it can for {LONGEST}: give a larger fps, a smaller hold, or write an .mp4."
            )


def default_steps(scheduler):
    """Denoising steps where nobody says how many: 12 with a multistep solver (`MULTISTEP`), else 25.

    A step of DDIM or Euler follows a straight line; its error grows with the square of its length.  A
    multistep solver of order 2 (DPM-Solver++, 2211.01095; UniPC, 2302.04867) also knows from the prediction
    before how the path bends; its error grows with the cube.  So it needs half the steps, and each costs one
    prediction too.
    """
    return 12 if type(scheduler).__name__ in MULTISTEP else 25


def carried(kind):
    """Settings of this kind (a dataclass of this file) that a recipe holds: name -> default."""
    return {f.name: f.default for f in fields(kind) if f.metadata["carried"]}


def options(kind):
    """Settings of this kind that the command line asks for: name -> (name of the option, what argparse's
    ``add_argument`` takes).  One that is not given is ``None``.
    """
    found, typed = {}, {"int": {"type": int}, "float": {"type": float}, "bool": {"action": "store_true"}}
    for f in fields(kind):
        low, high, means, is_carried, option = f.metadata.values()
        text = option.get("help", means)
        if not text or not is_carried:
            continue
        if means and high < math.inf:
            text = f"{low} to {high}: {text}"
        if f.default is not None and f.default is not False:
            text += f" (default {f.default})"
        how = {"default": None} | typed.get(f.type.split()[0], {}) | option | {"help": text}
        found[f.name] = how.pop("name", f.name), how
    return found


def _check_fields(settings):
    """Raise TypeError or ValueError where a number is out of its field's range, or a name not one of its."""
    for f in fields(settings):
        low, high, means, _, option = f.metadata.values()
        if low is not None:
            kind = numbers.Integral if f.type.startswith("int") else numbers.Real
            check_number(f.name, getattr(settings, f.name), kind, low, high, f.default is None, means)
        elif f.type == "str" and "choices" in option:  # a name and nothing else
            check_choice(f.name, getattr(settings, f.name), option["choices"])
