"""captum's methods under one roof with ours, as captum:NAME; registered where captum is installed, imported when used.

Each image is explained alone, on a private copy of the network, so that captum's hooks touch nothing that others see
and an image's map does not depend on its neighbors. What captum cannot explain, or explains wrongly without saying so
(it watches modules, not functions), is refused.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.attribution.layer_maps import Layers, laid_by, layer_names
from phosphene.attribution.result import attribution, per_image, sides
from phosphene.autograd_graph import graph_nodes, node_kind, nodes_below
from phosphene.axes import is_tokens_first
from phosphene.classifier import Classifier
from phosphene.devices import own_random_state
from phosphene.errors import ModelError, OptionError, PhospheneError
from phosphene.graph import check_inside, spatial_map
from phosphene.hooks import ValueHooks
from phosphene.registry import register_attribution
from phosphene.runtime import plain_mode, prepare
from phosphene.runtime.freeze import freeze
from phosphene.runtime.prepare import Prepared
from phosphene.runtime.state import State
from phosphene.targets import Outputs, Target
from phosphene.types import Attribution

Baseline = Literal["mean", "black", "white"]

# Steps that DeepLIFT needs a rule for, and products of two features, for which it has none.
_NONLINEAR = {
    *(
        "Relu",
        "Hardtanh",
        "Threshold",
        "Clamp",
        "ClampMin",
        "Sigmoid",
        "Hardsigmoid",
        "Softmax",
        "LogSoftmax",
        "Exp",
        "Log",
    ),
    *("MaxPool2DWithIndices", "AdaptiveMaxPool2D", "Maximum", "Minimum", "Max", "Amax", "Pow", "Sqrt", "Rsqrt", "Abs"),
    *("NativeLayerNorm", "NativeGroupNorm", "Silu", "Gelu", "Hardswish", "Mish", "Elu", "Celu", "LeakyRelu"),
    *("PreluKernel", "Softplus", "Softshrink", "Hardshrink", "LogSigmoid", "Tanh", "Erf", "Glu"),
}
_PRODUCTS = {"Mul", "Div", "Bmm", "Mm", "ScaledDotProductFlashAttentionForCpu", "ScaledDotProductEfficientAttention"}


# Images that captum runs at once.
_BATCH = 8


class ScoreOf(nn.Module):
    """A network whose only output is the score of one target, (N, 1), as a function of normalized images."""

    def __init__(self, prepared: Prepared, target: Target) -> None:
        super().__init__()
        self.network = freeze(prepared.source.module)
        for child in self.network.modules():
            if getattr(child, "inplace", False):  # captum's hooks need what an activation was given
                child.inplace = False  # type: ignore[assignment]
        self.scored = (prepared, target)  # in a tuple, as it is no part of the network
        self.state = State(self.network) if prepared.network.moves else None

    def forward(self, images: Tensor) -> Tensor:
        """The score (N, 1)."""
        prepared, target = self.scored
        if self.state is not None:
            self.state.restore()
        with prepared.capture(target.layers, of=self.network) as found, prepared.clear_refusal(images):
            raw = prepared.called(self.network, images)
        layouts = {layer: prepared.layout(layer) for layer in target.layers}
        return target.scores(Outputs(prepared, raw, len(images), images, found, layouts))[:, None]


@dataclass(frozen=True)
class CaptumInputs:
    """What captum's methods are given of one image: its score as a network, the image and its baseline, normalized."""

    score: ScoreOf
    image: Tensor
    base: Tensor
    batch: int

    def attribute(self, method: str, *arguments: Any, shown: Tensor | None = None, **options: Any) -> Tensor:
        """Captum's answer for the image, or for what is `shown` in its place."""
        image = self.image if shown is None else shown
        made = getattr(import_module("captum.attr"), method)(self.score, *arguments)
        return made.attribute(image, target=0, **options).detach()  # type: ignore[no-any-return]

    def by_cells(self, method: str, cells: int, **options: Any) -> Tensor:
        """(1, cells, cells): the worth of each cell of a grid, all of whose pixels are taken away together."""
        rows, columns = (torch.arange(side, device="cpu") * cells // side for side in self.image.shape[-2:])
        mask = (rows[:, None] * cells + columns).to(self.image.device)
        found = self.attribute(
            method, baselines=self.base, feature_mask=mask[None, None], perturbations_per_eval=self.batch, **options
        )
        first = [int((line == cell).nonzero()[0]) for line in (rows, columns) for cell in range(cells)]
        grid: Tensor = found[:, 0][:, first[:cells]][..., first[cells:]]
        return grid

    def missing(self, found: Tensor, bases: Tensor) -> Tensor:
        """(1,) what lacks in the sum of a map's values for the difference between image and baselines."""
        with torch.no_grad():
            difference = self.score(self.image)[0, 0] - self.score(bases).mean()
        missing: Tensor = found.sum() - difference
        return missing.abs()[None]


def explained(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    name: str,
    answer: Callable[[CaptumInputs], tuple[Tensor, Tensor | None]],
    *,
    baseline: Baseline = "mean",
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    **facts: Any,
) -> Attribution:
    """The Attribution made of the answers (map (1, h, w), completeness error or None) for each image.

    Raises:
        ModelError: if captum cannot explain the network.
    """
    prepared = prepare(classifier)
    prepared.check_images(images)
    target = target.expand(len(images))
    generator = generator or torch.Generator().manual_seed(0)
    mean = prepared.mean_image
    color = {"mean": mean, "black": torch.zeros_like(mean), "white": torch.ones_like(mean)}[baseline]
    maps, scores, errors = [], [], []
    if not prepared.network.images_are_independent(images.shape[1:], batch_size or _BATCH):
        batch_size = 1
    own_hooks = ValueHooks() if prepared.first_look.hooks else nullcontext()
    with plain_mode(prepared.device, gradients=True), own_random_state(), warnings.catch_warnings(), own_hooks:
        warnings.simplefilter("ignore")  # captum announces each hook it lays
        for index in range(len(images)):
            _seed(torch.Generator().manual_seed(generator.initial_seed()))
            image = prepared.preprocess.normalize(prepared.ready(images[index : index + 1]).contiguous())
            base = prepared.preprocess.normalize(color[None].to(image).expand_as(image))
            score = ScoreOf(prepared, target.rows(index, index + 1))
            try:
                inputs = CaptumInputs(score, image.detach().requires_grad_(), base.contiguous(), batch_size or _BATCH)
                values, missing = answer(inputs)
                scores.append(score(image).detach()[:, 0])
            except PhospheneError:
                raise
            except Exception as error:  # captum asserts and raises what it likes
                check_inside(prepared.network.module, prepared.name, "gradient")
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise ModelError(f"captum:{name} cannot explain {prepared.name}: {reason}") from error
            maps.append(values)
            errors += [] if missing is None else [missing]
    checks = per_image(completeness_error=torch.cat(errors)) if errors else {}
    return attribution(torch.cat(maps), images, target, torch.cat(scores), checks=checks, **facts)


def _seed(generator: torch.Generator) -> None:
    seed = int(torch.randint(2**31, (), generator=generator, device="cpu"))
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _refuse_unwatched(name: str, asked: CaptumInputs) -> None:
    """Refuse a network with nonlinear steps outside the modules that captum's DeepLift hooks: it would misread them."""
    watched = tuple(import_module("captum.attr._core.deep_lift").SUPPORTED_NON_LINEAR)
    seen: set[Any] = set()  # nodes of the graph that watched modules made

    def note(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
        seen.add(output.grad_fn)

    modules = [module for module in asked.score.network.modules() if isinstance(module, watched)]
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        nodes = list(graph_nodes(asked.score(asked.image)))
    finally:
        for handle in handles:
            handle.remove()
    unwatched = any(node_kind(node) in _NONLINEAR and node not in seen for node in nodes)
    if unwatched or any(node_kind(node) in _PRODUCTS and len(nodes_below(node)) > 1 for node in nodes):
        network = asked.score.scored[0].name
        raise ModelError(
            f"captum:{name} would misread {network}: it watches modules of ReLU, ELU, sigmoid, tanh, softplus, softmax "
            "and max-pooling alone, and here other activations, functions or products of features take part; use "
            "integrated_gradients"
        )


def _branches(score: Tensor) -> bool:
    """Whether two values that both depend on the image meet anywhere in the graph behind the score."""
    return any(len(nodes_below(node)) > 1 for node in graph_nodes(score))


def deep_lift(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    baseline: Baseline = "mean",
    batch_size: int | None = None,
) -> Attribution:
    """Each pixel's share of the difference to the baseline's score, by differences instead of gradients.

    The rescale rule: at each activation the slope between baseline and image takes the place of the derivative. The
    shares should add up to the difference of the scores; `completeness_error` says how well, as captum's rule for
    max-pooling is approximate.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is explained.
        baseline: mean (the classifier's mean image), black or white.
        batch_size: not used: captum takes one image at a time here.

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        ModelError: if captum cannot read the network, or has nonlinear steps that it does not watch.

    References:
        kokhlikyan2020; shrikumar2017.
    """
    answer = partial(_rescaled, name="deep_lift", method="DeepLift", bases_of=lambda asked: asked.base)
    return explained(classifier, images, target, "deep_lift", answer, baseline=baseline)


def deep_lift_shap(
    classifier: Classifier, images: Tensor, target: Target, *, batch_size: int | None = None
) -> Attribution:
    """DeepLIFT's shares averaged over three baselines: black, the mean image and white.

    An approximation of Shapley values; the choice of the baselines is ours.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is explained.
        batch_size: not used: captum takes the three baselines of one image at once.

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        ModelError: if captum cannot read the network, or has nonlinear steps that it does not watch.

    References:
        kokhlikyan2020; lundberg2017.
    """

    def three(asked: CaptumInputs) -> Tensor:
        return _three(classifier, asked.base)

    answer = partial(_rescaled, name="deep_lift_shap", method="DeepLiftShap", bases_of=three)
    return explained(classifier, images, target, "deep_lift_shap", answer)


def _rescaled(
    asked: CaptumInputs, *, name: str, method: str, bases_of: Callable[[CaptumInputs], Tensor]
) -> tuple[Tensor, Tensor]:
    """The map by one of captum's methods with the rescale rule, and what lacks in its sum."""
    _refuse_unwatched(name, asked)
    bases = bases_of(asked)
    found = asked.attribute(method, baselines=bases)
    return found.sum(dim=1), asked.missing(found, bases)


def _three(classifier: Classifier, like: Tensor) -> Tensor:
    """(3, C, H, W) black, mean image and white, normalized."""
    mean = classifier.mean_image.to(like)
    colors = torch.stack([torch.zeros_like(mean), mean, torch.ones_like(mean)])
    return classifier.preprocess.normalize(colors.expand(-1, *like.shape[1:])).contiguous()


def gradient_shap(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    samples: int = 50,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Attribution:
    """Integrated gradients with the points of the way and the baselines (black, mean, white) drawn at random.

    An estimate of Shapley values' expected gradients; the choice of the baselines is ours.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is explained.
        samples: points that are drawn.
        noise: standard deviation of what is added to the image at each point, in normalized units.
        generator: source of the seed; None starts a new one with seed 0.
        batch_size: not used: captum takes all points of an image at once.

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        ModelError: if captum cannot read the network.

    References:
        kokhlikyan2020; lundberg2017.
    """

    def answer(asked: CaptumInputs) -> tuple[Tensor, Tensor | None]:
        bases = _three(classifier, asked.base)
        return asked.attribute("GradientShap", baselines=bases, n_samples=samples, stdevs=noise).sum(dim=1), None

    return explained(classifier, images, target, "gradient_shap", answer, generator=generator)


def lrp(classifier: Classifier, images: Tensor, target: Target, *, batch_size: int | None = None) -> Attribution:
    """The score handed back layer by layer in proportion to what each value added (epsilon rule).

    Layer-wise relevance propagation. Only networks of one path: where branches meet outside a module (residual sums,
    gates, attention) captum would count twice, so these are refused.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is explained.
        batch_size: not used: captum takes one image at a time here.

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        ModelError: for a layer without a rule, or branches that meet.

    References:
        kokhlikyan2020; bach2015.
    """

    def answer(asked: CaptumInputs) -> tuple[Tensor, Tensor | None]:
        if _branches(asked.score(asked.image)):
            raise ModelError(
                f"captum:lrp has no rule for branches that meet in a sum, product or concatenation, as in "
                f"{classifier.name}; use integrated_gradients"
            )
        made = import_module("captum.attr").LRP(asked.score)
        find_layers = made._get_layers

        def find_layers_with_values(model: nn.Module) -> None:
            find_layers(model)
            made.layers = [layer for layer in made.layers if not isinstance(layer, nn.Flatten | nn.Identity)]

        made._get_layers = find_layers_with_values  # what only reshapes needs no rule
        return made.attribute(asked.image, target=0).detach().sum(dim=1), None

    return explained(classifier, images, target, "lrp", answer)


def feature_ablation(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    cells: int = 7,
    baseline: Baseline = "mean",
    batch_size: int | None = None,
) -> Attribution:
    """How much the score falls when one cell of a grid is covered.

    Occlusion by windows that do not overlap.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is watched.
        cells: cells of the grid along each side.
        baseline: what covers: mean (the classifier's mean image), black or white.
        batch_size: covered images per pass; None for 8.

    Returns:
        Signed maps (N, cells, cells) in units of the score.

    Raises:
        ModelError: if captum cannot run the network.
        OptionError: for more cells than pixels, or none.

    References:
        kokhlikyan2020.
    """
    _check_cells("feature_ablation", cells, images)
    return explained(
        *(classifier, images, target, "feature_ablation"),
        lambda asked: (asked.by_cells("FeatureAblation", cells), None),
        baseline=baseline,
        batch_size=batch_size,
    )


def _check_cells(name: str, cells: int, images: Tensor) -> None:
    if not 1 <= cells <= min(images.shape[-2:]):
        raise OptionError(f"captum:{name}: cells={cells} must be 1 to {min(images.shape[-2:])}, a cell holds pixels")


def _sampled(method: str, samples: int, title: str, text: str) -> Callable[..., Attribution]:
    """A method that estimates the worth of grid cells from random sets of them."""
    name = {"ShapleyValueSampling": "shapley_value_sampling", "KernelShap": "kernel_shap", "Lime": "lime"}[method]
    default = samples

    def sampled(
        classifier: Classifier,
        images: Tensor,
        target: Target,
        *,
        cells: int = 7,
        samples: int = default,
        baseline: Baseline = "mean",
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Attribution:
        _check_cells(name, cells, images)
        if samples < 1:
            raise OptionError(f"captum:{name}: samples={samples} must be at least 1")
        return explained(
            *(classifier, images, target, name),
            lambda asked: (asked.by_cells(method, cells, n_samples=samples), None),
            baseline=baseline,
            generator=generator,
            batch_size=batch_size,
        )

    sampled.__name__ = sampled.__qualname__ = name
    sampled.__doc__ = f"""{title}

    {text} Cells that are left out show the baseline.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is watched.
        cells: cells of the grid along each side.
        samples: random sets (shapley_value_sampling: orders of all cells) that are tried; the default is ours.
        baseline: what covers: mean (the classifier's mean image), black or white.
        generator: source of the seed; None starts a new one with seed 0.
        batch_size: covered images per pass; None for 8.

    Returns:
        Signed maps (N, cells, cells) in units of the score.

    Raises:
        ModelError: if captum cannot run the network.
        OptionError: for more cells than pixels, or no samples.

    References:
        kokhlikyan2020.
    """
    return sampled


def _at_layer(method: str, summary: str, text: str) -> Callable[..., Attribution]:
    """A method that sums along the way from a baseline what passes through a layer."""
    name = {"LayerConductance": "layer_conductance", "InternalInfluence": "internal_influence"}[method]

    def at_layer(
        classifier: Classifier,
        images: Tensor,
        target: Target,
        *,
        layer: Layers | None = None,
        steps: int = 50,
        baseline: Baseline = "mean",
        batch_size: int | None = None,
    ) -> Attribution:
        if steps < 1:
            raise OptionError(f"captum:{name}: steps={steps} must be at least 1")
        names = layer_names(classifier, layer, target, images)
        if len(names) > 1:
            raise OptionError(f"captum:{name} looks at one layer; give one of {', '.join(names)}")

        layout = prepare(classifier).layout(names[0])
        if is_tokens_first(layout):
            raise ModelError(
                f"captum:{name} takes the first axis of layer {names[0]} for its images, and it has its tokens there "
                "(batch_first=False); use grad_cam, or name another layer"
            )

        def answer(asked: CaptumInputs) -> tuple[Tensor, Tensor | None]:
            watched = asked.score.network.get_submodule(names[0])
            found = asked.attribute(
                method, watched, baselines=asked.base, n_steps=steps, internal_batch_size=asked.batch
            )
            return spatial_map(found, f"layer {names[0]}", asked.image, layout).sum(dim=1), None

        found = explained(
            classifier, images, target, name, answer, baseline=baseline, batch_size=batch_size, layer=names[0]
        )
        offset, stride = laid_by(prepare(classifier), names, images).grid(sides(images), sides(found.maps))
        return replace(found, offset=offset, stride=stride)

    at_layer.__name__ = at_layer.__qualname__ = name
    at_layer.__doc__ = f"""{summary}

    {text}

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is explained.
        layer: one layer whose output has places, by dotted name or module; None for the last.
        steps: points of the Gauss-Legendre quadrature.
        baseline: where the way starts: mean (the classifier's mean image), black or white.
        batch_size: points per pass; None for 8.

    Returns:
        Signed maps (N, h, w) on the layer's grid, summed over its channels.

    Raises:
        ModelError: if captum cannot run the network, or the layer's output has no places.
        OptionError: for no steps or several layers.

    References:
        kokhlikyan2020.
    """
    return at_layer


_TITLES = {
    "deep_lift": "DeepLIFT",
    "deep_lift_shap": "DeepLIFT SHAP",
    "gradient_shap": "Gradient SHAP",
    "lrp": "Layer-wise relevance propagation",
    "feature_ablation": "Feature ablation",
    "shapley_value_sampling": "Shapley value sampling",
    "kernel_shap": "Kernel SHAP",
    "lime": "LIME",
    "layer_conductance": "Layer conductance",
    "internal_influence": "Internal influence",
}
_METHODS: tuple[tuple[Callable[..., Attribution], str, str], ...] = (
    (deep_lift, "gradient", "The map is about the difference to the baseline, and the rules are one choice of many."),
    (deep_lift_shap, "gradient", "Three plain baselines are no sample of the images that the network knows."),
    (gradient_shap, "gradient", "An estimate from random points: few of them give a noisy map."),
    (lrp, "gradient", "With the epsilon rule the map is as noisy as input times gradient, which it nearly is."),
    (
        feature_ablation,
        "perturbation",
        "A cell smaller than the evidence finds nothing: the rest of the object is enough.",
    ),
    (
        _sampled(
            "ShapleyValueSampling",
            5,
            "What each cell of a grid adds to the score, on average over random orders in which the cells appear.",
            "An unbiased estimate of Shapley values, which add up to the difference to the baseline's score.",
        ),
        "perturbation",
        "Most sets of cells look like no photograph, and the network's answer to them counts all the same.",
    ),
    (
        _sampled(
            "KernelShap",
            200,
            "What each cell of a grid adds to the score, by a weighted linear fit to random sets of cells.",
            "Shapley values as a regression with the Shapley kernel.",
        ),
        "perturbation",
        "An estimate by regression: with few samples for many cells it is mostly noise.",
    ),
    (
        _sampled(
            "Lime",
            200,
            "The weights of a sparse linear model that imitates the network near the image, one per cell of a grid.",
            "captum's default: a lasso with an exponential kernel on cosine distance.",
        ),
        "perturbation",
        "The lasso sets most cells to exactly zero, and another seed chooses others.",
    ),
    (
        _at_layer(
            "LayerConductance",
            "How much of the score's difference to the baseline's flows through each place of a layer.",
            "Integrated gradients through the layer: gradient at the layer times how it changes along the way.",
        ),
        "cam",
        "As coarse as the layer's grid, and about the difference to the baseline.",
    ),
    (
        _at_layer(
            "InternalInfluence",
            "The mean gradient of the score at each place of a layer along the way from the baseline.",
            "Influence, not contribution: the activations themselves are not multiplied in.",
        ),
        "cam",
        "Says where a change of the layer would matter, not what the layer said.",
    ),
)


def _register() -> None:
    for function, family, caveat in _METHODS:
        name = function.__name__
        register_attribution(
            title=_TITLES[name],
            family=family,
            paper="kokhlikyan2020",
            display="percentile" if family == "gradient" else "signed",
            caveat=caveat,
            name=f"captum:{name}",
        )(function)


if find_spec("captum"):
    _register()
