"""Voices and weights from the network: what an address means, fetching what it stands for. Loads no torch."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from menura.errors import AssetMissingError, DownloadError, OptionError
from menura.options import FetchOptions
from menura.system.download import Download, Progress, fetch
from menura.system.files import read_json, replacing, sha256_of, temporary_folder, writing
from menura.system.text import printable
from menura.voices.assets import AssetFile, AssetStatus, cache_folder
from menura.voices.library import MAX_MEMBER_BYTES, VOICE_SUFFIXES, match_index, voices_among

HUB = "https://huggingface.co"
ENDPOINT_VARIABLE = "HF_ENDPOINT"
_PLACE = re.compile(r"([\w.-]+/[\w.-]+)(?:/(?:blob|resolve|raw|tree)/([^/?#]+))?(?:/([^?#]+?))?/?(?:[?#].*)?")
_NO_NAME = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_MOST_LISTED_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedVoice:
    """A voice's file, its index beside it if the hub has one."""

    path: Path
    url: str
    sha256: str


def mirrored(url: str, options: FetchOptions) -> str:
    """An address of the hub at the endpoint that is used in its place; others as they are."""
    endpoint = (options.endpoint or os.environ.get(ENDPOINT_VARIABLE) or HUB).rstrip("/")
    return endpoint + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url


def is_remote(place: str) -> bool:
    """Whether it is an address, or a hub's OWNER/NAME[/FILE], not a path: no file or folder here begins so."""
    if "://" in place:
        return True
    parts = place.split("/")
    file = len(parts) == 2 and parts[1].lower().endswith((*VOICE_SUFFIXES, ".zip"))
    return _PLACE.fullmatch(place) is not None and not file and not os.path.lexists(parts[0])


def fetch_voice(
    place: str,
    home: Path,
    options: FetchOptions,
    on_progress: Progress,
    sha256: str | None = None,
    most_bytes: int = MAX_MEMBER_BYTES,
) -> FetchedVoice:
    """Fetch the voice that an address, a hub's page or OWNER/NAME[/FILE] stands for, into the cache.

    Raises:
        OptionError: it stands for no voice's file, or for several.
        DownloadError, ResourceError: as `menura.system.download.fetch`.
    """
    urls = _file_urls(place, options)
    folder = _downloads(home, urls[0])
    paths, found = [folder / _file_name(url) for url in urls], ""
    if paths[0].suffix.lower() not in (*VOICE_SUFFIXES, ".zip"):
        raise OptionError(printable(place), "names no .pth, .safetensors or .zip file", "Give a file's own address")
    for url, path in zip(reversed(urls), reversed(paths), strict=True):
        pinned = sha256 if path == paths[0] else None
        download = Download(url=url, most_bytes=most_bytes, sha256=pinned, allow_private=options.allow_private)
        found = fetch(download, path, on_progress)
    url = urls[0].partition("?")[0].partition("#")[0]  # what follows may be a key, and cards go from hand to hand
    return FetchedVoice(path=paths[0], url=url, sha256=found)


def fetch_asset(
    status: AssetStatus,
    home: Path,
    options: FetchOptions,
    accepts: Callable[[str, str], bool],
    progress: Callable[[str], AbstractContextManager[Progress]],
    offline: Path | None = None,
) -> None:
    """Fetch what is missing of an asset, or take it from a folder; `accepts` decides on an address and a SHA-256.

    It is asked about files of which no SHA-256 is known. What it refuses stays in the cache for the next call.

    Raises:
        AssetMissingError: there is no address, or no such file in the folder.
        DownloadError, ResourceError: as `menura.system.download.fetch`, or it isn't accepted.
    """
    for file in status.missing:
        if file.url is None:
            advice = status.asset.advice.replace("Or install", "Install")
            raise AssetMissingError(status.asset.name, "no address of it is known", advice)
        url, target = mirrored(file.url, options), home / "assets" / file.path
        staged = _downloads(home, url) / target.name
        if offline is not None:
            with replacing(staged) as partial:
                shutil.copyfile(_in_folder(offline, file), partial)
        elif not staged.is_file():
            limits = Download(url=url, most_bytes=file.size_bytes or MAX_MEMBER_BYTES, size_bytes=file.size_bytes)
            with progress(file.path) as on_progress:
                fetch(replace(limits, sha256=file.sha256, allow_private=options.allow_private), staged, on_progress)
        found = sha256_of(staged)
        if file.sha256 not in (None, found):
            staged.unlink()
            advice = "It is another file than the published one: don't use it"
            raise DownloadError(offline or url, f"{target.name} has the SHA-256 {found}, not {file.sha256}", advice)
        if file.sha256 is None and not accepts(url, found):
            problem = f"has the SHA-256 {found}; which one it should have isn't known to Menura"
            raise DownloadError(url, problem, f"If you trust it, add {{accept={found}}}")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)


def _in_folder(folder: Path, file: AssetFile) -> Path:
    """As it is called here, or under any end of its address."""
    parts = (file.url or "").split("/")
    for name in (file.path, *("/".join(parts[start:]) for start in range(3, len(parts)))):
        if (folder / name).is_file():
            return folder / name
    raise AssetMissingError(folder, f"has no {file.path}", "Put the file there under that name")


def _downloads(home: Path, url: str) -> Path:
    return cache_folder(home) / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _file_urls(place: str, options: FetchOptions) -> list[str]:
    """The address of the voice's file, and of its index if a hub lists one."""
    hub = mirrored(f"{HUB}/", options)
    rest = next((place.removeprefix(host) for host in (f"{HUB}/", hub) if place.startswith(host)), place)
    found = None if "://" in rest else _PLACE.fullmatch(rest)
    if found is None:
        return [place]
    repository, revision, file = found[1], found[2] or "main", found[3] or ""
    names = [PurePosixPath(unquote(file))]
    if not names[0].suffix:
        listed = _listed(f"{hub}api/models/{repository}/revision/{revision}", options)
        names = [name for name in listed if name.is_relative_to(names[0])]
        voices = voices_among(names, every_epoch=False) or [name for name in names if name.suffix.lower() == ".zip"]
        if len(voices) != 1:
            shown = printable(", ".join(map(str, voices[:5]))) or "none"
            advice = f"Name one: {repository}/FILE"
            raise OptionError(printable(place), f"stands for {len(voices)} voices ({shown})", advice)
        index = match_index(voices[0], names)[0]
        names = [PurePosixPath(voices[0]), *([PurePosixPath(index)] if index else [])]
    return [f"{hub}{repository}/resolve/{revision}/{quote(str(name))}" for name in names]


def _listed(url: str, options: FetchOptions) -> list[PurePosixPath]:
    """The names of a repository's files."""
    with temporary_folder() as folder:
        path = folder / "files.json"
        fetch(Download(url=url, most_bytes=_MOST_LISTED_BYTES, allow_private=options.allow_private), path)
        try:
            document = read_json(path, _MOST_LISTED_BYTES)
            assert isinstance(document, dict)
            return [PurePosixPath(str(entry["rfilename"])) for entry in document["siblings"]]
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise DownloadError(printable(url), "lists no files of a model", "Give a file's own address") from error


def _file_name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return _NO_NAME.sub("_", name).lstrip(".")[-100:] or "voice"
