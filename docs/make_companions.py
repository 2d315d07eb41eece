"""Draws the companions of the embedded network that come with phosphene (src/phosphene/data/companions-*.npz).

python docs/make_companions.py    two minutes on two cores; needed again whenever companions are drawn otherwise
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from phosphene import impress

DATA = Path(__file__).parent.parent / "src" / "phosphene" / "data"

if __name__ == "__main__":
    for old in DATA.glob("companions-*.npz"):
        old.unlink()
    os.environ["PHOSPHENE_CACHE"] = str(DATA)
    impress("embedded", 0, "class_impression", steps=1)
    shutil.rmtree(DATA / "kernels", ignore_errors=True)  # compiled for this processor
    print(*DATA.glob("companions-*.npz"), sep="\n")
