"""What is done with pictures and classifiers: the library's verbs, and tasks of many items.

A task is a frozen config that can be pickled; its `run` makes rows of a batch of items, and who runs it decides where
the items come from and where the rows go. Verbs and tasks share their parts: `attributions` (explain, contrast,
attribute), `predict`, `objects` (locate), `impressions` (impress, fuse), `facets` (features), `head`.
"""

from phosphene.tasks.activations import ActivationsConfig
from phosphene.tasks.explain import ExplainConfig
from phosphene.tasks.features import FeaturesConfig
from phosphene.tasks.impress import ImpressConfig
from phosphene.tasks.locate import LocateConfig
from phosphene.tasks.predict import PredictConfig
from phosphene.tasks.task import PictureTask, Progress

__all__ = [
    "ActivationsConfig",
    "ExplainConfig",
    "FeaturesConfig",
    "ImpressConfig",
    "LocateConfig",
    "PictureTask",
    "PredictConfig",
    "Progress",
]
