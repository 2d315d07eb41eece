"""Facets: the different kinds of images that a layer tells apart, and the target activation of each.

Activations -> principal components -> a map of two dimensions (t-SNE) -> k-means clusters; the images nearest to a
cluster's center are its exemplars. Pure arithmetic on pooled activations: no model, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phosphene.devices import own_random_state, wide
from phosphene.errors import InputError, NumericalError, OptionError
from phosphene.types import short_seed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Facet:
    """One cluster of images.

    Args:
        members: all images of the cluster, as rows of the activations.
        exemplars: the images nearest to the cluster's center, nearest first.
        distances: (n,) of the exemplars to the center, on the map.
        weights: (n,) of the exemplars, summing to 1 (equation 1).
    """

    members: tuple[int, ...]
    exemplars: tuple[int, ...]
    distances: Tensor
    weights: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The weighted sum over the facet's exemplars of values (images, ...), one row per image of the whole set."""
        return weighted_sum(values[list(self.exemplars)], self.weights)


@dataclass(frozen=True)
class FacetMap:
    """All images on a map of two dimensions, and the facets found there.

    Args:
        points: (N, 2) the map.
        labels: (N,) the facet of each image.
        centers: (C, 2) of the clusters on the map.
        facets: the facets, largest first.
        notes: what the reader should know, such as a cluster with fewer images than exemplars asked for.
    """

    points: Tensor
    labels: Tensor
    centers: Tensor
    facets: tuple[Facet, ...]
    notes: tuple[str, ...] = ()


def exemplar_weights(distances: Tensor, gamma: float = 1e-5) -> Tensor:
    """The weight of each exemplar, the larger the nearer it is to its cluster's center; they sum to 1.

    ``w_n = softmax_n(1 / (d_n + gamma))``. As printed gamma stands outside the reciprocal, where it cancels; we read
    it as what keeps a distance of zero finite. The softmax is taken with the largest exponent subtracted, since
    1 / gamma is 100000.

    Args:
        distances: (n,) on the map, not negative.
        gamma: constant for stability.

    Example:
        >>> exemplar_weights(torch.tensor([1.0, 1.0, 2.0]))
        tensor([0.3837, 0.3837, 0.2327])

    References:
        stergiou2021, equation 1.
    """
    return torch.softmax(1 / (wide(distances) + gamma), dim=0).to(distances)


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """(...) sum over n of w_n * values_n, for values (n, ...) and weights (n,)."""
    total: Tensor = torch.tensordot(weights.to(values), values, dims=1)
    return total


def find_facets(
    activations: Tensor,
    facets: int,
    *,
    exemplars: int = 10,
    components: int = 50,
    perplexity: float = 30.0,
    seed: int = 0,
) -> FacetMap:
    """The facets of a set of images, by what a layer answers to them.

    The numbers of components, 50, is the published script's; the perplexity is ours, and is lowered to a third of
    the images where there are few.

    Args:
        activations: (N, k) pooled activations, one row per image.
        facets: number of clusters C.
        exemplars: images that stand for a cluster, the nearest to its center on the map.
        components: principal components that t-SNE sees; at most min(N, k).
        perplexity: of t-SNE.
        seed: of t-SNE and k-means.

    Raises:
        OptionError: if there are fewer images than facets or exemplars.
        NumericalError: if activations hold NaN or infinity.
        InputError: if all images give the same activations.

    Example:
        >>> two_kinds = torch.cat([torch.randn(20, 8), torch.randn(20, 8) + 9])
        >>> found = find_facets(two_kinds, 2, exemplars=5)
        >>> sorted(len(facet.members) for facet in found.facets)
        [20, 20]

    References:
        stergiou2021, section 3.1; nguyen2016 for the idea.
    """
    count = len(activations)
    _check(activations, facets, exemplars)
    points = embedded(activations.cpu().double().numpy(), components, perplexity, seed)
    labels, centers = _clusters(points, facets, seed)
    groups = [np.flatnonzero(labels == cluster) for cluster in range(facets)]
    order = sorted(range(facets), key=lambda cluster: -len(groups[cluster]))
    found = [_facet(points, groups[cluster], centers[cluster], exemplars) for cluster in order]
    renamed = np.empty(facets, dtype=np.int64)
    renamed[order] = np.arange(facets)
    notes = [
        f"facet {number} has {len(facet.members)} of the {count} images, fewer than the {exemplars} exemplars asked for"
        for number, facet in enumerate(found)
        if len(facet.members) < exemplars
    ]
    return FacetMap(
        torch.from_numpy(points).float(),
        torch.from_numpy(renamed[labels]),
        torch.from_numpy(centers[order]).float(),
        tuple(found),
        tuple(notes),
    )


def pinned_facets(
    activations: Tensor,
    facets: Sequence[tuple[Sequence[int], Sequence[float]]],
    *,
    components: int = 50,
    perplexity: float = 30.0,
    seed: int = 0,
) -> FacetMap:
    """Facets that are given, on the map of a layer: the same exemplars with the same weights, whatever it answers.

    Args:
        activations: (N, k) pooled activations, one row per image.
        facets: for each its exemplars, as rows, and their weights.
        components: principal components that t-SNE sees.
        perplexity: of t-SNE.
        seed: of t-SNE.

    Raises:
        OptionError: if there is no facet, or one without exemplars.
        NumericalError: if activations hold NaN or infinity.

    Example:
        >>> found = pinned_facets(torch.rand(6, 8), [([0, 1], [0.7, 0.3]), ([4], [1.0])])
        >>> found.labels.tolist(), found.facets[0].weights
        ([0, 0, -1, -1, 1, -1], tensor([0.7000, 0.3000]))

    References:
        stergiou2021, figure 4.
    """
    if not facets or not all(rows for rows, _ in facets):
        raise OptionError("pinned facets: give at least one facet, and an exemplar for each")
    if not bool(torch.isfinite(activations).all()):
        raise NumericalError("the layer's activations hold NaN or infinity for some of the images; choose another")
    points = embedded(activations.cpu().double().numpy(), components, perplexity, seed)
    labels = np.full(len(points), -1, dtype=np.int64)
    centers, found = [], []
    for number, (rows, weights) in enumerate(facets):
        chosen = list(rows)
        center = points[chosen].mean(axis=0)
        labels[chosen] = np.where(labels[chosen] < 0, number, labels[chosen])
        distances = torch.from_numpy(np.linalg.norm(points[chosen] - center, axis=1)).float()
        centers.append(center)
        found.append(Facet(tuple(chosen), tuple(chosen), distances, torch.tensor(weights, device="cpu")))
    return FacetMap(
        torch.from_numpy(points).float(),
        torch.from_numpy(labels),
        torch.from_numpy(np.stack(centers)).float(),
        tuple(found),
    )


def usual_exemplars(count: int, facets: int) -> int:
    """How many images stand for a facet unless told otherwise: ten, of few images no more than their share.

    Example:
        >>> usual_exemplars(300, 3), usual_exemplars(5, 3)
        (10, 1)
    """
    return max(1, min(10, count // max(1, facets)))


def check_counts(count: int, facets: int, exemplars: int) -> None:
    """Refuse to look for more facets or exemplars than there are images.

    Raises:
        OptionError: naming how many there are and how many are needed.
    """
    if facets < 1 or exemplars < 1:
        raise OptionError(f"{facets} facets of {exemplars} exemplars; give at least 1 of each")
    if count < max(facets, exemplars):
        raise OptionError(
            f"{count} readable images are too few for {facets} facets of {exemplars} exemplars; "
            f"give at least {max(facets, exemplars)} images, or ask for less"
        )


def _check(activations: Tensor, facets: int, exemplars: int) -> None:
    count = len(activations)
    check_counts(count, facets, exemplars)
    if not bool(torch.isfinite(activations).all()):
        raise NumericalError("the layer's activations hold NaN or infinity for some of the images; choose another")
    distinct = len(torch.unique(activations, dim=0))
    if distinct == 1 < count:
        raise InputError(
            f"all {count} images give the same activations; pass different images, or choose another layer"
        )
    if distinct < facets:
        raise OptionError(f"only {distinct} of the {count} images differ at this layer: ask for at most as many facets")


def embedded(activations: Floats, components: int = 50, perplexity: float = 30.0, seed: int = 0) -> Floats:
    """(N, 2) by principal components and t-SNE; fewer than four images are only projected."""
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

    count, channels = activations.shape
    if count == 1:
        return np.zeros((1, 2))
    kept = min(components, count, channels)
    reduced: Floats = PCA(kept, svd_solver="full", random_state=short_seed(seed)).fit_transform(activations)
    if count < 4:
        points = np.zeros((count, 2))
        points[:, : min(2, kept)] = reduced[:, :2]
        return points
    near = min(perplexity, (count - 1) / 3)
    start = "pca" if kept >= 2 and reduced[:, 1].std() > 1e-9 * reduced[:, 0].std() else "random"
    embedding: Floats = TSNE(2, perplexity=near, init=start, random_state=short_seed(seed)).fit_transform(reduced)
    return embedding.astype(np.float64)


def _clusters(points: Floats, facets: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """(cluster of each point, centers); none is empty."""
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.cluster import KMeans

    fitted = KMeans(facets, n_init=10, random_state=short_seed(seed)).fit(points)
    return fitted.labels_.astype(np.int64), fitted.cluster_centers_.astype(np.float64)


def _facet(points: Floats, members: NDArray[np.int64], center: Floats, exemplars: int) -> Facet:
    distances = np.linalg.norm(points[members] - center, axis=1)
    nearest = np.argsort(distances, kind="stable")[:exemplars]
    chosen = torch.from_numpy(distances[nearest])
    return Facet(
        tuple(members.tolist()), tuple(members[nearest].tolist()), chosen.float(), exemplar_weights(chosen).float()
    )


def strongest_channels(target: Tensor, count: int) -> Tensor:
    """(N, min(count, k)) the channels of each target activation (N, k) that are largest, strongest first.

    Example:
        >>> strongest_channels(torch.tensor([[0.1, 3.0, 2.0]]), 2)
        tensor([[1, 2]])
    """
    if count < 1:
        raise OptionError(f"top-k {count}; give at least 1 channel")
    return target.topk(min(count, target.shape[1]), dim=1).indices


def channel_mask(channels: Tensor | Sequence[Sequence[int]], width: int) -> Tensor:
    """(N, width): 1 for the channels of each row, 0 elsewhere."""
    index = channels if isinstance(channels, Tensor) else torch.tensor(channels, device="cpu")
    return torch.zeros(len(index), width, device=index.device).scatter(1, index, 1.0)
