"""The verbs of the library: each looks its method up, feeds it, times it; one file per verb."""

from phosphene.pipeline.explain import attribute, explain, resolve_target
from phosphene.pipeline.head import Head, fit_head

__all__ = ["Head", "attribute", "explain", "fit_head", "resolve_target"]
