"""Reports of many rows: an index, pages of a few rows, pictures beside them; all of it from the run folder alone."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from phosphene.errors import InputError
from phosphene.report import page, write_report
from phosphene.store import Asset, ExplainRow, FolderSink, MapRow, Plan, TargetRow
from phosphene.store.rows import ScaleRow
from phosphene.types import Prediction, View
from tests.cli.running import phosphene

COUNT = 45
FACTS = {
    "model": {"name": "net", "sha256": "0" * 64, "classes": 2, "size": [16, 16], "channels": 3},
    "options": {"methods": ["cam"]},
    "precision": "exact",
    "seed": 0,
}


def keys(count):
    return tuple(f"{number:03d} é#.png" for number in range(count))


def row(key):
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    if key.startswith("007"):
        return ExplainRow(key, f"photos/{key}", "error", f"photos/{key}: no such file")
    stem = key.removesuffix(".png")
    shown = MapRow(
        "cam",
        TargetRow(1, "dog"),
        seconds=0.1,
        title="Class activation map",
        view=View((40, 50), (16, 16), (0, 0, 16, 16)),
        heat=Asset(f"{stem}/heat.png", noise),
        colorbar=Asset(f"{stem}/scale.png", noise),
        scale=ScaleRow(0.0, 1.0, "positive"),
    )
    return ExplainRow(
        key,
        f"photos/{key}",
        predicted=(Prediction(1, "dog", 0.75),),
        maps=(shown,),
        size=(40, 50),
        picture=Asset(f"{stem}/picture.jpg", noise),
    )


@pytest.fixture
def run(tmp_path):
    """A run of which one picture was not done."""
    plan = Plan("explain", keys(COUNT + 1), FACTS, {"threads": 1, "device": "cpu"})
    with FolderSink(str(tmp_path / "run"), plan) as sink:
        for key in keys(COUNT):
            sink.write(row(key))
    return tmp_path / "run"


def addresses(file):
    return re.findall(r'(?:src|href)="([^"#]+)', file.read_text())


def test_every_address_of_every_page_is_there(run):
    assert write_report(run, "pages") == run / "report.html"
    pages = sorted((run / "report").glob("*.html"))
    assert [file.name for file in pages] == ["page-0001.html", "page-0002.html", "page-0003.html"]
    for file in (run / "report.html", *pages):
        found = addresses(file)
        assert found
        for address in found:
            assert (file.parent / unquote(address)).is_file(), address
    assert "data:image" not in pages[0].read_text()
    assert [file.read_text().count("Class activation map") >= 5 for file in pages] == [True] * 3


def test_the_index_leads_to_each_row_and_says_what_is_missing(run):
    write_report(run, "pages")
    text = (run / "report.html").read_text()
    links = re.findall(r'href="(report/page-\d+\.html)#(row-\d+)"', text)
    assert len(set(links)) == COUNT
    for file, anchor in links:
        assert f'id="{anchor}"' in (run / file).read_text()
    assert "photos/007" in text
    assert "1 of them with an error" in text
    assert "1 of 46 are missing" in text
    assert "045 é#.png" in text
    assert '<span class="name">000 é#.<wbr>png</span>' in text  # broken there before in a word


def test_one_file_up_to_a_size_then_pages(run, monkeypatch):
    write_report(run)
    assert not (run / "report").exists()
    assert (run / "report.html").read_text().count("data:image") > COUNT
    monkeypatch.setattr(page, "LARGEST", 100_000)
    write_report(run)
    assert len(list((run / "report").iterdir())) == 3
    assert (run / "report.html").stat().st_size < 100_000
    write_report(run, "single")
    assert not list((run / "report").iterdir())  # no pages that nothing leads to
    assert (run / "report.html").stat().st_size > 100_000


def test_a_run_that_lost_a_picture_is_damaged_in_both_forms(run):
    next(run.rglob("heat.png")).unlink()
    for mode in ("single", "pages"):
        with pytest.raises(InputError, match="damaged"):
            write_report(run, mode)


def test_no_report(run):
    assert write_report(run, "none") is None
    assert not (run / "report.html").exists()


def test_needs_no_model(run):
    code = (
        f"import sys; from phosphene.report import write_report; write_report({str(run)!r}, 'pages');"
        "print([name for name in sys.modules if name in ('phosphene.runtime', 'phosphene.classifier')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_option_of_the_commands(run, tmp_path):
    picture = tmp_path / "cat.png"
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(picture)
    out = tmp_path / "out"
    answer = phosphene("explain", picture, "--method", "cam", "--out", out, "--report", "none", "--json").json
    assert answer["report"] is None
    assert not (out / "report.html").exists()
    human = phosphene("explain", picture, "--method", "cam", "--out", out, "--report", "none", "--overwrite")
    assert "report" not in human.out
    assert phosphene("activations", picture, "--out", tmp_path / "a", "--report", "pages").code == 0
    assert (tmp_path / "a" / "report" / "page-0001.html").is_file()
    again = phosphene("report", run, "--report", "pages", "--json")
    assert again.json["report"] == str(run / "report.html")
    assert f"report: {run / 'report.html'}" in phosphene("report", run).out


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("all/a/x.png", "all/a/y.png"), ("x.png", "y.png")),
        (("all/a/x.png", "all/b/x.png", "all/c/d/y.png"), ("a/x.png", "b/x.png", "d/y.png")),
        (("/home/me/photos/x.png", "/data/sets/dogs/y.png"), ("photos/x.png", "dogs/y.png")),
        (("1/a/x.png", "2/a/x.png"), ("1/a/x.png", "2/a/x.png")),
        (("x.png", "/tmp/x.png"), ("x.png", "tmp/x.png")),
        (("same.png", "same.png"), ("same.png", "same.png")),
        (("in/x.png", "in\\x.png"), ("x.png", "x.png")),
    ],
)
def test_pictures_are_named_by_the_ends_of_their_paths(tmp_path, paths, names):
    with FolderSink(
        str(tmp_path / "run"),
        Plan("explain", tuple(map(str, range(len(paths)))), FACTS, {"threads": 1, "device": "cpu"}),
    ) as sink:
        for number, path in enumerate(paths):
            sink.write(ExplainRow(str(number), path, predicted=(Prediction(1, "dog", 0.9),)))
    text = write_report(tmp_path / "run", "single").read_text().replace("<wbr>", "")
    assert all(f'title="{path}">{name}</h2>' in text for path, name in zip(paths, names, strict=True))


def laid_out(tmp_path, methods, classes, pictures=1):
    """The HTML of a report of pictures, each with maps of some methods for some classes."""
    one = row("000.png")
    maps = tuple(
        dataclasses.replace(one.maps[0], method=f"method_{method}", target=TargetRow(index, f"class {index}"))
        for index in range(classes)
        for method in range(methods)
    )
    plan = Plan("explain", keys(pictures), FACTS, {"threads": 1, "device": "cpu"})
    with FolderSink(str(tmp_path / "run"), plan) as sink:
        for key in keys(pictures):
            sink.write(dataclasses.replace(one, key=key, path=key, maps=maps))
    return write_report(tmp_path / "run", "single").read_text()


@pytest.mark.parametrize(
    ("methods", "classes", "targets", "tiles"),
    [(1, 1, 1, 1), (1, 2, 2, 1), (1, 5, 3, 1), (2, 2, 2, 2), (2, 3, 3, 2), (3, 2, 1, 3), (5, 1, 1, 3), (5, 3, 1, 3)],
)
def test_classes_of_few_maps_stand_side_by_side(tmp_path, methods, classes, targets, tiles):
    text = laid_out(tmp_path, methods, classes)
    assert re.findall(r'class="tiles targets" style="--columns: (\d)"', text) == [str(targets)]
    assert re.findall(r'class="tiles" style="--columns: (\d)"', text) == [str(tiles)] * classes


@pytest.mark.parametrize(
    ("methods", "classes", "banded"), [(1, 1, False), (3, 1, False), (1, 3, False), (2, 2, True), (1, 4, True)]
)
def test_the_photograph_stands_above_more_maps_than_fit_beside_it(tmp_path, methods, classes, banded):
    text = laid_out(tmp_path, methods, classes)
    assert re.findall(r'<section class="card image( banded)?" style="--maps: (\d)"', text) == [
        (" banded" if banded else "", str(methods * classes))
    ]


@pytest.mark.parametrize(
    ("pictures", "methods", "classes", "compact"), [(1, 1, 1, False), (2, 1, 1, True), (2, 1, 2, False)]
)
def test_cards_stand_side_by_side_where_each_has_one_map(tmp_path, pictures, methods, classes, compact):
    text = laid_out(tmp_path, methods, classes, pictures)
    assert ('<div class="cards compact">' in text) is compact
    assert (text.count('class="photo') == 0) is compact  # the map shows the picture already


@pytest.mark.parametrize(("layers", "banded"), [(("stem",), False), (("stem", "head"), True)])
def test_the_photograph_stands_above_several_layers_and_is_bounded(tmp_path, layers, banded):
    Image.fromarray(np.zeros((90, 20, 3), np.uint8)).save(tmp_path / "tall.png")
    chosen = [word for layer in layers for word in ("--layer", layer)]
    assert phosphene("activations", tmp_path / "tall.png", *chosen, "--out", tmp_path / "run").code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert ('class="card image banded"' in text) is banded
    assert 'class="photo enlarge" style="--ratio: 0.2222"' in text
