"""What methods share that follow attention: the score's row of a matrix of tokens by tokens, laid out as a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phosphene.attribution.as_written import attention
from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import token_axis, token_grid, token_note, tokens_of_places
from phosphene.runtime import plain_mode, prepare
from phosphene.targets import Target
from phosphene.types import Attribution


def token_map(
    formula: Callable[[list[Tensor], list[Tensor]], Tensor],
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    batch_size: int | None = None,
) -> Attribution:
    """The map of the tokens that the score is read from, out of a formula of all layers' attention.

    Which tokens the score is read from is inferred: those whose row of the last layer's attention has a gradient,
    mostly the class token alone; of several the mean is taken. The patches are laid out as the grid that covers the
    image with square patches; which tokens they are is seen where others are put to them. Both are said in the notes.

    Args:
        formula: of (attention weights, gradients of the score there), a list of (heads, T, T) each, from the first
            layer to the last; returns (T, T), row t how much each token counts for token t.
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is read.
        batch_size: not used: images are taken one at a time.

    Returns:
        Maps (N, h, w) on the grid of patches, never negative.

    Raises:
        ModelError: for a network without self-attention, whose attention is not over all tokens of an image (Swin), or
            whose tokens are no grid of patches, or lie otherwise than the picture.

    Example:
        >>> class Tiny(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.patch, self.head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 2)
        ...         self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        ...     def forward(self, x):
        ...         x = self.patch(x).flatten(2).transpose(1, 2)
        ...         return self.head((x + self.attention(x, x, x)[0]).mean(1))
        >>> found = token_map(lambda a, g: a[0].mean(0), Classifier(Tiny()), torch.rand(1, 3, 16, 16), Target.of(1))
        >>> found.maps.shape, found.notes
        (torch.Size([1, 4, 4]), ('16 tokens laid out as 4 x 4 patches; the score is read from 16 tokens, averaged',))
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    maps: list[Tensor] = []
    scores, notes = [], []
    for found in attention(classifier, images, target):
        tokens = int(found.weights[0].shape[-1])
        grid = token_grid(tokens, size, found.around)
        if grid is None:
            raise ModelError(
                f"the {tokens} tokens of {classifier.name} are no grid of square patches of {size[0]} x {size[1]} "
                "pixels; use grad_cam with a layer, or attn_lrp"
            )
        if not maps:
            _check_places(classifier, tokens, images)
        read = found.gradients[-1].abs().amax(dim=(0, 2)) > 0  # (T,)
        if not bool(read.any()):
            read[:] = True
        with plain_mode(found.score.device, gradients=False):
            rows = formula(found.weights, found.gradients)[read]
        maps.append(tokens_of_places(rows.mean(dim=0), grid, found.around).view(grid))
        scores.append(found.score)
        notes.append(f"{tokens} tokens laid out as {token_note(tokens, grid, found.around)}; {_source(read)}")
    return attribution(torch.stack(maps), images, target, torch.cat(scores), notes=tuple(dict.fromkeys(notes)))


def _check_places(classifier: Classifier, tokens: int, images: Tensor) -> None:
    """Refuse tokens that lie elsewhere than their places: by the first layer behind what may have moved them."""
    prepared = prepare(classifier)
    alike = [
        layer
        for layer in prepared.layers
        if len(layer.shape) == 2 and layer.layout is not None and layer.shape[token_axis(layer.layout) - 1] == tokens
    ]
    for first in sorted(alike, key=lambda layer: (not layer.moved, layer.order))[:1]:
        prepared.placement(first.name, images)


def _source(read: Tensor) -> str:
    places = read.nonzero().flatten().tolist()
    source = f"token {places[0]}" if len(places) == 1 else f"{len(places)} tokens, averaged"
    return f"the score is read from {source}"
