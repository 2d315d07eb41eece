"""Results show themselves: as HTML and PNG in notebooks, in files, and as one short line of text."""

from __future__ import annotations

import base64
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageShow

from phosphene import contrast, draw, explain, impress, locate
from phosphene.errors import OptionError, OutputError
from phosphene.evaluation.faithfulness import faithfulness
from phosphene.runtime import prepare
from tests.networks import classifier_of, pooled

PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def classifier():
    return classifier_of(pooled())


@pytest.fixture(scope="module")
def results(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(PICTURES):
        Image.fromarray((picture.movedim(0, -1) * 255).byte().numpy()).save(folder / f"{number}.png")
    return {
        "one": explain(classifier, PICTURES, "grad_cam"),
        "several": explain(classifier, PICTURES, ["saliency", "input_x_gradient"], target=1),
        "contrast": contrast(classifier, PICTURES, 1, 2, "cam"),
        "impressions": impress(classifier, [1, 2], "class_model", steps=2),
        "objects": locate(classifier, PICTURES[0], target=[1, 2], method="cam"),
        "measured": faithfulness(prepare(classifier), sorted(folder.iterdir()), ["saliency"]),
    }


KINDS = ("one", "several", "contrast", "impressions", "objects", "measured")


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_shows_itself(results, kind, tmp_path):
    result = results[kind]
    html = result._repr_html_()
    pictures = re.findall(r"src='data:image/(?:png|jpeg);base64,([^']+)'", html)
    assert pictures
    assert all(base64.b64decode(picture) for picture in pictures)
    assert result._repr_png_()[:4] == b"\x89PNG"
    assert len(repr(result)) < 250
    assert "tensor(" not in repr(result)
    result.save(tmp_path / "result.jpg")
    result.save(tmp_path / "result.html")
    assert draw(result).width >= 16
    with Image.open(tmp_path / "result.jpg") as saved:
        assert min(saved.size) >= 16
    assert (tmp_path / "result.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_stands_below_a_map(results, classifier):
    html = results["several"]._repr_html_()
    share = results["several"][0].explained[0]
    assert f"saliency: {share}" in html
    assert classifier.labels[1] in str(share)
    assert "this map&#x27;s own scale" in html
    assert "the strongest 5 % alone" in html  # of the map of single pixels of both signs
    assert " at " in results["one"]._repr_html_()  # the layer
    assert "one scale for the three maps" in results["contrast"]._repr_html_()


def test_files_that_cannot_be_written(results, tmp_path):
    with pytest.raises(OptionError, match="says no format"):
        results["one"].save(tmp_path / "result.tensor")
    with pytest.raises(OutputError, match="cannot be written"):
        results["one"].save(tmp_path / "none" / "result.png")
    with pytest.raises(OptionError, match="cannot be drawn"):
        draw(torch.zeros(3))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"scale": "shred"}, "scale='shred' is unknown; choose image or shared"),
        ({"render": "overlays"}, "render='overlays' is unknown; choose overlay, map or both"),
        ({"strength": 75}, "strength=75 must lie between 0 and 1"),
        ({"strength": "strong"}, "strength='strong' must lie between 0 and 1"),
        ({"side": 0}, "side=0 must be a whole number, at least 1"),
        ({"side": "big"}, "side='big' must be a whole number, at least 1"),
    ],
)
def test_how_it_cannot_be_drawn_is_refused(how, told):
    with pytest.raises(OptionError, match=re.escape(told)):
        draw([], **how)


def test_show_takes_the_notebook_or_a_viewer(results, monkeypatch):
    shown: list[object] = []
    monkeypatch.setattr(ImageShow, "show", lambda picture: bool(shown.append(picture)))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(OutputError, match="no screen"):
        results["one"].show()
    assert not shown
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(OutputError, match="no screen or no program"):
        results["one"].show()
    assert isinstance(shown.pop(), Image.Image)
    kernel = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    results["one"].show()
    assert shown == [results["one"]]
