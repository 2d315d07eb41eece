from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.registry import entry
from phosphene.targets import Target
from tests.contract import checks
from tests.networks import (
    Constant,
    DictOutput,
    NotANumber,
    class_convolution,
    classifier_of,
    functional_relu,
    pooled,
    vgg_f,
)

NETWORKS = {
    "pooled": pooled,
    "vgg_f": vgg_f,
    "functional_relu": functional_relu,
    "class_convolution": class_convolution,
    "dict_output": lambda: DictOutput(pooled()),
}


# What a method does with its seed and its spelling does not hang on the network, and what adapters hand to captum is
# captum's: these see one network, everything else sees all of them.
ONE_NETWORK = (checks.same_seed_same_map, checks.spec_survives_its_spelling)
# What is taken back after an error are hooks on layers, or a graph whose functions are exchanged: one network of each.
TWO_NETWORKS = ("pooled", "functional_relu")
CASES = [
    pytest.param(method, network, check, id=f"{method}-{network}-{check.__name__}")
    for method in checks.method_names()
    for network in (NETWORKS if checks.home(method) is pooled else ["home"])
    for check in checks.CHECKS
    if network in ("pooled", "home") or not (check in ONE_NETWORK or method.startswith("captum:"))
    if network in ("home", *TWO_NETWORKS) or check is not checks.leaves_no_trace_when_thrown
]


# What a method has to leave as it was is a network of its own; all other calls may be the tenth of a classifier.
ON_A_NEW_ONE = (checks.leaves_no_trace, checks.leaves_no_trace_when_thrown)


def made(method: str, network: str) -> Callable[[], nn.Module]:
    return checks.home(method) if network == "home" else NETWORKS[network]


@functools.cache
def shared(make: Callable[[], nn.Module]) -> Classifier:
    """One for all methods, whose first call is as long as ten others."""
    return classifier_of(make())


@functools.cache
def applies(method: str, network: str) -> bool:
    classifier, images = shared(made(method, network)), torch.rand(3, 3, 16, 16)
    return checks.applies(checks.quick_spec(method), classifier, images, Target.of([3, 1, 2]))


@pytest.mark.parametrize(("method", "network", "check"), CASES)
def test_contract(method, network, check):
    if not applies(method, network):
        assert network not in ("pooled", "home"), f"{method} must work on it"
        return
    make = made(method, network)
    classifier = classifier_of(make()) if check in ON_A_NEW_ONE else shared(make)
    check(checks.quick_spec(method), classifier, torch.rand(3, 3, 16, 16), Target.of([3, 1, 2]))


@pytest.mark.parametrize("method", checks.method_names())
def test_one_class_for_all_and_never_zipped_short(method):
    classifier, images = shared(checks.home(method)), torch.rand(3, 3, 16, 16)
    spec = checks.quick_spec(method)
    assert checks.explain(spec, classifier, images, Target.of(2)).target.classes == (2, 2, 2)
    with pytest.raises(Exception, match="2 target classes for 3 images"):
        checks.explain(spec, classifier, images, Target.of([1, 2]))
    with pytest.raises(Exception, match="no class 5"):
        checks.explain(spec, classifier, images, Target.of(5))
    with pytest.raises(Exception, match="images of shape"):
        checks.explain(spec, classifier, torch.rand(1, 1, 16, 16), Target.of(1))


@pytest.mark.parametrize("method", checks.method_names())
def test_a_map_that_says_nothing_is_named(method):
    """NaN and zero everywhere carry a reason; a good image of the same batch carries none."""
    # To the network below a white baseline is not a number for any image.
    spec = checks.quick_spec(method, **({"baseline": "black"} if method == "xrai" else {}))
    images = torch.rand(2, 3, 16, 16)
    images[0] *= 0.1
    images[1] = 0.9 + 0.1 * images[1]
    try:
        got = checks.explain(spec, shared(NotANumber), images, Target.of(1))
    except ModelError:
        return
    assert got.problems[0] is None
    assert "NaN" in got.problems[1]
    try:
        constant = checks.explain(spec, shared(Constant), images, Target.of(1))
    except ModelError:
        return
    if not constant.heat.any():
        assert all("zero everywhere" in problem for problem in constant.problems)


@pytest.mark.parametrize("method", checks.method_names())
def test_everything_a_reader_is_told(method):
    """Title, family, caveat and a docstring line for every option."""
    found = entry("attribution", method)
    assert found.title
    assert found.paper
    assert found.caveat.endswith(".")
    assert found.family in ("gradient", "perturbation", "cam", "feature")
    assert found.summary.endswith((".", "|dS/dx|, by one backward pass."))
    assert all(option.doc for option in found.options.values()), "every option needs a line under Args"
