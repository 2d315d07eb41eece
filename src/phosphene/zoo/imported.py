"""A Python file of the user's, run as a module that was imported, and what goes wrong in it told by file and line."""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import RLock
from types import CodeType, ModuleType
from typing import Any

from phosphene.errors import ModelError, NotFoundError

# Modules of a folder live in sys.modules below a package of this name and a digest of the folder, so that files of one
# name in two folders, and files named like a library, do not meet.
_PREFIX = "phosphene_files_"
_LOCK = RLock()


class Folder:
    """The folder that the imports of a file begin in, and the modules that were imported from it.

    Args:
        root: where `import name` finds name.py: the file's own folder, of a file in a package that above the package.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = _PREFIX + sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        self.sources: dict[Path, tuple[int, int]] = {}  # what was read when: time of change, size

    def holds(self, name: str, importer: str | None) -> bool:
        """Whether `import name` in a file of this folder means a file here: not the standard library, nor itself."""
        if name in sys.stdlib_module_names:
            return False
        found = PathFinder.find_spec(f"{self.package}.{name}", [str(self.root)])
        if found is None or (found.origin is not None and found.origin == importer):
            return False
        # A folder of any files is taken for a package only where no real one is found.
        return (found.loader is not None and found.origin is not None) or not _elsewhere(name)

    def import_(
        self,
        name: str,
        variables: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        wanted: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What `import` does in the files of this folder, at any time: files beside them first."""
        top = name.partition(".")[0]
        if level or not self.holds(top, (variables or {}).get("__file__")):
            return builtins.__import__(name, variables, local, wanted or (), level)
        private = f"{self.package}.{name}"
        if wanted:
            return builtins.__import__(private, variables, local, wanted)
        import_module(private)
        return sys.modules[f"{self.package}.{top}"]

    def loaded(self) -> list[str]:
        """Names in sys.modules of what was imported from here."""
        return [name for name in sys.modules if name == self.package or name.startswith(self.package + ".")]

    def refresh(self) -> None:
        """Forget all that was imported from here if any of the files changed since."""
        invalidate_caches()
        if any(_stamp(path) != stamp for path, stamp in self.sources.items()):
            self.forget(())
        if self.package not in sys.modules:
            package = ModuleType(self.package)
            package.__path__ = [str(self.root)]
            sys.modules[self.package] = package

    def forget(self, kept: Sequence[str]) -> None:
        """Take out of sys.modules what is not among those kept."""
        for name in self.loaded():
            if name not in kept:
                del sys.modules[name]
        if not kept:
            self.sources.clear()


_FOLDERS: dict[str, Folder] = {}


def _elsewhere(name: str) -> bool:
    """Whether `import name` finds a module anywhere else."""
    others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder | _PlainNames))
    return name in sys.modules or any(finder.find_spec(name, None) for finder in others)


class _Source(SourceFileLoader):
    """Loads a file whose own imports look into its folder first; never from bytecode, which may be out of date."""

    def __init__(self, name: str, path: str, folder: Folder) -> None:
        super().__init__(name, path)
        self.folder = folder

    def get_code(self, fullname: str) -> CodeType:
        path = Path(self.path)
        self.folder.sources[path] = _stamp(path)
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self.folder.import_}
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds the modules below the packages of our folders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = _FOLDERS.get(fullname.partition(".")[0])
        found = PathFinder.find_spec(fullname, path) if folder is not None and path is not None else None
        if folder is not None and found is not None and type(found.loader) is SourceFileLoader and found.origin:
            found.loader = _Source(fullname, found.origin, folder)
        return found


class _PlainNames(MetaPathFinder, Loader):
    """While a file runs: its folder's modules by their plain names too, for importlib and for unpickling."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(_PREFIX) or not self.folder.holds(fullname.partition(".")[0], None):
            return None
        if path is not None and not any(str(part).startswith(str(self.folder.root)) for part in path):
            return None
        return ModuleSpec(fullname, self, is_package=False)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"{self.folder.package}.{spec.name}")
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # run already; importing it by another name has put another one there


def run_file(path: Path) -> ModuleType:
    """The module that a file is, imported: its folder's files can be imported by it, and it lies in sys.modules.

    It is run once, and again when it or a file beside it that it imported has changed.

    Raises:
        NotFoundError: if there is no such file.
        ModelError: if it fails, with the file and the line.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file")
    folder, name = _placed(path.absolute())
    with _LOCK:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
        folder.refresh()
        kept = folder.loaded()
        try:
            with told(f"{path} cannot be imported", folder.root), as_a_script(path, folder):
                return _imported(path.absolute(), folder, name)
        except BaseException:
            folder.forget(kept)
            raise


def _placed(path: Path) -> tuple[Folder, str]:
    """The folder that imports begin in, and the dotted name of the file below it."""
    parts = [] if path.stem == "__init__" else [path.stem]
    root = path.parent
    while (root / "__init__.py").is_file() and root.parent != root:
        parts.insert(0, root.name)
        root = root.parent
    folder = Folder(root)
    # No part may hold a dot, which would make it a package's; other signs do no harm.
    return _FOLDERS.setdefault(folder.package, folder), ".".join(part.replace(".", "_") for part in parts)


def _imported(path: Path, folder: Folder, name: str) -> ModuleType:
    full = f"{folder.package}.{name}"
    above, _, last = full.rpartition(".")
    parent = import_module(above)
    if full in sys.modules and sys.modules[full].__file__ == str(path):
        return sys.modules[full]
    places = [str(path.parent)] if path.stem == "__init__" else None
    loader = _Source(full, str(path), folder)
    spec = spec_from_file_location(full, path, loader=loader, submodule_search_locations=places)
    if spec is None:
        raise ModelError(f"{path}: no Python file")
    module = module_from_spec(spec)
    sys.modules[full] = module
    loader.exec_module(module)
    setattr(parent, last, module)
    return module


@contextmanager
def as_a_script(path: Path, folder: Folder | None = None) -> Iterator[None]:
    """While the user's code runs: no arguments of the command in sys.argv, and what it prints goes to stderr."""
    with _LOCK:
        arguments, sys.argv = sys.argv, [str(path)]
        names = None if folder is None else _PlainNames(folder)
        if names is not None:
            sys.meta_path.insert(0, names)
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            sys.argv = arguments
            if names is not None and folder is not None:
                sys.meta_path.remove(names)
                for name, module in list(sys.modules.items()):
                    inside = getattr(module, "__name__", "")
                    if inside.startswith(folder.package + ".") and not name.startswith(_PREFIX):
                        del sys.modules[name]


def folder_of(path: Path) -> Folder:
    """The folder that a file's imports begin in."""
    return _placed(path.absolute())[0]


@contextmanager
def told(what: str, root: Path | None) -> Iterator[None]:
    """What the user's code raises as one line: what failed, where in files below the root, and how.

    Raises:
        ModelError: for anything but an interrupt; a SystemExit too, which would end the command.
    """
    try:
        yield
    except SystemExit as error:
        code = "" if error.code is None else f" ({error.code})"
        raise ModelError(
            f"{what}: {_where(error, root)}it ended the program{code}; what is only for running it as a script belongs "
            "below if __name__ == '__main__'"
        ) from error
    except Exception as error:  # the user's code may raise anything
        reason = str(getattr(error, "msg", None) if isinstance(error, SyntaxError) else error).strip()
        first = f": {reason.splitlines()[0]}" if reason else ""
        raise ModelError(f"{what}: {_where(error, root)}{type(error).__name__}{first}") from error


def _where(error: BaseException, root: Path | None) -> str:
    """The last line of the user's own files that was run, or that is no Python: "net.py, line 7: "."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    for file, line in reversed(places):
        own = root is not None and Path(file).is_relative_to(root) and "site-packages" not in Path(file).parts
        if root is not None and own:
            return f"{Path(file).relative_to(root)}, " + (f"line {line}: " if line else "")
    return ""


def _stamp(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return (0, 0)
    return state.st_mtime_ns, state.st_size
