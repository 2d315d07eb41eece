"""What CRAFT can be told, declared once: for the function, the run and the command. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from phosphene.errors import OptionError
from phosphene.options import Options, option


@dataclass(frozen=True)
class CraftOptions(Options):
    """Options of CRAFT.

    Args:
        concepts: how many, K.
        crops: of each picture.
        size: side of a crop, as a part of what the network sees; above 0, at most 1.
        designs: rows of masks of each half of the design for the importance, a power of two.
    """

    concepts: int = option("How many concepts are found, 2 or more.", 10, at_least=2)
    crops: int = option("Crops of each picture.", 10, at_least=1)
    size: float = option("Side of a crop, as a part of what the network sees.", 1 / 3)
    designs: int = option("Rows of masks for the importance; a power of two.", 32, at_least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.size <= 1:
            raise OptionError(f"size={self.size} of a crop is a part of the picture; give above 0, at most 1")
        if self.designs & (self.designs - 1):
            raise OptionError(f"designs={self.designs} is no power of two; give 32, 64, ...")
