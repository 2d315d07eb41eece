"""From values to pictures: tensors in, PIL images out; no model and no files."""

from phosphene.render.grid import channel_grid, side_by_side
from phosphene.render.heat import Scale, colorbar, heat_layer, overlay, scale_of, shared_scale
from phosphene.render.laid import draw, laid_layer, thumbnail

__all__ = [
    "Scale",
    "channel_grid",
    "colorbar",
    "draw",
    "heat_layer",
    "laid_layer",
    "overlay",
    "scale_of",
    "shared_scale",
    "side_by_side",
    "thumbnail",
]
