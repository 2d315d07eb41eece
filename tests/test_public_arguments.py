"""Whatever is given to a public function: an answer, or an error of ours in one line; never a raw one of Python."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
import torch

import phosphene
from phosphene.errors import PhospheneError
from tests.networks import classifier_of, pooled

KNOWN = classifier_of(pooled(), labels=list("abcde"))
IMAGES = torch.rand(2, 3, 16, 16)

ODD_MANY = 10**30
ODD = (
    *(None, 5, -1, 0, 1.5, True, "", "x", "nope.png", b"x", [], [None], [5], {}, {"a": 1}, object(), float("nan")),
    *(np.zeros(3), np.zeros((4, 4), bool), np.array(["a"]), np.int64(3), ODD_MANY, range(3), (1, 2, 3), ["a", "zz"]),
    *(torch.zeros(0), torch.rand(2, 2), torch.rand(2, 4, 16, 16), torch.full((3, 16, 16), float("nan")), lambda: 1),
    torch.tensor(2),
)

CALLS = {
    "explain classifier": lambda odd: phosphene.explain(odd, IMAGES),
    "explain images": lambda odd: phosphene.explain(KNOWN, odd),
    "explain method": lambda odd: phosphene.explain(KNOWN, IMAGES, odd),
    "explain target": lambda odd: phosphene.explain(KNOWN, IMAGES, target=odd),
    "explain layer": lambda odd: phosphene.explain(KNOWN, IMAGES, layer=odd),
    "explain view": lambda odd: phosphene.explain(KNOWN, IMAGES, view=odd),
    "explain precision": lambda odd: phosphene.explain(KNOWN, IMAGES, precision=odd),
    "explain seed": lambda odd: phosphene.explain(KNOWN, IMAGES, "rise:masks=4,cells=4", seed=odd),
    "explain batch_size": lambda odd: phosphene.explain(KNOWN, IMAGES, batch_size=odd),
    "contrast versus": lambda odd: phosphene.contrast(KNOWN, IMAGES, 0, odd),
    "contrast target": lambda odd: phosphene.contrast(KNOWN, IMAGES, odd, 1),
    "impress classes": lambda odd: phosphene.impress(KNOWN, odd, steps=1),
    "impress recipe": lambda odd: phosphene.impress(KNOWN, 0, odd, steps=1),
    "impress steps": lambda odd: None if odd in (None, 10**30) else phosphene.impress(KNOWN, 0, steps=odd),
    "impress seed": lambda odd: phosphene.impress(KNOWN, 0, steps=1, seed=odd),
    "impress count": lambda odd: None if odd is ODD_MANY else phosphene.impress(KNOWN, 0, steps=1, count=odd),
    "impress frames": lambda odd: phosphene.impress(KNOWN, 0, steps=1, frames=odd),
    "impress batch_size": lambda odd: phosphene.impress(KNOWN, 0, steps=1, batch_size=odd),
    "fuse groups": lambda odd: phosphene.fuse(KNOWN, odd, steps=1),
    "locate images": lambda odd: phosphene.locate(KNOWN, odd),
    "features facets": lambda odd: phosphene.features(KNOWN, "nope", facets=odd),
    "features exemplars": lambda odd: phosphene.features(KNOWN, "nope", exemplars=odd),
    "features seed": lambda odd: phosphene.features(KNOWN, "nope", seed=odd),
    "features pin": lambda odd: phosphene.features(KNOWN, pin=odd),
    "features pictures": lambda odd: phosphene.features(KNOWN, odd, layers=["0"]),
    "Classifier module": lambda odd: phosphene.Classifier(odd),
    "Classifier preprocess": lambda odd: phosphene.explain(phosphene.Classifier(pooled(), odd), IMAGES),
    "Classifier labels": lambda odd: phosphene.explain(phosphene.Classifier(pooled(), labels=odd), IMAGES),
    "Classifier head": lambda odd: phosphene.Classifier(pooled(), head=odd),
    "Classifier output": lambda odd: phosphene.explain(phosphene.Classifier(pooled(), output=odd), IMAGES),
    "Classifier name": lambda odd: phosphene.explain(phosphene.Classifier(pooled(), name=odd), IMAGES),
    "Classifier layouts": lambda odd: phosphene.Classifier(pooled(), layouts=odd),
    "Preprocess size": lambda odd: phosphene.Preprocess(odd),
    "Preprocess short_side": lambda odd: phosphene.Preprocess(short_side=odd),
    "Preprocess mean": lambda odd: phosphene.Preprocess(mean=odd),
    "Preprocess std": lambda odd: phosphene.Preprocess(std=odd),
    "Labels": lambda odd: phosphene.Labels(odd),
    "Labels ids": lambda odd: phosphene.Labels(("a",), odd),
    "Labels find": lambda odd: KNOWN.labels.find(odd),
    "Labels search": lambda odd: KNOWN.labels.search(odd),
    "Target of": lambda odd: phosphene.Target.of(odd),
    "Target": lambda odd: phosphene.Target(odd),
    "Target versus": lambda odd: phosphene.Target((1,), odd),
    "Target unit": lambda odd: phosphene.Target(unit=odd),
    "Unit layer": lambda odd: phosphene.explain(KNOWN, IMAGES, "saliency", target=phosphene.Unit(odd, 1)),
    "Unit channel": lambda odd: phosphene.explain(KNOWN, IMAGES, "saliency", target=phosphene.Unit("0", odd)),
    "Unit place": lambda odd: phosphene.explain(KNOWN, IMAGES, "saliency", target=phosphene.Unit("0", 1, odd)),
    "Region at": lambda odd: phosphene.Region(1, odd),
    "Detected box": lambda odd: phosphene.Detected(1, odd),
    "logits": lambda odd: KNOWN.logits(odd),
    "load_classifier": lambda odd: phosphene.load_classifier(odd),
    "prepare": lambda odd: phosphene.prepare(odd),
    "prepare keep": lambda odd: phosphene.prepare(KNOWN, odd),
    "draw": lambda odd: phosphene.draw(odd),
    "capture": lambda odd: phosphene.capture(pooled(), odd).__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_odd_argument_is_taken_or_refused_in_one_line(call):
    for odd in ODD:
        if call == "impress steps" and not isinstance(odd, str | float | bytes | list | dict | bool):
            continue
        with contextlib.suppress(PhospheneError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                CALLS[call](odd)
            except PhospheneError as error:
                assert "\n" not in str(error)
                raise
