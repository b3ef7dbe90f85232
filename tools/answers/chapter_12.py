"""Answers to the exercises of chapter 12, the neighbours."""

import torch

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- unchanged

TABLE = {
    "rate 1": set(),
    "first panel also read": {1},
    "AdaIN alone": {1},
    "StyleAligned": {1},
    "ConsiStory, no token is a subject": {1, 2, 3, 4},
    "looks named in panel 1, carried": {1},
}


def _unchanged(method):
    return TABLE[method]


def _unchanged_by_what_is_read(method):
    if method.startswith("ConsiStory"):
        return [1, 2, 3, 4]
    return [] if method == "rate 1" else [1]


def _nobody_ever(method):
    return set()


def _adain_changes_all(method):
    return set() if method == "AdaIN alone" else TABLE[method]


def _style_aligned_changes_all(method):
    return set() if method == "StyleAligned" else TABLE[method]


def _carrying_changes_all(method):
    return set() if method.startswith("looks") else TABLE[method]


def _a_mask_matters_always(method):
    return {1} if method.startswith("ConsiStory") else TABLE[method]


def _rate_1_keeps_the_first(method):
    return {1} if method == "rate 1" else TABLE[method]


def _counted_from_0(method):
    return {p - 1 for p in TABLE[method]}


ANSWERS["unchanged"] = Answers(
    right=[_unchanged, _unchanged_by_what_is_read],
    wrong={
        "nobody is ever drawn as before": (_nobody_ever, "What does panel 1 itself read"),
        "AdaIN changes the first panel": (_adain_changes_all, "its own mean and spread?"),
        "StyleAligned changes the first panel": (_style_aligned_changes_all, "and reads itself"),
        "carrying changes the first panel": (_carrying_changes_all, "In whose"),
        "an empty mask is read": (_a_mask_matters_always, "no token is a subject?"),
        "rate 1 keeps the first": (_rate_1_keeps_the_first, "reads every other"),
        "counted from 0": (_counted_from_0, "numbered 1 to 4"),
    },
)


# ---------------------------------------------------------------------------------------- adain


def _likeness(x, first, amount, axis=0, mean=True, spread=True):
    def of(t):
        return t.mean(axis, keepdim=True), t.std(axis, keepdim=True)

    (m, s), (wanted_m, wanted_s) = of(x), of(first)
    to_m = (1 - amount) * m + amount * wanted_m if mean else m
    to_s = (1 - amount) * s + amount * wanted_s if spread else s
    return (x - m) / s * to_s + to_m


def _adain(x, first, amount):
    return _likeness(x, first, amount)


def _adain_by_channel(x, first, amount):
    columns = []
    for a, b in zip(x.T, first.T, strict=True):
        spread = torch.lerp(a.std(), b.std(), amount)
        columns.append((a - a.mean()) * spread / a.std() + torch.lerp(a.mean(), b.mean(), amount))
    return torch.stack(columns, 1)


def _over_channels(x, first, amount):
    return _likeness(x, first, amount, 1)


def _over_everything(x, first, amount):
    return _likeness(x, first, amount, (0, 1))


def _mean_alone(x, first, amount):
    return _likeness(x, first, amount, spread=False)


def _spread_alone(x, first, amount):
    return _likeness(x, first, amount, mean=False)


def _whole(x, first, amount):
    return _likeness(x, first, 1)


def _other_way(x, first, amount):
    return _likeness(x, first, 1 - amount)


ANSWERS["adain"] = Answers(
    right=[_adain, _adain_by_channel],
    wrong={
        "over the channels": (_over_channels, "over the tokens"),
        "over everything": (_over_everything, "each channel"),
        "the mean alone": (_mean_alone, "the spread too"),
        "the spread alone": (_spread_alone, "the mean too"),
        "wholly": (_whole, "of the way"),
        "the other way": (_other_way, "exchange"),
    },
)


# ---------------------------------------------------------------------------------------- mask-reads


def _mask_reads(i, masks):
    own = {(i, t) for t in range(masks.shape[1])}
    return own | {(j, t) for j in range(len(masks)) if j != i for t in range(masks.shape[1]) if masks[j, t]}


def _mask_reads_by_setting_its_own(i, masks):
    masks = masks.clone()
    masks[i] = True
    return [tuple(pair) for pair in masks.nonzero().tolist()]


def _own_masked(i, masks):
    return [tuple(pair) for pair in masks.nonzero().tolist()]


def _others_only(i, masks):
    return [(j, t) for j, t in masks.nonzero().tolist() if j != i]


def _no_mask(i, masks):
    return [(j, t) for j in range(len(masks)) for t in range(masks.shape[1])]


def _readers_mask(i, masks):
    return [(j, t) for j in range(len(masks)) for t in range(masks.shape[1]) if j == i or masks[i, t]]


def _outside(i, masks):
    return [(j, t) for j in range(len(masks)) for t in range(masks.shape[1]) if j == i or not masks[j, t]]


ANSWERS["mask-reads"] = Answers(
    right=[_mask_reads, _mask_reads_by_setting_its_own],
    wrong={
        "its own masked too": (_own_masked, "scene included"),
        "the others alone": (_others_only, "own tokens are missing"),
        "no mask": (_no_mask, "rate 1"),
        "the reader's mask": (_readers_mask, "mask of the reader"),
        "the background": (_outside, "background"),
    },
)


# ---------------------------------------------------------------------------------------- subject-picks


def _subject_picks(masks, k, generator):
    order = torch.rand(masks.shape, generator=generator) + masks.float()
    return order.argsort(dim=1, descending=True)[:, :k]


def _subject_picks_by_shuffling(masks, k, generator):
    return torch.stack([_one_panel(mask, k, generator) for mask in masks])


def _one_panel(mask, k, generator):
    shuffled = torch.randperm(len(mask), generator=generator)
    return torch.cat([shuffled[mask[shuffled]], shuffled[~mask[shuffled]]])[:k]


def _anywhere(masks, k, generator):
    return torch.rand(masks.shape, generator=generator).argsort(1)[:, :k]


def _too_few(masks, k, generator):
    return _subject_picks(masks, min(k, int(masks[0].sum())), generator)


def _the_first_ones(masks, k, generator):
    return torch.stack([torch.cat([m.nonzero()[:, 0], (~m).nonzero()[:, 0]])[:k] for m in masks])


def _filled_from_the_left(masks, k, generator):
    rows = []
    for m in masks:
        inside = m.nonzero()[:, 0]
        inside = inside[torch.randperm(len(inside), generator=generator)]
        rows.append(torch.cat([inside, (~m).nonzero()[:, 0]])[:k])
    return torch.stack(rows)


def _with_repeats(masks, k, generator):
    rows = []
    for m in masks:
        inside = m.nonzero()[:, 0]
        rows.append(inside[torch.randint(len(inside), (k,), generator=generator)])
    return torch.stack(rows)


def _one_draw(masks, k, generator):
    rows, state = [], generator.get_state()
    for m in masks:
        generator.set_state(state)
        inside, outside = m.nonzero()[:, 0], (~m).nonzero()[:, 0]
        inside = inside[torch.randperm(len(inside), generator=generator)]
        outside = outside[torch.randperm(len(outside), generator=generator)]
        rows.append(torch.cat([inside, outside])[:k])
    return torch.stack(rows)


ANSWERS["subject-picks"] = Answers(
    right=[_subject_picks, _subject_picks_by_shuffling],
    wrong={
        "from anywhere": (_anywhere, "all of its tokens"),
        "fewer than k": (_too_few, "fewer tokens than that"),
        "always the same": (_the_first_ones, "the same tokens of the subject"),
        "filled up from the left": (_filled_from_the_left, "that fill up"),
        "with repeats": (_with_repeats, "twice"),
        "one draw for all panels": (_one_draw, "one of its own"),
    },
)


# ---------------------------------------------------------------------------------------- carry


def _carry(states, told, at, short, phrase):
    return torch.cat([states[:at], told[1 : 1 + phrase], states[at + short :]])[: len(states)]


def _carry_by_index(states, told, at, short, phrase):
    result = torch.empty_like(states)
    for place in range(len(states)):
        if at <= place < at + phrase:
            result[place] = told[1 + place - at]
        else:
            result[place] = states[place if place < at else place - phrase + short]
    return result


def _short_stays(states, told, at, short, phrase):
    return torch.cat([states[:at], told[1 : 1 + phrase], states[at:]])[: len(states)]


def _with_begin(states, told, at, short, phrase):
    return torch.cat([states[:at], told[:phrase], states[at + short :]])[: len(states)]


def _overwritten(states, told, at, short, phrase):
    return torch.cat([states[:at], told[1 : 1 + phrase], states[at + phrase :]])


def _at_the_beginning(states, told, at, short, phrase):
    return _carry(states, told, 1, short, phrase)


def _not_cut(states, told, at, short, phrase):
    return torch.cat([states[:at], told[1 : 1 + phrase], states[at + short :]])


ANSWERS["carry"] = Answers(
    right=[_carry, _carry_by_index],
    wrong={
        "the short form stays": (_short_stays, "still there"),
        "with the begin token": (_with_begin, "begins at place 1"),
        "what followed is overwritten": (_overwritten, "overwritten"),
        "at the beginning": (_at_the_beginning, "stands at place"),
        "longer than before": (_not_cut, "cut off"),
    },
)


# ---------------------------------------------------------------------------------------- mend-followers


def _attended(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v


def _following(q, k, v, amount, partly, *, what="qk", leader=0, own=True):
    """Each panel reads its own tokens and those of ``leader``; what ``what`` names is normalised."""
    rows = []
    for i in range(len(q)):
        j = i - 1 if leader == "before" else leader
        mine = {
            name: partly(t[i], t[0], amount) if name in what else t[i]
            for name, t in {"q": q, "k": k, "v": v}.items()
        }
        keys, values = (torch.cat([*([mine[n]] if own else []), t[j]]) for n, t in (("k", k), ("v", v)))
        rows.append(_attended(mine["q"], keys, values))
    return torch.stack(rows)


def _followers(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly)


def _followers_first_apart(q, k, v, amount, partly):
    """The first panel by plain self-attention, as the chapter does it."""
    rows = [_attended(q[0], k[0], v[0])]
    for a, b, c in zip(q[1:], k[1:], v[1:], strict=True):
        keys = torch.cat([k[0], partly(b, k[0], amount)])
        rows.append(_attended(partly(a, q[0], amount), keys, torch.cat([v[0], c])))
    return torch.stack(rows)


def _as_it_stands(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly, what="qv", leader="before")


def _followers_of_the_last(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly, leader="before")


def _followers_normalise_values(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly, what="qv")


def _followers_normalise_all(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly, what="qkv")


def _followers_keys_plain(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly, what="q")


def _followers_read_first_only(q, k, v, amount, partly):
    return _following(q, k, v, amount, partly, own=False)


def _followers_wholly(q, k, v, amount, partly):
    return _following(q, k, v, 1.0, partly)


ANSWERS["mend-followers"] = Answers(
    right=[_followers, _followers_first_apart],
    wrong={
        "as it was": (_as_it_stands, "Nothing is mended"),
        "the panel before": (_followers_of_the_last, "whom do all read"),
        "values instead of keys": (_followers_normalise_values, "Values are what is read"),
        "values too": (_followers_normalise_all, "beside the keys"),
        "plain keys": (_followers_keys_plain, "as its queries are"),
        "own tokens missing": (_followers_read_first_only, "own tokens are missing"),
        "the whole way": (_followers_wholly, "hand `amount` on"),
    },
)
