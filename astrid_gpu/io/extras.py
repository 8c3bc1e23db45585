"""Optional packages: named with the line that installs them when they are missing."""

from __future__ import annotations

from importlib import import_module

__all__ = ["need"]


def need(module: str, extra: str, purpose: str) -> None:
    """Import an optional package, or say what it is for and how to get it.

    Raises
    ------
    ImportError
        It is not installed, or broken: the reason is chained.
    """
    try:
        import_module(module)
    except ImportError as error:
        msg = f"{purpose} needs {module}, which is not installed: pip install 'astrid-gpu[{extra}]'"
        raise ImportError(msg) from error
