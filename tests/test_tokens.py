"""Tokens: the recorded ids of the released code where its prompts are well formed, clear errors where they
are not."""

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storydiff_lite.tokens import (
    BOS_ID,
    EOS_ID,
    TRIGGER_ID,
    TriggerWordError,
    drop_trigger,
    expand_class_token,
    fit_caption,
    load_tokenizer,
)

RECORDED = json.loads((Path(__file__).parent / "data" / "tokenization.json").read_text(encoding="utf-8"))[
    "cases"
]
BY_NAME = {case["name"]: case for case in RECORDED}
INSIDE_A_WORD = {"substring_timg", "no_space_manimg"}  # the released code finds its trigger there
DEFECTS = INSIDE_A_WORD | {"two_triggers", "trigger_only", "mask_partially_cut", "n0_images"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def test_the_recorded_prompts(tokenizer):
    assert tokenizer("a photo of a man img walking").input_ids == [
        49406,
        320,
        1125,
        539,
        320,
        786,
        49408,
        3941,
        49407,
    ]
    for case in RECORDED:
        same = tokenizer(case["prompt"], verbose=False).input_ids == case["raw_ids"]
        assert same == (case["name"] not in INSIDE_A_WORD), case["name"]


def recorded_ids(case):
    """What the tokenizer gave the original: for one case a second prompt that is not recorded, so taken from
    its result."""
    if case["name"] != "prompt2_differs":
        return case["raw_ids"]
    ids, places = case["ids_pad_0"], case["mask_true_positions"]
    return ids[: places[0] + 1] + [TRIGGER_ID] + ids[places[-1] + 1 : ids.index(EOS_ID) + 1]


@pytest.mark.parametrize("name", [c["name"] for c in RECORDED if c["name"] not in DEFECTS])
@pytest.mark.parametrize("pad", [49407, 0])
def test_expansion_equals_the_released_code(name, pad):
    case = BY_NAME[name]
    raw = recorded_ids(case) if pad == 0 else case["raw_ids"]
    if name == "prompt2_differs" and pad != 0:
        return
    before = list(raw)
    ids, mask = expand_class_token(raw, TRIGGER_ID, case["num_id_images"], 77, pad)
    assert ids == case[f"ids_pad_{pad}"] and raw == before
    assert [i for i, m in enumerate(mask) if m] == case["mask_true_positions"]
    assert len(mask) == 77 and all(type(m) is bool for m in mask)


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("a man in the park", "no trigger word"),
        ("a manimg in the park", "no trigger word"),
        ("an imgur page", "no trigger word"),
        ("a man img and a woman img", "2 trigger words"),
        ("img", "first word"),
        ("img walks", "first word"),
        ("a man, img walks", r"follows ','"),
        ("a man ... img walks", r"follows '\.\.\.'"),
        ("red " * 74 + "man img", "too late"),
    ],
)
def test_malformed_prompts(tokenizer, prompt, says):
    with pytest.raises(TriggerWordError, match=says) as caught:
        expand_class_token(tokenizer(prompt, verbose=False).input_ids, TRIGGER_ID, 4, 77, 0)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_partly_cut_identity_is_an_error():
    case = BY_NAME["mask_partially_cut"]
    with pytest.raises(TriggerWordError, match="too late"):
        expand_class_token(case["raw_ids"], TRIGGER_ID, case["num_id_images"], 77, 0)


@pytest.mark.parametrize("images, length", [(0, 77), (-1, 77), (1, 0)])
def test_numbers_that_make_no_sense(images, length):
    with pytest.raises(ValueError):
        expand_class_token(BY_NAME["basic_n1"]["raw_ids"], TRIGGER_ID, images, length, 0)


@pytest.mark.parametrize("images", [1.5, True, None, "2"])
def test_a_number_of_pictures_is_a_whole_number(images):
    with pytest.raises(TypeError, match="must be the number of pictures"):
        expand_class_token(BY_NAME["basic_n1"]["raw_ids"], TRIGGER_ID, images, 77, 0)


def test_a_cut_caption_keeps_eos_and_says_what_is_lost(tokenizer):
    raw = tokenizer("a man img " + "walks " * 80 + "home", verbose=False).input_ids
    with pytest.warns(UserWarning, match="was cut to 77; lost: 'walks.*home'"):
        ids, mask = expand_class_token(raw, TRIGGER_ID, 2, 77, 0)
    assert (
        len(ids) == len(mask) == 77
        and ids[-1] == EOS_ID
        and ids[:4] == [BOS_ID, 320, 786, 786]
        and sum(mask) == 2
    )


def test_several_pieces_and_padding_that_came_along(tokenizer):
    raw = tokenizer("a hedgehogling img runs").input_ids
    place = raw.index(TRIGGER_ID)
    assert place > 3  # BOS, a, and at least two pieces
    ids, mask = expand_class_token(raw + [EOS_ID] * 80, TRIGGER_ID, 2, 77, EOS_ID)
    assert ids[place - 1] == ids[place] == raw[place - 1] and mask.index(True) == place - 1
    assert ids == expand_class_token(raw, TRIGGER_ID, 2, 77, EOS_ID)[0]


words = st.integers(1000, 40000).filter(lambda i: i not in (BOS_ID, EOS_ID, TRIGGER_ID))


@settings(max_examples=100, deadline=None)
@given(
    before=st.lists(words, max_size=12),
    after=st.lists(words, max_size=12),
    n=st.integers(1, 5),
    pad=st.sampled_from([0, EOS_ID]),
    length=st.integers(4, 40),
)
def test_any_prompt(before, after, n, pad, length):
    raw = [BOS_ID, *before, 786, TRIGGER_ID, *after, EOS_ID]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ids, mask = expand_class_token(raw, TRIGGER_ID, n, length, pad)
        except TriggerWordError:
            assert len(before) + 1 + n > length - 1
            return
    whole = [BOS_ID, *before, *[786] * n, *after, EOS_ID]
    assert bool(caught) == (len(whole) > length)
    assert (
        len(ids) == len(mask) == length
        and sum(mask) == n
        and all(ids[i] == 786 for i, m in enumerate(mask) if m)
    )
    if len(whole) <= length:
        assert ids == whole + [pad] * (length - len(whole))
    else:
        assert ids == whole[: length - 1] + [EOS_ID]


def test_the_second_tokenizer_pads_with_an_exclamation_mark():
    second = load_tokenizer(pad_token="!")
    assert second.pad_token_id == 0 and second("a bear", padding="max_length").input_ids[-1] == 0


@pytest.mark.parametrize(
    "word, says", [("in", "piece of CLIP"), ("two words", "single word"), ("", "single word"), (7, "single")]
)
def test_bad_trigger_word(word, says):
    with pytest.raises(ValueError, match=says):
        load_tokenizer(word)


def test_other_trigger_or_none(tokenizer):
    assert load_tokenizer("qqx")("a man qqx").input_ids[3] == TRIGGER_ID
    assert len(load_tokenizer(None)) == 49408 and len(tokenizer) == 49409


def test_saved_and_loaded_the_same(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for case in RECORDED:
        assert (
            again(case["prompt"], verbose=False).input_ids
            == tokenizer(case["prompt"], verbose=False).input_ids
        )


def test_fit_caption(tokenizer):
    short = "a bear reads"
    assert fit_caption(tokenizer, short) is short
    for long in ("an orange bear walks " * 30, "supercalifragilistic" * 40, "一个男人 " * 40):
        with pytest.warns(UserWarning, match="these words were cut"):
            kept = fit_caption(tokenizer, long)
        assert long.startswith(kept) and 60 < len(tokenizer(kept).input_ids) <= 77


# ---------------------------------------------------------------------------------- the text-only twin
@given(st.lists(st.sampled_from("bear man red walking , in the snow".split()), min_size=1, max_size=90))
@settings(max_examples=40, deadline=None)
def test_twin_is_the_caption_without_its_trigger(words):
    tokenizer = load_tokenizer()
    place = len(words) // 2
    held = " ".join([*words[:place], "img", *words[place:]])
    twin = drop_trigger(tokenizer(held, verbose=False).input_ids, TRIGGER_ID, 77, 0)
    plain = tokenizer(" ".join(words), truncation=True, max_length=77).input_ids
    assert twin == plain + [0] * (77 - len(plain)) and twin.count(EOS_ID) == 1


def test_twin_ignores_padding_that_came_along():
    ids = [BOS_ID, 786, TRIGGER_ID, 3941, EOS_ID, EOS_ID, EOS_ID]
    assert drop_trigger(ids, TRIGGER_ID, 6, 0) == [BOS_ID, 786, 3941, EOS_ID, 0, 0]
