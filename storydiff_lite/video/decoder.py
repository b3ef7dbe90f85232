"""The decoder: a motion U-Net, what its layers read, and how the key frames come into it.

The motion U-Net is the story U-Net with temporal attention (AnimateDiff, 2307.04725). The i-th frame's
cross-attention reads ``concat(T, P_i)``: the text tokens, then the semantic tokens that
``motion.SemanticMotionPredictor`` predicts for it. The key frames, the first and the last one, stand in the
input without noise, and every frame's self-attention reads them.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..attention import project
from ..weights import quiet


def motion_adapter(unet, heads=5, frames=32, in_channels=None, mid_block=False) -> MotionAdapter:
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
    mid_block : bool
        A motion module in the middle block too.
    """
    adapter = MotionAdapter(
        block_out_channels=tuple(unet.config.block_out_channels),
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=frames,
        use_motion_mid_block=mid_block,
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


class KeyFrameAttention:
    """Self-attention in which every frame of a video also reads the first and the last one.

    This is consistent self-attention (2405.01434, Eq. 1-3) at rate 1, from the two frames that are known. The
    paper does not say that its video model has it. Temporal attention reads one place of all frames, and
    where somebody stands in the middle of a video, nobody stands at its ends; here a frame finds him
    wherever he stood.

    Parameters
    ----------
    frames : int
        Of a video; `set_frames` sets it before each pass.
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
        out = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def spatial_self_attention(unet):
    """``(name, layer)`` of a U-Net's self-attention layers, those of its motion modules left out."""
    for name, module in unet.named_modules():
        if name.endswith("attn1") and "motion_modules" not in name:
            yield name, module


def read_key_frames(unet):
    """Let all frames that go through a U-Net together read the first and the last of them."""
    for _, layer in spatial_self_attention(unet):
        layer.set_processor(KeyFrameAttention())


@contextmanager
def reading_key_frames(unet):
    """`read_key_frames` within this block; afterwards the U-Net reads what it read before."""
    before = [(layer, layer.processor) for _, layer in spatial_self_attention(unet)]
    read_key_frames(unet)
    try:
        yield
    finally:
        for layer, processor in before:
            layer.set_processor(processor)


def set_frames(unet, frames):
    """Set how many frames of a video go through the U-Net's `KeyFrameAttention` in the next pass."""
    for _, layer in spatial_self_attention(unet):
        if isinstance(layer.processor, KeyFrameAttention):
            layer.processor.frames = frames


def key_frame_mask(videos, frames, device=None):
    """1 for the first and the last frame of each video, 0 for the others: [B, F]."""
    mask = torch.zeros(videos, frames, device=device)
    mask[:, 0] = mask[:, -1] = 1
    return mask


class Decoder(nn.Module):
    """The motion U-Net and what gives it the key frames: it predicts all frames' velocities at once.

    Parameters
    ----------
    unet : UNetMotionModel
        With 4 input channels, or with 9: noisy latents, mask, key frames' latents.
    projection : TokenProjection, optional
        Of the semantic tokens; without it the frames read the text alone.
    control : SparseControlNetModel, optional
        Reads the key frames and adds to the U-Net's skip connections.
    clean_key_frames : bool
        Key frames stand in the input without noise.
    key_frame_attention : bool
        All frames' self-attention reads the key frames (`KeyFrameAttention`).
    """

    def __init__(self, unet, projection=None, control=None, clean_key_frames=True, key_frame_attention=False):
        super().__init__()
        if projection is not None:
            read_tokens(unet, len(projection.place))
        if key_frame_attention:
            read_key_frames(unet)
        self.unet, self.projection, self.control = unet, projection, control
        self.clean_key_frames = clean_key_frames

    @property
    def key_frame_attention(self):
        """Whether self-attention reads the key frames."""
        return any(isinstance(m.processor, KeyFrameAttention) for _, m in spatial_self_attention(self.unet))

    @property
    def sees_key_frames(self):
        """Whether the key frames come in without noise, one way or another."""
        return self.clean_key_frames or self.control is not None or self.unet.config.in_channels == 9

    @property
    def device(self):
        return self.unet.device

    @property
    def dtype(self):
        return self.unet.dtype

    def forward(self, noisy, t, prompt_embeds, pooled, add_time_ids, known, mask, tokens=None):
        """
        Parameters
        ----------
        noisy : Tensor [B, F, 4, h, w]
        t : Tensor [B]
        prompt_embeds, pooled, add_time_ids : Tensor [B, T, C], [B, P] or None, [B, 6] or None
            Text tokens, and SDXL's pooled text and sizes.
        known : Tensor [B, F, 4, h, w]
            Latents of the key frames; of the others, anything.
        mask : Tensor [B, F]
            1 where a frame is known.
        tokens : Tensor [B, F, S, D], optional
            Semantic tokens of every frame; zeros by default, where there is a projection.

        Returns
        -------
        Tensor [B, F, 4, h, w]
        """
        noisy = noisy.to(self.dtype)  # a loop's latents may be finer than half precision
        frames = noisy.shape[1]
        m = mask[:, :, None, None, None].to(noisy.dtype)  # [B, F, 1, 1, 1]
        plane = m.expand(-1, -1, 1, *noisy.shape[3:])  # [B, F, 1, h, w]
        states = self._states(prompt_embeds, tokens, frames)
        more = {}
        if pooled is not None:
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": add_time_ids}
        if self.control is not None:
            down, mid = self.control(
                noisy.transpose(1, 2),  # only its shape is used
                t,
                encoder_hidden_states=states,
                controlnet_cond=(known * m).transpose(1, 2),
                conditioning_mask=plane.transpose(1, 2),
                return_dict=False,
            )
            more |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        x = torch.where(m > 0, known, noisy) if self.clean_key_frames else noisy
        if self.unet.config.in_channels == 9:
            x = torch.cat([x, plane, known * m], 2)
        set_frames(self.unet, frames)
        v = self.unet(x.transpose(1, 2), t, encoder_hidden_states=states, return_dict=False, **more)[0]
        return v.transpose(1, 2)

    def _states(self, prompt_embeds, tokens, frames):
        """What cross-attention reads in each frame, [B * F, T or T + S, C]."""
        if self.projection is None:
            return per_frame_states(prompt_embeds, num_frames=frames)
        if tokens is None:
            c = self.projection.config
            shape = len(prompt_embeds), frames, c.num_tokens, c.token_dim
            tokens = prompt_embeds.new_zeros(shape, dtype=self.dtype)
        return per_frame_states(prompt_embeds, self.projection(tokens))
