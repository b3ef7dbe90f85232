"""SDXL at its true size: its U-Net and its autoencoder, without their weights.

Times and bytes depend on shapes alone. So a U-Net of the published configuration with random weights costs
what the trained one costs, and on the device ``"meta"``, whose tensors have no numbers, the full size can be
looked at on any machine.
"""

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

#: unet/config.json of SDXL base 1.0 (2307.01952); 2,567,463,684 parameters
UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),  # by an old slip of diffusers: the number of heads
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

#: vae/config.json of the same
VAE = {
    "sample_size": 1024,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}


def random_model(kind, config, device, dtype, seed=0):
    """A model of a configuration with random weights, made on the device where it shall run.

    Parameters
    ----------
    kind : class
        Such as ``UNet2DConditionModel``.
    config : dict
        `UNET`, `VAE`, or a smaller one.
    device : str or torch.device
        ``"meta"``: shapes alone.
    dtype : torch.dtype
    seed : int

    Returns
    -------
    kind
        In evaluation mode, without gradients.  Its numbers mean nothing, but stay finite in half precision.
    """
    with torch.device("meta"):
        model = kind.from_config(config).eval().requires_grad_(False)
        torch.nn.Module.to(model, dtype)  # diffusers' own `to` warns of what holds for no part of SDXL
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    g = torch.Generator(device).manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim > 1:  # [out, in, ...]: half of what keeps the size of what comes in
            p.normal_(0, 0.5 / math.sqrt(p[0].numel()), generator=g)
        else:  # biases are 0, gains of norms are 1
            p.fill_(float(name.endswith("weight")))
    return model


def unet(device="meta", dtype=torch.float16, seed=0):
    """SDXL's U-Net as of `random_model`: 2.6 billion parameters, 5.1 GB in half precision."""
    return random_model(UNet2DConditionModel, UNET, device, dtype, seed)


def vae(device="meta", dtype=torch.float32, seed=0):
    """SDXL's autoencoder as of `random_model`: 84 million parameters."""
    return random_model(AutoencoderKL, VAE, device, dtype, seed)
