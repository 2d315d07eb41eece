"""ShapleyCAM: a layer's channels weighted by their Shapley values to second order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from phosphene.attribution.layer_maps import Layers, averaged_layers, channel_weights, layer_names
from phosphene.autograd_graph import graph_nodes
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.graph import check_inside, spatial_map
from phosphene.registry import register_attribution
from phosphene.runtime import Prepared, prepare
from phosphene.runtime.passes import asked, in_parts
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="ShapleyCAM",
    family="cam",
    paper="cai2025",
    display="positive",
    caveat="As coarse as the layer's grid; its second order is taken at the activations, far from zero.",
)
def shapley_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    utility: Literal["residual", "logit", "probability"] = "residual",
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """Which places of a layer speak for the class, its channels weighted as players of a game are paid.

    ``L[y, x] = sum_k a_k A_k[y, x]`` with ``a_k = mean over places of (g - 0.5 H A)_k``, g and H being gradient and
    Hessian of the utility at the activations A: the Shapley values of its second-order expansion. The utility is the
    paper's ``z_c + log p_c`` (`residual`), the logit or the probability; of a logit behind a linear head H is zero
    and the map that of `grad_cam`.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class, or a class versus another; a score of its own goes before `utility`.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the last.
        utility: what the game is about.
        relu: keep the positive part of each layer's map alone.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid, of several layers on the finest; the score is the utility.

    Raises:
        ModelError: if the layer's output has no places, or the network no second derivative.
        NotFoundError: for an unknown layer, with the nearest names.
        OptionError: for a unit.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...                           torch.nn.Linear(4, 2))
        >>> shapley_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1), layer="0").maps.shape
        torch.Size([2, 6, 6])

    References:
        cai2025, section 4.
    """
    if not target.classes:
        raise OptionError("shapley_cam weighs channels by what they add to a class; give a class alone")
    names = layer_names(classifier, layer, target, images)

    def value(known: Prepared, logits: Tensor, own: Target) -> Tensor:
        if own.score is not None or utility != "residual" or known.head in ("score", "maps", "boxes"):
            return known.score(logits, own, "probability" if utility == "probability" else "logit")
        logarithms = {"softmax": F.log_softmax(logits, dim=1), "sigmoid": F.logsigmoid(logits), "probabilities": logits}
        return known.score(logits + logarithms[known.head], own, "logit")

    score, found = layer_curvature(classifier, images, target, names, value, batch_size)
    maps = []
    for name in names:
        layout, what = prepare(classifier).layout(name), f"layer {name}"
        activations, slopes, bent = (spatial_map(values, what, images, layout) for values in found[name])
        maps.append((channel_weights(slopes - 0.5 * bent) * activations).sum(dim=1))
    return averaged_layers(maps, names, classifier, images, target, score, relu)


def layer_curvature(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layers: Sequence[str],
    utility: Callable[[Prepared, Tensor, Target], Tensor],
    batch_size: int | None,
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """(utility (N,), per layer activations A, gradients g and products H A of the Hessian with them), all (N, ...).

    The utility is a number (N,) of (classifier, logits, target); each layer is taken by itself.

    Raises:
        ModelError: for a network that has no second derivative there.
    """
    prepared, target = asked(prepare(classifier).variant("maps", "exact"), images, target, layers)
    check_inside(prepared.network.module, prepared.name, "gradient")

    def run(start: int, stop: int) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor, Tensor]]]:
        # As it was written: what makes the network fast has first derivatives alone, and so has fused attention.
        module = prepared.network.module
        inputs = prepared.ready(images[start:stop]).requires_grad_()
        with prepared.capture(layers, of=module) as found, sdpa_kernel(SDPBackend.MATH):
            logits = prepared.read(prepared.run(module, inputs), stop - start).float()
        values = utility(prepared, logits, target.rows(start, stop))
        return values.detach(), {name: _bent(prepared, values, found[name]) for name in layers}

    return in_parts(prepared, images, run, batch_size, gradients=True)


def _bent(prepared: Prepared, values: Tensor, activation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(A, g, H A) at one layer."""
    slope = _derivative(prepared, values.sum(), activation)
    if any("Error" in node.name() for node in graph_nodes(slope)):  # (PyTorch would say nothing of it)
        raise ModelError(
            f"{prepared.name} has no second derivative here: a function of its own has a first one alone; use grad_cam"
        )
    bent = torch.zeros_like(slope)
    if slope.requires_grad:
        bent = _derivative(prepared, (slope * activation.detach()).sum(), activation)
    return activation.detach(), slope.detach(), bent.detach()


def _derivative(prepared: Prepared, value: Tensor, at: Tensor) -> Tensor:
    try:
        (found,) = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    except RuntimeError as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"{prepared.name} has no second derivative here ({reason}); use grad_cam") from error
    return torch.zeros_like(at) if found is None else found
