"""Classifiers by name: one file per source."""

from phosphene.zoo.load import load_classifier

__all__ = ["load_classifier"]
