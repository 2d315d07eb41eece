"""Makes docs/images/hero.jpg: a real result on a packaged photograph.

python docs/make_hero.py
"""

from pathlib import Path

from skimage.data import coffee

import phosphene
from phosphene.images import as_pictures
from phosphene.render import draw, side_by_side

METHODS = {
    "cam": "class activation map",
    "saliency:crops=10": "saliency, ten crops",
    "occlusion:window=40,stride=8": "occlusion",
}


def main() -> None:
    (picture,) = as_pictures(coffee())
    results = phosphene.explain("embedded", picture, list(METHODS), target="espresso", view="whole")
    pictures, labels = [picture], ["espresso, what the classifier saw"]
    for result, label in zip(results, METHODS.values(), strict=True):
        pictures.append(draw(result, side=600))
        labels.append(label)
    sheet = side_by_side(pictures, labels, height=200)
    target = Path(__file__).parent / "images" / "hero.jpg"
    sheet.save(target, quality=90)
    print(target, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
