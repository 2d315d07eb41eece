"""What is done with pictures, as frozen configs that can be pickled: `run` makes rows of a batch of items.

Who runs them decides where the items come from and where the rows go.
"""

from phosphene.tasks.explain import ExplainConfig
from phosphene.tasks.features import FeaturesConfig
from phosphene.tasks.impress import ImpressConfig
from phosphene.tasks.locate import LocateConfig
from phosphene.tasks.predict import PredictConfig
from phosphene.tasks.task import PictureTask, Progress

__all__ = [
    "ExplainConfig",
    "FeaturesConfig",
    "ImpressConfig",
    "LocateConfig",
    "PictureTask",
    "PredictConfig",
    "Progress",
]
