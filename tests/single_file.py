"""A pipeline's weights as one file: under the names of the original SDXL code (tests alone need that way)."""

import re

import torch


def original(pipe):
    """The weights of a pipeline under the names of the original SDXL code, as a single file holds them."""
    state = {}
    top = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    each = pipe.unet.config.layers_per_block
    for name, t in pipe.unet.state_dict().items():
        base, _, end = name.rpartition(".")
        if base in top:
            new = f"{top[base]}.{end}"
        else:
            m = re.match(
                r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)",
                name,
            )
            block, i, kind, j, rest = m[1], int(m[2] or 0), m[3], int(m[4]), m[5]
            if kind == "resnets":
                part, _, e = rest.rpartition(".")
                rest = f"{inner[part]}.{e}"
            if block == "mid_block":
                new = f"middle_block.{1 if kind == 'attentions' else 2 * j}.{rest}"
            elif block == "down_blocks":
                n = 1 + i * (each + 1) + (each if kind == "downsamplers" else j)
                rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
                new = f"input_blocks.{n}.{int(kind == 'attentions')}.{rest}"
            else:
                n = i * (each + 1) + (each if kind == "upsamplers" else j)
                has = "CrossAttn" in pipe.unet.config.up_block_types[i]
                place = {"resnets": 0, "attentions": 1, "upsamplers": 1 + has}[kind]
                new = f"output_blocks.{n}.{place}.{rest}"
        state[f"model.diffusion_model.{new}"] = t
    blocks = len(pipe.vae.config.block_out_channels)
    for name, t in pipe.vae.state_dict().items():
        new = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        for a, b in (
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            new = new.replace(f"mid_block.attentions.0.{a}", f"mid.attn_1.{b}")
        new = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", new
        )
        new = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new
        )
        if "attn_1" in new and t.ndim == 2:
            t = t[:, :, None, None]  # a convolution, there
        state[f"first_stage_model.{new}"] = t
    for name, t in pipe.text_encoder.state_dict().items():
        state["conditioner.embedders.0.transformer.text_model." + name.removeprefix("text_model.")] = t
    two, layers = "conditioner.embedders.1.model.", {}
    for name, t in pipe.text_encoder_2.state_dict().items():
        name = name.removeprefix("text_model.")
        m = re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if name == "text_projection.weight":
            state[two + "text_projection"] = t.T
        elif not m:
            new = (
                name.replace("final_layer_norm", "ln_final")
                .replace("embeddings.token_embedding", "token_embedding")
                .replace("embeddings.position_embedding.weight", "positional_embedding")
            )
            state[two + new] = t
        elif m[2].endswith(("q_proj", "k_proj", "v_proj")):
            layers.setdefault((m[1], m[3]), {})[m[2][-6]] = t
        else:
            part = {
                "self_attn.out_proj": "attn.out_proj",
                "layer_norm1": "ln_1",
                "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc",
                "mlp.fc2": "mlp.c_proj",
            }[m[2]]
            state[f"{two}transformer.resblocks.{m[1]}.{part}.{m[3]}"] = t
    for (i, end), qkv in layers.items():
        state[f"{two}transformer.resblocks.{i}.attn.in_proj_{end}"] = torch.cat([qkv[k] for k in "qkv"])
    return {k: t.detach().clone().contiguous() for k, t in state.items()}
