"""Tokens: the CLIP vocabulary, a trigger word of its own, and the class token that an identity is fused into.

A caption "a man img, wearing a suit" holds a *class noun* ("man") and the *trigger word* ("img") right after
it. The trigger is removed and the class noun is repeated once per reference picture; a mask remembers where:

    a  man img  ,  ...          raw ids         [BOS, a, man, img, ",", ..., EOS]
    a  man man  ,  ...          2 references    [BOS, a, man, man, ",", ..., EOS, pad, pad, ...]
    .  ###  ###                 mask            [ 0,  0,  1,   1,   0,  ...]

Source: PhotoMaker (Li et al. 2312.04461, section 3.2), which StoryDiffusion (2405.01434, section 3.1) builds
on.
"""

import gzip
import numbers
import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path

from transformers import AddedToken, CLIPTokenizer

MERGES = Path(__file__).parent / "data" / "clip_bpe_merges.txt.gz"  # licence: data/LICENSE-clip-bpe.txt
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
BOS_ID, EOS_ID, TRIGGER_ID = 49406, 49407, 49408
MAX_LENGTH = 77  # CLIP's text encoders have 77 positions, BOS and EOS included


class TriggerWordError(ValueError):
    """The trigger word cannot do its work where it stands; the message says what to write instead."""


# --------------------------------------------------------------------------------------------- the vocabulary


def byte_letters():
    """CLIP's printable letter for each of the 256 bytes: {byte: letter}, in vocabulary order."""
    printable = [b for a, z in ("!~", "¡¬", "®ÿ") for b in range(ord(a), ord(z) + 1)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


@lru_cache(maxsize=1)
def vocabulary():
    """The BPE of CLIP: (vocab {piece: id} of 49,408 entries, merges: list of 48,894 pairs)."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines]
    letters = list(byte_letters().values())
    pieces = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges] + [BOS, EOS]
    return {piece: i for i, piece in enumerate(pieces)}, merges


@lru_cache(maxsize=1)
def _pieces():
    """id -> bytes of the piece, without the end-of-word mark."""
    byte = {letter: b for b, letter in byte_letters().items()}
    vocab, _ = vocabulary()
    return {i: bytes(byte[c] for c in p.removesuffix("</w>")) for p, i in vocab.items() if i < BOS_ID}


def load_tokenizer(trigger_word="img", pad_token=None):
    """The CLIP tokenizer with the trigger word added as one token, id 49408.

    Parameters
    ----------
    trigger_word : str or None
        Matched as a whole word only ("imgur" stays a word), in lower case as written. ``None`` adds nothing.
    pad_token : str, optional
        What short captions are filled up with: EOS (id 49407) by default; SDXL's second tokenizer uses
        ``"!"`` (id 0).

    Returns
    -------
    transformers.CLIPTokenizer
        49,408 pieces and the trigger; ``model_max_length`` 77.

    Raises
    ------
    ValueError
        When the trigger word is a piece of CLIP's vocabulary already, or is not a single word.

    Notes
    -----
    Vocabulary: Radford et al. 2103.00020, section 2.4. Nothing is downloaded: the merges lie in
    ``storydiff_lite/data``.
    """
    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(
        vocab=dict(vocab), merges=list(merges), pad_token=pad_token or EOS, model_max_length=MAX_LENGTH
    )
    if trigger_word is not None:
        if not (isinstance(trigger_word, str) and trigger_word.isalnum()):
            raise ValueError(
                f"The trigger word must be a single word of letters and digits, not {trigger_word!r}."
            )
        if trigger_word in vocab:
            raise ValueError(
                f"{trigger_word!r} is a piece of CLIP's vocabulary already and cannot become a "
                "token of its own. Choose a trigger word that CLIP does not know, such as "
                "'img'."
            )
        # single_word: PhotoMaker's own token also matches inside words ("imgur"); ours does not
        tokenizer.add_tokens([AddedToken(trigger_word, single_word=True, normalized=False, special=True)])
    return tokenizer


# -------------------------------------------------------------------------------------------- the class token


def _is_punctuation(token_id):
    """Whether a CLIP id is made of punctuation only. A lone byte of a longer letter (CJK) is not."""
    try:
        text = _pieces()[token_id].decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return False
    return all(unicodedata.category(c)[0] in "PZ" or (c.isascii() and not c.isalnum()) for c in text)


def _text(ids):
    """What ids say, for a message."""
    spaced = {i: p.endswith("</w>") for p, i in vocabulary()[0].items()} if ids else {}
    words = (_pieces().get(i, b"").decode("utf-8", "replace") + " " * spaced.get(i, True) for i in ids)
    return "".join(words).strip()


def expand_class_token(input_ids, trigger_id, num_id_images, max_length, pad_id):
    """Remove the trigger and repeat the class token before it, once per reference picture.

    Parameters
    ----------
    input_ids : list of int
        A caption's ids as the tokenizer gives them, uncut: BOS, ..., class noun, trigger, ..., EOS. Padding
        after EOS is allowed. A class noun of several pieces ("hedge" "hog") is represented by its last piece.
    trigger_id : int
        Id of the trigger word (49408).
    num_id_images : int
        Reference pictures of the identity, at least 1.
    max_length : int
        Length of what is returned (77); longer captions are cut with a warning, EOS kept.
    pad_id : int
        Id that fills up short captions (49407 for SDXL's first tokenizer, 0 for its second).

    Returns
    -------
    ids : list of int
        ``max_length`` ids.
    class_tokens_mask : list of bool
        ``max_length`` flags, true at the ``num_id_images`` places of the class token.

    Raises
    ------
    TriggerWordError
        No trigger, more than one, nothing or punctuation before it, or so late that its class tokens would be
        cut.
    ValueError, TypeError
        ``num_id_images`` below 1 or no whole number, or ``max_length`` below 1.

    Notes
    -----
    PhotoMaker (2312.04461), section 3.2. The released code repeats BOS or a comma when they happen to precede
    the trigger, drops the identity silently when it stands beyond ``max_length``, and loses EOS when a
    caption is cut.
    """
    ids = [int(i) for i in input_ids]
    if isinstance(num_id_images, bool) or not isinstance(num_id_images, numbers.Integral):
        raise TypeError(f"num_id_images must be the number of pictures, not {num_id_images!r}.")
    if num_id_images < 1:
        raise ValueError(
            f"num_id_images is {num_id_images}: give at least one reference picture, or encode "
            "the caption without its trigger word."
        )
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}: it must be at least 1 (CLIP's is {MAX_LENGTH}).")
    ids = _without_padding(ids, pad_id)
    place, n = _trigger_place(ids, trigger_id), num_id_images
    start = place - 1
    ids = ids[:start] + [ids[start]] * n + ids[place + 1 :]  # "man img" -> "man" * n
    ended = ids[-1] == EOS_ID
    keep = max_length - ended  # places for words
    if start + n > keep:
        raise TriggerWordError(
            f"The trigger word stands too late: the {n} class tokens would take the "
            f"places {start} to {start + n - 1}, and the last place for a word is "
            f"{keep - 1}. Name the person earlier in the caption, or give "
            "fewer reference pictures."
        )
    if len(ids) > max_length:
        warnings.warn(
            f"The caption is {len(ids)} tokens long with its class tokens and was cut to "
            f"{max_length}; lost: {_text(ids[keep : len(ids) - ended])!r}.",
            stacklevel=2,
        )
    mask = [start <= i < start + n for i in range(max_length)]
    return _fitted(ids, max_length, pad_id), mask


def _trigger_place(ids, trigger_id):
    """Where the trigger stands; TriggerWordError unless it is there once, behind a word."""
    places = [i for i, t in enumerate(ids) if t == trigger_id]
    if not places:
        raise TriggerWordError(
            "The caption has no trigger word. Write it once, as a word of its own, right "
            'after the noun that names the person: "a man img, wearing a suit".'
        )
    if len(places) > 1:
        raise TriggerWordError(
            f"The caption has {len(places)} trigger words. One identity can be fused into "
            "one noun: keep the trigger after that noun and leave the others out."
        )
    place = places[0]
    if place == 0 or ids[place - 1] == BOS_ID:
        raise TriggerWordError(
            "The trigger word is the first word of the caption, so there is no noun for "
            'the identity. Write the class noun before it: "a man img ...".'
        )
    if _is_punctuation(ids[place - 1]):
        raise TriggerWordError(
            f"The trigger word follows {_text(ids[place - 1 : place])!r}, not a noun. Write "
            'it right after the noun and the comma after that: "a man img, ...", not '
            '"a man, img ...".'
        )
    return place


def drop_trigger(input_ids, trigger_id, max_length, pad_id):
    """The text-only twin of a caption: its ids without the trigger, cut or padded, EOS kept.

    Delayed conditioning reads it in the first steps, so that the layout comes from the words alone.
    Parameters are as of `expand_class_token`.

    Notes
    -----
    PhotoMaker's released pipeline decodes the remaining ids to a string and tokenizes that again, which
    gives the same ids for ordinary captions; here no string is made.
    """
    ids = _without_padding([int(i) for i in input_ids if int(i) != trigger_id], pad_id)
    return _fitted(ids, max_length, pad_id)


def _fitted(ids, max_length, pad_id):
    """Ids of just this length, cut or padded; EOS stays, for CLIP pools there."""
    if len(ids) > max_length:
        ended = ids[-1] == EOS_ID
        ids = ids[: max_length - ended] + [EOS_ID] * ended
    return ids + [pad_id] * (max_length - len(ids))


def _without_padding(ids, pad_id):
    """The ids without what follows EOS, if that is only padding."""
    if EOS_ID in ids:
        end = ids.index(EOS_ID)
        if all(i in (EOS_ID, pad_id) for i in ids[end:]):
            return ids[: end + 1]
    return ids


# --------------------------------------------------------------------------------- captions that are too long


def fit_caption(tokenizer, caption):
    """The caption, without the words that do not fit into the text encoder; warns which words were cut.

    A caption of at most ``tokenizer.model_max_length`` tokens (77 with BOS and EOS) is returned as it is, of
    a longer one the beginning, cut between words.
    """
    found = tokenizer(caption, return_offsets_mapping=True, verbose=False)
    limit = tokenizer.model_max_length
    if len(found.input_ids) <= limit:
        return caption
    words = found.word_ids(0)
    keep = limit - 1  # tokens 0 .. keep-1 stay, then EOS
    while keep > 1 and words[keep] is not None and words[keep] == words[keep - 1]:
        keep -= 1  # not in the middle of a word
    if keep <= 1:
        keep = limit - 1  # one endless word: cut it where we must
    end = found.offset_mapping[keep - 1][1]
    warnings.warn(
        f"The caption has {len(found.input_ids)} tokens and the text encoder reads {limit} (BOS "
        f"and EOS included): these words were cut: {caption[end:].strip()!r}.",
        stacklevel=3,
    )
    return caption[:end]


def tokens_and_words(tokenizer, caption):
    """A caption's tokens, a list of str, and its words: a list of (word, places of its tokens)."""
    found, places = tokenizer(caption, return_offsets_mapping=True, verbose=False), {}
    for place, word in enumerate(found.word_ids(0)):
        if word is not None:  # the begin and end tokens are no words
            places.setdefault(word, []).append(place)
    letters = found.offset_mapping  # of each token, where it begins and ends
    words = [(caption[letters[own[0]][0] : letters[own[-1]][1]], own) for own in places.values()]
    return [t.removesuffix("</w>") for t in tokenizer.convert_ids_to_tokens(found.input_ids)], words
