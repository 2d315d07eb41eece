"""locate and evaluate localization end to end: what stands in the answer and in the run folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea

from phosphene.cli.localization import _lines as lines_of
from tests.cli.running import keys, phosphene


@pytest.fixture
def cat(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(chelsea()).save(folder / "cat.png")
    return folder / "cat.png"


def test_locate_gives_boxes_masks_and_coco(cat, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    outcome = phosphene("locate", cat, broken, "--class", "Egyptian cat", "--out", tmp_path / "run", "--json")
    assert outcome.code == 1  # one of the two failed
    first, second = outcome.json["images"]
    keys(first, ("path", "status", "error", "objects"))
    assert (second["status"], second["objects"]) == ("error", [])
    (found,) = first["objects"]
    keys(found, ("index", "label", "probability", "box", "mask"))
    assert (found["index"], found["label"]) == (285, "Egyptian cat")
    mask = np.asarray(Image.open(found["mask"])).astype(bool)
    assert mask.shape == (300, 451)
    x0, y0, x1, y1 = found["box"]
    assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
    assert mask[y0:y1, x0:x1].any(axis=0)[[0, -1]].all()
    assert mask[y0:y1, x0:x1].any(axis=1)[[0, -1]].all()
    coco = json.loads((tmp_path / "run" / "coco.json").read_text())
    assert coco["annotations"][0]["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    assert coco["categories"] == [{"id": 285, "name": "Egyptian cat", "wnid": "n02124075"}]
    assert (tmp_path / "run" / "report.html").read_text().count("data:image") >= 2


def test_localization_is_measured_against_the_boxes_that_locate_wrote(cat, tmp_path):
    phosphene("locate", cat, "--class", "285", "--segment", "threshold", "--out", tmp_path / "run")
    arguments = ["--images", cat.parent, "--boxes", tmp_path / "run" / "coco.json", "--out", tmp_path / "table"]
    outcome = phosphene("evaluate", "localization", *arguments, "--segment", "threshold", "--json")
    assert outcome.code == 0
    keys(outcome.json, ("images", "class_top1", "class_top5", "rows", "baselines"))
    (row,) = outcome.json["rows"]
    assert (row["method"], row["segment"], row["preset"]) == ("layer_saliency", "threshold", "best")
    assert (row["gt_known"], row["box_accuracy"]) == (1.0, {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0})
    assert row["mean_overlap"] == pytest.approx(1.0)
    assert set(outcome.json["baselines"]) == {"whole_frame", "centre_box"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--segment", "grabcut"], "segmentation 'grabcut' is unknown"),
        (["--preset", "bset"], "no preset 'bset'"),
        (["--method", "camm"], "no attribution method 'camm'"),
        (["--segment", "threshold", "--segment", "threshold"], "would be measured twice"),
        (["--tolerance", "-1"], "tolerance -1"),
    ],
)
def test_usage_errors_of_evaluate_localization(cat, tmp_path, extra, message):
    outcome = phosphene("evaluate", "localization", "--images", cat.parent, "--boxes", "none.csv", *extra)
    assert outcome.code == 2
    assert message in outcome.err


def test_boxes_that_are_not_there(cat):
    outcome = phosphene("evaluate", "localization", "--images", cat.parent, "--boxes", "none.csv")
    assert outcome.code == 2
    assert "none.csv: cannot be read" in outcome.err


def test_among_five_is_said_of_more_than_five_classes():
    answer = {"images": 2, "class_top1": 0.5, "class_top5": 1.0, "rows": [], "baselines": {}, "notes": [], "failed": []}
    assert lines_of(answer | {"classes": 2})[0] == "2 pictures; the class is first in 0.500"
    for classes in (None, 1000):
        assert lines_of(answer | {"classes": classes})[0].endswith("among five in 1.000")
