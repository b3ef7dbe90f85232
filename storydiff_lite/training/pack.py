"""Trained parts among the shipped weights: in half precision, with cards."""

from __future__ import annotations

import json
import shutil

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil

from .. import int8, known_rows, weights
from ..prompts import KNOWN_ROWS
from ..settings import GUIDED
from . import cards, clip, judge, unet
from .parts import Parts


def put(name, *save):
    """Write a folder of shipped weights, whole or not at all; returns its weight files."""

    def write(to):
        for one in save:
            one(to)
        weights.forget_paths(to)

    return sorted(weights.atomic_save(weights.DATA / name, write).rglob("*.safetensors"))


def put_judge(name, net):
    """A judge's weights in a byte each, and its size in pixels."""

    def save(to):
        to.mkdir()
        (to / "config.json").write_text(json.dumps({"size": net.size}))
        save_file(int8.compact(net.state_dict()), to / "model.safetensors")

    return put(name, save)


def cut_texts(folder):
    """Keep of a saved pipeline's text encoders the known rows of their embeddings, and no tokenizers: they
    are made from CLIP's merges (`prompts.micro_parts`).
    """
    for name in clip.ENCODERS:
        file = folder / name / "model.safetensors"
        save_file(known_rows.compact(load_file(file)), file.with_name(KNOWN_ROWS))
        file.unlink()
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / name)


def pack(parts: Parts):
    """Put the parts together (half precision) as `StoryPipeline` reads ``"micro"``, with the judge, cards and
    manifest.
    """
    # all of them first: some may come from the files that are about to be replaced
    encoders, auto, net, read = (
        part.model
        for part in (parts.load("clip"), parts.autoencoder(), parts.load("unet"), parts.load("judge"))
    )
    files = further(parts)  # before the others are halved, with which these are loaded
    tokenizer, tokenizer_2 = clip.tokenizers()
    cut = encoders.vision.config.image_size  # what it learnt at; the pictures may be larger
    pipe = StableDiffusionXLPipeline(
        vae=auto,
        text_encoder=encoders.text_1,
        text_encoder_2=encoders.text_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=net,
        scheduler=unet.sampler(),
        image_encoder=encoders.vision,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": cut},
            crop_size={"height": cut, "width": cut},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
    ).to("cpu", torch.float16)
    start, stop = GUIDED  # diffusers' pipeline knows nothing of them
    pipe.register_to_config(guidance_start=start, guidance_stop=stop)
    micro = put("micro", pipe.save_pretrained, cut_texts)
    inside = {"vae": ("vae",), "unet": ("unet",), "clip": ("text_encoder", "text_encoder_2", "image_encoder")}
    files |= {part: [f for f in micro if f.parent.name in names] for part, names in inside.items()}
    files["judge"] = put_judge("judge", read)
    auto = auto.float().to(parts.device)
    parts.load("judge").heldout["reconstructions"] = judge.measure(read, vae=auto)
    write_cards(parts, files)


def further(parts: Parts) -> dict:
    """Put the parts that the pipeline can do without among the packed weights: those with a checkpoint.

    Returns
    -------
    dict
        Part -> its weight files.
    """
    files = {}
    for part in ("identity", "identity_no_lora", "ip_adapter"):
        if parts.done(part) is None:
            continue
        model = parts.load(part).model.cpu().half()
        if part == "ip_adapter":
            tensors = {k: v.contiguous() for k, v in model.state().items()}
            target = weights.DATA / part / "ip-adapter.safetensors"
            files[part] = [weights.atomic_save(target, lambda to, tensors=tensors: save_file(tensors, to))]
        else:
            layers = {k: v.cpu().half() for k, v in (parts.lora[part] or {}).items()}

            def save_lora(to, layers=layers):
                if layers:
                    StableDiffusionXLPipeline.save_lora_weights(to / "lora", unet_lora_layers=layers)

            files[part] = put(part, model.save_pretrained, save_lora)
    return files


def pack_further(parts: Parts):
    """Pack what was trained beside the pipeline and the judge, which are left as they are."""
    write_cards(parts, further(parts))


def write_cards(parts: Parts, files):
    """A card for each of these parts that was trained here, and the manifest."""
    for name, of in files.items():
        card = None
        # the card of the last part of the autoencoder names the others
        for part in reversed(parts.autoencoders()) if name == "vae" else (name,):
            _, run, heldout = parts.load(part)
            if run:
                cards.report(part, run, heldout)
                before = {"began": cards.in_short(card)} if card else {}
                card = before | cards.card(part, run, heldout, parts.seed)
        if card:
            cards.write(name, card, of)
    weights.write_manifest(weights.DATA)
