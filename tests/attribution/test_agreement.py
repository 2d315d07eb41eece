"""Agreement with captum on the real network and two photographs; on more: benchmarks/agreement.py."""

from __future__ import annotations

import pytest
from benchmarks.agreement import measure, table
from PIL import Image
from skimage import data

from phosphene.zoo import load_classifier


@pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients")
def test_captum_gives_the_same_maps():
    pictures = [Image.fromarray(data.chelsea()), Image.fromarray(data.coffee())]
    classifier = load_classifier("embedded")
    images = classifier.preprocessed(pictures, classifier.views(pictures))
    rows = measure(classifier, images, window=96, stride=96)
    assert len(rows) == 6
    assert all(row.holds for row in rows), table(rows)
