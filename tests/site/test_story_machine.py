"""Stories drawn by the page itself: from its folder and from a server, with the network out of reach."""

import base64
import functools
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from browser import Visit, served

from storydiff_lite import tell
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.story import parse
from storydiff_lite.tell.recipe import read_recipe

# one process loads the models, for all that is drawn here
pytestmark = [pytest.mark.site, pytest.mark.xdist_group("story machine")]

AXE = (Path(__file__).parent / "vendor/axe.min.js").read_text(encoding="utf8")
MACHINE, CHAPTER = "book/story-machine.html", "notebooks/00-a-story-in-one-minute.html"
STORY = ["a bear waving in the forest", "a bear walking on the beach"]
#: draws, and says of the pixels and maps what a test can carry
DRAW = """async o => {
    const said = [];
    const result = await storyMachine.draw(o, (news) => said.push(news.step));
    const bytes = new Uint8Array(result.pixels.buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return {pixels: btoa(text), said, heap: result.heap, seconds: result.seconds};
}"""


def draw(page, prompts, **options):
    """The page's panels, uint8 [F, side, side, 3], and what else it said."""
    result = page.evaluate(DRAW, {"prompts": prompts, **options})
    side = page.evaluate("storyMachine.meta.picture")
    pixels = np.frombuffer(base64.b64decode(result["pixels"]), np.uint8)
    return pixels.reshape(-1, side, side, 4)[..., :3], result


def furthest(pixels, images):
    pairs = zip(pixels, images, strict=True)
    return max(np.abs(np.asarray(p, int) - np.asarray(i, int)).max() for p, i in pairs)


@pytest.fixture(scope="module")
def python():
    pipe = StoryPipeline.from_pretrained("micro-int8")  # the page's weights
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def visit(site, chromium):
    """The machine's own page, opened from its folder, its model loaded."""
    with Visit(chromium) as visit:
        asked = []
        visit.page.on("request", lambda r: asked.append(r.url))
        page = visit.open((site / MACHINE).as_uri())
        assert not [u for u in asked if "unet" in u or "wasm" in u], "loaded before it is asked for"
        page.evaluate("() => storyMachine.load()")
        yield visit


def assert_clean(visit):
    assert (visit.outside, visit.failed, visit.errors) == ([], [], [])


@pytest.mark.parametrize(
    "options, settings",
    [
        ({"noCharacter": [False, False, True]}, {}),
        ({"layers": "all", "rate": 1, "sameNoise": True, "guidance": 1}, {"guidance_scale": 1.0}),
        ({"guided": [0, 1]}, {"guidance_start": 0.0, "guidance_stop": 1.0}),
    ],
    ids=["NC", "all layers, same noise, no guidance", "guided from beginning to end"],
)
def test_pixels_are_those_of_python(visit, python, options, settings):
    prompts = [*STORY, "an empty scene on the moon"]
    pixels, result = draw(visit.page, prompts, seed=2**32 + 3, steps=4, **options)
    marked = [*STORY, "[NC] an empty scene on the moon"] if "noCharacter" in options else prompts
    settings |= {"consistency": options.get("rate", 0.5), "layers": options.get("layers", "up")}
    settings |= {"same_noise": "sameNoise" in options, "num_inference_steps": 4}
    told = python(marked, seed=2**32 + 3, generator="portable", **settings)
    assert furthest(pixels, told.images) <= 1
    assert result["said"] == [1, 2, 3, 4], "a preview after each step"
    assert_clean(visit)


LOOKS = "a grey bear in a red outfit"
FREE = f"{LOOKS} reading a book in the forest"
CAST = f"[Bruno] {LOOKS}\n[Mia] a white cat\n\n"
PAIR = f"""{CAST}[Bruno] walking in the forest
[Mia] sitting on the beach
[Bruno] right and [Mia] left waving in the snow
[NC] an empty scene on the moon"""


@pytest.mark.parametrize(
    "story, options, settings",
    [
        (PAIR, {}, {}),
        (PAIR, {"apart": "regions", "layers": "all", "rate": 1}, {"layers": "all", "consistency": 1.0}),
        (PAIR, {"apart": "isolated", "guidance": 1}, {"guidance_scale": 1.0}),
        (PAIR, {"apart": "regions", "rate": 0}, {"consistency": 0.0}),
        (f"{CAST}[Mia] and [Bruno] waving in the snow", {"apart": "isolated"}, {}),
        (
            PAIR,
            {"picks": "subject", "rate": 0.25, "layers": "all", "steps": 4},
            {"layers": "all", "consistency": 0.25},
        ),
        (PAIR, {"picks": "subject", "apart": "regions", "guidance": 1}, {"guidance_scale": 1.0}),
        (f"{FREE}\nthe bear waving in the snow\nthe bear sleeping on the beach", {}, {}),
    ],
    ids=[
        "words",
        "regions, all layers",
        "isolated, no guidance",
        "rate 0",
        "one panel",
        "subject",
        "subject and regions",
        "a phrase is carried",
    ],
)
def test_characters_are_those_of_python(visit, python, story, options, settings):
    read = visit.page.evaluate("text => ({...storyMachine.readStory(text), cast: null})", story)
    options = {"seed": 3, "steps": 2, "apart": "words", "picks": "random"} | options
    pixels, _ = draw(visit.page, **read, **options)
    names = ("seed", "apart", "picks")
    settings |= {name: options[name] for name in names} | {"num_inference_steps": options["steps"]}
    told = python(story, generator="portable", **settings)
    assert furthest(pixels, told.images) <= 1
    plain = options | {"apart": "words", "picks": "random"}
    if plain != options and options.get("rate", 1):
        other, _ = draw(visit.page, **read, **plain)
        assert furthest(other, told.images) > 10, "what was compared matters"
    assert_clean(visit)


@pytest.mark.parametrize(
    "story",
    [
        PAIR,
        f"{CAST}[Mia] waving # [Mia] waves.\n[NC] an empty scene on the moon #\n[Bruno] reading",
        "【Bo】: a bear.\n[Zo\u0301e] -  a   cat\n\n[Bo]walking and[Z\u00f3e]waving ＃ Hello, [Bo]!",
        "[A] a bear\n[B] a cat\n[C] a girl\n\n[C] left, [A] right and [B] middle\n[A] and [B] and [A]",
        "[NC]: an empty scene on the moon\na bear waving",
        *(
            f"{FREE}\n{line}"
            for line in (
                "he is sleeping on the beach",
                "She waves",
                "it's waving # It waves.",
                "The grey bear waving #",
                "the forest at night",
                "the red bear waving",
                "here he sleeps",
                "[NC] it is raining",
                "the cat waving",
            )
        ),
        f"{FREE}\na white cat waving\nhe walks\nthe bear sits\nhe sits\nthe bear runs\nshe runs",
        f"{FREE}\na bear waving\nthe bear sits",
        f"{CAST}[Bruno] reading\nhe sleeps # Good night.\nthe grey bear and [Mia] waving",
        f"{CAST}[Bruno] reading\nhe sleeps\n[Mia] waving\nshe sits\nhe walks\n[Mia] and he sit\nshe runs",
        f"{CAST}[Bruno] reading\n[Mia] waving\nshe sits\nshe walks\nhe left and [Mia] right",
        f"{CAST}[Bruno] reading\n[Mia] waving\n[Mia] and she sit\nhe and [Bruno] wave",
        f"{CAST}[Bruno] left the forest\n[Mia] left and [Bruno] waving\n[Mia] at 5 o'clock",
        "[A] a bear\n[B] a bear\n\nthe bear sits\n[B] walks\nthe bear waves",
        "[Zoe\u0301] a cat\n\n[Zo\u00e9] sits\nshe waves # [Zoe\u0301] waves",
        "a girl wearing red clothes and a blue bow holding a balloon\nshe sits\nthe girl sits",
        "a bear with glasses walks\na bear and a cat waving\nthe bear sits",
        "he sleeps on the beach",
        "It is raining\nshe's waving # Hello.\na bear reading\nhe sits",
        "[Bo] a bear\n\n[Bo] and he wave",
        "1. a bear reading\n\n2) a bear sitting # Night.",
        f"{CAST}- [Bruno] reading\n- he sleeps\n- [NC] the forest",
        "• a bear reading\n• a bear waving",
    ],
)
def test_a_story_is_read_as_python_reads_it(visit, story):
    got = visit.page.evaluate("text => ({...storyMachine.readStory(text), cast: null})", story)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        panels = parse(story).panels
    assert len(got["notes"]) == len(said)
    assert list(zip(got["prompts"], got["captions"], got["noCharacter"], strict=True)) == [
        (p.prompt, p.text, p.no_character) for p in panels
    ]
    for name in ("characters", "places", "described"):
        assert [tuple(x) for x in got[name]] == [getattr(p, name) for p in panels], name
    assert [x and tuple(x) for x in got["carried"]] == [p.carried for p in panels]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = parse(got["text"]).panels
    assert [(p.prompt, p.text, p.characters, p.places, p.carried) for p in again] == [
        (p.prompt, p.text, p.characters, p.places, p.carried) for p in panels
    ]


@pytest.mark.parametrize(
    "story, said",
    [
        ("", "The story is empty"),
        (f"{CAST}he sleeps on the beach", "it names nobody of [Bruno], [Mia]"),
        (
            "[Bo] waving in the snow # Hello.",
            'nobody said who [Bo] is. Begin the story with a line such as "[Bo] a',
        ),
        (
            "[Bo] a bear\n[Bo] waving in the snow",
            "[Bo] is declared twice. If this line is a panel, leave an empty",
        ),
        ("[Bo] a bear", "says who is in it, and has no panels"),
        ("[Bo]\n\n[Bo] waves", "[Bo] has no description"),
        (f"{CAST}a dog waving", "it names nobody of [Bruno], [Mia]"),
        (f"{CAST}[NC] [Mia] waving", "nobody is in this panel, and [Mia] is"),
        (f"{CAST}[Mia] waving to Bruno", "Bruno stands here without brackets: write [Bruno]"),
        (f"{CAST}[Mia waving", "not closed"),
        (f"{CAST}[Mia] at 0 20 50 100 and [Bruno] right", '"at 0 20 50 100" is a box, which only Python'),
        (f"{CAST}[Mia] at 0 20 50, waving", '"at 0 20 50" is a box, which only Python'),
        (f"{CAST}[Mia] left and [Bruno] left waving", "each stands at another place: left, right"),
        (f"{CAST}[Mia] left and [Bruno] middle", "each stands at another place: left, right"),
    ],
)
def test_what_is_wrong_with_a_story_is_told(visit, story, said):
    read = "text => { try { return storyMachine.readStory(text); } catch (e) { return e.message; } }"
    assert said in visit.page.evaluate(read, story)


def test_two_in_one_panel_by_hand(visit):
    machine = visit.page.get_by_role("region", name="Story machine")
    apart = machine.get_by_label("Two in one panel")
    assert apart.is_disabled() and "no panel of this story shows two" in machine.inner_text()
    machine.get_by_label("Take a story").select_option("Bo and Mia, two in a panel")
    assert apart.is_enabled() and "shows two" not in machine.inner_text()
    machine.get_by_text("Pick a panel from lists").click()
    who = machine.get_by_label("Who")
    assert who.locator("option").all_inner_texts() == [
        "[Bo]",
        "[Mia]",
        "[Bo] left and [Mia] right",
        "an empty scene",
    ]
    story = machine.get_by_role("textbox")
    story.fill("[Bo] a bear\n[Mia] a cat\n\n[Bo] left and [Mia] waving in the snow")
    machine.locator(".sm-main").press("Enter")
    wrong = machine.get_by_role("alert").filter(has_text='does not know the word "left"')
    wrong.wait_for()
    assert 'say where everybody stands: "[Mia] right".' in wrong.inner_text()
    story.fill("[Bo] a bear\n[Mia] a cat\n\n[Bo] right and [Mia] left waving in the snow")
    machine.get_by_label("Steps").fill("1")
    story.fill(story.input_value() + "\nhe is sleeping on the beach")
    machine.locator(".sm-main").press("Enter")
    machine.get_by_role("button", name='Leave out "is"').press("Enter")
    assert story.input_value().endswith("\nhe sleeping on the beach")
    for choice, tags in (("words", []), ("regions", ["Mia", "Bo"])):
        apart.select_option(choice)
        machine.locator(".sm-main").press("Enter")
        said = machine.get_by_role("status").filter(has_text="Drawn in")
        said.wait_for()
        assert machine.locator(".sm-tags b").all_inner_texts() == tags
        assert ("Words for places count only" in said.inner_text()) == (choice == "words")
        assert '"he" may be [Bo] or [Mia]' in said.inner_text()
        said.evaluate("p => (p.textContent = '')")
    panel = machine.get_by_role("img").first
    assert panel.get_attribute("aria-label").endswith("; from left to right: Mia, Bo")
    title = machine.locator(".sm-title").inner_text()
    assert "regions" in title and "picks" not in title
    machine.get_by_label("Picks").select_option("subject")
    machine.locator(".sm-main").press("Enter")
    machine.locator(".sm-title", has_text=re.compile("picks of the subject · regions · .* s$")).wait_for()
    axe(visit.page)
    assert_clean(visit)


def test_ddim_is_that_of_diffusers(visit, python):
    from diffusers import DDIMScheduler

    other = StoryPipeline(**python.components)
    other.scheduler = DDIMScheduler.from_config(python.scheduler.config)
    other.set_progress_bar_config(disable=True)
    settings = {"seed": 1, "num_inference_steps": 3}
    pixels, _ = draw(visit.page, STORY[:1], seed=1, steps=3, solver="ddim", rate=0)
    assert furthest(pixels, other(STORY[:1], generator="portable", consistency=0, **settings).images) <= 1


def test_mistakes_of_chapter_5_are_those_of_python(visit, python):
    """Halves mixed, by the chapter's own reading lists; scale forgotten, by queries that much longer."""
    from storydiff_lite.attention import reading_lists
    from storydiff_lite.schedule import AttentionPlan, self_attention_layers

    settings = {"seed": 1, "num_inference_steps": 2, "layers": "all", "generator": "portable"}
    o = {"seed": 1, "steps": 2, "rate": 0.5, "layers": "all"}
    python.attention_plan = functools.partial(
        AttentionPlan, reads=lambda picks, n, may_read: reading_lists(picks.flatten(0, 2), n)
    )
    mixed = python(STORY, **settings).images
    del python.attention_plan
    names = self_attention_layers(python.unet, "all")
    layers = [python.unet.get_submodule(name.removesuffix(".processor")) for name in names]
    before = [attn.to_q.weight.data for attn in layers]
    for attn in layers:
        attn.to_q.weight.data = attn.to_q.weight.data * (attn.inner_dim // attn.heads) ** 0.5
    unscaled = python(STORY, **settings).images
    for attn, weight in zip(layers, before, strict=True):
        attn.to_q.weight.data = weight
    right = python(STORY, **settings).images
    for variant, images in ((None, right), ("halves", mixed), ("scale", unscaled)):
        pixels, _ = draw(visit.page, STORY, variant=variant, **o)
        assert furthest(pixels, images) <= 1, variant
    assert furthest(mixed, right) > 10 and furthest(unscaled, right) > 10
    others, _ = draw(visit.page, STORY, variant="others", **o)
    assert furthest(others, right) > 10


def test_a_map_is_that_of_the_recorder(visit, python):
    from storydiff_lite.attention_maps import AttentionRecorder

    recorder = AttentionRecorder([1], "all", grid=None, cross=False, heads="mean")
    python(STORY, seed=1, generator="portable", num_inference_steps=2, recorder=recorder)
    draw(visit.page, STORY, seed=1, steps=2, record={"layer": "all", "step": "all"})
    for number, layer in enumerate(visit.page.evaluate("storyMachine.meta.layers")):
        name = layer["name"].removesuffix(".attn1")
        where = {"layer": number, "step": 1, "panel": 1, "token": 9}
        shares = visit.page.evaluate("async o => Array.from((await storyMachine.map(o)).shares)", where)
        want = recorder.map(1, name)[1, 9].flatten().numpy()
        assert len(shares) == len(STORY) * layer["tokens"] and abs(sum(shares) - 1) < 1e-4
        assert np.abs(np.array(shares) - want).max() <= float(recorder.error(1, name)[1, 9]) + 1e-4, name


def test_memory_does_not_grow_and_a_slow_page_answers(visit):
    client = visit.context.new_cdp_session(visit.page)
    client.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    used = []
    for seed in range(6):
        _, result = draw(visit.page, STORY, seed=seed, steps=1)
        client.send("HeapProfiler.collectGarbage")
        page = client.send("Runtime.getHeapUsage")["usedSize"]
        used.append((result["heap"], page))
    (heap, page), (last_heap, last_page) = used[1], used[-1]
    assert last_heap == heap, "the runtime's memory grew"
    assert last_page - page < 2e6, "the page's memory grew"
    # while it draws, the page is free: never for a step's length without a turn
    lag, step = visit.page.evaluate(
        """async prompts => {
             let [worst, before, result] = [0, performance.now(), null];
             const drawing = storyMachine.draw({prompts, steps: 2}).then((r) => (result = r));
             while (!result) {
               await new Promise((r) => setTimeout(r, 20));
               worst = Math.max(worst, performance.now() - before);
               before = performance.now();
             }
             await drawing;
             return [worst, 1000 * Math.max(...result.stepSeconds)];
           }""",
        STORY,
    )
    client.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    assert lag < 0.75 * step, f"a step took {step:.0f} ms, and for {lag:.0f} ms the page did not answer"


def test_worker_ends_with_its_page(visit):
    page = visit.page
    assert len(page.workers) == 1
    page.goto("about:blank")
    page.wait_for_timeout(200)
    assert page.workers == []


def test_reader_without_a_mouse(site, chromium, python, tmp_path):
    """Over http: a wrong word is named and mended, a drawing cancelled, another drawn and saved."""
    with served(site) as host, Visit(chromium, host=host) as visit:
        page = visit.open(f"http://{host}/{MACHINE}")
        machine = page.get_by_role("region", name="Story machine")
        story, error = machine.get_by_role("textbox"), machine.get_by_role("alert")
        draw_button, said = machine.locator(".sm-main"), machine.get_by_role("status")
        assert "MB" in draw_button.inner_text(), "it says what it will load"

        steps = machine.get_by_label("Steps")
        story.fill(STORY[0])
        steps.fill("1")
        page.route("**/decoder.js*", lambda route: route.abort())
        draw_button.press("Enter")
        error.get_by_text("decoder.js could not be loaded").wait_for()
        page.unroute("**/decoder.js*")
        anew(page, version="2")
        page.route("**/worker-code.js*", full_memory)
        draw_button.press("Enter")
        error.get_by_text("memory does not suffice").wait_for()
        page.unroute("**/worker-code.js*")
        anew(page, version="3", workers=2)  # as on a computer with more cores
        visit.failed.clear()  # of the file that was kept from it
        visit.errors.clear()

        story.fill(STORY[0] + "\na baer walking on the beach # Home.")
        draw_button.press("Enter")
        error.get_by_role("button").wait_for()
        assert 'does not know the word "baer"' in error.inner_text()
        assert story.get_attribute("aria-invalid") is not None
        assert page.evaluate("() => document.getSelection().toString()") == "baer"
        error.get_by_role("button", name='Write "bear"').press("Enter")
        assert story.input_value() == STORY[0] + "\n" + STORY[1] + " # Home." and error.inner_text() == ""

        steps.fill("8")
        draw_button.press("Enter")
        cancel = machine.get_by_role("button", name="Cancel")
        page.wait_for_function("() => document.querySelector('.story-machine progress').value > 0")
        assert cancel.evaluate("b => b === document.activeElement"), "the focus waits on Cancel"
        page.keyboard.press("Enter")
        said.get_by_text("Cancelled.").wait_for()
        assert draw_button.evaluate("b => b === document.activeElement")

        steps.fill("2")
        draw_button.press("Enter")
        said.get_by_text("Drawn in").wait_for()
        panels = machine.get_by_role("img")
        assert [p.get_attribute("aria-label").split(": ")[1] for p in panels.all()] == STORY
        assert len({p.screenshot() for p in panels.all()}) == 2
        axe(page)
        with page.expect_download() as download:
            machine.get_by_role("button", name="Save as PNG").press("Enter")
        download.value.save_as(tmp_path / "story.png")
        pixels = [_canvas(p) for p in panels.all()]
        assert len(page.workers) == 2
        assert_clean(visit)
    recipe, made = read_recipe(tmp_path / "story.png")
    assert recipe.story == f"{STORY[0]} # {STORY[0]}\n{STORY[1]} # Home." and made["drawn_in"] == "browser"
    again = tell.retell(tmp_path / "story.png", tmp_path / "again.png", pipe=python, progress=False)
    assert furthest(pixels, again.images) <= 1


def anew(page, **settings):
    """Other settings of the engine; with another version no file comes from the browser's cache."""
    page.evaluate("settings => storyMachine.configure(settings)", settings)


def full_memory(route):
    """The worker, with no memory left for its first picture."""
    response = route.fetch()
    text = response.text()
    begin = "async function decode(latents) {"
    assert begin in text
    route.fulfill(response=response, body=text.replace(begin, begin + " new ArrayBuffer(2 ** 52);"))


def _canvas(panel):
    side = panel.evaluate("c => c.width")
    data = panel.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.width).data)")
    return np.array(data, np.uint8).reshape(side, side, 4)[..., :3]


def axe(page):
    page.add_script_tag(content=AXE)
    for theme in ("light", "dark"):
        page.evaluate("t => document.documentElement.dataset.theme = t", theme)
        options = {
            "resultTypes": ["violations"],
            "preload": False,
        }  # from a folder no stylesheet can be fetched
        found = page.evaluate("o => axe.run('.story-machine', o)", options)["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found] == []


def test_without_webassembly_it_says_so(site, chromium):
    with Visit(chromium) as visit:
        visit.context.add_init_script("delete self.WebAssembly")
        page = visit.open((site / CHAPTER).as_uri())
        machine = page.locator(".story-machine")
        assert "no WebAssembly" in machine.get_by_role("alert").inner_text()
        assert machine.locator(".sm-main").is_disabled()
        assert_clean(visit)
