"""What a call of StoryPipeline is given beside its stories and settings: tensors, a generator, a callback."""

import numbers
from dataclasses import dataclass

import numpy as np
import torch

from .checks import check_choice, check_number
from .settings import RESUMABLE

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class CallInputs:
    """The arguments of these names of `StoryPipeline.__call__`, checked.

    Raises
    ------
    ValueError, TypeError
        What no model can draw with: the message says what to write instead.
    """

    recorder: object = None
    generator: object = None
    latents: object = None
    output_type: str = "pil"
    callback_on_step_end: object = None
    callback_on_step_end_tensor_inputs: object = ("latents",)
    resume: object = None

    def __post_init__(self):
        check_choice("output_type", self.output_type, OUTPUT_TYPES)
        callback, names = self.callback_on_step_end, self.callback_on_step_end_tensor_inputs
        if callback is not None and not callable(callback):
            raise TypeError(
                "callback_on_step_end must be a function of (pipe, step, timestep, tensors), not "
                f"{callback!r}."
            )
        wanted = getattr(callback, "tensor_inputs", None)  # of a callback object of diffusers
        names = names if wanted is None else wanted
        names = [names] if isinstance(names, str) else names or []
        self.callback_on_step_end_tensor_inputs = list(dict.fromkeys(names))
        if isinstance(self.generator, (list, tuple)):
            self.generator = list(self.generator)
        _check_generator(self.generator)
        _check_latents(self.latents)
        if self.resume is not None:
            self.resume = _resume(self.resume)

    def check(self, settings, scheduler, can):
        """Raise ValueError unless a pipeline with this scheduler, whose callbacks ``can`` get these tensors,
        can do what it is asked for, with these `StorySettings`.
        """
        unknown = [name for name in self.callback_on_step_end_tensor_inputs if name not in can]
        if unknown:
            raise ValueError(
                f"A step callback cannot get {', '.join(map(str, unknown))}; it can get {', '.join(can)}."
            )
        if self.resume is None:
            return
        kind = type(scheduler).__name__
        if kind not in RESUMABLE:
            raise ValueError(
                f"resume: {kind} may keep more than the latents between two steps, so that the story would "
                f"go on as another one. Draw it from the start, or with {', '.join(RESUMABLE)}."
            )
        if settings.of_subject:
            raise ValueError(
                "resume does not go with picks='subject': where the subject is was found in the steps before "
                "and is not kept. Draw the story from the start, or with picks='random'."
            )
        if self.generator is not None:
            raise ValueError(
                "resume goes with seed: the state that a generator had when the story began is not known. "
                "Leave generator out, in the first call too."
            )

    def begun(self, latents, steps):
        """The first step to do, and its latents [B, 4, h, w]: these ones, of noise, or as of ``resume``."""
        first, kept = self.resume or (0, latents)
        if first >= steps:
            raise ValueError(f"resume begins at step {first}; there are {steps} steps, the first is 0.")
        if tuple(kept.shape) != tuple(latents.shape):
            raise ValueError(
                f"resume holds latents {list(kept.shape)}; this story and size have {list(latents.shape)}."
            )
        return first, kept.to(latents)


def _resume(resume):
    """``resume`` as (step, latents)."""
    if not isinstance(resume, (tuple, list)) or len(resume) != 2 or resume[1] is None:
        raise TypeError("resume must be a pair, (the first step that is to be done, its latents).")
    check_number("the step of resume", resume[0], numbers.Integral, 0)
    _check_latents(resume[1], "the latents of resume")
    return int(resume[0]), resume[1]


def _check_generator(generator):
    """Raise TypeError unless it is one generator, a list of them, or None."""
    several = generator if isinstance(generator, list) else [generator] * (generator is not None)
    if not all(isinstance(g, torch.Generator) for g in several):
        raise TypeError(
            f"generator must be a torch.Generator, or a list with one for each panel, not {generator!r}. A "
            "number is given as seed=..."
        )


def _check_latents(latents, name="latents"):
    """Raise TypeError or ValueError unless it is a tensor of finite numbers, or None."""
    if latents is None:
        return
    if not isinstance(latents, torch.Tensor):
        kind = type(latents).__name__
        hint = " Write torch.from_numpy(latents)." if isinstance(latents, np.ndarray) else ""
        raise TypeError(f"{name} must be a torch.Tensor [panels, 4, h, w], not a {kind}.{hint}")
    if not latents.is_floating_point():
        raise TypeError(f"{name} must hold floating point numbers, not {latents.dtype}.")
    if not torch.isfinite(latents).all():
        raise ValueError(f"{name} hold nan or infinite numbers.")
