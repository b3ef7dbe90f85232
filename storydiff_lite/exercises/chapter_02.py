"""Exercises of chapter 02, trigger words and class tokens."""

from __future__ import annotations

from . import Wrong, exercise, expect

BOS, EOS, TRIGGER = 49406, 49407, 49408
_CAPTION = [BOS, 320, 4298, TRIGGER, 3761, 530, 518, 2583, EOS]  # a bear img reading in the snow
_PHOTO = [BOS, 320, 1125, 539, 320, 786, TRIGGER, 267, 3309, 320, 4287, EOS]


def _ids(x, what="Your answer"):
    """A list of ids (a tensor's list too), or a hint."""
    x = x.tolist() if hasattr(x, "tolist") else x
    expect(isinstance(x, (list, tuple)), f"{what} is a {type(x).__name__}; expected a list of ids.")
    return [int(i) for i in x]


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


@exercise(
    "expand",
    right=[_expand, _expand_by_walking],
    wrong={
        "the trigger stays": (_trigger_stays, "still in there"),
        "one class token too many": (_one_too_many, "one too many"),
        "the trigger repeated": (_trigger_repeated, "the trigger that you repeat"),
        "expanded at the wrong index": (_wrong_word, "word after the trigger"),
    },
)
def expand(answer):
    """``answer(ids, trigger, n) -> ids``: the class token n times, the trigger gone."""
    for ids in (_CAPTION, _PHOTO):
        for n in (3, 2, 1):
            got, args = _ids(answer(list(ids), TRIGGER, n)), (ids, TRIGGER, n)
            if n > 1:
                expect(
                    got != _trigger_repeated(*args),
                    "It is the trigger that you repeat: no text encoder knows that word. Repeat the noun.",
                )
            expect(TRIGGER not in got, "The trigger is still in there: no text encoder knows that word.")
            expect(
                got != _one_too_many(*args),
                f"One class token is one too many: {n} pictures need {n} in all, not {n} more.",
            )
            expect(
                n == 1 or got != _wrong_word(*args),
                "You repeat the word after the trigger: once the trigger is out, the noun is one place left.",
            )
            expect(got == _expand(*args), f"With {n} pictures some id differs: {got}.")


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


@exercise(
    "class-mask",
    right=[_mask, _mask_by_adding],
    wrong={
        "shifted by BOS": (_without_bos, "BOS"),
        "begun at the trigger": (_at_the_trigger, "before the trigger"),
        "one place only": (_one_place, "one for each picture"),
    },
)
def class_mask(answer):
    """``answer(ids, trigger, n, length) -> list of bool`` of that length."""
    for ids in (_CAPTION, _PHOTO):
        for n in (3, 1):
            args = (list(ids), TRIGGER, n, 77)
            got = answer(*args)
            got = got.tolist() if hasattr(got, "tolist") else got
            expect(
                isinstance(got, (list, tuple)), f"That is a {type(got).__name__}; expected a list of bool."
            )
            got = [bool(x) for x in got]
            expect(len(got) == 77, f"The mask has {len(got)} flags; the text encoder reads 77 tokens.")
            expect(
                got != _without_bos(*args),
                "The mask is one place too early: BOS, the first id, has a place of its own.",
            )
            expect(
                got != _at_the_trigger(*args),
                "The mask is one place too late: the class token stands before the trigger.",
            )
            expect(n == 1 or got != _one_place(*args), f"{n} pictures need {n} places, one for each picture.")
            expect(got == _mask(*args), f"With {n} pictures some flag differs.")


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


@exercise(
    "fit-77",
    right=[_fit, _fit_by_slices],
    wrong={
        "EOS lost": (_cut_anyhow, "EOS is lost"),
        "padding before EOS": (_padded_before_eos, "before EOS"),
        "short ones left short": (_cut_only, "not filled"),
        "always padded with EOS": (_eos_as_padding, "second tokenizer"),
    },
)
def fit_77(answer):
    """``answer(ids, length, pad) -> ids`` of that length; ids end with EOS."""
    short = [i for i in _CAPTION if i != TRIGGER]
    long = [BOS, *range(1000, 1090), EOS]
    for ids in (long, short):
        for pad in (0, EOS):
            got = _ids(answer(list(ids), 77, pad))
            if ids is long:
                expect(
                    EOS in got,
                    "EOS is lost: the text encoder takes its pooled output there. Cut one word more.",
                )
            else:
                expect(len(got) > len(ids), "Short captions are not filled up to the length.")
                if pad == 0:
                    expect(
                        got != _padded_before_eos(ids, 77, pad),
                        "The padding stands before EOS: the pooled output then has read all of it.",
                    )
                    expect(
                        got != _eos_as_padding(ids, 77, pad),
                        'You always pad with EOS: SDXL\'s second tokenizer pads with "!" (id 0).',
                    )
            expect(len(got) == 77, f"That is {len(got)} ids; expected 77.")
            expect(got == _fit(ids, 77, pad), "Some id differs.")


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


@exercise(
    "check-trigger",
    right=[_complaint, _complaint_by_counting],
    wrong={
        "never complains": (_never, "no trigger at all"),
        "BOS taken for a noun": (_bos_is_a_noun, "BOS is no noun"),
        "two accepted": (_two_are_fine, "Two triggers"),
        "a comma taken for a noun": (_comma_is_a_noun, "comma is no noun"),
    },
)
def check_trigger(answer):
    """``answer(ids, trigger, punctuation) -> "count", "noun" or None``."""
    fine, comma = list(_CAPTION), 267
    plain = [i for i in fine if i != TRIGGER]
    cases = [
        (plain, "count", "A caption with no trigger at all must be refused: answer 'count'."),
        (
            [BOS, TRIGGER, *plain[1:]],
            "noun",
            "The trigger may not come first: BOS is no noun. Answer 'noun'.",
        ),
        (
            [*fine[:-1], 786, TRIGGER, EOS],
            "count",
            "Two triggers would be one identity in two nouns: 'count'.",
        ),
        ([*fine[:3], comma, *fine[3:]], "noun", "A comma is no noun, although it stands before the trigger."),
        (fine, None, "A good caption is refused: answer None for it."),
    ]
    for ids, want, hint in cases:
        got = answer(list(ids), TRIGGER, {comma, 269})
        if got not in ("count", "noun", None):
            raise Wrong(f"The answer is {got!r}; expected 'count', 'noun' or None.")
        expect(got == want, hint)
    expect(
        answer(list(_PHOTO), TRIGGER, {comma}) is None,
        "A comma AFTER the trigger is fine: answer None for it.",
    )
