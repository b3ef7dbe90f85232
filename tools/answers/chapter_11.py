"""Answers to the exercises of chapter 11, scaling up to SDXL."""

from __future__ import annotations

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
