"""From options to a request, and from a request to resident networks. Loads no torch by itself."""

from menura.loading.request import Request
from menura.loading.resolver import resolve

__all__ = ["Request", "resolve"]
