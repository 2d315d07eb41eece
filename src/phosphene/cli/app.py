"""The frame of every command: common options, errors as one line, JSON, progress."""

from __future__ import annotations

import inspect
import io
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields
from functools import wraps
from textwrap import fill
from typing import Annotated, Any

import typer

from phosphene import __version__
from phosphene.errors import TYPED_WRONG, CancelledError, OptionError, OutputError, PhospheneError, as_lines, printable
from phosphene.runs.common_options import Announce, CommonOptions
from phosphene.targets import CommandOption, Target, kinds

app = typer.Typer(
    name="phosphene",
    help="See what an image classifier has learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class Answer:
    """What a command has to say: JSON for programs, lines for people, and whether some inputs failed."""

    json: Mapping[str, Any]
    text: str
    failed: bool = False


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

_SECONDS_BETWEEN = 1.0


def _common_option(item: Field[Any], **otherwise: Any) -> tuple[Any, Any]:
    """(type with its option, default) of a field of CommonOptions; keywords say otherwise than the field does."""
    kind, how = item.metadata["kind"], item.metadata["option"]
    return Annotated[kind, typer.Option(f"--{item.name}", **{**how, **otherwise})], item.default


_FIELDS = {item.name: item for item in fields(CommonOptions) if "option" in item.metadata}
_COMMON = {name: _common_option(item) for name, item in _FIELDS.items()}
# What a command that draws nothing and writes nothing has no use for.
_OF_RUNS = ("seed", "out", "overwrite", "report")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"phosphene {__version__}")
        raise typer.Exit


@app.callback()
def _frame(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# Options that several commands share, each with its annotation and default.
Shared = Mapping[str, tuple[Any, Any]]


def command(
    group: typer.Typer,
    name: str,
    *,
    common: bool = True,
    shared: Shared | None = None,
    writes: str = "",
    to: str = "",
    report: str | None = "",
    examples: Sequence[str] = (),
) -> Callable[[Callable[..., Answer]], Callable[..., None]]:
    """Make a command of a function that returns an Answer.

    With `common`, the function's first parameter is a CommonOptions and the command takes them. The next is a mapping
    of the `shared` options, if there are any. In the place of a parameter `target` it takes an option for each kind of
    target that has one.

    Args:
        group: that it belongs to.
        name: of the command.
        common: whether it takes the common options.
        shared: further options, which are handed over as a mapping.
        writes: what it writes into its run folder, for the help; empty for a command that has none.
        to: what --out is, where no run folder is made up for it.
        report: what --report is, where it is not as usual; None takes the option away.
        examples: how it is called, without the program's name; they stand at the end of the help.
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., None]:
        first = int(common) + int(shared is not None)
        written = list(inspect.signature(function).parameters.values())[first:]
        takes_target = any(item.name == "target" for item in written)
        usual = {key: option for key, option in _COMMON.items() if writes or key not in _OF_RUNS}
        if report is None:
            usual.pop("report", None)
        usual |= {
            key: _common_option(_FIELDS[key], help=text) for key, text in (("out", to), ("report", report)) if text
        }

        @wraps(function)
        def run(*args: Any, **given: Any) -> None:
            as_json, resumable = given.pop("json"), "resume" in given
            if shared is not None:
                args = ({key: given.pop(key) for key in shared}, *args)
            with _one_line_errors(as_json, resumable=resumable):
                if takes_target:
                    given["target"] = _target(given)
                if common:
                    with _progress() as (announce, say):
                        answer = function(_common(given, announce, say), *args, **given)
                else:
                    answer = function(*args, **given)
                _print(answer, as_json)
            if answer.failed:
                raise typer.Exit(1)

        # Annotations are read one by one: that of CommonOptions is never needed and would import torch.
        own = [parameter for item in written for parameter in _options(item, function)]
        added = {**(shared or {}), **(usual if common else {})}
        extra = [_parameter(key, kind, default) for key, (kind, default) in added.items()]
        parameters = [*own, *extra, _parameter("json", Json, False)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        # Given in full it is wrapped; made from the docstring by click it would end in three points.
        about = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
        group.command(name, short_help=about, epilog=_epilog(group, name, writes, to, examples))(run)
        return run

    return decorate


def _epilog(group: typer.Typer, name: str, writes: str, to: str, examples: Sequence[str]) -> str | None:
    """Where the output goes, and examples; a line that begins with a backspace keeps the line ends of what follows."""
    if not examples:
        return None
    above = "" if group is app else f"{group.info.name} "
    lines = "\n".join(f"  phosphene {above}{name} {example}".rstrip() for example in examples)
    where = "--out" if to else f"--out, or a new folder ./phosphene-runs/{name}-TIME,"
    where = f"{where} gets {writes}."
    return f"\b\n{fill(where, 76)}\n\n" * bool(writes) + f"\b\nExamples:\n{lines}"


def named(name: str, width: int, cells: str) -> list[str]:
    """A line of a table for people; a name that is too wide has a line of its own.

    Example:
        >>> named("cam", 6, "0.5"), named("saliency", 6, "0.5")
        (['cam    0.5'], ['saliency', '       0.5'])
    """
    return [f"{name:{width}} {cells}"] if len(name) <= width else [name, f"{'':{width}} {cells}"]


def _options(written: inspect.Parameter, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options of a command for one parameter of its function."""
    if written.name != "target":
        return [_parameter(written.name, _evaluated(written.annotation, function), written.default)]
    return [
        _parameter(name, Annotated[str | None, typer.Option(f"--{name}", metavar=how.metavar, help=how.help)], None)
        for name, how in {**_target_options(), "target": _ANY_TARGET}.items()
    ]


# One option for every kind, as scripts want it.
_ANY_TARGET = CommandOption(
    "KIND:VALUE",
    "Any of these in one option (unit:LAYER=CHANNEL, ...), class:CLASS, or output:KEY=CLASS of one of several outputs.",
)
# What the commands call the classes that are typed, a list.
_TYPED_CLASSES = ("class_", "classes")


def _target_options() -> dict[str, CommandOption]:
    return {name: kind.option for name, kind in kinds().items() if kind.option is not None}


def _target(given: dict[str, Any]) -> Target | None:
    """The target among the options, which are taken out; None if none was given, or classes, which are left typed."""
    asked = {name: given.pop(name) for name in _target_options()}
    chosen = {name: (f"--{name} ", name, text) for name, text in asked.items() if text}
    if typed := given.pop("target"):
        kind, text = _kind_and_value(typed)
        chosen["target"] = (f"--target {kind}:", kind, text)
    if len(chosen) > 1:
        raise OptionError(f"{' and '.join(f'--{name}' for name in chosen)}: give one of them")
    if not chosen:
        return None
    ((option, kind, text),) = chosen.values()
    classes = next((name for name in _TYPED_CLASSES if name in given), "")
    if given.get(classes):
        raise OptionError(f"{option}{text} and a class besides: give one of them")
    if kind == "output":
        text = _named_output(text, given)
    elif kind != "class":
        return _parsed(option, kind, text)
    given[classes] = [text]
    return None


def _named_output(text: str, given: dict[str, Any]) -> str:
    """The class of KEY=CLASS, or the best; the model's spec says then which output is looked at.

    Raises:
        OptionError: for a command that names no model.
    """
    key, _, name = text.partition("=")
    if not key or "model" not in given:
        raise OptionError(f"--target 'output:{text}' is not output:KEY=CLASS of a network of several outputs")
    given["model"] = f"{given['model']}@{key}"
    return name or "top1"


def _parsed(option: str, kind: str, text: str) -> Target:
    """The target of a kind; what is wrong is said of the option as typed ("--unit ", "--target unit:")."""
    try:
        return kinds()[kind].parse(text)
    except OptionError as error:
        said = str(error)
        raise OptionError(option + (said if said.startswith(text) else f"{text}: {said}")) from None


def _kind_and_value(typed: str) -> tuple[str, str]:
    """("unit", "4=2") of "unit:4=2".

    Raises:
        OptionError: for what is not KIND:VALUE, or a kind that commands do not ask for.
    """
    kind, _, text = typed.partition(":")
    known = ("class", "output", *_target_options())
    if kind not in known or not text:
        raise OptionError(f"--target '{typed}' is not KIND:VALUE with a KIND of {', '.join(known)}")
    return kind, text


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    return eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _common(given: dict[str, Any], announce: Announce, say: Callable[[str], None]) -> CommonOptions:
    return CommonOptions(announce=announce, say=say, **{key: given.pop(key) for key in _COMMON if key in given})


def _print(answer: Answer, as_json: bool) -> None:
    """The answer on standard output; what its encoding lacks is spelled out.

    Raises:
        OutputError: if it takes no more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _put(answer, as_json)
    except OSError as error:
        # (What is left in the buffer would fail once more at the end.)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader of a pipe may have had enough
            raise OutputError(f"standard output: {error.strerror}") from error


def _put(answer: Answer, as_json: bool) -> None:
    if as_json:
        from phosphene.store import without_nan

        print(json.dumps(without_nan(answer.json), allow_nan=False))
    else:
        report = answer.json.get("report")
        lines = [*(answer.text.split("\n") if answer.text else ()), *([f"report: {report}"] if report else ())]
        print("".join(printable(line) + "\n" for line in lines), end="")
    sys.stdout.flush()


@contextmanager
def _one_line_errors(as_json: bool, *, resumable: bool) -> Iterator[None]:
    """Errors that phosphene raises on purpose become one line, and so do warnings.

    What was typed wrong exits 2: options, inputs that are not there, a network that cannot do it, a package to be
    installed. The others exit 1.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = as_lines()
            yield
    except PhospheneError as error:
        print(f"phosphene: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": str(error)}))
        raise typer.Exit(2 if isinstance(error, TYPED_WRONG) else 1) from None
    except (KeyboardInterrupt, CancelledError) as stop:
        print(f"phosphene: {_stopped(getattr(stop, 'place', None), resumable)}", file=sys.stderr)
        raise typer.Exit(130) from None


def _stopped(place: str | None, resumable: bool) -> str:
    """What is said of a stop: where the rest is, and how it is gone on with."""
    if place is None:
        return "stopped; what was finished is kept"
    how = f"; the same command with --out {shlex.quote(place)} --resume goes on" if resumable else ""
    return printable(f"stopped; what was finished is kept in {place}{how}")


def _lines() -> Announce:
    """Progress as lines: one for each thing done (behind a comma stands how far it is), and one a second."""
    said: dict[str, Any] = {"text": None, "at": 0.0}

    def announce(done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if text.partition(",")[0] != said["text"] or done == total or now - said["at"] >= _SECONDS_BETWEEN:
            print(f"{text} {done}/{total}", file=sys.stderr, flush=True)
            said.update(text=text.partition(",")[0], at=now)

    return announce


@contextmanager
def _progress() -> Iterator[tuple[Announce, Callable[[str], None]]]:
    """(how far it is, what was found): a bar with the time that is left and a line above it for each picture, on a
    terminal; when piped lines on standard error, for each picture one as it is begun and one of what was found.
    """
    if not sys.stderr.isatty():
        yield _lines(), lambda line: print(printable(line), file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {"": bar.add_task("loading", total=None)}

        def announce(done: int, total: int, text: str) -> None:
            # Behind a comma stands how far it is: the same thing still.
            name = text.partition(",")[0]
            if name not in tasks:
                for old in tasks.values():
                    bar.remove_task(old)
                tasks.clear()
                tasks[name] = bar.add_task(text, total=total)
            bar.update(tasks[name], completed=done, total=total, description=text)

        def say(line: str) -> None:
            bar.console.print(printable(line), markup=False, highlight=False)

        yield announce, say
