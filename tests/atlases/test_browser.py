"""The atlas in a real browser, from disk: search, filter, keyboard, cells, a phone's width, dark and light."""

from __future__ import annotations

import pytest

import phosphene
from tests.atlases.test_atlas import FEW, HOSTILE, network, pictures
from tests.browsing import needs_chromium, opening

pytestmark = [pytest.mark.filterwarnings("default"), needs_chromium]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    place = tmp_path_factory.mktemp("atlas")
    phosphene.atlas(network(), pictures(place / "photos"), place / "site", layers=["5"], **FEW)
    return (place / "site").as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens a page of the atlas."""
    with opening(browser, address) as open_page:
        yield open_page


def test_search_by_keyboard_opens_a_class_from_any_page(opened):
    page = opened("layer/5/activations.html")
    page.keyboard.press("/")
    page.keyboard.type("lady")
    page.wait_for_selector("#found [role=option]")
    assert page.get_attribute("#search", "aria-expanded") == "true"
    assert page.get_attribute("#search", "aria-activedescendant") == "found-0"
    page.keyboard.press("Enter")
    page.wait_for_url("**/class/0.html")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/class/1.html")
    assert page.inner_text("h1") == HOSTILE


def test_hostile_names_are_text_in_what_is_found(opened):
    page = opened("index.html")
    page.fill("#search", "onerror")
    page.wait_for_selector("#found [role=option]")
    assert HOSTILE in page.inner_text("#found")
    assert page.locator("#found img[src=x]").count() == 0


def test_the_filter_leaves_the_classes_of_that_name(opened):
    page = opened("index.html")
    page.fill("#filter", "GRÖSSE".lower().replace("ss", "ß"))
    assert page.locator("#grid li:visible").count() == 1
    page.fill("#filter", "nothing of the kind")
    assert page.locator("#none").is_visible()


def test_arrow_keys_walk_the_cells_and_an_address_opens_one(opened):
    page = opened("layer/5/activations.html")
    first = page.locator(".cells button[aria-pressed=true]")
    assert first.count() == 1
    first.focus()
    before = page.get_attribute("#cell-image", "src")
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.get_attribute("#cell-image", "src") != before
    row, column = page.evaluate("[document.activeElement.dataset.row, document.activeElement.dataset.column]")
    assert page.url.endswith(f"#{row}-{column}")
    again = opened(f"layer/5/activations.html#{row}-{column}")
    assert again.get_attribute(f"button[data-row='{row}'][data-column='{column}']", "aria-pressed") == "true"
    assert again.inner_text("#cell-pictures")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(opened, width, dark):
    for name in ("index.html", "class/3.html", "layer/5.html", "layer/5/activations.html"):
        page = opened(name, width, dark)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        channel = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(channel) < 60) == dark
