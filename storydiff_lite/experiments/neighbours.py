"""StoryDiffusion beside its neighbours, on one model, with one judge (chapter 12).

Stories of four panels, each under one seed, in 12 steps; the same stories in every setting.  Prompts leave
the looks free, but for settings with a ``text``: there panel 1, or every panel, names them.
"""

from __future__ import annotations

import random
import time
from functools import partial

import torch

from .. import neighbours, weights, world
from ..judge import FREE
from ..story import Panel
from .consistency import STEPS, story, story_experiment
from .records import interval, judged, short, summary

KINDS = ("agreement", "fidelity", "clean", "scene", "named")
WHERE = {"noun": neighbours.NOUN, "words": neighbours.WORDS}
#: rates of picks that are compared, at random and of the subject
RATES = (0.04, 0.08, 0.16)


def neighbours_settings() -> dict[str, dict]:
    """Name -> what is drawn: ``consistency`` and ``layers`` of the call, ``plan`` or ``encoder`` by the name
    of its class and with its arguments, and ``text``, which panels name the looks.
    """
    one, out = {"consistency": 1.0}, {"plain": {"consistency": 0}}
    out |= {"rate 1": one, "rate 0.25": {"consistency": 0.25}}
    out["first panel also read"] = one | {"plan": "FirstPanel"}
    out["AdaIN alone"] = one | {"plan": "AdaINAlone"}
    out["StyleAligned"] = one | {"plan": "StyleAligned"}
    cs = one | {"plan": "ConsiStory"}
    out["ConsiStory: noun, dropout"] = cs | {"where": "noun", "dropout": 0.5}
    out["ConsiStory: words, no dropout"] = cs | {"where": "words", "dropout": 0.0}
    for rate in RATES[::-1]:
        out[f"random picks, {rate:g}"] = {"consistency": rate}
        out[f"subject picks, {rate:g}"] = {"consistency": rate, "plan": "SubjectPicks", "where": "words"}
    for name, rate in (("", 0), (", rate 1", 1.0)):
        out[f"named once{name}"] = {"consistency": rate, "text": "once"}
        out[f"named once, carried{name}"] = {"consistency": rate, "text": "carried"}
    out["1Prompt1Story"] = {"consistency": 0, "encoder": "OnePrompt", "ipca": True}
    out["StyleAligned, all layers"] = out["StyleAligned"] | {"layers": "all"}
    out["named in every panel"] = {"consistency": 0, "text": "every"}
    out["ConsiStory: noun, no dropout"] = cs | {"where": "noun", "dropout": 0.0}
    out["one prompt alone"] = {"consistency": 0, "encoder": "OnePrompt", "svr": False}
    out["ConsiStory: + vanilla queries"] = cs | {"where": "noun", "dropout": 0.5, "vanilla": 3}
    out["ConsiStory: + injection"] = cs | {"where": "noun", "dropout": 0.5, "match": True}
    return out


def described(i: int) -> tuple[world.Character, str]:
    """The character of the i-th story where its text names the looks, and the phrase that does."""
    rng = random.Random(f"who/{i}")
    character = world.Character.random(rng, species=world.SPECIES[i % len(world.SPECIES)])
    return character, world.describe(character, set(FREE))


def prompts_of(i: int, text=None) -> list[str | Panel]:
    """The i-th story; with a text, its first panel names the looks, or every panel does, or the first one's
    are carried to the others.
    """
    panels, (_, phrase) = story(i), described(i)
    short_form, names = " ".join(panels[0].split()[:2]), {None: 0, "every": len(panels)}.get(text, 1)
    named = [p.replace(short_form, phrase, 1) for p in panels[:names]]
    rest = panels[names:]
    return named + ([Panel(p, carried=(short_form, phrase)) for p in rest] if text == "carried" else rest)


def noun(prompt: str) -> str:
    """The subject's word in a prompt of `story`."""
    return prompt.split()[1]


def plan_of(pipe, setting: dict, prompts, match=None):
    """The plan of a setting for one story, or None for the pipeline's own."""
    if "plan" not in setting:
        return None
    more = {k: setting[k] for k in ("dropout", "vanilla") if k in setting}
    if "where" in setting:
        word = noun(prompts[0]) if setting["where"] == "noun" else None
        more |= {
            "words": neighbours.word_places(pipe.tokenizer, prompts, word),
            "where": WHERE[setting["where"]],
        }
    if match:
        more["match"] = match
    return partial(getattr(neighbours, setting["plan"]), **more)


def encoder_of(setting: dict):
    """The prompt encoder of a setting, or None for the pipeline's own."""
    if "encoder" in setting:
        more = {k: setting[k] for k in ("svr", "ipca") if k in setting}
        return partial(getattr(neighbours, setting["encoder"]), **more)
    return None


def draw(pipe, setting: dict, i: int, seed=None, **call):
    """The i-th story under a setting, as `StoryOutput`; ``call`` are more arguments of the pipeline's call.

    With ``match`` it is drawn twice: tokens are matched by the latents of the first time, as in the published
    code of ConsiStory.
    """
    seed, prompts, match = i if seed is None else seed, prompts_of(i, setting.get("text")), None
    call = {"num_inference_steps": STEPS, "seed": seed, "consistency": setting["consistency"]} | call
    call |= {k: setting[k] for k in ("layers",) if k in setting}
    if setting.get("match"):
        once = {k: v for k, v in setting.items() if k != "match"}
        first = draw(pipe, once, i, **call | {"output_type": "latent"})
        match = neighbours.matches(neighbours.dift(pipe, first.images, prompts), len(prompts))
    with neighbours.drawing(pipe, plan_of(pipe, setting, prompts, match), encoder_of(setting)):
        return pipe(prompts, **call)


def clock(device="cpu") -> float:
    """Seconds: of this process on a CPU, where others may run beside it; of the wall on a GPU."""
    if torch.device(device).type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure_neighbours(pipe, judge, setting, seeds, defects=None, **call):
    """One row per story: as `consistency.measure` has them, with

    - ``scene``: the share of panels whose scene is the prompt's;
    - ``named``: of panels 2 to 4, how often the looks are those of `described`: by chance, where no text of
      the setting says them;
    - ``seconds``.
    """
    rows, device = [], pipe.device
    for i in seeds:
        start, prompts = clock(device), story(i)
        images = draw(pipe, setting, i, output_type="pt", **call).images
        seconds = clock(device) - start
        names, row = judged(judge, images, prompts, defects)
        character = described(i)[0]
        named = {k: sum(n[k] == getattr(character, k) for n in names[1:]) / len(names[1:]) for k in FREE}
        row |= {"scene": {"mean": row["fidelity"]["scene"]}, "seconds": seconds}
        row["named"] = short(named | {"mean": sum(named.values()) / len(named)})
        rows.append({"story": prompts, "seed": i} | row)
    return rows


def with_seconds(rows, kinds):
    """`summary`, and the seconds of a story: the least of all, since what else a machine does only adds."""
    return summary(rows, kinds) | {"seconds": round(min(r["seconds"] for r in rows), 3)}


# ------------------------------------------------------------------------------------------ the true mask
def true_subject(picture, grid=neighbours.subject.GRID) -> torch.Tensor:
    """Which of the grid's cells show the character more than anything else, bool [grid * grid]."""
    parts = world.masks(picture, 128)
    actor = sum(mask.astype(float) for name, mask in parts.items() if name.startswith("0."))
    cells = torch.nn.functional.adaptive_avg_pool2d(torch.as_tensor(actor)[None], grid)
    return (cells >= 0.5).flatten()


def overlap(mask, truth) -> float:
    """Intersection over union of two bool tensors."""
    return float((mask & truth).sum() / (mask | truth).sum().clamp(min=1))


def area_under_curve(score, truth) -> float:
    """How often a token of the subject has a larger score than one of the background, 0 to 1; by ranks."""
    ranks = torch.empty(len(score)).scatter_(0, score.argsort(), torch.arange(1.0, len(score) + 1))
    inside = int(truth.sum())
    return float((ranks[truth].sum() - inside * (inside + 1) / 2) / (inside * (len(truth) - inside)))


@torch.no_grad()
def maps_of(pipe, picture, prompt, kind, levels=(800, 600, 400, 200)) -> torch.Tensor:
    """The map of a true picture, as a plan would have summed it up: over noise levels, from much to little.

    Returns
    -------
    Tensor [GRID * GRID]
    """
    where, drawn = WHERE[kind], world.render(picture, weights.picture_size())
    pixels = pipe.image_processor.preprocess(drawn).to(pipe.device)
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    words = neighbours.word_places(pipe.tokenizer, [prompt], noun(prompt) if kind == "noun" else None)
    plan = neighbours.SubjectPlan.among(1, 1.0, words=words, where=where)
    with plan.installed(pipe.unet):
        for level in levels:
            neighbours.noised_pass(pipe, latents, [prompt], level)
    return (plan.total + plan.new)[0, 0]


def posed(i: int):
    """The i-th true picture (of seeds that no training saw) and its prompt, as in `story`."""
    (picture,) = world.sample_pictures("heldout", i)
    (actor,) = picture.actors
    scene, action = world.SCENES[picture.scene], world.ACTIONS[actor.action]
    return picture, f"{world.article(actor.character.species)} {action} {scene}"


def masks(pipe, pictures: int) -> dict:
    """Of true pictures, both masks: ``{kind: {"iou": (mean, low, high), "auc": ..., "share": ...}}``.

    ``padding`` is the share of the attention that falls on no word, in the layer of `WORDS`.
    """
    found = {kind: {"iou": [], "auc": [], "share": []} for kind in WHERE} | {"padding": []}
    for i in range(pictures):
        picture, prompt = posed(i)
        truth = true_subject(picture)
        for kind, where in WHERE.items():
            score = maps_of(pipe, picture, prompt, kind)
            mask = neighbours.subject_masks(score[None], where.log)[0]
            found[kind]["iou"].append(overlap(mask, truth))
            found[kind]["auc"].append(area_under_curve(score, truth))
            found[kind]["share"].append(float(mask.float().mean()))
            if kind == "words":
                found["padding"].append(1 - float(score.mean()) / 4)
    out = {k: {m: interval(v) for m, v in found[k].items()} for k in WHERE}
    return {"pictures": pictures, "padding": interval(found["padding"])} | out


# ------------------------------------------------------------------------------------------ the record
EXPERIMENT = story_experiment(
    "neighbours",
    neighbours_settings,
    measure_neighbours,
    KINDS,
    summarize=with_seconds,
    then=lambda pipe, judge, stories: {"masks": masks(pipe, 2 * stories)},
    stories=100,
    golden=("StyleAligned", "ConsiStory: noun, dropout", "subject picks, 0.16", "named once, carried"),
)
