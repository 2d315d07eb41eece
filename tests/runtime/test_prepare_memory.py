"""Prepared forms go when their classifier goes, and when its weights change."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from phosphene.classifier import Classifier
from phosphene.runtime import forward, prepare


def _classifier() -> Classifier:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(network.eval())


def test_a_forgotten_classifier_takes_its_prepared_forms_along() -> None:
    classifier = _classifier()
    prepared = [prepare(classifier, precision=precision) for precision in ("exact", "fast")]
    forward(prepared[1], torch.rand(1, 3, 8, 8))
    found, modules = [weakref.ref(one) for one in prepared], [weakref.ref(one.module) for one in prepared]
    del classifier, prepared
    assert all(reference() is None for reference in found)
    gc.collect()
    assert all(reference() is None for reference in modules)


def test_weights_go_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        classifier = _classifier()
        forward(classifier, torch.rand(2, 3, 8, 8))
        prepared = prepare(classifier)
        kept = [weakref.ref(prepared.module[0].weight), weakref.ref(prepared.network.module[0].weight)]
        del classifier, prepared
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()


def test_weights_that_keep_changing_leave_nothing_behind() -> None:
    classifier, images = _classifier(), torch.rand(1, 3, 8, 8)
    modules = []
    for _ in range(5):
        with torch.no_grad():
            classifier.module[0].weight.normal_()
        forward(classifier, images)
        modules.append(weakref.ref(prepare(classifier).module))
    gc.collect()
    assert [reference() is None for reference in modules] == [True] * 4 + [False]


def test_all_layers_share_one_prepared_form() -> None:
    classifier = _classifier()
    assert prepare(classifier, keep=["0"]) is prepare(classifier, keep=["1", classifier.module[2]])
