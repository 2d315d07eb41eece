"""True boxes out of three kinds of files, and the measures of a network that sees red."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from phosphene.classifier import Labels
from phosphene.errors import InputError
from phosphene.evaluation.ground_truth import Truth, read_truth
from phosphene.evaluation.localization import localization
from phosphene.runtime import prepare
from phosphene.tasks.objects import configured
from phosphene.types import Box
from tests.tasks.test_locate import picture, red_detector

LABELS = Labels(("grey", "red"), ("n01", "n02"))
XML = """<annotation><filename>{name}</filename><size><width>200</width><height>120</height></size>
<object><name>n02</name><bndbox><xmin>91</xmin><ymin>31</ymin><xmax>150</xmax><ymax>80</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "images"
    pictures.mkdir()
    for name in ("a.png", "b.png"):
        picture().save(pictures / name)
    return pictures


def sources(place):
    """The same boxes in the three forms."""
    table = place / "boxes.csv"
    table.write_text(
        "file,width,height,class_index,x0,y0,x1,y1\n" + "".join(f"{n}.png,200,120,1,90,30,150,80\n" for n in "ab")
    )
    xml = place / "xml"
    xml.mkdir()
    for name in "ab":
        (xml / f"{name}.xml").write_text(XML.format(name=name))
    coco = place / "coco.json"
    image = {"height": 120, "width": 200}
    shared = {"category_id": 7, "bbox": [90, 30, 60, 50]}
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "x/a.png", **image}, {"id": 2, "file_name": "b.png", **image}],
                "annotations": [{"id": 1, "image_id": 1, **shared}, {"id": 2, "image_id": 2, **shared}],
                "categories": [{"id": 7, "name": "red"}],
            }
        )
    )
    return table, xml, coco


def test_three_kinds_of_files_give_the_same_boxes(folder, tmp_path):
    images = sorted(folder.iterdir())
    expected = [Truth(path, 1, (Box(90, 30, 150, 80),), (120, 200)) for path in images]
    table, *others = sources(tmp_path)
    german = tmp_path / "german.csv"
    german.write_text("\ufeff" + table.read_text().replace(",", ";"), encoding="utf-8")
    for source in (table, german, *others):
        assert read_truth(source, images, LABELS) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x0,y0\n", "without the column x1, y1"),
        ("file,x0,y0,x1,y1\n", r"without the column class_index \(or wnid, or class\)"),
        ("file,class_index,x0,y0,x1,y1\na.png,1,1,2,three,4\n", "line 2: 'three' is not a number"),
        ("file,class_index,x0,y0,x1,y1\na.png,1,9,2,3,4\n", "line 2: box"),
        ("file,class_index,x0,y0,x1,y1\na.png,cat,1,2,3,4\n", "no class 'cat'"),
        ("file,class_index,x0,y0,x1,y1\nz.png,1,1,2,3,4\n", "none of its pictures is among the 2"),
        ("file,class_index,x0,y0,x1,y1\na.png,1\n", "line 2: the line ends before its box"),
        ("file,class_index,x0,y0,x1,y1\n", "holds no boxes"),
    ],
)
def test_tables_that_cannot_be_used(folder, tmp_path, text, message):
    table = tmp_path / "boxes.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        read_truth(table, sorted(folder.iterdir()), LABELS)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("boxes.json", '{"images": []}', "no COCO JSON"),
        ("boxes.json", "[1", "no COCO JSON"),
        (
            "boxes.json",
            '{"images": [], "categories": [], "annotations": [{"id": 5, "image_id": 3, "category_id": 1}]}',
            "annotation 5: image_id 3 is not in the file",
        ),
        ("boxes.xml", "<annotation>", "is no XML"),
        ("boxes.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a/>', "document type"),
        ("boxes.xml", "<annotation><object><name>n01</name></object></annotation>", "without bndbox"),
    ],
)
def test_files_that_cannot_be_used(folder, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_truth(tmp_path / name, sorted(folder.iterdir()), LABELS)


@pytest.fixture
def val(tmp_path):
    """Two pictures of one base name."""
    for name in ("0", "1"):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        picture().save(tmp_path / "data" / "val" / name / "0.png")
    return tmp_path / "data" / "val"


def table_of(place, *names):
    table = place / "boxes.csv"
    rows = (f"{name},1,{number},0,50,50\n" for number, name in enumerate(names))
    table.write_text("file,class_index,x0,y0,x1,y1\n" + "".join(rows))
    return table


@pytest.mark.parametrize("prefix", ["val/", "", "./", "data/val/", "elsewhere/"])
@pytest.mark.parametrize("ending", [".png", ""])
def test_boxes_find_their_picture_by_its_folders(val, tmp_path, prefix, ending):
    table = table_of(tmp_path, f"{prefix}0/0{ending}", f"{prefix}1/0{ending}")
    for folder in (val, None, *([val.parent] if prefix != "elsewhere/" else [])):
        truths = read_truth(table, sorted(val.rglob("*.png")), LABELS, folder)
        assert [(truth.path, truth.boxes[0].x0) for truth in truths] == [(val / "0/0.png", 0), (val / "1/0.png", 1)]


def test_boxes_that_fit_several_pictures_are_refused(val, tmp_path):
    images = sorted(val.rglob("*.png"))
    with pytest.raises(InputError, match=r"'0\.png' fits several files: 0/0\.png, 1/0\.png"):
        read_truth(table_of(tmp_path, "0.png"), images, LABELS, val)
    names = ("train/0/0.png", "val/0/0.png")
    with pytest.raises(InputError, match=r"0/0\.png: several names fit it: (train|val)/0/0\.png"):
        read_truth(table_of(tmp_path, *names), images, LABELS, val)
    assert [truth.boxes[0].x0 for truth in read_truth(table_of(tmp_path, *names), images, LABELS, val.parent)] == [1]
    with pytest.raises(InputError, match="none of its pictures is among the 2 given"):
        read_truth(table_of(tmp_path, "val/2/0.png"), images, LABELS, val)


def test_xml_files_that_lie_as_the_pictures_do(val, tmp_path):
    for name in ("0", "1"):
        (tmp_path / "xml" / name).mkdir(parents=True)
        text = XML.format(name="0").replace("<xmin>91", f"<xmin>{name}1")
        (tmp_path / "xml" / name / "0.xml").write_text(text)
    truths = read_truth(tmp_path / "xml", sorted(val.rglob("*.png")), LABELS, val)
    assert [(truth.path, truth.boxes[0].x0) for truth in truths] == [(val / "0/0.png", 0), (val / "1/0.png", 10)]


def test_xml_files_that_lie_elsewhere_are_found_by_the_name_they_tell(folder, tmp_path):
    (tmp_path / "root" / "Annotations").mkdir(parents=True)
    (tmp_path / "root" / "Annotations" / "7.xml").write_text(XML.format(name="a"))
    (truth,) = read_truth(tmp_path / "root", sorted(folder.iterdir()), LABELS, folder.parent)
    assert truth.path == folder / "a.png"


def test_a_folder_without_xml_is_refused(folder):
    with pytest.raises(InputError, match="holds no XML"):
        read_truth(folder, sorted(folder.iterdir()), LABELS)


def test_measures_of_a_network_that_sees_red(folder):
    images = sorted(folder.iterdir())
    right, wrong_class = Truth(images[0], 1, (Box(90, 30, 150, 80),)), Truth(images[1], 0, (Box(0, 0, 20, 20),))
    ways = [configured("best", "cam", "threshold"), configured("best", "cam", "graphcut")]
    found = localization(prepare(red_detector()), [right, wrong_class], ways)
    assert (found.images, found.class_top1, found.class_top5) == (2, 0.5, 1.0)
    for measured in found.rows:
        row = measured.row()
        assert row["method"] == "cam"
        assert row["gt_known"] == 0.5
        assert row["top1_error"] == row["top5_error"] == 0.5
        assert row["pointing_game"] == 0.5
        assert row["box_accuracy"]["0.3"] == 0.5
        assert row["seconds_per_image"] > 0
    whole, centre = (measured.row() for measured in found.baselines)
    assert whole["gt_known"] == centre["gt_known"] == 0.0
    assert whole["box_accuracy"] == {"0.3": 0.0, "0.5": 0.0, "0.7": 0.0}
    assert centre["pointing_game"] == 0.5  # (100, 60) lies on the red


def test_pictures_that_cannot_be_used_are_told(folder):
    images = sorted(folder.iterdir())
    images[1].write_bytes(b"no picture")
    Image.new("RGB", (10, 10)).save(folder / "c.png")
    truths = [Truth(path, 1, (Box(90, 30, 150, 80),), (120, 200)) for path in (*images, folder / "c.png")]
    found = localization(prepare(red_detector()), truths, [configured("best", "cam")])
    assert found.images == 1
    assert [record.path for record in found.broken] == [str(images[1]), str(folder / "c.png")]
    assert "10 x 10, but its boxes were drawn on 200 x 120" in found.broken[1].error
    beyond = Truth(images[0], 1, (Box(90, 30, 150, 80), Box(0, 0, 224, 80)))
    (told,) = localization(prepare(red_detector()), [truths[0], beyond], [configured("best", "cam")]).broken
    assert "its box (0, 0, 224, 80) reaches beyond" in told.error
    with pytest.raises(InputError, match="none of the 2 pictures"):
        localization(prepare(red_detector()), truths[1:], [configured("best", "cam")])


def test_a_box_a_little_beyond_a_trimmed_picture_counts(folder):
    truths = [Truth(sorted(folder.iterdir())[0], 1, (Box(90, 30, 206, 80),), (120, 200))]
    found = localization(prepare(red_detector()), truths, [configured("best", "cam")])
    assert (found.images, found.broken) == (1, ())


def test_a_map_that_says_nothing_counts_as_wrong(folder):
    path = folder / "black.png"
    Image.new("RGB", (64, 64)).save(path)
    found = localization(prepare(red_detector()), [Truth(path, 1, (Box(0, 0, 64, 64),))], [configured("best", "cam")])
    row = found.rows[0].row()
    assert (row["dead"], row["gt_known"], row["pointing_game"]) == (1, 0.0, 0.0)
