"""Second derivatives of scores at layers: how gradients bend along the activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import check_inside
from phosphene.hooks import capture, graph_nodes
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.targets import Target

Utility = Callable[[Prepared, Tensor, Target], Tensor]


def layer_curvature(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layers: Sequence[str],
    utility: Utility,
    *,
    batch_size: int | None = None,
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """(utility (N,), per layer activations A, gradients g and products H A of the Hessian with them), all (N, ...).

    Args:
        classifier: any classifier.
        images: (N, C, H, W) in [0, 1].
        target: classes.
        layers: dotted names; each is taken by itself.
        utility: of (classifier, logits, target), a number (N,).
        batch_size: images per pass; None chooses.

    Raises:
        ModelError: for a network that has no second derivative there.
    """
    prepared = prepare(classifier, keep=layers).variant("maps", "exact")
    prepared.check_images(images)
    check_inside(prepared.network.module, prepared.name, "gradient")
    target = target.expand(len(images))

    def run(start: int, stop: int) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
        # As it was written: what makes the network fast has first derivatives alone, and so has fused attention.
        module = prepared.network.module
        inputs = prepared.ready(images[start:stop]).requires_grad_()
        with capture(module, layers) as found, sdpa_kernel(SDPBackend.MATH):
            logits = prepared.read(prepared.run(module, inputs), stop - start).float()
        values = utility(prepared, logits, target.rows(start, stop))
        parts = {}
        for name in layers:
            activation = found[name]
            slope = _derivative(prepared, values.sum(), activation)
            bent = torch.zeros_like(slope)
            if any("Error" in node.name() for node in graph_nodes(slope)):  # (PyTorch would say nothing of it)
                raise ModelError(
                    f"{prepared.name} has no second derivative here: a function of its own has a first one alone; use "
                    "grad_cam"
                )
            if slope.requires_grad:
                bent = _derivative(prepared, (slope * activation.detach()).sum(), activation)
            parts[name] = tuple(one.detach().float() for one in (activation, slope, bent))
        return values.detach(), parts

    with prepared.passing(gradients=True):
        scores, parts = zip(*prepared.in_batches(run, len(images), batch_size, images.shape[1:]), strict=True)
    joined = {name: tuple(torch.cat([part[name][place] for part in parts]) for place in range(3)) for name in layers}
    return torch.cat(scores), joined  # type: ignore[return-value]


def _derivative(prepared: Prepared, value: Tensor, at: Tensor) -> Tensor:
    try:
        (found,) = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    except RuntimeError as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"{prepared.name} has no second derivative here ({reason}); use grad_cam") from error
    return torch.zeros_like(at) if found is None else found
