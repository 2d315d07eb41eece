"""The page in a real browser: every view once, deep links, keyboard, a phone's width, hostile uploads, stopping."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

from phosphene.runs.demo import demo_pictures
from phosphene.web.desk import Desk
from tests.browsing import needs_chromium, opening
from tests.web.conftest import serving

pytest.importorskip("gradio", reason="gradio is not installed (make test-web installs it)")

pytestmark = [pytest.mark.filterwarnings("default"), needs_chromium]


@pytest.fixture
def opened(browser, served):
    """Opens an address of the page; it waits long, for machines that do much else besides."""
    address, _ = served
    with opening(browser, address, ready="#run-explain", patience=90_000, minds=("error",)) as open_page:
        yield open_page


def picture(name):
    return next(path for path in demo_pictures() if path.name == name)


def choose(page, name):
    page.click(f"[data-example='{name}']")


def box(page, selector):
    """Where the first of these stands."""
    return page.locator(selector).first.bounding_box()


def fits(page):
    """Nothing sticks out of the window to the right."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_dropped_picture_is_explained_at_once_by_the_librarys_map(opened, served):
    from phosphene import explain

    page = opened("?tab=explain&methods=cam")
    page.set_input_files("#picture input[type=file]", str(picture("chelsea.png")))
    page.wait_for_selector("#answer-explain .tile .heat")
    assert page.inner_text("#answer-explain h2") == "tiger cat"
    link = page.get_attribute("#answer-explain .take a", "href")
    raw = np.load(io.BytesIO(page.request.get(f"{served[0]}/{link}").body()), allow_pickle=False)
    np.testing.assert_allclose(raw, explain("embedded", str(picture("chelsea.png")), "cam").maps[0].numpy(), rtol=1e-4)
    assert "picture=" not in page.url  # an upload has no address


def test_a_map_is_read_and_asked_with_the_mouse_and_by_keyboard(opened):
    page = opened("?tab=explain&picture=chelsea.png&methods=cam&layer=blocks.5")
    page.wait_for_selector("#status-explain .done")
    stack = page.locator("#answer-explain .stack").first
    stack.hover()
    page.wait_for_function("document.querySelector('#answer-explain output.value').textContent !== ''")
    by_mouse = float(page.inner_text("#answer-explain output.value"))
    stack.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('#answer-explain output.value').textContent !== '{by_mouse}'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#explain-place .channel .heat")
    assert page.locator("#explain-place .channel").count() == 4
    assert re.search(r"at=0\.\d+x0\.\d+", page.url)


def test_the_value_at_a_place_is_that_of_the_map(opened, served):
    """What the script reads between the cells is what lays maps on pictures."""
    import json

    import torch

    from phosphene.geometry import lay_on_original
    from phosphene.types import View

    page = opened("?tab=explain&picture=chelsea.png&methods=cam")
    page.wait_for_selector("#status-explain .done")
    stack = page.locator("#answer-explain .stack").first
    facts = json.loads(stack.get_attribute("data-reading"))
    raw = np.load(io.BytesIO(page.request.get(f"{served[0]}/{stack.get_attribute('data-npy')}").body()))
    view = View(tuple(facts["original"]), tuple(facts["scaled"]), tuple(facts["crop"]))
    laid = lay_on_original(torch.from_numpy(raw), facts["offset"], facts["stride"], view)
    given = {"shape": list(raw.shape), "values": raw.flatten().tolist()}
    for row, column in ((150, 225), (40, 130), (280, 300), (77, 201)):
        place = [given, facts, (column + 0.5) / view.original[1], (row + 0.5) / view.original[0]]
        value = page.evaluate("([map, facts, x, y]) => window.phosphene.valueAt(map, facts, x, y)", place)
        assert value == pytest.approx(float(laid[row, column]), rel=1e-4)


def test_another_class_another_picture_another_strength(opened):
    page = opened("?tab=explain&methods=cam&strength=30")
    choose(page, "chelsea.png")
    page.wait_for_selector("#answer-explain .bars button")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--strength')") == "0.3"
    page.click("#answer-explain .bars button:has-text('lynx')")
    page.wait_for_selector("#answer-explain h3:has-text('Evidence for lynx')")
    assert "classes=287" in page.url
    assert "strength=30" in page.url
    page.fill("#answer-explain [data-strength]", "100")
    assert "strength=100" in page.url
    choose(page, "coffee.png")
    page.wait_for_selector("#answer-explain .bars button:has-text('espresso')")
    assert "picture=coffee.png" in page.url


def test_classes_are_searched_by_further_names(opened):
    page = opened("?tab=explain")
    box = page.locator("#explain-classes input")
    box.click()
    page.keyboard.type("catamount")  # over what was chosen
    page.click("[role=option]:has-text('lynx')")
    assert "lynx" in box.input_value()


def test_an_address_opens_the_same_view(opened):
    first = opened("?tab=explain&picture=chelsea.png&methods=cam&methods=grad_cam&classes=281&versus=287&view=whole")
    first.wait_for_selector("#status-explain .done")
    again = opened("?" + first.url.split("?", 1)[1])
    again.wait_for_selector("#status-explain .done")
    assert again.inner_text("#answer-explain h2") == first.inner_text("#answer-explain h2") == "Why tabby and not lynx"
    assert again.locator("#answer-explain .tile").count() == 6


def test_what_is_refused_is_said_in_the_words_of_the_page(opened):
    page = opened("?tab=explain&picture=chelsea.png&methods=cam&classes=281&versus=281")
    page.wait_for_selector("#status-explain .refused:has-text('Rather than 281: is the class itself')")


@pytest.mark.parametrize("search", ["?tab=nowhere", "?at=7x7", "?picture=../../etc/passwd", "?model=/etc/passwd"])
def test_an_address_that_says_nothing_sensible_says_so(opened, search):
    page = opened(search)
    page.wait_for_selector("#status-explain .refused")


def test_locate(opened):
    page = opened("?tab=locate&picture=coffee.png&methods=cam&segment=threshold")
    page.wait_for_selector("#answer-locate .found img")
    assert page.inner_text("#answer-locate h2") == "espresso"
    with page.expect_download() as download:
        page.click("#answer-locate .button")
    assert download.value.suggested_filename == "coco.json"


def test_remember_grows_and_stops_with_what_there_is(opened):
    page = opened("?tab=remember")
    page.locator("#remember-classes input").click()
    page.locator("#remember-classes input").fill("ladybug")
    page.click("[role=option]:has-text('ladybug')")
    page.wait_for_selector("#remember-classes .token")
    page.fill("#remember-steps input", "500")
    page.click("#run-remember")
    page.wait_for_selector("#answer-remember img[alt*='growing']")
    first = page.get_attribute("#answer-remember img", "src")
    page.wait_for_function(f"document.querySelector('#answer-remember img').src !== {first!r}")
    page.click("#stop-remember")
    page.wait_for_selector("#answer-remember .problem:has-text('this is what there was')")
    assert page.inner_text("#status-remember") == "Stopped."


def test_layer(opened):
    page = opened("?tab=layer&picture=chelsea.png&layer=blocks.5&count=6")
    page.wait_for_selector("#answer-layer .sheet")
    assert page.inner_text("#answer-layer h2") == "blocks.5"


def test_features_of_uploaded_pictures(opened):
    page = opened("?tab=layer&layer=blocks.2&show=features&facets=1&exemplars=2&steps=2")
    page.click("#few > button")
    page.set_input_files("#pictures input[type=file]", [str(path) for path in demo_pictures()])
    page.wait_for_function("document.querySelectorAll('#pictures .file').length === 4")
    page.click("#run-layer")
    page.wait_for_selector("#answer-layer .facet .exemplars img")
    assert page.locator("#answer-layer .facet").count() == 1


def test_compare(opened):
    page = opened("?tab=compare&picture=rocket.jpg&method=cam&other_method=grad_cam")
    page.wait_for_selector("#answer-compare .side:nth-child(2) .heat")
    assert "Rank correlation" in page.inner_text("#answer-compare")


def test_audit_filters_and_sorts(opened):
    page = opened("?tab=audit&run=tour&show=wrong")
    page.wait_for_selector("#answer-audit .wrong")
    assert page.locator("#answer-audit .entry").count() == 1
    page.fill("#audit-find textarea, #audit-find input", "espresso")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer-audit .caveat:has-text('No picture fits')")


def test_the_page_is_as_wide_as_the_window_whatever_stands_in_it(opened):
    page = opened("?tab=layer&layer=blocks.5&count=6")
    assert box(page, "#desk")["width"] == 1280 - 2 * 28
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page, "chelsea.png")
    page.click("#run-layer")
    page.wait_for_selector("#answer-layer .how")
    for summary in page.locator("#answer-layer .how summary").all():
        summary.click()
    assert page.is_visible("#answer-layer [data-code=python]")
    assert fits(page)
    assert box(page, "nav a[data-tab=audit]")["x"] < 358  # all views are there to be tapped


def test_controls_stand_in_columns(opened):
    page = opened("?tab=remember")
    page.locator("#remember-classes input").fill("ladybug")
    page.click("[role=option]:has-text('ladybug')")
    page.wait_for_selector("#remember-classes .token")
    assert box(page, "#remember-classes .wrap-inner")["height"] < 50  # no empty line
    for width in (1280, 1000, 800, 390):
        page.set_viewport_size({"width": width, "height": 844})
        names = ("classes", "recipe", "preset", "steps", "seed")
        lefts = {round(box(page, f"#remember-{name}")["x"]) for name in names}
        across = {round(box(page, f"#remember-{name}")["width"]) for name in names[1:]}
        assert max(across) - min(across) <= 1
        steps = [(left - min(lefts)) / (max(across) + 14) for left in lefts]
        assert steps == pytest.approx([round(step) for step in steps], abs=0.05)


def test_several_networks_are_chosen_in_a_box_like_the_others(browser, served):
    classifier = served[1].classifier("")
    models = {"embedded": classifier, "/a/folder/with/a/long/name/of_a_long_network.py:classifier": classifier}
    with (
        serving(Desk(models)) as address,
        opening(browser, address, ready="#run-explain", patience=90_000, minds=("error",)) as open_page,
    ):
        page = open_page("?tab=compare&other_model=/a/folder/with/a/long/name/of_a_long_network.py:classifier")
        page.wait_for_function("document.querySelector('#compare-other_model input').value !== 'the same network'")
        assert page.input_value("#compare-other_model input") == "of_a_long_network.py:classifier"
        for form in ("#rail", ".view-compare"):
            color = page.evaluate("at => getComputedStyle(document.querySelector(at)).backgroundColor", f"{form} .form")
            assert color == "rgba(0, 0, 0, 0)"
        for place in ("#rail", "#compare-other_model"):
            text, arrow = box(page, f"{place} input[role=combobox]"), box(page, f"{place} .icon-wrap")
            assert text["x"] + text["width"] <= arrow["x"]


def test_by_keyboard_alone(opened):
    page = opened("?tab=explain&methods=cam")

    def tab_to(selector):
        for _ in range(80):
            if page.evaluate("selector => document.activeElement?.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached with the tab key")

    tab_to("nav a[data-tab='locate']")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.tab") == "locate"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.tab") == "explain"
    tab_to("[data-example='coffee.png']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status-explain .done")
    tab_to(".stack[data-npy]")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('#answer-explain output.value').textContent !== ''")
    tab_to(".how summary")
    page.keyboard.press("Enter")
    assert page.is_visible("[data-code=python]")


def test_a_hostile_upload_is_told_in_the_page(opened, tmp_path):
    from tests.web.test_pictures import HOSTILE

    page = opened("?tab=explain")
    (tmp_path / "photo.png").write_bytes(HOSTILE["bomb"][0])
    page.set_input_files("#picture input[type=file]", str(tmp_path / "photo.png"))
    page.wait_for_selector("#status-explain .refused:has-text('photo.png: more than the 50,000,000 pixels')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("search", "there"),
    [
        ("?tab=explain&picture=chelsea.png&methods=cam", "#answer-explain .answer"),
        ("?tab=explain&picture=chelsea.png&methods=cam&layer=blocks.5&at=0.5x0.5", "#explain-place .answer .how"),
        ("?tab=locate&picture=coffee.png&methods=cam&segment=threshold", "#answer-locate .answer"),
        ("?tab=compare&picture=chelsea.png&method=cam&other_method=grad_cam", "#answer-compare .answer"),
        ("?tab=audit", "#answer-audit .answer"),
        ("?tab=layer&picture=chelsea.png", "#answer-layer .answer"),
    ],
)
def test_it_fits_on_a_phone_and_can_be_read(opened, search, there, dark):
    page = opened(search, width=390, dark=dark)
    page.wait_for_selector(there)
    page.wait_for_timeout(300)
    assert fits(page)
    assert page.evaluate("document.body.classList.contains('dark')") == dark
    pale = page.evaluate(CONTRAST)
    assert not pale


# Every text that is seen against the color behind it, as WCAG 2 counts: those below AA.
CONTRAST = """() => {
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = (top, below) => {
    const alpha = top[3] === undefined ? 1 : top[3];
    return [0, 1, 2].map((i) => top[i] * alpha + below[i] * (1 - alpha));
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const color = parse(getComputedStyle(element).backgroundColor);
    return color[3] === undefined || color[3] === 1 ? color : over(color, behind(element.parentElement));
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const style = getComputedStyle(element);
    const seen = element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!own || !seen || element.disabled) continue;
    const back = behind(element), text = over(parse(style.color), back);
    const [low, high] = [light(back), light(text)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""
