"""Classes of the user's own that an experiment names: `package.module:Class`.

The module is one that is installed, on PYTHONPATH, or in the folder where lorecast was started.
"""

import hashlib
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

from lorecast.errors import ConfigError

_FORM = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def is_own(name: str) -> bool:
    """True for `package.module:Class`."""
    return _FORM.fullmatch(name) is not None


def code_fingerprint(name: str) -> str:
    """Of the module's file, so that a model is trained anew when its code has changed; imports of
    that module do not count. Raises ConfigError if there is no such module."""
    file = load_module(name).__file__
    if file is None:
        raise ConfigError(f"{name}: its module has no file; name a class in a .py file")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def load_class(name: str) -> type:
    """The class. Raises ConfigError if its module cannot be imported or lacks it."""
    module, class_name = load_module(name), name.partition(":")[2]
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigError(f"{name}: {module.__file__} has no class {class_name}")
    return found


def load_module(name: str) -> ModuleType:
    """The module of a class, imported. Raises ConfigError if that fails."""
    module = name.partition(":")[0]
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"{name}: {module} cannot be imported ({type(error).__name__}: {error}); it must be "
            "installed, on PYTHONPATH, or in the folder where lorecast is started"
        ) from error
