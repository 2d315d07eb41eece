"""Agreement with captum on the real network and three photographs; on more: benchmarks/agreement.py."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks.agreement import measure, table
from PIL import Image
from skimage import data

from phosphene.images import read_image
from phosphene.zoo import load_classifier


@pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients")
def test_captum_gives_the_same_maps():
    flower = Path(find_spec("sklearn").origin).parent / "datasets/images/flower.jpg"
    pictures = [Image.fromarray(data.chelsea()), Image.fromarray(data.coffee()), read_image(flower)]
    classifier = load_classifier("embedded")
    images = classifier.preprocessed(pictures, classifier.views(pictures))
    rows = measure(classifier, images, window=80, stride=64)
    assert len(rows) == 6
    assert all(row.holds for row in rows), table(rows)
