"""Classifiers by name: one file per source."""

from phosphene.zoo.choice import ModelChoice
from phosphene.zoo.load import load_classifier

__all__ = ["ModelChoice", "load_classifier"]
