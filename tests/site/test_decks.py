"""A deck in the browser, from its folder, with no network."""

import browser
import chapters
import pytest
import slides

pytestmark = pytest.mark.xdist_group("decks")  # made once

DECK = "05-consistent-self-attention.html"
FULL = [f"{path.stem}.html" for path in chapters.find([])]
# of the slide that is shown: how it begins, if something sticks out of it or is cut
TOO_LARGE = """() => {
    const slide = Reveal.getCurrentSlide(), size = Reveal.getConfig();
    const right = slide.getBoundingClientRect().right;
    const out = [...slide.querySelectorAll('mjx-math, table, img, p, li')]
        .some(e => e.getBoundingClientRect().right > right + 2);
    const cut = [...slide.querySelectorAll('pre')]
        .some(e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1);
    return out || cut || slide.scrollHeight > size.height + 1 ? slide.innerText.slice(0, 60) : null;
}"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decks") / "slides"
    slides.make(folder, [])
    return folder


def test_deck_goes_on_offline(decks, chromium):
    with browser.Visit(chromium) as visit:
        page = visit.open((decks / DECK).as_uri())
        assert page.locator("section.present h1").inner_text().startswith("Consistent self-attention")
        page.keyboard.press("ArrowRight")
        page.locator("section.present h2", has_text="The idea in a picture").wait_for()
        page.keyboard.press("ArrowDown")
        picture = page.locator("section.present section.present img")
        picture.wait_for()
        assert picture.evaluate("i => i.complete && i.naturalWidth > 100")
        assert page.locator("mjx-container").count() > 5
        assert page.locator("mjx-merror").count() == 0
        assert (visit.outside, visit.failed, visit.errors) == ([], [], [])


@pytest.mark.parametrize("deck", FULL)
def test_every_slide_fits(decks, chromium, deck):
    with browser.Visit(chromium) as visit:
        page = visit.open((decks / deck).as_uri())
        found = []
        for _ in range(page.evaluate("Reveal.getTotalSlides()")):
            found.append(page.evaluate(TOO_LARGE))
            page.keyboard.press("Space")
        assert len(found) > 20 and [f for f in found if f] == []


def test_notes_stand_beside_the_slide(decks, chromium):
    """S shows and hides them; the list of decks also opens a deck with them."""
    with browser.Visit(chromium) as visit:
        page = visit.open((decks / DECK).as_uri())
        notes = page.locator(".speaker-notes")
        assert not notes.is_visible()
        page.keyboard.press("s")
        assert "Ask:" in notes.inner_text() and "Point at:" in notes.inner_text()
        page.keyboard.press("s")
        assert not notes.is_visible()
        page = visit.open((decks / "index.html").as_uri())
        page.get_by_role("link", name="05 Consistent self-attention, with notes").click()
        page.locator("section.present h1").wait_for()
        before = notes.inner_text()
        page.keyboard.press("ArrowRight")
        page.locator("section.present h2", has_text="The idea in a picture").wait_for()
        assert notes.is_visible() and "Point at:" in before and notes.inner_text() != before
        assert (visit.outside, visit.failed, visit.errors) == ([], [], [])


def test_list_of_decks_leads_to_them(decks, chromium):
    with browser.Visit(chromium) as visit:
        page = visit.open((decks / "index.html").as_uri())
        page.get_by_role("link", name="05 Consistent self-attention", exact=True).click()
        page.locator("section.present h1").wait_for()
        assert (visit.outside, visit.failed, visit.errors) == ([], [], [])
