"""Networks of timm whose tokens, heads and attention lie otherwise: default layer, its map in float64, attention."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import timm
import torch

from phosphene import Classifier, ModelError, Preprocess, attribute
from phosphene.runtime import prepare
from tests.networks import MEAN, STD
from tests.zoo.networks import CLASSES, alive

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
# (side of the pictures, options of timm, the default layer, how many tokens lead, what is said of its attention)
FAMILIES: dict[str, tuple[int, dict[str, Any], str, int, str | None]] = {
    "coat_lite_tiny": (64, {"img_size": 64}, "serial_blocks4.1.norm1", 1, "no layers of self-attention"),
    "levit_128s": (128, {"img_size": 128}, "stages", 0, "not over all tokens"),
    "beit_base_patch16_224": (64, {"img_size": 64, **SMALL}, "blocks.1", 1, None),
    "vit_betwixt_patch16_reg4_gap_256": (64, {"img_size": 64, **SMALL}, "blocks", 4, None),
    "vit_small_patch14_reg4_dinov2": (70, {"img_size": 70, **SMALL}, "blocks.1.norm1", 5, None),
    "cait_xxs24_224": (64, {"img_size": 64, "depth": 2}, "blocks_token_only.1.norm1", 1, "to 17"),
    "pvt_v2_b0": (64, {}, "stages", 0, "1 x 256 tokens to 4"),
    "xcit_nano_12_p16_224": (128, {"img_size": 128, "depth": 2}, "cls_attn_blocks.1.norm1", 1, "attends to channels"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_layer_and_its_map(name):
    side, options, layer, leading, refused = FAMILIES[name]
    torch.manual_seed(7)
    module = alive(timm.create_model(name, num_classes=CLASSES, **options), side)
    classifier = Classifier(module, Preprocess((side, side), None, MEAN, STD), name=name)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    assert prepare(classifier).default_layer == layer
    found = attribute(classifier, images, 3, "grad_cam")
    exact, kept = deepcopy(module).double(), {}
    exact.get_submodule(layer).register_forward_hook(lambda _module, _given, output: kept.update(output=output))
    score = exact(classifier.preprocess.normalize(images.double()).requires_grad_())[0, 3]
    (slope,) = torch.autograd.grad(score, kept["output"])
    maps, slopes = (values[0].detach() for values in (kept["output"], slope))
    if maps.ndim == 2:
        cells = int((len(maps) - leading) ** 0.5)
        maps, slopes = (values[leading:].T.reshape(-1, cells, cells) for values in (maps, slopes))
    assert bool(slopes.any())
    expected = (slopes.mean(dim=(1, 2), keepdim=True) * maps).sum(dim=0)
    assert torch.allclose(found.maps[0].double(), expected, atol=1e-4 * float(expected.abs().max()))
    if refused is None:
        notes = attribute(classifier, images, 3, "attention_rollout").notes
        assert f"the first {leading} left out" in notes[0]
    else:
        with pytest.raises(ModelError, match=refused):
            attribute(classifier, images, 3, "attention_rollout")
