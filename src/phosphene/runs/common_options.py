"""The options that every command has, each declared once: its default, and what the command line says of it.

Nothing heavy is imported before they are used, since the command line is built of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from phosphene.cancel import Cancel
from phosphene.errors import OptionError
from phosphene.types import ReportMode, seed_number

if TYPE_CHECKING:
    from phosphene.classifier import Classifier
    from phosphene.runtime import Prepared
    from phosphene.zoo import ModelChoice

# Called with (steps done, steps in all, what is being done).
Announce = Callable[[int, int, str], None]


def quiet(_done: int, _total: int, _text: str) -> None:
    """Shows no progress."""


def asked(kind: Any, default: Any, help: str, **how: Any) -> Any:
    """A field that is an option of every command.

    Args:
        kind: type of what is typed.
        default: where it is not given.
        help: one line.
        **how: further arguments of typer.Option.
    """
    return field(default=default, metadata={"kind": kind, "option": {"help": help, **how}})


@dataclass(frozen=True)
class CommonOptions:
    """The options that every command has.

    Args:
        model: spec for load_classifier, or a Classifier.
        weights: file of weights for the model that a spec names; None for those it comes with.
        device: where to run; None leaves the model where it is.
        precision: "exact" or "fast".
        threads: to compute with, set for the process when the model is loaded; None leaves them as they are.
        black: the stored value that is black in pictures of more than 8 bits; None as the model or their type says.
        white: the stored value that is white in them, likewise.
        seed: of everything random.
        out: run folder; None makes a new one.
        overwrite: whether an existing run may be replaced.
        report: "none", "single" or "pages"; None chooses by size.
        announce: progress callback.
        say: told what was found, a line as soon as it is there.
        cancel: asked for a stop by runs that look at pictures, between two pictures and within slow methods.

    Raises:
        OptionError: for a seed that PyTorch would not take, or an empty name for `out`.
    """

    model: str | Classifier = asked(
        str,
        "embedded",
        "Classifier: embedded, embedded:lite2, timm:NAME, torchvision:NAME, hf:NAME|FOLDER, onnx:FILE, tflite:FILE, "
        "keras:FILE, package.module:factory, a TorchScript or torch.export file, or a folder of phosphene head; "
        "SPEC@KEY names one of several outputs.",
        metavar="SPEC",
    )
    weights: str | None = asked(
        str | None,
        None,
        "Its weights: .safetensors or a state dict; a JSON card of the same name says how it is fed.",
        metavar="FILE",
    )
    device: str | None = asked(str | None, None, "cpu, cuda, ...; default where the model loads.")
    precision: Literal["exact", "fast"] = asked(
        Literal["exact", "fast"], "exact", "exact: float32; fast: bfloat16 where that is faster."
    )
    threads: int | None = asked(
        int | None, None, "Threads to compute with [default: one for each core].", metavar="N", min=1
    )
    black: float | None = asked(
        float | None, None, "Value of black in pictures deeper than 8 bits [0].", metavar="VALUE"
    )
    white: float | None = asked(
        float | None, None, "Value of white in them, as 4095 of 12 bits [their type's].", metavar="VALUE"
    )
    seed: int = asked(int, 0, "Seed of everything random.")
    out: str | None = asked(str | None, None, "Run folder [default: ./phosphene-runs/...].", metavar="DIR")
    overwrite: bool = asked(bool, False, "Replace the run in --out.")
    report: ReportMode | None = asked(
        ReportMode | None,
        None,
        "No report, one file, or pages beside the pictures; default one file up to 20 MB, then pages.",
    )
    announce: Announce = quiet
    say: Callable[[str], None] = lambda _: None
    cancel: Cancel = field(default_factory=Cancel)

    def __post_init__(self) -> None:
        seed_number(self.seed)
        if self.out == "":
            raise OptionError("--out is empty, as a shell variable that is not set; name a folder")

    def step(self, done: int, total: int, text: str) -> None:
        """Announce how far it is, or leave if the run is to be stopped.

        Raises:
            CancelledError: if it is.
        """
        self.cancel.raise_if_cancelled()
        self.announce(done, total, text)

    def load(self) -> Prepared:
        """The prepared classifier."""
        return self.choice.load()

    @property
    def choice(self) -> ModelChoice:
        """Which classifier is meant, where it runs and how exactly."""
        from phosphene.zoo import ModelChoice

        return ModelChoice(self.model, self.weights, self.device, self.precision, self.threads, self.black, self.white)
