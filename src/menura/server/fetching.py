"""Voices that clients have fetched from the Internet: who may, how much, and never from the service's own network."""

from __future__ import annotations

import threading
import time
import urllib.request
from concurrent.futures import Future
from pathlib import Path

from menura.errors import DownloadError, MenuraError, OptionError
from menura.options import FetchOptions
from menura.server.security import is_loopback
from menura.server.service import Service
from menura.server.store import QueueFullError
from menura.voices.hub import FetchedVoice, fetch_voice

_LONGEST_S = 3600.0
_one = threading.Lock()


class FetchRefusedError(MenuraError):
    """This service doesn't fetch."""


def refusal(service: Service) -> FetchRefusedError | None:
    """Why this service fetches nothing for its clients; None where it does."""
    options = service.options
    if options.fetch == "always":
        # A proxy looks names up by itself, where nobody could check what addresses they have.
        if {"https", "all"} & set(urllib.request.getproxies()):
            return FetchRefusedError(None, "this service reaches the network by a proxy only, which it can't check")
        return None
    if options.fetch == "local" and is_loopback(options.host) and not options.allow_host:
        return None
    return FetchRefusedError(None, "this service fetches no voices", "Send the voice's file", "url")


def fetch_for_client(service: Service, place: str, folder: Path, sha256: str | None) -> Future[FetchedVoice]:
    """Fetch a voice into a folder, in a thread that the service's end need not wait for.

    Raises:
        FetchRefusedError: this service doesn't.
        QueueFullError: another voice is being fetched.
    """
    if refused := refusal(service):
        raise refused
    if not _one.acquire(blocking=False):
        raise QueueFullError(None, "another voice is being fetched", "Try again later")
    future: Future[FetchedVoice] = Future()
    future.set_running_or_notify_cancel()
    try:
        threading.Thread(target=_fetch, args=(future, service, place, folder, sha256), daemon=True).start()
    except BaseException:  # there may be no more threads
        _one.release()
        raise
    return future


def _fetch(future: Future[FetchedVoice], service: Service, place: str, folder: Path, sha256: str | None) -> None:
    deadline_s = time.monotonic() + _LONGEST_S

    def check(_got: int, _total: int | None) -> None:
        service.folder.check_room()
        if service.closing.is_set() or time.monotonic() > deadline_s:
            raise DownloadError(place, "took too long")

    try:
        future.set_result(fetch_voice(place, folder, FetchOptions(), check, sha256, service.folder.most_upload_bytes))
    except (DownloadError, OptionError) as error:
        future.set_exception(_told(error))
    except BaseException as error:  # noqa: BLE001  (who waits raises it)
        future.set_exception(error)
    finally:
        _one.release()


def _told(error: MenuraError) -> MenuraError:
    """Of the address that was given; what a client can't ask for isn't advised."""
    if "allow_private" in (error.advice or "") or error.problem == "is no https address":
        return OptionError(error.subject, error.problem, "Give an https address of the Internet", "url")
    return type(error)(error.subject, error.problem, error.advice, "url")
