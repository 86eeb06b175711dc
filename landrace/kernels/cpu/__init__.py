"""Kernels for processors in C++: the extension `_native`, and whether it is here.

The extension is compiled by `pip install` when a C++ compiler is there. Without it, `native()` is None and the kernels
of `landrace.kernels.reference` serve.

`LANDRACE_NATIVE_DIR` names a folder to load the extension from instead of this package's own: `make sanitize` uses it
to run the tests on a build with sanitizers.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from landrace.errors import OptionError

MISSING = (
    "The C++ kernels are not built, so the slower reference kernels serve: "
    "for the fast ones, install a C++ compiler and Python's headers, then Landrace again."
)

_NAME = f"{__name__}._native"
_OTHER_FOLDER = "LANDRACE_NATIVE_DIR"


@functools.cache
def native() -> ModuleType | None:
    """The extension module, or None when it was not built. An extension that is there but does not load raises."""
    folder = os.environ.get(_OTHER_FOLDER)
    if folder:
        return _load_from(Path(folder))
    if importlib.util.find_spec(_NAME) is None:
        return None
    return importlib.import_module(_NAME)


def _load_from(folder: Path) -> ModuleType:
    files = [folder / f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise OptionError(
            f"{_OTHER_FOLDER} names {folder}, which holds no extension for this Python.",
            hint=f"Build it there, or unset {_OTHER_FOLDER}.",
        )
    spec = importlib.util.spec_from_file_location(_NAME, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module
