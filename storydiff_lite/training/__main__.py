"""``python -m storydiff_lite.training PART``: train a part, or put the trained parts together (``pack``).

``video`` and ``passages`` have arguments of their own (``video --help``).

Parts in their order: vae, clip, judge, decoder, unet, identity, identity_no_lora, ip_adapter, motion, pack.
``pack-further`` leaves the packed models of the pipeline and the judge as they are, and packs only what was
trained beside them. ``all`` trains everything from nothing. A run that was interrupted goes on from its last
checkpoint; a finished part is not trained again unless its checkpoint is deleted. A part that is needed but
has no checkpoint comes from the weights of this repository: ``unet`` on a fresh clone trains a U-Net for the
autoencoder and the encoders that are there.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from .. import weights
from ..identity import IDEncoder
from ..judge import JudgeNet
from ..motion import SemanticMotionPredictor
from . import clip, identity, ip_adapter, judge, motion, passages, unet, vae, video
from .common import machine
from .processes import join

#: optimizer steps on a CPU; a GPU does ten times as many in a fraction of the time
STEPS = {"vae": 1600, "clip": 1200, "judge": 1400, "decoder": 2400, "unet": 7200}
#: optimizer batch of the parts whose runs don't say so
BATCH = {"vae": 8, "decoder": 8, "clip": 96, "judge": 64, "unet": 32}
#: parts that the pipeline can do without
MORE = {"identity": 2550, "identity_no_lora": 2550, "ip_adapter": 2000, "motion": 3000}
#: parts whose training several processes can share
SHARED = ("vae", "decoder", "unet")
PARTS = ("vae", "clip", "judge", "decoder", "unet", *MORE, "pack", "pack-further")
DATA = {
    "vae": "7,000 samples of StoryWorld (seeds train/0 ...): pictures of one or two characters, comic strips",
    "decoder": "the same as vae, encoder frozen",
    "clip": "12,000 captioned pictures (seeds train/0 ...)",
    "judge": "16,000 pictures of one character (seeds judge/0 ...), which no other part sees",
    "unet": "16,000 captioned samples (seeds train/0 ...), half of them comic strips of two panels, "
    "and 3,000 pages of four panels",
    "identity": "{albums:,} albums of five pictures of one character (seeds train/0 ...), without the fifth "
    "of all characters that is kept for measurements",
    "identity_no_lora": "the same as identity",
    "ip_adapter": "the same as identity",
    "motion": "{clips:,} clips of {frames} frames (seeds clips/train/0 ...), each also mirrored, without the "
    "fifth of all characters and the quarter of all motions that are kept for measurements",
}


def card(part, run, batch, heldout, seed, files=()):
    """Write the model card of a part: what it was trained on, how long, where, and what it reached."""
    facts = {"batch": batch, "machine": machine(), "albums": 4000} | run.facts
    log = run.log[:: max(1, len(run.log) // 150)]
    text = {
        "part": part,
        "data": DATA[part].format(**facts),
        "steps": run.done,
        "batch": facts["batch"],
        "seed": seed,
        "seconds": round(run.seconds),
        "machine": facts["machine"],
        "torch": torch.__version__.split("+")[0],
        "heldout": heldout,
        "log": log,
        **({"began": run.began} if run.began else {}),
        "sha256": {
            f.name if f.parent == weights.DATA else f.relative_to(weights.DATA).as_posix(): weights.sha256(f)
            for f in files
        },
    }
    weights.atomic_save(
        weights.DATA / "cards" / f"{part}.json", lambda to: to.write_text(json.dumps(text, indent=1))
    )
    print(f"{part}: {run.done} steps in {run.seconds:.0f} s; held out: {heldout}")


def began(part):
    """What the card of a part says of the weights that a further run begins with."""
    text = json.loads((weights.DATA / "cards" / f"{part}.json").read_text())
    kept = ("data", "steps", "batch", "seed", "seconds", "machine", "heldout", "sha256", "began")
    return {k: text[k] for k in kept if k in text}


def rounded(x):
    return {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else round(float(x), 4)


def half(module):
    return {
        k: v.detach().to("cpu", torch.float16).contiguous() if v.is_floating_point() else v
        for k, v in module.state_dict().items()
    }


class Parts:
    """The trained parts, each loaded from (or trained into) its checkpoint when it is asked for.

    ``fresh`` names the parts that are trained where they have no checkpoint; the others then come from the
    packed weights, as ``(model, None, what their card says)``.  ``more`` are further arguments of the
    training of the one fresh part.
    """

    def __init__(
        self, size, device, seed, folder, steps, fresh=tuple(STEPS), again=False, rank=16, more=None
    ):
        self.size, self.device, self.seed, self.folder, self.steps = size, device, seed, folder, steps
        self.fresh, self.again, self.rank = fresh, again, rank
        self.base = {"size": size, "device": device, "seed": seed, "folder": folder}
        self.more, self.got, self.lora = more or {}, {}, {}

    def __getattr__(self, part):
        if part.startswith("_") or part not in STEPS | MORE:
            raise AttributeError(part)
        if part not in self.got:
            trained = part in self.fresh or finished(self.folder, part) is not None
            self.got[part] = getattr(self, f"_{part}")() if trained else self.packed(part)
        return self.got[part]

    def common(self, part):
        """Arguments of the training of a part that it shares with the others."""
        return self.base | (self.more if self.fresh == (part,) else {})

    def packed(self, part):
        """A part as it lies in the repository, with no run."""
        text = weights.DATA / "cards" / f"{part}.json"
        if not text.exists():
            raise SystemExit(
                f"There is neither a checkpoint of {part!r} in {self.folder}/ nor packed weights of it: "
                f"train it first, python -m storydiff_lite.training {part}"
            )
        micro = weights.path("micro")
        if part in ("vae", "decoder"):
            model = AutoencoderKL.from_pretrained(micro / "vae")
        elif part == "unet":
            model = UNet2DConditionModel.from_pretrained(micro / "unet")
        elif part == "clip":
            model = clip.Encoders(self.size)
            model.text_1 = CLIPTextModel.from_pretrained(micro / "text_encoder")
            model.text_2 = CLIPTextModelWithProjection.from_pretrained(micro / "text_encoder_2")
            model.vision = CLIPVisionModelWithProjection.from_pretrained(micro / "image_encoder")
        elif part == "motion":
            model = SemanticMotionPredictor.from_pretrained(weights.path("motion") / "predictor")
        elif part == "identity":
            model = IDEncoder.from_pretrained(weights.path("identity"), local_files_only=True)
        else:
            model = JudgeNet(self.size)
            model.load_state_dict(load_file(weights.path("judge") / "model.safetensors"))
        return model.float().to(self.device).eval(), None, json.loads(text.read_text())["heldout"]

    def _vae(self):
        model, run = vae.train(self.steps["vae"], **self.common("vae"))
        return (
            model,
            run,
            dict(
                zip(
                    ("psnr_db", "latent_mean", "latent_std"),
                    vae.measure(model, self.size, self.device),
                    strict=True,
                )
            ),
        )

    def _decoder(self):
        model, run = vae.train(
            self.steps["decoder"], decoder_only=True, start=self.vae[0], **self.common("decoder")
        )
        return (
            model,
            run,
            dict(
                zip(
                    ("psnr_db", "latent_mean", "latent_std"),
                    vae.measure(model, self.size, self.device),
                    strict=True,
                )
            ),
        )

    def _clip(self):
        net, run, hit = clip.train(self.steps["clip"], **self.common("clip"))
        apart = clip.separations(unet.Prompts(net.text_1, net.text_2, *tokenizers(), device=self.device))
        return (
            net,
            run,
            {
                "finds_its_caption_among_64": dict(zip(("text_encoder", "text_encoder_2"), hit, strict=True)),
                "closest_words_of": {k: {"states": a, "pooled": b} for k, (a, b) in apart.items()},
            },
        )

    def _judge(self):
        net, run, right = judge.train(self.steps["judge"], **self.common("judge"))
        return net, run, {"renders": right}

    def _unet(self):
        model, prompts, scale = self.vae[0], self.prompts(), 1 / self.vae[2]["latent_std"]
        more = {"start": self.packed("unet")[0], "began": began("unet")} if self.again else {}
        net, run = unet.train(model, prompts, scale, self.steps["unet"], **more, **self.common("unet"))
        return net, run, {"loss": unet.measure(net, model, prompts, scale, self.size, self.device)}

    def _identity(self, part="identity", rank=None):
        model, prompts, scale = self.vae[0], self.prompts(), 1 / self.vae[2]["latent_std"]
        net = copy.deepcopy(self.unet[0])
        encoder, run = identity.train(
            model,
            prompts,
            self.clip[0].vision,
            net,
            scale,
            self.steps[part],
            rank=self.rank if rank is None else rank,
            **{"name": CHECKPOINT.get(part, part)} | self.common(part),
        )
        net.set_attn_processor(AttnProcessor2_0())
        self.lora[part] = identity.lora_state(net)
        loss = identity.measure(encoder, model, prompts, net, scale, self.size, self.device)
        return encoder, run, {"loss": loss}

    def _identity_no_lora(self):
        return self._identity("identity_no_lora", rank=0)

    def _ip_adapter(self):
        model, prompts, scale = self.vae[0], self.prompts(), 1 / self.vae[2]["latent_std"]
        net = copy.deepcopy(self.unet[0])
        steps = self.steps["ip_adapter"]
        learner, run = ip_adapter.train(
            model, prompts, self.clip[0].vision, net, scale, steps, **self.common("ip_adapter")
        )
        return learner, run, {"loss": {k: v for k, v in run.log[-1].items() if k in ("true", "taught")}}

    def _motion(self):
        vision = self.clip[0].vision
        net, run = motion.train(vision, self.steps["motion"], **self.common("motion"))
        heldout = {"n": 350, "size": self.size, "device": self.device}
        return net, run, {"error_over_straight_line": motion.measure(net, vision, **heldout)}

    def prompts(self):
        net = self.clip[0]
        return unet.Prompts(net.text_1, net.text_2, *tokenizers(), device=self.device)


def tokenizers():
    return clip.load_tokenizer(), clip.load_tokenizer(pad_token="!")


def forget_paths(folder):
    """Take out of saved configs where on this machine a part was loaded from."""
    for file in Path(folder).rglob("config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n")


def pack(parts: Parts, folder=weights.DATA):
    """Put the parts together in the SDXL folder layout (half precision), with the judge, cards and
    manifest.
    """
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPImageProcessorPil

    from ..tokens import shrink_tokenizer_files

    for part in STEPS:  # all of them first: some may come from the files that are about to be replaced
        getattr(parts, part)
    net, auto = parts.clip[0], parts.decoder[0]
    auto.register_to_config(scaling_factor=1 / parts.vae[2]["latent_std"])
    tokenizer, tokenizer_2 = tokenizers()
    cut = parts.size
    pipe = StableDiffusionXLPipeline(
        vae=auto,
        text_encoder=net.text_1,
        text_encoder_2=net.text_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=parts.unet[0],
        scheduler=unet.noise_schedule(),
        image_encoder=net.vision,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": cut},
            crop_size={"height": cut, "width": cut},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
    )
    pipe = pipe.to("cpu", torch.float16)

    def write(to):
        pipe.save_pretrained(to, safe_serialization=True)
        shrink_tokenizer_files(to)
        forget_paths(to)

    weights.atomic_save(folder / "micro", write)

    def write_judge(to):
        to.mkdir()
        (to / "config.json").write_text(json.dumps({"size": parts.size}))
        save_file(half(parts.judge[0]), to / "model.safetensors")

    weights.atomic_save(folder / "judge", write_judge)
    micro, auto = folder / "micro", auto.float()
    files = {
        "vae": (),
        "decoder": [micro / "vae/diffusion_pytorch_model.safetensors"],
        "unet": [micro / "unet/diffusion_pytorch_model.safetensors"],
        "clip": [
            micro / f"{n}/model.safetensors" for n in ("text_encoder", "text_encoder_2", "image_encoder")
        ],
        "judge": [folder / "judge/model.safetensors"],
    }
    files |= pack_further(parts, folder)
    parts.judge[2]["reconstructions"] = judge.measure(
        parts.judge[0], parts.size, parts.device, vae=auto.to(parts.device)
    )
    write_cards(parts, files)


def pack_further(parts: Parts, folder=weights.DATA):
    """Put the parts that the pipeline can do without among the packed weights: those with a checkpoint.

    Returns
    -------
    dict
        Part -> its weight files.
    """
    from diffusers import StableDiffusionXLPipeline

    files = {}
    for part in ("identity", "identity_no_lora"):
        if finished(parts.folder, part) is None:
            continue
        encoder = getattr(parts, part)[0].cpu().half()
        lora = parts.lora[part]

        def write_identity(to, encoder=encoder, lora=lora):
            encoder.save_pretrained(to)
            if lora:
                layers = {k: v.cpu().half() for k, v in lora.items()}
                StableDiffusionXLPipeline.save_lora_weights(to / "lora", unet_lora_layers=layers)
            forget_paths(to)

        weights.atomic_save(folder / part, write_identity)
        files[part] = sorted((folder / part).rglob("*.safetensors"))
    if finished(parts.folder, "ip_adapter") is not None:
        tensors = {k: v.half().cpu().contiguous() for k, v in parts.ip_adapter[0].state().items()}
        weights.atomic_save(
            folder / "ip_adapter" / "ip-adapter.safetensors", lambda to: save_file(tensors, to)
        )
        files["ip_adapter"] = [folder / "ip_adapter/ip-adapter.safetensors"]
    if finished(parts.folder, "motion") is not None:
        predictor = parts.motion[0].cpu().half()

        def write_motion(to):
            predictor.save_pretrained(to)
            forget_paths(to)

        weights.atomic_save(folder / "motion" / "predictor", write_motion)
        files["motion"] = [folder / "motion/predictor/diffusion_pytorch_model.safetensors"]
    return files


def write_cards(parts: Parts, files):
    """A card for each of these parts that was trained here, and the manifest."""
    for part, some in files.items():
        _, run, heldout = getattr(parts, part)
        if run:
            card(part, run, BATCH.get(part, 24), rounded(heldout), parts.seed, some)
    weights.write_manifest()


def main(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["video"]:  # four variants, with arguments of their own
        return video.main(argv[1:])
    if argv[:1] == ["passages"]:
        return passages.main(argv[1:])
    p = argparse.ArgumentParser(
        prog="python -m storydiff_lite.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("part", choices=(*PARTS, "all"))
    p.add_argument("--steps", type=int, help=f"optimizer steps of this part (default: {STEPS})")
    p.add_argument(
        "--size", type=int, default=64, choices=(64, 128), help="pixels of a picture; 128 wants a GPU"
    )
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    p.add_argument(
        "--again",
        action="store_true",
        help="of unet: begin with the packed weights instead of with nothing; the card tells",
    )
    p.add_argument("--rank", type=int, default=16, help="of identity: rank of the LoRA")
    p.add_argument("--seconds", type=float, help="end the run after so much wall time (GPU: steps are cheap)")
    p.add_argument("--batch", type=int, help="pictures, albums, ... a step")
    p.add_argument("--pictures", type=int, help="samples that are drawn to train on")
    p.add_argument("--name", help="another name for the checkpoint, for trials beside the real part")
    p.add_argument(
        "--no-strips", action="store_true", help="of unet: no picture that holds a character twice"
    )
    p.add_argument("--folder", default="checkpoints", help="where checkpoints and drawn pictures are kept")
    a = p.parse_args(argv)
    if a.steps is not None and a.steps < 1:
        p.error(f"--steps is {a.steps}; it must be at least 1")
    if a.seed < 0:
        p.error(f"--seed is {a.seed}; it must be 0 or more")
    if a.again and a.part != "unet":
        p.error(f"--again begins with the packed U-Net; it says nothing about {a.part}")
    if a.threads:
        torch.set_num_threads(a.threads)
    processes = join(a.device)
    if processes.count > 1:
        if a.part not in SHARED:
            p.error(f"{a.part} is trained by one process; several can share {', '.join(SHARED)}")
        a.device = str(processes.device)
    steps = STEPS | MORE
    for name in steps:  # a part that was trained stays as long as it was trained
        if (done := finished(a.folder, name)) is not None:
            steps[name] = done
    if a.steps:
        steps[a.part] = a.steps
    fresh = tuple(STEPS) if a.part == "all" else (a.part,)
    more = {k: v for k in ("seconds", "batch", "pictures", "name") if (v := getattr(a, k)) is not None}
    if more and a.part not in ("unet", *MORE):
        p.error(f"--{next(iter(more))} is for unet, {', '.join(MORE)}, not for {a.part}")
    if a.no_strips:
        if a.part != "unet" or not a.name:
            p.error("--no-strips is for a trial of unet under another name: add --name unet-no-strips")
        more["strips"] = False
    parts = Parts(a.size, a.device, a.seed, a.folder, steps, fresh, a.again, a.rank, more)
    if a.part in ("pack", "all"):
        pack(parts)
    elif a.part == "pack-further":
        write_cards(parts, pack_further(parts))
    else:
        _, run, heldout = getattr(parts, a.part)
        if processes.rank == 0:
            print(f"{a.part}: {run.done} steps, {run.seconds:.0f} s, held out: {rounded(heldout)}")


def finished(folder, part):
    """Steps that the checkpoint of a part has done, or None."""
    from safetensors import safe_open

    path = Path(folder) / f"{CHECKPOINT.get(part, part)}.safetensors"
    if not path.exists():
        return None
    with safe_open(path, "pt") as f:
        return json.loads(f.metadata()["run"])["done"]


CHECKPOINT = {
    "decoder": "vae-decoder",
    "ip_adapter": "ip-adapter",
    "identity_no_lora": "identity-no-lora",
}

if __name__ == "__main__":
    main()
