"""Semantic motion prediction: what is seen in each frame between two pictures, predicted as tokens.

StoryDiffusion (2405.01434, section 3.2): an image encoder turns the first and the last picture into semantic
tokens Ks and Ke; they are interpolated linearly to K1 ... KL; a transformer predicts P1 ... PL from them, and
a video model reads P_i in the i-th frame.  Neither code nor weights of it were ever released.

What is guessed here, and why:

- *Which tokens.*  The authors said later that they are intermediate CLIP features, 16 of them a frame, not
  which.  Here: the patch tokens of the last layer but one; a token is a region of the picture, of 4 x 4, with
  the features of its four quarters side by side.  (One average a region lost where in it things are.)
- *Heads.*  The paper has 12 heads at width 1024, which do not divide it; 8 is the nearest that does.
- *Who reads whom.*  The paper does not say; here every token of every frame reads all tokens of all frames.
- *Where a token is.*  The paper does not say; here a learned embedding of the place in the picture and a
  sinusoidal one of the time, 0 at the first frame and 1 at the last, so that any number of frames works.
- *What a token is told.*  Besides K_i also Ks and Ke at its place, which K_i mixes; attention could find
  them in the first and the last frame, but learned more slowly so.
- *What is predicted.*  The difference from the straight line.  The last layer starts at zero, so that an
  untrained predictor *is* interpolation; and the first and the last frame are known, so they stay exactly
  what they are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

#: regions of the picture, and so tokens of a frame, along each side: 4 x 4 = 16
GRID = 4
#: which hidden states of the image encoder are taken: those before its last layer
LAYER = -2


def fit_pixels(image_encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures at the size that a CLIP image encoder takes.

    The autoencoder's pictures may be larger: the encoder learnt at a size of its own.

    Parameters
    ----------
    image_encoder : CLIPVisionModel, CLIPVisionModelWithProjection or IDEncoder
    pixels : Tensor [..., 3, H, W]
        Of any range.

    Returns
    -------
    Tensor [..., 3, image_size, image_size]
        ``pixels`` itself where nothing is to do.
    """
    size = image_encoder.config.image_size
    if pixels.shape[-2:] == (size, size):
        return pixels
    flat = F.interpolate(pixels.flatten(0, -4), (size, size), mode="bilinear", antialias=True)
    return flat.unflatten(0, pixels.shape[:-3])


@torch.no_grad()
def semantic_tokens(
    image_encoder, pixels: torch.Tensor, grid: int = GRID, layer: int = LAYER
) -> torch.Tensor:
    """Semantic tokens of pictures: intermediate features of a CLIP image encoder.

    Parameters
    ----------
    image_encoder : CLIPVisionModel or CLIPVisionModelWithProjection
    pixels : Tensor [B, 3, H, W]
        In -1..1, of any size (`fit_pixels`).
    grid : int
        The picture is cut into ``grid`` x ``grid`` regions, a token each.
    layer : int
        Which hidden states: 0 is the patch embedding, -1 the last layer's.

    Returns
    -------
    Tensor [B, grid * grid, 4 * C]
        Row by row from the top left.  C is the encoder's width; the patches' features, averaged over the four
        quarters of a region (top left, top right, bottom left, bottom right), stand side by side.

    Raises
    ------
    ValueError
        Not [B, 3, H, W], or a grid finer than the encoder's patches.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"Pictures must have the shape [B, 3, H, W]; these have {tuple(pixels.shape)}.")
    c = image_encoder.config
    side = c.image_size // c.patch_size
    if not 1 <= grid <= side // 2:
        raise ValueError(f"grid is {grid}; this encoder has {side} x {side} patches: use 1 to {side // 2}.")
    p = next(image_encoder.parameters())
    pixels = fit_pixels(image_encoder, pixels.to(p.device, p.dtype))
    states = image_encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[layer]
    patches = states[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # [B, C, side, side]; no class token
    quarters = F.adaptive_avg_pool2d(patches, 2 * grid).unflatten(3, (grid, 2)).unflatten(2, (grid, 2))
    return quarters.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [B, grid * grid, 4 * C]


def interpolate(start: torch.Tensor, end: torch.Tensor, num_frames: int) -> torch.Tensor:
    """The straight line between two sets of tokens: K1 ... KL.

    Parameters
    ----------
    start, end : Tensor [B, S, D]
    num_frames : int
        At least 2: the first is ``start``, the last ``end``.

    Returns
    -------
    Tensor [B, num_frames, S, D]
    """
    if start.shape != end.shape or start.ndim != 3:
        raise ValueError(
            f"Start and end tokens must both have the shape [B, S, D]; they have {tuple(start.shape)} and "
            f"{tuple(end.shape)}."
        )
    if num_frames < 2:
        raise ValueError(
            f"num_frames is {num_frames}; a motion has at least 2, its first and its last frame."
        )
    t = times(num_frames, start).view(-1, 1, 1)  # [F, 1, 1]
    out = (1 - t) * start[:, None] + t * end[:, None]  # [B, F, S, D]
    out[:, -1] = end
    return out


def times(num_frames: int, like: torch.Tensor) -> torch.Tensor:
    """Times of the frames, 0..1, [num_frames], with the type and on the device of ``like``."""
    return torch.linspace(0, 1, num_frames, device=like.device).to(like.dtype)


class SemanticMotionPredictor(ModelMixin, ConfigMixin):
    """Start and end tokens -> tokens of every frame (2405.01434, section 3.2).

    Parameters
    ----------
    token_dim : int
        Width D of a token.
    num_tokens : int
        Tokens of a frame, S.
    width, layers, heads : int
        Of the transformer.  The paper has 1024, 8 and "12"; 12 does not divide 1024, so the default is 8.

    Raises
    ------
    ValueError
        ``heads`` does not divide ``width``.
    """

    @register_to_config
    def __init__(self, token_dim=1024, num_tokens=16, width=1024, layers=8, heads=8):
        super().__init__()
        if width % heads:
            raise ValueError(
                f"{heads} heads do not divide a width of {width} (the paper's 12 heads and 1024 do not "
                "either): choose a number of heads that does, such as 8."
            )
        self.register_buffer("mean", torch.zeros(token_dim))  # of tokens; training sets both
        self.register_buffer("scale", torch.ones(token_dim))
        self.embed_in = nn.Linear(3 * token_dim, width)
        self.embed_time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.place = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, token_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, start: torch.Tensor, end: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Predict P1 ... PL.

        Parameters
        ----------
        start, end : Tensor [B, S, D]
        num_frames : int
            Any number from 2; P1 is ``start`` and PL is ``end``, exactly.

        Returns
        -------
        Tensor [B, num_frames, S, D]
        """
        c = self.config
        if start.shape[1:] != (c.num_tokens, c.token_dim):
            raise ValueError(
                f"This predictor reads tokens [B, {c.num_tokens}, {c.token_dim}]; it was given "
                f"{tuple(start.shape)}."
            )
        line = interpolate(start, end, num_frames)  # [B, F, S, D]
        t = times(num_frames, start)  # [F]
        inputs = [line, start[:, None].expand_as(line), end[:, None].expand_as(line)]
        inputs = torch.cat([(x - self.mean) / self.scale for x in inputs], -1)  # [B, F, S, 3 D]
        x = self.embed_in(inputs) + self.place + self.embed_time(waves(t, c.width))[:, None]  # [B, F, S, W]
        x = x.flatten(1, 2)  # [B, F * S, W]
        for block in self.blocks:
            x = block(x)
        bend = self.head(self.norm(x)).unflatten(1, (num_frames, c.num_tokens)) * self.scale  # [B, F, S, D]
        return line + (4 * t * (1 - t)).view(-1, 1, 1) * bend  # nothing is added at the ends


def waves(t: torch.Tensor, width: int, fastest: float = 8.0) -> torch.Tensor:
    """Sinusoidal embedding of times in 0..1, [F] -> [F, width]; from half a wave to ``fastest`` of them."""
    n = width // 2
    f = math.pi * torch.exp(torch.linspace(0, math.log(2 * fastest), n, device=t.device)).to(t.dtype)
    return F.pad(torch.cat([torch.sin(t[:, None] * f), torch.cos(t[:, None] * f)], 1), (0, width - 2 * n))


def micro(token_dim=384, num_tokens=GRID * GRID) -> SemanticMotionPredictor:
    """The predictor of this repository's micro model, untrained."""
    return SemanticMotionPredictor(token_dim, num_tokens, width=128, layers=6, heads=4)
