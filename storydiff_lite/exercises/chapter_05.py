"""Exercises of chapter 05, consistent self-attention."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_no_mistake, expect_number, expect_tensor, generator, records, same

known = records("chapter_05")


def _numbers(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------- consistent


@exercise("consistent")
def consistent(answer):
    """``answer(q, k, v, picks) -> [F, N, d]``; q, k, v [F, N, d], one head, picks: F LongTensors."""
    q, k, v = (_numbers(s, 3, 5, 4) for s in (1, 2, 3))
    picks = [torch.tensor(p) for p in ([0, 3], [1, 2], [2, 4])]
    args = q, k, v, picks
    got = answer(q.clone(), k.clone(), v.clone(), [p.clone() for p in picks])
    expect_tensor(got, (3, 5, 4))
    wrong = {
        "plain": "This is plain self-attention: no panel reads another.",
        "own_dropped": "A panel's own tokens are missing from what it reads.",
        "own_twice": "Some own tokens are read twice: the sample is drawn from the OTHER panels (Eq. 2).",
        "no_scale": "The scores are not divided by the square root of d (Eq. 3).",
        "picks_of_the_reader": "Of panel j the tokens picks[j] may be read, whoever reads them.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.consistent(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- draw-picks


@exercise("draw-picks")
def draw_picks(answer):
    """``answer(panels, tokens, rate, generator) -> LongTensor [F, K]``, K = rate * tokens rounded."""

    def draw(g):
        return answer(4, 30, 0.3, g)

    g = generator(5)
    got = draw(g)
    expect(isinstance(got, torch.Tensor), f"Return a tensor of indices [4, 9], not {type(got).__name__}.")
    expect(
        got.ndim != 3,
        f"The shape is {list(got.shape)}: a draw per head. All heads read the same tokens, since a token is "
        "read whole.",
    )
    expect(
        not got.dtype.is_floating_point and got.dtype != torch.bool,
        "Return the indices of the tokens, a fixed number of them, not a yes or no for each token.",
    )
    expect_tensor(got, (4, 9))
    expect(0 <= int(got.min()) and int(got.max()) < 30, "Indices of 30 tokens lie between 0 and 29.")
    rows = [sorted(row.tolist()) for row in got]
    expect(
        all(len(set(r)) == len(r) for r in rows), "A token was drawn more than once: sample without repeats."
    )
    expect(
        any(r != list(range(9)) for r in rows), "The same first tokens are read every time: draw at random."
    )
    expect(len({tuple(r) for r in rows}) > 1, "Draw for each panel: here all lend the same places.")
    expect(
        rows != [sorted(row.tolist()) for row in draw(g)],
        "A second call with the same generator, the next layer's, gave the same picks: draw from the "
        "generator that was given.",
    )
    expect(
        rows == [sorted(row.tolist()) for row in draw(generator(5))],
        "The same seed must give the same picks.",
    )


# ---------------------------------------------------------------------------------------- both-halves


@exercise("both-halves")
def both_halves(answer):
    """``answer(x [2F, N, C], attend) -> [2F, N, C]``; ``attend`` takes the panels [F, N, C] of one half."""
    x = _numbers(7, 6, 4, 3)

    def attend(panels):  # everybody hears everybody who is handed in
        return panels + panels.mean(dim=0, keepdim=True) * torch.linspace(1, 2, 4, dtype=x.dtype)[:, None]

    got = answer(x.clone(), attend)
    expect_tensor(got, (6, 4, 3))
    wrong = {
        "halves_mixed": "The halves read each other. Keep them apart: the unconditional panels must not "
        "know the prompt.",
        "halves_interleaved": "You took every second panel. The batch holds first all unconditional panels, "
        "then the others.",
        "halves_swapped": "The halves came back in the other order: guidance would push away from the "
        "prompt.",
        "one_half_only": "The unconditional half was left as it was. It attends too, within itself.",
    }
    expect_no_mistake(got, known, (x, attend), wrong)
    expect(same(got, known.both_halves(x, attend)), "Some number differs.")


# ---------------------------------------------------------------------------------------- own-share


@exercise("own-share")
def own_share(answer):
    """``answer(weights [N, L], again) -> number``: the own tokens' share when those in ``again`` come twice.

    The first N of the L weights of each query are those of its own panel.
    """
    weights = _numbers(8, 5, 9).softmax(1)
    again = torch.tensor([0, 3])
    got = torch.as_tensor(answer(weights.clone(), again.clone()), dtype=torch.float64)
    expect(got.ndim == 0, f"Return one number, the mean over the queries, not the shape {list(got.shape)}.")
    args = weights, again
    wrong = {
        "not_normalised": "After some tokens came a second time the weights must still sum to 1: divide by "
        "the new sum.",
        "as_if_once": "This is the share before: a token in the pool twice weighs twice.",
        "all_own_twice": "Not all own tokens come twice, only those in `again` were drawn a second time.",
        "first_copy_only": "The copies are own tokens too: count their weight.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.own_share(*args)), "The number differs.")


# ---------------------------------------------------------------------------------------- mend-sharing


@exercise("mend-sharing", builds_on={"consistent": "consistent"})
def mend_sharing(answer, one_head):
    """``answer(q, k, v, picks, heads, one_head) -> [2F, N, C]``: both halves, picks[j] of panel j."""
    q, k, v = (_numbers(s, 6, 4, 8) for s in (11, 12, 13))
    picks = [torch.tensor(p) for p in ([0, 3], [1, 2], [2, 3])]
    args = q, k, v, picks, 2, one_head
    got = answer(q.clone(), k.clone(), v.clone(), [p.clone() for p in picks], 2, one_head)
    expect_tensor(got, (6, 4, 8))
    wrong = {
        "as_it_stands": "That is the cell as it stands: who are the others of a panel, and which channels "
        "belong to one head?",
        "six_panels": "A panel still reads the other half: only panels of its own half are its others.",
        "every_second_channel": "A head still gets every second channel. Its channels stand next to each "
        "other: "
        "the first C / heads of them are those of the first head.",
        "one_head": "All heads were taken for one: each has its own softmax.",
        "heads_back_wrongly": "The heads are right, and came back into other channels: first all channels of "
        "the first head, then those of the second.",
        "halves_back_wrongly": "The halves came back in the other order: without prompts first.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.mended_sharing(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- plan-noise


@exercise("plan-noise")
def plan_noise(answer):
    """``answer(pilot, smallest) -> (without, with, stories, verdict)``; pilot: setting -> [stories]."""
    names = ("none", "none, one noise", "up blocks", "up blocks, one noise", "all blocks")
    for seed, gain in ((21, 0.0), (22, 0.25), (23, -0.25)):
        hard = _numbers(seed, 10) * 0.2  # how hard a story is: the same under every setting
        own = _numbers(seed + 10, len(names), 10) * 0.05
        own[0] -= 0.9 * own[0].mean()  # without a gain, the mean is far inside its interval
        pilot = {n: (0.5 + hard + e).clamp(0, 1) for n, e in zip(names, own, strict=True)}
        pilot[names[3]] = (pilot[names[2]] + gain + own[0]).clamp(0, 1)
        args = pilot, 0.04
        got = answer({k: v.clone() for k, v in pilot.items()}, 0.04)
        expect(
            isinstance(got, (list, tuple)) and len(got) == 4,
            "Return four things: the setting without, the setting with, the number of stories, the verdict.",
        )
        first, second, stories, verdict = got
        expect(
            first in names and second in names,
            f"The settings of the pilot are {', '.join(names)}; got {first!r} and {second!r}.",
        )
        expect(
            {first, second} != {"none", "up blocks, one noise"},
            "These two differ in the sharing and in the noise: nobody could say which of them did it.",
        )
        expect(
            {first, second} != {"none", "none, one noise"},
            "That is what one noise does without sharing; the question is what it adds on top of sharing.",
        )
        want = known.plan_noise(*args)
        expect(
            (first, second) != (want[1], want[0]),
            "The other way round: first the setting without one noise, then the one with it.",
        )
        expect(
            (first, second) == want[:2],
            f"{first!r} and {second!r} differ in something else than the noise, or in nothing.",
        )
        stories = int(expect_number(stories))
        expect(
            stories != known.unpaired(*args)[2],
            "You took these for two samples of different stories. The stories are the same under both: "
            "what varies is the difference, story by story.",
        )
        expect(
            stories != known.of_the_pilot(*args)[2],
            "That is how many stories the pilot has, not how many the experiment needs.",
        )
        expect(
            stories == want[2],
            f"{stories} stories differ from what 1.96 s / sqrt(n) <= {args[1]} asks for, the least whole n.",
        )
        expect(
            verdict in ("more", "less", "not shown"),
            f"The verdict is {verdict!r}; expected 'more', 'less' or 'not shown'.",
        )
        expect(
            verdict != known.by_the_mean(*args)[3] or verdict == want[3],
            "You read the mean alone: where its 95% interval holds 0, no difference is shown.",
        )
        expect(verdict == want[3], f"The pilot does not say {verdict!r}: look at both ends of the interval.")
