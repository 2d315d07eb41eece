"""SmoothGrad: any method's map averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.devices import widest
from phosphene.errors import OptionError
from phosphene.registry import entry, parse_spec, register_attribution
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.types import Attribution


def _inner_view(options: dict[str, Any]) -> Any:
    """The view that the wrapped method needs."""
    spec = parse_spec(options.get("inner", "saliency"))
    view = entry("attribution", spec.name).traits.get("view")
    return view(spec.keywords) if view else None


@register_attribution(
    title="SmoothGrad",
    family="gradient",
    paper="smilkov2017",
    caveat="The noise takes the image off the photographs that the network knows; more of it blurs the map.",
    view=_inner_view,
    wraps=True,
)
def smoothgrad(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    inner: str = "saliency",
    samples: int = 25,
    noise: float = 0.15,
    statistic: Literal["mean", "mean_square", "variance"] = "mean",
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """The wrapped method's map with its flicker averaged out: the mean over noisy copies of the image.

    ``A = 1/n * sum_i M(I + e_i)``, each ``e_i`` normal with standard deviation ``noise * (max I - min I)`` per image;
    the paper finds 10 to 20 % good. The method M is wrapped whole: for saliency the mean is over magnitudes, as the
    map it smooths is one. Copies may leave [0, 1]. All images see the same noise, each on its own scale (ours), so
    that an image's map does not depend on its neighbours in the batch. The number of samples is ours; the paper
    shows 50.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that the wrapped method explains.
        inner: spec of the wrapped method, any that is registered; written smoothgrad(saliency:sign=positive).
        samples: number of noisy copies; variance needs 2.
        noise: standard deviation as a share of the image's range, above 0.
        statistic: mean; mean_square (SmoothGrad squared) or variance (VarGrad) of the maps.
        generator: source of randomness on the CPU; None starts a new one with seed 0.
        batch_size: images per pass; None chooses.
        progress: called with (samples done, samples in all).

    Returns:
        Maps on the wrapped method's grid, with its sign; squares and variances are never negative. The score is that
        of the clean images.

    Raises:
        OptionError: for too few samples, no noise, or a method that wraps another.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> classifier, images = Classifier(net), torch.rand(1, 3, 2, 2)
        >>> from phosphene.attribution.saliency import saliency
        >>> smooth = smoothgrad(classifier, images, Target.of(1), samples=3)
        >>> torch.allclose(smooth.maps, saliency(classifier, images, Target.of(1)).maps)
        True

    References:
        smilkov2017, section 3; adebayo2018 for the variance.
    """
    spec = parse_spec(inner)
    method = entry("attribution", spec.name)
    if method.traits.get("wraps"):
        raise OptionError(f"smoothgrad({inner}): {spec.name} wraps a method itself; smooth that one")
    if samples < (2 if statistic == "variance" else 1) or noise <= 0:
        raise OptionError(f"smoothgrad: samples={samples} are too few for the {statistic}, or noise={noise} is not > 0")
    generator = generator or torch.Generator().manual_seed(0)
    keywords = {**spec.keywords, **({"batch_size": batch_size} if batch_size and method.accepts("batch_size") else {})}

    classifier = prepare(classifier).settled()

    def explain(pictures: Tensor) -> Attribution:
        seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        own = {"generator": torch.Generator().manual_seed(seed)} if method.accepts("generator") else {}
        return method.function(classifier, pictures, target, **keywords, **own)  # type: ignore[no-any-return]

    clean = explain(images)
    images = images.detach().to(classifier.device, torch.float32)
    spread = noise * (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))
    mean, spreads = (torch.zeros_like(clean.heat, dtype=widest(clean.heat.device)) for _ in range(2))
    for sample in range(samples):
        drawn = torch.randn(images.shape[1:], generator=generator, device="cpu", dtype=torch.float32).to(images)
        heat = explain(images + spread * drawn).heat.to(mean)
        # Welford's way: no small difference of large sums, so that it is right in float32 as well.
        step = heat - mean
        mean += step / (sample + 1)
        spreads += step * (heat - mean)
        if progress is not None:
            progress(sample + 1, samples)
    variance = spreads / samples
    maps = {"mean": mean, "mean_square": mean.square() + variance, "variance": variance}[statistic].float()
    plain = statistic == "mean"
    return attribution(
        maps,
        images,
        target,
        clean.score,
        grid=clean.heat_grid,
        layer=clean.layer,
        signed=method.signed and plain,
        display=method.display if plain else "positive",
    )
