"""features: folders of pictures to drawn facets, on a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.errors import InputError, NotFoundError, OptionError
from phosphene.images import list_images, to_pil
from phosphene.runtime import prepare
from phosphene.tasks.facets import collect, drawing_spec, features
from tests import networks
from tests.oracles import features as oracle

QUICK = "minds_eye:steps=12,top_k=3"


def folder_of(path: Path, counts: tuple[int, ...] = (7, 9)) -> Path:
    """Pictures of several colors, a little noise on each."""
    generator = np.random.default_rng(0)
    colors = [(200, 40, 40), (40, 60, 210), (40, 200, 60)]
    for kind, count in enumerate(counts):
        for index in range(count):
            noise = generator.integers(-30, 30, (20, 24, 3))
            picture = np.clip(np.array(colors[kind]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(path / f"{kind}-{index}.png")
    return path


def test_each_kind_of_picture_becomes_a_drawn_facet(tmp_path: Path) -> None:
    classifier = networks.classifier_of(networks.pooled())
    found = features(classifier, folder_of(tmp_path), ["4", "default"], facets=2, exemplars=4, recipe=QUICK)
    assert [layer.layer for layer in found] == ["4", prepare(classifier).default_layer]
    first = found[0]
    assert (first.previous, first.steps, first.notes) == ("3", 12, ())
    sizes = [len(facet.facet.members) for facet in first.facets]  # (one or two pictures lie between: last bits decide)
    assert (sum(sizes), min(sizes) >= 6) == (16, True)
    for kind, facet in zip((1, 0), first.facets, strict=True):
        assert all(Path(path).name.startswith(f"{kind}-") for path in facet.exemplars)
        assert facet.image.shape == (3, 16, 16)
        assert len(facet.channels) == len(facet.wanted) == len(facet.reached) == 3
        assert list(facet.wanted) == sorted(facet.wanted, reverse=True)
        assert {name: len(values) for name, values in facet.losses.items()} == dict.fromkeys(
            ("distance", "dot", "previous", "mismatch"), 12
        )
        assert len(facet.exemplar_cosines) == 4
        torch.testing.assert_close(facet.frames[-1], facet.image)


def test_pinned_facets_are_the_same_pictures_with_the_same_weights_at_every_layer(tmp_path: Path) -> None:
    classifier, folder = networks.classifier_of(networks.pooled()), folder_of(tmp_path)
    at_four = features(classifier, folder, "4", facets=2, exemplars=4, recipe=QUICK)[0]
    for layer in features(classifier, folder, ["2", "4", "5"], facets=2, exemplars=4, recipe=QUICK, pin="4"):
        for facet, expected in zip(layer.facets, at_four.facets, strict=True):
            assert facet.exemplars == expected.exemplars
            torch.testing.assert_close(facet.facet.weights, expected.facet.weights)
            rows = collect(prepare(classifier), [Path(path) for path in facet.exemplars], [layer.layer])
            target = oracle.weighted_sum(list(rows.pooled[layer.layer]), facet.facet.weights.tolist())
            np.testing.assert_allclose(facet.wanted, target[list(facet.channels)], rtol=1e-4)
    written = {
        "facets": [
            {"exemplars": [{"path": Path(name).name, "weight": 3.0 * weight} for name, weight in pairs]}
            for pairs in (zip(facet.exemplars, facet.facet.weights.tolist(), strict=True) for facet in at_four.facets)
        ]
    }
    (tmp_path / "facets.json").write_text(json.dumps(written))
    (again,) = features(classifier, layers="2", pin=tmp_path / "facets.json", recipe=QUICK)
    for facet, expected in zip(again.facets, at_four.facets, strict=True):
        assert [Path(name).name for name in facet.exemplars] == [Path(name).name for name in expected.exemplars]
        torch.testing.assert_close(facet.facet.weights, expected.facet.weights)


def test_pins_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    classifier, folder = networks.classifier_of(networks.pooled()), folder_of(tmp_path)
    file = tmp_path / "facets.json"
    for content, message in (
        ("[]", "holds no facets"),
        ('[{"exemplars": [{"path": "a.png"}]}]', "facet 0 has no exemplars with path and weight"),
        ('[{"exemplars": [{"path": "a.png", "weight": 0}]}]', "weights of facet 0 add up to 0"),
        ('[{"exemplars": [{"path": "gone.png", "weight": 1}, {"path": "0-0.png", "weight": 1}]}]', "cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            features(classifier, layers="2", pin=file)
    with pytest.raises(OptionError, match="leave the folder out"):
        features(classifier, folder, pin=file)
    with pytest.raises(NotFoundError, match="no layer '44'"):
        features(classifier, folder, pin="44")
    with pytest.raises(InputError, match="is no run of phosphene features"):
        features(classifier, pin=tmp_path)
    with pytest.raises(OptionError, match="give a folder of pictures"):
        features(classifier)


def test_the_cosine_is_of_the_finished_image_as_saved_with_the_exemplars_mean(tmp_path: Path) -> None:
    classifier = networks.classifier_of(networks.pooled())
    facet = features(classifier, folder_of(tmp_path), "4", facets=2, exemplars=4, recipe=QUICK)[0].facets[0]
    rows = collect(prepare(classifier), [Path(path) for path in facet.exemplars], ["4"]).pooled["4"]
    target = oracle.weighted_sum(list(rows), facet.facet.weights.tolist())
    to_pil(facet.image).save(tmp_path / "drawn.png")
    reached = collect(prepare(classifier), [tmp_path / "drawn.png"], ["4"]).pooled["4"][0].double()
    expected = float(reached @ target / (reached.norm() * target.norm()))
    assert facet.target_cosine == pytest.approx(expected, abs=1e-7)
    assert facet.reached == pytest.approx(reached[list(facet.channels)].tolist(), abs=1e-6)


def test_pooled_activations_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    classifier = prepare(networks.classifier_of(networks.pooled()))
    paths = list_images(folder_of(tmp_path, (20,)))
    together = collect(classifier, paths, ["4"])
    alone = torch.cat([collect(classifier, [path], ["4"]).pooled["4"] for path in paths])
    torch.testing.assert_close(together.pooled["4"], alone, rtol=1e-5, atol=1e-6)
    assert list(together.paths) == [str(path) for path in paths]


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    classifier = networks.classifier_of(networks.pooled())
    folder_of(tmp_path)
    first, again = (features(classifier, tmp_path, "4", facets=2, exemplars=3, recipe=QUICK)[0] for _ in range(2))
    assert all(torch.equal(a.image, b.image) for a, b in zip(first.facets, again.facets, strict=True))


def test_the_layer_before_is_found_named_or_left_out(tmp_path: Path) -> None:
    classifier = networks.classifier_of(networks.pooled())
    folder_of(tmp_path)
    wanted = {"auto": "3", "0": "0", "none": None}
    for previous, expected in wanted.items():
        drawn = features(classifier, tmp_path, "4", facets=1, exemplars=3, recipe=QUICK, previous=previous)[0]
        assert drawn.previous == expected
        assert (max(drawn.facets[0].losses["previous"]) > 0) == (expected is not None)
    first = features(classifier, tmp_path, "0", facets=1, exemplars=3, recipe=QUICK)[0]
    assert first.previous is None
    assert "no layer ran before 0" in first.notes[0]


class Generated(nn.Module):
    """Its convolution's weights are made by a linear layer, which sees no picture."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.code, self.last = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(4)), nn.Conv2d(8, 8, 1)
        self.maker, self.head = nn.Linear(4, 8 * 6 * 9), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.stem(x).relu()
        found = F.conv2d(found, self.maker(self.code).view(8, 6, 3, 3)).relu()
        return self.head(self.last(found).mean((2, 3)))


def test_a_layer_that_makes_weights_is_none_before(tmp_path: Path) -> None:
    classifier = networks.classifier_of(Generated().eval())
    drawn = features(classifier, folder_of(tmp_path), "last", facets=1, exemplars=3, recipe=QUICK)[0]
    assert drawn.previous == "stem"


def test_a_broken_file_is_a_record_and_the_others_count(tmp_path: Path) -> None:
    (folder_of(tmp_path, (4,)) / "broken.png").write_bytes(b"no picture")
    found = collect(prepare(networks.classifier_of(networks.pooled())), list_images(tmp_path), ["4"])
    assert len(found.paths) == 4
    assert [Path(record.path).name for record in found.broken] == ["broken.png"]


def test_clear_errors(tmp_path: Path) -> None:
    classifier = networks.classifier_of(networks.pooled())
    with pytest.raises(InputError, match="none of the 1 files"):
        features(classifier, tmp_path / "missing", "4")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the 1 files is a picture"):
        features(classifier, tmp_path, "4")
    folder_of(tmp_path, (5,))
    with pytest.raises(OptionError, match="5 readable images are too few for 3 facets of 10 exemplars"):
        features(classifier, tmp_path, "4", exemplars=10)
    with pytest.raises(NotFoundError, match="no layer 'blocks'"):
        features(classifier, tmp_path, "blocks", exemplars=2)
    with pytest.raises(NotFoundError, match="no layer 'before'"):
        features(classifier, tmp_path, "4", exemplars=2, previous="before")
    with pytest.raises(OptionError, match="needs no pictures"):
        drawing_spec("class_model")
    with pytest.raises(OptionError, match="no option 'stepz'"):
        drawing_spec("minds_eye:stepz=3")
