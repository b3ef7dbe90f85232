"""Answers to the exercises of chapter 00, a story in one minute."""

from __future__ import annotations

from itertools import combinations

import torch

from . import ANSWERS, Answers

# ------------------------------------------------------------------------------------------ agreement


def _pairs(classes):
    return [a == b for a, b in combinations(classes, 2)]


def _agreement(classes):
    pairs = _pairs(classes)
    return sum(pairs) / len(pairs)


def _agreement_by_counting(classes):
    n = len(classes)
    same_pairs = sum(classes.count(c) * (classes.count(c) - 1) for c in set(classes))
    return same_pairs / (n * (n - 1))


def _agreement_in_tensors(classes):
    ids = torch.tensor([sorted(set(classes)).index(c) for c in classes])
    equal = (ids[:, None] == ids).float()
    return equal.triu(1).sum() / torch.ones_like(equal).triu(1).sum()  # a tensor of one number


def _neighbours(classes):
    return sum(a == b for a, b in zip(classes, classes[1:], strict=False)) / (len(classes) - 1)


def _with_itself(classes):
    return sum(a == b for a in classes for b in classes) / len(classes) ** 2


def _count(classes):
    return sum(_pairs(classes))


def _majority(classes):
    return max(classes.count(c) for c in classes) / len(classes)


ANSWERS["agreement"] = Answers(
    right=[_agreement, _agreement_by_counting, _agreement_in_tensors],
    wrong={
        "neighbours only": (_neighbours, "neighbours"),
        "a panel paired with itself": (_with_itself, "with itself"),
        "share of the most frequent": (_majority, "most frequent"),
        "a count instead of a fraction": (_count, "fraction"),
    },
)


# ------------------------------------------------------------------------------------------ tokens read


def _tokens_read(panels, tokens, rate):
    return tokens + (panels - 1) * round(rate * tokens)


def _tokens_read_one_by_one(panels, tokens, rate):
    read = tokens
    for _ in range(1, panels):
        read += int(rate * tokens + 0.5)
    return read


def _own_sampled(panels, tokens, rate):
    return panels * round(rate * tokens)


def _own_counted_twice(panels, tokens, rate):
    return tokens + panels * round(rate * tokens)


def _one_other(panels, tokens, rate):
    return tokens + round(rate * tokens)


ANSWERS["tokens-read"] = Answers(
    right=[_tokens_read, _tokens_read_one_by_one],
    wrong={
        "own tokens sampled too": (_own_sampled, "all of its own"),
        "own tokens counted twice": (_own_counted_twice, "twice"),
        "one other panel": (_one_other, "every other panel"),
    },
)


# ------------------------------------------------------------------------------------------ attend


def _attend(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def _attend_by_loop(q, k, v):
    rows = []
    for one in q:
        weights = torch.exp((k * one).sum(-1) / one.numel() ** 0.5)
        rows.append((weights[:, None] * v).sum(0) / weights.sum())
    return torch.stack(rows)


def _unscaled(q, k, v):
    return (q @ k.T).softmax(-1) @ v


def _over_queries(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(0) @ v


def _values_forgotten(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ k


ANSWERS["attend"] = Answers(
    right=[_attend, _attend_by_loop],
    wrong={
        "no square root of the width": (_unscaled, "square root"),
        "softmax over the queries": (_over_queries, "over the keys"),
        "keys averaged instead of values": (_values_forgotten, "values"),
    },
)


# ------------------------------------------------------------------------------------------ keys


def _reads(i, frames, picks):
    own = [frames[i]]
    return torch.cat(own + [frames[j][picks[j]] for j in range(len(frames)) if j != i])


def _reads_by_mask(i, frames, picks):
    f, n, c = frames.shape
    keep = torch.zeros(f, n, dtype=torch.bool)
    for j, p in enumerate(picks):
        keep[j, p] = True
    keep[i] = True
    first = [i, *(j for j in range(f) if j != i)]
    return torch.cat([frames[j][keep[j]] for j in first])


def _own_twice(i, frames, picks):
    return torch.cat([frames[i]] + [frames[j][picks[j]] for j in range(len(frames))])


def _no_own(i, frames, picks):
    return torch.cat([frames[j][picks[j]] for j in range(len(frames)) if j != i])


def _everything(i, frames, picks):
    return torch.cat(list(frames))


def _readers_picks(i, frames, picks):
    return torch.cat([frames[i]] + [frames[j][picks[i]] for j in range(len(frames)) if j != i])


ANSWERS["what-a-panel-reads"] = Answers(
    right=[_reads, _reads_by_mask],
    wrong={
        "own tokens twice": (_own_twice, "twice"),
        "own tokens dropped": (_no_own, "all its own tokens"),
        "the reader's picks": (_readers_picks, "picks[j]"),
        "picks forgotten": (_everything, "at those picks"),
    },
)


# ------------------------------------------------------------------------------------------ mend-layer


def _layer(frames, picks, reads, attend):
    results = []
    for i, panel in enumerate(frames):
        read = reads(i, frames, picks)
        results.append(attend(panel, read, read))
    return torch.stack(results)


def _layer_from_a_copy(frames, picks, reads, attend):
    result = torch.empty_like(frames)
    for i in range(len(frames)):
        result[i] = attend(frames[i], *[reads(i, frames, picks)] * 2)
    return result


def _written_in_place(frames, picks, reads, attend, first):
    for i in range(first, len(frames)):
        read = reads(i, frames, picks)
        frames[i] = attend(frames[i], read, read)
    return frames


def _layer_as_it_stands(frames, picks, reads, attend):
    return _written_in_place(frames, picks, reads, attend, 1)


def _first_left_out(frames, picks, reads, attend):
    return torch.cat([frames[:1], _layer(frames, picks, reads, attend)[1:]])


def _one_after_the_other(frames, picks, reads, attend):
    return _written_in_place(frames, picks, reads, attend, 0)


def _copied_first(frames, picks, reads, attend):
    return _one_after_the_other(frames.clone(), picks, reads, attend)


def _asks_with_all_it_reads(frames, picks, reads, attend):
    results = []
    for i in range(len(frames)):
        read = reads(i, frames, picks)
        results.append(attend(read, read, read)[-len(frames[i]) :])
    return torch.stack(results)


def _right_but_written_back(frames, picks, reads, attend):
    frames[:] = _layer(frames, picks, reads, attend)
    return frames


ANSWERS["mend-layer"] = Answers(
    right=[_layer, _layer_from_a_copy],
    wrong={
        "as it stands": (_layer_as_it_stands, "as it stands"),
        "the first panel left out": (_first_left_out, "still left as it was"),
        "one after the other": (_copied_first, "already written"),
        "all that is read asks": (_asks_with_all_it_reads, "what asks"),
        "input changed": (_right_but_written_back, "have changed"),
    },
)
