"""What each view answers: generators of HTML, run by the worker; each value makes the one before needless."""

from phosphene.web.views.audit import audit
from phosphene.web.views.compare import compare
from phosphene.web.views.explain import explain
from phosphene.web.views.layer import activations, features
from phosphene.web.views.locate import locate
from phosphene.web.views.place import place
from phosphene.web.views.remember import remember

__all__ = ["activations", "audit", "compare", "explain", "features", "locate", "place", "remember"]
