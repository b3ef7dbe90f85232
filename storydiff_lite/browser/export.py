"""The story models as ONNX graphs, with all that a page must know of them (`meta`)."""

import importlib
import io
import math
import warnings
from contextlib import contextmanager
from functools import partial

import torch

from ..attention import reading_lists
from . import modules
from .storage import store, strip

#: what exporting needs; the package itself does without
PACKAGES = ("onnx", "onnxscript")
OPSET = 18
#: rows of one call: both halves of guidance, panels; tokens that a panel reads
MOST_ROWS, MOST_TOKENS = 64, 8192
#: regions of a panel: of the example, and at most
PARTS, MOST_PARTS = 3, 16
#: a panel's tokens differ from layer to layer: equal example lengths would be taken for one and the same
PANELS = 4


def require(*names):
    """Raise ImportError that says what to install, unless these packages are there."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"The page that draws needs the Python package {name}, which is not there ({error}): "
                f"pip install {name} (it is in requirements.txt)."
            ) from error


def tokens_of_layers(pipe):
    """Tokens of a panel in each layer of ``self_attention_layers(unet, "all")``, in that order."""
    seen, unet = {}, pipe.unet
    layers = modules.self_attention_layers(unet, "all")

    def keep(name, module, inputs):
        seen[name] = inputs[0].shape[1]

    hooks = [
        unet.get_submodule(name.removesuffix(".processor")).register_forward_pre_hook(partial(keep, name))
        for name in layers
    ]
    try:
        x = torch.zeros(1, *latent_shape(pipe))
        width = pipe.text_encoder_2.config.projection_dim
        added = {"text_embeds": torch.zeros(1, width), "time_ids": torch.zeros(1, 6)}
        with torch.no_grad():
            unet(x, 0, torch.zeros(1, 77, unet.config.cross_attention_dim), added_cond_kwargs=added)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[name] for name in layers]


def latent_shape(pipe):
    """(channels, height, width) of a panel's latents."""
    height, width = modules.picture_size(pipe)
    return pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor


def graphs(pipe, kept):
    """The three graphs of a pipeline, one after the other.

    Parameters
    ----------
    pipe : StoryPipeline
        In float32.  Its U-Net has other attention processors meanwhile, and its own again afterwards.
    kept : list of int
        Rows of the token embeddings that remain (`modules.vocabulary`).

    Yields
    ------
    (str, bytes)
        ``"text"``, ``"decoder"``, ``"unet"``: see `modules` for inputs and outputs.  The number of rows is
        free, and so are those of the tokens which a layer reads and of the regions of a panel.
    """
    require(*PACKAGES)
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    shape, b = latent_shape(pipe), 2 * PANELS
    ids = torch.zeros(b, pipe.tokenizer.model_max_length, dtype=torch.int32)
    yield (
        "text",
        _graph(
            modules.Text(pipe, kept),
            {"ids": ids, "ids_2": ids.clone()},  # one tensor for both would be taken for one input
            ["states", "pooled"],
            ({0: rows}, {0: rows}),
        ),
    )
    example = torch.zeros(PANELS, *shape)
    yield "decoder", _graph(modules.Decoder(pipe), {"latents": example}, ["pixels"], ({0: rows},))

    tokens = tokens_of_layers(pipe)
    sizes = sorted(set(tokens))
    before = dict(pipe.unet.attn_processors)
    try:
        unet = modules.UNet(pipe, sizes)
        lists = []
        for i, n in enumerate(tokens):
            every = reading_lists(torch.arange(n // 2).expand(2, PANELS, n // 2), n).flatten(0, 1)
            lists.append(every[:, : n + n // 2 + 3 * i + 1].to(torch.int32).clone())  # each another length
        inputs = {
            "x": torch.zeros(b, *shape),
            "t": torch.tensor([500.0]),
            "states": torch.zeros(b, ids.shape[1], pipe.unet.config.cross_attention_dim),
            "pooled": torch.zeros(b, pipe.text_encoder_2.config.projection_dim),
            "scale": torch.ones(1),
            "said": torch.zeros(b, ids.shape[1]),
            "words": torch.zeros(b, ids.shape[1], PARTS),
            "regions": tuple(torch.zeros(b, n, PARTS) for n in sizes),
            "lists": tuple(lists),
            "answers": tuple(torch.zeros(*x.shape, PARTS) for x in lists),
        }
        number = range(len(tokens))
        names = [name for name in inputs if name not in ("regions", "lists", "answers")]
        names += [f"r{n}" for n in sizes] + [f"i{i}" for i in number] + [f"a{i}" for i in number]
        parts = torch.export.Dim("parts", min=0, max=MOST_PARTS)
        free = [torch.export.Dim(f"reads{i}", min=1, max=MOST_TOKENS) for i in number]
        alone = {"t": {}, "scale": {}, "words": {0: rows, 2: parts}}
        dynamic = {name: alone.get(name, {0: rows}) for name in inputs}
        dynamic["regions"] = tuple({0: rows, 2: parts} for _ in sizes)
        dynamic["lists"] = tuple({0: rows, 1: n} for n in free)
        dynamic["answers"] = tuple({0: rows, 1: n, 2: parts} for n in free)
        outputs = ["v", *(f"q{i}" for i in number), *(f"k{i}" for i in number)]
        outputs += [f"s{i}" for i in range(len(unet.watched))]
        yield "unet", _graph(unet, inputs, outputs, tuple(dynamic.values()), names)
    finally:
        pipe.unet.set_attn_processor(before)


def _graph(module, inputs, outputs, dynamic, names=None):
    """A module as a stripped ONNX graph with its weights stored small, in bytes; ``names`` of the graph's
    inputs, where some of the module's are several.
    """
    import onnx

    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=names or list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dynamic,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    written = io.BytesIO()
    program.save(written)
    model = store(strip(onnx.load_from_string(written.getvalue())))
    onnx.checker.check_model(model)
    return model.SerializeToString()


@contextmanager
def _quiet():
    """No notes of the exporter: it misses torchvision, which stays out on purpose."""
    import logging

    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


#: panels of many colours
PREVIEWED = [
    "a bear walking in the forest",
    "a cat sitting on the beach",
    "a rabbit reading a book in the bedroom",
    "a robot sleeping on the moon",
    "a girl jumping in the city",
    "a boy waving in the snow",
]


def preview(pipe):
    """A linear map from latents to colours, for previews: (w [4, 3], b [3]), colours 0 to 255.

    Fitted to panels that the pipeline draws: each place of the latents against the mean colour of its pixels.
    """
    pipe.set_progress_bar_config(disable=True)
    z = pipe(PREVIEWED, num_inference_steps=8, output_type="latent", generator="portable").images
    with torch.no_grad():
        pixels = pipe.decode(z, "pt") * 255  # [F, 3, H, W]
    colours = torch.nn.functional.avg_pool2d(pixels, pipe.vae_scale_factor).permute(0, 2, 3, 1).reshape(-1, 3)
    known = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    known = torch.cat([known, torch.ones(len(known), 1)], 1)
    found = torch.linalg.lstsq(known, colours.float()).solution  # [5, 3]
    return {"w": found[:-1].tolist(), "b": found[-1].tolist()}


#: of the scheduler's configuration: what a solver in the page must agree with
SAMPLER = (
    "solver_order",
    "solver_type",
    "prediction_type",
    "timestep_spacing",
    "final_sigmas_type",
    "predict_x0",
    "lower_order_final",
    "num_train_timesteps",
    "steps_offset",
    "set_alpha_to_one",
)


def describe(pipe, words, kept, weights):
    """What a page must know of a pipeline: a dict that JSON can hold.

    ``words`` and ``kept`` are of `modules.vocabulary`, ``weights`` is the fingerprint of the weights.
    """
    new = {old: i for i, old in enumerate(kept)}
    layers = []
    for name, n in zip(modules.self_attention_layers(pipe.unet, "all"), tokens_of_layers(pipe), strict=True):
        attn = pipe.unet.get_submodule(name.removesuffix(".processor"))
        side = math.isqrt(n)
        layers.append(
            {
                "name": name.removesuffix(".attn1.processor"),
                "group": name.split("_")[0],
                "tokens": n,
                "heads": attn.heads,
                "side": side,
            }
        )
    config, guided = pipe.scheduler.config, [pipe.config.guidance_start, pipe.config.guidance_stop]
    return {
        "version": 1,
        "words": words,
        "bos": new[pipe.tokenizer.bos_token_id],
        "eos": new[pipe.tokenizer.eos_token_id],
        "pad_1": new[pipe.tokenizer.pad_token_id],
        "pad_2": new[pipe.tokenizer_2.pad_token_id],
        "length": pipe.tokenizer.model_max_length,
        "latent": list(latent_shape(pipe)),
        "picture": modules.picture_size(pipe)[0],
        "scaling": pipe.vae.config.scaling_factor,
        "alphas": pipe.scheduler.alphas_cumprod.tolist(),
        "layers": layers,
        "defaults": {"steps": 8, "guidance": 5.0, "guided": guided, "rate": 0.5},
        "preview": preview(pipe),
        "weights": weights,
        "sampler": {"name": type(pipe.scheduler).__name__, **{k: config[k] for k in SAMPLER if k in config}},
    }
