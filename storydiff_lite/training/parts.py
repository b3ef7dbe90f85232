"""The parts of the pipeline, and what is trained beside it: how each is trained, and where it comes from.

`Parts.train` trains one part. What it needs of others comes from their checkpoints, as far as these have
come, or else from the packed weights (`Parts.load`): nothing but the part that was named is trained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionModelWithProjection

from .. import weights
from ..identity import IDEncoder
from ..judge import StoryJudge
from ..prompts import micro_parts
from . import cards, clip, identity, ip_adapter, judge, motion, unet, vae
from .common import Run, progress

#: optimizer steps on a CPU; a GPU does ten times as many in a fraction of the time
STEPS = {"vae": 1600, "clip": 1200, "judge": 1400, "decoder": 2400, "upscale": 1600, "unet": 7200}
#: the same of parts that the pipeline can do without
MORE = {"identity": 2550, "identity_no_lora": 2550, "ip_adapter": 2000, "motion": 3000}
#: parts that make the autoencoder, one after the other
AUTOENCODER = ("vae", "decoder", "upscale")


def checkpoint_name(part) -> str:
    """What the checkpoint of a part is called."""
    return f"vae-{part}" if part in AUTOENCODER[1:] else part.replace("_", "-")


class Part(NamedTuple):
    """A part: its model, the run that trained it here (None: it is the packed one), and what it reached."""

    model: nn.Module
    run: Run | None
    heldout: dict


def packed(part, device="cpu") -> nn.Module:
    """A part as it lies in the repository, in float32."""
    micro = weights.path("micro")
    if part in AUTOENCODER:
        model = AutoencoderKL.from_pretrained(micro / "vae")
    elif part == "unet":
        model = UNet2DConditionModel.from_pretrained(micro / "unet")
    elif part == "clip":
        model = nn.Module()  # the encoders of `clip.Encoders`, without what only their training needs
        texts = micro_parts(given=("tokenizer", "tokenizer_2"))
        model.text_1, model.text_2 = texts["text_encoder"], texts["text_encoder_2"]
        model.vision = CLIPVisionModelWithProjection.from_pretrained(micro / "image_encoder")
    elif part == "identity":
        model = IDEncoder.from_pretrained(weights.path("identity"), local_files_only=True)
    else:
        model = StoryJudge.load().net
    return model.float().to(device).eval()


@dataclass
class Parts:
    """Trains parts, and loads those that have been trained.

    Parameters
    ----------
    folder : str or Path
        Of checkpoints.
    size : int, optional
        Pixels of a picture that the autoencoder draws at the end; as many as now by default.
    """

    folder: str = "checkpoints"
    device: str = "cpu"
    seed: int = 0
    size: int = field(default_factory=weights.picture_size)
    loaded: dict = field(default_factory=dict)
    lora: dict = field(default_factory=dict)  # of the identity encoders that were trained

    def done(self, part):
        """Steps that the checkpoint of a part has done, or None."""
        return progress(self.folder, checkpoint_name(part)).get("done")

    def load(self, part) -> Part:
        """A part: that of its checkpoint, or the packed one."""
        if part not in self.loaded:
            done = self.done(part)
            self.loaded[part] = self.packed(part) if done is None else self.train(part, done)
        return self.loaded[part]

    def train(self, part, steps=None, **more) -> Part:
        """Train a part, or go on with it.

        Parameters
        ----------
        steps : int, optional
            Of the whole run.  By default a run that was interrupted goes on to the number it was given, and
            one that has ended does nothing.
        **more
            Of the training of that part.
        """
        name = more.get("name") or checkpoint_name(part)
        known = progress(self.folder, name)
        more |= {"steps": steps or known.get("total", known.get("done")) or (STEPS | MORE)[part]}
        more |= {"seed": self.seed, "device": self.device, "folder": self.folder}
        self.loaded[part] = Part(*getattr(self, f"_{part}")(**more))
        return self.loaded[part]

    def packed(self, part) -> Part:
        """A part as it lies in the repository, with no run."""
        name = "vae" if part in AUTOENCODER else part
        if not cards.path(name).exists():
            raise SystemExit(
                f"There is neither a checkpoint of {part!r} in {self.folder}/ nor packed weights of it: "
                f"train it first, python -m storydiff_lite.training {part}"
            )
        return Part(packed(part, self.device), None, cards.began(name)["heldout"])

    def autoencoders(self):
        """Those parts of the autoencoder that were trained here, the last one first."""
        larger = self.size > vae.SMALL
        known = (p for p in reversed(AUTOENCODER) if larger or p != "upscale")
        return [p for p in known if self.done(p) is not None]

    def autoencoder(self, before=None) -> Part:
        """What all other parts learn with: the last part of the autoencoder that was trained here, or the
        packed one.  A part of the autoencoder begins with the last one ``before`` it.
        """
        if before:
            earlier = [p for p in AUTOENCODER[: AUTOENCODER.index(before)] if self.done(p) is not None]
            return self.load(earlier[-1] if earlier else "vae")
        found = self.load([*self.autoencoders(), "vae"][0])
        if (own := found.model.config.sample_size) != self.size:
            raise SystemExit(
                f"The autoencoder draws {own} pixels and --size is {self.size}: give --size {own}, or let it "
                "learn to draw larger first, python -m storydiff_lite.training upscale"
            )
        return found

    def prompts(self):
        """Text to embeddings, with the encoders that there are."""
        return clip.prompt_encoder(self.load("clip").model, self.device)

    # ------------------------------------------------------------------------------ how each is trained

    def _vae(self, **more):
        model, run = vae.train(**more)
        found = vae.measure(model)
        model.register_to_config(scaling_factor=1 / found["latent_std"])
        return model, run, found

    def _decoder(self, **more):
        start = self.autoencoder(before="decoder").model
        model, run = vae.train(decoder_only=True, start=start, size=start.config.sample_size, **more)
        return model, run, vae.measure(model)

    def _upscale(self, **more):
        old, run, _ = self.autoencoder(before="upscale")
        if (own := old.config.sample_size) > self.size:
            raise SystemExit(f"The autoencoder draws {own} pixels, more than --size {self.size}.")
        begun = None if run else cards.began("vae")
        model, run = vae.upscale(old, size=self.size, began=begun, **more)
        return model, run, vae.measure(model, old)

    def _clip(self, **more):
        net, run = clip.train(**more)
        return net, run, clip.measure(net)

    def _judge(self, **more):
        net, run = judge.train(**more)
        return net, run, {"renders": judge.measure(net)}

    def _unet(self, again=False, **more):
        known = self.autoencoder().model, self.prompts()
        if again:  # what reads text begins anew where the encoders were trained anew
            state = packed("unet", self.device).state_dict()
            state = state if self.done("clip") is None else unet.without_text(state)
            more |= {"start": state, "began": cards.began("unet")}
        drawn = {k: more.pop(k) for k in ("pictures", "strips") if k in more}
        net, run = unet.train(*known, samples=unet.Samples(**drawn), **more)
        return net, run, {"loss": unet.measure(net, *known)}

    def _identity(self, again=False, part="identity", rank=16, **more):
        known, vision = (self.autoencoder().model, self.prompts()), self.load("clip").model.vision
        net = copy.deepcopy(self.load("unet").model)
        if again:
            lora = weights.path(part) / "lora" / "pytorch_lora_weights.safetensors"
            state = load_file(lora) if lora.exists() else {}
            state = {k.removeprefix("unet."): v for k, v in state.items()}
            more |= {"start": (packed(part, self.device), state), "began": cards.began(part)}
        more = {"name": checkpoint_name(part)} | more
        encoder, run = identity.train(*known, vision, net, rank=rank, **more)
        net.set_attn_processor(AttnProcessor2_0())
        self.lora[part] = identity.lora_state(net)
        return encoder, run, {"loss": identity.measure(encoder, *known, net)}

    def _identity_no_lora(self, **more):
        return self._identity(part="identity_no_lora", rank=0, **more)

    def _ip_adapter(self, again=False, **more):
        known = self.autoencoder().model, self.prompts()
        net, vision = copy.deepcopy(self.load("unet").model), self.load("clip").model.vision
        if again:
            start = load_file(weights.path("ip_adapter") / "ip-adapter.safetensors")
            more |= {"start": start, "began": cards.began("ip_adapter")}
        learner, run = ip_adapter.train(*known, vision, net, **more)
        return learner, run, {"loss": {k: v for k, v in run.log[-1].items() if k in ("true", "taught")}}

    def _motion(self, **more):
        vision = self.load("clip").model.vision
        net, run = motion.train(vision, **more)
        found = motion.measure(net, vision, n=350, device=self.device)
        return net, run, {"error_over_straight_line": found}
