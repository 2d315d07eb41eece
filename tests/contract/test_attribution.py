from __future__ import annotations

import pytest
import torch

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
CASES = [
    pytest.param(method, network, check, id=f"{method}-{network}-{check.__name__}")
    for method in checks.method_names()
    for network in (NETWORKS if checks.home(method) is pooled else ["home"])
    for check in checks.CHECKS
    if network in ("pooled", "home") or not (check in ONE_NETWORK or method.startswith("captum:"))
]


@pytest.mark.parametrize(("method", "network", "check"), CASES)
def test_contract(method, network, check):
    make = checks.home(method) if network == "home" else NETWORKS[network]
    classifier, images = classifier_of(make()), torch.rand(3, 3, 16, 16)
    spec, target = checks.quick_spec(method), Target.of([3, 1, 2])
    if checks.applies(spec, classifier, images, target):
        check(spec, classifier, images, target)
    else:
        assert network not in ("pooled", "home"), f"{method} must work on it"


@pytest.mark.parametrize("method", checks.method_names())
def test_one_class_for_all_and_never_zipped_short(method):
    classifier, images = classifier_of(checks.home(method)()), torch.rand(3, 3, 16, 16)
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
        got = checks.explain(spec, classifier_of(NotANumber()), images, Target.of(1))
    except ModelError:
        return
    assert got.problems[0] is None
    assert "NaN" in got.problems[1]
    try:
        constant = checks.explain(spec, classifier_of(Constant()), images, Target.of(1))
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
