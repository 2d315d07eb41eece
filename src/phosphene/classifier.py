"""A classifier: the user's module, its preprocessing, its labels and the kind of its head."""

from __future__ import annotations

import math
import operator
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from numbers import Real
from typing import Any, Literal, get_args
from weakref import WeakSet

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.devices import CPU, in_fake_mode
from phosphene.errors import ModelError, OptionError, PhospheneError, warn
from phosphene.fixed_inputs import FixedInputs, InputsLike, fixed_inputs, lacking_inputs, open_inputs
from phosphene.geometry import center_view, whole_view
from phosphene.graph import input_channels, is_layout, layer_name
from phosphene.images import VOLUMES, Interpolation, Picture, picture_size, preprocess
from phosphene.labels import Labels as Labels
from phosphene.labels import LabelsLike, as_labels
from phosphene.output_targets import best_of_each
from phosphene.pixels import stated_scale
from phosphene.targets import Outputs, Target
from phosphene.types import Layout, Prediction, Score, Size, View

HeadKind = Literal["softmax", "sigmoid", "probabilities", "score", "maps", "boxes"]
ViewKind = Literal["center", "whole", "margin"]


class MeanPicture:
    """The mean of the pictures that a network was trained on, pixel by pixel, as networks of the time of Caffe have it.

    Args:
        values: (C, h, w) array or tensor, in the scale and the order of channels of the network's input.

    Example:
        >>> MeanPicture(torch.zeros(3, 2, 2)).at((4, 4)).shape
        torch.Size([3, 4, 4])
    """

    def __init__(self, values: Any) -> None:
        self.values = torch.as_tensor(values, dtype=torch.float32, device="cpu").clone()
        if self.values.ndim != 3 or 0 in self.values.shape or not bool(self.values.isfinite().all()):
            raise OptionError(f"a mean picture of shape {tuple(self.values.shape)}; give finite values (C, h, w)")

    @property
    def colors(self) -> tuple[float, ...]:
        """Its mean in each channel."""
        return tuple(self.values.mean(dim=(1, 2)).tolist())

    def at(self, size: Size) -> Tensor:
        """(C, H, W): the picture at a size, bilinear where it is another than its own."""
        if size == tuple(self.values.shape[1:]):
            return self.values
        return F.interpolate(self.values[None], size, mode="bilinear", align_corners=False, antialias=True)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeanPicture) and torch.equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((tuple(self.values.shape), self.colors))

    def __repr__(self) -> str:
        return f"MeanPicture({'x'.join(map(str, self.values.shape))})"


# Networks of which it was said that nobody told how pictures are prepared for them.
_TOLD: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the network's input; images are RGB in [0, 1] until `normalize`.

    ``(images * scale, in the order of channels, - mean) / std``. For weights of the time of Caffe: `scale` 255, `order`
    BGR, the mean in units of 0 to 255, in BGR too, or a whole picture of means.

    Args:
        size: (height, width) that the network sees; None where any size will do.
        short_side: the short side is resized to this before the centre is cut out; None squashes the
            whole picture to `size`.
        mean: per channel, in units of `scale` and in the network's order of channels; the picture of these values is
            normalised to zero. An array (C, h, w) is a whole picture of means.
        std: per channel, likewise.
        interpolation: of the resize.
        scale: what white (1) becomes first; 255 for networks that were trained on bytes.
        order: of the network's channels, RGB or BGR.
        mean_picture: the picture, where `mean` was given as one; of views of another size it is resized.
        black: the stored value that is black in the network's pictures: in files, and in arrays of integers of more
            than 8 bits, as read_image takes it.
        white: the stored value that is white in them, such as 4095 of a scanner's 12 bits; None for that of their type.

    Example:
        >>> Preprocess((224, 224), 256).view((300, 451)).crop
        (16, 80, 224, 224)
        >>> caffe = Preprocess((1, 1), mean=(104, 117, 123), scale=255, order="BGR")
        >>> caffe.normalize(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()
        tensor([-104., -117.,  132.])
    """

    size: Size | None = (224, 224)
    short_side: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bicubic"
    scale: float = 1.0
    order: Literal["RGB", "BGR"] = "RGB"
    mean_picture: MeanPicture | None = None
    black: float | None = None
    white: float | None = None

    def __post_init__(self) -> None:
        if getattr(self.mean, "ndim", 1) == 3:
            object.__setattr__(self, "mean_picture", MeanPicture(self.mean))
        if self.mean_picture is not None:
            object.__setattr__(self, "mean", self.mean_picture.colors)
        for name in ("mean", "std"):
            object.__setattr__(self, name, _channel_values(name, getattr(self, name)))
        object.__setattr__(self, "size", None if self.size is None else _size(self.size))
        if len(self.mean) != len(self.std):
            raise OptionError(f"{len(self.mean)} means but {len(self.std)} standard deviations; give one per channel")
        if any(value <= 0 for value in self.std):
            raise OptionError(f"standard deviations {self.std} must be positive")
        if isinstance(self.scale, bool) or not isinstance(self.scale, Real) or not 0 < self.scale < math.inf:
            raise OptionError(f"scale={self.scale!r}; give what white becomes: 1, or 255 for networks trained on bytes")
        if any(value > self.scale for value in (*self.mean, *self.std)):
            raise OptionError(
                f"means {self.mean} and standard deviations {self.std} are for pixels of 0 to 255, "
                f"but white is {self.scale:g} here; divide by 255, or say scale=255 if the network is fed with those"
            )
        if self.order not in ("RGB", "BGR") or (self.order == "BGR" and self.channels != 3):
            raise OptionError(f"order={self.order!r} of {self.channels} channels; give RGB, or BGR for three channels")
        object.__setattr__(self, "short_side", _side(self.short_side))
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise OptionError(f"interpolation {self.interpolation!r} is unknown; choose of {known}")
        stated_scale(self.black, self.white)  # refuses what is none

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    @property
    def reading(self) -> dict[str, Any]:
        """How the pictures are read that the network is shown, as keywords of read_image."""
        return {"channels": self.channels, "black": self.black, "white": self.white}

    def view(self, original: Size, kind: ViewKind = "center") -> View:
        """What the network sees of a picture of the `original` (height, width).

        Args:
            original: (height, width) in pixels.
            kind: "center", the published preprocessing; "whole", the entire frame squashed to the input;
                "margin", the centre with all the room around the crop, as ten crops need.
        """
        if not isinstance(kind, str) or kind not in get_args(ViewKind):
            raise OptionError(f"view {kind!r} is unknown; choose center or whole")
        if self.size is None:
            return whole_view(original, original)
        if kind == "whole" or (self.short_side is None and kind == "center"):
            return whole_view(original, self.size)
        short_side = self.short_side or round(min(self.size) * 256 / 224)
        if kind == "margin":
            extra = max(0, short_side - min(self.size))
            return center_view(original, short_side, (self.size[0] + extra, self.size[1] + extra))
        return center_view(original, short_side, self.size)

    def normalize(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] as the network's weights expect them."""
        if self.order == "BGR":
            images = images.flip(1)
        if self.scale != 1:
            images = images * self.scale
        centered, std = images - self._mean(images), self._per_channel(self.std, images)
        # In place, as nobody else holds it yet; integers become floats.
        return centered.div_(std) if centered.is_floating_point() else centered / std

    def mean_at(self, size: Size) -> Tensor:
        """(C, H, W): the picture, RGB, that `normalize` maps to zero at a size; beyond [0, 1] where the means are."""
        flat = torch.tensor(self.mean, device="cpu")[:, None, None].expand(-1, *size)
        values = (flat if self.mean_picture is None else self.mean_picture.at(size)) / self.scale
        return values.flip(0) if self.order == "BGR" else values

    def _mean(self, images: Tensor) -> Tensor:
        if self.mean_picture is None:
            return self._per_channel(self.mean, images)
        return self.mean_picture.at((int(images.shape[-2]), int(images.shape[-1]))).to(images)[None]

    def _per_channel(self, values: tuple[float, ...], images: Tensor) -> Tensor:
        """(1, C, 1, 1), or (1, C, 1, W) for images in channels last."""
        row = images.new_tensor(values).view(1, self.channels, 1, 1)
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(images)  # under vmap no layout can be asked for
        if wrapped or images.ndim != 4 or images.is_contiguous():
            return row
        if not images.is_contiguous(memory_format=torch.channels_last):
            return row
        # There the channels are the innermost loop: one of three is ten times slower than one of a whole row.
        return row.expand(-1, -1, -1, images.shape[-1]).contiguous(memory_format=torch.channels_last)


def _channel_values(name: str, values: Any) -> tuple[float, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise OptionError(f"{name}={values!r}: give one per channel, such as (0.5, 0.5, 0.5)")
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise OptionError(f"{name}={values!r} holds what is no number; give one per channel") from None
    if not all(map(math.isfinite, numbers)):
        raise OptionError(f"{name}={numbers} must be finite")
    return numbers


def _side(side: Any) -> int | None:
    """A length in pixels, of any library's whole numbers; or None."""
    try:
        pixels = None if side is None else operator.index(side)
    except TypeError:
        pixels = 0
    if isinstance(side, bool) or (pixels is not None and pixels < 1):
        raise OptionError(f"short_side={side!r} must be a whole number of pixels, or None")
    return pixels


def _size(size: Any) -> Size:
    """(height, width) from a pair or from one side of a square."""
    try:
        sides = [operator.index(side) for side in (size if isinstance(size, Iterable) else (size, size))]
    except TypeError:
        sides = []
    if len(sides) != 2 or min(sides) < 1:
        raise OptionError(f"size={size!r} is no (height, width) in pixels; give two whole numbers, or None for any")
    return sides[0], sides[1]


class Classifier:
    """Any image classifier: a module on (N, C, H, W), how to feed it and how to read it. The module is never changed.

    Args:
        module: the network; maps normalised images (N, C, H, W) to scores (N, K), or to a tuple or dict
            that holds them.
        preprocess: size, mean and std; the default sees images in [0, 1] of any size as they are, of as many
            channels as the first convolution takes, with a warning where they are files or 8-bit pictures.
        labels: names of the K classes: a Labels, a list or array of names, {index: name} or {name: index}; None for
            numbers.
        head: "softmax" for one class of K, "sigmoid" for independent classes (or one output and two labels:
            its negative and its positive class), "probabilities" for a network that returns them already, "score" for
            plain numbers without a probability; "maps" for segmentation networks, whose scores (N, K, h, w) count as
            their mean unless a Region says where; "boxes" for detectors, of which the best box of each class counts
            unless a Detected says which.
        name: what reports call it.
        output: key or position of the scores where the module returns a dict or a tuple, their name where it returns
            another object; None finds them, and refuses where several could be meant.
        inputs: what the module takes besides the pictures, by the names in its forward: of a tensor the first axis is 1
            and goes with every image, all else is handed over as it is. Or a function of a source's Item (its path,
            columns, label) that returns such a dict for each picture; in Python `given` says them.
        explained: the name of the input that is the picture; None for the first that is not fixed.
        layouts: for layers whose output is misread, which axis of it is which: {"name": "NHWC"}, or NCHW, NTC, NCT,
            TNC; of tokens also how many before and behind those of the patches are no places: "NTC:1+5".

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier(net, Preprocess((8, 8)), ["cat", "dog"])
        >>> classifier.logits(torch.rand(5, 3, 8, 8)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess | None = None,
        labels: LabelsLike = None,
        head: HeadKind = "softmax",
        *,
        name: str | None = None,
        output: str | int | None = None,
        inputs: InputsLike | FixedInputs = None,
        explained: str | None = None,
        layouts: Mapping[str, Layout] | None = None,
    ) -> None:
        self.module: nn.Module = module
        self.head: HeadKind = head
        self.preprocess = _as_it_is(input_channels(unwrapped(module))) if preprocess is None else preprocess
        self.labels = as_labels(labels)
        self.name = type(self.module).__name__ if name is None else str(name)
        self.output = output
        self.inputs = fixed_inputs(unwrapped(module), inputs, explained)
        self._layouts = _checked_layouts(unwrapped(module), layouts)
        self._refreshed = [0]  # (a prepared form shares it)
        self._base: Classifier | None = None  # the same network with other inputs: what is prepared of it is shared

    def __setattr__(self, name: str, value: Any) -> None:
        # Fields may be set at any time, and a wrong one would be found far from where it was given.
        check = _FIELDS.get(name)
        object.__setattr__(self, name, value if check is None else check(value))

    @classmethod
    def of(
        cls,
        module: nn.Module,
        labels: LabelsLike = None,
        head: HeadKind = "softmax",
        *,
        name: str | None = None,
        output: str | int | None = None,
        inputs: InputsLike = None,
        explained: str | None = None,
    ) -> Classifier:
        """A bare network that is fed with tensors as its weights expect them, normalized already.

        For `attribute`, which takes such tensors as they are; what a method puts in the place of a pixel (its baseline
        black or mean, what RISE masks) is zero, the mean of normalized images. For pictures, which `explain` reads,
        give a Classifier the Preprocess that the network was trained with.

        Args:
            module: the network; maps normalized images (N, C, H, W) to scores (N, K).
            labels: names of the K classes, as Classifier takes them; None for numbers.
            head: "softmax", "sigmoid", "probabilities" or "score".
            name: what reports call it.
            output: key or position of the scores where the module returns a dict or a tuple; None finds them.
            inputs: what it takes besides, as Classifier takes them, and so is explained.
            explained: the name of the input that is the picture; None for the first that is not fixed.

        Raises:
            ModelError: for what is no module.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> images = torch.randn(5, 1, 8, 8)
            >>> torch.equal(Classifier.of(net).logits(images), net(images))
            True
        """
        return cls(module, None, labels, head, name=name, output=output, inputs=inputs, explained=explained)

    def given(self, **values: Any) -> Classifier:
        """The same network with these values of its other inputs, such as those that belong to one picture.

        What was prepared of the network is shared by all that are made so.

        Args:
            **values: by the names in its forward, as the argument `inputs` of a Classifier.

        Raises:
            OptionError: for inputs that the network has not.
            ModelError: if one is left open that it needs.

        Example:
            >>> class Aged(nn.Module):
            ...     def forward(self, image, age):
            ...         return image.mean((2, 3)) * age
            >>> young = Classifier(Aged(), inputs={"age": torch.tensor([[1.0]])})
            >>> young.given(age=torch.tensor([[3.0]])).logits(torch.ones(1, 3, 4, 4))
            tensor([[3., 3., 3.]])
        """
        found = self._with(self.module, self.inputs.given(self.module, values))
        found._base = self._base or self
        return found

    def refresh(self) -> None:
        """Forget what was prepared of the network: its next pass sees it as it is now.

        Weights that are exchanged, moved or written to, modules, their attributes and hooks, and the fields of the
        classifier are noticed without it; one item of a long list or of a large array is not.

        Example:
            >>> Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))).refresh()
        """
        self._refreshed[0] += 1

    @property
    def labels(self) -> Labels:
        """Names of the classes; may be set to whatever holds names."""
        return self._labels

    @labels.setter
    def labels(self, labels: LabelsLike) -> None:
        self._labels = as_labels(labels)

    @property
    def layouts(self) -> dict[str, Layout]:
        """Which axis of a layer's output is which, for those that are misread."""
        return self._layouts

    @layouts.setter
    def layouts(self, layouts: Mapping[str, Layout] | None) -> None:
        self._layouts = _checked_layouts(self.module, layouts)

    def __repr__(self) -> str:
        size = "any size" if self.preprocess.size is None else "x".join(map(str, self.preprocess.size))
        return f"Classifier({self.name}, {size}, {len(self.labels) or 'unnamed'} classes, {self.head} head)"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        first = next((tensor.device for tensor in self._state()), CPU)
        return _device_of_values(self._kept) if first.type == "meta" else first

    @property
    def mean_image(self) -> Tensor:
        """(C, 1, 1): the color that normalisation maps to zero, on the whole; fills what is masked out."""
        mean = torch.tensor(self.preprocess.mean, device=self.device).view(-1, 1, 1) / self.preprocess.scale
        return (mean.flip(0) if self.preprocess.order == "BGR" else mean).clamp(0, 1)

    def mean_picture(self, size: Size) -> Tensor:
        """(C, H, W) in [0, 1]: the image that normalisation maps to zero: of one color unless the mean is a picture."""
        return self.preprocess.mean_at(size).to(self.device).clamp(0, 1)

    def views(self, pictures: Sequence[Picture], kind: ViewKind = "center") -> tuple[View, ...]:
        """One View per picture."""
        return tuple(self.preprocess.view(picture_size(picture), kind) for picture in pictures)

    def preprocessed(self, pictures: Sequence[Picture], views: Sequence[View]) -> Tensor:
        """(N, C, h, w) in [0, 1] on the classifier's device: the pictures as the network sees them."""
        sizes = {view.size for view in views}
        if len(sizes) > 1:
            raise OptionError(
                f"pictures of sizes {sorted(sizes)} in one batch of a network that takes any size; give them one "
                "by one, or a size to show them all at: Preprocess((224, 224))"
            )
        left_out = self.preprocess is _as_it_is(self.preprocess.channels) and self.module not in _TOLD
        if left_out and any(isinstance(picture, Image.Image) for picture in pictures):
            _TOLD.add(self.module)
            warn(
                f"{self.name} was not told how pictures are prepared for it, so it sees them in [0, 1] at their own "
                "size, without normalization; say so: Classifier(network, Preprocess((224, 224), 256, mean, std))"
            )
        seen = [
            preprocess(picture, view, channels=self.preprocess.channels, interpolation=self.preprocess.interpolation)
            for picture, view in zip(pictures, views, strict=True)
        ]
        return torch.stack(seen).to(self.device)

    def check_images(self, images: Tensor) -> None:
        """Refuse what is not a batch of images for this network.

        Raises:
            OptionError: naming the shape that was got and the one expected.
        """
        channels = self.preprocess.channels
        if isinstance(images, Tensor) and images.is_nested:
            raise OptionError("images as a nested tensor; give those of each size as a tensor of their own")
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
            got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"type {type(images).__name__}"
            axes = images.ndim if isinstance(images, Tensor) else 0
            hint = VOLUMES if axes == 5 else ""
            if axes == 4 and images.shape[1] != channels and self.preprocess == _as_it_is(channels):
                hint = (
                    "; if it is the first convolution that takes these and not the network, say so: "
                    "Preprocess(None, None, mean, std) with as many means as the images have channels"
                )
            raise OptionError(f"images of {got}; expected a tensor (N, {channels}, H, W) with values in [0, 1]{hint}")
        if not images.is_floating_point() and not images.is_complex():
            raise OptionError(
                f"images of whole numbers ({str(images.dtype).removeprefix('torch.')}); give values in [0, 1], as "
                "images.float() / 255, or the pictures themselves to explain"
            )
        if images.layout != torch.strided or images.is_complex():
            what = "complex" if images.is_complex() else "sparse"
            raise OptionError(f"images as a {what} tensor; give a dense one of real numbers in [0, 1]")
        faked = type(images).__name__ == "FakeTensor" or in_fake_mode()
        if faked or torch._C._functorch.is_functorch_wrapped_tensor(images) or images.device.type == "meta":
            raise OptionError(
                "images without values of their own (of torch.func, FakeTensorMode or the device 'meta'); call "
                "outside of the transformation, with a tensor that holds them"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights; float32 where there are none.

        That of the first with several axes, as a number (a temperature) or a row may be of any; of eight bits is what
        is only stored.
        """
        first = None
        for tensor in self._state():
            if tensor.is_floating_point() and tensor.element_size() > 1:
                if tensor.ndim > 1:
                    return tensor.dtype
                first = first or tensor.dtype
        return first or torch.float32

    def _state(self) -> Iterator[Tensor]:
        # Asked at each batch, and the first is mostly enough: a list of all would take a millisecond.
        return chain(self._kept.parameters(), self._kept.buffers())

    @property
    def _kept(self) -> nn.Module:
        """The module that holds the weights."""
        return self.module

    def logits(self, images: Tensor, copies: int = 1) -> Tensor:
        """(N, K) scores before softmax or sigmoid, for images (N, C, H, W) in [0, 1]; in eval mode, whatever it is in.

        It is the network itself that runs: `prepare(classifier).logits` runs a copy.

        Args:
            images: as the network sees them, before `Preprocess.normalize`.
            copies: rows of scores for each image, where a layer's output is replaced by several.

        Raises:
            ModelError: if the network refuses images of this shape.
        """
        with self._evaluating():
            return self.read(self.run(self.module, images), copies * len(images))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Inside, the network is in eval mode: no statistic is moved. (Without `eval()`, which code may answer to.)"""
        with _EVALUATING:
            training = [child for child in self.module.modules() if getattr(child, "training", False)]
            try:
                for child in training:
                    child.training = False
                yield
            finally:
                for child in training:
                    child.training = True

    def run(self, module: nn.Module, images: Tensor) -> Any:
        """What a module (the network or a graph of it) returns for images (N, C, H, W) in [0, 1].

        Raises:
            ModelError: if it refuses images of this shape.
        """
        if not isinstance(images, Tensor):
            raise OptionError(f"images of type {type(images).__name__}; give a tensor (N, C, H, W)")
        with self.clear_refusal(images):
            return self.called(module, self.preprocess.normalize(images).to(self.dtype))

    def called(self, module: nn.Module, inputs: Tensor) -> Any:
        """What a module (the network, a copy or a graph of it) returns for normalized images, all else being fixed."""
        return self.inputs.call(module, inputs)

    @contextmanager
    def clear_refusal(self, images: Tensor) -> Iterator[None]:
        """What a network throws at images of a wrong shape, as one line that says so; want of memory stays as it is."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, PhospheneError):
            raise
        except Exception as error:  # a network may raise anything
            if "out of memory" in str(error) or "allocate memory" in str(error):
                raise
            if isinstance(error, TypeError):
                self._refuse_second_input(error)
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            if not isinstance(error, RuntimeError | AssertionError | ValueError):
                reason = f"{type(error).__name__}: {reason}"
            mixed = "dtype" in reason and torch.is_autocast_enabled(images.device.type)  # (not all name the types)
            if "BFloat16" in reason or "Half" in reason or mixed:
                reason += (
                    " (weights of 16 bits run in float32 here, and precision='fast' runs in bfloat16: let the forward "
                    "take the type of its weights, and say precision='exact' for steps that know no other)"
                )
            raise ModelError(
                f"{self.name} cannot run on images of shape {tuple(images.shape)}: {reason}" + self._hint(reason)
            ) from error

    def _hint(self, reason: str) -> str:
        """What may be wrong with a network that refuses pictures for this reason."""
        if any(isinstance(child, nn.Conv3d) for child in self.module.modules()):
            return (
                "; its 3-D convolutions look at volumes, and what is explained are pictures (N, C, H, W): wrap it in a "
                "module that makes a volume of a picture, as of one slice among fixed ones"
            )
        if reason == "AssertionError":
            return (
                ": its forward asserts something of its input, which is float32, (N, C, H, W), normalized as its "
                "Preprocess says; wrap it in a module that makes what it takes"
            )
        if "Inference tensors" in reason:
            return "; its forward runs in inference mode, out of which nothing goes back to the picture: leave that out"
        if "functorch" in reason:
            return "; its forward uses torch.func (vmap), which takes no rules: use saliency or integrated_gradients"
        if reason.startswith(("IndexError: too many indices", "KeyError", "TypeError: new(): invalid data type 'str'")):
            return (
                "; where its forward takes a dict (batch['image']) or a list, wrap it in a module whose forward takes "
                "the pictures alone and makes that of them"
            )
        channels = re.search(r"to have (\d+) channels, but got (\d+) channels", reason)
        if channels and int(channels[2]) == len(self.preprocess.mean):
            return (
                f"; its Preprocess makes {channels[2]} channels of a picture, as many as mean and std have: give "
                f"Preprocess(size, mean=..., std=...) or a JSON card with {channels[1]} each"
            )
        of_size = self.preprocess.size is None and _OF_SIZE.search(reason)
        told = (
            "; its Preprocess names no size, give the one it was made for, with a mean for each channel that it takes"
        )
        return f"{told} (now {self.preprocess.channels})" if of_size else ""

    def _refuse_second_input(self, error: TypeError) -> None:
        """Say of a network that takes more than pictures what it takes."""
        lacking = open_inputs(self.module, self.inputs)
        if lacking:
            raise lacking_inputs(self.name, lacking) from error

    def read(self, output: Any, count: int | None = None) -> Tensor:
        """(N, K) scores out of whatever the module returned.

        A sigmoid head of one output and two labels becomes two scores, (-z, z); a probability its
        logarithm. Of one image a row of scores that lost the axis of images is read as what it is.

        Args:
            output: of the module.
            count: of the images that it was given, N; None if that is not known.

        Raises:
            ModelError: if no scores are found in it, not one row for each image, or not one score for each label.
        """
        scores = self.rows(output, count)
        if self.head == "softmax" and scores.shape[1] == 1:
            raise ModelError(
                f"{self.name} has one output, whose softmax is always 1; use head='sigmoid' for a binary classifier "
                "(with two labels: its negative and its positive class), head='score' for a plain number; for the "
                'command, "head": "sigmoid" in the JSON card beside its file'
            )
        binary = scores.shape[1] == 1 and len(self.labels) == 2
        if self.head == "sigmoid" and binary:
            scores = torch.cat([-scores, scores], dim=1)
        if self.head == "probabilities":  # the logarithm is the score: its softmax is the probability again
            scores = torch.cat([1 - scores, scores], dim=1) if binary else scores
            scores = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
        if self.labels and scores.shape[1] != len(self.labels):
            raise ModelError(
                f"{self.name} returned {scores.shape[1]} scores for each image, but has {len(self.labels)} labels; "
                "give one label for each score, in their order"
            )
        return scores

    def found(self, output: Any) -> Tensor:
        """The scores in whatever the module returned, in the shape that they have there.

        Raises:
            ModelError: if none are found, or several, of which none is named.
        """
        scores: Tensor = find_scores(output, self.output)
        if self.output is None:
            self._refuse_several(output, scores)
        return scores

    def _refuse_several(self, output: Any, scores: Tensor) -> None:
        """Refuse the first of several outputs where another could be the scores: rows, or maps where those are meant.

        One that has not as many classes as there are labels could not; a field of a tuple is not refused where its name
        says that it holds them.
        """
        if not isinstance(output, tuple | list) or not set(_NAMES_OF_SCORES).isdisjoint(getattr(output, "_fields", ())):
            return
        axes = 4 if self.head == "maps" else 2

        def fits(value: Any) -> bool:
            alike = isinstance(value, Tensor) and value.is_floating_point() and value.ndim == axes
            return alike and len(value) == len(scores) and len(self.labels) in (0, self._count(value.shape[1]))

        first, *others = (part for part in output if part is not None)
        is_row = axes == 2 and scores.ndim > 2 and scores.shape[2:].numel() == 1  # (N, classes, 1, 1)
        if first is scores and not is_row and any(map(fits, others)):
            raise several_outputs(self.name, output)

    def _count(self, columns: int) -> int:
        """How many classes so many scores are: one score of two labels is both."""
        return 2 if columns == 1 and len(self.labels) == 2 else columns

    def rows(self, output: Any, count: int | None = None) -> Tensor:
        """(N, K) the numbers themselves, one row for each of `count` images, whatever the head.

        Of maps of scores their mean over the places, of boxes the best of each class.
        """
        if self.head == "boxes":
            return best_of_each(output, len(self.labels), self.name)
        found = self.found(output)
        if self.head == "maps" and found.ndim == 4:
            found = found.mean(dim=(2, 3))
        if found.layout != torch.strided or found.is_nested:
            what = "nested" if found.is_nested else "sparse"
            raise ModelError(f"{self.name} returned its scores as a {what} tensor; let it return a dense one")
        if not found.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.")
            such = "" if found.is_complex() else ", such as indices of classes"
            raise ModelError(f"{self.name} returned {kind}{such}; it must return their scores as floats")
        scores = found
        if count == 1 and scores.ndim < 2:
            scores = scores.reshape(1, -1)
        elif scores.ndim == 1:
            scores = scores[:, None]
        elif scores.ndim > 2 and scores.shape[2:].numel() == 1:
            scores = scores.flatten(1)
        if scores.ndim != 2 or scores.shape[1] == 0 or (count is not None and len(scores) != count):
            expected = ("", "(N, classes)") if count is None else (f" for {count} images", f"({count}, classes)")
            raise ModelError(
                f"{self.name} returned scores of shape {tuple(found.shape)}{expected[0]}, not {expected[1]}; "
                + (
                    "maps of scores, as segmentation networks return them, are read with head='maps'"
                    if found.ndim == 4
                    else "wrap it so that it returns one row of scores for each image"
                )
            )
        return scores

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, K) in [0, 1]; for a head of plain scores the scores themselves."""
        if self.head == "sigmoid" or (self.head == "maps" and logits.shape[1] == 1):  # (a softmax of one is 1)
            return logits.sigmoid()
        if self.head in ("softmax", "maps"):
            return logits.softmax(dim=1)
        return logits.exp() if self.head == "probabilities" else logits

    def score(self, logits: Tensor, target: Target, default: Score = "logit") -> Tensor:
        """(N,) the number that a target asks for, differentiable.

        "logit" is S_c (log p_c where the network returns probabilities), "probability" p_c, "margin" S_c - max of the
        others; with `versus` all three are the difference between the two classes. A head of
        plain scores has no probability: a method whose default it is uses the score instead; asking for it by name is
        refused.
        """
        return target.scores(Outputs(self, given=logits), default)

    def predictions(self, logits: Tensor, count: int = 5) -> list[list[Prediction]]:
        """The best `count` classes of each row of logits, best first."""
        probabilities = self.probabilities(logits.float())
        best = probabilities.topk(min(count, logits.shape[1]), dim=1)
        return [
            [Prediction(index, self.labels[index], value) for index, value in zip(indices, values, strict=True)]
            for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def with_module(self, module: nn.Module) -> Classifier:
        """The same classifier around another module."""
        found = self._with(module, self.inputs)
        found._base = self._base if module is self.module else None
        return found

    def _with(self, module: nn.Module, inputs: FixedInputs) -> Classifier:
        there = dict(unwrapped(module).named_modules(remove_duplicate=False))
        layouts = {name: layout for name, layout in self.layouts.items() if name in there}
        basics = (module, self.preprocess, self.labels, self.head)
        return Classifier(*basics, name=self.name, output=self.output, inputs=inputs, layouts=layouts)


def _device_of_values(module: nn.Module) -> torch.device:
    """Where values are, of a module whose first tensor has none: a skeleton that is fed with weights kept elsewhere."""
    known = (tensor.device for tensor in (*module.parameters(), *module.buffers(), *loose_tensors(module)))
    return next((device for device in known if device.type != "meta"), torch.device("meta"))


def loose_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that are attributes of modules, or lie in lists and dicts that are, such as stacked weights."""
    for value in chain.from_iterable(vars(child).values() for child in module.modules()):
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
        yield from (item for item in items if isinstance(item, Tensor))


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside what training puts around it: DataParallel, DistributedDataParallel, torch.compile."""
    while True:
        inner = dict(vars(module).get("_modules", {}).items()).get("_orig_mod")
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


# What errors mention where values do not fit each other.
# A network whose modules are put in eval mode for a pass is not to be put back by another thread meanwhile.
_EVALUATING = threading.RLock()
_OF_SIZE = re.compile(r"size|shape|dimension|must match|multipl|range|divisible|broadcast|expand", re.IGNORECASE)


# What a network is asked for its parts by.
_ASKED = (
    *("modules", "named_modules", "children", "named_children", "parameters", "named_parameters", "buffers"),
    *("named_buffers", "get_submodule", "state_dict"),
)


def _check_names(module: nn.Module) -> None:
    """Refuse a network that has something of its own under a name by which networks are asked for their parts."""
    waiting: list[tuple[str, nn.Module]] = [("", module)]
    seen: set[int] = set()
    while waiting:
        place, child = waiting.pop()
        if id(child) in seen or isinstance(child, torch.jit.ScriptModule):
            continue
        seen.add(id(child))
        for name in _ASKED:
            own = vars(child).get(name, vars(child).get("_modules", {}).get(name))
            own = getattr(type(child), name, None) if own is None else own
            if not callable(own) or isinstance(own, nn.Module):
                of = f"its layer '{place}'" if place else type(child).__name__
                raise ModelError(
                    f"'{name}' of {of} is a {type(own).__name__}, where torch.nn.Module has the method of that name; "
                    "give the attribute another name"
                )
        parts = vars(child).get("_modules", {})
        waiting += [(f"{place}.{key}".strip("."), part) for key, part in parts.items() if part is not None]


def _checked_module(module: Any) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise ModelError(f"a classifier needs a torch.nn.Module, not a {type(module).__name__}")
    _check_names(module)
    return unwrapped(module)


def _checked_head(head: Any) -> Any:
    if not isinstance(head, str) or head not in get_args(HeadKind):
        raise OptionError(f"head '{head}' is unknown; choose {', '.join(get_args(HeadKind))}")
    return head


def _checked_preprocess(preprocess: Any) -> Preprocess:
    if not isinstance(preprocess, Preprocess):
        raise OptionError(f"preprocess={preprocess!r} is no Preprocess; give Preprocess(size, short_side, mean, std)")
    return preprocess


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "module": _checked_module,
    "head": _checked_head,
    "preprocess": _checked_preprocess,
}


def _checked_layouts(module: nn.Module, layouts: Mapping[str, Layout] | None) -> dict[str, Layout]:
    if layouts is not None and not isinstance(layouts, Mapping):
        raise OptionError(f"layouts={layouts!r} is no dict of layer names, such as {{'features': 'NHWC'}}")
    checked: dict[str, Layout] = {}
    for layer, layout in (layouts or {}).items():
        if not is_layout(layout):
            raise OptionError(
                f"layout {layout!r} of layer '{layer}' is unknown; choose NCHW, NHWC, NTC, NCT or TNC, or NTC:1+5 "
                "where one token before and five behind those of the patches are no places"
            )
        checked[layer_name(module, layer)] = layout
    return checked


@cache
def _as_it_is(channels: int) -> Preprocess:
    """Images in [0, 1] as they are: the very object tells that nobody said how the network is fed."""
    return Preprocess(None, None, (0.0,) * channels, (1.0,) * channels)


def find_scores(output: Any, key: str | int | None, kind: type = Tensor) -> Any:
    """The scores in whatever a network returned: of type `kind`, a tensor or a graph's stand-in for one.

    Raises:
        ModelError: if none is found, or none under `key`.
    """
    if key is not None:
        if isinstance(key, str) and isinstance(output, kind):  # (PyTorch takes a name for an index, with a warning)
            raise ModelError(f"the network's output has no '{key}': it is one tensor; leave the name out")
        if isinstance(output, Mapping) and isinstance(key, int) and key not in output:
            output = list(output.values())  # (names of some files are no words: a position is meant)
        try:
            output = output[key]
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError):  # (the last: torch before 2.9)
            if not isinstance(key, str) or not hasattr(output, key):
                raise ModelError(f"the network's output has no '{key}' (there is: {_listed(output)})") from None
            output = getattr(output, key)
    if isinstance(output, kind):
        return output
    parts = output if isinstance(output, list) and output else [output]
    if all(isinstance(part, Mapping) for part in parts) and (len(parts) > 1 or parts is output or "boxes" in output):
        what = f"{'list of dicts' if parts is output else 'dict'} ({', '.join(map(str, parts[0]))})"
        raise ModelError(
            f"the network returned a {what}, as detectors do, which head='boxes' reads; else it must return "
            "one row of scores for each image"
        )
    values = _first_known(output, kind)
    if values is None:
        if isinstance(output, Mapping) and sum(isinstance(value, kind) for value in output.values()) > 1:
            raise several_outputs("the network", output)
        raise ModelError(
            f"the network returned {type(output).__name__} without scores (there is: {_listed(output)}); name them "
            "with output='key'"
        )
    return values


# Keys and fields that say that they hold the scores, as models of many makers have them.
_NAMES_OF_SCORES = ("logits", "scores", "output", "out", "pred", "prediction")


def several_outputs(name: str, output: Any) -> ModelError:
    """The error for a network of several outputs, any of which could be meant."""
    parts = output.items() if isinstance(output, Mapping) else enumerate(output)
    rows = [key for key, value in parts if isinstance(value, Tensor) and value.ndim == 2]
    first = rows[0] if rows else next(iter(output)) if isinstance(output, Mapping) else 0
    if set(str(first)) & set("/:"):  # what a model's spec cannot hold
        first = 0
    return ModelError(
        f"{name} returns several outputs ({_listed(output)}); say which holds the scores: output={first!r} in Python "
        f"and in a JSON card, SPEC@{first} where a model is named"
    )


def _listed(output: Any) -> str:
    """The parts of an output by key or position, with their shapes."""
    if isinstance(output, Mapping) or hasattr(output, "_asdict"):
        parts = list((output if isinstance(output, Mapping) else output._asdict()).items())
    elif isinstance(output, tuple | list):
        parts = list(enumerate(output))
    else:
        return type(output).__name__
    shown = [f"{key!r} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(key) for key, value in parts[:12]]
    return ", ".join(shown) + (", ..." if len(parts) > 12 else "")


def _first_known(output: Any, kind: type) -> Any:
    """The logits of a dict, of a tuple with names or of an object; else the first tensor of a tuple."""
    for key in _NAMES_OF_SCORES:
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        found = _first_known(found, kind) if isinstance(found, Mapping) else found
        if isinstance(found, kind):
            return found
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, kind)]
        return tensors[0] if len(tensors) == 1 else None
    if isinstance(output, list) and len(output) > 1 and all(getattr(part, "ndim", 0) == 1 for part in output):
        raise ModelError(
            f"the network returned a list of {len(output)} rows, of images or of other things; it must return one "
            "tensor (N, classes), as torch.stack makes it, or say which holds the scores by output=0"
        )
    if not isinstance(output, tuple | list):
        return None
    there = [part for part in output if part is not None]
    # (A loss before the logits is one number; of a graph the shapes are not known.)
    rows = [part for part in there if not (isinstance(part, Tensor) and part.ndim == 0)]
    first = next(iter(rows or there), None)
    return first if first is None or isinstance(first, kind) else _first_known(first, kind)
