"""The works, one file per kind."""

from benchmarks.work import Work
from benchmarks.works import cams, gradients, occlusions, synthesis

WORKS: list[Work] = [*gradients.WORKS, *occlusions.WORKS, *cams.WORKS, *synthesis.WORKS]
