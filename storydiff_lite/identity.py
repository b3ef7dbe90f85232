"""ID fusion: pictures of a person become tokens that stand where the prompt names that person.

    a  man  man  man  walking        class token, once per reference picture (tokens.expand_class_token)
        |    |    |                  + the embedding of each picture, through an MLP
    a  M1   M2   M3   walking        what the U-Net reads instead

The encoder is a CLIP image encoder whose pooled output goes through two projections, one as wide as each of
SDXL's text encoders.  Names and sizes are those of PhotoMaker's published weights.

Source: PhotoMaker (Li et al. 2312.04461, section 3.2, Eq. 1 and 2) and its released ``model.py``.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


class MLP(nn.Module):
    """LayerNorm, Linear, exact GELU, Linear, around it a residual where widths allow one: [..., in] ->
    [..., out].
    """

    def __init__(self, in_dim, out_dim, hidden_dim, residual):
        super().__init__()
        self.layernorm = nn.LayerNorm(in_dim)
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)
        self.residual = residual

    def forward(self, x):
        y = self.fc2(F.gelu(self.fc1(self.layernorm(x))))
        return x + y if self.residual else y


class FuseModule(nn.Module):
    """Fuse the k-th reference picture into the k-th class token.

    Parameters
    ----------
    embed_dim : int
        Width D of the prompt's states: 2048 for SDXL (768 + 1280), 96 for the micro model (32 + 64).

    Notes
    -----
    PhotoMaker (2312.04461), section 3.2; ``FuseModule`` in its ``model.py``.  The released one writes into
    the prompt embeddings it was given and stops at a batch of more than one prompt; the numbers are the same.
    """

    def __init__(self, embed_dim):
        super().__init__()
        self.mlp1 = MLP(2 * embed_dim, embed_dim, embed_dim, residual=False)
        self.mlp2 = MLP(embed_dim, embed_dim, embed_dim, residual=True)
        self.layer_norm = nn.LayerNorm(embed_dim)

    def fuse(self, class_tokens, id_embeds):
        """Class tokens [T, D] and one picture's embedding for each [T, D] -> fused tokens [T, D]."""
        x = torch.cat([class_tokens, id_embeds], -1)  # [T, 2D]
        x = self.mlp1(x) + class_tokens  # [T, D]
        return self.layer_norm(self.mlp2(x))  # [T, D]

    def forward(self, prompt_embeds, id_embeds, class_tokens_mask):
        """Replace the class tokens.

        Parameters
        ----------
        prompt_embeds : Tensor [B, S, D]
            States of the text encoders; not changed.
        id_embeds : Tensor [B, n, 1, D]
            Embeddings of each prompt's n reference pictures.
        class_tokens_mask : bool Tensor [B, S]
            Where the class tokens are, at most n in a row; a row without any stays as it is.

        Returns
        -------
        Tensor [B, S, D]

        Raises
        ------
        ValueError
            Shapes that do not belong together, or more class tokens than pictures.
        """
        _check_fuse(prompt_embeds, id_embeds, class_tokens_mask)
        mask = class_tokens_mask.bool()
        row, place = mask.nonzero(as_tuple=True)  # [T] each: every class token of the batch
        picture = (mask.cumsum(1) - 1)[row, place]  # [T]: the k-th token of a row takes the k-th picture
        tokens = prompt_embeds[row, place]  # [T, D]
        fused = self.fuse(tokens, id_embeds[row, picture, 0].to(tokens.dtype))  # [T, D]
        return prompt_embeds.index_put((row, place), fused.to(prompt_embeds.dtype))  # a copy: [B, S, D]


def _check_fuse(prompt_embeds, id_embeds, mask):
    if prompt_embeds.ndim != 3 or tuple(mask.shape) != tuple(prompt_embeds.shape[:2]):
        raise ValueError(
            f"class_tokens_mask {list(mask.shape)} must have one flag for each token of prompt_embeds "
            f"{list(prompt_embeds.shape)}: [B, S] and [B, S, D]."
        )
    wanted = [prompt_embeds.shape[0], "n", 1, prompt_embeds.shape[2]]
    if id_embeds.ndim != 4 or [*id_embeds.shape[:1], "n", *id_embeds.shape[2:]] != wanted:
        raise ValueError(
            f"id_embeds must be {wanted} for these prompts, n pictures for each of them, not "
            f"{list(id_embeds.shape)}."
        )
    most = int(mask.sum(1).max()) if mask.numel() else 0
    if most > id_embeds.shape[1]:
        raise ValueError(
            f"A prompt has {most} class tokens and {id_embeds.shape[1]} reference pictures: expand the "
            "class token once per picture (tokens.expand_class_token)."
        )


#: the image encoder of PhotoMaker: CLIP ViT-L/14, projected to the widths of SDXL's text encoders
PHOTOMAKER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "projection_dim_2": 1280,
}


class IDEncoder(CLIPVisionModelWithProjection):
    """A CLIP image encoder with two projections and a `FuseModule`.

    Parameters
    ----------
    config : CLIPVisionConfig, optional
        ``projection_dim`` and ``projection_dim_2`` are the widths of the two text encoders.  PhotoMaker's
        sizes by default.

    Notes
    -----
    ``PhotoMakerIDEncoder`` of the released code: the same parameter names, so that its ``id_encoder`` state
    dict loads with ``strict=True``.
    """

    def __init__(self, config=None):
        config = CLIPVisionConfig(**PHOTOMAKER) if config is None else config
        second = getattr(config, "projection_dim_2", None)
        if second is None:
            raise ValueError(
                "The config of an IDEncoder needs projection_dim_2, the width of the second text encoder: "
                "CLIPVisionConfig(..., projection_dim=768, projection_dim_2=1280)."
            )
        super().__init__(config)
        self.visual_projection_2 = nn.Linear(config.hidden_size, second, bias=False)
        self.fuse_module = FuseModule(config.projection_dim + second)

    def embed(self, id_pixel_values):
        """Pictures [B, n, 3, H, W], prepared as for CLIP -> embeddings [B, n, 1, D]."""
        batch, n = id_pixel_values.shape[:2]
        pooled = self.vision_model(id_pixel_values.flatten(0, 1)).pooler_output  # [B n, hidden]
        both = self.visual_projection(pooled), self.visual_projection_2(pooled)  # [B n, D1], [B n, D2]
        return torch.cat(both, -1).view(batch, n, 1, -1)

    def forward(self, id_pixel_values, prompt_embeds, class_tokens_mask):
        """Fuse pictures into prompts.

        Parameters
        ----------
        id_pixel_values : Tensor [B, n, 3, H, W]
            Reference pictures, prepared by the image encoder's feature extractor.
        prompt_embeds : Tensor [B, S, D]
            States of both text encoders, concatenated.
        class_tokens_mask : bool Tensor [B, S]

        Returns
        -------
        Tensor [B, S, D]
            A new tensor; `FuseModule` tells more.

        Raises
        ------
        ValueError
            Shapes that do not belong together.
        """
        if id_pixel_values.ndim != 5:
            raise ValueError(
                "id_pixel_values must be [prompts, pictures, 3, height, width], not "
                f"{list(id_pixel_values.shape)}."
            )
        return self.fuse_module(prompt_embeds, self.embed(id_pixel_values), class_tokens_mask)


#: name under which the LoRA of an identity encoder is known to peft
LORA = "identity"


def attach(folder, unet, lora=True):
    """Load an `IDEncoder` for this U-Net, and into the U-Net the LoRA that was trained with it.

    Parameters
    ----------
    folder : str or Path
        What ``IDEncoder.save_pretrained`` wrote; the LoRA lies in its folder ``lora``, as diffusers saves it.
    unet : UNet2DConditionModel
    lora : bool
        ``False`` leaves the U-Net as it is.

    Returns
    -------
    IDEncoder
        In the U-Net's precision and on its device, for inference.

    Raises
    ------
    ValueError
        The encoder's tokens are not as wide as what the U-Net reads.
    """
    encoder = IDEncoder.from_pretrained(folder, local_files_only=True, dtype=unet.dtype)
    encoder = encoder.eval().to(unet.device)
    width, wanted = encoder.fuse_module.layer_norm.normalized_shape[0], unet.config.cross_attention_dim
    if width != wanted:
        raise ValueError(
            f"The identity encoder makes tokens of {width} numbers and this U-Net reads {wanted}: they "
            "belong to different models."
        )
    if LORA in getattr(unet, "peft_config", {}):
        unet.delete_adapters(LORA)
    if lora and (Path(folder) / "lora").is_dir():
        name = "pytorch_lora_weights.safetensors"
        state = load_file(Path(folder) / "lora" / name)
        unet.load_lora_adapter(state, prefix="unet", adapter_name=LORA)
        _switch(unet, False)
    return encoder


def _switch(unet, on):
    """Switch the identity's LoRA, and leave other adapters as they are."""
    others = [name for name in unet.active_adapters() if name != LORA]
    names = others + [LORA] * on
    if names:
        unet.enable_adapters()
        unet.set_adapter(names)
    else:
        unet.disable_adapters()


class use_lora:
    """Switch the identity's LoRA on or off at once; as a context manager, off again at its end.

    A U-Net without such a LoRA is left alone.
    """

    def __init__(self, unet, on):
        self.unet, self.has = unet, LORA in getattr(unet, "peft_config", {})
        if self.has:
            _switch(unet, on)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.has:
            _switch(self.unet, False)
