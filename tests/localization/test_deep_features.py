"""What places look like to a layer, and a cut that goes by it."""

from __future__ import annotations

import numpy as np
import pytest

from phosphene.errors import OptionError
from phosphene.localization.principal_components import principal_components
from phosphene.localization.segment import GraphCut, segment


def test_components_are_those_of_the_singular_value_decomposition():
    activations = np.random.default_rng(0).normal(size=(7, 5, 6)) * np.arange(1, 8)[:, None, None]
    flat = activations.reshape(7, -1).T
    flat = flat - flat.mean(axis=0)
    _, strengths, axes = np.linalg.svd(flat, full_matrices=False)
    found = principal_components(activations, 3).reshape(-1, 3)
    expected = flat @ axes[:3].T
    expected *= 0.1 / expected.std()
    for place in range(3):  # the strongest comes last, signs are free
        np.testing.assert_allclose(np.abs(found[:, 2 - place]), np.abs(expected[:, place]), atol=1e-9)
    assert (np.diff(strengths) < 0).all()


def test_they_depend_neither_on_scale_nor_on_offset():
    activations = np.random.default_rng(1).random((4, 5, 6))
    np.testing.assert_allclose(
        principal_components(1e3 * activations + 7, 2), principal_components(activations, 2), atol=1e-7
    )
    assert not principal_components(np.ones((3, 2, 2)), 2).any()
    assert principal_components(activations, 9).shape == (5, 6, 4)


def test_no_components_are_refused():
    with pytest.raises(OptionError, match="0 components"):
        principal_components(np.ones((3, 2, 2)), 0)


def test_what_colors_do_not_tell_apart_is_cut_by_its_deep_features():
    rows, columns = np.mgrid[:48, :64]
    disc = np.hypot(rows - 22, columns - 34) < 14
    values = np.exp(-0.5 * ((rows - 19) ** 2 + (columns - 31) ** 2) / 7.0**2)
    noise = np.random.default_rng(0).normal(size=(48, 64, 5))
    grey = 0.5 + 0.05 * noise[..., :3]
    features = 0.1 * disc[..., None] * [1, -1] + 0.02 * noise[..., 3:]
    settings = GraphCut(0.85, 0.4, components=1, limit=3.0, saliency=4.0, level=0.5, smoothness=2.0)

    def overlap(mask):
        return (mask & disc).sum() / (mask | disc).sum()

    assert overlap(segment(values, grey, settings).mask) < 0.6
    assert overlap(segment(values, grey, settings, features).mask) > 0.95
