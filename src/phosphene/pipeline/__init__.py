"""The verbs of the library: each looks its method up, feeds it, times it; one file per verb."""

from phosphene.pipeline.explain import attribute, explain, resolve_target

__all__ = ["attribute", "explain", "resolve_target"]
