"""The run behind `phosphene evaluate localization`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from phosphene.errors import InputError, OptionError
from phosphene.evaluation.ground_truth import read_truth
from phosphene.evaluation.localization import Localization, localization
from phosphene.images import list_images
from phosphene.localization.presets import LocalizationPreset
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.measurement import Measurement
from phosphene.tasks.objects import configured


def evaluate_localization(
    images: str,
    boxes: str,
    common: CommonOptions,
    *,
    methods: Sequence[str] = (),
    segments: Sequence[str] = (),
    presets: Sequence[str] = ("best",),
    tolerance: float = 0.0,
    limit: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Boxes from maps against boxes from people, in one table.

    Args:
        images: folder of pictures.
        boxes: CSV file, folder of ILSVRC XML files, or COCO JSON.
        common: the common options.
        methods: method specs, one row each; none for the presets' own maps.
        segments: "graphcut", "threshold", one row each; none for the presets' own.
        presets: "best", "paper", one row each.
        tolerance: of the pointing game, in original pixels.
        limit: only the first so many pictures.
        resume: go on with the run in --out.

    Returns:
        The JSON answer: {"images", "class_top1", "class_top5", "classes", "rows": [...], "baselines": {...}}.
    """
    ways = ways_of(methods, segments, presets)
    if tolerance < 0:
        raise OptionError(f"tolerance {tolerance} is negative; give 0 or more pixels")
    classifier = common.load()
    truths = read_truth(boxes, list_images(images), classifier.labels, images)[:limit]
    if not truths:
        raise InputError(f"{boxes}: no boxes for the pictures in {images}")
    told = sha256(repr([(str(truth.path), truth.index, truth.boxes) for truth in truths]).encode()).hexdigest()
    with Measurement(
        "localization", common, classifier, inputs=[boxes, *(truth.path for truth in truths)], resume=resume,
        images=images, boxes=boxes, tolerance=tolerance, limit=limit, boxes_sha256=told,
        ways=[f"{'+'.join(way.methods)}, {way.segment}, {way.name}" for way in ways],
    ) as run:  # fmt: skip
        found = localization(
            classifier, truths, ways, tolerance=tolerance, seed=common.seed, keep=run.keep, progress=common.step
        )
        return run.finish(
            images=found.images,
            class_top1=found.class_top1,
            class_top5=found.class_top5,
            classes=len(classifier.labels) or None,
            rows=[measured.row() for measured in found.rows],
            baselines={measured.name: measured.row() for measured in found.baselines},
            notes=list(below_the_centre(found)),
            failed=[{"path": record.path, "error": record.error} for record in found.broken],
        )


def below_the_centre(found: Localization) -> Iterator[str]:
    """A line for each way that finds fewer objects than a box that needs no network."""
    centre = next(measured.gt_known for measured in found.baselines if measured.name == "centre_box")
    for measured in found.rows:
        if measured.gt_known < centre:
            yield (
                f"{measured.name} is below the centered box of half the area ({measured.gt_known:.3f} against "
                f"{centre:.3f}): on this network use another method"
            )


def ways_of(methods: Sequence[str], segments: Sequence[str], presets: Sequence[str]) -> tuple[LocalizationPreset, ...]:
    """Every preset with every method and every segmentation.

    Raises:
        OptionError: if two rows would be the same.

    Example:
        >>> [(way.methods[0], way.segment) for way in ways_of(["cam", "grad_cam"], ["threshold"], ["best"])]
        [('cam', 'threshold'), ('grad_cam', 'threshold')]
    """
    ways = tuple(
        configured(preset, method, segment)
        for preset in presets or ("best",)
        for method in methods or (None,)
        for segment in segments or (None,)
    )
    for way in ways:
        if ways.count(way) > 1:
            raise OptionError(f"{'+'.join(way.methods)} with {way.segment} would be measured twice; name each once")
    return ways
