"""Draws the atlas of docs/atlas.md: 24 classes and two layers of the embedded network, on packaged photographs.

python docs/make_atlas.py [--out FOLDER] [--threads N]

`make atlas-demo` calls it; it ends in less than ten minutes on two cores. What is drawn in fewer steps than usual, and
how many channels are shown, is said here and nowhere else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import skimage
import sklearn
from make_gallery import CLASSES

import phosphene

# Photographs that come with scikit-image and scikit-learn: things, and textures for the places of the activation atlas.
PICTURES = [
    *(
        Path(skimage.__file__).parent / "data" / name
        for name in (
            *("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png", "coins.png"),
            *("camera.png", "brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "page.png"),
        )
    ),
    *(Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("flower.jpg", "china.jpg")),
]


def main() -> None:
    """Draw it, and say where it is."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--out", default="atlas-demo")
    command.add_argument("--threads", type=int)
    given = command.parse_args()
    answer = phosphene.atlas(
        "embedded",
        [path for path in PICTURES if path.is_file()],
        given.out,
        classes=CLASSES,
        layers=["blocks.8", "default"],
        channels=36,
        seeds=2,
        steps=120,
        channel_steps=48,
        grid=9,
        facets=3,
        precision="fast",
        threads=given.threads,
        overwrite=True,
        progress=lambda done, total, text: print(f"{done}/{total} {text}", file=sys.stderr),
    )
    print(f"{answer['pages']} pages, {answer['bytes'] / 1e6:.1f} MB, {answer['seconds']:.0f} s\n{answer['index']}")


if __name__ == "__main__":
    main()
