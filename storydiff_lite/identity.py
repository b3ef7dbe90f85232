"""ID fusion: pictures of a person become tokens that stand where the prompt names that person.

    a  man  man  man  walking        class token, once per reference picture (tokens.expand_class_token)
        |    |    |                  + the embedding of each picture, through an MLP
    a  M1   M2   M3   walking        what the U-Net reads instead

The encoder is a CLIP image encoder whose pooled output goes through two projections, one as wide as each of
SDXL's text encoders.  Names and sizes are those of PhotoMaker's published weights.

Source: PhotoMaker (Li et al. 2312.04461, section 3.2, Eq. 1 and 2) and its released ``model.py``.
"""

import re
import warnings
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from .pictures import as_rgb
from .prompts import has_trigger
from .tokens import TriggerWordError


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
            A new tensor, see `FuseModule`.

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


# ------------------------------------------------------------------------------------------ identity prompts


@dataclass
class IdentityPrompt:
    """A prompt whose class token waits for an identity, and its text-only twin.

    Parameters
    ----------
    prompt_embeds : Tensor [1, 77, D]
        States of both text encoders, the class token repeated once per reference picture.
    class_tokens_mask : bool Tensor [1, 77]
        Where it stands.
    pooled : Tensor [1, P]
        Pooled output of the second text encoder.
    text_embeds, text_pooled : Tensor [1, 77, D], [1, P]
        The same of the prompt without its trigger word.
    """

    prompt_embeds: torch.Tensor
    class_tokens_mask: torch.Tensor
    pooled: torch.Tensor
    text_embeds: torch.Tensor
    text_pooled: torch.Tensor

    @classmethod
    def encode(cls, prompts, prompt, num_id_images, trigger_word="img"):
        """Encode a prompt that names a person by a class noun and the trigger word after it.

        Parameters
        ----------
        prompts : prompts.PromptEncoder
        prompt, trigger_word : str
            Such as ``"a man img, reading in the snow"`` and ``"img"``.
        num_id_images : int
            Reference pictures of the person, at least 1.

        Raises
        ------
        TriggerWordError
            No trigger word, more than one, or one that does not follow a noun.

        Notes
        -----
        PhotoMaker (2312.04461), section 3.2; ``encode_prompt_with_trigger_word`` of its pipeline.
        """
        ids, mask = prompts.class_token_ids([prompt], num_id_images, trigger_word)
        states, pooled = prompts.encode(ids)
        text = prompts.encode(prompts.text_only_ids([prompt], trigger_word))
        return cls(states, mask.to(states.device), pooled, *text)


class IdentityReader:
    """Prompts that name somebody, and pictures of that somebody, to `IdentityPrompt`.

    Parameters
    ----------
    encoder : IDEncoder or None
    prompts : prompts.PromptEncoder
        The encoder works where its embeddings go.
    prepare : CLIPImageProcessor, optional
        Pictures to pixels; as CLIP's for the encoder's size by default.
    trigger_word : str
    """

    def __init__(self, encoder, prompts, prepare=None, trigger_word="img"):
        self.encoder, self.prompts, self.prepare = encoder, prompts, prepare
        self.trigger_word = trigger_word

    def pictures(self, images):
        """Reference pictures as a list, or a dict of them, or None; an error for what is no picture."""
        if images is None:
            return None
        if isinstance(images, dict):
            return {name: self.pictures(pictures) for name, pictures in images.items()} or None
        if self.encoder is None:
            raise ValueError(
                "id_images were given, but there is no identity encoder to read them with: call "
                "load_identity() first, or leave id_images out and describe the person in the prompts."
            )
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if not images:
            raise ValueError("id_images is empty: give at least one picture of the person, or leave it out.")
        for image in images:
            if not isinstance(image, Image.Image):
                raise TypeError(f"id_images must be PIL pictures, and one is a {type(image).__name__}.")
        return [as_rgb(image, f"Reference picture {i}") for i, image in enumerate(images, 1)]

    @torch.no_grad()
    def read(self, texts, images):
        """For each text of a story an `IdentityPrompt` with the pictures fused in, or None where it has no
        trigger word; TriggerWordError where none has.
        """
        if images is None:
            return [None] * len(texts)
        embeds, found = self._embed(images), []  # [1, n, 1, D]
        for text in texts:
            prompt = None
            if has_trigger(text, self.trigger_word):
                prompt = IdentityPrompt.encode(self.prompts, text, len(images), self.trigger_word)
                fused = self.encoder.fuse_module(prompt.prompt_embeds, embeds, prompt.class_tokens_mask)
                prompt.prompt_embeds = fused
            found.append(prompt)
        if not any(found):
            raise TriggerWordError(
                f"There are id_images, but no panel names the person: write {self.trigger_word!r} after a "
                f'noun, such as "a man {self.trigger_word} reading in the snow".'
            )
        return found

    def _embed(self, images):
        """Reference pictures -> embeddings [1, n, 1, D]."""
        size = self.encoder.config.image_size
        prepare = self.prepare or CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        pixels = prepare(images, return_tensors="pt").pixel_values[None]  # [1, n, 3, size, size]
        self.encoder.to(self.prompts.device)
        return self.encoder.embed(pixels.to(self.prompts.device, self.encoder.dtype))

    def read_story(self, panels, images, regions=False):
        """`read` of a story's panels; with a dict of pictures (name -> pictures), each panel by the first of
        its characters that has some, and a warning where it is not the only one, unless `read_regions` reads
        the others.
        """
        texts = [panel.prompt for panel in panels]
        if not isinstance(images, dict):
            return self.read(texts, images)
        cast = {name for panel in panels for name in panel.characters}
        for name in images:
            if name not in cast:
                raise ValueError(
                    f"There are pictures of {name!r}, who is in no panel. In the panels are: "
                    f"{', '.join(sorted(cast)) or 'nobody with a name (declare [Name] first)'}."
                )
        found = [None] * len(panels)
        for name, pictures in images.items():
            mine = []
            for j, panel in enumerate(panels):
                pictured = [n for n in panel.characters if n in images]
                if pictured[:1] == [name]:
                    mine.append(j)
                    if len(pictured) > 1:
                        texts[j] = one_trigger(texts[j], self.trigger_word)
                    if len(pictured) > 1 and not regions:
                        warnings.warn(
                            f"Panel {j + 1} shows {' and '.join(pictured)}, who all have pictures. One "
                            f"identity goes into a prompt: {name}'s. The others are drawn by their words. "
                            "With apart='regions' each is drawn by its own pictures.",
                            stacklevel=7,
                        )
            read = self.read([texts[j] for j in mine], pictures) if mine else []
            for j, prompt in zip(mine, read, strict=True):
                found[j] = prompt
        return found

    def read_regions(self, panels, images):
        """What each character of panels of several reads, where one of them has pictures: the prompt with the
        character's own trigger word and pictures, and without any for those who have none.

        Parameters
        ----------
        panels : list of F Panel
        images : dict or whatever else `read_story` takes
            Name -> pictures; without names the characters cannot be told apart, and nothing is read.

        Returns
        -------
        list of (int, int, Tensor [77, D])
            Panel, region (the character's place in ``panel.characters``) and states.

        Raises
        ------
        ValueError
            Not one trigger word for each character with pictures.
        """
        found, images = [], images if isinstance(images, dict) else {}
        texts_of = {name: [] for name in images}  # name -> its panels, regions and texts
        for j, panel in enumerate(panels):
            pictured = [name for name in panel.characters if name in images]
            if len(panel.characters) < 2 or not pictured:
                continue
            if (there := len(_parts(panel.prompt, self.trigger_word)) - 1) != len(pictured):
                raise ValueError(
                    f"Panel {j + 1} holds the trigger word {self.trigger_word!r} {there} times, and "
                    f"{' and '.join(pictured)} have pictures: it must stand once in the description of each, "
                    "and each be named once."
                )
            for r, name in enumerate(panel.characters):
                if name in images:
                    text = one_trigger(panel.prompt, self.trigger_word, pictured.index(name))
                    texts_of[name].append((j, r, text))
                else:
                    text = without_trigger(panel.prompt, self.trigger_word)
                    found.append((j, r, self.prompts([text])[0][0]))
        for name, theirs in texts_of.items():
            read = self.read([text for *_, text in theirs], images[name]) if theirs else []
            found += [(j, r, p.prompt_embeds[0]) for (j, r, _), p in zip(theirs, read, strict=True)]
        return found


def _parts(prompt, trigger_word):
    """A prompt, cut where its trigger word stands."""
    return re.split(rf"\b{re.escape(trigger_word)}\b", prompt)


def without_trigger(prompt, trigger_word="img"):
    """The prompt without its trigger words."""
    return " ".join("".join(_parts(prompt, trigger_word)).split())


def one_trigger(prompt, trigger_word, which=0):
    """The prompt with one of its trigger words alone, the first by default."""
    parts = _parts(prompt, trigger_word)
    if len(parts) < 3:  # it has no more
        return prompt
    before, after = parts[: which + 1], parts[which + 1 :]
    return " ".join(("".join(before) + trigger_word + "".join(after)).split())
