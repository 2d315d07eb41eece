"""What is known of a network's layers for images of one size: their shapes, the usual one, where they lie."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from phosphene.axes import WHOLE, Part, is_tokens_first
from phosphene.errors import ModelError, PhospheneError
from phosphene.graph import candidate_layers, check_inside, default_layer, spatial_map, spatial_size, token_axis
from phosphene.hooks import Edit, capture, is_scripted
from phosphene.runtime.placement import FEWEST, QUARTERS, Moved, how_moved, middle_of
from phosphene.runtime.trials import gradients_of, near, trial
from phosphene.types import Layer, Layout, Size

if TYPE_CHECKING:
    from phosphene.runtime.network import Network

Asked = ParamSpec("Asked")
Found = TypeVar("Found")

# Of the largest gradient at a layer: by no more do those of its places differ that say nothing of where they are.
_FLAT = 1e-3
# Of how many images of each kind it is seen which layers run for them.
_ROUTED = 2
# What may take a part of a picture in a graph, beside an index.
_CUTTING = re.compile(
    "narrow|narrow_copy|(unsafe_)?split|split_with_sizes|(unsafe_)?chunk|tensor_split|[hvd]split|unfold|pad|select|index_select|"
    "take|gather|masked_select|as_strided|grid_sample|(center_|five_|resized_)?crop"
)
# Of a gradient at a layer: by no more do two records of it differ that are one.
_SAME = 1e-4


def tried_once(
    method: Callable[Concatenate[LayerLooks, Asked], Found],
) -> Callable[Concatenate[LayerLooks, Asked], Found]:
    """The same, which keeps what it found of the layers that it was asked about."""

    @wraps(method)
    def once(self: LayerLooks, /, *asked: Asked.args, **named: Asked.kwargs) -> Found:
        key = f"{method.__name__}{asked}{named}"
        with self.network.lock:
            if key not in self._found:
                self._found[key] = method(self, *asked, **named)
            found: Found = self._found[key]
            return found

    return once


class LayerLooks:
    """The layers as they run on images of a size; what has to be tried out is tried out once.

    Args:
        network: the frozen network.
        size: (height, width) of the images.
    """

    def __init__(self, network: Network, size: Size) -> None:
        self.network, self.size = network, size
        self.classifier = network.classifier
        self._found: dict[str, Any] = {}  # (`tried_once`)
        self._image = torch.Size((self.classifier.preprocess.channels, *size))

    @property
    def layers(self) -> list[Layer]:
        """Every layer that runs, in the order of completion, with the shape and the layout of its output."""
        return self.network.survey(self.size)

    def layout(self, layer: str, *, fed: bool = False) -> Layout | None:
        """Which axis of a layer's output, or of what it is fed, holds the channels; None where nothing says."""
        layer = self.network.first_names.get(layer, layer)
        if layer in self.classifier.layouts and not fed:
            return self.classifier.layouts[layer]
        found = next((found for found in self.layers if found.name == layer), None)
        return None if found is None else found.fed if fed else found.layout

    def tokens_first(self, layers: Iterable[str]) -> frozenset[str]:
        """Those of these layers whose tokens come before the images, (T, N, C)."""
        return frozenset(layer for layer in layers if is_tokens_first(self.layout(layer)))

    @property
    @tried_once
    def default_layer(self) -> str:
        """The layer that CAM methods look at unless told otherwise."""
        self._check_layers()
        self.network.look(self.size)  # (whether its code reads values)
        return default_layer(self._always_run(), self.size, self._positions_reached, network=self.classifier.name)

    def _always_run(self) -> list[Layer]:
        """The layers without those that code which reads values, such as a router of experts, passes by for some."""
        ran = [{found.name for found in layers} for layers in self._on_images()]
        return [found for found in self.layers if all(found.name in names for names in ran)]

    def _on_images(self, images: Iterable[Tensor] = ()) -> list[list[Layer]]:
        """The layers as they run on several images, where code reads values; of other code all images are alike.

        On noise, fine and coarse, dark and bright, and on `images` (C, H, W); one that the code refuses says nothing.
        """
        look = self.network.first_look
        return [*self._on_noise(), *self._surveys_of(images)] if look is not None and look.reads else []

    @tried_once
    def _on_noise(self) -> list[list[Layer]]:
        fine = self.network.noise(self._image, _ROUTED)
        coarse = F.interpolate(fine[:, :, :2, :2].contiguous(), self.size, mode="bilinear")
        return self._surveys_of(image for noise in (*fine, *coarse) for image in (noise / 2, 1 - noise / 2))

    def _surveys_of(self, images: Iterable[Tensor]) -> list[list[Layer]]:
        found = []
        for image in images:
            with suppress(Exception):  # code of the network's own may raise anything
                found.append(self.network.survey_of(image[None]))
        return found

    @property
    def candidate_layers(self) -> list[str]:
        """The layers whose output is a map of the image's places, the last first: what the default is chosen of."""
        self._check_layers()
        return candidate_layers(self.layers, self.size)

    def _check_layers(self) -> None:
        """Refuse a network that has no layers to be looked at."""
        check_inside(self.network.module, self.classifier.name)
        if is_scripted(self.network.module):
            raise ModelError(
                f"{self.classifier.name} is TorchScript, which runs as one piece without layers; use a method that "
                "looks at input and output alone (saliency, occlusion, rise), or the network as torch.export.save "
                "writes it"
            )

    @tried_once
    def flat_layers(self, layers: Sequence[str]) -> frozenset[str]:
        """Those of these layers, whose outputs have places, at which the gradient of a class says nothing of them.

        There every place that a class's score depends on counts alike, as behind the last layer that is no average: a
        map of the gradient shows where there is any, and no more. Looked at on an image of noise, for its best class.

        Example:
            >>> from torch import nn
            >>> from phosphene.classifier import Classifier
            >>> from phosphene.runtime import prepare
            >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> sorted(prepare(Classifier(net)).looks.flat_layers(["0", "1"]))
            ['0', '1']
        """
        found = self._in_places(self._noise_gradients(layers, lambda logits, _: logits.amax()))
        return frozenset(layer for layer in layers if layer in found and _is_flat(found[layer]))

    @tried_once
    def passed_by(self, layer: str) -> float:
        """The share, 0 to 1, of the gradient of the best class of noise that goes past a layer.

        Through sums or joins in no module. 0 where there is none, or the layer runs several times.

        Example:
            >>> from torch import nn
            >>> from phosphene.classifier import Classifier
            >>> from phosphene.runtime import prepare
            >>> class Sum(nn.Module):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.one, self.other = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)
            ...     def forward(self, images):
            ...         return (self.one(images) + self.other(images)).mean(dim=(2, 3))
            >>> 0.1 < prepare(Classifier(Sum())).looks.passed_by("other") < 0.9
            True
        """
        if any(found.name == layer and found.calls != 1 for found in self.layers):
            return 0.0
        with self._watching([layer]) as (images, logits, outputs):
            value, output = logits.amax(), outputs.get(layer)
            if output is None or not (value.requires_grad and output.requires_grad):
                return 0.0
            whole, given = gradients_of(value, [images, output], again=True)
            through = None if given is None else gradients_of((output * given).sum(), [images])[0]
            if whole is None or through is None:
                return 0.0
            around, inside = (float(part.float().abs().sum()) for part in (whole - through, through))
        return around / (around + inside) if 0 < around + inside < math.inf else 0.0

    def part_seen(self, layer: str, size: Size) -> Part:
        """The part that a layer sees of pictures of a size: a cut may leave a part of another share of these."""
        layers = self.layers if size == self.size or self._cuts_nothing() else self.network.survey(size)
        return next((found.seen for found in layers if found.name == layer), WHOLE)

    @tried_once
    def _cuts_nothing(self) -> bool:
        """Whether the code is one graph that cuts nothing, so that no layer sees another share of larger images."""
        traced = self.network.own_traced
        if traced is None or any(found.seen != WHOLE for found in self.layers):
            return False
        return not any(map(_may_cut, traced.graph.nodes))

    def how_steered(self, name: str, images: Tensor) -> str | None:
        """How a layer has a picture where the picture itself says what becomes of its places; None where it does not.

        Looked at on the very images (N, C, H, W) too: where they have an object, noise may have none to be cut out.
        """
        found = [one for layers in (self.layers, *self._on_images(images)) for one in layers if one.name == name]
        if len({one.seen for one in found}) > 1:
            return "cut out at a place that it says itself"
        steered = len({one.moved for one in found}) > 1 or any(one.chosen for one in found)
        return "turned or not as it says itself" if steered else None

    @tried_once
    def how_lies(self, name: str) -> str | None:
        """How a layer has the picture otherwise than it lies; None where it has not, or nothing says."""
        layer = next((found for found in self.layers if found.name == name), None)
        if layer is None:
            return None
        said = layer.name in self.classifier.layouts
        if layer.made is not None and not said:
            return f"as {layer.made}"
        # (Tokens that were picked out, or merged: of two by two of them no quarter could be told.)
        tokens = len(layer.shape) == 2 and layer.layout is not None and not said
        left_out = tokens and layer.shape[token_axis(layer.layout) - 1] not in self._numbers_of_places()
        if layer.moved and left_out and not layer.placed:
            return "in another order"
        fewer = tokens and self._places_of(layer) < max(map(self._places_of, self.layers))
        return self._how_moved(layer) if layer.moved or layer.layered or fewer else None

    def _places_of(self, layer: Layer) -> int:
        """How many places of the picture the tokens of a layer are; 0 where they are none."""
        grid = spatial_size(layer.shape, self.size, layer.layout) if len(layer.shape) == 2 else None
        return 0 if grid is None else math.prod(grid)

    def _numbers_of_places(self) -> set[int]:
        """How many places the layers have that are known to have some, without and with the tokens of none."""
        placed = [one for one in self.layers if one.placed]
        grids = [spatial_size(one.shape, self.size, one.layout) for one in placed]
        tokens = {one.shape[token_axis(one.layout) - 1] for one in placed if len(one.shape) == 2}
        return tokens | {math.prod(grid) for grid in grids if grid is not None}

    def _how_moved(self, layer: Layer) -> Moved | None:
        """How a layer sees noise turned, by the gradients of four of its cells; each by itself, to spare memory."""
        try:
            found = [self._answers_to(layer.name, quarter) for quarter in QUARTERS]
        except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
            return None
        answers = [answer for answer in found if answer is not None]
        return how_moved(torch.stack(answers), layer.layered) if len(answers) == len(QUARTERS) else None

    def _answers_to(self, layer: str, quarter: tuple[int, int]) -> Tensor | None:
        """(H, W) how much the cell in the middle of a quarter answers to each pixel; None where nothing says."""
        with self._watching([layer]) as (images, _, outputs):
            output = outputs.get(layer)
            places = None if output is None else spatial_size(tuple(output.shape[1:]), self.size, self.layout(layer))
            if output is None or places is None or min(places) < FEWEST or not output.requires_grad or len(output) != 1:
                return None
            values = spatial_map(output, f"layer {layer}", images, self.layout(layer))[0]
            row, column = (middle_of(half, cells) for half, cells in zip(quarter, places, strict=True))
            generator = torch.Generator().manual_seed(0)
            weights = torch.randn(len(values), generator=generator, device="cpu").to(values)
            (gradient,) = gradients_of((values[:, row, column] * weights).sum(), [images])
        return None if gradient is None else gradient.float().square().sum(dim=(0, 1)).cpu()

    @tried_once
    def layer_of_unit(self, layer: str) -> str:
        """Where to look for what a unit of a layer responds to: the last layer with places that ends before it begins.

        One that it is computed from, at several places; where there is none, the unit's own layer.

        Example:
            >>> from torch import nn
            >>> from phosphene.classifier import Classifier
            >>> from phosphene.runtime import prepare
            >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1))
            >>> prepare(Classifier(net)).looks.layer_of_unit("2")
            '1'
        """
        names = [found.name for found in self.layers]
        if layer not in names:
            return layer  # (the pass will say so better)
        ended = self.layers[: names.index(layer)]
        inside = f"{layer}."
        before = [found.name for found in ended if found.name and not found.name.startswith(inside)]
        candidates = [found for found in candidate_layers(ended, self.size) if found in before]
        own = self._noise_gradients([*candidates, layer], lambda _, outputs: outputs[layer].float().square().sum())
        reached = self._in_places(own)
        fed = (found for found in candidates if found in reached and int(reached[found].any(dim=1).sum()) >= 2)
        return next(fed, layer)

    @tried_once
    def read_around(self, layers: Sequence[str]) -> bool:
        """Whether the score reads what the layers make by other ways than what they return first.

        A hook or an attribute keeps it, or a second output is made of it: nothing but their own record, from the image
        on, leads back to them from there. Tried out on noise.
        """
        whole, cut = (
            self._noise_gradients(layers, lambda logits, _: logits.float().square().sum(), first_leaf, recorded=one)
            for one in (True, False)
        )
        return any(name not in cut or not near(cut[name], whole[name], _SAME) for name in whole)

    @contextmanager
    def _watching(
        self, layers: Sequence[str], edit: Edit | None = None, *, recorded: bool = True
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        """(an image of noise, its scores, what the layers gave), recorded from the image on or not."""
        # Locked as `variant` is: a variant made meanwhile would be a copy with the hooks of this look, for good.
        with self.network.lock, trial(self.classifier.device, gradients=True):
            images = self.network.noise(self._image)[:1].requires_grad_(recorded)
            with capture(self.network.module, layers, edit, tokens_first=self.tokens_first(layers)) as found:
                logits = self.network.rows(images)
            yield images, logits, found

    def _noise_gradients(
        self,
        layers: Sequence[str],
        score: Callable[[Tensor, dict[str, Tensor]], Tensor],
        edit: Edit | None = None,
        *,
        recorded: bool = True,
    ) -> dict[str, Tensor]:
        """The gradient of a score of noise at each of the layers that it reaches, recorded from the image on or not."""
        with self._watching(layers, edit, recorded=recorded) as (_, logits, found):
            value = score(logits, found)
            there = [layer for layer in layers if layer in found and found[layer].requires_grad]
            if not (value.requires_grad and there):
                return {}
            gradients = gradients_of(value, [found[layer] for layer in there])
        return {layer: one for layer, one in zip(there, gradients, strict=True) if one is not None}

    def _in_places(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the gradients (1, k, h, w) that have places of the picture."""
        images = self.network.noise(self._image)[:1]
        return {
            layer: spatial_map(gradient, layer, images, self.layout(layer))
            for layer, gradient in gradients.items()
            if spatial_size(tuple(gradient.shape[1:]), self.size, self.layout(layer))
        }

    def sees_picture(self, layer: str) -> bool:
        """Whether what a layer gives hangs on the picture, not on other inputs or a kept picture; tried out once.

        Of a network that takes the picture alone every layer is taken to that runs once.
        """
        # (Before the first images came nobody knows of which size to look at layers.)
        known = self.layers if self.network.first_look is not None else []
        once = all(found.calls == 1 for found in known if found.name == layer)
        return (once and not self.classifier.inputs.values) or self.changes_with_picture(layer)

    @tried_once
    def changes_with_picture(self, layer: str) -> bool:
        """Whether a layer gives something else of another image."""
        with trial(self.classifier.device):
            noise = self.network.noise(self._image)
            one, other = (self._given_by(layer, image) for image in (noise[:1], noise[1:2]))
        return one is None or other is None or not torch.equal(one, other)

    def _given_by(self, layer: str, images: Tensor) -> Tensor | None:
        """The output of a layer; None if it does not run."""
        with capture(self.network.module, [layer]) as found:
            self.classifier.run(self.network.module, images)
        return found.get(layer)

    def _positions_reached(self, layers: Sequence[str]) -> dict[str, int]:
        """At how many positions of some layers the scores of noise see a change; without those off the way to them."""
        # Of what nobody knows the axes it may be the weights of positions, laid out as they are.
        sure = [layer for layer in layers if self.sees_picture(layer)]
        asked = [layer for layer in sure if self.layout(layer) is not None or self.changes_with_picture(layer)]

        def weighed(logits: Tensor, _: dict[str, Tensor]) -> Tensor:
            # Unequal weights: the sum of probabilities is 1 whatever the image.
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), device="cpu")
            return (logits * weights.to(logits)).sum()

        found = self._noise_gradients(asked, weighed, first_leaf)
        # (Not the parts of a picture, as a detector cuts them out.)
        images = self.network.noise(self._image)[:1]
        return {
            layer: places_with(gradient, layer, images, self.layout(layer))
            for layer, gradient in found.items()
            if len(gradient) == 1
        }


def _may_cut(node: fx.Node) -> bool:
    """Whether a node of a graph may take a part of a picture: the part's share hangs on the size of the whole."""
    if node.target is operator.getitem:
        items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return any(isinstance(item, slice | fx.Node) and item != slice(None) for item in items)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op != "call_module" and _CUTTING.fullmatch(name) is not None


def _is_flat(gradient: Tensor) -> bool:
    """Whether a gradient (1, k, h, w) is the same at every place where there is any."""
    places = gradient[0].flatten(1)
    alive = places[:, places.any(dim=0)]
    return alive.shape[1] < 2 or bool((alive - alive[:, :1]).abs().amax() <= _FLAT * alive.abs().amax())


def first_leaf(_name: str, output: Tensor) -> Tensor:
    """The first layer on the way becomes a leaf, so that nothing below it is recorded; later ones stay linked."""
    return output if output.requires_grad or not output.is_floating_point() else output.detach().requires_grad_()


def places_with(gradient: Tensor, layer: str, images: Tensor, layout: Layout | None) -> int:
    """At how many places a gradient is not zero; 1 where a class token alone has any."""
    if not bool(gradient.any()):
        return 0
    try:
        places = spatial_map(gradient, layer, images, layout)
    except ModelError:  # which axes are places has to be told: if the layer is the one, the pass itself asks
        return 2
    return max(1, int(places.any(dim=1).sum()))
