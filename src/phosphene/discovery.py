"""Modules that register something are found: those of a package of ours, and those that other packages name."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules


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
    for found in entry_points(group=package):
        try:
            found.load()
        except Exception as error:  # foreign code may fail in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(f"the plugin {found.value} for {package} cannot be imported ({reason})", stacklevel=2)
