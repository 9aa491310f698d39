"""Which file endings are audio: used to pick files out of folders, never to decide how a file is decoded."""

from __future__ import annotations

_BASE = "wav wave w64 rf64 flac ogg oga opus mp3 aif aiff aifc au snd caf"
_MEDIA = "m4a m4b mp4 mov m4v aac webm weba mkv mka wma wmv asf ac3 eac3 3gp amr mp2 avi flv ts wv ape"

BASE_SUFFIXES = frozenset(f".{name}" for name in _BASE.split())
"""Read by the base install (libsndfile)."""

MEDIA_SUFFIXES = frozenset(f".{name}" for name in _MEDIA.split())
"""Read with the extra `media` (PyAV)."""

AUDIO_SUFFIXES = BASE_SUFFIXES | MEDIA_SUFFIXES
