"""The report of explain: what stands once, what can be found and sorted, what is said of unlikely classes."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from skimage.data import chelsea, coffee

from tests.cli.running import phosphene


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pictures = {"cat": chelsea(), "coffee": coffee(), "tall": chelsea()[:, :80], "wide": chelsea()[:60]}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.jpg")
    methods = ["--method", "grad_cam", "--method", "input_x_gradient"]
    outcome = phosphene("explain", folder, "--class", "tench", *methods, "--out", folder / "run")
    assert outcome.code == 0, outcome.err
    return (folder / "run" / "report.html").read_text(encoding="utf-8")


def test_caveats_stand_once(page):
    for caveat in ("averaging the gradient can wash out a small object", "What equals the baseline gets nothing"):
        assert page.count(caveat) == 1


def test_every_picture_can_be_found_sorted_and_jumped_to(page):
    card = r'<section class="card image" style="--maps: 2" id="row-(\d)"'
    opening = card + r' data-row="([^"]*)" data-place="(\d)" data-sure="([\d.]+)"'
    cards = re.findall(opening, page)
    assert [place for place, *_ in cards] == ["0", "1", "2", "3"]
    assert [name.rpartition("/")[2] for _, name, *_ in cards] == ["cat.jpg", "coffee.jpg", "tall.jpg", "wide.jpg"]
    assert all(0 < float(sure) <= 1 for *_, sure in cards)
    assert all(f'href="#row-{place}"' in page for place, *_ in cards)
    for part in ('id="wanted"', 'id="order"', 'id="large"', 'id="beside"'):
        assert page.count(part) == 1, part


def test_pictures_are_bounded_by_their_own_proportions(page):
    ratios = {float(found) for found in re.findall(r"--ratio: ([\d.]+)", page)}
    assert {round(80 / 300, 4), round(451 / 60, 4)} <= ratios


def test_names_of_files_break_after_their_parts(page):
    assert "cat.<wbr>jpg</h2>" in page


def test_a_class_that_is_all_but_ruled_out_is_said_to_be(page):
    assert page.count("tench has a probability of") == 8  # of each map of each picture
    assert 'class="stack fine"' in page  # specks on a picture without colors
    assert "strongest 5 %" in page


def test_nothing_is_fetched(page):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_where_every_picture_failed_no_map_is_explained(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    pages = []
    for command in ("explain", "locate"):
        outcome = phosphene(command, tmp_path / "empty.jpg", "--out", tmp_path / command)
        assert outcome.code == 1, outcome.err
        pages.append((tmp_path / command / "report.html").read_text(encoding="utf-8"))
    explained, located = pages
    assert "1 picture, with an error" in explained
    for about_maps in ("Warm colors", "dashed frame", 'id="strength"'):
        assert about_maps not in explained
    assert "How to read the rows of pictures" not in located


@pytest.mark.parametrize("command", ["explain", "locate", "predict"])
def test_the_label_of_a_table_stands_beside_its_picture(tmp_path, command):
    for name in ("cat", "other"):
        Image.fromarray(chelsea()).save(tmp_path / f"{name}.jpg")
    (tmp_path / "table.csv").write_text("path,label\ncat.jpg,Egyptian cat\nother.jpg,\n")
    outcome = phosphene(command, tmp_path / "table.csv", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count(", labelled ") == page.count(", labelled Egyptian cat<") == 1
