"""What an operation of PyTorch makes of the axes of its arguments."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from phosphene.axes.call import Call
from phosphene.axes.names import (
    CHANNELS,
    FREQUENCIES,
    IMAGES,
    PLACES,
    Axes,
    Axis,
    are_channels,
    are_places,
    axis_length,
    has_places,
    made_of_places,
    may_be_mixed,
    mixed,
    named,
    names_in,
    regrouped,
    resized,
)


def axes_made(call: Call, output: Tensor) -> Axes | None:
    """The axes of one output of a call, None where they are not known."""
    try:
        return _RULES.get(call.name, _alike)(call, output)
    except (TypeError, ValueError, LookupError):  # of unknown axes, or an overload with other arguments than the rule's
        return None


def joins_images(call: Call) -> bool:
    """Whether a call makes one value of several images."""
    axes, rule = call.of(_factor(call)), _RULES.get(call.name)
    if not axes:
        return False
    if rule is _reduced:
        joined = _gone(call)
    elif rule in (_multiplied, _linear):
        joined = {len(axes) - 1}
    elif call.name in _ALONG:
        joined = {int(call.argument(_ALONG[call.name], "dim", -1)) % len(axes)}
    else:
        return False
    return any(name == IMAGES and length > 1 for one in joined for name, length in axes[one])


def moves_places(call: Call) -> bool:
    """Whether places may lie elsewhere in what a call makes."""
    axes = call.of(0)
    if call.name in _MOVING or axes is None or _RULES.get(call.name) is not _permuted:
        return call.name in _MOVING
    places = [place for place, axis in enumerate(axes) if PLACES in names_in(axis)]
    return [place for place in _order(call, len(axes)) if place in places] != places


def works_by_value(call: Call) -> bool:
    """Whether a call makes each value of those at its place, in channels of their own where it joins or stacks."""
    return call.name in ("cat", "stack") or _RULES.get(call.name, _alike) is _alike


def put_around(call: Call) -> dict[int, tuple[int, int]]:
    """The length of an axis of places to which others' values were put, and how many before and behind."""
    if call.name != "cat":
        return {}
    parts = [call.given.get(part) for part in call.args[0]]
    known = [index for index, axes in enumerate(parts) if axes is not None]
    if len(known) != 1 or len(parts) == 1:
        return {}
    axes = parts[known[0]] or ()
    along = int(call.argument(1, "dim", 0)) % len(axes)
    if {name for name, length in axes[along] if length > 1} != {PLACES}:
        return {}
    lengths = [int(part.shape[along]) for part in call.args[0]]
    return {sum(lengths): (sum(lengths[: known[0]]), sum(lengths[known[0] + 1 :]))}


def axes_resized(call: Call, output: Tensor) -> Axes | None:
    """Axes of an operation that makes axes longer or shorter, but leaves each what it is."""
    fitting = [axes for axes in call.given.values() if len(axes) == output.ndim]
    # Of several that are joined those with places: a class's token goes with those of the patches; but not where
    # tokens beside it were picked out.
    first = next(filter(has_places, fitting), fitting[0] if fitting else None)
    along = int(call.argument(1, "dim", 0)) if call.name == "cat" else None
    if first is not None and along is not None and are_places(first[along]):
        first = next((axes for axes in fitting if any(not name and n > 1 for name, n in axes[along])), first)
    return None if first is None else tuple(map(resized, first, output.shape))


def _alike(call: Call, output: Tensor) -> Axes | None:
    """Axes of an operation value by value: those of the operands, which are broadcast to the output."""
    fitting = [axes for axes in call.given.values() if len(axes) == output.ndim]
    found = []
    for place, length in enumerate(output.shape):
        known = [axes[place] for axes in fitting if axis_length(axes[place]) == length]
        if not known:
            return None
        # (What was expanded to a length has no name.)
        found.append(next((axis for axis in known if any(names_in(axis))), known[0]))
    return tuple(found)


def _attended(call: Call, output: Tensor) -> Axes | None:
    """Axes of attention: the tokens are those of the queries."""
    query, key = call.of(0), call.of(1)
    if query is not None and len(query) == output.ndim:
        return query
    return None if key is None else (*key[:-2], _nameless(output.shape[-2]), key[-1])


def _picked(call: Call, output: Tensor) -> Axes | None:
    """Axes of values that are picked out: an axis of another length is no grid of places any more."""
    given = call.first
    return tuple(map(_kept_or_nameless, given, output.shape)) if len(given) == output.ndim else None


def _transformed(call: Call, output: Tensor) -> Axes:
    """Axes of a Fourier transform: places become frequencies, and come back."""
    turned = {place % output.ndim for place in call.args[1]}
    names = {PLACES: FREQUENCIES, FREQUENCIES: PLACES}
    return tuple(
        ((names.get(axis[0][0], axis[0][0]), length),) if place in turned and len(axis) == 1 else axis
        for place, (axis, length) in enumerate(zip(call.first, output.shape, strict=True))
    )


def _in_parts(call: Call, output: Tensor) -> Axes:
    """Axes of complex numbers as pairs of real ones."""
    return (*call.first, _nameless(2))


def _regrouped(call: Call, output: Tensor) -> Axes | None:
    """Axes of a view of another shape."""
    return regrouped(call.first, output.shape)


def _permuted(call: Call, output: Tensor) -> Axes:
    return tuple(call.first[place] for place in _order(call, output.ndim))


def _order(call: Call, count: int) -> list[int]:
    """Which of `count` axes stands where after they were permuted."""
    if call.name in ("permute", "permute_copy"):
        return [place % count for place in call.args[1]]
    order = list(range(count))
    one, other = (int(call.argument(1, "dim0", 0)) % count, int(call.argument(2, "dim1", 1)) % count)
    order[one], order[other] = other, one
    return order


def _turned(call: Call, output: Tensor) -> Axes:
    """Axes of `.t()` and `.T`."""
    return tuple(reversed(call.first))


def _expanded(call: Call, output: Tensor) -> Axes:
    added = output.ndim - len(call.first)
    return tuple(map(_kept_or_nameless, (*[()] * added, *call.first), output.shape))


def _selected(call: Call, output: Tensor) -> Axes:
    """Axes without the one along which one value was taken."""
    given = call.first
    gone = int(call.argument(1, "dim", 0)) % len(given)
    return (*given[:gone], *given[gone + 1 :])


def _stacked(call: Call, output: Tensor) -> Axes | None:
    given = next(iter(call.given.values()))
    new = int(call.argument(1, "dim", 0)) % output.ndim
    return (*given[:new], _nameless(output.shape[new]), *given[new:])


def _reduced(call: Call, output: Tensor) -> Axes | None:
    given, gone = call.first, _gone(call)
    if output.ndim not in (len(given), len(given) - len(gone)):
        return None
    if output.ndim == len(given):
        return tuple(() if place in gone else axis for place, axis in enumerate(given))
    return tuple(axis for place, axis in enumerate(given) if place not in gone)


def _gone(call: Call) -> set[int]:
    """The axes that an operation sums over, say."""
    count, place = len(call.of(0) or ()), 2 if "norm" in call.name else 1  # after the order of a norm
    dims = call.argument(place, "dim")
    dims = range(count) if dims is None else [dims] if isinstance(dims, int) else dims
    return {place % count for place in dims} if count else set()


def _multiplied(call: Call, output: Tensor) -> Axes | None:
    """Axes of a product of matrices: the rows of the one, the columns of the other."""
    one, other = call.of(_factor(call)), call.of(_factor(call) + 1)
    if one is not None:
        column = other[-1] if other is not None else _mixed(one, output)
        return (*one[:-1], column) if len(one) == output.ndim else None
    if other is None or len(other) != output.ndim:
        return None
    return (*other[:-2], _nameless(output.shape[-2]), other[-1])


def _factor(call: Call) -> int:
    """Which argument of a product is its first factor: some begin with what is added."""
    return 1 if call.name in ("addmm", "baddbmm", "addbmm") else 0


def _linear(call: Call, output: Tensor) -> Axes:
    return (*call.first[:-1], _mixed(call.first, output))


def _mixed(axes: Axes, output: Tensor) -> Axis:
    """What a linear layer makes of the last axis: channels, but where it mixes the places of channels elsewhere."""
    before = {name for axis in axes[:-1] for name in names_in(axis)}
    last = tuple(factor for factor in axes[-1] if factor[1] > 1)
    if CHANNELS in before and may_be_mixed(last):
        return mixed(last, output.shape[-1])
    return ((CHANNELS, output.shape[-1]),)


def _maps(call: Call, output: Tensor) -> Axes | None:
    """Axes of a convolution or pooling: channels, then places."""
    given, names = call.of(0), {3: "NCP", 4: "NCPP"}.get(output.ndim)
    if names is not None and made_of_places(given) == "frequencies":
        names = names.replace(PLACES, FREQUENCIES)
    return None if names is None else named(output.shape, names)


def _convolved(call: Call, output: Tensor) -> Axes | None:
    """The same of a convolution, which may take patches for its channels: then it is a linear layer over them."""
    given = call.of(0) or ()
    if len(given) == output.ndim and may_be_mixed(given[1]) and any(map(are_channels, given[2:])):
        return (given[0], mixed(given[1], output.shape[1]), *map(resized, given[2:], output.shape[2:]))
    return _maps(call, output)


def _regions(call: Call, output: Tensor) -> Axes | None:
    """Axes of what is read out of boxes, one of each image; of several nothing is known."""
    return _maps(call, output) if len(call.args[0]) == len(output) else None


def _nameless(length: int) -> Axis:
    return (("", length),)


def _kept_or_nameless(axis: Axis, length: int) -> Axis:
    return axis if axis_length(axis) == length else _nameless(length)


# What runs along one axis and leaves its length, and where that axis is named.
_ALONG = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "softmax"), 1),
    **dict.fromkeys(("topk", "kthvalue"), 2),
}

# What may put values elsewhere along their axes.
_MOVING = {
    "flip",
    "roll",
    "rot90",
    "gather",
    "index",
    "index_select",
    "take",
    "grid_sampler",
    "grid_sampler_2d",
    "as_strided",
    "roi_align",
    "roi_pool",
}

_Rule = Callable[[Call, Tensor], Axes | None]
_OPERATIONS: dict[_Rule, str] = {
    _regrouped: "view unsafe_view reshape reshape_alias flatten unflatten squeeze unsqueeze view_copy",
    _permuted: "permute permute_copy transpose transpose_copy swapaxes",
    _turned: "t numpy_T",
    _expanded: "expand expand_copy",
    _selected: "select unbind",
    _stacked: "stack",
    _reduced: "sum nansum mean amax amin aminmax logsumexp norm linalg_vector_norm prod var std var_mean std_mean all "
    "any argmax argmin max min median nanmedian count_nonzero",
    _multiplied: "mm bmm addmm baddbmm",
    _linear: "linear",
    _maps: "pixel_shuffle pixel_unshuffle im2col col2im grid_sampler_2d grid_sampler",
    _convolved: "convolution conv2d conv1d mkldnn_convolution cudnn_convolution slow_conv2d_forward thnn_conv2d "
    "convolution_overrideable deform_conv2d",
    _regions: "roi_align roi_pool",
    axes_resized: "slice narrow split split_with_sizes chunk cat constant_pad_nd pad reflection_pad2d "
    "replication_pad2d avg_pool2d adaptive_avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d "
    "fractional_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bilinear2d_aa upsample_bicubic2d "
    "upsample_bicubic2d_aa upsample_nearest_exact2d avg_pool1d max_pool1d adaptive_avg_pool1d reflection_pad1d",
    _attended: "scaled_dot_product_flash_attention_for_cpu scaled_dot_product_attention_math "
    "scaled_dot_product_efficient_attention scaled_dot_product_flash_attention",
    _picked: "index index_select gather topk",
    _transformed: "fft_c2c fft_r2c fft_c2r",
    _in_parts: "view_as_real",
}
_RULES: dict[str, _Rule] = {name: rule for rule, names in _OPERATIONS.items() for name in names.split()}
