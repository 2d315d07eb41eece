"""Modules that register something are found: those of a package of ours, and those that other packages name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from traceback import extract_tb

from phosphene.errors import warn


@cache
def discover(package: str) -> None:
    """Import every module of a package once, and what other packages name in the entry point group of that name.

    An importer that fails in another package costs a warning, never the run.

    Args:
        package: dotted name, such as "phosphene.sources", which is the name of the entry point group as well.

    Example:
        >>> discover("phosphene.sources")
    """
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    load_plugins(package)


@cache
def load_plugins(group: str) -> None:
    """Import once what other packages name in an entry point group; what fails costs a warning.

    Args:
        group: such as "phosphene.targets".
    """
    for found in entry_points(group=group):
        try:
            found.load()
        except Exception as error:  # foreign code may fail in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            own = [frame for frame in extract_tb(error.__traceback__) if "importlib" not in frame.filename][1:]
            where = f"; {own[-1].filename}, line {own[-1].lineno}; what it registered before that stays" if own else ""
            warn(f"the plugin {found.value} for {group} cannot be imported ({reason}{where})")
