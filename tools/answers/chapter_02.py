"""Answers to the exercises of chapter 02, trigger words and class tokens."""

from __future__ import annotations

import torch

from storydiff_lite.exercises.chapter_02 import BOS, EOS

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- expand


def _expand(ids, trigger, n):
    place = ids.index(trigger)
    return ids[: place - 1] + [ids[place - 1]] * n + ids[place + 1 :]


def _expand_by_walking(ids, trigger, n):
    out = []
    for k, i in enumerate(ids):
        if i == trigger:
            continue
        out.extend([i] * (n if ids[k + 1 : k + 2] == [trigger] else 1))
    return out


def _trigger_stays(ids, trigger, n):
    place = ids.index(trigger)
    return ids[: place - 1] + [ids[place - 1]] * n + ids[place:]


def _one_too_many(ids, trigger, n):
    place = ids.index(trigger)
    return ids[:place] + [ids[place - 1]] * n + ids[place + 1 :]


def _trigger_repeated(ids, trigger, n):
    place = ids.index(trigger)
    return ids[:place] + [trigger] * n + ids[place + 1 :]


def _wrong_word(ids, trigger, n):
    clean = [i for i in ids if i != trigger]
    place = ids.index(trigger)  # the word that stands there now came after the trigger
    return clean[:place] + [clean[place]] * n + clean[place + 1 :]


ANSWERS["expand"] = Answers(
    right=[_expand, _expand_by_walking],
    wrong={
        "the trigger stays": (_trigger_stays, "still in there"),
        "one class token too many": (_one_too_many, "one too many"),
        "the trigger repeated": (_trigger_repeated, "the trigger that you repeat"),
        "expanded at the wrong index": (_wrong_word, "word after the trigger"),
    },
)


# ---------------------------------------------------------------------------------------- class-mask


def _mask(ids, trigger, n, length):
    start = ids.index(trigger) - 1
    return [start <= i < start + n for i in range(length)]


def _mask_by_adding(ids, trigger, n, length):
    start = ids.index(trigger) - 1
    return [False] * start + [True] * n + [False] * (length - start - n)


def _without_bos(ids, trigger, n, length):
    return _mask(ids[1:], trigger, n, length)


def _at_the_trigger(ids, trigger, n, length):
    start = ids.index(trigger)
    return [start <= i < start + n for i in range(length)]


def _one_place(ids, trigger, n, length):
    return _mask(ids, trigger, 1, length)


ANSWERS["class-mask"] = Answers(
    right=[_mask, _mask_by_adding],
    wrong={
        "shifted by BOS": (_without_bos, "BOS"),
        "begun at the trigger": (_at_the_trigger, "before the trigger"),
        "one place only": (_one_place, "one for each picture"),
    },
)


# ---------------------------------------------------------------------------------------- fit-77


def _fit(ids, length, pad):
    if len(ids) > length:
        ids = ids[: length - 1] + [EOS]
    return ids + [pad] * (length - len(ids))


def _fit_by_slices(ids, length, pad):
    body = ids[:-1][: length - 1] + [EOS]
    return (body + [pad] * length)[:length]


def _cut_anyhow(ids, length, pad):
    return ids[:length] + [pad] * (length - len(ids))


def _padded_before_eos(ids, length, pad):
    return ids[:-1][: length - 1] + [pad] * max(0, length - len(ids)) + [EOS]


def _cut_only(ids, length, pad):
    return ids if len(ids) <= length else ids[: length - 1] + [EOS]


def _eos_as_padding(ids, length, pad):
    return _fit(ids, length, EOS)


ANSWERS["fit-77"] = Answers(
    right=[_fit, _fit_by_slices],
    wrong={
        "EOS lost": (_cut_anyhow, "EOS is lost"),
        "padding before EOS": (_padded_before_eos, "before EOS"),
        "short ones left short": (_cut_only, "not filled"),
        "always padded with EOS": (_eos_as_padding, "second tokenizer"),
    },
)


# ---------------------------------------------------------------------------------------- check-trigger


def _complaint(ids, trigger, punctuation):
    places = [k for k, i in enumerate(ids) if i == trigger]
    if len(places) != 1:
        return "count"
    before = ids[places[0] - 1]
    return "noun" if before == BOS or before in punctuation else None


def _complaint_by_counting(ids, trigger, punctuation):
    if ids.count(trigger) != 1:
        return "count"
    return "noun" if ids[ids.index(trigger) - 1] in {BOS, *punctuation} else None


def _never(ids, trigger, punctuation):
    return None


def _bos_is_a_noun(ids, trigger, punctuation):
    got = _complaint(ids, trigger, punctuation)
    return None if got == "noun" and ids[ids.index(trigger) - 1] == BOS else got


def _two_are_fine(ids, trigger, punctuation):
    if trigger not in ids:
        return "count"
    return "noun" if ids[ids.index(trigger) - 1] in {BOS, *punctuation} else None


def _comma_is_a_noun(ids, trigger, punctuation):
    return _complaint(ids, trigger, ())


ANSWERS["check-trigger"] = Answers(
    right=[_complaint, _complaint_by_counting],
    wrong={
        "never complains": (_never, "no trigger at all"),
        "BOS taken for a noun": (_bos_is_a_noun, "BOS is no noun"),
        "two accepted": (_two_are_fine, "Two triggers"),
        "a comma taken for a noun": (_comma_is_a_noun, "comma is no noun"),
    },
)


# ---------------------------------------------------------------------------------------- two-prompts


def _two_prompts(ids, trigger, n, length, pad):
    c = ids.index(trigger) - 1
    expanded, alone = ids[:c] + [ids[c]] * n + ids[c + 2 :], ids[: c + 1] + ids[c + 2 :]
    mask = [c <= j < c + n for j in range(length)]
    return _fit(expanded, length, pad), _fit(alone, length, pad), mask


def _two_prompts_by_walking(ids, trigger, n, length, pad):
    alone = [i for i in ids if i != trigger]
    expanded = _expand_by_walking(ids, trigger, n)
    place = ids.index(trigger) - 1
    mask = torch.zeros(length, dtype=torch.bool)
    mask[place : place + n] = True
    return [_fit(expanded, length, pad), _fit(alone, length, pad), mask.tolist()]


def _cut(ids, length, pad):
    return (ids + [pad] * length)[:length]


def _as_it_stands(ids, trigger, n, length, pad):
    c = ids.index(trigger)
    mask = [c <= j < c + n for j in range(length)]
    alone = [i for i in ids if i != trigger]
    expanded = ids[:c] + [ids[c - 1]] * n + ids[c + 1 :]
    return _cut(expanded, length, pad), _cut(alone, length, pad), mask


def _eos_still_lost(ids, trigger, n, length, pad):
    c = ids.index(trigger) - 1
    alone, mask = [i for i in ids if i != trigger], [c <= j < c + n for j in range(length)]
    return _cut(_expand(ids, trigger, n), length, pad), _cut(alone, length, pad), mask


def _mask_still_late(ids, trigger, n, length, pad):
    expanded, alone, _ = _two_prompts(ids, trigger, n, length, pad)
    return expanded, alone, _mask_one_late(ids, trigger, n, length, pad)


def _noun_taken_out(ids, trigger, n, length, pad):
    expanded, _, mask = _two_prompts(ids, trigger, n, length, pad)
    return expanded, _without_noun(ids, trigger, n, length, pad), mask


def _one_noun_more(ids, trigger, n, length, pad):
    return _fit(_one_too_many(ids, trigger, n), length, pad)


def _without_noun(ids, trigger, n, length, pad):
    c = ids.index(trigger) - 1
    return _fit(ids[:c] + ids[c + 2 :], length, pad)


def _mask_one_late(ids, trigger, n, length, pad):
    c = ids.index(trigger)
    return [c <= j < c + n for j in range(length)]


ANSWERS["two-prompts"] = Answers(
    right=[_two_prompts, _two_prompts_by_walking],
    wrong={
        "as it stands": (_as_it_stands, "or the noun's"),
        "EOS still lost": (_eos_still_lost, "EOS is lost where"),
        "mask still late": (_mask_still_late, "mask is one place late"),
        "the noun taken out": (_noun_taken_out, "lost its noun"),
    },
)


# ---------------------------------------------------------------------------------------- story-prompts


def _story_prompts(prompts, trigger, n, length, pad, expand, mask, fit):
    rows, masks = [], []
    for ids in prompts:
        shows = trigger in ids
        rows.append(fit(expand(ids, trigger, n) if shows else ids, length, pad))
        masks.append(mask(ids, trigger, n, length) if shows else [False] * length)
    return rows, masks


def _story_prompts_as_tensors(prompts, trigger, n, length, pad, expand, mask, fit):
    there = [ids.count(trigger) == 1 for ids in prompts]
    longer = [expand(ids, trigger, n) if k else ids for ids, k in zip(prompts, there, strict=True)]
    flags = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, (ids, k) in enumerate(zip(prompts, there, strict=True)):
        if k:
            flags[row] = torch.as_tensor(mask(ids, trigger, n, length))
    return torch.tensor([fit(ids, length, pad) for ids in longer]), flags


def _fitted_first(prompts, trigger, n, length, pad, expand, mask, fit):
    rows = [
        expand(fit(ids, length, pad), trigger, n) if trigger in ids else fit(ids, length, pad)
        for ids in prompts
    ]
    return rows, _story_prompts(prompts, trigger, n, length, pad, expand, mask, fit)[1]


def _everybody_shows(prompts, trigger, n, length, pad, expand, mask, fit):
    rows = [fit(expand(ids, trigger, n), length, pad) for ids in prompts]
    return rows, [mask(ids, trigger, n, length) for ids in prompts]


def _others_left_out(prompts, trigger, n, length, pad, expand, mask, fit):
    shown = [ids for ids in prompts if trigger in ids]
    return _story_prompts(shown, trigger, n, length, pad, expand, mask, fit)


def _masks_of_the_first(prompts, trigger, n, length, pad, expand, mask, fit):
    rows, _ = _story_prompts(prompts, trigger, n, length, pad, expand, mask, fit)
    return rows, _first_mask(prompts, trigger, n, length, pad, mask)


def _first_mask(prompts, trigger, n, length, pad, mask):
    first = prompts[0]
    return [mask(first, trigger, n, length) if trigger in first else [False] * length for _ in prompts]


def _not_expanded(prompts, trigger, n, length, pad, expand, mask, fit):
    rows = _trigger_left(prompts, trigger, n, length, pad, fit)
    return rows, _story_prompts(prompts, trigger, n, length, pad, expand, mask, fit)[1]


def _trigger_left(prompts, trigger, n, length, pad, fit):
    return [fit(ids, length, pad) for ids in prompts]


ANSWERS["story-prompts"] = Answers(
    right=[_story_prompts, _story_prompts_as_tensors],
    wrong={
        "fitted before expanded": (_fitted_first, "already been expanded"),
        "every panel shows the character": (_everybody_shows, "has no trigger"),
        "panels left out": (_others_left_out, "is drawn, too"),
        "one mask for all": (_masks_of_the_first, "mask of the first one"),
        "not expanded": (_not_expanded, "expand before you fit"),
    },
)
