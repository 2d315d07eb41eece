"""The verbs of the library: each looks its method up, feeds it, times it; one file per verb."""

from phosphene.pipeline.explain import (
    Seen,
    attribute,
    attribute_seen,
    attribute_sides,
    contrast,
    explain,
    see,
)
from phosphene.pipeline.features import LayerFeatures, features
from phosphene.pipeline.head import Head, fit_head
from phosphene.pipeline.impress import fuse, impress
from phosphene.pipeline.locate import Located, locate
from phosphene.pipeline.stream import Batch, no_answer, stream

__all__ = [
    "Batch",
    "Head",
    "LayerFeatures",
    "Located",
    "Seen",
    "attribute",
    "attribute_seen",
    "attribute_sides",
    "contrast",
    "explain",
    "features",
    "fit_head",
    "fuse",
    "impress",
    "locate",
    "no_answer",
    "see",
    "stream",
]
