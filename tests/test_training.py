"""Training learns, resumes as if it had never stopped, and the shipped parts are what their cards say."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from storydiff_lite import weights, world
from storydiff_lite.training import __main__ as command
from storydiff_lite.training import cards, clip, common, data, distillation, identity, judge, unet, vae
from storydiff_lite.training import parts as training_parts
from storydiff_lite.training.common import Optimizer, Run
from storydiff_lite.training.parts import AUTOENCODER, STEPS, Part, Parts

pytestmark = pytest.mark.usefixtures("few_threads")


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------ optimizer
@pytest.mark.parametrize("shape", [(32, 32), (24, 64), (64, 24)])
def test_orthogonalize_makes_singular_values_alike(shape):
    g = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    before, after = (torch.linalg.svdvals(x) for x in (g, common.orthogonalize(g).float()))
    assert after.max() < 1.4 and after.min() > 0.4
    assert after.max() / after.min() < before.max() / before.min()
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    assert (common.orthogonalize(g).float() * (u @ v)).sum() / (
        u @ v
    ).norm() ** 2 > 0.7  # the same directions


@pytest.mark.parametrize("muon", [True, False])
def test_optimizer_solves_a_regression(muon):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
    x = torch.randn(64, 16)
    target = torch.sin(x @ torch.randn(16, 16) / 4)
    opt = Optimizer(net.named_parameters(), lr=1e-2, muon_lr=0.02 if muon else None)
    losses = []
    for _ in range(150):
        loss = (net(x) - target).square().mean()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert any(opt.is_muon.values()) == muon and not opt.is_muon["0.bias"]


# ------------------------------------------------------------------------------------------ runs
def toy(folder, steps, stop=None, ema=0.9):
    torch.manual_seed(1)
    net = torch.nn.Linear(16, 16)
    run = Run("toy", net, steps, lr=1e-2, ema=ema, warmup=3, folder=folder, save_every=0)
    for i in run.steps():
        run.update((net(torch.randn(8, 16)) - 1).square().mean(), i)
        if stop is not None and i == stop:
            run.save()
            break
    return net, run


def test_resumed_run_equals_one_that_never_stopped(tmp_path):
    whole, run = toy(tmp_path / "a", 30)
    toy(tmp_path / "b", 30, stop=11)
    resumed, again = toy(tmp_path / "b", 30)
    assert again.done == run.done == 30
    assert same(state(whole), state(resumed)) and same(run.ema, again.ema)
    assert [r["step"] for r in again.log] == [r["step"] for r in run.log]


def test_checkpoint_is_safetensors_and_whole(tmp_path):
    net, run = toy(tmp_path, 5)
    assert [f.name for f in tmp_path.iterdir()] == ["toy.safetensors"], "no half-written file may stay"
    with safe_open(tmp_path / "toy.safetensors", "pt") as f:
        assert torch.equal(f.get_tensor("model.weight"), net.weight)
        assert json.loads(f.metadata()["run"])["done"] == 5
    assert Parts(tmp_path).done("toy") == 5 and Parts(tmp_path).done("unet") is None


def test_finished_run_does_nothing_more(tmp_path):
    net, _ = toy(tmp_path, 5)
    stamp = (tmp_path / "toy.safetensors").stat().st_mtime_ns
    again, run = toy(tmp_path, 5)
    assert run.done == 5 and same(state(net), state(again))
    assert (tmp_path / "toy.safetensors").stat().st_mtime_ns == stamp


def test_step_size_warms_up_and_cools_down(tmp_path):
    run = Run("r", torch.nn.Linear(2, 2), 100, lr=1, warmup=10, cooldown=0.4, folder=tmp_path)
    sizes = [run.scale(i) for i in range(100)]
    assert sizes[0] == pytest.approx(0.1) and sizes[30] == 1 and sizes[80] == pytest.approx(0.5)
    assert all(a >= b for a, b in zip(sizes[60:], sizes[61:], strict=False)) and sizes[-1] > 0


def test_average_follows_the_weights(tmp_path):
    net, run = toy(tmp_path, 20)
    own = state(net)
    assert not same(own, state(run.averaged()))
    assert all(torch.equal(run.ema[k], v) for k, v in net.state_dict().items())


# ------------------------------------------------------------------------------------------ data
def test_pool_is_drawn_once_and_a_larger_one_serves(tmp_path):
    samples, pixels = data.pool("train", 12, 16, data.MIX, tmp_path)
    assert pixels.dtype == torch.uint8 and len(pixels) == sum(map(len, samples))
    first = torch.from_numpy(data.np.asarray(world.render(samples[0][0], 16)).transpose(2, 0, 1).copy())
    assert torch.equal(pixels[0], first)
    files = list(tmp_path.iterdir())
    fewer, some = data.pool("train", 5, 16, data.MIX, tmp_path)
    assert list(tmp_path.iterdir()) == files and fewer == samples[:5]
    assert torch.equal(some, pixels[: len(some)])


def test_larger_pictures_are_learnt_from_the_latents_there_are(tmp_path):
    torch.manual_seed(0)
    old = vae.build(64).eval()
    old.register_to_config(scaling_factor=0.5)
    begun = vae.larger(old, 128)
    same_as = begun.decoder.mid_block.resnets[0].conv1.weight, old.decoder.mid_block.resnets[0].conv1.weight
    assert torch.equal(*same_as), "what fits begins as it was"
    whole = vae.larger(old, 64).state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in old.state_dict().items())
    kw = {"batch": 2, "pictures": 3, "folder": tmp_path, "began": {"steps": 7}}
    net, run = vae.upscale(old, steps=21, **kw)
    first, last = run.log[0], run.log[-1]
    assert last["psnr"] > first["psnr"] + 1 and last["latents"] < 0.8 * first["latents"]
    assert net.config.sample_size == 128 and net.config.scaling_factor == 0.5
    with torch.no_grad():
        assert net.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mode().shape == (1, 4, 16, 16)
    assert run.began == {"steps": 7} and run.facts["latents_of"] == 64
    again, _ = vae.upscale(old, steps=21, **kw)
    assert same(state(net), state(again)), "a finished run is not trained again"
    found = vae.measure(net, old, n=2)
    assert {"psnr_db", "psnr_db_of_the_old_latents", "latent_error"} < found.keys()


def test_everything_learns_with_the_last_autoencoder(tmp_path, monkeypatch):
    def parts(*trained, size=128):
        found = Parts(tmp_path, size=size)
        found.done = lambda part: 1 if part in trained else None
        sizes = {"vae": 64, "decoder": 64, "upscale": 128}
        found.loaded = {p: Part(vae.build(sizes[p]), None, {"part": p}) for p in trained}
        return found

    assert parts("vae", "decoder", "upscale").autoencoder().heldout == {"part": "upscale"}
    assert parts("vae", "decoder", size=64).autoencoder().heldout == {"part": "decoder"}
    assert parts("vae", "decoder", "upscale", size=64).autoencoder().heldout == {"part": "decoder"}
    assert parts("vae", "decoder").autoencoder(before="upscale").heldout == {"part": "decoder"}
    size = weights.picture_size()
    assert parts(size=size).autoencoder().model.config.sample_size == size
    with pytest.raises(SystemExit, match="draws 64 pixels and --size is 128.*upscale"):
        parts("vae").autoencoder()


def test_an_interrupted_part_goes_on_to_its_end_and_a_finished_one_does_nothing(tmp_path, monkeypatch):
    asked = []

    def train(steps, seed, device, folder):
        asked.append(steps)
        net, run = toy(folder, steps, stop=3 if len(asked) == 1 else None)
        return net, run, {}

    monkeypatch.setattr(training_parts, "checkpoint_name", lambda part: "toy")
    monkeypatch.setitem(STEPS, "judge", 9)
    monkeypatch.setattr(Parts, "_judge", lambda self, **more: train(**more))
    assert Parts(tmp_path).train("judge", 6).run.done == 4
    assert Parts(tmp_path).load("judge").run.done == 4, "what needs it takes it as far as it has come"
    assert Parts(tmp_path).train("judge").run.done == 6
    assert Parts(tmp_path).train("judge").run.done == 6, "it has ended"
    assert asked == [6, 4, 6, 6]


def test_page_holds_one_character_four_times():
    page = world.sample_pictures("train", 0, {"page": 1})
    assert len(page) == 4 and len({p.actors[0].character for p in page}) == 1


# ------------------------------------------------------------------------------------------ the parts
def test_autoencoder_learns_and_its_decoder_alone_leaves_latents(tmp_path):
    kw = {"batch": 4, "pictures": 12, "folder": tmp_path}
    net, run = vae.train(steps=24, **kw)
    assert run.log[-1]["psnr"] > run.log[0]["psnr"] + 1.5
    tuned, _ = vae.train(steps=2, decoder_only=True, start=net, **kw)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        a, b = (m.encode(x).latent_dist.mode() for m in (net, tuned))
        assert torch.equal(a, b) and not torch.equal(net.decode(a).sample, tuned.decode(a).sample)
    assert a.shape == (2, 4, 16, 16)


def test_encoders_learn_to_pair(tmp_path):
    net, run = clip.train(steps=2, batch=8, pictures=40, folder=tmp_path)
    found = clip.measure(net, n=64)
    assert set(found["finds_its_caption_among_64"]) == {"text_encoder", "text_encoder_2"} and run.done == 2
    unknown = clip.load_tokenizer()("zeppelin").input_ids[1]
    assert not net.text_1.get_input_embeddings().weight[unknown].any(), "an unknown word must say nothing"
    a = torch.nn.functional.normalize(torch.eye(4), dim=-1)
    assert clip.contrast(a, a, 20.0) < 1e-3 < clip.contrast(a, a.roll(1, 0), 20.0)


def test_truths_ask_only_what_is_told():
    rng = data.random.Random(0)
    one = [world.random_picture(rng, world.Character("bear", "orange"), "walking", "snow")]
    pair = [world.random_group(rng, [world.Character.random(rng), world.Character.random(rng)])]
    every, told = clip.truths([one, pair]), clip.truths([one], ["a bear walking in the snow"])
    assert world.FUR and every["fur"].tolist() == [list(world.FUR).index("orange"), -100]
    assert told["fur"].tolist() == [-100] and told["species"].tolist() == [world.SPECIES.index("bear")]
    right = {"fur": torch.eye(64)[[1]]}
    heads = torch.nn.ModuleDict({"fur": torch.nn.Linear(64, 8, bias=False)})
    torch.nn.init.eye_(heads["fur"].weight)
    assert clip.naming(heads, right["fur"], {"fur": every["fur"][:1]}) < 0.01


def test_separations_find_words_that_say_the_same():
    def prompts(texts, deaf=()):
        words = [[w for w in t.split() if w not in deaf] for t in texts]
        ids = [[data.zlib.crc32(w.encode()) % 997 for w in ws] + [0] * (12 - len(ws)) for ws in words]
        states = torch.nn.functional.one_hot(torch.tensor(ids), 997).float()  # [B, 12, 997]
        return states, states.sum(1)

    hears = clip.separations(prompts)
    assert set(hears) == set(clip.SENTENCE) and min(min(v) for v in hears.values()) > 0.1
    deaf = clip.separations(lambda texts: prompts(texts, deaf=("cat", "rabbit")))
    assert deaf["species"] == (0, 0) and deaf["fur"] == pytest.approx(hears["fur"])


def test_judge_learns(tmp_path):
    _, run = judge.train(steps=41, batch=16, pictures=32, folder=tmp_path)
    assert run.log[-1]["loss"] < 0.85 * run.log[0]["loss"]


@pytest.fixture(scope="module")
def packed():
    return Parts("no-checkpoints-here")


def test_unet_trains_on_every_canvas_and_resumes(tmp_path, packed, monkeypatch):
    kw = {"batch": 4, "samples": unet.Samples(24, 4), "channels": (16, 32), "folder": tmp_path}
    plain, shapes, lates = unet.velocity_loss, set(), []

    def spy(net, schedule, x, *rest, late, weight, mine):
        shapes.add(tuple(x.shape[2:]))
        lates.append(late)
        assert weight.shape == (len(x), 1, *x.shape[2:]) and late == (x.shape[2:] != (16, 16))
        assert mine == slice(None), "one process computes every row"
        return plain(net, schedule, x, *rest, late=late, weight=weight, mine=mine)

    monkeypatch.setattr(unet, "velocity_loss", spy)
    net, run = unet.train(packed.load("vae").model, packed.prompts(), steps=16, **kw)
    assert run.done == 16 and (16, 16) in shapes and (32, 32) in shapes and {(16, 32), (32, 16)} & shapes
    assert any(lates) and not all(lates)
    again, _ = unet.train(packed.load("vae").model, packed.prompts(), steps=16, **kw)
    assert len(lates) == 16 and same(state(net), state(again))
    facts = json.loads(json.dumps(run.facts))
    assert (facts["pictures"], facts["pages"], facts["mix"]) == (24, 4, data.MIX), "what was really used"


def test_unet_keeps_what_reads_text_where_the_encoders_stayed(packed, tmp_path):
    kw = {"batch": 4, "samples": unet.Samples(12, 2), "channels": (16, 32), "folder": tmp_path}
    other = unet.build((16, 32))
    net, _ = unet.train(packed.load("vae").model, packed.prompts(), steps=1, start=other.state_dict(), **kw)
    theirs = other.state_dict()
    assert max(float((v - theirs[k]).abs().max()) for k, v in net.state_dict().items() if v.ndim > 1) < 0.02


def test_pool_holds_what_its_samples_show(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "native_bfloat16", lambda device: False)  # the same on every machine
    samples, pixels = data.pool("train", 30, weights.picture_size(), data.MIX, tmp_path)
    known = packed.load("vae").model, packed.prompts()
    found = unet.pools(*known, samples, pixels, 3, "cpu", tmp_path)
    assert set(found) == {1, 2} and sum(map(len, found.values())) == 30
    i = next(i for i, s in enumerate(samples) if len(s) == 2)  # the first strip
    first = sum(len(s) for s in samples[:i])
    with torch.no_grad():
        z = known[0].encode(data.to_float(pixels[first : first + 2])).latent_dist.mode()
        z *= known[0].config.scaling_factor
    assert (found[2].latents[0].float() - z).abs().max() < 0.02
    assert torch.equal(found[2].weight[0, 1], torch.from_numpy(unet.importance(samples[i][1])))
    rng = data.random.Random(0)
    empty = packed.prompts().ids([""])[0]
    for panels, shape in ((1, {(16, 16)}), (2, {(16, 32), (32, 16)})):
        x, weight, ids, sizes = found[panels].batch(5, rng, 128, empty, drop=0)
        assert tuple(x.shape[2:]) in shape and weight.shape == (5, 1, *x.shape[2:])
        known = found[panels].words.flatten(0, 1)
        assert all((known == one).all((1, 2)).any() for one in ids)
        assert {tuple(s) for s in sizes.tolist()} <= {
            tuple(unet.time_ids(128, 128)),
            tuple(unet.time_ids(x.shape[2] * 8, x.shape[3] * 8)),
        }
    assert (found[1].batch(5, rng, 128, empty, drop=1)[2] == empty).all()


def test_two_characters_in_strips_and_pages():
    for kind, panels in (("pair strip", 2), ("pair page", 4)):
        for i in range(20):
            sample = world.sample_pictures("train", i, {kind: 1})
            shown = {a.character for p in sample for a in p.actors}
            together = [p for p in sample if len(p.actors) == 2]
            assert len(sample) == panels and len(shown) == 2 and together
            assert len({p.scene for p in sample}) == panels
            for p in together:
                assert {a.character for a in p.actors} == shown
    rng = data.random.Random(1)
    texts = {unet.caption(sample, rng, drop=0) for _ in range(40)}
    assert not any(t.startswith("a comic") for t in texts), "a comic names one character"


def test_caches_follow_the_renderer(monkeypatch, tmp_path):
    before = data.renderer()
    _, pixels = data.pool("train", 3, 16, None, tmp_path)
    plain = world.render
    data.renderer.cache_clear()
    monkeypatch.setattr(world, "render", lambda p, size=64: plain(p, size).transpose(0))
    assert data.renderer() != before
    _, mirrored = data.pool("train", 3, 16, None, tmp_path)
    assert torch.equal(mirrored, pixels.flip(-1))
    data.renderer.cache_clear()


def test_unet_begins_with_another_but_for_what_reads_text(packed, tmp_path):
    torch.manual_seed(1)
    other = unet.build((16, 32))
    net, run = unet.train(
        packed.load("vae").model,
        packed.prompts(),
        steps=1,
        batch=4,
        samples=unet.Samples(24, 4),
        channels=(16, 32),
        folder=tmp_path,
        start=unet.without_text(other.state_dict()),
        began={"steps": 7},
    )
    theirs = other.state_dict()
    far = {k: float((v - theirs[k]).abs().max()) for k, v in net.state_dict().items() if v.ndim > 1}
    text = {k for k in far if any(t in k for t in unet.TEXT)}
    assert len(text) == 2 * 7 + 1  # keys and values of seven attentions, and the pooled text
    assert max(v for k, v in far.items() if k not in text) < 0.02 < min(far[k] for k in text)
    assert run.began == {"steps": 7}
    kept = Run("unet", unet.build((16, 32)), 1, lr=1, ema=0.9, folder=tmp_path)
    assert kept.began == {"steps": 7}, "a resumed run must remember it"


def test_a_further_run_tells_what_it_began_with():
    told = cards.began("unet")
    assert told["steps"] > 0 and told["sha256"] and "log" not in told


def test_mistakes_on_characters_count_more():
    picture = world.random_picture(data.random.Random(3))
    weight = unet.importance(picture)
    assert weight.shape == (1, 16, 16) and set(weight.ravel().tolist()) == {1, 2, 4}
    assert (weight[:, 0] == 1).all(), "the sky is scenery"
    empty = unet.importance(world.Picture("forest", (), 0))
    assert (empty == 1).all()


def test_weighted_loss_looks_where_the_weight_is():
    schedule, x = unet.noise_schedule(), torch.zeros(64, 1, 1, 2)

    def wrong_on_the_left(noisy, t, states, added_cond_kwargs):
        kept = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        right = noisy / (1 - kept) ** 0.5 * kept**0.5  # the velocity of a picture that is all zero
        right[..., 0] += 1
        return type("Out", (), {"sample": right})

    def loss(weight):
        return float(
            unet.velocity_loss(wrong_on_the_left, schedule, x, None, None, None, "cpu", weight=weight)
        )

    left = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2).expand(64, 1, 1, 2)
    assert loss(None) == pytest.approx(0.5, abs=0.02)
    assert loss(torch.ones(64, 1, 1, 2)) == pytest.approx(0.5, abs=0.02)
    assert loss(left) == pytest.approx(0.75, abs=0.02)


def test_velocity_loss_is_zero_for_who_knows():
    """A network that is told clean latent and noise and answers by the definition has no loss."""
    schedule, clean = unet.noise_schedule(), torch.randn(4, 4, 8, 8)

    def oracle(noisy, t, states, added_cond_kwargs):
        kept = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (noisy - kept**0.5 * clean) / (1 - kept) ** 0.5
        return type("Out", (), {"sample": kept**0.5 * noise - (1 - kept) ** 0.5 * clean})

    assert unet.velocity_loss(oracle, schedule, clean, None, None, None, "cpu") < 1e-4
    assert unet.velocity_loss(oracle, schedule, clean + 1, None, None, None, "cpu") > 0.01


def test_late_times_are_later():
    schedule, times = unet.noise_schedule(), []

    def note(noisy, t, states, added_cond_kwargs):
        times.append(t.float())
        return type("Out", (), {"sample": noisy})

    x = torch.zeros(4000, 1, 1, 1)
    for late in (False, True):
        unet.velocity_loss(note, schedule, x, None, None, None, "cpu", late=late)
    assert abs(times[0].mean() - 500) < 30 and abs(times[1].mean() - 667) < 30


@pytest.mark.parametrize("rank", [0, 2])
def test_identity_encoder_learns_and_leaves_the_unet_alone(tmp_path, packed, rank):
    torch.manual_seed(0)
    net = unet.build((16, 32))
    before = state(net)
    kw = {"batch": 4, "pictures": 12, "folder": tmp_path, "rank": rank, "naming": 1, "layers": 1}
    parts = packed.load("vae").model, packed.prompts(), packed.load("clip").model.vision, net
    encoder, run = identity.train(*parts, steps=3, **kw)
    after = {k.replace(".base_layer", ""): v for k, v in state(net).items() if ".lora_" not in k}
    assert run.done == 3 and same(before, after)
    lora = identity.lora_of(net)
    assert len(lora) == (2 * 4 * sum("attn" in n for n in net.attn_processors) if rank else 0)
    if rank:  # it began with nothing to say, and has something to say now
        assert any(v.abs().max() > 0 for n, v in lora.items() if ".lora_B." in n)
        assert set(identity.lora_state(net)) == {n.replace(".default", "") for n in lora}
    begun = identity.build(packed.load("clip").model.vision).state_dict()
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, begun[k])}
    assert "visual_projection_2.weight" in moved and "fuse_module.mlp1.fc1.weight" in moved
    assert "vision_model.post_layernorm.weight" in moved
    told = identity.measure(encoder, packed.load("vae").model, packed.prompts(), net, n=4, times=(900,))
    assert set(told) == {"text only", "all in words", "1 picture", "4 pictures"}


def test_what_is_told_in_words_teaches_without_the_lora():
    """A LoRA that spoils every prediction must not spoil the teacher's."""
    torch.manual_seed(0)
    net = unet.build((16, 32)).eval()
    identity.add_lora(net, 2)
    x, states = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 96)
    said, ids = (states, torch.randn(2, 64)), torch.zeros(2, 6)
    schedule, weight = unet.noise_schedule(), torch.ones(2, 1, 16, 16)
    _, taught = distillation.losses(net, schedule, x, said, said, ids, weight)
    assert float(taught.detach()) < 1e-10, "told the same, it predicts the same"
    with torch.no_grad():
        for name, p in identity.lora_of(net).items():
            p.copy_(torch.randn_like(p)) if ".lora_B." in name else None
    _, spoiled = distillation.losses(net, schedule, x, said, said, ids, weight)
    assert float(spoiled.detach()) > 1e-4
    with identity.without_lora(net):
        quiet = identity.velocities(net, x, torch.tensor([500, 500]), said, ids)
    assert not torch.equal(quiet, identity.velocities(net, x, torch.tensor([500, 500]), said, ids))


def test_layers_are_asked_what_the_words_were_asked(packed):
    """The words' own states answer perfectly; those of the plain prompt are one unit away."""
    torch.manual_seed(0)
    net, prompts = unet.build((16, 32)).eval(), packed.prompts()
    identity.add_lora(net, 2)
    albums = [world.sample_pictures("train", i, {"album": 1}) for i in range(5)]
    latents, ids = torch.randn(5, 5, 4, 16, 16), torch.tensor([unet.time_ids(64, 64)], dtype=torch.float32)
    layers = identity.AttentionDistillation.of_albums(net, albums, latents[:, 0], prompts, ids)
    assert len(layers.layers) == 7 and all(len(q) == 5 for q in layers.queries.values())
    rows, flat = [0, 1, 2, 3, 4], torch.ones(5, 1, 16, 16)
    assert float(layers.loss(rows, layers.teacher_states.float(), flat)) < 1e-6
    words = data.random.Random("questions")
    plain = prompts([world.caption(a[0], words, frozenset()) for a in albums])[0]
    assert float(layers.loss(rows, plain, flat).detach()) == pytest.approx(1, rel=0.02)


def test_fused_tokens_must_name_their_character():
    """The loss reads the class tokens of each prompt, and skin of people only."""
    torch.manual_seed(0)
    net = unet.build((16, 32))
    config = identity.CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=32, projection_dim_2=64,
    )  # fmt: skip
    learner = identity.Learner(identity.build(type("V", (), _vision(config)), (32, 64)), net)
    bear, girl = world.Character("bear", "orange"), world.Character("girl", "black", skin="dark")
    fused, mask = torch.randn(2, 77, 96), torch.zeros(2, 77, dtype=torch.bool)
    mask[0, 2:4] = mask[1, 2:4] = True
    loss = learner.naming_loss(fused, mask, [bear, girl])
    elsewhere = fused.clone()
    elsewhere[:, 10:] += 1
    assert torch.equal(loss, learner.naming_loss(elsewhere, mask, [bear, girl]))
    assert not torch.equal(loss, learner.naming_loss(fused, mask, [bear, world.Character("girl", "pink")]))
    pale = world.Character("bear", "orange", skin="dark")
    assert torch.equal(loss, learner.naming_loss(fused, mask, [pale, girl])), "a bear shows no skin"


def _vision(config):
    from transformers import CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection(config)
    return {"config": config, "vision_model": model.vision_model}


def test_withheld_characters_stay_out(tmp_path):
    rng = data.random.Random(0)
    share = sum(world.withheld(world.Character.random(rng)) for _ in range(2000)) / 2000
    assert 0.17 < share < 0.23
    samples, pixels = distillation.albums("train", 30, 16, tmp_path)
    assert len(samples) == len(pixels) < 30 and pixels.shape[1:] == (5, 3, 16, 16)
    assert not any(world.withheld(s[0].actors[0].character) for s in samples)
    first = data.np.asarray(world.render(samples[-1][4], 16)).transpose(2, 0, 1)
    assert (pixels[-1, 4].numpy() == first).all()


def test_captions_are_dropped_for_guidance():
    import random

    rng, sample = random.Random(0), world.sample_pictures("train", 0)
    empty = sum(unet.caption(sample, rng) == "" for _ in range(2000)) / 2000
    assert 0.07 < empty < 0.13


# ------------------------------------------------------------------------------------------ what is shipped
#: parts with a card; the one of the autoencoder tells of all three parts that made it
SHIPPED = [p for p in STEPS if p not in AUTOENCODER[1:]]


def test_parts_without_checkpoint_are_the_shipped_ones(packed):
    for part in STEPS:
        model, run, heldout = packed.load(part)
        assert run is None and all(p.dtype == torch.float32 for p in model.parameters()), part
        assert isinstance(heldout, dict)


def test_part_that_is_nowhere_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "DATA", tmp_path)
    with pytest.raises(SystemExit, match="training vae"):
        Parts(tmp_path, size=128).load("vae")


@pytest.mark.parametrize("part", SHIPPED)
def test_card_belongs_to_the_shipped_files(part):
    card = json.loads((weights.DATA / "cards" / f"{part}.json").read_text())
    keys = {
        "part",
        "data",
        "steps",
        "batch",
        "seed",
        "seconds",
        "machine",
        "torch",
        "heldout",
        "log",
        "sha256",
    }
    assert keys <= card.keys()
    # a run outside of the package kept no log
    assert card["steps"] > 0 and (part == "vae" or card["log"][0]["step"] == 0)
    for file, digest in card["sha256"].items():
        assert weights.sha256(weights.DATA / file) == digest, (
            f"{file} is not what the card of {part} describes"
        )
    assert card["sha256"]


def test_shipped_parts_are_good_enough():
    """The bars of this project, on the cards' held-out numbers."""
    cards = {p: json.loads((weights.DATA / "cards" / f"{p}.json").read_text()) for p in SHIPPED}
    bar = {64: 31, 128: 29}[weights.picture_size()]  # the more pixels, the more that no latent can carry
    assert cards["vae"]["heldout"]["psnr_db"] >= bar
    assert min(cards["judge"]["heldout"]["renders"].values()) >= 0.97
    assert min(cards["judge"]["heldout"]["reconstructions"].values()) >= 0.95
    assert min(cards["clip"]["heldout"]["finds_its_caption_among_64"].values()) >= 0.95


def test_shipped_encoders_tell_every_word_from_every_other(packed):
    """Two captions that differ in one word must differ in what the U-Net reads; the card says by how much."""
    apart = clip.separations(packed.prompts())
    assert set(apart) == set(clip.SENTENCE)
    assert min(min(both) for both in apart.values()) > 0.3, apart
    card = json.loads((weights.DATA / "cards/clip.json").read_text())["heldout"]["closest_words_of"]
    for name, (states, pooled) in apart.items():
        assert card[name] == pytest.approx({"states": states, "pooled": pooled}, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unet", "--steps", "0"], "at least 1"),
        (["unet", "--seed", "-1"], "0 or more"),
        (["net"], "invalid choice"),
        (["unet", "--size", "65"], "invalid choice"),
        (["clip", "--again"], "it is for unet, identity, ip_adapter"),
        (["unet", "--seconds", "0"], "more than 0 seconds"),
        (["unet", "--device", "gpu"], "There is no device 'gpu', there are cpu"),
        (["video", "--device", "meta"], "There is no device 'meta'"),
        (["passages", "--rank", "0"], "at least 1"),
        (["passages", "--lr", "nan"], "more than 0 and less than 1"),
        (["video", "--lr", "-1"], "more than 0 and less than 1"),
        (["video", "--cooldown", "5"], "between 0 and 1"),
        (["video", "--size", "65"], "invalid choice"),
        (["video", "--begin", "nowhere"], "--begin: it is nowhere and must be a folder that is there"),
        (["clip", "--folder", __file__], "is a file. Give a folder"),
        (["clip", "--folder", f"{__file__}/deeper"], "is a file. Give a folder"),
        (["all", "--out", __file__], "is a file. Give a folder"),
        (["all", "--device", "foo"], "There is no device 'foo'"),
    ],
)
def test_command_line_mistakes(arguments, words, capsys, monkeypatch):
    """Told before anything is loaded, drawn or made."""

    def never(*args, **kwargs):
        raise AssertionError("begun")

    for place, name in ((command, "Parts"), (command.video, "make"), (command.defects, "make")):
        monkeypatch.setattr(place, name, never)
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert words in capsys.readouterr().err


def test_only_parts_that_exist_are_offered():
    """Makefile, README and the other texts name parts to train: each is one that the command knows."""
    root = Path(__file__).resolve().parents[1]
    known = {*command.PARTS, "all", "video", "passages"}
    texts = [
        root / n for n in ("Makefile", "README.md", "CONTRIBUTING.md", "storydiff_lite/training/__main__.py")
    ]
    texts += [*sorted((root / "book").glob("*.md")), *sorted((root / "notebooks").glob("*.ipynb"))]
    named = set()
    for path in texts:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"\bPART=(\w[\w-]*)", text)
        found += re.findall(r"-m storydiff_lite\.training ([a-z][\w-]*)", text)
        for example in re.findall(r"PART=\w+ \(or ([^)]*)\)", text):
            found += [n for n in re.split(r",\s*", example) if n != "..."]
        for listed in re.findall(r"^Parts in their order: (.*?)\.$", text, re.M):
            found += listed.split(", ")
        named |= {(path.name, name) for name in found}
    assert {"Makefile", "README.md"} <= {where for where, _ in named}
    assert [pair for pair in sorted(named) if pair[1] not in known] == []
