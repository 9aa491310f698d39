"""The public surface."""

from __future__ import annotations

import inspect

import pytest

import menura
from menura import errors


def test_every_public_name_is_there() -> None:
    for name in menura.__all__:
        assert getattr(menura, name) is not None
    assert sorted(menura.__all__) == menura.__all__
    assert dir(menura) == menura.__all__


def test_every_error_is_public() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined <= set(menura.__all__)
    for name in defined:
        assert getattr(menura, name) is getattr(errors, name)
        assert issubclass(getattr(errors, name), errors.MenuraError)


@pytest.mark.parametrize("name", ["nothing", "torch", "_HOMES_", "errors_"])
def test_other_names_are_not(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(menura, name)


def test_every_public_name_says_what_it_is() -> None:
    for name in menura.__all__:
        value = getattr(menura, name)
        if not inspect.isclass(value):
            continue
        assert inspect.getdoc(value), name
        for method, function in vars(value).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{method}"
