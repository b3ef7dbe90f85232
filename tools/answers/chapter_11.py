"""Answers to the exercises of chapter 11, scaling up to SDXL."""

from __future__ import annotations

import math

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- what it costs


def _cost(panels, rate, attention, total):
    return 1 + rate * (panels - 1) * attention / total


def _cost_summed(panels, rate, attention, total):
    return (total - attention + attention * (1 + rate * (panels - 1))) / total


def _cost_every_panel(panels, rate, attention, total):
    return 1 + rate * panels * attention / total


def _cost_whole_net(panels, rate, attention, total):
    return 1 + rate * (panels - 1)


def _cost_all_tokens(panels, rate, attention, total):
    return 1 + (panels - 1) * attention / total


def _cost_of_the_rest(panels, rate, attention, total):
    return rate * (panels - 1) * attention / total


ANSWERS["cost-ratio"] = Answers(
    right=[_cost, _cost_summed],
    wrong={
        "reads its own tokens again": (_cost_every_panel, "own tokens"),
        "the whole U-Net grows": (_cost_whole_net, "only the attention"),
        "all tokens of the others": (_cost_all_tokens, "a share of their tokens"),
        "only what is added": (_cost_of_the_rest, "costs 1"),
    },
)


# ---------------------------------------------------------------------------------------- which layers


def _which(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attentions." in n and ".attn1." in n]


def _which_by_parts(names):
    found = []
    for name in names:
        parts = name.split(".")
        if parts[0] == "up_blocks" and parts[2] == "attentions" and parts[-2] == "attn1":
            found.append(name)
    return set(found)


def _which_with_text(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attentions." in n]


def _which_everywhere(names):
    return [n for n in names if ".attn1." in n and ".attentions." in n]


def _which_up_anywhere(names):
    return [n for n in names if "up" in n and ".attn1." in n and ".motion" not in n]


def _which_with_motion(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attn1." in n]


def _which_text_only(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attentions." in n and ".attn2." in n]


ANSWERS["layers-that-share"] = Answers(
    right=[_which, _which_by_parts],
    wrong={
        "cross-attention too": (_which_with_text, "attn2 reads the prompt"),
        "every block": (_which_everywhere, "down-blocks or the middle"),
        "up anywhere in the name": (_which_up_anywhere, "begins with"),
        "motion modules too": (_which_with_motion, "between the frames"),
        "cross-attention alone": (_which_text_only, "none of them is self-attention"),
    },
)


# ---------------------------------------------------------------------------------------- what must fit


def _peak(parts, working, offload):
    if offload:
        return max(parts[p] + working[p] for p in parts)
    return sum(parts.values()) + max(working.values())


def _peak_by_steps(parts, working, offload):
    most = 0
    for now in parts:
        there = [now] if offload else list(parts)
        most = max(most, sum(parts[p] for p in there) + working[now])
    return most


def _peak_adds_working(parts, working, offload):
    if offload:
        return max(parts[p] + working[p] for p in parts)
    return sum(parts.values()) + sum(working.values())


def _peak_weights_alone(parts, working, offload):
    return max(parts.values()) if offload else sum(parts.values())


def _peak_mixed(parts, working, offload):
    if offload:
        return max(parts.values()) + max(working.values())
    return sum(parts.values()) + max(working.values())


def _peak_no_difference(parts, working, offload):
    return sum(parts.values()) + max(working.values())


ANSWERS["what-must-fit"] = Answers(
    right=[_peak, _peak_by_steps],
    wrong={
        "all parts work at once": (_peak_adds_working, "one after the other"),
        "weights alone": (_peak_weights_alone, "while it works"),
        "largest part and largest work": (_peak_mixed, "of the same part"),
        "offload changes nothing": (_peak_no_difference, "other parts wait"),
    },
)


# ---------------------------------------------------------------------------------------- many processes


def _batch_loss(sums, weights):
    return sum(sums) / sum(weights)


def _batch_loss_loop(sums, weights):
    error = weight = 0.0
    for s, w in zip(sums, weights, strict=True):
        error, weight = error + s, weight + w
    return error / weight


def _mean_of_means(sums, weights):
    return sum(s / w for s, w in zip(sums, weights, strict=True)) / len(sums)


def _sum_of_means(sums, weights):
    return sum(s / w for s, w in zip(sums, weights, strict=True))


def _first_process(sums, weights):
    return sums[0] / weights[0]


def _over_processes(sums, weights):
    return sum(sums) / len(sums)


ANSWERS["loss-of-the-batch"] = Answers(
    right=[_batch_loss, _batch_loss_loop],
    wrong={
        "mean of the means": (_mean_of_means, "weigh as much"),
        "sum of the means": (_sum_of_means, "as many times too large"),
        "the first process alone": (_first_process, "the first process"),
        "no weights": (_over_processes, "divided by the number of processes"),
    },
)


# ---------------------------------------------------------------------------------------- plan a timing

_PLAIN, _SHARING = "4 panels", "4 panels, sharing"


def _read_pilot(ratio, counted, smallest, correction=1):
    """Runs that are needed, and the verdict, of ratios [runs]."""
    s = ratio.std(correction=correction)
    half = float(1.96 * ratio.std() / math.sqrt(len(ratio)))
    mean = float(ratio.mean())
    verdict = "more" if mean - half > counted else "less" if mean + half < counted else "not shown"
    return math.ceil((1.96 * float(s) / smallest) ** 2), verdict


def _timing(pilot, panels, rate, attention, total, smallest, cost):
    ratio = (pilot[_SHARING] / pilot[_PLAIN])[1:]
    return _PLAIN, _SHARING, *_read_pilot(ratio, cost(panels, rate, attention, total), smallest)


def _timing_by_search(pilot, panels, rate, attention, total, smallest, cost):
    pairs = list(zip(pilot[_SHARING].tolist(), pilot[_PLAIN].tolist(), strict=True))[1:]
    ratio = [a / b for a, b in pairs]
    mean = sum(ratio) / len(ratio)
    s = (sum((r - mean) ** 2 for r in ratio) / (len(ratio) - 1)) ** 0.5
    n = 1
    while 1.96 * s / n**0.5 > smallest:
        n += 1
    away, half = mean - cost(panels, rate, attention, total), 1.96 * s / len(ratio) ** 0.5
    return [_PLAIN, _SHARING, n, "not shown" if abs(away) <= half else "more" if away > 0 else "less"]


def _timing_with_the_first(pilot, panels, rate, attention, total, smallest, cost):
    ratio = pilot[_SHARING] / pilot[_PLAIN]
    return _PLAIN, _SHARING, *_read_pilot(ratio, cost(panels, rate, attention, total), smallest)


def _timing_in_seconds(pilot, panels, rate, attention, total, smallest, cost):
    more = (pilot[_SHARING] - pilot[_PLAIN])[1:]
    return _PLAIN, _SHARING, *_read_pilot(more, cost(panels, rate, attention, total) - 1, smallest)


def _timing_by_n(pilot, panels, rate, attention, total, smallest, cost):
    ratio = (pilot[_SHARING] / pilot[_PLAIN])[1:]
    return _PLAIN, _SHARING, *_read_pilot(ratio, cost(panels, rate, attention, total), smallest, 0)


def _timing_of_the_pilot(pilot, panels, rate, attention, total, smallest, cost):
    found = _timing(pilot, panels, rate, attention, total, smallest, cost)
    return *found[:2], len(pilot[_PLAIN]), found[3]


def _timing_against_one(pilot, panels, rate, attention, total, smallest, cost):
    ratio = (pilot[_SHARING] / pilot[_PLAIN])[1:]
    return _PLAIN, _SHARING, *_read_pilot(ratio, 1, smallest)


def _timing_by_the_mean(pilot, panels, rate, attention, total, smallest, cost):
    away = (pilot[_SHARING] / pilot[_PLAIN])[1:].mean() - cost(panels, rate, attention, total)
    found = _timing(pilot, panels, rate, attention, total, smallest, cost)
    return *found[:3], "more" if away > 0 else "less"


def _timed_other_way(*args):
    found = _timing(*args)
    return found[1], found[0], *found[2:]


ANSWERS["plan-timing"] = Answers(
    right=[_timing, _timing_by_search],
    wrong={
        "another number of panels": (lambda *args: ("1 panel", *_timing(*args)[1:]), "number of panels"),
        "the other way round": (_timed_other_way, "The other way round"),
        "something else differs": (
            lambda *args: ("4 panels, compiled", *_timing(*args)[1:]),
            "something else than the sharing",
        ),
        "the first run counts": (_timing_with_the_first, "prepares itself"),
        "seconds": (_timing_in_seconds, "differences in seconds"),
        "divided by n": (_timing_by_n, "n - 1"),
        "as many as the pilot": (_timing_of_the_pilot, "how many runs the pilot has"),
        "against 1": (_timing_against_one, "compared with 1"),
        "the mean alone": (_timing_by_the_mean, "the mean alone"),
    },
)
