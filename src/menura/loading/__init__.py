"""From options to a request, and from a request to resident networks. Loads no torch by itself."""

from menura.loading.request import Request, resolve

__all__ = ["Request", "resolve"]
