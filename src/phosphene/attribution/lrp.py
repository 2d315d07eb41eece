"""Layer-wise relevance propagation with composites: a rule for each kind of layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from phosphene.attribution.as_written import relevance
from phosphene.attribution.result import attribution, per_image
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_attribution
from phosphene.relevance import AlphaBeta, Box, Composite, Epsilon, Flat, Gamma
from phosphene.runtime import plain_mode, prepare
from phosphene.targets import Target
from phosphene.types import Attribution

Rules = Literal[
    "epsilon_gamma_box",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1_flat",
    "epsilon_plus",
    "epsilon_alpha2_beta1",
    "epsilon",
]


@register_attribution(
    title="Layer-wise relevance propagation",
    family="gradient",
    paper="montavon2019",
    display="percentile",
    caveat="The map depends on the rules as much as on the network; what biases take is in the check, not in the map.",
)
def lrp(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    composite: Rules = "epsilon_gamma_box",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    biases: Literal["share", "none"] = "share",
    batch_size: int | None = None,
) -> Attribution:
    """Each pixel's share of the score, handed down from layer to layer by what each input adds to each output.

    ``R_i = sum_j x_i rho(w_ij) / (e_j + sum_i x_i rho(w_ij)) R_j``, starting with the score itself. A composite names
    rho for each kind of layer, as zennit's composites do: epsilon (w as it is, e kept from zero) for fully connected
    layers; for convolutions gamma (w + gamma w+), plus (w+ alone) or alpha2_beta1 (twice the positive, once the
    negative part); for the first layer box (what the pixel could have been is taken off) or flat (all pixels of a
    window alike). Batch norms are folded into the layer before them; sums and averages share by contribution,
    activations hand on, maximum pooling gives to the winner. Functions count as modules do. A step that has no rule is
    refused. The check `conservation_error` is ``|sum of R + lost - S| / |S|``, `lost` what biases and stabilizers took,
    in units of the score.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is shared out; not its probability.
        composite: the rules of dense, convolutional and first layers, in this order; epsilon alone for all.
        epsilon: of the epsilon rule, 0 or more; larger values leave out weak and contradictory evidence.
        gamma: of the gamma rule, 0 or more.
        biases: whether the biases of layers take their share, as in zennit, or none: then the map adds up to the score.
        batch_size: not used: images are taken one at a time.

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        ModelError: for a step that has no rule (softmax, a norm of the values' own statistics, a product of two
            features), naming it and its layer; for the box where the first layer sees no pixels, as of a network that
            normalizes them itself.
        OptionError: for a negative epsilon or gamma, or a probability as the target's score.

    Example:
        >>> layers = [torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.ReLU(), torch.nn.Flatten()]
        >>> net = torch.nn.Sequential(*layers, torch.nn.Linear(4 * 36, 2, bias=False))
        >>> found = lrp(Classifier(net), torch.rand(1, 3, 8, 8), Target.of(1), composite="epsilon_plus")
        >>> torch.allclose(found.maps.sum(), found.score.sum(), rtol=1e-3)
        True

    References:
        bach2015; montavon2019; montavon2017 for the box; lapuschkin2019 for flat; anders2021 for the composites.
    """
    if epsilon < 0 or gamma < 0:
        raise OptionError(f"lrp: epsilon={epsilon} and gamma={gamma} must be 0 or more")
    prepare(classifier)  # (which refuses what has no values)
    with plain_mode(classifier.device, gradients=False):
        rules = _composite(classifier, images, composite, epsilon, gamma)
    return propagated(classifier, images, target, replace(rules, biases=biases == "share"))


def propagated(classifier: Classifier, images: Tensor, target: Target, rules: Composite) -> Attribution:
    """The Attribution of a composite, with what was lost and whether all relevance is accounted for."""
    found = relevance(classifier, images, target, rules)
    kept = found.values.flatten(1).sum(dim=1)
    error = (kept + found.lost - found.started).abs() / found.started.abs().clamp(min=1e-12)
    return attribution(
        found.values.sum(dim=1),
        images,
        target,
        found.score,
        checks=per_image(conservation_error=error, lost=found.lost),
    )


def _composite(classifier: Classifier, images: Tensor, name: Rules, epsilon: float, gamma: float) -> Composite:
    dense = Epsilon(epsilon)
    if name == "epsilon":
        return Composite(dense, dense)
    if name == "epsilon_gamma_box":
        # (Of each pixel, where each has a mean of its own.)
        shape = images[:1].shape if classifier.preprocess.mean_picture is not None else (1, images.shape[1], 1, 1)
        low, high = (classifier.preprocess.normalize(images.new_full(shape, end)) for end in (0.0, 1.0))
        # (Noise may put pixels beyond [0, 1]; where nothing says how they are normalized, they may be so already.)
        told = bool((low != 0).any() or (high != 1).any())
        beyond = max(0.0, -float(images.min()), float(images.max()) - 1) if told else 0.0
        return Composite(Gamma(gamma), dense, Box(low, high, Box.room + beyond))
    convolution = AlphaBeta(2, 1) if "alpha2_beta1" in name else AlphaBeta(1, 0)
    return Composite(convolution, dense, Flat() if name.endswith("flat") else None)
