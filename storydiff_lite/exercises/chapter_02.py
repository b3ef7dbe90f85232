"""Exercises of chapter 02, trigger words and class tokens."""

from __future__ import annotations

from operator import eq

from . import Wrong, exercise, expect, expect_no_mistake, records

known = records("chapter_02")

BOS, EOS, TRIGGER = 49406, 49407, 49408

_CAPTION = [BOS, 320, 4298, TRIGGER, 3761, 530, 518, 2583, EOS]  # a bear img reading in the snow

_PHOTO = [BOS, 320, 1125, 539, 320, 786, TRIGGER, 267, 3309, 320, 4287, EOS]


def _ids(x, what="Your answer"):
    """A list of ids (a tensor's list too), or a hint."""
    x = x.tolist() if hasattr(x, "tolist") else x
    expect(isinstance(x, (list, tuple)), f"{what} is a {type(x).__name__}; expected a list of ids.")
    return [int(i) for i in x]


# ---------------------------------------------------------------------------------------- expand


@exercise("expand")
def expand(answer):
    """``answer(ids, trigger, n) -> ids``: the class token n times, the trigger gone."""
    for ids in (_CAPTION, _PHOTO):
        for n in (3, 2, 1):
            got, args = _ids(answer(list(ids), TRIGGER, n)), (ids, TRIGGER, n)
            if n > 1:
                expect(
                    got != known.trigger_repeated(*args),
                    "It is the trigger that you repeat: no text encoder knows that word. Repeat the noun.",
                )
            expect(TRIGGER not in got, "The trigger is still in there: no text encoder knows that word.")
            expect(
                got != known.one_too_many(*args),
                f"One class token is one too many: {n} pictures need {n} in all, not {n} more.",
            )
            expect(
                n == 1 or got != known.wrong_word(*args),
                "You repeat the word after the trigger: once the trigger is out, the noun is one place left.",
            )
            expect(got == known.expand(*args), f"With {n} pictures some id differs: {got}.")


# ---------------------------------------------------------------------------------------- class-mask


@exercise("class-mask")
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
            wrong = {
                "without_bos": "The mask is one place too early: BOS, the first id, has a place of its own.",
                "at_the_trigger": "The mask is one place too late: the class token stands before the "
                "trigger.",
            }
            expect_no_mistake(got, known, args, wrong, eq)
            expect(
                n == 1 or got != known.one_place(*args),
                f"{n} pictures need {n} places, one for each picture.",
            )
            expect(got == known.mask(*args), f"With {n} pictures some flag differs.")


# ---------------------------------------------------------------------------------------- fit-77


@exercise("fit-77")
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
                    wrong = {
                        "padded_before_eos": "The padding stands before EOS: the pooled output then has "
                        "read all of it.",
                        "eos_as_padding": 'You always pad with EOS: SDXL\'s second tokenizer pads with "!" '
                        "(id 0).",
                    }
                    expect_no_mistake(got, known, (ids, 77, pad), wrong, eq)
            expect(len(got) == 77, f"That is {len(got)} ids; expected 77.")
            expect(got == known.fit(ids, 77, pad), "Some id differs.")


# ---------------------------------------------------------------------------------------- check-trigger


@exercise("check-trigger")
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


# ---------------------------------------------------------------------------------------- two-prompts


@exercise("two-prompts")
def two_prompts(answer):
    """``answer(ids, trigger, n, length, pad) -> (ids, ids, mask)``: expanded, text alone, class tokens."""
    for ids in (_CAPTION, _PHOTO):
        for n, length, pad in ((3, 20, 0), (1, 77, EOS), (2, 8, 0)):
            args = (list(ids), TRIGGER, n, length, pad)
            got = answer(*args)
            expect(
                isinstance(got, (list, tuple)) and len(got) == 3,
                "Return three lists: the ids with the class tokens, the ids of the text alone, the mask.",
            )
            names = ("The first list", "The second list", "The mask")
            expanded, alone, mask = (_ids(x, what) for x, what in zip(got, names, strict=True))
            for x, what in zip((expanded, alone, mask), names, strict=True):
                expect(len(x) == length, f"{what} has {len(x)} places; expected {length}.")
            wanted, text, place = known.two_prompts(*args)
            expect(
                length == 8 or expanded != known.one_noun_more(*args),
                f"With {n} pictures the noun stands {n + 1} times. Is `c` the trigger's, or the noun's?",
            )
            expect(
                EOS in expanded and EOS in alone,
                f"EOS is lost where {length} places are too few: the text encoder pools its output there.",
            )
            expect(
                alone != known.without_noun(*args),
                "The text alone has lost its noun. Only the trigger is taken out of it.",
            )
            expect(TRIGGER not in alone, "The trigger is still in the text alone.")
            expect(
                list(map(bool, mask)) != known.mask_one_late(*args),
                "The mask is one place late: it says where the class tokens stand, and BOS has place 0.",
            )
            expect(expanded == wanted, f"Some id differs with {n} pictures: {expanded}.")
            expect(alone == text, f"Some id of the text alone differs: {alone}.")
            expect(list(map(bool, mask)) == place, f"Some flag of the mask differs with {n} pictures.")


# ---------------------------------------------------------------------------------------- story-prompts


@exercise("story-prompts", builds_on={"expand": "expand", "class-mask": "mask", "fit-77": "fit"})
def story_prompts(answer, expand, mask, fit):
    """``answer(prompts, trigger, n, length, pad, expand, mask, fit) -> (ids, masks)``: a row a panel."""
    nobody = [BOS, 320, 3761, 530, 518, 2583, EOS]  # a panel without the character
    cases = (
        ([_CAPTION, _PHOTO], 3, 20),
        ([_CAPTION, nobody, _PHOTO], 2, 16),
        ([nobody, _PHOTO], 3, 10),  # the photo's prompt is cut
    )
    for prompts, n, length in cases:
        args = [list(p) for p in prompts], TRIGGER, n, length, 0
        try:
            got = answer(*args, expand, mask, fit)
        except (ValueError, LookupError):
            expect(
                nobody not in prompts,
                "Your answer stopped at a panel that does not show the character: its prompt has no trigger. "
                "Its ids are only brought to their length, and its mask is False everywhere.",
            )
            raise
        expect(
            isinstance(got, (list, tuple)) and len(got) == 2,
            "Return two lists: the ids of each panel, and the mask of each panel.",
        )
        rows, flags = ([_ids(x, "A row") for x in some] for some in got)
        expect(
            len(rows) == len(prompts) == len(flags),
            f"{len(prompts)} panels need a row each; there are {len(rows)} rows of ids and {len(flags)} "
            "masks. "
            "A panel that does not show the character is drawn, too.",
        )
        flags, told = [list(map(bool, row)) for row in flags], known.story_prompts(*args, expand, mask, fit)
        expect(
            rows != known.trigger_left(*args, fit),
            "The trigger is still in the ids: expand before you fit.",
        )
        expect(
            all(len(row) == length for row in rows + flags),
            f"Every row and every mask has {length} places: fit the ids that have already been expanded, "
            "since "
            "expanding changes how many there are.",
        )
        expect(
            flags != known.first_mask(*args, mask),
            "Every panel got the mask of the first one. The noun stands at another place in each prompt.",
        )
        expect(rows == told[0], f"Some id differs with {n} pictures: {rows}.")
        expect(flags == told[1], f"Some flag of a mask differs with {n} pictures.")
