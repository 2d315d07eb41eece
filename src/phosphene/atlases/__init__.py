"""The atlas: a static site of a whole network, a page for each class, layer and channel, drawn in parts."""

from phosphene.atlases.desk import Desk, Part
from phosphene.atlases.pages import write_pages
from phosphene.atlases.plan import STAGES, stage
from phosphene.atlases.run import atlas, run_atlas
from phosphene.atlases.work import AtlasConfig, Work

__all__ = ["STAGES", "AtlasConfig", "Desk", "Part", "Work", "atlas", "run_atlas", "stage", "write_pages"]
