"""Expected gradients: integrated gradients with photographs for baselines, each drawn with one point of its way."""

from __future__ import annotations

import functools
from collections.abc import Callable

import skimage
import torch
from torch import Tensor

from phosphene.attribution.result import adding_up, attribution
from phosphene.classifier import Classifier
from phosphene.devices import widest
from phosphene.errors import OptionError
from phosphene.geometry import whole_view
from phosphene.images import Picture, as_pictures, list_images, picture_size, preprocess, read_image
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient, prepare
from phosphene.runtime.micro_batches import batches
from phosphene.targets import Target
from phosphene.types import Attribution

# Photographs that come with scikit-image, of which the references are made unless a folder is named.
_PACKAGED = ("astronaut", "chelsea", "coffee", "rocket")


@register_attribution(
    title="Expected gradients",
    family="gradient",
    paper="erion2021",
    display="percentile",
    caveat="An estimate from random draws, and about the difference to the references: other references, another map.",
)
def expected_gradients(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    samples: int = 100,
    references: str | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Each pixel's share of the difference between the image's score and that of other photographs, on average.

    ``A[i, j] = mean over draws of sum_c (I - B) * dS(B + a (I - B)) / dI``, the baseline B drawn from the references
    and a from [0, 1]; no color has to stand for "nothing". All images see the same draws. The check
    `completeness_error` is ``|sum of A - (S(I) - mean S(B))|``: what the number of draws misses.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        samples: number of draws, 1 or more.
        references: a folder of pictures; None takes four photographs that come with scikit-image; with mirror images.
        generator: source of randomness on the CPU; None starts a new one with seed 0.
        batch_size: draws per pass; None chooses.
        progress: called with (draws done, draws in all).

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        OptionError: for fewer than one sample, or a network whose pictures are no photographs of three channels.
        InputError: for a folder without pictures.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> expected_gradients(Classifier(net), torch.rand(1, 3, 8, 8), Target.of(1), samples=4).maps.shape
        torch.Size([1, 8, 8])

    References:
        erion2021, section "Expected gradients".
    """
    if samples < 1:
        raise OptionError(f"expected_gradients: samples={samples} must be at least 1")
    classifier = prepare(classifier).settled()
    classifier.check_images(images)
    target = target.expand(len(images))
    generator = generator or torch.Generator().manual_seed(0)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    known = _references(classifier, references, size)
    drawn = torch.randint(len(known), (samples,), generator=generator, device="cpu")
    places = torch.rand(samples, generator=generator, device="cpu", dtype=torch.float32)
    images = images.detach().to(classifier.device, torch.float32)
    maps, scores, means = [], [], []
    for index, image in enumerate(images):
        own = target.rows(index, index + 1)
        total = torch.zeros_like(image, dtype=widest(image.device))
        for first, last in batches(samples, batch_size, classifier.device):
            base = known[drawn[first:last].to(known.device)]
            points = torch.lerp(base, image.expand_as(base), places[first:last].to(image)[:, None, None, None])
            _, slope = input_gradient(classifier, points, own, batch_size=batch_size or last - first)
            total += ((image - base) * slope).sum(dim=0)
            if progress is not None:
                progress(index * samples + last, len(images) * samples)
        maps.append(total.sum(dim=0) / samples)
        scores.append(input_gradient(classifier, image[None], own)[0])
        means.append(input_gradient(classifier, known, own, batch_size=batch_size)[0][drawn.to(image.device)].mean())
    values, high = torch.stack(maps), torch.cat(scores)
    told = adding_up(values.sum(dim=(1, 2)), high - torch.stack(means), "samples")
    return attribution(values.float(), images, target, high, **told)


def _references(classifier: Classifier, folder: str | None, size: tuple[int, int]) -> Tensor:
    """(M, C, H, W): pictures as the network sees them, and their mirror images."""
    channels = classifier.preprocess.channels
    if folder is None and channels != 3:
        raise OptionError(
            f"expected_gradients: the packaged photographs have 3 channels, and {classifier.name} takes {channels}; "
            "name a folder of pictures: references=FOLDER"
        )
    pictures = (
        [read_image(path, **classifier.preprocess.reading) for path in list_images(folder)]
        if folder
        else _photographs()
    )
    found = torch.stack([_seen(picture, size, channels) for picture in pictures])
    return torch.cat([found, found.flip(-1)]).to(classifier.device)


@functools.cache
def _photographs() -> list[Picture]:
    """The packaged ones, read once: at each call they took as long as a hundred passes of a small network."""
    return as_pictures([getattr(skimage.data, name)() for name in _PACKAGED])


def _seen(picture: Picture, size: tuple[int, int], channels: int) -> Tensor:
    """A picture at the size of what is explained."""
    return preprocess(picture, whole_view(picture_size(picture), size), channels=channels)
