"""Places where an exception is lost."""

from __future__ import annotations

import ctypes
import importlib
import os
import weakref
from collections.abc import Callable
from typing import Any


def instead(place: str, before: Callable[[], None]) -> None:
    """Have something done before each call of `module:function`."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    original = getattr(owner, name)

    def function(*arguments: Any, **named: Any) -> Any:
        before()
        return original(*arguments, **named)

    setattr(owner, name, function)


def _except(action: Callable[[], None]) -> None:
    try:
        action()
    except BaseException:  # noqa: BLE001
        return


def _once(action: Callable[[], None]) -> None:
    """Like `_except`; a second time is one too many."""
    global _once_done
    if _once_done:
        os._exit(99)
    _once_done = True
    _except(action)


_once_done = False


def _del(action: Callable[[], None]) -> None:
    class Dying:
        def __del__(self) -> None:
            action()

    Dying()


def _weakref(action: Callable[[], None]) -> None:
    class Dying: ...

    dying = Dying()
    reference = weakref.ref(dying, lambda _: action())
    del dying
    assert reference() is None


def _callback(action: Callable[[], None]) -> None:
    ctypes.CFUNCTYPE(None)(action)()


WAYS = {"except": _except, "once": _once, "del": _del, "weakref": _weakref, "callback": _callback}
