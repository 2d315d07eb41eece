"""Impressions as they show themselves."""

from __future__ import annotations

from phosphene.images import to_pil
from phosphene.render.shown import Sheet, Tile, shown_as
from phosphene.types import Impression


@shown_as(Impression)
def _impression_sheet(made: Impression) -> Sheet:
    shares = made.probabilities[-1] if made.probabilities else ()
    read = f"probability at the last step {', '.join(f'{share:.2f}' for share in shares)}" if shares else ""
    stopped = ", stopped early" if made.stopped else ""
    lines = (made.label, read, f"{made.spec}, seed {made.seed}, {made.steps} steps{stopped}")
    return Sheet(((Tile(to_pil(made.image), tuple(line for line in lines if line)),),))
