"""Measures of maps, masks, boxes and images, one file each: plain functions that see no model.

Every file here is imported, so that its metrics are registered.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
