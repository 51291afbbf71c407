"""Imports without packages that the imported one would load, but need not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Have imports of some packages fail, unless they are loaded already."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None there makes an import fail
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
