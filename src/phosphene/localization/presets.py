"""Named ways from a picture to a box: which maps are made, how they are put together, how they are cut."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from phosphene.errors import NotFoundError, suggest
from phosphene.localization.segment import GraphCut, SegmentName, Threshold


@dataclass(frozen=True)
class FineMaps:
    """How gradients at single pixels are treated, which are speckled where a layer's maps are calm.

    Args:
        power: of the values before they are blurred; below 1 single bright pixels count less.
        graph_cut: settings of "graphcut" for them.
        threshold: settings of "threshold" for them.
    """

    power: float
    graph_cut: GraphCut
    threshold: Threshold


@dataclass(frozen=True)
class LocalizationPreset:
    """One way to localize; data, so that it can be read, changed and written down.

    Args:
        name: what it is called.
        methods: specs of attribution methods; the maps of several are put together.
        sizes: sides of the squares that the whole frame is resized to, in multiples of the network's input.
        mirror: whether the mirrored frame is looked at too.
        blur: Gaussian laid on maps that are finer than it, as a share of the side; 0 for none.
        grid: longest side of the grid on which maps are put together and pictures are cut; None for the picture's own
            resolution, on which no map is blurred.
        ranking: by what classes are ranked: the whole frame and the centre with their mirror images, or ten crops.
        segment: how the mask is found unless asked otherwise.
        graph_cut: settings of "graphcut".
        threshold: settings of "threshold".
        other_level: level of both segmentations for other methods than the preset's own, whose maps it was chosen on.
        fine: what is different for gradients at single pixels; None if nothing is.
        otherwise: specs of methods that take the place of the preset's own one after the other, where those say
            nothing of a picture or do not run on a network.
    """

    name: str
    methods: tuple[str, ...]
    sizes: tuple[float, ...] = (1.0,)
    mirror: bool = False
    blur: float = 0.0
    grid: int | None = 96
    ranking: Literal["frame", "ten_crops"] = "frame"
    segment: SegmentName = "graphcut"
    graph_cut: GraphCut = field(default_factory=GraphCut)
    threshold: Threshold = field(default_factory=Threshold)
    other_level: float = 0.25
    fine: FineMaps | None = None
    otherwise: tuple[str, ...] = ()

    def with_methods(self, methods: tuple[str, ...]) -> LocalizationPreset:
        """The same way with other maps, and no others in their place."""
        return replace(
            self,
            methods=methods,
            otherwise=(),
            graph_cut=replace(self.graph_cut, level=self.other_level),
            threshold=replace(self.threshold, level=self.other_level),
        )

    def settings(self, *, fine: bool = False) -> GraphCut | Threshold:
        """The settings of the preset's segmentation, for maps of single pixels or for calm ones."""
        kind = self.fine if fine and self.fine is not None else self
        return kind.graph_cut if self.segment == "graphcut" else kind.threshold


# The paper, literally: classes ranked by ten crops, ten-crop saliency, samples above 95 % and below 30 % of the map as
# it is, two fixed mixtures, one cut on color at the picture's own resolution, the piece with the most pixels. It gives
# neither the number of components nor the smoothness: 5, in RGB, are those of GrabCut; its 50 leaves nothing to cut
# out in three pictures of ten, so 8 is ours (1 to 8 make no difference).
_PAPER = LocalizationPreset(
    "paper",
    ("saliency:crops=10",),
    grid=None,
    ranking="ten_crops",
    graph_cut=GraphCut(smoothness=8.0, largest="pixels"),
)

_BEST_CUT = GraphCut(
    foreground=0.85,
    background=0.40,
    components=3,
    space="lab",
    deep_features=6,
    likelihood=0.8,
    limit=3.0,
    saliency=10.0,
    level=0.47,
    smoothness=2.0,
)

# Chosen on 300 ILSVRC validation images: see docs/localization.md.
_BEST = LocalizationPreset(
    "best",
    ("layer_saliency",),
    sizes=(1.0, 1.5, 2.0),
    mirror=True,
    blur=0.05,
    graph_cut=_BEST_CUT,
    threshold=Threshold(0.40),
    other_level=0.30,
    # A map of single pixels knows the place less well: its own vote counts less, that of appearance and neighbors more.
    fine=FineMaps(
        power=0.5,
        graph_cut=replace(_BEST_CUT, likelihood=1.0, saliency=4.5, level=0.50, smoothness=4.0),
        threshold=Threshold(0.40),
    ),
    otherwise=("cam", "grad_cam", "saliency", "occlusion"),
)

PRESETS = {preset.name: preset for preset in (_PAPER, _BEST)}


def preset(name: str | LocalizationPreset) -> LocalizationPreset:
    """The preset of a name.

    Raises:
        NotFoundError: with the nearest name.

    Example:
        >>> preset("paper").methods
        ('saliency:crops=10',)
    """
    if isinstance(name, LocalizationPreset):
        return name
    if name not in PRESETS:
        raise NotFoundError(f"no preset '{name}'{suggest(name, PRESETS)} (there are: {', '.join(PRESETS)})")
    return PRESETS[name]
