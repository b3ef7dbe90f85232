"""The transition pipeline: two pictures and a prompt in, the frames between them out."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from ..autoencoder import precise, to_latents, to_pixels
from ..checks import check_number, check_refine, check_seed
from ..identity import without_trigger
from ..motion import semantic_tokens
from ..panels import Panel
from ..pictures import as_shown
from ..prompts import PromptEncoder
from ..settings import REFINE
from .checkpoint import Loading
from .decoder import reading_key_frames
from .files import save_video
from .refine import refine as redraw
from .sampling import WINDOW, Conditions, noise_generators, sample


@dataclass
class TransitionOutput(BaseOutput):
    """A transition.

    Parameters
    ----------
    frames : list of PIL.Image
        The first and the last are the pictures that were given.
    prompt : str
    seed : int
    """

    frames: list
    prompt: str = ""
    seed: int = 0

    def save(self, path, fps=8, height=256):
        """Write a GIF or an MP4, by the ending of ``path`` (`save_video`)."""
        return save_video(self.frames, path, fps, height)


class TransitionPipeline(Loading, DiffusionPipeline):
    """Fills in what happens between two pictures.

    ``TransitionPipeline.from_pretrained("micro")(first, last, "a bear jumping in the forest").frames``.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->decoder->refiner->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2", "image_encoder", "predictor", "refiner"]

    def __init__(
        self,
        vae,
        text_encoder,
        tokenizer,
        decoder,
        scheduler,
        image_encoder=None,
        predictor=None,
        text_encoder_2=None,
        tokenizer_2=None,
        refiner=None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            decoder=decoder,
            scheduler=scheduler,
            image_encoder=image_encoder,
            predictor=predictor,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            refiner=refiner,
        )

    @torch.no_grad()
    def __call__(
        self,
        first_image,
        last_image,
        prompt="",
        num_frames=16,
        guidance_scale=1.0,
        num_inference_steps=12,
        seed=0,
        predictor=None,
        window=WINDOW,
        eta=1.0,
        refine=0.0,
        refine_steps=3,
    ):
        """Draw the frames between two pictures.

        Parameters
        ----------
        first_image, last_image : PIL.Image, or lists of them
            Of any mode (`pictures.as_shown`), and of one size.  Lists give several transitions, drawn
            together.
        prompt : str, or list of str
            What happens.
        num_frames : int
            Frames with both pictures, at least 2.  Fewer than ``window`` are picked from a finer video;
            more are drawn in passes of ``window`` frames (`sampling.interleaved_windows`).
        guidance_scale : float
            Classifier-free guidance by prompt and tokens; 1: none, and half the time.
        num_inference_steps : int
        seed : int
        predictor : callable, optional
            ``predictor(start, end, num_frames) -> tokens``, instead of the trained one:
            ``motion.interpolate`` for the straight line.
        window : int
            Frames that go through the U-Net together, at least 3.
        eta : float
            How much noise is drawn anew in each step, 0..1 (`sampling.sample`).
        refine : float
            How strongly the U-Net that draws pictures redraws the frames afterwards, 0..1
            (`refine.refine`); 0: not at all.
        refine_steps : int
            In so many steps.

        Returns
        -------
        TransitionOutput, or a list of them

        Raises
        ------
        ValueError, TypeError
            What cannot be drawn, before anything is.
        """
        single = not isinstance(first_image, (list, tuple))
        firsts, lasts = ([x] if single else list(x) for x in (first_image, last_image))
        prompts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt] * len(firsts)
        firsts, lasts = _shown("first_image", firsts), _shown("last_image", lasts)
        size = self._check(firsts, lasts, prompts, num_inference_steps, guidance_scale, eta)
        self.check(*size, num_frames, window, refine, refine_steps)
        seed = check_seed(seed)
        frames = _frames_to_draw(num_frames, window)
        ends = self._pixels(firsts + lasts).to(self._execution_device, self.vae.dtype)  # [2B, 3, H, W]
        # of a story's panels too, whose latents were known: the decoder learnt from pictures' latents
        z = self.encode_images(ends).unflatten(0, (2, len(firsts)))  # [2, B, 4, h, w]
        known = z.new_zeros(len(firsts), frames, *z.shape[2:])  # [B, F, 4, h, w]
        known[:, 0], known[:, -1] = z
        tokens = self._tokens(ends, frames, predictor)
        prompt_embeds, empty_embeds = self.encode_text(prompts), self.encode_text([""])
        add_time_ids = None
        if prompt_embeds[1] is not None:
            add_time_ids = z.new_tensor([[size[1], size[0], 0, 0, size[1], size[0]]])
        conditions = Conditions(prompt_embeds, empty_embeds, add_time_ids, tokens, guidance_scale)
        generators = noise_generators(seed, range(len(firsts)))
        noise = torch.stack([torch.randn(known.shape[1:], generator=g) for g in generators]).to(known)
        again = refine_steps if refine and num_frames > 2 else 0
        with self.progress_bar(total=num_inference_steps + again) as bar:
            how = num_inference_steps, window, seed, bar.update, eta, generators
            x = sample(self.decoder, self.scheduler, known, noise, conditions, *how)
            x = x[:, :: (frames - 1) // (num_frames - 1)].to(z.dtype)
            if again:
                how = refine, again, seed, window, bar.update
                with reading_key_frames(self.refiner):
                    x = redraw(self.refiner, self.scheduler, x, prompt_embeds, add_time_ids, *how)
        out = []
        for first, last, text, video in zip(firsts, lasts, prompts, x, strict=True):
            between = self.decode(video[1:-1]) if num_frames > 2 else []
            out.append(TransitionOutput([first, *between, last], text, seed))
        self.maybe_free_model_hooks()
        return out[0] if single else out

    # ------------------------------------------------------------------------------------- its steps

    def check(self, width, height, num_frames=16, window=WINDOW, refine=None, refine_steps=3):
        """Whether transitions like this can be drawn: what can be known without pictures.

        Parameters
        ----------
        width, height : int
            Of the pictures, in pixels.
        num_frames, window, refine, refine_steps
            As of a call; ``refine`` by default as of `story_to_video`.

        Raises
        ------
        ValueError, TypeError
            They cannot: the message says what to write instead.
        """
        unit = 2 ** (len(self.vae.config.block_out_channels) - 1 + self.decoder.unet.num_upsamplers)
        if width % unit or height % unit:
            raise ValueError(
                f"The pictures are {width} x {height} pixels (width x height); this model takes multiples of "
                f"{unit}, such as {max(unit, width // unit * unit)} x {max(unit, height // unit * unit)}."
            )
        check_number("num_frames", num_frames, numbers.Integral, 2)
        check_number("window", window, numbers.Integral, 3)
        together = min(_frames_to_draw(num_frames, window), window)
        parts = self.decoder.unet, self.decoder.control
        most = min(part.config.motion_max_seq_length for part in parts if part is not None)
        if together > most:
            raise ValueError(
                f"{together} frames would go through the U-Net together, and its motion weights know "
                f"{most} positions: give window={most} or less, with any number of frames."
            )
        if refine is None:
            refine = 0 if self.refiner is None else REFINE
        check_number("refine", refine, high=1)
        check_number("refine_steps", refine_steps, numbers.Integral, 1)
        if refine and self.refiner is None:
            raise ValueError(
                "There is no U-Net that could refine the frames: load the pipeline with "
                "from_pretrained(..., refiner=True), or leave refine at 0."
            )
        if refine:
            check_refine(refine, refine_steps, self._levels())

    def _check(self, firsts, lasts, prompts, steps, guidance, eta):
        if not firsts or len(firsts) != len(lasts) or len(prompts) != len(firsts):
            raise ValueError(
                f"There are {len(firsts)} first pictures, {len(lasts)} last ones and {len(prompts)} prompts: "
                "give as many of each."
            )
        found = {image.size for image in firsts + lasts}
        if len(found) > 1:
            raise ValueError(
                "All pictures must have one size; these have "
                + " and ".join(f"{w} x {h}" for w, h in sorted(found))
                + " (width x height). Resize one: image.resize(other.size)."
            )
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"prompt must be a text, or a list of them, not {prompt!r}.")
        check_number("num_inference_steps", steps, numbers.Integral, 1, self._levels())
        check_number("eta", eta, high=1)
        check_number("guidance_scale", guidance, high=9999, means="1 for none")
        return found.pop()

    def _levels(self):
        """Noise levels that the scheduler has: it can take no more steps."""
        return self.scheduler.config.get("num_train_timesteps", math.inf)

    def _pixels(self, images):
        """RGB pictures -> [B, 3, H, W] in -1..1."""
        arrays = np.stack([np.asarray(i, np.float32) for i in images])
        return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1

    def encode_images(self, pixels):
        """Pictures [B, 3, H, W] in -1..1 -> latents [B, 4, h, w]."""
        with precise(self.vae):
            return to_latents(self.vae, pixels)

    def decode(self, latents, batch=16):
        """Latents [F, 4, h, w] -> list of PIL pictures."""
        out = []
        with precise(self.vae):
            for z in latents.split(batch):
                x = to_pixels(self.vae, z)
                if not x.isfinite().all():
                    raise ValueError(
                        f"A frame came out as no numbers (NaN): {self.decoder.dtype} is too coarse for this "
                        "model. Draw in float32 (--dtype float32), or in bfloat16."
                    )
                x = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
                out += [Image.fromarray(a) for a in x]
        return out

    def _tokens(self, ends, frames, predictor):
        """Semantic tokens of all frames [B, F, S, D] between pictures [2B, 3, H, W], or None."""
        predict = predictor or self.predictor
        if self.image_encoder is None or self.decoder.projection is None or predict is None:
            return None
        places = self.decoder.projection.config.num_tokens
        k = semantic_tokens(self.image_encoder, ends.float(), grid=math.isqrt(places))  # [2B, S, D]
        start, end = k.chunk(2)
        return predict(start, end, frames).to(ends.dtype)

    def encode_text(self, prompts):
        """Prompts -> (states [B, T, C], pooled [B, P] or None)."""
        parts = self.text_encoder, self.text_encoder_2, self.tokenizer, self.tokenizer_2
        return PromptEncoder(*parts, device=self._execution_device)(prompts)


def _shown(name, images):
    """Pictures as RGB (`pictures.as_shown`); ValueError or TypeError where one is missing or is none."""
    for image in images:
        if image is None:
            raise ValueError(
                f"{name} is missing: a transition needs two pictures, the one it begins with and the one it "
                "ends with."
            )
        if not isinstance(image, Image.Image):
            raise TypeError(f"{name} must be a PIL picture, not a {type(image).__name__}.")
    return [as_shown(image, name) for image in images]


def _frames_to_draw(num_frames, window):
    """How many frames are drawn for ``num_frames``: fewer than a window are picked from a finer video."""
    fine = math.ceil((window - 1) / (num_frames - 1)) if num_frames > 2 else 1
    return max(1, fine) * (num_frames - 1) + 1


def story_to_video(pipe, images, panels, num_frames=16, hold=4, **settings):
    """A whole story as one video: a transition between each pair of neighbouring panels.

    Parameters
    ----------
    pipe : TransitionPipeline
    images : list of n PIL.Image
        The panels' pictures.
    panels : list of n str or Panel
        Their prompts; a transition is told the prompt of the panel that it leads to, of a Panel in full:
        with the phrase that is carried, and without the trigger word, for which there are no pictures here.
    num_frames : int
        Frames of a transition, with both panels.
    hold : int
        Frames that each panel stands still, at least 1.
    **settings
        As of a call of the pipeline; ``refine`` is `REFINE` by default, where the pipeline has a refiner.

    Returns
    -------
    list of PIL.Image
        ``n * hold + (n - 1) * (num_frames - 2)`` frames.
    """
    images = list(images)
    prompts = [without_trigger(p.full_prompt) if isinstance(p, Panel) else p for p in panels]
    if len(images) < 2:
        raise ValueError(f"A video needs at least two panels; {len(images)} picture was given.")
    if len(images) != len(prompts):
        raise ValueError(
            f"There are {len(images)} pictures and {len(prompts)} prompts: give as many of each."
        )
    check_number("hold", hold, numbers.Integral, 1)
    if getattr(pipe, "refiner", None) is not None:
        settings.setdefault("refine", REFINE)
    transitions = pipe(images[:-1], images[1:], prompts[1:], num_frames=num_frames, **settings)
    frames = [transitions[0].frames[0]] * hold
    for transition in transitions:
        frames += transition.frames[1:-1] + [transition.frames[-1]] * hold
    return frames
