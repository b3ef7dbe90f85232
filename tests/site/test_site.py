"""The built site, opened from its folder in a browser that cannot reach the network."""

from pathlib import Path

import chapters
import pytest
from browser import Visit, served

pytestmark = pytest.mark.site

AXE = (Path(__file__).parent / "vendor/axe.min.js").read_text(encoding="utf8")
CHAPTER = "notebooks/00-a-story-in-one-minute.html"


def assert_clean(visit):
    assert visit.outside == [], "the site must not reach for the network"
    assert visit.failed == [], "a local file is missing or would not load"
    assert visit.errors == [], "the browser's console must stay quiet"


def pictures_without(page):
    """Pictures of a page that say nothing, or did not load."""
    pictures = page.evaluate(
        """() => [...document.images].map(i => ({src: i.src.slice(0, 80), alt: i.alt.trim(),
             loaded: i.complete && i.naturalWidth > 0}))"""
    )
    return [p for p in pictures if not (p["alt"] and p["loaded"])]


def sticks_out(page, width):
    """Whether a page scrolls sideways, and why: what is too wide must scroll in its own box."""
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    culprits = page.evaluate(
        """w => [...document.querySelectorAll('main *')]
             .filter(e => e.getBoundingClientRect().right > w + 1)
             .slice(0, 5).map(e => e.tagName + '.' + e.className)""",
        width,
    )
    return [] if wide <= width else [f"{wide} px wide on a screen of {width}; look at {culprits}"]


def code_that_is_cut(page):
    """What `check_notebooks.COLUMNS` promises: the code that a page shows fits a screen of 1280 pixels."""
    return page.evaluate(
        """() => [...document.querySelectorAll('div.cell_input pre')]
             .filter(e => e.offsetParent && !e.closest('details') && e.scrollWidth > e.clientWidth + 1)
             .map(e => e.textContent.slice(0, 60))"""
    )


def serious(page):
    """What axe finds that is serious; the page is spoilt by it.

    Of the words of highlighted code that look alike, on the same ground, the first stays; the others become
    text of their line, as wide as before. A chapter has ten thousand, and these took most of the time.
    """
    page.add_script_tag(content=AXE)
    found = page.evaluate(
        """() => {
             const known = new Map(), seen = new Set();
             const looks = (e) => {
               const s = getComputedStyle(e);
               return [s.color, s.backgroundColor, s.fontSize, s.fontWeight, s.fontStyle, s.opacity].join();
             };
             const ground = (e) => known.get(e) ?? known.set(e, looks(e)).get(e);
             const words = [...document.querySelectorAll('div.highlight pre span')];
             const keys = words.map((e) =>
               [looks(e), ground(e.parentElement), ground(e.closest('div.highlight'))].join());
             words.forEach((e, i) => {
               if (seen.has(keys[i])) e.replaceWith(...e.childNodes);
               seen.add(keys[i]);
             });
             return axe.run(document, {resultTypes: ['violations']});
           }"""
    )["violations"]
    return [
        f"{v['impact']}: {v['id']} ({v['help']}): {n['target']} {n['html'][:160]}"
        f" {(n.get('failureSummary') or '')[:240]}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"][:3]
    ]


def assert_none(found):
    """Every list of findings is empty; where some are not, all of these are told."""
    assert {what: them for what, them in found.items() if them} == {}


def test_page_on_a_wide_screen(site, chromium, path):
    """No request leaves, none fails, the console is quiet, pictures load and say what they show, formulas are
    set, nothing sticks out, no code is cut, and axe finds nothing serious.
    """
    with Visit(chromium, width=1280) as visit:
        page = visit.open((site / path).as_uri())
        assert page.locator("html").get_attribute("data-theme") == "light"
        found = {"sticks out": sticks_out(page, 1280), "code that is cut": code_that_is_cut(page)}
        for _ in range(20):  # wake up lazy pictures
            page.mouse.wheel(0, 1500)
        page.wait_for_timeout(200)
        assert_clean(visit)
        found["pictures without words or pixels"] = pictures_without(page)
        unset = page.locator(".math:not(:has(mjx-container))").count()
        found["formulas that were not set"] = [unset] * (unset > 0)
        page.evaluate("() => scrollTo(0, 0)")
        assert_none(found | {"axe": serious(page)})


def test_page_on_a_phone_and_in_the_dark(site, chromium, path):
    """On a phone in the dark nothing sticks out; on a wide screen again axe finds nothing serious."""
    with Visit(chromium, width=390, dark=True) as visit:
        page = visit.open((site / path).as_uri())
        assert page.locator("html").get_attribute("data-theme") == "dark"
        found = {"sticks out": sticks_out(page, 390)}
        page.set_viewport_size({"width": 1280, "height": 900})
        assert_none(found | {"axe": serious(page)})


def test_focus_can_be_seen(site, chromium):
    """Every stop of the Tab key shows where it is."""
    with Visit(chromium) as visit:
        page = visit.open((site / "book/intro.html").as_uri())
        seen = 0
        for _ in range(25):
            page.keyboard.press("Tab")
            here = page.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                     return {what: e.tagName + '.' + e.className, body: e === document.body,
                             outline: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0}; }"""
            )
            if not here["body"]:
                seen += 1
                assert here["outline"], f"no visible focus on {here['what']}"
        assert seen > 10


def test_no_equation_is_cut(site, chromium, path):
    """On a screen of 1280 pixels; on a phone an equation scrolls in its own box."""
    with Visit(chromium, width=1280) as visit:
        page = visit.open((site / path).as_uri())
        cut = page.evaluate(
            """() => [...document.querySelectorAll('mjx-container[display="true"]')]
                 .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1)
                 .map(e => e.closest('.math').id + ' ' + e.textContent.slice(0, 40))"""
        )
        assert cut == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["wide", "phone"])
def test_first_screen_says_what_and_where_to_begin(site, chromium, width, height):
    """Front page: what it is, the first picture and the first click, without scrolling."""
    with Visit(chromium, width=width, height=height) as visit:
        page = visit.open((site / "book/intro.html").as_uri())
        article = page.locator("article")
        first = article.locator("a.first-click").first
        for part in (article.locator("h1"), article.locator("p").first, article.locator("img").first, first):
            box = part.bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, part.evaluate("e => e.outerHTML")[
                :80
            ]
        first.click()
        assert page.url.endswith(CHAPTER)
        assert_clean(visit)


def test_figures_can_be_enlarged_on_a_phone(site, chromium):
    """By keyboard: a figure with small print in its own size, scrolled inside its own box, and back."""
    with Visit(chromium, width=390) as visit:
        page = visit.open((site / "notebooks/05-consistent-self-attention.html").as_uri())
        button = page.get_by_role("button", name="Enlarge the figure").first
        picture = button.locator("xpath=preceding-sibling::div[1]/img")
        small = picture.bounding_box()["width"]
        button.press("Enter")
        assert picture.bounding_box()["width"] == int(picture.get_attribute("width")) > 1.2 * small
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        button.press("Enter")
        assert picture.bounding_box()["width"] == small
        assert_clean(visit)


def test_a_wide_table_shows_on_a_phone_that_it_goes_on(site, chromium):
    """A table of numbers: a shadow at its edge, and its caption whole and in sight while it scrolls."""
    with Visit(chromium, width=390) as visit:
        page = visit.open((site / "notebooks/12-the-neighbours.html").as_uri())
        wide = page.evaluate(
            """() => [...document.querySelectorAll('table.numbers')]
                 .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => {
                   e.scrollLeft = 100;
                   const box = e.getBoundingClientRect(), c = e.caption?.getBoundingClientRect();
                   return {shadow: getComputedStyle(e).backgroundImage.split('linear-gradient').length - 1,
                           caption: !c || (c.left >= box.left - 1 && c.right <= box.right + 1)}; })"""
        )
        assert len(wide) >= 2
        assert all(table == {"shadow": 4, "caption": True} for table in wide), wide


def test_a_wide_equation_shows_on_a_phone_that_it_goes_on(site, chromium):
    """Chapter 0: RandSample names many panels."""
    with Visit(chromium, width=390) as visit:
        page = visit.open((site / "notebooks/00-a-story-in-one-minute.html").as_uri())
        page.locator("mjx-container").first.wait_for(state="attached")
        shadows = page.evaluate(
            """() => [...document.querySelectorAll('.math mjx-container[display="true"]')]
                 .filter(e => e.scrollWidth > e.clientWidth + 1)
                 .map(e => getComputedStyle(e).backgroundImage.split('linear-gradient').length - 1)"""
        )
        assert shadows and set(shadows) == {4}


def test_terms_lead_to_the_glossary(site, chromium):
    """Chapter 5: terms are links, each once, that say on hover what the glossary says, and lead to it."""
    with Visit(chromium) as visit:
        page = visit.open((site / "notebooks/05-consistent-self-attention.html").as_uri())
        links = page.locator("a.glossary-link")
        found = links.evaluate_all("all => all.map(a => [a.innerText, a.getAttribute('href'), a.title])")
        assert len(found) >= 8 and len({href for _, href, _ in found}) == len(found)
        assert all(len(title) > 20 and title.endswith((".", ":")) for _, _, title in found)
        assert links.locator("xpath=ancestor::*[self::h1 or self::h2 or self::h3 or self::pre]").count() == 0
        text, href, title = found[0]
        links.first.click()
        page.locator(":target").wait_for()
        assert page.url.endswith(href.removeprefix("../"))
        entry = page.locator(":target")
        assert entry.inner_text().strip("#").lower() in (text.lower(), text.lower().removesuffix("s"))
        meaning = entry.locator("xpath=following-sibling::dd[1]").inner_text()
        assert " ".join(meaning.split()).startswith(title)
        assert_clean(visit)


def look(page, widget):
    """Everything in an interactive figure that a reader can see change."""
    return widget.evaluate(
        """e => [e.innerText,
             ...[...e.querySelectorAll('img')].map(i => i.src + i.alt + getComputedStyle(i).display),
             ...[...e.querySelectorAll('canvas')].map(c => c.toDataURL())].join('|')"""
    )


def try_slider(page):
    slider = page.locator(".cell_output input[type=range]").first
    slider.scroll_into_view_if_needed()
    widget = slider.locator("xpath=ancestor::div[contains(@class, 'cell_output')][1]")
    views = [look(page, widget)]
    box = slider.bounding_box()
    for share in (0.97, 0.03):
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(150)
        views.append(look(page, widget))
    assert len(set(views)) > 1 and views[1] != views[2], "the figure does not answer a click on its slider"
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(150)
    assert look(page, widget) != views[2], "the figure does not answer the arrow keys"


def test_interactive_figure_answers(site, chromium):
    """Opened from the folder: the slider of chapter 0 changes the picture, by mouse and by keyboard."""
    with Visit(chromium) as visit:
        try_slider(visit.open((site / CHAPTER).as_uri()))
        assert_clean(visit)


def test_token_explorer_answers_without_a_kernel(site, chromium):
    """Chapter 2: another prompt, other chips; more pictures, more class tokens; a bad prompt, its reason."""
    with Visit(chromium) as visit:
        page = visit.open((site / "notebooks/02-trigger-words-and-class-tokens.html").as_uri())
        explorer = page.locator(".token-explorer")
        explorer.wait_for()
        prompt, count = explorer.locator("select").all()
        assert not explorer.locator("input").is_visible(), "nobody is there to read what is typed"
        lists = explorer.locator("ol")
        for n in ("1", "4"):
            count.select_option(n)
            assert lists.nth(1).locator(".chip-class").count() == int(n)
        before = lists.nth(0).inner_text()
        prompt.select_option(index=1)
        assert lists.nth(0).inner_text() != before
        prompt.select_option(index=6)
        assert "2 trigger words" in explorer.locator(".token-explorer-error").inner_text()
        assert_clean(visit)


def test_motion_scrubber_answers_without_a_kernel(site, chromium):
    """Chapter 8: frame by frame with the keyboard, another motion; pictures, paths and words go along."""
    with Visit(chromium) as visit:
        page = visit.open((site / "notebooks/08-semantic-motion-prediction.html").as_uri())
        scrubber = page.locator(".motion-scrubber")
        scrubber.wait_for()
        slider, motion = scrubber.get_by_label("frame"), scrubber.get_by_label("motion")
        images, dot = scrubber.locator("img"), scrubber.locator("circle.motion-scrubber-truth")
        slider.focus()
        page.keyboard.press("Home")
        assert scrubber.locator("output").inner_text().startswith("1 of ")
        seen = [(images.nth(0).get_attribute("alt"), dot.get_attribute("cx"), images.nth(0).screenshot())]
        for key in ("PageUp", "End"):
            page.keyboard.press(key)
            page.wait_for_timeout(200)
            seen.append(
                (images.nth(0).get_attribute("alt"), dot.get_attribute("cx"), images.nth(0).screenshot())
            )
        assert all(len(set(views)) == 3 for views in zip(*seen, strict=True))
        last = seen[-1]
        for k in range(3):  # the ends are known: all three show the last picture, and say so
            assert "time 1.00" in images.nth(k).get_attribute("alt")
        motion.select_option(index=1)
        page.wait_for_timeout(200)
        assert images.nth(0).screenshot() != last[2] and dot.get_attribute("cx") != last[1]
        assert scrubber.locator("svg").get_attribute("aria-label")
        assert_clean(visit)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_quiz_is_answered_by_keyboard(site, chromium, dark):
    """Chapter 5, on a phone: a wrong choice, then the right one; each time the reason is said."""
    with Visit(chromium, width=390, dark=dark) as visit:
        page = visit.open((site / "notebooks/05-consistent-self-attention.html").as_uri())
        quiz = page.locator("#quiz-05-halves")
        said, explained = quiz.get_by_role("status"), quiz.locator("details")
        radios = quiz.get_by_role("radio")
        assert quiz.get_by_role("group").count() == 1 and explained.is_hidden()
        button = quiz.get_by_role("button", name="Check")
        button.press("Enter")
        assert said.inner_text() == "Choose an answer first."
        right = [bool(c.get("right")) for c in chapters.extension("quizzes").find("05-halves")["choices"]]
        radios.first.focus()
        page.keyboard.press("Space")
        for at in range(right.index(True) + 1):
            page.keyboard.press("ArrowDown" if at else "Enter")
            assert radios.nth(at).is_checked()
            page.keyboard.press("Enter")
            text = said.inner_text()
            assert text.startswith("Right. " if right[at] else "Not this one. ") and len(text) > 40
        assert explained.is_visible(), "after the right answer all others may be read"
        page.keyboard.press("ArrowDown")
        assert said.inner_text() == "", "another choice, and the old reason is gone"
        page.keyboard.press("Tab")
        assert button.evaluate("b => b === document.activeElement")
        assert_clean(visit)


def test_quiz_reads_without_scripts(site, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "notebooks/05-consistent-self-attention.html").as_uri())
    quiz = page.locator("#quiz-05-halves")
    quiz.locator("summary").click()
    assert "Right: " in quiz.locator("details").inner_text() and quiz.get_by_role("button").is_hidden()
    context.close()


def test_attention_explorer_answers_without_a_kernel(site, chromium):
    """Chapter 6: patches by mouse and by keys, controls, words; in colours and in words."""
    with Visit(chromium) as visit:
        page = visit.open((site / "notebooks/06-reading-attention-maps.html").as_uri())
        explorer = page.locator(".attention-explorer")
        explorer.wait_for()
        said = explorer.locator(".ae-said")
        page.wait_for_function("() => document.querySelector('.ae-said').innerText.startsWith('Patch row')")
        assert not explorer.locator("textarea").is_visible(), "nobody is there to draw what is typed"
        views = []

        def changed(what):
            page.wait_for_timeout(250)
            views.append((look(page, explorer), said.inner_text()))
            assert views.count(views[-1]) == 1, f"{what}: the figure shows what it has shown before"
            return views[-1][1]

        changed("at first")
        cells = explorer.locator("[role=gridcell]")
        rows, columns = (
            explorer.locator("[role=grid]").first.locator("[role=row]").count(),
            explorer.locator("[role=row]").first.locator("[role=gridcell]").count(),
        )
        cells.nth(rows * columns + columns + 2).click()
        text = changed("a click")
        assert text.startswith("Patch row 2, column 3 of panel 2 reads ") and "from its own panel" in text
        page.keyboard.press("ArrowDown")
        assert changed("arrow down").startswith("Patch row 3, column 3 of panel 2")
        page.keyboard.press("PageUp")
        assert changed("page up").startswith("Patch row 3, column 3 of panel 1")
        page.keyboard.press("Home")
        assert changed("home").startswith("Patch row 3, column 1 of panel 1")
        for _ in range(columns):  # over the edge
            page.keyboard.press("ArrowRight")
        assert changed("arrow right, to the next panel").startswith("Patch row 3, column 1 of panel 2")
        focused = page.evaluate("() => document.activeElement.getAttribute('aria-label')")
        assert focused == "panel 2, row 3, column 1", "the focus goes with the choice"
        cells.nth(5).hover()
        assert changed("pointing").startswith("Patch row 1, column 6 of panel 1")
        explorer.locator(".ae-hint").hover()
        page.wait_for_timeout(250)
        assert said.inner_text() == views[-2][1], "what was chosen comes back when the pointer has left"

        head, layer = explorer.get_by_label("Head"), explorer.get_by_label("Layer")
        head.select_option("0")
        changed("another head")
        layer.select_option(index=0)
        changed("another layer")
        rate, step = explorer.get_by_label("Rate"), explorer.get_by_label("Step")
        for control in (rate, step):
            if control.get_attribute("max") != "0":  # one rate at profile smoke
                control.focus()
                page.keyboard.press("Home")
                text = changed("a slider to its beginning")
                if control is rate:
                    assert "its own panel only" in text
        explorer.get_by_label("a word, and where it lands").check()
        changed("words")
        words = explorer.locator(".ae-words button")
        assert words.nth(0).is_visible() and explorer.locator("[role=grid]").first.is_hidden()
        words.filter(has_text="(padding)").click()
        assert "(padding)" in changed("another word")
        explorer.get_by_label("pictures alone").check()
        changed("pictures alone")
        assert_clean(visit)


def test_page_of_maps_is_light(site):
    """Chapter 6 carries all its maps: at most 3 MB."""
    assert (site / "notebooks/06-reading-attention-maps.html").stat().st_size <= 3e6


def test_works_from_a_server_too(site, chromium):
    """The same over http, under a prefix, as on a course's web server."""
    with served(site, "/some/prefix") as host, Visit(chromium, host=host) as visit:
        try_slider(visit.open(f"http://{host}/some/prefix/{CHAPTER}"))
        assert_clean(visit)
