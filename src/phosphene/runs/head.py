"""The run behind `phosphene head`: a folder of pictures per class -> a classifier in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phosphene.errors import OptionError
from phosphene.images import read_image
from phosphene.render import thumbnail
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import Session
from phosphene.store import picture_folder, without_nan
from phosphene.tasks.head import check_held_out, class_folders, fit_head
from phosphene.zoo.head import CARD, WEIGHTS, to_bytes
from phosphene.zoo.weights import is_local

# Mistakes shown in the report; all of them are in the manifest.
_SHOWN = 24


def fit_folder(folder: str, common: CommonOptions, *, held_out: float = 0.2) -> dict[str, Any]:
    """Fit a linear head on a folder of pictures per class and write it beside its report.

    Args:
        folder: has one folder per class.
        common: the common options; the model is the network that gives the features.
        held_out: share of each class that is kept for measuring.

    Returns:
        The JSON answer of the command: {"run", "report", "model", "labels", "counts", "accuracy", "confusion", ...};
        `run` is what load_classifier and --model take.

    Raises:
        PhospheneError: if no head can be fitted, or the folder cannot be written.
    """
    if not isinstance(common.model, str):
        raise OptionError("a head is saved with the name of its network; give the model as a spec, such as embedded")
    check_held_out(held_out)
    class_folders(folder)  # refuses what holds no classes, before there is a run folder
    classifier = common.load()
    with Session.start("head", common, classifier, folder=folder, held_out=held_out) as session:

        def announce(done: int, total: int) -> None:
            common.announce(done, total, "features")

        fit = fit_head(
            classifier,
            folder,
            held_out=held_out,
            seed=common.seed,
            name=session.folder.path.name,
            progress=announce,
        )
        measured = {
            "accuracy": fit.accuracy,
            "fitted_accuracy": fit.fitted_accuracy,
            "confusion": fit.confusion.tolist(),
            "held_out": len(fit.held_out),
        }
        session.folder.save_bytes(WEIGHTS, to_bytes(fit.weight, fit.bias))
        card = {
            "base": common.model,
            "weights": str(Path(common.weights).resolve()) if is_local(common.weights) else common.weights,
            "labels": fit.labels,
            "head": fit.classifier.head,
            "strength": fit.strength,
            **measured,
        }
        session.folder.save_json(CARD, without_nan(card))
        wrong = [record for record in fit.held_out if record.values["label"] != record.values["predicted"]]
        return session.finish(
            **measured,
            labels=fit.labels,
            counts=fit.counts,
            notes=list(fit.notes),
            strength=fit.strength,
            mistakes=[
                {
                    "path": record.path,
                    **record.values,
                    "picture": session.folder.save_image(
                        f"mistakes/{picture_folder(index, record.path)}.jpg",
                        thumbnail(read_image(record.path, **classifier.preprocess.reading), 224),
                        quality=88,
                    )
                    if index < _SHOWN
                    else None,
                }
                for index, record in enumerate(wrong)
            ],
            errors=[{"path": record.path, "error": record.error} for record in fit.broken],
        )
