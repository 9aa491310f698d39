"""Mandarin sentences for the starter pack, and Kokoro's symbols for their pinyin.

Kokoro's tones are arrows behind the vowel that carries them; its aspirates, glides and diphthongs are plain IPA.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

FIRST_INDEX, FIRST_HELD_INDEX = 90_000, 95_000
_LIST = Path(__file__).with_name("mandarin.txt")
_HELD_BACK = "# These judge"
_SYLLABLE = re.compile(r"([a-z]+)([1-5])")
_INITIAL = re.compile(r"([zcs]h?|[bpmfdtnlgkhjqxr])(?=.)|")
_TONES = {"1": "→", "2": "↗", "3": "↓", "4": "↘", "5": ""}
_INITIALS = {
    "": "", "b": "p", "p": "pʰ", "m": "m", "f": "f", "d": "t", "t": "tʰ", "n": "n", "l": "l", "g": "k", "k": "kʰ",
    "h": "x", "j": "ʨ", "q": "ʨʰ", "x": "ɕ", "zh": "ꭧ", "ch": "ꭧʰ", "sh": "ʂ", "r": "ɻ", "z": "ʦ", "c": "ʦʰ", "s": "s",
}  # fmt: skip
# Glide, the vowel that carries the tone, and what closes the syllable.
_FINALS = {
    "a": ("", "a", ""), "o": ("w", "o", ""), "e": ("", "ɤ", ""), "ai": ("", "ai", ""), "ei": ("", "ei", ""),
    "ao": ("", "au", ""), "ou": ("", "ou", ""), "an": ("", "a", "n"), "en": ("", "ə", "n"), "ang": ("", "a", "ŋ"),
    "eng": ("", "ə", "ŋ"), "ong": ("", "ʊ", "ŋ"), "i": ("", "i", ""), "ia": ("j", "a", ""), "ie": ("j", "e", ""),
    "iao": ("j", "au", ""), "iu": ("j", "ou", ""), "ian": ("j", "ɛ", "n"), "in": ("", "i", "n"),
    "iang": ("j", "a", "ŋ"), "ing": ("", "i", "ŋ"), "iong": ("j", "ʊ", "ŋ"), "u": ("", "u", ""), "ua": ("w", "a", ""),
    "uo": ("w", "o", ""), "uai": ("w", "ai", ""), "ui": ("w", "ei", ""), "uan": ("w", "a", "n"), "un": ("w", "ə", "n"),
    "uang": ("w", "a", "ŋ"), "ueng": ("w", "ə", "ŋ"), "v": ("", "y", ""), "ve": ("ɥ", "e", ""),
    "van": ("ɥ", "ɛ", "n"), "vn": ("", "y", "n"), "-i": ("", "ɨ", ""),
}  # fmt: skip
_ALONE = {"er": "ɚ", "r": "ɚ", "o": "ɔ"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """What is said, in characters and as it is pronounced."""

    index: int
    text: str
    pinyin: str


def mandarin_sentences(*, held_back: bool = False) -> list[Sentence]:
    """The sentences that may train, or those that judge."""
    training, judging = _LIST.read_text(encoding="utf-8").split(_HELD_BACK)
    lines = [line.split("\t") for line in (judging if held_back else training).splitlines() if "\t" in line]
    first = FIRST_HELD_INDEX if held_back else FIRST_INDEX
    return [Sentence(index=first + i, text=text, pinyin=pinyin) for i, (text, pinyin) in enumerate(lines)]


def symbols(pinyin: str) -> str:
    """Kokoro's symbols for words of pinyin; spaces and punctuation are kept."""
    return _SYLLABLE.sub(lambda match: syllable_symbols(match[1], match[2]), pinyin)


def rhymes(pinyin: str) -> list[tuple[int, int]]:
    """Where each syllable's vowel begins and its last sound ends, among `symbols`."""
    places = []
    for match in _SYLLABLE.finditer(pinyin):
        end = len(symbols(pinyin[: match.end()]))
        initial, final = ("", "") if match[1] in _ALONE else split(match[1])
        onset = len(_INITIALS[initial]) + len(_FINALS[final][0] if final else "")
        places.append((end - len(syllable_symbols(match[1], match[2])) + onset, end))
    return places


def syllable_symbols(plain: str, tone: str) -> str:
    """Kokoro's symbols for one syllable, its tone 1 to 5 given apart."""
    if plain in _ALONE:
        return _ALONE[plain] + _TONES[tone]
    initial, final = split(plain)
    glide, vowel, end = _FINALS[final]
    return _INITIALS[initial] + glide + vowel + _TONES[tone] + end


def split(plain: str) -> tuple[str, str]:
    """Initial and final, the final spelt as it sounds: `-i` after sibilants, `v` for u with two dots."""
    match = _INITIAL.match(plain)
    initial = match[0] if match else ""
    final = plain[len(initial) :]
    if not initial:  # y and w only spell what begins with a vowel
        final = re.sub("^y(?=[uv])", "v", final).replace("vu", "v")
        final = re.sub("^y(?=i)|^w(?=u)", "", final)
        final = final.replace("y", "i", 1).replace("w", "u", 1)
        final = {"iou": "iu", "uei": "ui", "uen": "un", "ien": "ian"}.get(final, final)
    elif initial in ("j", "q", "x"):
        final = re.sub("^u", "v", final)
    elif final == "i" and initial in ("zh", "ch", "sh", "r", "z", "c", "s"):
        final = "-i"
    return initial, final
