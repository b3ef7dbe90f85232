"""Other ways to fill in what happens between two pictures, to compare with.

SEINE's idea (2310.20700) needs no code here: a decoder with extra input channels, `motion_adapter` with
``in_channels=9``, trained with frames masked at random (`training.video`).
"""

from __future__ import annotations

from diffusers import SparseControlNetModel
from torch import nn


def blend(first, last, weights):
    """Each frame a mix of the two pictures [B, C, H, W]: of pixels a cross-fade, of latents a straight line.

    ``weights`` [F] say how much of ``last`` is in each frame, 0..1; frames are [B, F, C, H, W].
    """
    w = weights.to(first).view(-1, 1, 1, 1)
    return (1 - w) * first[:, None] + w * last[:, None]


def sparse_control(unet, heads=5, frames=32) -> SparseControlNetModel:
    """SparseCtrl's encoder of key frames (2311.16933) for a U-Net, its spatial weights copied from it."""
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
