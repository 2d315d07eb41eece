"""Reading a network without running it: FX graph, kernel geometry, spatial shapes, default layer, linear head."""

from phosphene.graph.default_layer import candidate_layers, default_layer, is_passive, places_known
from phosphene.graph.function_module import FunctionModule, Takes, check_inside
from phosphene.graph.head import LinearHead, nearest_module
from phosphene.graph.kernel import Kernel, convolution_kernel, pooling_kernel
from phosphene.graph.order import layer_before, layers_feeding
from phosphene.graph.plain import any_global_hook, is_changed, is_hooked, is_plain, is_swapped, keep_weights
from phosphene.graph.pointwise import changes_its_input, is_pointwise
from phosphene.graph.residual import residual_branches
from phosphene.graph.spatial import (
    channel_axis,
    extra_tokens,
    is_layout,
    spatial_map,
    spatial_size,
    token_axis,
    token_grid,
    token_note,
    tokens_of_places,
)
from phosphene.graph.successors import Successor, successors
from phosphene.graph.trace import LayerName, graph_module, input_channels, layer_name, trace, with_values

__all__ = [
    "FunctionModule",
    "Kernel",
    "LayerName",
    "LinearHead",
    "Successor",
    "Takes",
    "any_global_hook",
    "changes_its_input",
    "channel_axis",
    "check_inside",
    "convolution_kernel",
    "candidate_layers",
    "default_layer",
    "extra_tokens",
    "graph_module",
    "input_channels",
    "is_changed",
    "is_hooked",
    "is_layout",
    "is_passive",
    "is_plain",
    "is_pointwise",
    "is_swapped",
    "keep_weights",
    "layer_before",
    "layers_feeding",
    "layer_name",
    "nearest_module",
    "places_known",
    "pooling_kernel",
    "residual_branches",
    "spatial_map",
    "spatial_size",
    "successors",
    "token_axis",
    "token_grid",
    "token_note",
    "tokens_of_places",
    "trace",
    "with_values",
]
