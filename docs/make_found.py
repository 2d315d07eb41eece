"""Makes docs/images/found.jpg: masks and boxes of objects in packaged photographs.

python docs/make_found.py
"""

from pathlib import Path

from skimage.data import chelsea, coffee, rocket

import phosphene
from phosphene.images import as_pictures
from phosphene.render import side_by_side
from phosphene.tasks.objects import overview

OBJECTS = {"Egyptian cat": chelsea, "espresso": coffee, "missile": rocket}


def main() -> None:
    pictures, labels = [], []
    for name, photograph in OBJECTS.items():
        (picture,) = as_pictures(photograph())
        (found,) = phosphene.locate("embedded", picture, target=name)
        x0, y0, x1, y1 = map(round, found.box)
        pictures.append(overview(picture, [found], 600))
        labels.append(f"{name}: x {x0} to {x1}, y {y0} to {y1}")
    sheet = side_by_side(pictures, labels, height=200)
    target = Path(__file__).parent / "images" / "found.jpg"
    sheet.save(target, quality=90)
    print(target, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
