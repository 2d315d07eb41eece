"""From values to pictures: tensors in, PIL images out; no model and no files."""

from phosphene.render.chart import bar_chart, line_chart
from phosphene.render.contrast import contrast_labels, contrast_sheet
from phosphene.render.grid import channel_grid, filter_grid, side_by_side, stacked
from phosphene.render.heat import (
    Scale,
    colorbar,
    doubt,
    heat_layer,
    overlay,
    scale_of,
    shared_scale,
    tells_no_place,
    with_doubt,
)
from phosphene.render.impression import _impression_sheet as _impression_sheet
from phosphene.render.laid import draw, laid_layer, laid_map, reconstruction_picture, thumbnail
from phosphene.render.object import draw_boxes, steps_picture
from phosphene.render.positions import position_map
from phosphene.render.scatter import group_color, thumbnail_map
from phosphene.render.sheet import contact_sheet
from phosphene.render.shown import Sheet, Tile, in_notebook, numbers, shown_as
from phosphene.render.spokes import facet_spokes

__all__ = [
    "Scale",
    "Sheet",
    "Tile",
    "bar_chart",
    "channel_grid",
    "colorbar",
    "contact_sheet",
    "contrast_labels",
    "contrast_sheet",
    "draw",
    "doubt",
    "draw_boxes",
    "facet_spokes",
    "filter_grid",
    "group_color",
    "heat_layer",
    "in_notebook",
    "laid_layer",
    "laid_map",
    "line_chart",
    "numbers",
    "overlay",
    "position_map",
    "reconstruction_picture",
    "scale_of",
    "shared_scale",
    "shown_as",
    "side_by_side",
    "stacked",
    "steps_picture",
    "thumbnail",
    "thumbnail_map",
    "tells_no_place",
    "with_doubt",
]
