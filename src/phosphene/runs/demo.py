"""The run behind `phosphene demo`: a tour on pictures that come with scikit-image and scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from phosphene.errors import to_install
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.explain import explain_pictures
from phosphene.tasks import ExplainConfig

PICTURES = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/rocket.jpg"),
)
_PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
METHODS = ("grad_cam", "cam", "saliency", "saliency:crops=10", "input_x_gradient", "occlusion", "rise:masks=400")


def demo_pictures() -> list[Path]:
    """The packaged photographs: a cat, an espresso, a flower, a rocket."""
    paths = []
    for package, place in PICTURES:
        found = find_spec(package)
        if found is None or found.origin is None:
            raise to_install(f"{package} is not installed", _PACKAGES[package])
        paths.append(Path(found.origin).parent / place)
    return [path for path in paths if path.is_file()]


def demo(common: CommonOptions) -> dict[str, Any]:
    """Explain the packaged photographs by every method of the tour; the JSON answer of `explain`."""
    return explain_pictures([str(path) for path in demo_pictures()], ExplainConfig.of(METHODS), common)
