"""The run behind `phosphene filters`: the first layer's filters, which are pictures themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from phosphene.errors import ModelError, OptionError
from phosphene.render import filter_grid
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import Session
from phosphene.runtime import Prepared


def show_filters(common: CommonOptions, layer: str | None = None, *, shared: bool = False) -> dict[str, Any]:
    """The filters of the convolution that looks at the picture, as small pictures, and their raw values.

    Args:
        common: the common options.
        layer: dotted name of a convolution over the picture's own channels; None for the first that runs.
        shared: one scale for all filters, or each its own.

    Returns:
        The JSON answer of the command: {"run", "report", "layer", "shape", "picture", "array", "filters": [...]}.

    Raises:
        ModelError: if no convolution looks at the picture's channels.
        OptionError: for a layer that is none.
    """
    classifier = common.load()
    name, filters = first_filters(classifier, layer)
    session = Session.start("filters", common, classifier, layer=name, shared=shared)
    norms = filters.flatten(1).norm(dim=1).tolist()
    # On its own scale a filter that training has put out looks like any other.
    labels = [f"{index} about 0" if norm < 1e-3 * max(norms) else f"{index}" for index, norm in enumerate(norms)]
    picture = filter_grid(filters.numpy(), labels, shared=shared)
    return session.finish(
        layer=name,
        shape=list(filters.shape),
        picture=session.folder.save_image("filters.png", picture),
        array=session.folder.save_array("filters.npy", filters.numpy()),
        filters=[{"index": index, "norm": norm} for index, norm in enumerate(norms)],
    )


def first_filters(classifier: Prepared, layer: str | None = None) -> tuple[str, torch.Tensor]:
    """(name, (K, C, h, w)) of the convolution that looks at the picture: its weights as they act on pixels.

    A weight is divided by the standard deviation of its channel, and the channels stand in the picture's order, so that
    a filter has the colors that it answers to.

    Raises:
        ModelError: if there is no such convolution.
        OptionError: if the layer is no convolution over the picture's own channels.
    """
    preprocess, module = classifier.preprocess, classifier.source.module
    found = {
        item.name: module.get_submodule(item.name)
        for item in sorted(classifier.layers, key=lambda item: item.order)
        if item.name
    }
    direct = {name: one for name, one in found.items() if _looks_at_picture(one, preprocess.channels)}
    if layer is not None:
        name = classifier.layer_name(layer)
        if name not in direct:
            raise OptionError(
                f"the filters of layer {name} are no pictures: it is no convolution over the picture's "
                f"{preprocess.channels} channels; leave --layer out"
            )
    elif not direct:
        raise ModelError(
            f"{classifier.name} has no convolution over the picture's {preprocess.channels} channels whose filters "
            "could be drawn; see phosphene layers"
        )
    else:
        name = next(iter(direct))
    weight = direct[name].weight
    assert isinstance(weight, torch.Tensor)
    weight = weight.detach().cpu().float()
    weight = weight / torch.tensor(preprocess.std)[None, :, None, None]
    return name, weight.flip(1) if preprocess.order == "BGR" else weight


def _looks_at_picture(module: nn.Module, channels: int) -> bool:
    return isinstance(module, nn.Conv2d) and module.in_channels == channels and module.groups == 1
