"""The run behind `phosphene features`: what it writes, prints and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phosphene.errors import CancelledError, OptionError
from phosphene.render import group_color, thumbnail_map
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.features import draw_features
from phosphene.store import read_manifest
from phosphene.tasks import FeaturesConfig
from phosphene.tasks.predict import predict
from tests import networks
from tests.synthesis.test_ascent import tiny
from tests.tasks.test_features import QUICK, folder_of


def test_the_answer_has_the_contracts_keys_and_the_files_are_there(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (folder_of(pictures) / "broken.png").write_bytes(b"no picture")
    common = CommonOptions(model=networks.classifier_of(networks.pooled()), out=str(tmp_path / "run"))
    config = FeaturesConfig(("4", "1"), facets=2, exemplars=4, recipe=QUICK, terms="distance")
    answer = draw_features([str(pictures)], config, common)
    assert json.loads(json.dumps(answer))["errors"][0]["path"].endswith("broken.png")
    assert [layer["layer"] for layer in answer["layers"]] == ["4", "1"]
    for layer in answer["layers"]:
        assert layer["recipe"] == "minds_eye:steps=12,terms=distance,top_k=3"
        assert np.load(layer["points"]).shape == (16, 3)
        assert Path(layer["map"]).is_file()
        assert sum(facet["members"] for facet in layer["facets"]) == 16
        for facet in layer["facets"]:
            with Image.open(facet["image"]) as picture:
                assert picture.size == (16, 16)
            assert sum(exemplar["weight"] for exemplar in facet["exemplars"]) == pytest.approx(1)
            assert Path(facet["exemplars"][0]["path"]).is_file()
            assert len(facet["channels"]) == 3
            assert -1 <= facet["target_cosine"] <= 1
            assert {len(facet["losses"][name]) for name in ("distance", "dot", "previous")} == {12}
    manifest = read_manifest(tmp_path / "run")
    assert manifest["complete"] is True
    report = Path(answer["report"]).read_text(encoding="utf-8")
    for text in ("Layers side by side", "Facet", "Top channels", "broken.png", "layer before: 3"):
        assert text in report
    assert 'src="/' not in report


def test_of_many_bands_all_are_kept(tmp_path: Path) -> None:
    classifier, generator = tiny(channels=6), np.random.default_rng(0)
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", generator.random((16, 16, 6), np.float32))
    config = FeaturesConfig(("2",), facets=1, exemplars=3, recipe="minds_eye:steps=3,top_k=3")
    options = CommonOptions(model=classifier, out=str(tmp_path / "run"))  # type: ignore[arg-type]
    (facet,) = draw_features([str(tmp_path / "*.npy")], config, options)["layers"][0]["facets"]
    (read,) = predict(classifier, facet["bands"])
    assert read[0].probability == pytest.approx(facet["predicted"][0]["probability"], abs=1e-6)


def test_too_few_pictures_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    common = CommonOptions(model=networks.classifier_of(networks.pooled()), out=str(tmp_path / "run"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with pytest.raises(OptionError, match="5 readable images are too few"):
        draw_features([str(folder_of(pictures, (5,)))], FeaturesConfig(("4",), exemplars=10), common)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_keeps_the_layers_that_are_done(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()

    def stop_at_the_second(_done: int, _total: int, text: str) -> None:
        if text == "1":
            raise CancelledError

    classifier = networks.classifier_of(networks.pooled())
    common = CommonOptions(model=classifier, out=str(tmp_path / "run"), announce=stop_at_the_second)
    config = FeaturesConfig(("4", "1"), facets=1, exemplars=4, recipe=QUICK)
    with pytest.raises(CancelledError):
        draw_features([str(folder_of(pictures))], config, common)
    manifest = read_manifest(tmp_path / "run")
    assert manifest["complete"] is False
    assert [layer["layer"] for layer in manifest["layers"]] == ["4"]


def test_a_map_of_pictures_frames_them_in_their_groups_color() -> None:
    points = np.array([[0.0, 0.0], [10.0, 5.0], [4.0, 2.0]], np.float32)
    tiles = [Image.new("RGB", (40, 30), "black"), None, Image.new("RGB", (30, 40), "white")]
    sheet = thumbnail_map(points, tiles, [0, 1, 2], front={2}, side=400, thumbnail=40)
    assert sheet.width == 400
    assert sheet.height < 400
    colors = {color for _, color in sheet.getcolors(100_000) or []}
    for group in range(3):
        wanted = tuple(int(group_color(group)[i : i + 2], 16) for i in (1, 3, 5))
        assert wanted in colors
    assert thumbnail_map(points[:1], tiles[:1], [0]).size[0] > 0
