"""Networks that read regions (roi_align) or convolve by offsets (deform_conv2d), operations of torchvision's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError
from phosphene.runtime import prepare
from phosphene.tasks.attributions import attribute
from tests.oracles.plain_autograd import Eager

ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
SIZE = 32


class Regions(nn.Module):
    """Reads one region of each picture, that of `boxes`."""

    def __init__(self, boxes) -> None:
        super().__init__()
        self.first, self.features, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)
        self.boxes = boxes

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(len(x))[:, None].to(x)
        x = self.first(x)
        regions = ops.roi_align(x, torch.cat([index, self.boxes(x)], 1), (SIZE, SIZE), sampling_ratio=1, aligned=True)
        return self.head(self.features(regions).relu().mean((2, 3)))


class Deformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.offsets = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 18, 3, padding=1)
        self.deformed, self.head = ops.DeformConv2d(6, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(self.deformed(x, self.offsets(x)).relu().mean((2, 3)))


def whole(x: Tensor) -> Tensor:
    return x.new_tensor([0, 0, SIZE, SIZE]).expand(len(x), -1)


def corner(x: Tensor) -> Tensor:
    return x.new_tensor([SIZE // 2, SIZE // 2, SIZE, SIZE]).expand(len(x), -1)


def drawn(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3, generator=generator)
    return network.eval()


def pictures() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))


def test_a_region_that_lies_elsewhere_is_refused():
    network = Classifier(drawn(Regions(corner)), Preprocess((SIZE, SIZE)))
    with pytest.raises(ModelError, match="in another order, so that its map cannot be laid on it"):
        attribute(network, pictures(), 1, "grad_cam:layer=features")


@pytest.mark.parametrize("box", [(0, 0, SIZE, SIZE), (4, 4, SIZE - 4, SIZE - 4)])
def test_that_a_box_takes_other_pixels_is_said_and_the_whole_picture_is_where_it_is(box):
    network = Classifier(drawn(Regions(lambda x: x.new_tensor(box).expand(len(x), -1))), Preprocess((SIZE, SIZE)))
    notes = attribute(network, pictures(), 1, "grad_cam:layer=features").notes
    assert any("(grid_sample, roi_align)" in note for note in notes) == (box[0] > 0)


def test_the_usual_layer_is_the_one_that_convolves_by_offsets():
    assert prepare(Classifier(drawn(Deformed()), Preprocess((SIZE, SIZE)))).default_layer == "deformed"


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("make", [lambda: Regions(whole), Deformed])
def test_rules_of_relus_go_through(make, rule):
    network, images = drawn(make()), pictures()
    found = attribute(Classifier(network, Preprocess((SIZE, SIZE))), images, 1, rule).maps
    expected = Eager(network.double()).reconstruction(images.double(), [1, 1], rule).sum(1)
    torch.testing.assert_close(found.double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)
