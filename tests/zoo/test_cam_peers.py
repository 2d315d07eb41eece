"""The CAM family equals pytorch-grad-cam and torchcam; on larger pictures: benchmarks/cam_agreement.py."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from benchmarks.cam_agreement import PAIRS, REPAIRED, Case, Pair, embedded_network, error, resnet18, torchcam

# grad-cam writes a progress bar and uses what its dependencies call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

NETWORKS = {"resnet18": resnet18, "embedded": embedded_network}


@cache
def case(network: str) -> Case:
    return NETWORKS[network](96, 2)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.spec}-{pair.peer}")
def test_the_same_maps(pair: Pair, network: str) -> None:
    assert error(pair, case(network)) < 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_torchcam_throws_its_division_away(network: str) -> None:
    """Why its Grad-CAM++ is compared with the division repaired: as published its weights are sum g^2 relu(g)."""
    own = case(network)
    outputs: list[torch.Tensor] = []
    module = own.classifier.module
    handle = module.get_submodule(own.layer).register_forward_hook(lambda _m, _i, output: outputs.append(output))
    logits = module(own.inputs.requires_grad_())
    handle.remove()
    picked = logits.gather(1, torch.tensor(own.classes)[:, None]).sum()
    (gradient,) = torch.autograd.grad(picked, outputs)
    plain = ((gradient**2 * gradient.relu()).sum((2, 3), keepdim=True) * outputs[0]).sum(1)
    normalized, published = torchcam("GradCAMpp", own)
    _, repaired = torchcam(REPAIRED, own)
    assert abs(normalized(plain.detach().numpy()) - published).max() < 1e-5
    assert abs(repaired - published).max() > 0.05
