"""StoryDiffusion's neighbours: where they must equal what is known, and what each of them reads."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from test_portable import pick

from storydiff_lite import experiments, neighbours, portable, world
from storydiff_lite.attention import reading_lists
from storydiff_lite.experiments import consistency
from storydiff_lite.experiments import neighbours as experiment
from storydiff_lite.plan import word_tokens
from storydiff_lite.prompts import PromptEncoder
from storydiff_lite.schedule import AttentionPlan
from storydiff_lite.story import Panel, as_panels, read_story
from storydiff_lite.tokens import load_tokenizer

STORY = ["a bear reads in the forest", "a bear sleeps on the beach", "a bear runs in the snow"]
TOP, DEEP = "up_blocks.1.attentions.0", "up_blocks.0.attentions.0"  # of the tiny U-Net: 64 and 16 tokens
FEW = {"num_inference_steps": 3, "output_type": "latent", "consistency": 1.0}


def drawn(pipe, plan=None, encoder=None, story=STORY, **call):
    with neighbours.drawing(pipe, plan, encoder):
        return pipe(story, **FEW | call).images


def words(pipe, word=None, story=STORY):
    return neighbours.word_places(pipe.tokenizer, story, word)


def near(a, b):
    return torch.allclose(a, b, atol=1e-4)


# ------------------------------------------------------------------------------------------ StyleAligned
@pytest.mark.parametrize("plan", [neighbours.StyleAligned, neighbours.FirstPanel, neighbours.AdaINAlone])
def test_the_first_panel_is_drawn_as_without_sharing_and_the_others_are_not(tiny_pipe, plan):
    plain, ours = drawn(tiny_pipe, consistency=0), drawn(tiny_pipe, plan)
    assert near(ours[0], plain[0])
    assert not any(near(a, b) for a, b in zip(ours[1:], plain[1:], strict=True))


def test_adain_gives_every_panel_the_first_ones_mean_and_spread():
    x = torch.randn(2 * 3, 10, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    y = neighbours.adain(x, 3).unflatten(0, (2, 3))
    first = x.unflatten(0, (2, 3))[:, :1]
    assert torch.allclose(y.mean(2), first.mean(2).expand(2, 3, 4), atol=1e-5)
    assert torch.allclose(y.std(2), first.std(2).expand(2, 3, 4), atol=1e-4)
    assert torch.allclose(y[:, 0], first[:, 0], atol=1e-5)
    order = x.unflatten(0, (2, 3))[0, 1].argsort(0)
    assert torch.equal(y[0, 1].argsort(0), order), "nothing else changes"


def test_style_aligned_reads_the_first_panel_of_the_same_story_and_half():
    plan = neighbours.StyleAligned.among(3, 1.0, seeds=(0, 1))
    lists = plan.lists("layer", 4, 2)
    assert len(lists) == 2 * 2 * 3
    for reader, read in enumerate(lists):
        start, i = reader // 3 * 12, reader % 3
        own = list(range(start + 4 * i, start + 4 * i + 4))
        assert read.tolist() == own + (list(range(start, start + 4)) if i else [])


def test_who_may_not_read_the_first_panel_does_not():
    may = torch.ones(3, 3, dtype=torch.bool)
    may[1, 0] = False
    assert [len(x) for x in neighbours.StyleAligned(may, 1.0).lists("layer", 4, 1)] == [4, 4, 8]


# ------------------------------------------------------------------------------------------ ConsiStory
class Everything(neighbours.ConsiStory):
    def subject(self, n):
        return torch.ones(len(self.seeds), len(self.now.panels), n, dtype=torch.bool)


class Nobody(neighbours.ConsiStory):
    def subject(self, n):
        return torch.zeros(len(self.seeds), len(self.now.panels), n, dtype=torch.bool)


def consistory(pipe, kind=neighbours.ConsiStory, **settings):
    where = neighbours.Where(settings.pop("layers", DEEP), settings.pop("log", False))
    return partial(kind, words=words(pipe), where=where, **settings)


def test_with_everything_a_subject_it_is_rate_1_and_with_nobody_plain(tiny_pipe):
    plain, full = drawn(tiny_pipe, consistency=0), drawn(tiny_pipe)
    assert near(drawn(tiny_pipe, consistory(tiny_pipe, Everything, dropout=0.0)), full)
    assert near(drawn(tiny_pipe, consistory(tiny_pipe, Nobody)), plain)
    assert near(drawn(tiny_pipe, consistory(tiny_pipe, Everything, dropout=1.0)), plain)
    assert not near(full, plain)


def test_lists_hold_all_own_tokens_and_of_the_others_the_subjects():
    masks = torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(1)) < 0.4

    class Fixed(neighbours.ConsiStory):
        def subject(self, n):
            return masks

    may = torch.ones(3, 3, dtype=torch.bool)
    may[2, 0] = False
    plan = Fixed(may, 1.0, (0, 1), words=torch.zeros(3, 77, dtype=torch.bool), dropout=0.0)
    for reader, read in enumerate(plan.lists("layer", 9, 2)):
        story, i = reader // 3, reader % 3
        want = set(range(9 * i, 9 * i + 9))
        want |= {
            9 * j + t
            for j in range(3)
            if may[i, j] and i != j
            for t in masks[story % 2, j].nonzero()[:, 0].tolist()
        }
        assert sorted(read.tolist()) == sorted(27 * story + t for t in want)
    plan.dropout = 0.5
    fewer = plan.lists("layer", 9, 1)
    kept, whole = (
        sum(len(x) - 9 for x in lists) for lists in (fewer, plan.__class__.lists(plan, "layer", 9, 1))
    )
    assert (
        0
        < kept
        == whole
        < sum(len(x) - 9 for x in Fixed(may, 1.0, (0, 1), words=plan.words, dropout=0).lists("layer", 9, 1))
    )


def test_a_story_alone_drops_what_it_drops_in_a_batch():
    kinds = [partial(Everything, words=torch.zeros(3, 77, dtype=torch.bool), dropout=0.5)]
    may = torch.ones(3, 3, dtype=torch.bool)
    both, alone = (kinds[0](may, 1.0, seeds).lists("layer", 9, 1) for seeds in ((4, 7), (7,)))
    assert [x.tolist() for x in both[3:]] == [(x + 27).tolist() for x in alone]


def test_vanilla_queries_are_those_of_a_pass_without_sharing(tiny_pipe):
    """With queries of such a pass alone, and nothing to read of the others, the result is plain."""
    plain = drawn(tiny_pipe, consistency=0)
    passes = []
    tiny_pipe.unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    assert near(drawn(tiny_pipe, consistory(tiny_pipe, Nobody, vanilla=2)), plain)
    assert len(passes) == 3 + 2, "a second pass in each of the two steps"
    mixed = drawn(tiny_pipe, consistory(tiny_pipe, Everything, dropout=0.0, vanilla=2))
    assert not near(mixed, drawn(tiny_pipe, consistory(tiny_pipe, Everything, dropout=0.0)))
    assert not tiny_pipe.unet._forward_pre_hooks, "no hook stays"


def test_injection_moves_subject_tokens_to_their_match():
    plan = Everything.among(2, 1.0, words=torch.zeros(2, 77, dtype=torch.bool), inject=(0, 1))
    x = torch.arange(2 * 2 * 4, dtype=torch.float).view(4, 4, 1)  # two halves of two panels of four tokens
    where = torch.tensor([[[4, 5, 6, 7], [0, 0, 0, 0]]])
    good = torch.tensor([[[True, True, False, True], [False, False, True, False]]])
    plan.match = {4: (where, good)}
    y = plan.injected(x).view(2, 2, 4)
    for half in range(2):
        a, b = x.view(2, 2, 4)[half]
        assert torch.allclose(y[half, 0], torch.where(good[0, 0], 0.2 * a + 0.8 * b, a))
        assert torch.allclose(y[half, 1], torch.where(good[0, 1], 0.2 * b + 0.8 * a[0], b))
    plan.now = plan.now._replace(step=1)
    assert torch.equal(plan.injected(x), x), "not in later steps"


def test_matches_are_in_other_panels_and_find_a_copy():
    g = torch.Generator().manual_seed(2)
    first = torch.randn(1, 8, 4, 4, generator=g)
    features = torch.cat([first, first.flip(3)])  # the second panel is the first one, mirrored
    where, good = neighbours.matches(features, 2, (16,))[16]
    mirrored = torch.arange(16).view(4, 4).flip(1).flatten()
    assert torch.equal(where[0, 0], mirrored + 16) and torch.equal(where[0, 1], mirrored)
    assert good.shape == (1, 2, 16)


def test_dift_gives_features_of_every_picture_and_leaves_no_hook(tiny_pipe):
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    features = neighbours.dift(tiny_pipe, latents, STORY)
    assert features.shape[0] == 3 and features.shape[2:] == (8, 8)
    assert not tiny_pipe.unet.up_blocks[0]._forward_hooks


# ------------------------------------------------------------------------------------------ the subject
def test_words_stand_where_the_tokenizer_puts_them():
    tokenizer = load_tokenizer()
    every, noun = (
        neighbours.word_places(tokenizer, ["a bear reads", "an old bear"], w) for w in (None, "bear")
    )
    assert [row.nonzero()[:, 0].tolist() for row in every] == [[1, 2, 3], [1, 2, 3]]
    assert [row.nonzero()[:, 0].tolist() for row in noun] == [[2], [3]]
    with pytest.raises(ValueError, match="does not hold the word 'cat'"):
        neighbours.word_places(tokenizer, ["a bear reads"], "cat")


def test_otsu_separates_two_groups_and_is_of_the_row():
    x = torch.tensor([[0.0, 0.1, 0.2, 5.0, 5.1], [10.0, 10.1, 90.0, 90.1, 90.2]])
    low, high = neighbours.otsu(x)[:, 0].tolist()
    assert 0.2 < low < 5 and 10.1 < high < 90
    by_hand = []
    for row in x.tolist():
        row = sorted(row)

        def between(k, row=row):
            a, b = row[:k], row[k:]
            return k * len(b) * (sum(a) / k - sum(b) / len(b)) ** 2

        k = max(range(1, 5), key=between)
        by_hand.append((row[k - 1] + row[k]) / 2)
    assert [low, high] == pytest.approx(by_hand)
    assert torch.equal(neighbours.subject_masks(x), x > neighbours.otsu(x))


def test_maps_are_the_shares_of_the_words_in_the_earlier_steps_only(tiny_pipe):
    """By hand: the softmax of the conditional half, its mass on the words, summed over the steps before."""
    kept, found = [], []

    class Watched(neighbours.SubjectPlan):
        def subject(self, n):
            super().subject(n)
            found.append((self.now.step, self.total.clone()))

        def look(self, attn, x, states):
            kept.append((self.now.step, attn, x[-3:].clone(), states[-3:].clone()))
            super().look(attn, x, states)

        def lists(self, layer, n, halves):
            self.subject(n)
            return super().lists(layer, n, halves)

    places = words(tiny_pipe)
    drawn(tiny_pipe, partial(Watched, words=places, where=neighbours.Where(TOP)))
    assert {step for step, *_ in kept} == {0, 1, 2}
    for now, total in found:
        want = torch.zeros(3, neighbours.subject.GRID**2)
        for step, attn, x, states in kept:
            if step >= now:
                continue
            q, k = (
                f(t).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for f, t in ((attn.to_q, x), (attn.to_k, states))
            )
            p = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)  # [3, N, 77]
            share = (p * places[:, None]).sum(-1)
            side = round(share.shape[1] ** 0.5)
            want += F.interpolate(share.view(3, 1, side, side), (16, 16), mode="bilinear").flatten(1)
        assert torch.allclose(total[0], want, atol=1e-5)


def test_a_u_net_has_its_processors_back_and_a_layer_that_is_not_there_is_told(tiny_pipe):
    before = dict(tiny_pipe.unet.attn_processors)
    drawn(tiny_pipe, consistory(tiny_pipe))
    after = tiny_pipe.unet.attn_processors
    assert all(after[name] is before[name] for name in before)
    with pytest.raises(ValueError, match="'up_blocks.7'"):
        drawn(tiny_pipe, consistory(tiny_pipe, layers="up_blocks.7"))
    with pytest.raises(ValueError, match="no whole rows"):
        neighbours.SubjectPlan.among(1, 1.0, words=words(tiny_pipe, story=STORY[:1])).look(
            tiny_pipe.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2,
            torch.zeros(1, 6, 16),
            torch.zeros(1, 77, 32),
        )


# ------------------------------------------------------------------------------------------ picks
def picks_with(mask, rate, step=0):
    class Fixed(neighbours.SubjectPicks):
        def subject(self, n):
            return mask

    plan = Fixed.among(2, rate, seeds=(3,), words=torch.zeros(2, 77, dtype=torch.bool))
    plan.now = plan.now._replace(step=step)
    return plan.picks("layer", 20)


def test_picks_are_of_the_subject_first_and_as_many_as_random_ones():
    mask = torch.zeros(1, 2, 20, dtype=torch.bool)
    mask[0, 0, 3:9], mask[0, 1, :15] = True, True
    picks = picks_with(mask, 0.5)
    assert picks.shape == AttentionPlan.among(2, 0.5, seeds=(3,)).picks("layer", 20).shape == (1, 2, 10)
    assert set(range(3, 9)) <= set(picks[0, 0].tolist()), "all of a small subject, and others"
    assert set(picks[0, 1].tolist()) <= set(range(15)), "of a large one some"
    assert not torch.equal(picks, picks_with(mask, 0.5, step=1)), "drawn anew in each step"


def test_without_a_map_and_at_rate_1_picks_are_those_of_the_paper(tiny_pipe):
    random = AttentionPlan.among(2, 0.5, seeds=(3,)).picks("layer", 20)
    assert torch.equal(picks_with(None, 0.5), random)
    plan = partial(neighbours.SubjectPicks, words=words(tiny_pipe), where=neighbours.Where(DEEP))
    assert near(drawn(tiny_pipe, plan), drawn(tiny_pipe))
    assert not near(drawn(tiny_pipe, plan, consistency=0.3), drawn(tiny_pipe, consistency=0.3))


def test_subject_picks_run_with_windows_and_with_a_bank(tiny_pipe):
    plan = partial(neighbours.SubjectPicks, words=words(tiny_pipe), where=neighbours.Where(DEEP))
    for how in ("passes", "bank", "attention"):
        images = drawn(tiny_pipe, plan, consistency=0.5, window=2, long_story=how)
        assert images.isfinite().all() and not near(
            images, drawn(tiny_pipe, consistency=0.5, window=2, long_story=how)
        )


# ------------------------------------------------------------------------------------------ picks="subject"
def test_the_pipeline_draws_what_the_plan_draws(tiny_pipe):
    """And picks="random", which is the default, what it drew before there was a choice."""
    call = {"consistency": 0.3}
    plan = partial(neighbours.SubjectPicks, words=words(tiny_pipe))
    ours = drawn(tiny_pipe, picks="subject", **call)
    assert torch.equal(ours, drawn(tiny_pipe, plan, **call))
    random = drawn(tiny_pipe, AttentionPlan, picks="random", **call)
    assert torch.equal(random, drawn(tiny_pipe, **call)) and not near(ours, random)
    before = dict(tiny_pipe.unet.attn_processors)
    assert type(before["up_blocks.0.attentions.1.transformer_blocks.0.attn2.processor"]) is AttnProcessor2_0


@pytest.mark.parametrize("rate", [0, 1])
def test_where_nothing_or_everything_is_read_no_subject_is_looked_for(tiny_pipe, rate, monkeypatch):
    monkeypatch.setattr(neighbours.SubjectPicks, "look", None)
    ours = drawn(tiny_pipe, picks="subject", consistency=rate)
    assert torch.equal(ours, drawn(tiny_pipe, consistency=rate))


def test_masks_come_from_earlier_steps_alone(tiny_pipe, monkeypatch):
    """In the first step picks are random: after one step both are the same, after two they are not."""
    kept = []

    def keep(pipe, step, t, tensors):
        kept.append(tensors["latents"].clone())
        return {}

    for picks in ("random", "subject"):
        drawn(tiny_pipe, picks=picks, callback_on_step_end=keep, consistency=0.3)
    same = [torch.equal(a, b) for a, b in zip(kept[:3], kept[3:], strict=True)]
    assert same == [True, False, False]


@pytest.mark.parametrize("how", ["passes", "bank", "attention"])
def test_subject_picks_with_windows(tiny_pipe, how):
    call = {"window": 2, "long_story": how, "consistency": 0.3}
    ours = drawn(tiny_pipe, picks="subject", **call)
    assert ours.isfinite().all() and not near(ours, drawn(tiny_pipe, **call))


def test_subject_picks_with_a_cast_read_nobody_else(tiny_pipe):
    """With both in turn, the bear's panels are those of a story in which the cat's read nobody either."""
    story = "[A] a bear\n[B] a cat\n\n[A] reads\n[B] sleeps\n[A] runs\n[B] waves"
    alone = story.replace("[B] sleeps", "[NC] a cat sleeps").replace("[B] waves", "[NC] a cat waves")
    call = {"picks": "subject", "consistency": 0.3}
    ours, theirs = (drawn(tiny_pipe, story=text, **call) for text in (story, alone))
    assert near(ours[::2], theirs[::2]) and not near(ours[1::2], theirs[1::2])
    assert not near(ours[::2], drawn(tiny_pipe, story=story, consistency=0.3)[::2])


def test_subject_picks_in_a_picture_that_is_not_square(tiny_pipe):
    """The map of a wide picture: a subject on the left half is found in the left half of every layer."""
    call = {"height": 32, "width": 48, "consistency": 0.3}
    ours = drawn(tiny_pipe, picks="subject", **call)
    assert ours.shape[2:] == (8, 12) and not near(ours, drawn(tiny_pipe, **call))
    plan = neighbours.SubjectPlan.among(1, 0.5, words=words(tiny_pipe, story=STORY[:1]), aspect=32 / 48)
    plan.total = (torch.arange(16) < 8).float().expand(16, 16).reshape(1, 1, -1) + 1
    for rows, columns in ((8, 12), (4, 6), (16, 24)):
        found = plan.subject(rows * columns).view(rows, columns)
        assert torch.equal(found, (torch.arange(columns) < columns // 2).expand(rows, columns))


def test_several_stories_draw_what_each_draws_alone(tiny_pipe):
    call = {"picks": "subject", "consistency": 0.3, "num_inference_steps": 3, "output_type": "latent"}
    stories = STORY, ["a cat sits", "a cat reads a book in the snow", "a cat waves"]
    many = tiny_pipe.tell_many(stories, [3, 4], **call)
    for story, seed, told in zip(stories, (3, 4), many, strict=True):
        assert near(told.images, tiny_pipe(story, seed=seed, **call).images)


def test_a_recorder_sees_what_subject_picks_read(tiny_pipe):
    from storydiff_lite.attention_maps import AttentionRecorder

    recorder = AttentionRecorder(steps=[0, 2], grid=None)
    call = {"picks": "subject", "consistency": 0.3}
    assert torch.equal(drawn(tiny_pipe, recorder=recorder, **call), drawn(tiny_pipe, **call))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"picks": "noun"}, "picks is 'noun'; it must be 'random' or 'subject'"),
        (
            {"picks": "subject", "resume": (1, torch.zeros(3, 4, 8, 8))},
            "resume does not go with picks='subject'",
        ),
    ],
)
def test_what_subject_picks_do_not_go_with_is_told_before_anything_is_drawn(tiny_pipe, call, words):
    tiny_pipe.unet.forward = None
    with pytest.raises(ValueError, match=words):
        tiny_pipe(STORY, **{"consistency": 0.5} | call)


def test_subject_picks_of_portable_numbers(tiny_pipe, monkeypatch):
    """In the first step the tokens with the smallest words are picked; then those of the subject."""
    plan = neighbours.SubjectPicks.among(3, 0.25, (5,), words=words(tiny_pipe))
    plan.draw = portable.PortableOrder(["layer"])
    first = [pick(5, panel, 0, 0, 64, 16).tolist() for panel in range(3)]
    assert plan.picks("layer", 64)[0].tolist() == first
    subject = torch.arange(64) % 3 == 0  # 22 tokens
    monkeypatch.setattr(plan, "subject", lambda n: subject.expand(1, 3, n))
    for panel, found in enumerate(plan.picks("layer", 64)[0].tolist()):
        drawn_words = portable.random_words(5, panel, portable.PICKS, 0, 64)
        assert found == sorted(sorted(range(0, 64, 3), key=lambda i: drawn_words[i])[:16])
    call = {"picks": "subject", "consistency": 0.3, "generator": "portable"}
    assert torch.equal(drawn(tiny_pipe, **call), drawn(tiny_pipe, **call))
    assert not near(drawn(tiny_pipe, **call), drawn(tiny_pipe, **call | {"picks": "random"}))


def test_another_plan_or_another_kind_of_u_net_is_told(tiny_pipe):
    with pytest.raises(ValueError, match="draws with another one"):
        drawn(tiny_pipe, neighbours.StyleAligned, picks="subject", consistency=0.5)
    with pytest.raises(ValueError, match="it is no U-Net of SDXL's kind"):
        neighbours.watched_layers(tiny_pipe.unet, neighbours.Where("up_blocks.7"))


def test_words_are_found_between_the_ends_also_with_an_identity(tiny_pipe, monkeypatch):
    """Before the identity is read the trigger word is not there, then the class token is, once a picture."""
    ids = tiny_pipe.prompts.ids(STORY)[:, 0]
    assert torch.equal(neighbours.between_ends(ids, tiny_pipe.tokenizer.eos_token_id), words(tiny_pipe))
    panels = as_panels(["a man img reads", "a bear sleeps on the beach"])
    prompt = tiny_pipe.encode_identity_prompt("a man img reads", 3)
    before, later = word_tokens(tiny_pipe, panels, [prompt, None])
    assert before.sum(1).tolist() == [3, 6] and later.sum(1).tolist() == [5, 6]
    plan = neighbours.SubjectPlan.among(2, 0.5, words=before, later=(2, later))
    seen = []
    monkeypatch.setattr(
        neighbours.subject, "word_share", lambda attn, x, states, words, aspect: seen.append(words) or x
    )
    for step in range(4):
        plan.now = plan.now._replace(step=step)
        plan.look(None, torch.zeros(2, neighbours.subject.GRID**2), torch.zeros(2, 77, 4))
    assert [torch.equal(w, later) for w in seen] == [False, False, True, True]


# ------------------------------------------------------------------------------------------ text
PHRASE = "a grey bear in a red outfit"


def encoder(pipe, kind, **settings):
    parts = pipe.text_encoder, pipe.text_encoder_2, pipe.tokenizer, pipe.tokenizer_2
    return kind(*parts, **settings)


def test_a_phrase_at_the_beginning_does_not_depend_on_what_follows(tiny_pipe):
    states, _ = tiny_pipe.prompts([PHRASE, f"{PHRASE} reads in the forest"])
    n = len(tiny_pipe.tokenizer(PHRASE).input_ids) - 2
    assert torch.allclose(states[0, : 1 + n], states[1, : 1 + n], atol=1e-5)
    assert not torch.allclose(states[0, 1 + n], states[1, 1 + n], atol=1e-3)


def test_the_phrase_stands_where_the_short_form_stood(tiny_pipe):
    carried = encoder(tiny_pipe, neighbours.CarriedText, phrases={"a bear": PHRASE})
    texts = ["a bear reads", "a bearded man reads", None, "a bear"]
    plain, pooled = tiny_pipe.prompts.distinct(texts)
    states, pooled_too = carried.distinct(texts)
    told, _ = tiny_pipe.prompts([PHRASE])
    n = len(tiny_pipe.tokenizer(PHRASE).input_ids) - 2
    for row in (0, 3):
        assert torch.allclose(states[row, 1 : 1 + n], told[0, 1 : 1 + n], atol=1e-5)
        assert torch.equal(states[row, 1 + n :], plain[row, 3 : 77 + 2 - n]), "the rest moves back"
    assert torch.equal(states[1:3], plain[1:3]) and torch.equal(pooled, pooled_too)
    same = encoder(tiny_pipe, neighbours.CarriedText, phrases={"a bear": "a bear"}).distinct(texts)
    assert torch.allclose(same[0], plain, atol=1e-5)
    longer = encoder(tiny_pipe, neighbours.CarriedText, phrases={"a grey bear in": "it"})
    assert longer.distinct(["a grey bear in here"])[0].shape == (1, 77, 32)


def test_carrying_reaches_the_picture(tiny_pipe):
    plain, kind = drawn(tiny_pipe, consistency=0), neighbours.CarriedText
    assert near(drawn(tiny_pipe, encoder=partial(kind, phrases={"a cat": PHRASE}), consistency=0), plain)
    assert not near(drawn(tiny_pipe, encoder=partial(kind, phrases={"a bear": PHRASE}), consistency=0), plain)
    assert tiny_pipe.prompt_encoder is PromptEncoder, "and the pipeline has its own encoder back"


TOLD = f"{PHRASE} reads in the forest\nhe sleeps on the beach\na cat waves"


def test_a_story_with_he_is_drawn_as_if_the_text_were_carried_by_hand(tiny_pipe):
    """And in its own panel alone: the first, which says it, is drawn as ever."""
    by_hand = partial(neighbours.CarriedText, phrases={"a bear": PHRASE})
    spelled = [f"{PHRASE} reads in the forest", "a bear sleeps on the beach", "a cat waves"]
    call = {"consistency": 0.5}
    ours = drawn(tiny_pipe, story=TOLD, **call)
    assert torch.equal(ours, drawn(tiny_pipe, encoder=by_hand, story=spelled, **call))
    plain, alone = (drawn(tiny_pipe, story=s, consistency=0) for s in (spelled, TOLD))
    assert [near(a, b) for a, b in zip(plain, alone, strict=True)] == [True, False, True]


def test_in_a_batch_of_stories_each_panel_carries_what_it_says(tiny_pipe):
    """The same prompt stands for a grey bear in one story, for another in the next, and for itself."""
    stories = [
        TOLD,
        TOLD.replace("grey", "brown"),
        [Panel("a bear sleeps on the beach"), Panel("a cat"), Panel("a bear waves")],
    ]
    call = {"num_inference_steps": 2, "output_type": "latent", "consistency": 0.5}
    for i, told in enumerate(tiny_pipe.tell_many(stories, [0, 0, 0], **call)):
        assert near(told.images, tiny_pipe(stories[i], **call).images)


@pytest.mark.parametrize("more", [{"guidance_scale": 1}, {"window": 2}, {"window": 1}])
def test_carried_text_without_guidance_and_with_windows(tiny_pipe, more):
    """Long stories encode their prompts when a pass needs them; what is carried is the same."""
    panels = read_story(TOLD)
    want = drawn(tiny_pipe, story=panels, consistency=0, **more)
    whole = drawn(tiny_pipe, story=panels, consistency=0, guidance_scale=more.get("guidance_scale", 5.0))
    assert near(want, whole)


def test_a_phrase_that_does_not_fit_is_cut_behind_and_a_warning_says_so(tiny_pipe):
    carrying = neighbours.Carrying(tiny_pipe.prompts)
    text = "a bear " + "very " * 70 + "tired"
    with pytest.warns(UserWarning, match="these words were cut: '.*tired'"):
        (fitted,) = carrying.fit([neighbours.Carried(text, "a bear", PHRASE)])
    assert len(tiny_pipe.tokenizer(fitted.full_prompt).input_ids) == 77
    states, _ = carrying.distinct([fitted])
    assert states.shape == (1, 77, 32)
    plain = ["a bear reads", None]
    assert carrying.fit(plain) == plain
    assert torch.equal(carrying.distinct(plain)[0], tiny_pipe.prompts.distinct(plain)[0])


def test_words_of_a_prompt_that_carries_are_those_of_the_phrase_too(tiny_pipe):
    panels = read_story(TOLD)
    found, _ = word_tokens(tiny_pipe, panels, [None] * 3)
    n = [len(tiny_pipe.tokenizer(p.full_prompt).input_ids) - 2 for p in panels]
    assert found.sum(1).tolist() == n and n[1] > len(tiny_pipe.tokenizer(panels[1].prompt).input_ids) - 2


def test_reweighting_changes_singular_values_and_nothing_else():
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(neighbours.reweighted(x, 0, 1), x, atol=1e-5)
    assert torch.allclose(neighbours.reweighted(x, 0, 0.05), 0.05 * x, atol=1e-5)
    s = torch.linalg.svdvals(x)
    assert torch.allclose(
        torch.linalg.svdvals(neighbours.reweighted(x, 0.1, 1)), s * (0.1 * s).exp(), atol=1e-4
    )


def test_one_prompt_holds_all_frames_and_panels_differ_by_the_weights_alone(tiny_pipe):
    whole, _ = tiny_pipe.prompts(["a bear reads in the forest sleeps on the beach runs in the snow"])
    alone, _ = encoder(tiny_pipe, neighbours.OnePrompt, svr=False).distinct(STORY)
    assert torch.allclose(alone, whole.expand(3, -1, -1), atol=1e-5)
    states, pooled = encoder(tiny_pipe, neighbours.OnePrompt).distinct(STORY)
    assert torch.allclose(states[:, :3], whole[:, :3].expand(3, -1, -1), atol=1e-5), "who it is about stays"
    frames = [slice(3, 7), slice(7, 11), slice(11, 15)]
    for j in range(3):
        size = [float(states[j, f].norm() / whole[0, f].norm()) for f in frames]
        assert size[j] > 5 * max(s for k, s in enumerate(size) if k != j)
    assert pooled.shape[0] == 3
    twice, _ = encoder(tiny_pipe, neighbours.OnePrompt, ipca=True).distinct(STORY)
    none, _ = encoder(tiny_pipe, neighbours.OnePrompt, ipca=True).distinct([None, ""])
    assert twice.shape == (3, 154, 32) and none.shape == (2, 154, 32)
    assert torch.equal(twice[:, 77:80], twice[:, :3]) and not twice[:, 80:].any()
    assert drawn(tiny_pipe, encoder=partial(neighbours.OnePrompt, ipca=True), consistency=0).isfinite().all()


def test_frames_that_are_reweighted_by_nothing_are_one_prompt_alone(tiny_pipe, monkeypatch):
    from storydiff_lite.neighbours import one_prompt

    for name in ("LOUDER", "SILENT"):
        monkeypatch.setattr(one_prompt, name, (0, 1))
    nothing, alone = (
        drawn(tiny_pipe, encoder=partial(neighbours.OnePrompt, svr=svr), consistency=0)
        for svr in (True, False)
    )
    assert near(nothing, alone)


def test_a_pipeline_that_reads_prompts_otherwise_has_another_fingerprint(tiny_pipe):
    from storydiff_lite.tell.fingerprint import pipeline_print

    before = pipeline_print(tiny_pipe)
    with neighbours.drawing(tiny_pipe, encoder=neighbours.OnePrompt):
        assert pipeline_print(tiny_pipe) != before
    assert pipeline_print(tiny_pipe) == before


# ------------------------------------------------------------------------------------------ the experiment
def test_stories_say_the_looks_as_often_as_their_setting_asks():
    for i in range(6):
        who, phrase = experiment.described(i)
        assert (
            world.mentioned(phrase)["species"]
            == who.species
            == world.mentioned(experiments.story(i)[0])["species"]
        )
        for text, times in ((None, 0), ("once", 1), ("carried", 1), ("every", 4)):
            prompts = experiment.prompts_of(i, text)
            carried = [getattr(p, "carried", None) for p in prompts]
            prompts = [getattr(p, "prompt", p) for p in prompts]
            assert [p.startswith(phrase) for p in prompts] == [True] * times + [False] * (4 - times)
            plain = [world.mentioned(p) for p in experiments.story(i)]
            assert [world.mentioned(p)["scene"] for p in prompts] == [m["scene"] for m in plain]
            # where the phrase is written it is not carried too: "a girl with ..." begins with "a girl"
            short = " ".join(experiments.story(i)[0].split()[:2])
            assert carried == [None] + [(short, phrase) if text == "carried" else None] * 3


def test_settings_name_what_is_there(tiny_pipe):
    for setting in experiment.neighbours_settings().values():
        prompts = experiment.prompts_of(0, setting.get("text"))
        plan = experiment.plan_of(tiny_pipe, setting, prompts)
        assert (plan is None) == ("plan" not in setting)
        assert plan is None or plan(torch.ones(4, 4, dtype=torch.bool), 1.0).seeds == (0,)
        made = experiment.encoder_of(setting)
        assert made is None or isinstance(encoder(tiny_pipe, made), PromptEncoder)
    known = set(experiment.neighbours_settings())
    assert set(experiment.EXPERIMENT.golden) <= known


def test_measures_of_a_mask():
    truth = torch.tensor([True, True, False, False])
    assert experiment.overlap(torch.tensor([True, False, True, False]), truth) == pytest.approx(1 / 3)
    assert experiment.area_under_curve(torch.tensor([4.0, 3.0, 2.0, 1.0]), truth) == 1
    assert experiment.area_under_curve(torch.tensor([1.0, 2.0, 3.0, 4.0]), truth) == 0
    assert experiment.area_under_curve(torch.tensor([4.0, 1.0, 3.0, 2.0]), truth) == 0.5


def test_true_subjects_are_where_the_character_is():
    for i in range(4):
        picture, prompt = experiment.posed(i)
        truth = experiment.true_subject(picture).view(16, 16)
        assert 0.05 < truth.float().mean() < 0.5
        x, y = world.joints(picture)["0.head"]
        assert truth[min(15, int(16 * y)), min(15, int(16 * x))], "the head"
        named = world.mentioned(prompt)
        assert (named["scene"], named["action"]) == (picture.scene, picture.actors[0].action)


def test_lists_are_those_of_the_gather_when_everything_may_be_read():
    plan = Everything.among(3, 1.0, seeds=(0, 1), words=torch.zeros(3, 77, dtype=torch.bool), dropout=0.0)
    whole = torch.arange(9).expand(2, 2, 3, 9)
    assert torch.equal(torch.stack(plan.lists("layer", 9, 2)), reading_lists(whole, 9).flatten(0, 2))


# ------------------------------------------------------------------------------------------ the record
def test_the_record_is_of_these_settings():
    """It may hold fewer than a whole run has; the chapter says which are missing."""
    record, settings = experiments.load("neighbours"), experiment.neighbours_settings()
    assert {"plain", "rate 1"} <= set(record["settings"]) and record["settings"].items() <= settings.items()
    assert {r["setting"] for r in record["golden"]["rows"]} <= set(record["rows"])
    assert all(record["summary"][name]["seconds"] > 0 for name in record["rows"])


def test_the_record_can_be_made_anew(monkeypatch, tmp_path):
    """One setting and one story of it, the whole way that ``python -m storydiff_lite.experiments`` goes."""
    monkeypatch.chdir(tmp_path)  # where checkpoints of records go
    few, sweep = dict(list(experiment.neighbours_settings().items())[:1]), consistency.sweep
    monkeypatch.setattr(
        consistency, "sweep", lambda record, settings, *how, **more: sweep(record, few, *how, **more)
    )
    monkeypatch.setattr(experiment, "STEPS", 2)
    record = experiment.EXPERIMENT.run(1)
    (name,) = few
    assert set(record["rows"]) == {name} and [r["seed"] for r in record["rows"][name]] == [0]
    assert record["summary"][name]["seconds"] > 0 and record["masks"]["pictures"] == 2
