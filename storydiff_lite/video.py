"""From two pictures to a video: what moves between them is told by semantic tokens, frame by frame.

The paper's second half (2405.01434, section 3.2), whose code was never released. A motion U-Net (the story
U-Net with temporal attention, AnimateDiff 2307.04725) draws all frames at once; the i-th frame's
cross-attention reads ``concat(T, P_i)``: the text tokens, then the semantic tokens that
``motion.SemanticMotionPredictor`` predicts for it. The first and the last frame are known: they stand in the
U-Net's input without noise at every step, every frame's self-attention reads them, and they leave the
pipeline as they came in.
"""

from __future__ import annotations

import base64
import copy
import html
import inspect
import json
import math
import numbers
import random
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, MotionAdapter, SparseControlNetModel, UNetMotionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils import logging as diffusers_logging
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from . import weights
from .attention import project
from .figures import data_url
from .guidance import guide
from .motion import SemanticMotionPredictor, semantic_tokens
from .refine import refine as redraw

#: frames that go through the motion U-Net together, the two known ones among them
WINDOW = 16
#: how strongly the frames between two panels of a story are refined: the best on validation passages
REFINE = 0.5


# --------------------------------------------------------------------------------------------- the parts


@contextmanager
def quiet():
    """No bars and no notes of diffusers and transformers while models are made: they would fill notebooks."""
    kinds = diffusers_logging, transformers_logging
    before = [(kind, kind.get_verbosity(), kind.is_progress_bar_enabled()) for kind in kinds]
    for kind in kinds:
        kind.set_verbosity_error()
        kind.disable_progress_bar()
    try:
        yield
    finally:
        for kind, verbosity, bars in before:
            kind.set_verbosity(verbosity)
            if bars:
                kind.enable_progress_bar()


def motion_adapter(unet, heads=5, frames=32, in_channels=None) -> MotionAdapter:
    """Untrained motion modules for a U-Net: temporal attention after every layer of its down and up blocks,
    which begins by doing nothing (its last layer is zero).

    Parameters
    ----------
    unet : UNet2DConditionModel
    heads : int
        Heads of temporal attention.
    frames : int
        The longest sequence of frames.
    in_channels : int, optional
        Input channels of the U-Net, where that shall be more than its own.
    """
    adapter = MotionAdapter(
        block_out_channels=tuple(unet.config.block_out_channels),
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=frames,
        use_motion_mid_block=False,
        conv_in_channels=in_channels,
    )
    for name, p in adapter.named_parameters():
        if "proj_out" in name or name.startswith("conv_in"):
            nn.init.zeros_(p)
    return adapter


def motion_unet(unet, adapter) -> UNetMotionModel:
    """A U-Net with these motion modules in it: [B, C, F, h, w] in and out."""
    with quiet():
        out = UNetMotionModel.from_unet2d(unet, adapter)
    if unet.config.addition_embed_type == "text_time":  # which from_unet2d forgets
        out.add_embedding.load_state_dict(unet.add_embedding.state_dict())
    return out.to(unet.device)


class TokenProjection(ModelMixin, ConfigMixin):
    """Semantic tokens -> tokens that the U-Net's cross-attention can read: [B, F, S, D] -> [B, F, S * Q, C].

    A semantic token holds the features of Q places side by side (``motion.semantic_tokens``: the four
    quarters of a region). Each becomes a token of its own: a normalization, a linear layer, the same for all,
    and an embedding of its place, so that a query can find it.

    Parameters
    ----------
    token_dim : int
        Width D of a semantic token.
    num_tokens : int
        Semantic tokens of a frame, S.
    width : int
        Width C of the text tokens.
    quarters : int
        Places in a semantic token, Q.
    """

    @register_to_config
    def __init__(self, token_dim=384, num_tokens=16, width=96, quarters=4):
        super().__init__()
        self.norm = nn.LayerNorm(token_dim // quarters)
        self.linear = nn.Linear(token_dim // quarters, width)
        self.place = nn.Parameter(0.02 * torch.randn(num_tokens * quarters, width))

    def forward(self, tokens):
        places = tokens.unflatten(-1, (self.config.quarters, -1)).flatten(-3, -2)  # [B, F, S * Q, D / Q]
        return self.linear(self.norm(places)) + self.place


def per_frame_states(text, tokens=None, num_frames=None):
    """What the U-Net's cross-attention reads in each frame: ``concat(T, P_i)``.

    Parameters
    ----------
    text : Tensor [B, T, C]
    tokens : Tensor [B, F, S, C], optional
        Projected semantic tokens of every frame; without them each frame reads the text alone.
    num_frames : int, optional
        F, where there are no tokens.

    Returns
    -------
    Tensor [B * F, T + S, C]

    Notes
    -----
    2405.01434, section 3.2: V = CrossAttention(V, concat(T, P_i), concat(T, P_i)).
    """
    frames = num_frames if tokens is None else tokens.shape[1]
    text = text[:, None].expand(-1, frames, -1, -1)  # [B, F, T, C]
    both = text if tokens is None else torch.cat([text, tokens.to(text.dtype)], 2)  # [B, F, T + S, C]
    return both.flatten(0, 1)


class TokenAttention(nn.Module):
    """Cross-attention to ``concat(T, P_i)`` with a softmax of its own for each of the two.

    The paper has one. In one softmax our tokens were never read: a U-Net that learnt on text alone compares
    its queries with text by logits that lie tens apart, and what is new gets a share of zero, and no gradient
    either. So the tokens have keys and values of their own, and both results are added (IP-Adapter,
    2308.06721). The values begin at zero: an untrained layer reads the text as before.

    Parameters
    ----------
    attn : diffusers Attention
        The layer that this is a processor of.
    num_tokens : int
        How many of the last states are tokens.
    """

    def __init__(self, attn, num_tokens):
        super().__init__()
        self.num_tokens, self.weights, self.keep = num_tokens, None, False
        self.to_k, self.to_v = (copy.deepcopy(layer) for layer in (attn.to_k, attn.to_v))
        nn.init.zeros_(self.to_v.weight)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        """hidden_states [N, L, D], encoder_hidden_states [N, T + S, C] -> [N, L, D]."""
        text = encoder_hidden_states[:, : -self.num_tokens]
        tokens = encoder_hidden_states[:, -self.num_tokens :]

        def heads(x):
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # [N, heads, L, d]

        q = heads(attn.to_q(hidden_states))
        k = heads(self.to_k(tokens))
        out = F.scaled_dot_product_attention(q, heads(attn.to_k(text)), heads(attn.to_v(text)))
        out = out + F.scaled_dot_product_attention(q, k, heads(self.to_v(tokens)))
        if self.keep:  # how much of each token is read, for figures: [N, L, S]
            self.weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def read_tokens(unet, num_tokens):
    """Let every cross-attention layer of a motion U-Net read tokens behind the text (`TokenAttention`)."""
    for name, module in unet.named_modules():
        if name.endswith("attn2") and "motion_modules" not in name:
            module.set_processor(TokenAttention(module, num_tokens).to(unet.device, unet.dtype))


class KnownFrameAttention:
    """Self-attention in which every frame of a video also reads the first and the last one.

    This is consistent self-attention (2405.01434, Eq. 1-3) at rate 1, from the two frames that are known. The
    paper does not say that its video model has it. Temporal attention reads one place of all frames, and
    where somebody stands in the middle of a video, nobody stands at its ends; here a frame can look him up
    wherever he stood.

    Parameters
    ----------
    frames : int
        Of a video; `Decoder` and `refine` set it before each pass.
    """

    def __init__(self, frames=1):
        self.frames = frames

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        """hidden_states [B * F, L, C] -> the same."""
        q, k, v = project(attn, hidden_states)

        def and_ends(x):
            video = x.unflatten(0, (-1, self.frames))  # [B, F, L, C]
            ends = video[:, [0, -1]].flatten(1, 2)[:, None].expand(-1, self.frames, -1, -1)  # [B, F, 2 L, C]
            return torch.cat([video, ends], 2).flatten(0, 1)  # [B * F, 3 L, C]

        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, and_ends(k), and_ends(v)))
        seen = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](seen.transpose(1, 2).flatten(2))


def spatial_self_attention(unet):
    """``(name, layer)`` of a motion U-Net's self-attention layers, those of its motion modules left out."""
    for name, module in unet.named_modules():
        if name.endswith("attn1") and "motion_modules" not in name:
            yield name, module


def read_ends(unet):
    """Let all frames that go through a U-Net together read the first and the last of them."""
    for _, layer in spatial_self_attention(unet):
        layer.set_processor(KnownFrameAttention())


class Decoder(nn.Module):
    """The motion U-Net and what tells it of the known frames: it predicts all frames' velocities at once.

    Parameters
    ----------
    unet : UNetMotionModel
        With 4 input channels, or with 9: noisy latents, mask, known latents.
    projection : TokenProjection, optional
        Of the semantic tokens; without it the frames read the text alone.
    control : SparseControlNetModel, optional
        Reads the known frames and adds to the U-Net's skip connections.
    pin : bool
        Known frames stand in the input without noise.
    look_up : bool
        All frames' self-attention reads the first and the last frame too (`KnownFrameAttention`).
    """

    def __init__(self, unet, projection=None, control=None, pin=True, look_up=False):
        super().__init__()
        if projection is not None:
            read_tokens(unet, len(projection.place))
        self.unet, self.projection, self.control, self.pin = unet, projection, control, pin
        self.look_up = False
        if look_up:
            self.start_looking_up()

    def start_looking_up(self):
        """Let all frames' self-attention read the first and the last frame from now on."""
        self.look_up = True
        for _, layer in spatial_self_attention(self.unet):
            layer.set_processor(KnownFrameAttention())

    @property
    def device(self):
        return self.unet.device

    @property
    def dtype(self):
        return self.unet.dtype

    def forward(self, noisy, t, text, pooled, ids, known, mask, tokens=None):
        """
        Parameters
        ----------
        noisy : Tensor [B, F, 4, h, w]
        t : Tensor [B]
        text, pooled, ids : Tensor [B, T, C], [B, P] or None, [B, 6] or None
            Text tokens, and SDXL's pooled text and sizes.
        known : Tensor [B, F, 4, h, w]
            Latents of the known frames; of the others, anything.
        mask : Tensor [B, F]
            1 where a frame is known.
        tokens : Tensor [B, F, S, D], optional
            Semantic tokens of every frame; zeros by default, where there is a projection.

        Returns
        -------
        Tensor [B, F, 4, h, w]
        """
        frames = noisy.shape[1]
        m = mask[:, :, None, None, None].to(noisy.dtype)
        if self.projection is None:
            states = per_frame_states(text, num_frames=frames)
        else:
            if tokens is None:
                c = self.projection.config
                tokens = noisy.new_zeros(len(noisy), frames, c.num_tokens, c.token_dim)
            states = per_frame_states(text, self.projection(tokens))
        more = {} if pooled is None else {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        if self.control is not None:
            down, mid = self.control(
                noisy.transpose(1, 2),  # only its shape is used
                t,
                encoder_hidden_states=states,
                controlnet_cond=(known * m).transpose(1, 2),
                conditioning_mask=m.expand(-1, -1, 1, *noisy.shape[3:]).transpose(1, 2),
                return_dict=False,
            )
            more |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        x = torch.where(m > 0, known, noisy) if self.pin else noisy
        if self.unet.config.in_channels == 9:
            x = torch.cat([x, m.expand(-1, -1, 1, *x.shape[3:]), known * m], 2)
        if self.look_up:
            for _, layer in spatial_self_attention(self.unet):
                layer.processor.frames = frames
        v = self.unet(x.transpose(1, 2), t, encoder_hidden_states=states, return_dict=False, **more)[0]
        return v.transpose(1, 2)


def sparse_control(unet, heads=5, frames=32) -> SparseControlNetModel:
    """SparseCtrl's encoder of known frames (2311.16933) for a U-Net, its spatial weights copied from it."""
    c = unet.config
    control = SparseControlNetModel(
        in_channels=4,
        conditioning_channels=4,
        flip_sin_to_cos=c.flip_sin_to_cos,
        freq_shift=c.freq_shift,
        down_block_types=("CrossAttnDownBlockMotion",) * len(c.down_block_types),
        block_out_channels=tuple(c.block_out_channels),
        layers_per_block=c.layers_per_block,
        norm_num_groups=c.norm_num_groups,
        cross_attention_dim=c.cross_attention_dim,
        attention_head_dim=tuple(c.attention_head_dim),
        use_linear_projection=c.use_linear_projection,
        motion_num_attention_heads=heads,
        motion_max_seq_length=frames,
    )
    for name in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        getattr(control, name).load_state_dict(getattr(unet, name).state_dict(), strict=False)
    for name, p in control.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            nn.init.zeros_(p)
    return control.to(unet.device)


# --------------------------------------------------------------------------------------------- files

#: of the U-Net, what learnt here besides the motion modules: parts of parameter names
CHANGED = ("attn2.to_q", "attn2.to_out", "attn2.processor", "conv_in")
#: and where frames look the known ones up
LOOKS_UP = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out")


@quiet()
def save_parts(folder, decoder: Decoder, predictor=None):
    """Write what was trained: ``motion_adapter/`` in AnimateDiff's layout, ``unet.safetensors`` with the
    layers of the U-Net that changed, and ``projection/``, ``control/``, ``predictor/`` where there are any;
    in half precision.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unet = copy.deepcopy(decoder.unet).cpu().half()
    wide = unet.config.in_channels != 4
    adapter = MotionAdapter(
        block_out_channels=tuple(unet.config.block_out_channels),
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=unet.config.motion_num_attention_heads,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=unet.config.motion_max_seq_length,
        use_motion_mid_block=unet.config.use_motion_mid_block,
        conv_in_channels=unet.config.in_channels if wide else None,
    ).half()
    state = unet.state_dict()
    wanted = {k: state[k] for k in adapter.state_dict()}
    adapter.load_state_dict(wanted)
    adapter.save_pretrained(folder / "motion_adapter")
    names = CHANGED + LOOKS_UP * decoder.look_up
    changed = {
        k: v.contiguous()
        for k, v in state.items()
        if "motion_modules" not in k and any(name in k for name in names)
    }
    save_file(changed, folder / "unet.safetensors")
    for name, part in (
        ("projection", decoder.projection),
        ("control", decoder.control),
        ("predictor", predictor),
    ):
        if part is not None:
            copy.deepcopy(part).cpu().half().save_pretrained(folder / name)
    for file in folder.glob("*/config.json"):  # where on this machine a part came from is nobody's business
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n")
    settings = {"pin": decoder.pin, "look_up": decoder.look_up}
    (folder / "decoder.json").write_text(json.dumps(settings) + "\n")


@quiet()
def load_parts(folder, unet, lora=None):
    """What `save_parts` wrote, or an AnimateDiff ``MotionAdapter`` folder, put on a U-Net.

    Parameters
    ----------
    folder : str or Path
    unet : UNet2DConditionModel
        It stays as it is.
    lora : str or Path, optional
        Folder of a LoRA to add (`add_lora`).

    Returns
    -------
    Decoder
    predictor : SemanticMotionPredictor or None

    Raises
    ------
    FileNotFoundError
        No motion weights, or no LoRA, in the folder.
    ValueError
        Motion weights, or a LoRA, of another U-Net.
    """
    folder = Path(folder)
    inner = folder / "motion_adapter" if (folder / "motion_adapter").is_dir() else folder
    weights_of = [p for p in inner.glob("*.safetensors") if p.name.startswith("diffusion_pytorch_model")]
    if not (inner / "config.json").exists() or not weights_of:
        raise FileNotFoundError(
            f"There are no motion weights in {folder}: expected was a folder with config.json and "
            "diffusion_pytorch_model*.safetensors of a MotionAdapter (such as AnimateDiff's), or one that "
            "`python -m storydiff_lite.training video` wrote."
        )
    variant = "fp16" if all(".fp16." in p.name for p in weights_of) else None
    adapter = MotionAdapter.from_pretrained(
        inner, local_files_only=True, variant=variant, torch_dtype=unet.dtype
    )
    have, want = tuple(adapter.config.block_out_channels), tuple(unet.config.block_out_channels)
    if have != want:
        raise ValueError(
            f"The motion weights in {folder} were made for a U-Net with the channels {have}; this one has "
            f"{want}. Use an adapter of the same model family."
        )
    kinds = {
        "projection": TokenProjection,
        "control": SparseControlNetModel,
        "predictor": SemanticMotionPredictor,
    }
    parts = {
        name: kind.from_pretrained(folder / name, local_files_only=True, torch_dtype=unet.dtype).to(
            unet.device
        )
        if (folder / name).is_dir()
        else None
        for name, kind in kinds.items()
    }
    settings = folder / "decoder.json"
    settings = json.loads(settings.read_text()) if settings.exists() else {"pin": False}
    moving = motion_unet(unet, adapter)
    decoder = Decoder(moving, parts["projection"], parts["control"], **settings)
    if (folder / "unet.safetensors").exists():
        state = {k: v.to(unet.dtype) for k, v in load_file(folder / "unet.safetensors").items()}
        unknown = moving.load_state_dict(state, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{folder / 'unet.safetensors'} does not belong to this U-Net: {unknown[0]}.")
    if lora is not None:
        add_lora(decoder, parts["predictor"], lora)
    return decoder.eval(), parts["predictor"]


def add_lora(decoder, predictor, folder):
    """Add what a LoRA learnt to the weights of a decoder, and to those of its predictor, for good.

    Parameters
    ----------
    decoder : Decoder
    predictor : SemanticMotionPredictor or None
    folder : str or Path
        With ``unet/`` and ``predictor/``, each as peft saves a LoRA (`training.passages.save`).

    Raises
    ------
    FileNotFoundError
        There is no LoRA in the folder.
    ValueError
        It is one of another decoder.
    """
    for name, part in (("unet", decoder.unet), ("predictor", predictor)):
        if part is None:
            raise ValueError(
                f"The LoRA in {folder} belongs to a decoder with a predictor; this one has none."
            )
        inner = Path(folder) / name
        if not (inner / "adapter_config.json").exists():
            raise FileNotFoundError(
                f"There is no LoRA in {inner}: expected was a folder with adapter_config.json and "
                "adapter_model.safetensors, as `python -m storydiff_lite.training passages` writes it."
            )
        try:
            PeftModel.from_pretrained(part, inner).merge_and_unload()
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"The LoRA in {inner} was made for another {name}: {first}") from None


# --------------------------------------------------------------------------------------------- the loop


def deal(frames, window, rng):
    """Which frames go through the U-Net together in one step: passes of ``window`` frames, the first and the
    last in each, the others dealt like cards from neighbouring ones, so that each pass spans the whole time.

    Parameters
    ----------
    frames, window : int
    rng : random.Random
        Deals anew at every step, so that all frames meet.

    Returns
    -------
    list of list of int
        Frames of each pass, in order; together all of them.
    """
    if frames <= window:
        return [list(range(frames))]
    inside, most = frames - 2, window - 2
    passes = math.ceil(inside / most)
    slots = [1 + s * inside // (passes * most) for s in range(passes * most)]  # each frame at least once
    hands = [[0] for _ in range(passes)]
    for i in range(0, len(slots), passes):
        cards = slots[i : i + passes]
        rng.shuffle(cards)
        for hand, card in zip(hands, cards, strict=True):
            hand.append(card)
    return [[*hand, frames - 1] for hand in hands]


@torch.no_grad()
def sample(
    decoder,
    scheduler,
    known,
    noise,
    told,
    empty,
    ids=None,
    tokens=None,
    steps=12,
    guidance=1.0,
    window=WINDOW,
    seed=0,
    progress=None,
    eta=0.0,
    generators=None,
):
    """Denoise B videos of F frames, whose first and last frames are known.

    Parameters
    ----------
    decoder : Decoder
    scheduler : diffusers scheduler
        A copy of it is used.
    known : Tensor [B, F, 4, h, w]
        Latents; only those of the first and the last frame are used.
    noise : Tensor [B, F, 4, h, w]
    told, empty : (states, pooled)
        Of the prompts, [B, T, C] and [B, P] or None, and of no text, with B = 1.
    ids : Tensor [1, 6], optional
        SDXL's sizes.
    tokens : Tensor [B, F, S, D], optional
        Semantic tokens of every frame.
    steps : int
    guidance : float
        1 or less: none, and one pass instead of two.
    window : int
        Frames that go through the U-Net together (`deal`).
    progress : callable, optional
        Called after each step.
    eta : float
        How much of the noise that a step takes away is drawn anew, 0..1 (DDIM, 2010.02502, Eq. 16), where the
        scheduler knows of it.  What a step got wrong far from the known frames the next ones can mend then.
    generators : list of B torch.Generator, optional
        Of that noise.

    Returns
    -------
    Tensor [B, F, 4, h, w]
        The known frames as they were.
    """
    scheduler, rng = copy.deepcopy(scheduler), random.Random(seed)
    renews = eta > 0 and "variance_noise" in inspect.signature(scheduler.step).parameters
    scheduler.set_timesteps(steps, device=noise.device)
    b, frames = noise.shape[:2]
    halves = 2 if guidance > 1 else 1
    mask = torch.zeros(b * halves, frames, device=noise.device)
    mask[:, 0] = mask[:, -1] = 1
    m = mask[:b, :, None, None, None].to(noise.dtype)

    def both(cond, none):  # the unconditional half first
        return None if cond is None else cond if halves == 1 else torch.cat([none.expand_as(cond), cond])

    states, pooled = (both(c, e) for c, e in zip(told, empty, strict=True))
    every = None if tokens is None else both(tokens, torch.zeros_like(tokens))
    ids = None if ids is None else ids.expand(b * halves, -1)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        if not decoder.pin and decoder.control is None and decoder.unet.config.in_channels == 4:
            # a decoder that never saw clean frames among noisy ones gets the known ones at their noise
            x = torch.where(m > 0, scheduler.add_noise(known, noise, t[None]), x)
        total, count = torch.zeros_like(x), torch.zeros(frames, device=x.device)
        for some in deal(frames, window, rng):
            inputs = scheduler.scale_model_input(x[:, some], t).repeat(halves, 1, 1, 1, 1)
            v = decoder(
                inputs,
                t.expand(b * halves),
                states,
                pooled,
                ids,
                known[:, some].repeat(halves, 1, 1, 1, 1),
                mask[:, some],
                None if every is None else every[:, some],
            ).to(x.dtype)
            v = guide(*v.chunk(2), guidance) if halves == 2 else v
            at = torch.tensor(some, device=x.device)
            total.index_add_(1, at, v)
            count.index_add_(0, at, torch.ones(len(some), device=x.device))
        v = total / count[:, None, None, None]
        new = {}
        if renews:
            drawn = [torch.randn(noise.shape[1:], generator=g) for g in generators or [None] * b]
            new = {"eta": eta, "variance_noise": torch.cat(drawn).to(x.device, x.dtype)}
        x = scheduler.step(v.flatten(0, 1), t, x.flatten(0, 1), return_dict=False, **new)[0].view_as(x)
        if progress:
            progress()
    return torch.where(m > 0, known, x)


# --------------------------------------------------------------------------------------------- the pipeline


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


class TransitionPipeline(DiffusionPipeline):
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
        if refiner is not None:
            read_ends(refiner)
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

    @classmethod
    def from_pretrained(
        cls, name="micro", motion=None, image_encoder=None, dtype=torch.float32, lora=None, refiner=None
    ):
        """Load the micro models, or real ones.

        Parameters
        ----------
        name : str or Path
            ``"micro"``, or a Stable Diffusion model: a folder in diffusers' layout, or a name of the hub.
        motion : str or Path, optional
            Folder of motion weights: an AnimateDiff ``MotionAdapter``, or what the training wrote
            (`save_parts`).  The shipped ones by default, for ``"micro"`` only.
        image_encoder : str or Path, optional
            Folder of a ``CLIPVisionModelWithProjection``; by default the one of the model, where it has one.
            Without a trained projection and predictor in ``motion`` its tokens are not read.
        dtype : torch.dtype
        lora : str or Path, optional
            ``"passages"``, for ``"micro"``: the shipped LoRA that learnt what lies between two panels of a
            story; or a folder (`add_lora`).
        refiner : bool, optional
            Keep the U-Net that draws pictures, which `refine` needs.  By default for ``"micro"`` only: it
            takes as much memory as the one that draws videos, less its motion modules.

        Raises
        ------
        WeightsError
            A file of the shipped weights is missing or changed.
        FileNotFoundError, ValueError
            No motion weights, or those of another model.
        """
        if name == "micro":
            folder, motion = weights.path("micro"), motion or weights.path("video")
        else:
            folder = name
        if motion is None:
            raise FileNotFoundError(
                f"{name} alone draws pictures, not videos: give a folder of motion weights, motion=..., such "
                "as AnimateDiff's adapter for the same model family."
            )
        with quiet():
            base = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
            if image_encoder is not None:
                encoder = CLIPVisionModelWithProjection.from_pretrained(
                    image_encoder, dtype=dtype, local_files_only=True
                )
            else:
                encoder = getattr(base, "image_encoder", None)
            decoder, predictor = load_parts(
                motion, base.unet, weights.path(lora) if lora == "passages" else lora
            )
        return cls(
            base.vae,
            base.text_encoder,
            base.tokenizer,
            decoder,
            base.scheduler,
            encoder,
            predictor,
            getattr(base, "text_encoder_2", None),
            getattr(base, "tokenizer_2", None),
            base.unet if (name == "micro" if refiner is None else refiner) else None,
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
            Of one size.  Lists give several transitions, drawn together.
        prompt : str, or list of str
            What happens.
        num_frames : int
            Frames with both pictures, at least 2.  Fewer than ``window`` are picked from a finer video;
            more are drawn in passes of ``window`` frames (`deal`).
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
            How much noise is drawn anew in each step, 0..1 (`sample`).
        refine : float
            How strongly the U-Net that draws pictures redraws the frames afterwards, 0..1
            (`storydiff_lite.refine`); 0: not at all.
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
        prompts = [prompt] * len(firsts) if isinstance(prompt, str) else list(prompt)
        size = self._check(
            firsts, lasts, prompts, num_frames, num_inference_steps, guidance_scale, window, eta
        )
        self._check_refine(refine, refine_steps)
        device = self._execution_device
        fine = 1
        while fine * (num_frames - 1) + 1 < window and num_frames > 2:
            fine += 1
        frames = fine * (num_frames - 1) + 1
        ends = self._pixels(firsts + lasts).to(device, self.vae.dtype)  # [2B, 3, H, W] in -1..1
        z = self._encode_pictures(ends).unflatten(0, (2, len(firsts)))  # [2, B, 4, h, w]
        known = torch.zeros(len(firsts), frames, *z.shape[2:], device=device, dtype=z.dtype)
        known[:, 0], known[:, -1] = z
        tokens = self._tokens(ends, frames, predictor)
        told = self._encode_text(prompts)
        empty = self._encode_text([""])
        ids = None
        if told[1] is not None:
            ids = torch.tensor([[size[1], size[0], 0, 0, size[1], size[0]]], device=device, dtype=z.dtype)
        generators = [
            torch.Generator().manual_seed(random.Random(f"video/{seed}/{i}").getrandbits(62))
            for i in range(len(firsts))
        ]
        noise = [torch.randn((frames, *z.shape[2:]), generator=g) for g in generators]
        noise = torch.stack(noise).to(device, z.dtype)
        again = refine_steps if refine and num_frames > 2 else 0
        with self.progress_bar(total=num_inference_steps + again) as bar:
            x = sample(
                self.decoder,
                self.scheduler,
                known,
                noise,
                told,
                empty,
                ids,
                tokens,
                num_inference_steps,
                guidance_scale,
                window,
                seed,
                bar.update,
                eta,
                generators,
            )[:, ::fine]
            if again:
                x = redraw(
                    self.refiner, self.scheduler, x, told, ids, refine, again, seed, window, bar.update
                )
        out = []
        for first, last, text, video in zip(firsts, lasts, prompts, x, strict=True):
            between = self._decode(video[1:-1]) if num_frames > 2 else []
            ended = [first.convert("RGB"), *between, last.convert("RGB")]
            out.append(TransitionOutput(ended, text, seed))
        self.maybe_free_model_hooks()
        return out[0] if single else out

    # ------------------------------------------------------------------------------------- its steps

    def _check(self, firsts, lasts, prompts, num_frames, steps, guidance, window, eta):
        for name, images in (("first_image", firsts), ("last_image", lasts)):
            for image in images:
                if image is None:
                    raise ValueError(
                        f"{name} is missing: a transition needs two pictures, the one it begins with and the "
                        "one it ends with."
                    )
                if not isinstance(image, Image.Image):
                    raise TypeError(f"{name} must be a PIL picture, not a {type(image).__name__}.")
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
        (w, h) = found.pop()
        unit = 2 ** (len(self.vae.config.block_out_channels) - 1 + self.decoder.unet.num_upsamplers)
        if w % unit or h % unit:
            raise ValueError(
                f"The pictures are {w} x {h} pixels (width x height); this model takes multiples of {unit}, "
                f"such as {max(unit, w // unit * unit)} x {max(unit, h // unit * unit)}."
            )
        for name, value, least in (
            ("num_frames", num_frames, 2),
            ("num_inference_steps", steps, 1),
            ("window", window, 3),
        ):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"{name} must be a whole number, not {value!r}.")
            if value < least:
                more = ": the first and the last picture are frames too" if name == "num_frames" else ""
                raise ValueError(f"{name} is {value}; it must be at least {least}{more}.")
        if isinstance(eta, bool) or not isinstance(eta, numbers.Real) or not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta!r}; it must be a number from 0 to 1.")
        if isinstance(guidance, bool) or not isinstance(guidance, numbers.Real) or not 0 <= guidance < 1e4:
            raise ValueError(f"guidance_scale is {guidance!r}; it must be a number, 1 for none.")
        return w, h

    def _check_refine(self, refine, steps):
        if isinstance(refine, bool) or not isinstance(refine, numbers.Real) or not 0 <= refine <= 1:
            raise ValueError(f"refine is {refine!r}; it must be a number from 0 (not at all) to 1.")
        if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 1:
            raise ValueError(f"refine_steps is {steps!r}; it must be a whole number, at least 1.")
        if refine and self.refiner is None:
            raise ValueError(
                "There is no U-Net that could refine the frames: load the pipeline with "
                "from_pretrained(..., refiner=True), or leave refine at 0."
            )

    def _pixels(self, images):
        """PIL pictures -> [B, 3, H, W] in -1..1."""
        arrays = np.stack([np.asarray(i.convert("RGB"), np.float32) for i in images])
        return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1

    def _encode_pictures(self, pixels):
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def _decode(self, latents, batch=16):
        """Latents [F, 4, h, w] -> list of PIL pictures."""
        out = []
        for z in latents.split(batch):
            x = self.vae.decode(z / self.vae.config.scaling_factor).sample
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

    def _encode_text(self, prompts):
        """Prompts -> (states [B, T, C], pooled [B, P] or None)."""
        states, pooled = [], None
        for encoder, tokenizer in (
            (self.text_encoder, self.tokenizer),
            (self.text_encoder_2, self.tokenizer_2),
        ):
            if encoder is None:
                continue
            ids = tokenizer(
                prompts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids.to(self._execution_device)
            out = encoder(ids, output_hidden_states=True)
            # SDXL reads the last layer but one of both encoders, SD 1.5 the last one of its only encoder
            states.append(out.hidden_states[-2] if self.text_encoder_2 is not None else out.last_hidden_state)
            if encoder is self.text_encoder_2:
                pooled = out.text_embeds
        return torch.cat(states, -1), pooled


def story_to_video(pipe, images, panels, num_frames=16, hold=4, **settings):
    """A whole story as one video: a transition between each pair of neighbouring panels.

    Parameters
    ----------
    pipe : TransitionPipeline
    images : list of n PIL.Image
        The panels' pictures.
    panels : list of n str or Panel
        Their prompts; a transition is told the prompt of the panel that it leads to.
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
    images, prompts = list(images), [getattr(p, "prompt", p) for p in panels]
    if len(images) < 2:
        raise ValueError(f"A video needs at least two panels; {len(images)} picture was given.")
    if len(images) != len(prompts):
        raise ValueError(
            f"There are {len(images)} pictures and {len(prompts)} prompts: give as many of each."
        )
    if hold < 1:
        raise ValueError(f"hold is {hold}; each panel stands for at least 1 frame.")
    if getattr(pipe, "refiner", None) is not None:
        settings.setdefault("refine", REFINE)
    parts = pipe(images[:-1], images[1:], prompts[1:], num_frames=num_frames, **settings)
    frames = [images[0].convert("RGB")] * hold
    for part in parts:
        frames += part.frames[1:-1] + [part.frames[-1]] * hold
    return frames


# --------------------------------------------------------------------------------------------- video files


def save_video(frames, path, fps=8, height=256, progress=True):
    """Write frames as a GIF or an MP4, whole or not at all.

    Parameters
    ----------
    frames : list of PIL.Image
    path : str or Path
        Ends in .gif or .mp4.
    fps : float
        Frames a second.
    height : int
        Small frames are enlarged, by a whole factor, to at most this height.
    progress : bool
        Show a bar.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        Another ending, no frame, frames of several sizes.
    RuntimeError
        An MP4, and no ffmpeg to write it with.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".gif", ".mp4"):
        raise ValueError(f"A video is written as .gif or .mp4; {path.name!r} ends in neither.")
    frames = list(frames)
    if not frames:
        raise ValueError("There is no frame to write.")
    if len({f.size for f in frames}) > 1:
        raise ValueError("All frames of a video must have one size.")
    if not fps > 0:
        raise ValueError(f"fps is {fps}; it must be more than 0.")
    factor = max(1, height // frames[0].height)
    big = [
        f.convert("RGB").resize((f.width * factor, f.height * factor), Image.Resampling.NEAREST)
        for f in frames
    ]
    bar = tqdm(big, desc=path.name, leave=False, disable=not progress)
    if kind == ".gif":

        def write(to):
            rest = list(bar)[1:]
            big[0].save(to, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    else:
        ffmpeg = _ffmpeg()

        def write(to):
            w, h = big[0].width // 2 * 2, big[0].height // 2 * 2  # the codec wants even sides
            out = ffmpeg.write_frames(
                str(to),
                (w, h),
                fps=fps,
                codec="libx264",
                macro_block_size=2,
                output_params=["-crf", "20", "-movflags", "+faststart"],
            )
            out.send(None)
            for frame in bar:
                out.send(np.ascontiguousarray(np.asarray(frame)[:h, :w]))
            out.close()

    return weights.atomic_save(path, write)


def _ffmpeg():
    """imageio_ffmpeg, with an ffmpeg that can be run; RuntimeError says what to do without."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"An MP4 is written by ffmpeg, and there is none ({error}). Install it with `pip install "
            "imageio-ffmpeg`, or write a .gif."
        ) from error
    return imageio_ffmpeg


def player_html(frames, alt, caption=None, fps=8, height=256, width=None) -> str:
    """HTML of a video with controls that plays without a kernel and without a network.

    Parameters
    ----------
    frames : list of PIL.Image
    alt : str
        What is to be seen, for those who cannot.
    caption : str, optional
    fps, height
        As of `save_video`.
    width : int, optional
        Width on the page in CSS pixels; the video's own by default.

    Raises
    ------
    ValueError
        ``alt`` is empty.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("A video needs words for readers who cannot see it: alt='what happens'.")
    with tempfile.TemporaryDirectory() as folder:
        data = save_video(frames, Path(folder) / "video.mp4", fps, height, progress=False).read_bytes()
    url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    poster, (w, h) = data_url(frames[len(frames) // 2])
    shown, words = width or w, html.escape(alt, quote=True)
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><video controls loop muted playsinline preload="auto" width="{shown}" poster="{poster}" '
        f'aria-label="{words}" src="{url}" style="max-width: 100%; height: auto; aspect-ratio: {w} / {h}; '
        f'border-radius: 6px">{words}</video>{below}</figure>'
    )


def play(frames, alt, caption=None, fps=8, height=256, width=None) -> None:
    """Show a video on the page (`player_html`)."""
    from IPython.display import HTML, display

    display(HTML(player_html(frames, alt, caption, fps, height, width)))
