"""The errors of phosphene: each message names the input, what was wrong and what to do."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

# What a file of this package begins with.
_OWN = os.path.join(os.path.dirname(__file__), "")


class PhospheneError(Exception):
    r"""Base of every error that phosphene raises on purpose; its text is one line for a person.

    Example:
        >>> print(PhospheneError("two" + chr(10) + "lines.jpg: no such file"))
        two\nlines.jpg: no such file
    """

    def __str__(self) -> str:
        """The message with whatever a hostile file name may hold (line ends, escape sequences) spelled out."""
        return printable(super().__str__())


class PhospheneWarning(UserWarning):
    """Something that was handled, but that a person should know: one line, which names what was noticed."""


def warn(message: str) -> None:
    """Warn at the line of the user's own that called phosphene, which notebooks and tracebacks show.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     warn("the layer does not run")
        >>> told[0].category.__name__, "phosphene/errors.py" in told[0].filename
        ('PhospheneWarning', False)
    """
    level = outermost = 1
    frame = sys._getframe()
    while frame.f_back is not None:
        frame, level = frame.f_back, level + 1
        if frame.f_code.co_filename.startswith(_OWN):
            outermost = level
    warnings.warn(message, PhospheneWarning, stacklevel=outermost + 1)


def as_lines() -> Callable[..., None]:
    """What takes the place of `warnings.showwarning` in a command: one line for a warning and all that are alike.

    What libraries say of their own future is for who writes code, and is left out.

    Example:
        >>> show = as_lines()
    """
    told = set[str]()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        line = f"phosphene: {message}"
        if line not in told and not isinstance(message, FutureWarning):
            told.add(line)
            print(line, file=sys.stderr)

    return show


class InputError(PhospheneError):
    """A picture, table or folder that was given cannot be used."""


class OptionError(PhospheneError):
    """An option, method spec, target or argument that was given makes no sense."""


class NotFoundError(OptionError):
    """A name (class, layer, method, model) that does not exist, or that fits several."""


class ModelError(PhospheneError):
    """The network cannot do what was asked: its shape, its operations or its weights do not allow it."""


class NumericalError(PhospheneError):
    """A computation gave NaN, infinity or nothing at all."""


class ResourceError(PhospheneError):
    """The machine has not what the computation needs, such as memory for one image."""


class OutputError(PhospheneError):
    """A result cannot be written where it was asked for."""


class MissingExtraError(PhospheneError):
    """An optional dependency is not installed; the message holds the install line."""


# What has to be typed again: exit code 2, and no run is kept of it. The others are for inputs and machines.
TYPED_WRONG = (OptionError, InputError, ModelError, MissingExtraError)


def to_install(what: str, *requirements: str) -> MissingExtraError:
    """The error for what has to be installed first, with the one command that installs it where this program runs.

    Packages are named by themselves: that works whether phosphene came from an index or from a folder.

    Args:
        what: names what needs it.
        *requirements: as pip takes them.

    Example:
        >>> print(to_install("shards need pyarrow", "pyarrow>=17"))
        shards need pyarrow; run: ...python... -m pip install 'pyarrow>=17'
    """
    return MissingExtraError(f"{what}; run: {shlex.join([_python(), '-m', 'pip', 'install', *requirements])}")


def _python() -> str:
    """This program's Python, from the current folder where it lies below it."""
    own, here = Path(sys.executable), Path.cwd()
    return str(own.relative_to(here)) if own.is_relative_to(here) else str(own)


class CancelledError(BaseException):
    """A computation was asked to stop through its Cancel.

    Like asyncio's it is no Exception: a handler that turns errors into rows must not turn a stop into one. `place` is
    the run that keeps what was finished, where there is one.
    """

    place: str | None = None


def printable(text: str) -> str:
    r"""The text on one line that a terminal shows as it is: control characters and broken Unicode spelled out.

    Example:
        >>> printable("red" + chr(27) + "[31m")
        'red\\x1b[31m'
    """
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in text)


def reason(error: str, path: str) -> str:
    """An error of a file for where the file's name stands already.

    Example:
        >>> reason("holiday/cat.jpg: no such file", "holiday/cat.jpg")
        'no such file'
    """
    return error.removeprefix(f"{printable(path)}: ")


def suggest(name: str, candidates: Iterable[str], limit: int = 3) -> str:
    """The nearest of `candidates`, ready to end an error message; a name of several words is near by any of them.

    Example:
        >>> suggest("grad_cm", ["grad_cam", "rise"])
        "; did you mean 'grad_cam'?"
        >>> suggest("labrodor", ["broom", "Labrador retriever"], limit=1)
        "; did you mean 'Labrador retriever'?"
        >>> suggest("qqq", ["grad_cam", "rise"])
        ''
    """
    names = tuple(dict.fromkeys(candidates))
    meant: dict[str, list[str]] = {}
    for candidate in names:
        folded = candidate.casefold()
        for part in dict.fromkeys((folded, *folded.split())):
            meant.setdefault(part, []).append(candidate)
    wanted = name.casefold()
    near = [candidate for part in get_close_matches(wanted, meant, n=limit, cutoff=0.5) for candidate in meant[part]]
    near += [candidate for candidate in names if wanted and wanted in candidate.casefold()]
    if not near:
        return ""
    return "; did you mean " + " or ".join(f"'{one}'" for one in [*dict.fromkeys(near)][:limit]) + "?"
