"""The page that draws, as far as Python makes it: graphs against PyTorch, their storage, the site's files."""

import gzip
import html
import json
import lzma
import random
import re
import subprocess
import sys
from pathlib import Path

import chapters
import numpy as np
import pytest
import torch
from test_portable import pick

from storydiff_lite import weights, world
from storydiff_lite.attention import reading_lists
from storydiff_lite.browser import export, modules, runtime, site, storage
from storydiff_lite.cast import may_read
from storydiff_lite.guidance import guide, guided_steps
from storydiff_lite.int8 import round_weights
from storydiff_lite.neighbours import watched_layers
from storydiff_lite.neighbours.subject import word_share
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.portable import normal
from storydiff_lite.regions import Regions, RegionTexts
from storydiff_lite.schedule import AttentionPlan, self_attention_layers
from storydiff_lite.story import Panel
from storydiff_lite.tell import Recipe, retell
from storydiff_lite.tell.recipe import write_comic

pytestmark = pytest.mark.usefixtures("few_threads")

ROOT = Path(__file__).parents[1]
TOKENS = [256, 64, 64, 64, 256, 256, 64]  # of a panel, in each self-attention layer
STORY = ["a bear walking in the forest", "a bear sitting on the beach", "a bear waving in the snow"]


@pytest.fixture(scope="module")
def pipe():
    """The pipeline that has the page's weights."""
    pipe = StoryPipeline.from_pretrained("micro-int8")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files of the site: exported here, or by the last `make book` from the same weights and code."""
    folder = tmp_path_factory.mktemp("site")
    site.build(folder, ROOT / "_build")
    return folder


def value(script):
    """What a script of texts and numbers hands over: name -> value."""
    found = re.findall(r'^storyMachine\.part\((".*?"), (.*)\);$', script.read_text(encoding="ascii"), re.M)
    return {json.loads(name): json.loads(text) for name, text in found}


@pytest.fixture(scope="module")
def meta(built):
    return value(built / "meta.js")["meta"]


def from_text(text, length):
    """The bytes of `site.to_text`, ``length`` of them."""
    numbers = np.frombuffer(text, "<u2").astype(np.uint32) - site.FIRST
    bits = (numbers[:, None] >> np.arange(14, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()[:length]


def read_bytes_script(script):
    """The bytes that a script of `site.bytes_script` hands over."""
    length, _, rest = script.partition("[".encode("utf-16-le"))[2].partition(',"'.encode("utf-16-le"))
    length = int(length.decode("utf-16-le"))
    return gzip.decompress(from_text(rest[: 2 * -(-length * 8 // 15)], length))


@pytest.fixture(scope="module")
def sessions(built):
    """The graphs as the page has them, run by Python's onnxruntime: name -> function of inputs by name."""
    runner = pytest.importorskip("onnxruntime")
    options = runner.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3

    def session(name):
        graph = read_bytes_script((built / f"{name}.js").read_bytes())
        return runner.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    return {name: session(name) for name in ("text", "unet", "decoder")}


def ask(session, *outputs, **inputs):
    return session.run(list(outputs) or None, inputs)


def ids(meta, text, pad):
    found = [t for w in re.findall(r"\w+|[^\w\s]", text.lower()) for t in meta["words"][w]]
    row = [meta["bos"], *found, meta["eos"]]
    return row + [pad] * (meta["length"] - len(row))


def encoded(sessions, meta, texts):
    """States [B, 77, D] and pooled text [B, P] of the page."""
    rows = {
        name: np.array([ids(meta, text, meta[pad]) for text in texts], np.int32)
        for name, pad in (("ids", "pad_1"), ("ids_2", "pad_2"))
    }
    return ask(sessions["text"], "states", "pooled", **rows)


# ------------------------------------------------------------------------------------------------- words


def test_every_caption_can_be_said(pipe, meta):
    words = set(meta["words"])
    assert words == set(modules.words())
    for who in site.suggestions()["who"]:
        for action in world.ACTIONS.values():
            for scene in world.SCENES.values():
                assert set(f"{who} {action} {scene}".split()) <= words
    rng = random.Random(0)
    kinds = ("single", "twins", "pair", "empty", "strip", "pair strip")
    for i in range(300):
        pictures = world.sample_pictures("train", i, {kinds[i % len(kinds)]: 1})
        text = world.caption(*pictures, rng) if len(pictures) == 1 else world.strip_caption(pictures, rng)
        assert set(re.findall(r"\w+|[^\w\s]", text.lower())) <= words, text


def test_the_model_has_learnt_every_word(pipe, meta):
    """All but the full stop have embeddings that training has touched."""
    _, kept = modules.vocabulary(pipe.tokenizer)
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        rows = modules.Text.inner(encoder).embeddings.token_embedding.weight[kept]
        unknown = {w for w, new in meta["words"].items() if any((rows[i] == 0).all() for i in new)}
        assert unknown == {"."}


def test_small_ids_mean_the_same_tokens(pipe, meta):
    words, kept = modules.vocabulary(pipe.tokenizer)
    assert words == meta["words"] and kept == sorted(kept) and len(kept) < 200
    for text in [*STORY, "a girl with red hair reading a book in the bedroom, wearing blue clothes.", ""]:
        wanted = pipe.tokenizer(text, padding="max_length", verbose=False).input_ids
        assert [kept[i] for i in ids(meta, text, meta["pad_1"])] == wanted
        wanted = pipe.tokenizer_2(text, padding="max_length", verbose=False).input_ids
        assert [kept[i] for i in ids(meta, text, meta["pad_2"])] == wanted


# ------------------------------------------------------------------------------- graphs against PyTorch


@torch.no_grad()
def test_text(pipe, sessions, meta):
    texts = ["", *STORY, "two robots, on the moon."]
    states, pooled = encoded(sessions, meta, texts)
    wanted = pipe.prompts(texts)
    np.testing.assert_allclose(states, wanted[0], atol=2e-5)
    np.testing.assert_allclose(pooled, wanted[1], atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_decoder(pipe, sessions, rows):
    x = torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(rows))
    wanted = pipe.decode(x, "pt") * 255
    (pixels,) = ask(sessions["decoder"], latents=x.numpy())
    assert pixels.shape == (rows, 3, 128, 128)
    np.testing.assert_allclose(pixels, wanted, atol=0.01)


def unet_inputs(pipe, rows, seed=0):
    g = torch.Generator().manual_seed(seed)
    states, pooled = pipe.prompts([*([""] * (rows // 2)), *STORY, *STORY][:rows])
    return {"x": torch.randn(rows, 4, 16, 16, generator=g), "states": states, "pooled": pooled}


def torch_unet(pipe, inputs, t):
    sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(len(inputs["x"]), 6)
    added = {"text_embeds": inputs["pooled"], "time_ids": sizes}
    return pipe.unet(inputs["x"], t, inputs["states"], added_cond_kwargs=added, return_dict=False)[0]


def reading(lists, tokens, readers=None, words=None):
    """Inputs of the page's U-Net that say who reads what.

    Parameters
    ----------
    lists : for each layer, list of R LongTensors, or LongTensor [R, L]
        Which tokens each of R readers reads.
    tokens : list of int
        Of a panel in each layer.
    readers : for each layer, list of R LongTensors, optional
        Which tokens each reader is: regions of panels; whole panels by default.
    words : float array [B, 77, P], optional
        What each word answers to each region.
    """
    found = {}
    for i, (n, index) in enumerate(zip(tokens, lists, strict=True)):
        if readers is None:  # no regions
            found |= {f"i{i}": np.stack([x.numpy() for x in index]), f"a{i}": np.zeros((*index.shape, 0))}
            found |= {f"r{n}": np.zeros((len(index), n, 0)), "words": np.zeros((len(index), 77, 0))}
            continue
        row_of = [int(own[0]) // n for own in readers[i]]
        rows = [[r for r, row in enumerate(row_of) if row == b] for b in range(1 + max(row_of))]
        width = max(len(set().union(*(index[r].tolist() for r in row))) for row in rows)
        parts = max(map(len, rows))
        read, answers = np.zeros((len(rows), width)), np.full((len(rows), width, parts), -10000.0)
        inside = np.zeros((len(rows), n, parts))
        for b, row in enumerate(rows):
            every = sorted(set().union(*(index[r].tolist() for r in row)))
            read[b, : len(every)] = every
            for p, r in enumerate(row):
                inside[b, readers[i][r] % n, p] = 1
                count = np.array([(index[r] == token).sum() for token in every])
                answers[b, : len(every), p][count > 0] = np.log(count[count > 0])
        found |= {f"i{i}": read, f"a{i}": answers}
        if parts > 1 or f"r{n}" not in found:
            found[f"r{n}"] = inside
        found["words"] = np.zeros((len(rows), 77, parts)) if words is None else words
    return {k: x.astype(np.int32 if k[0] == "i" else np.float32) for k, x in found.items()}


def onnx_unet(sessions, inputs, lists, t, *outputs, scale=1.0):
    """``lists``: of all layers, LongTensors [R, L], or inputs as of `reading`."""
    if not isinstance(lists, dict):
        lists = reading(lists, TOKENS)
    fixed = {"t": np.array([t], np.float32), "scale": np.array([scale], np.float32)}
    given = {k: v.numpy() for k, v in inputs.items()}
    given.setdefault("said", np.zeros((len(given["x"]), 77), np.float32))
    return ask(sessions["unet"], *outputs, **given, **fixed, **lists)


def lists_of(plan, layers, meta, chosen, halves):
    """Reading lists of all layers: of the chosen ones what the plan says, of the others own tokens alone."""
    f = len(plan.now.panels)
    own = [torch.arange(halves * f * m["tokens"]).view(halves * f, -1) for m in meta["layers"]]
    return [
        plan.lists(name, m["tokens"], halves) if name in chosen else plain
        for name, m, plain in zip(layers, meta["layers"], own, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("rate, chosen", [(0, "up"), (0.5, "up"), (0.25, "all"), (1, "mid"), (1, "all")])
def test_unet_with_consistent_self_attention(pipe, sessions, meta, rate, chosen):
    layers, inputs = self_attention_layers(pipe.unet, "all"), unet_inputs(pipe, 6)
    assert [m["name"] + ".attn1.processor" for m in meta["layers"]] == layers
    plan = AttentionPlan.among(3, rate, seeds=(7,))
    with plan.installed(pipe.unet, chosen):
        wanted = torch_unet(pipe, inputs, 640)
    lists = lists_of(plan, layers, meta, self_attention_layers(pipe.unet, chosen), 2)
    (v,) = onnx_unet(sessions, inputs, lists, 640, "v")
    np.testing.assert_allclose(v, wanted, atol=1e-4)
    if rate:
        plain = onnx_unet(sessions, inputs, lists_of(plan, layers, meta, [], 2), 640, "v")[0]
        assert np.abs(v - plain).max() > 1e-2  # what was compared matters


@torch.no_grad()
def test_unet_of_one_panel(pipe, sessions, meta):
    layers, inputs = self_attention_layers(pipe.unet, "all"), unet_inputs(pipe, 1)
    lists = lists_of(AttentionPlan.among(1, 0.5), layers, meta, [], 1)
    (v,) = onnx_unet(sessions, inputs, lists, 999, "v")
    np.testing.assert_allclose(v, torch_unet(pipe, inputs, 999), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("isolated", [False, True])
def test_unet_with_regions(pipe, sessions, meta, isolated):
    """Whose tokens are whose, who is read three times, and words that a region does not read."""
    who = [("A",), ("A", "B"), ("B",)]
    story = [Panel(text, characters=names) for text, names in zip(STORY, who, strict=True)]
    plan = AttentionPlan(may_read(story)[None], 0.5, seeds=(7,))
    plan.regions = Regions([story], isolated=isolated)
    layers, inputs = self_attention_layers(pipe.unet, "all"), unet_inputs(pipe, 6)
    keep = torch.rand(2, 77, generator=torch.Generator().manual_seed(1)) < 0.5  # of both regions of panel 1
    texts = [(1, region, 0, inputs["states"][4][keep[region]]) for region in (0, 1)]
    with RegionTexts(plan.regions, texts).installed(pipe.unet, plan), plan.installed(pipe.unet, "all"):
        wanted = torch_unet(pipe, inputs, 640)
    words = np.zeros((6, 77, 2))
    words[4] = np.where(keep.T, 0, -10000.0)
    readers, lists = zip(*(plan.lists(n, t, 2) for n, t in zip(layers, TOKENS, strict=True)), strict=True)
    (v,) = onnx_unet(sessions, inputs, reading(lists, TOKENS, readers, words), 640, "v")
    np.testing.assert_allclose(v, wanted, atol=1e-4)
    everybody = lists_of(AttentionPlan.among(3, 0.5, seeds=(7,)), layers, meta, layers, 2)
    for other in (reading(lists, TOKENS, readers), everybody):  # what was compared matters
        assert np.abs(v - onnx_unet(sessions, inputs, other, 640, "v")[0]).max() > 1e-2


@torch.no_grad()
def test_where_words_land(pipe, sessions, meta):
    """What picks of the subject are found by, as `neighbours.subject` sees it."""
    inputs, found = unet_inputs(pipe, 6), []
    said = torch.rand(6, 77, generator=torch.Generator().manual_seed(2)) < 0.3
    watched, before = watched_layers(pipe.unet), dict(pipe.unet.attn_processors)

    def looking(name):
        def processor(attn, x, encoder_hidden_states=None, *args, **kwargs):
            found.append(word_share(attn, x, encoder_hidden_states, said))
            return before[name](attn, x, encoder_hidden_states, *args, **kwargs)

        return processor

    pipe.unet.set_attn_processor(before | {name: looking(name) for name in watched})
    try:
        torch_unet(pipe, inputs, 640)
    finally:
        pipe.unet.set_attn_processor(before)
    lists = lists_of(AttentionPlan.among(3, 0.5), self_attention_layers(pipe.unet, "all"), meta, [], 2)
    outputs = [f"s{i}" for i in range(len(watched))]
    got = onnx_unet(sessions, inputs | {"said": said.float()}, lists, 640, *outputs)
    for share, want in zip(got, found, strict=True):
        side = int(share.shape[1] ** 0.5)
        on_grid = torch.nn.functional.interpolate(
            torch.from_numpy(share).view(6, 1, side, side), (16, 16), mode="bilinear"
        )
        np.testing.assert_allclose(on_grid.flatten(1), want, atol=1e-5)
        assert want.std() > 0.01


class Broken:
    """Self-attention with its mistakes: every row reads a list of its own, and sqrt(d) may be forgotten."""

    def __init__(self, layers, scaled):
        self.layers, self.scaled, self.seen = layers, scaled, {}

    def on(self, name):
        def processor(attn, x, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
            b, n, c = x.shape
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
            self.seen[name] = q, k
            k, v = (y.reshape(b * n, c)[self.layers[name]].unflatten(2, (attn.heads, -1)) for y in (k, v))
            q = q.unflatten(2, (attn.heads, -1))
            scores = torch.einsum("bnhd,blhd->bhnl", q, k) / (q.shape[-1] ** 0.5 if self.scaled else 1)
            y = torch.einsum("bhnl,blhd->bnhd", scores.softmax(-1), v).flatten(2)
            return attn.to_out[0](y)

        return processor


@torch.no_grad()
@pytest.mark.parametrize("variant", ["scale", "halves", "others", None])
def test_broken_variants_and_what_a_recorder_gets(pipe, sessions, meta, variant):
    layers, inputs = self_attention_layers(pipe.unet, "all"), unet_inputs(pipe, 6)
    lists = []
    for m in meta["layers"]:
        n, k = m["tokens"], m["tokens"] // 2
        picks = torch.stack([torch.arange(j, n, 2)[:k] for j in (0, 1, 0)])[None].repeat(2, 1, 1)  # [2, 3, K]
        read = reading_lists(picks, n).flatten(0, 1)  # [6, n + 2 K]
        if variant == "halves":  # a row reads the other half too
            read = reading_lists(picks.flatten(0, 1), n)
        lists.append(read[:, n:] if variant == "others" else read)
    scaled = variant != "scale"
    broken = Broken(dict(zip(layers, lists, strict=True)), scaled)
    before = dict(pipe.unet.attn_processors)
    pipe.unet.set_attn_processor(before | {name: broken.on(name) for name in layers})
    try:
        wanted = torch_unet(pipe, inputs, 300)
    finally:
        pipe.unet.set_attn_processor(before)
    number = range(len(layers))
    outputs = ["v", *(f"q{i}" for i in number), *(f"k{i}" for i in number)]
    v, *seen = onnx_unet(sessions, inputs, lists, 300, *outputs, scale=float(scaled))
    np.testing.assert_allclose(v, wanted, atol=2e-4)
    for i, name in enumerate(layers):
        for got, want in zip((seen[i], seen[len(layers) + i]), broken.seen[name], strict=True):
            np.testing.assert_allclose(got, want, atol=5e-4)
        assert meta["layers"][i]["heads"] == pipe.unet.get_submodule(name.removesuffix(".processor")).heads


# ------------------------------------------------------------------------------------------- a whole story


def page_story(pipe, sessions, meta, story, seed, steps, rate, layers, guidance=5.0, same_noise=False):
    """What the page's worker does, with Python's onnxruntime: pixels [F, H, W, 3] of 8 bits."""
    f = len(story)
    states, pooled = encoded(sessions, meta, [*([""] * f), *story])
    x = np.stack([normal(seed, 0 if same_noise else p, meta["latent"]) for p in range(f)])
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert type(scheduler).__name__ == meta["sampler"]["name"]
    scheduler.set_timesteps(steps)
    for step, t in enumerate(scheduler.timesteps):
        lists = []
        for i, m in enumerate(meta["layers"]):
            n, k = m["tokens"], round(rate * m["tokens"])
            own = torch.arange(2 * f * n).view(2 * f, n)
            picks = torch.from_numpy(np.stack([pick(seed, p, i, step, n, k) for p in range(f)]))
            shares = m["group"] == layers or layers == "all"
            read = reading_lists(picks[None].repeat(2, 1, 1), n).flatten(0, 1) if shares and k else own
            lists.append(read)
        (v,) = ask(
            sessions["unet"],
            "v",
            x=np.concatenate([x, x]),
            t=np.array([t], np.float32),
            states=states,
            pooled=pooled,
            scale=np.ones(1, np.float32),
            said=np.zeros((2 * f, 77), np.float32),
            **reading(lists, TOKENS),
        )
        scale = guidance if step in guided_steps(steps, *meta["defaults"]["guided"]) else 1.0
        v = guide(torch.from_numpy(v[:f]), torch.from_numpy(v[f:]), scale)
        x = scheduler.step(v, t, torch.from_numpy(x), return_dict=False)[0].numpy()
    (pixels,) = ask(sessions["decoder"], "pixels", latents=x)
    return np.rint(pixels).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    "seed, steps, how", [(0, 8, {}), (3, 4, {"rate": 1, "layers": "all", "same_noise": True})]
)
def test_a_story_of_the_page_is_that_of_python(pipe, sessions, meta, seed, steps, how):
    """The same pixels within 1 of 255, with the page's weights and portable random numbers."""
    how = {"rate": 0.5, "layers": "up"} | how
    drawn = page_story(pipe, sessions, meta, STORY, seed, steps, **how)
    images = pipe(
        STORY,
        seed=seed,
        generator="portable",
        num_inference_steps=steps,
        consistency=how["rate"],
        layers=how["layers"],
        same_noise=how.get("same_noise", False),
    ).images
    wanted = np.stack([np.asarray(image) for image in images])
    difference = np.abs(drawn.astype(int) - wanted)
    assert difference.max() <= 1 and difference.mean() < 0.01
    assert wanted.std() > 20  # pictures, not one colour


def test_rounded_weights_are_near_and_are_their_own_rounding(pipe):
    exact = StoryPipeline.from_pretrained("micro")
    for part in ("unet", "vae"):
        a, b = getattr(exact, part).state_dict(), getattr(pipe, part).state_dict()
        changed = {k for k in a if not torch.equal(a[k], b[k])}
        assert changed and all(b[k].numel() >= 4096 for k in changed)
        for k in changed:
            step = a[k].flatten(1).abs().amax(1) / 127  # of each row: half of it is the largest error
            assert ((a[k] - b[k]).flatten(1).abs().amax(1) <= step * 0.51).all()
    for part in ("text_encoder", "text_encoder_2"):
        a, b = getattr(exact, part).state_dict(), getattr(pipe, part).state_dict()
        assert all(torch.equal(a[k], b[k]) for k in a)
    unet = pipe.unet.state_dict()
    round_weights(again := StoryPipeline.from_pretrained("micro-int8").unet)
    assert all(torch.allclose(v, unet[k], rtol=1e-6, atol=0) for k, v in again.state_dict().items())


# ------------------------------------------------------------------------------------------------ storage


def test_int8_is_found_where_it_is_exact():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(7, 50)).astype(np.float32)
    w[3] = 0
    scale = (np.abs(w).max(1, keepdims=True) / 127).clip(1e-8).astype(np.float32)
    rounded = np.round(w / scale).astype(np.float32) * scale
    for a, axis in ((rounded, 0), (rounded.T, 1)):
        q, s = storage.as_int8(np.ascontiguousarray(a), axis)
        assert q.dtype == np.int8 and s.size == 7
        assert (q.astype(np.float32) * s == a).all()
    assert storage.as_int8(w, 0) is None
    assert storage.as_int8(rounded, 1) is None


def test_storing_loses_nothing():
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(1)
    scale = np.float32(0.013)
    weights_ = {
        "byte": rng.integers(-127, 128, (16, 16)).astype(np.float32) * scale,
        "half": rng.normal(size=(16, 16)).astype(np.float16).astype(np.float32),
        "full": rng.normal(size=(16, 16)).astype(np.float32),
    }
    weights_["byte"][0] = 127 * scale
    nodes = [helper.make_node("MatMul", [a, b], [c]) for a, b, c in zip("xyz", weights_, "yzo", strict=True)]
    shape = lambda n: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4, 16])  # noqa: E731
    graph = helper.make_graph(
        nodes, "g", [shape("x")], [shape("o")], [numpy_helper.from_array(w, n) for n, w in weights_.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    kept = storage.store(storage.strip(model))
    onnx.checker.check_model(kept)
    kinds = sorted(numpy_helper.to_array(t).dtype.name for t in kept.graph.initializer)
    assert kinds == ["float16", "float32", "float32", "int8"]  # the byte's scales are float32
    x = rng.normal(size=(4, 16)).astype(np.float32)
    from onnx.reference import ReferenceEvaluator

    (got,) = ReferenceEvaluator(kept).run(None, {"x": x})
    want = x @ weights_["byte"] @ weights_["half"] @ weights_["full"]
    np.testing.assert_array_equal(got, want)


def test_most_weights_take_a_byte(built, pipe):
    """And every one of them is in the graph to the last bit."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(read_bytes_script((built / "unet.js").read_bytes())).graph
    found = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    numbers = {kind: sum(a.size for a in found.values() if a.dtype == kind) for kind in ("int8", "float32")}
    every = sum(p.numel() for p in pipe.unet.parameters())
    assert numbers["int8"] > 0.98 * every and numbers["float32"] < 0.02 * every
    kept = {
        np.sort((a.astype(np.float32) * found[n.removesuffix("_q") + "_s"]).ravel()).tobytes()
        for n, a in found.items()
        if a.dtype == np.int8
    }
    large = [p for p in pipe.unet.parameters() if p.ndim > 1 and p.numel() >= 4096]
    assert all(np.sort(p.detach().numpy().ravel()).tobytes() in kept for p in large)


# --------------------------------------------------------------------------------------- the site's files


def test_bytes_as_text():
    data = np.random.default_rng(0).bytes(10_001)
    for part in (data, b"", b"\xff" * 30, data[:1]):
        text = site.to_text(part)
        codes = np.frombuffer(text, "<u2")
        assert len(codes) == -(-len(part) * 8 // 15) and (codes < 0xD800).all() and (codes >= 0x100).all()
        assert from_text(text, len(part)) == part
        assert read_bytes_script(site.bytes_script("x", part)) == part
    assert site.bytes_script("x", data)[:2] == b"\xff\xfe"


def test_every_file_of_the_page_is_in_a_script():
    for folder, names in site.SCRIPTS.items():
        assert sorted(f.name for f in (site.PAGE / folder).iterdir()) == sorted(f"{n}.js" for n in names)
    made = site.page_scripts()
    assert made["machine.js"].count(b'"use strict"') == 2  # the engine's, and the reader's


def test_scripts_of_texts_are_plain_letters():
    script = site.value_script(a='\u00e9\u2028</script>\n"', b=[1, 2.5])
    assert script.isascii() and script.count(b"\n") == 2
    assert script.startswith(b'storyMachine.part("a", "')


def test_sizes(built, meta):
    files = {f.name: f.stat().st_size for f in built.iterdir()}
    assert sorted(files) == sorted(
        ["decoder.js", "machine.css", "machine.js", "meta.js", "ort.js", "text.js", "unet.js", "wasm.js"]
        + ["worker-code.js"]
    )
    assert sum(files.values()) < 15e6
    assert meta["bytes"] == {n: files[f"{n}.js"] for n in ("decoder", "ort", "text", "unet", "wasm")}


def test_meta(pipe, meta):
    assert meta["version"] == 1 and meta["weights"] == site.weights_print() and len(meta["weights"]) == 16
    assert meta["latent"] == [4, 16, 16] and meta["picture"] == weights.picture_size() == 128
    np.testing.assert_array_equal(np.float32(meta["alphas"]), pipe.scheduler.alphas_cumprod)
    assert meta["scaling"] == pipe.vae.config.scaling_factor
    assert [m["tokens"] for m in meta["layers"]] == TOKENS
    assert all(m["side"] ** 2 == m["tokens"] for m in meta["layers"])
    assert {m["group"] for m in meta["layers"]} == {"down", "mid", "up"}
    names = [m["name"] for m in meta["layers"]]
    assert self_attention_layers(pipe.unet, names) == self_attention_layers(pipe.unet, "all")


@torch.no_grad()
def test_previews_have_the_colours_of_the_picture(pipe, meta):
    """On a story that the map was not fitted to."""
    z = pipe(STORY, num_inference_steps=8, output_type="latent", seed=5).images
    pixels = pipe.decode(z, "pt") * 255
    small = torch.nn.functional.avg_pool2d(pixels, 8).permute(0, 2, 3, 1)
    w, b = (torch.tensor(meta["preview"][k]) for k in "wb")
    rough = z.permute(0, 2, 3, 1) @ w + b
    plain = (small - small.mean((0, 1, 2))).abs().mean()
    assert (rough - small).abs().mean() < 0.5 * plain


def test_what_was_exported_is_kept(monkeypatch, tmp_path):
    exported = []

    def fake(folder, say):
        exported.append(folder.name)
        folder.mkdir(parents=True)
        (folder / "unet.js").write_bytes(b"graph")

    monkeypatch.setattr(site, "export", fake)
    first = site.build(tmp_path / "a", tmp_path / "cache")
    assert first["unet.js"] == 5 and (tmp_path / "a" / "unet.js").read_bytes() == b"graph"
    site.build(tmp_path / "b", tmp_path / "cache")
    assert exported == [site.cache_name()]
    monkeypatch.setattr(site, "weights_print", lambda: "other weights")
    site.build(tmp_path / "a", tmp_path / "cache")
    assert len(exported) == 2 and exported[1] == site.cache_name() != exported[0]
    assert [f.name for f in (tmp_path / "cache").iterdir()] == exported[1:]  # the older one is gone


def test_an_export_that_fails_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(StoryPipeline, "from_pretrained", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.export(tmp_path / "cache" / "x")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="Python package onnxscript.*pip install onnxscript"):
        export.require(*export.PACKAGES)


def test_nothing_of_onnx_is_imported_before_it_is_needed():
    code = (
        "import sys; from storydiff_lite.browser import export, modules, runtime, site, storage;"
        "print([m for m in ('onnx', 'onnxscript', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------- the runtime


def test_the_runtime_is_what_was_released():
    files = runtime.about()["files"]
    assert {f.name for f in runtime.VENDOR.glob("*.xz")} == {f"{name}.xz" for name in files}
    found = runtime.scripts()  # each file's SHA-256 is compared
    assert found["wasm"][:4] == b"\0asm" and f"v{runtime.about()['version']}" in found["ort"]
    assert "MIT License" in (runtime.VENDOR / "LICENSE").read_text()
    assert runtime.about()["version"] in (runtime.VENDOR / "README.md").read_text()
    assert sum(f.stat().st_size for f in runtime.VENDOR.iterdir()) < 3.5e6


@pytest.mark.parametrize(
    "spoil", [lambda b: None, lambda b: b[: len(b) // 2], lambda b: lzma.compress(b"other"), lambda b: b"x"]
)
def test_a_spoilt_runtime_is_told(monkeypatch, tmp_path, spoil):
    for file in runtime.VENDOR.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "ort.wasm.min.js.xz"
    spoilt = spoil(file.read_bytes())
    file.write_bytes(spoilt) if spoilt is not None else file.unlink()
    monkeypatch.setattr(runtime, "VENDOR", tmp_path)
    with pytest.raises(runtime.RuntimeFileError, match="ort.wasm.min.js.xz.*git checkout"):
        runtime.unpacked("ort.wasm.min.js")


# ------------------------------------------------------------------------------- directive, recipe, editions


@pytest.fixture
def extension():
    return chapters.extension("story_machine")


@pytest.fixture
def pages(monkeypatch, tmp_path):
    """A small Sphinx project of these pages, built; the export is a dummy."""
    sphinx = pytest.importorskip("sphinx.application")

    def build(warn=None, **texts):
        def fake(folder, cache, say):
            folder.mkdir(parents=True)
            names = ("machine.js", "machine.css", "unet.js")
            for name in names:
                (folder / name).write_text(f"/* {name} */")
            return dict.fromkeys(names, 100)

        monkeypatch.setattr(site, "build", fake)
        monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
        (tmp_path / "conf.py").write_text('extensions = ["myst_parser", "story_machine"]')
        for name, text in texts.items():
            file = tmp_path / f"{name.replace('__', '/')}.md"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        out = tmp_path / "out"
        app = sphinx.Sphinx(
            tmp_path, tmp_path, out, tmp_path / "trees" / "doctrees", "html", status=None, warning=warn
        )
        app.build()
        return out

    return build


def test_a_page_with_a_machine_and_one_without(pages):
    out = pages(index="# Home\n\n```{toctree}\nsub/a\n```\n", sub__a="# A\n\n```{story-machine} tell\n```\n")
    with_it, without = (out / "sub/a.html").read_text(), (out / "index.html").read_text()
    assert "story-machine" not in without
    assert re.findall(r'src="([^"]*machine[^"?]*)', with_it) == ["../_static/story-machine/machine.js"]
    assert len(re.findall(r'href="[^"]*story-machine/machine\.css', with_it)) == 1
    given = re.search(r'<div class="story-machine" data-view="tell" data-settings="([^"]*)">', with_it)[1]
    given = json.loads(html.unescape(given))
    assert (
        given["base"] == "../_static/story-machine/" and given["bytes"] == 100
    )  # unet.js alone: the others are here
    assert (out / "sub" / given["base"] / "unet.js").is_file() and len(given["version"]) == 12
    assert given["world"]["who"][0] == world.article(world.SPECIES[0])
    assert "needs a browser with JavaScript" in with_it


def test_a_view_that_there_is_not(pages):
    import io

    warned = io.StringIO()
    pages(warned, index="# Home\n\n```{story-machine} tells\n```\n")
    assert "no view 'tells'; there are tell, guidance, attention, maps, machine" in warned.getvalue()


def test_chapters_and_pages_name_views_that_there_are(extension):
    named = {}
    for file in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/*.md")]:
        text = file.read_text()
        cells = json.loads(text)["cells"] if file.suffix == ".ipynb" else [{"source": [text]}]
        for cell in cells:
            for view, body in extension.FENCE.findall("".join(cell["source"])):
                named.setdefault(view, []).append(file.stem)
                assert not body.strip()
    assert set(named) == set(extension.VIEWS)


def test_editions_say_where_the_machine_is(extension):
    import editions
    import nbformat

    source = "## Tell\n\n```{story-machine} tell\n```\n\nMore."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)])
    editions.name_machines(nb)
    assert nb.cells[0].source == f"## Tell\n\n{extension.IN_NOTEBOOKS}\n\nMore."


def test_a_picture_of_the_page_is_told_again(pipe, tmp_path, recwarn):
    from PIL import Image

    settings = {
        "consistency": 0.5,
        "num_inference_steps": 2,
        "guidance_scale": 5,
        "same_noise": False,
        "layers": ["up_blocks.1"],
        "picks": "random",
        "apart": "words",
        "generator": "portable",
    }
    recipe = Recipe("\n".join(STORY), 3, "micro-int8", settings)
    made = {"drawn_in": "browser", "model": site.weights_print()}
    write_comic(tmp_path / "page.png", Image.new("RGB", (8, 8)), recipe, made, STORY)
    again = retell(tmp_path / "page.png", tmp_path / "again.png", progress=False)
    assert again.same is None and not [w for w in recwarn if "another" in str(w.message)]
    wanted = pipe(STORY, seed=3, **settings).images
    for a, b in zip(again.images, wanted, strict=True):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1
    made["model"] = "0" * 16
    write_comic(tmp_path / "old.png", Image.new("RGB", (8, 8)), recipe, made, STORY)
    with pytest.warns(UserWarning, match="another model"):
        retell(tmp_path / "old.png", tmp_path / "again.png", progress=False)
