"""Segmentation, detection and embeddings: the question as data, against plain autograd and the published targets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene import (
    Classifier,
    Detected,
    Mask,
    ModelError,
    NotFoundError,
    OptionError,
    Preprocess,
    Region,
    ScoreFunction,
    Similar,
    attribute,
    explain,
    impress,
)  # fmt: skip
from phosphene.errors import PhospheneWarning
from phosphene.targets import kinds
from tests.cli.running import phosphene as command
from tests.comparing import stretched
from tests.networks import MEAN, STD, classifier_of, pooled

LABELS = ["sky", "cat", "dog", "cup"]


class Segmenter(nn.Module):
    """DeepLab-like: features of a quarter of the size, dilated, a map for each class; a dict as torchvision returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, padding=1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": F.interpolate(self.head(self.features(x)), x.shape[-2:], mode="bilinear", align_corners=False)}


class Detr(nn.Module):
    """DETR-like: queries look at the features; logits with "no object" last, boxes as centers and sides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.classes, self.boxes = nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.features(x).flatten(2).transpose(1, 2)
        seen = (self.queries @ tokens.transpose(1, 2)).softmax(dim=-1) @ tokens + self.queries
        return {"logits": self.classes(seen), "pred_boxes": self.boxes(seen).sigmoid()}


class Detector(nn.Module):
    """What torchvision's detectors return: a dict of boxes, labels and scores for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Detr()

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = self.inner(x)
        centers, sides = found["pred_boxes"].split(2, dim=-1)
        boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=-1) * x.shape[-1]
        scores, labels = found["logits"].softmax(-1)[..., :-1].max(-1)
        return [
            {"boxes": box, "labels": label, "scores": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]


class TwoSizes(nn.Module):
    """Looks for small objects in its first maps and for large ones in its last, as SSD does: a box for each place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.early = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.heads = nn.ModuleList([nn.Conv2d(8, 3, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)])

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        early = self.early(x)
        boxes, likely = [], []
        for head, maps in zip(self.heads, (early, self.late(early)), strict=True):
            step = x.shape[-1] // maps.shape[-1]
            corners = torch.cartesian_prod(*[torch.arange(0, x.shape[-1], step)] * 2).flip(1).float()
            boxes.append(torch.cat([corners, corners + step], dim=1))
            likely.append(head(maps).flatten(2).transpose(1, 2).softmax(dim=-1))
        scores, labels = torch.cat(likely, dim=1).max(dim=-1)
        return [
            {"boxes": torch.cat(boxes), "labels": label, "scores": score}
            for label, score in zip(labels, scores, strict=True)
        ]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def segmenter() -> Classifier:
    return classifier_of(Segmenter().eval(), labels=LABELS, head="maps")


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (Region(2), (slice(None), slice(None))),
        (Region(2, (4, 9)), (slice(4, 5), slice(9, 10))),
        (Region(2, (3, 5, 9, 12)), (slice(5, 12), slice(3, 9))),
    ],
    ids=["whole", "pixel", "box"],
)
def test_a_region_is_the_mean_of_the_classes_scores_there(target, where, images):
    classifier = segmenter()
    found = attribute(classifier, images, target, "input_x_gradient")
    leaf = images.clone().requires_grad_()
    score = classifier.module(normalized(leaf))["out"][:, 2, where[0], where[1]].mean(dim=(1, 2))
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    assert torch.allclose(found.score, score.detach(), atol=1e-5)
    expected = (gradient * images).sum(dim=1)
    assert torch.allclose(found.maps, expected, atol=1e-4 * float(expected.abs().max()))
    assert found.target.label(classifier.labels).startswith("dog")


def test_masks_are_given_for_all_or_for_each(images):
    classifier = segmenter()
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 2:6, 3:9], masks[1, 8:, :4] = True, True
    each = attribute(classifier, images, Region(1, masks=(Mask.of(masks[0]), Mask.of(masks[1].numpy()))), "saliency")
    maps = classifier.module(normalized(images))["out"][:, 1].detach()
    assert torch.allclose(each.score, torch.stack([maps[row][masks[row]].mean() for row in range(2)]), atol=1e-5)
    alone = attribute(classifier, images[1:], Region(1, masks=(Mask.of(masks[1]),)), "saliency")
    assert torch.allclose(each.maps[1], alone.maps[0], atol=1e-6)
    with pytest.raises(OptionError, match="holds no pixel"):
        attribute(classifier, images, Region(1, masks=(Mask.of(torch.zeros(16, 16)),)), "saliency")
    with pytest.raises(OptionError, match="give \\(height, width\\)"):
        Mask.of(torch.zeros(3))


AS_PEOPLE_HAVE_THEM = {
    "a list": lambda: Region(2, [3, 5, 9, 12]),  # type: ignore[arg-type]
    "an array": lambda: Region(2, np.array([3, 5, 9, 12])),  # type: ignore[arg-type]
    "a tensor": lambda: Region(np.int64(2), torch.tensor([3, 5, 9, 12])),  # type: ignore[arg-type]
    "a mask": lambda: Region(2, masks=Mask.of(box_of_ones())),  # type: ignore[arg-type]
    "an array of ones": lambda: Region(2, masks=box_of_ones().numpy()),  # type: ignore[arg-type]
    "ones for each image": lambda: Region(2, masks=box_of_ones().expand(2, -1, -1).bfloat16()),  # type: ignore[arg-type]
    "a list of masks": lambda: Region(2, masks=[box_of_ones().requires_grad_()]),  # type: ignore[arg-type]
}


def box_of_ones() -> Tensor:
    found = torch.zeros(16, 16)
    found[5:12, 3:9] = 1
    return found


def test_no_masks_may_be_said_so():
    assert Region(2, masks=None) == Region(2)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", AS_PEOPLE_HAVE_THEM)
@pytest.mark.parametrize("method", ["saliency", "grad_cam"])
def test_a_region_may_be_given_as_a_list_or_an_array(how, method, images):
    expected = attribute(segmenter(), images, Region(2, (3, 5, 9, 12)), method)
    found = attribute(segmenter(), images, AS_PEOPLE_HAVE_THEM[how](), method)
    assert torch.allclose(found.maps, expected.maps, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Mask.of([[1, 2], [3]]), "give \\(height, width\\)"),
        (lambda: Mask.of([["a", "b"]]), "give \\(height, width\\)"),
        (lambda: Mask.of(torch.ones(0, 3)), "give \\(height, width\\)"),
        (lambda: Region(3.5), "class 3.5 is no index"),
        (lambda: Region(True), "class True is no index"),
        (lambda: Region(1, ("a", "b")), "give \\(row, column\\)"),
        (lambda: Region(1, (math.nan, 1)), "give \\(row, column\\)"),
        (lambda: Region(1, "ab"), "give \\(row, column\\)"),
        (lambda: Region(1, None), "give \\(row, column\\)"),
        (lambda: Region(1, masks=3), "a mask of shape|masks of type int"),
        (lambda: Detected(1, None), "give \\(x0, y0, x1, y1\\)"),
        (lambda: Detected(None, (0, 0, 1, 1)), "class None is no index"),
        (lambda: Similar((math.nan, 1.0)), "similar to what"),
    ],
)
def test_what_is_no_region_object_or_mask_is_said_in_one_line(wrong, said):
    with pytest.raises(OptionError, match=said):
        wrong()


@pytest.mark.parametrize("method", ["grad_cam", "layer_saliency", "eigen_cam", "score_cam", "captum:layer_conductance"])
def test_an_object_is_looked_for_in_the_last_layer_that_it_was_found_in(method, images):
    classifier = classifier_of(TwoSizes().eval(), labels=LABELS, head="boxes")
    (raw, *_) = classifier.module(normalized(images))
    for row, layer in ((5, "early"), (16, "late")):
        target = Detected(int(raw["labels"][row]), tuple(raw["boxes"][row].tolist()))
        found = attribute(classifier, images[:1], target, method)
        assert found.layer == layer
        assert found.problems == (None,)


def test_a_detector_that_is_a_function_has_no_layer_to_look_for_an_object_in(images):
    network = TwoSizes().eval()
    function = ScoreFunction(lambda x: network(normalized(x)), Preprocess((16, 16)), labels=LABELS, head="boxes")
    with pytest.raises(ModelError, match="a function of pictures"):
        attribute(function, images, Detected(1, (0, 0, 4, 4)), "grad_cam")


@pytest.mark.parametrize(
    "method", ["grad_cam", "occlusion:window=4,stride=4", "rise:masks=20", "lrp:composite=epsilon"]
)
def test_methods_take_a_region_as_they_take_a_class(method, images):
    found = attribute(segmenter(), images, Region(1, (2, 2, 10, 10)), method)
    assert bool(found.heat.any())
    assert all(problem is None for problem in found.problems)


def test_same_as_the_published_segmentation_target(images):
    peers = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed", exc_type=ImportError)
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    mask = np.zeros((16, 16), np.float32)
    mask[4:12, 4:9] = 1
    found = attribute(segmenter(), images, Region(1, masks=(Mask.of(mask),)), "grad_cam", layer="features.2")

    class Plain(Segmenter):
        def forward(self, x):
            return super().forward(x)["out"]

    net = Plain().eval()
    theirs = peers.GradCAM(net, [net.features[2]])
    theirs.get_target_width_height = lambda _: (4, 4)
    expected = torch.from_numpy(theirs(normalized(images), [SemanticSegmentationTarget(1, mask)] * 2))
    assert float((stretched(found.maps) - expected).abs().max()) < 1e-4


class Anchored(nn.Module):
    """A detector whose boxes lie where they lie: only how likely each is hangs on the picture."""

    boxes = ((1.0, 1.0, 9.0, 9.0), (6.0, 5.0, 15.0, 15.0), (2.0, 8.0, 7.0, 14.0))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        likely = self.head(self.features(x).flatten(1)).sigmoid()
        return [{"boxes": torch.tensor(self.boxes), "labels": torch.tensor([1, 2, 3]), "scores": row} for row in likely]


def test_same_as_the_published_detection_target(images):
    """Its sum of overlap and probability and our product have slopes alike where the boxes do not move."""
    peers = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed", exc_type=ImportError)
    from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget

    net = Anchored().eval()
    for label, box in ((2, (5.0, 5.0, 15.0, 14.0)), (1, (1.0, 1.0, 9.0, 8.0))):
        classifier = classifier_of(net, labels=LABELS, head="boxes")
        found = attribute(classifier, images, Detected(label, box), "grad_cam", layer="features.2")
        theirs = peers.GradCAM(net, [net.features[2]])
        theirs.get_target_width_height = lambda _: (4, 4)
        expected = torch.from_numpy(
            theirs(normalized(images), [FasterRCNNBoxScoreTarget([label], np.array([box]))] * len(images))
        )
        assert bool((expected > 0).any())
        assert float((stretched(found.maps) - expected).abs().max()) < 1e-4


def binary_segmenter(act):
    """One map, of what is no background, as networks for medical pictures have it."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), act
    return classifier_of(nn.Sequential(*layers).eval(), head="maps")


def test_the_probability_of_one_map_is_no_softmax_of_one(images):
    classifier = binary_segmenter(nn.Identity())
    found = explain(classifier, images, "occlusion:window=8,stride=8,fill=black")
    covered = images.clone()
    covered[:, :, :8, 8:] = 0
    clean, hidden = (classifier.module(normalized(some)).mean((1, 2, 3)).sigmoid() for some in (images, covered))
    assert torch.allclose(found.score, clean, atol=1e-5)
    assert torch.allclose(found.maps[:, 0, 1], hidden, atol=1e-5)
    assert not torch.allclose(clean, hidden, atol=1e-4)


@pytest.mark.parametrize("act", [nn.Sigmoid(), nn.Softmax(1)])
def test_maps_of_probabilities_are_told(images, act):
    with pytest.warns(PhospheneWarning, match="returns probabilities in its maps.*without its last step"):
        found = explain(binary_segmenter(act), images, "saliency")
    assert found.score.tolist() == pytest.approx(
        binary_segmenter(act).module(normalized(images)).mean((1, 2, 3)).tolist(), abs=1e-5
    )


def test_a_head_of_maps_answers_with_their_mean(images):
    classifier = segmenter()
    expected = classifier.module(normalized(images))["out"].mean(dim=(2, 3))
    assert torch.allclose(classifier.logits(images), expected, atol=1e-6)
    with pytest.raises(ModelError, match="head='maps'"):
        classifier_of(Segmenter().eval()).logits(images)
    with pytest.raises(ModelError, match="no maps \\(N, K, h, w\\)"):
        attribute(classifier_of(pooled()), images, Region(1), "saliency")
    with pytest.raises(NotFoundError, match="no class 9"):
        attribute(classifier, images, Region(9), "saliency")
    with pytest.raises(OptionError, match="lies outside of the 16 x 16 pixels"):
        attribute(classifier, images, Region(1, (40, 2)), "saliency")


def detections(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(boxes (Q, 4) in pixels, probabilities (Q, K)) of each image, by plain code."""
    found = Detr().eval()(normalized(images))
    x, y, w, h = (found["pred_boxes"] * 16).unbind(-1)
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
    return list(zip(boxes, found["logits"].softmax(-1)[..., :-1], strict=True))


def overlap(one: list[float], other: list[float]) -> float:
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def test_an_object_is_overlap_times_probability_of_the_best_match(images):
    boxes, likely = detections(images)[0]
    goal = [round(value, 1) for value in boxes[2].tolist()]
    classifier = classifier_of(Detr().eval(), labels=LABELS, head="boxes")
    found = attribute(classifier, images[:1], Detected(1, tuple(goal)), "saliency")
    matches = [(overlap(box.tolist(), goal), chance.item()) for box, chance in zip(boxes, likely[:, 1], strict=True)]
    expected = max(share * chance for share, chance in matches if share >= 0.5)
    assert float(found.score[0]) == pytest.approx(expected, rel=1e-4)
    assert bool(found.maps.any())
    none = attribute(classifier, images[:1], Detected(1, (0.0, 0.0, 1.0, 1.0)), "saliency")
    assert float(none.score[0]) == 0
    assert "zero everywhere" in str(none.problems[0])


def test_detectors_as_torchvision_has_them_and_as_functions(images):
    boxes, likely = detections(images)[0]
    best = int(likely[2].argmax())
    target = Detected(best, tuple(round(value, 1) for value in boxes[2].tolist()))
    one = classifier_of(Detr().eval(), labels=LABELS, head="boxes")
    other = classifier_of(Detector().eval(), labels=LABELS, head="boxes")
    net = Detector().eval()
    box = ScoreFunction(lambda x: net(x), Preprocess((16, 16), None, MEAN, STD), LABELS, "boxes", name="detector")
    scores = [attribute(each, images[:1], target, "rise:masks=30") for each in (one, other, box)]
    assert torch.allclose(scores[1].maps, scores[2].maps, atol=1e-6)
    assert float(scores[0].score) == pytest.approx(float(scores[1].score), rel=1e-4)
    assert torch.allclose(one.logits(images)[0], likely.amax(dim=0), atol=1e-6)
    expected = torch.zeros(4).scatter_reduce(0, likely.argmax(-1), likely.amax(-1), "amax")
    assert torch.allclose(other.logits(images)[0], expected, atol=1e-6)
    with pytest.raises(ModelError, match="has no gradient"):
        attribute(box, images[:1], target, "saliency")
    with pytest.raises(ModelError, match="give labels="):
        classifier_of(Detector().eval(), head="boxes").logits(images)
    with pytest.raises(ModelError, match="returned no boxes"):
        attribute(classifier_of(pooled()), images, target, "saliency")
    with pytest.raises(ModelError, match="which head='boxes' reads"):
        classifier_of(Detector().eval()).logits(images)


def test_similarity_is_the_cosine_with_the_reference(images):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7)).eval()
    classifier = classifier_of(net, head="score")
    reference = classifier.logits(images[1:])[0]
    found = attribute(classifier, images, Similar(tuple(reference.tolist())), "input_x_gradient")
    leaf = images.clone().requires_grad_()
    cosine = F.cosine_similarity(net(normalized(leaf)), reference.detach()[None], dim=1)
    (gradient,) = torch.autograd.grad(cosine.sum(), leaf)
    assert torch.allclose(found.score, cosine.detach(), atol=1e-5)
    assert float(found.score[1]) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(found.maps[0], (gradient * images).sum(dim=1)[0], atol=1e-5)
    with pytest.raises(OptionError, match="the reference has 2 values, the network's output 7"):
        attribute(classifier, images, Similar((1.0, 2.0)), "saliency")


def as_tensor(path):
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None] / 255


def test_a_picture_that_the_output_is_like_may_be_a_file(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    classifier = Classifier(network, Preprocess((16, 16), mean=(0, 0, 0), std=(1, 1, 1)))
    Image.fromarray(chelsea()[:16, :16]).save(tmp_path / "cat.png")
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        reference = network(as_tensor(tmp_path / "cat.png"))[0]
    for ask in (explain, attribute):
        found = ask(classifier, images, target=Similar(tmp_path / "cat.png"), method="saliency")
        expected = ask(classifier, images, target=Similar(reference), method="saliency")
        torch.testing.assert_close(found.maps, expected.maps)


@pytest.mark.parametrize("recipe", ["sci", "class_impression", "class_model"])
def test_regions_objects_and_likenesses_are_drawn(recipe):
    """A picture is made to do to the whole output what a map of it explains."""
    segments, detects = segmenter(), classifier_of(Detr().eval(), labels=LABELS, head="boxes")
    with torch.no_grad():
        x, y, width, height = Detr()(normalized(torch.full((1, 3, 16, 16), 0.5)))["pred_boxes"][0, 0].tolist()
    box = (16 * (x - width / 2), 16 * (y - height / 2), 16 * (x + width / 2), 16 * (y + height / 2))
    for classifier, target in (
        (segments, Region("dog")),
        (segments, Region("dog", (3, 5, 9, 12))),
        (detects, Detected("dog", box)),
        (classifier_of(pooled()), Similar((0.0, 0.0, 1.0, 0.0, 0.0))),
    ):
        (made,) = impress(classifier, target, recipe, steps=30)
        start = classifier.mean_picture((16, 16))
        goal = target.found_in(classifier)
        score = attribute(classifier, torch.stack([start, made.image]), goal, "saliency").score
        assert score[1] > score[0] + 1e-3, (target, score)


def test_how_they_are_written():
    assert Region.parse("dog") == Region("dog")
    assert Region.parse("3@1,2,5,6") == Region(3, (1, 2, 5, 6))
    assert Detected.parse("a@b@1,2,5,6") == Detected("a@b", (1, 2, 5, 6))
    assert (
        Similar.parse("photo.jpg").path == Similar("photo.jpg").path == Similar(Path("photo.jpg")).path == "photo.jpg"
    )
    assert {"region", "object", "similar"} <= set(kinds())
    for kind, text in ((Region, "dog@1"), (Region, "dog@1,2,3"), (Detected, "dog"), (Detected, "dog@1,2,x,4")):
        with pytest.raises(OptionError, match="write CLASS@ and"):
            kind.parse(text)
    with pytest.raises(OptionError, match="empty or turned round"):
        Region(1, (5, 5, 2, 9))
    with pytest.raises(OptionError, match="x0 < x1"):
        Detected(1, (5, 5, 2, 9))
    with pytest.raises(OptionError, match="similar to what"):
        Similar()


FACTORY = """
import phosphene
from tests.test_output_targets import LABELS, Detr, Segmenter
from tests.networks import classifier_of, pooled
def segmenter(): return classifier_of(Segmenter().eval(), labels=LABELS, head="maps")
def detector(): return classifier_of(Detr().eval(), labels=LABELS, head="boxes")
def embedder(): return classifier_of(pooled(), head="score")
"""


def test_the_command_asks_for_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    Image.fromarray(chelsea()).save("photo.jpg")
    for name, question in (
        ("segmenter", ["--region", "dog@4,4,12,12"]),
        ("segmenter", ["--class", "dog"]),
        ("detector", ["--object", "cat@2,2,14,14"]),
        ("detector", ["--class", "top1"]),
        ("embedder", ["--similar", "photo.jpg"]),
    ):
        outcome = command(
            "explain", "photo.jpg", "--model", f"nets.py:{name}", *question, "--method", "occlusion", "--method",
            "saliency", "--out", f"{name}-{question[0]}-{question[1]}".replace("@", "").replace(",", "-"),
        )  # fmt: skip
        assert outcome.code in (0, 1), outcome.err
        if question[0] != "--object":
            assert outcome.code == 0, outcome.out + outcome.err
    found = explain(segmenter(), chelsea(), "saliency", target=Region("dog", (4, 4)).found_in(segmenter()))
    assert found.maps.shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("network", "old", "new"),
    [
        ("segmenter", ["--class", "dog"], "class:dog"),
        ("segmenter", ["--region", "dog@4,4,12,12"], "region:dog@4,4,12,12"),
        ("embedder", ["--unit", "4=2"], "unit:4=2"),
        ("embedder", ["--similar", "photo.jpg"], "similar:photo.jpg"),
    ],
)
def test_one_option_asks_for_any_of_them(tmp_path, monkeypatch, network, old, new):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    Image.fromarray(chelsea()).save("photo.jpg")
    answers = []
    for number, question in enumerate((old, ["--target", new])):
        given = ["explain", "photo.jpg", "--model", f"nets.py:{network}", *question, "--method", "saliency"]
        outcome = command(*given, "--out", f"run{number}", "--json")
        assert outcome.code == 0, outcome.err
        (row,) = outcome.json["images"][0]["maps"]
        answers.append((row["target"], np.load(row["map"])))
    assert answers[0][0] == answers[1][0]
    np.testing.assert_array_equal(answers[0][1], answers[1][1])
