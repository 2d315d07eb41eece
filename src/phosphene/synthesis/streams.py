"""Randomness that belongs to an image: its draws depend on its seed and target only, never on its place in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import torch
from torch import Tensor

# Draws of so many steps are made at once; part of the definition of a stream, so never changed.
_BLOCK = 64


@dataclass(frozen=True)
class Streams:
    """One stream of random numbers per image, addressed by purpose and step: nothing to save, nothing to restore.

    The numbers for a step are found from (seed, target, purpose, step) alone, so a run that is repeated, resumed
    or batched otherwise draws the same. They are drawn on the CPU, so a GPU sees the same numbers too.

    Args:
        seeds: one seed per image.
        targets: one name per image of what it is drawn for, such as "301" or "head=7".

    Example:
        >>> both, alone = Streams((0, 0), ("301", "340")), Streams((0,), ("340",))
        >>> torch.equal(both.at(5).uniform("shift", 2)[1:], alone.at(5).uniform("shift", 2))
        True
    """

    seeds: tuple[int, ...]
    targets: tuple[str, ...]
    _tables: dict[tuple[str, int, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, seeds: int | Sequence[int], targets: Sequence[object]) -> Streams:
        """Streams for images of these targets, with one seed for all or one for each."""
        each = (seeds,) * len(targets) if isinstance(seeds, int) else tuple(seeds)
        return cls(each, tuple(str(target) for target in targets))

    def __len__(self) -> int:
        return len(self.seeds)

    def rows(self, start: int, stop: int) -> Streams:
        """The streams of images `start` to `stop`."""
        return Streams(self.seeds[start:stop], self.targets[start:stop])

    def at(self, step: int) -> Draws:
        """What the images draw at a step."""
        return Draws(self, step)

    def generators(self, purpose: str, number: int, rows: slice = slice(None)) -> list[torch.Generator]:
        """One generator per image for a numbered use of a purpose."""
        return [
            torch.Generator().manual_seed(_seed(seed, target, purpose, number))
            for seed, target in zip(self.seeds[rows], self.targets[rows], strict=True)
        ]

    def table(self, purpose: str, block: int, count: int) -> Tensor:
        """(N, steps of a block, count) uniform numbers in [0, 1); the last block of each purpose is kept."""
        if (purpose, block, count) not in self._tables:
            drawn = [
                torch.rand(_BLOCK, count, generator=generator, device="cpu", dtype=torch.float32)
                for generator in self.generators(purpose, block)
            ]
            for key in [key for key in self._tables if key[0] == purpose]:
                del self._tables[key]
            self._tables[purpose, block, count] = torch.stack(drawn)
        return self._tables[purpose, block, count]


@dataclass(frozen=True)
class Draws:
    """The random numbers of some images at one step.

    Args:
        streams: the streams of all images.
        step: which step.
        prefix: sets apart the purposes of one user from those of another.
        rows: (start, stop) of the images that are looked at; None for all.
    """

    streams: Streams
    step: int
    prefix: str = ""
    rows: tuple[int, int] | None = None

    def under(self, prefix: object) -> Draws:
        """The same step for another user: equal purposes draw other numbers."""
        return replace(self, prefix=f"{self.prefix}{prefix}/")

    def uniform(self, purpose: str, count: int = 1) -> Tensor:
        """(N, count) uniform in [0, 1)."""
        block, place = divmod(self.step, _BLOCK)
        return self.streams.table(self.prefix + purpose, block, count)[self._rows, place]

    def field(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """(N, *shape) uniform in [0, 1): whole images of noise."""
        return self._drawn(torch.rand, purpose, shape)

    def normal_field(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """(N, *shape) standard normal: whole images of Gaussian noise."""
        return self._drawn(torch.randn, purpose, shape)

    def own(self, values: Tensor) -> Tensor:
        """Of values with a row for each image of the run, those of the images that are looked at."""
        return values[self._rows]

    @property
    def _rows(self) -> slice:
        return slice(*self.rows) if self.rows else slice(None)

    def _drawn(self, draw: Callable[..., Tensor], purpose: str, shape: Sequence[int]) -> Tensor:
        kind = {"device": "cpu", "dtype": torch.float32}  # whatever the defaults are
        return torch.stack([draw(tuple(shape), generator=own, **kind) for own in self._generators(purpose)])

    def _generators(self, purpose: str) -> list[torch.Generator]:
        return self.streams.generators(self.prefix + purpose, self.step, self._rows)


def _seed(*parts: object) -> int:
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1
