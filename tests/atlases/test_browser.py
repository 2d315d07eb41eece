"""The atlas in a real browser, from disk: search, filter, keyboard, cells, a phone's width, dark and light."""

from __future__ import annotations

import shutil

import pytest

import phosphene
from tests.atlases.test_atlas import FEW, HOSTILE, network, pictures

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (make test-web installs it)"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    place = tmp_path_factory.mktemp("atlas")
    phosphene.atlas(network(), pictures(place / "photos"), place / "site", layers=["5"], **FEW)
    return (place / "site").as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, address):
    """Opens a page; at the end nothing was asked of others, and nothing was said in the console."""
    shown, wrong = [], []

    def open_page(name="index.html", width=1280, dark=False):
        page = browser.new_page(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text))
        # (Pictures that were still on their way when a page was left were given up by the browser.)
        page.on(
            "requestfailed",
            lambda asked: None if asked.failure == "net::ERR_ABORTED" else wrong.append(asked.url),
        )
        page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url))
        page.goto(f"{address}/{name}")
        shown.append(page)
        return page

    yield open_page
    for page in shown:
        page.close()
    assert not wrong


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
    page = opened()
    page.fill("#search", "onerror")
    page.wait_for_selector("#found [role=option]")
    assert HOSTILE in page.inner_text("#found")
    assert page.locator("#found img[src=x]").count() == 0


def test_the_filter_leaves_the_classes_of_that_name(opened):
    page = opened()
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
