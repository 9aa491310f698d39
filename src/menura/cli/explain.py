"""`menura convert --explain`: how each input would be converted, and why."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from menura import __version__
from menura.audio.remote import local_input
from menura.cli.derive import flag_with
from menura.cli.terminal import say_json, say_lines
from menura.errors import MenuraError
from menura.jobs.plan import STANDARD, Inputs
from menura.options import ConversionOptions, EngineOptions
from menura.types import Explanation, Place
from menura.voices.assets import home_folder

if TYPE_CHECKING:
    from menura.converter import Converter
    from menura.loading import Request


def explain_inputs(found: Inputs, options: ConversionOptions, engine: EngineOptions, *, as_json: bool) -> int:
    """Show the plan for every input; the exit code is 0 only if all of them can be converted."""
    from menura.converter import Converter
    from menura.loading import resolve

    request = resolve(options, home_folder(engine.home))
    converter = Converter(engine)
    explanations = [_explanation(converter, item.path, request) for item in found.items]
    explanations += [Explanation(input=str(item.path), refusal=item.error) for item in found.missing]
    if as_json:
        files = [dataclasses.asdict(explanation) for explanation in explanations]
        say_json({"version": __version__, "files": files})
    else:
        for explanation in explanations:
            say_lines(_lines(explanation))
    return 0 if all(explanation.refusal is None for explanation in explanations) else 1


def _explanation(converter: Converter, place: Place, request: Request) -> Explanation:
    try:
        if str(place) == STANDARD:
            explanation = converter.explain(sys.stdin.buffer, request)
        else:
            with local_input(place) as path:
                explanation = converter.explain(path, request)
    except MenuraError as error:
        return Explanation(input=str(place), refusal=error.details)
    return dataclasses.replace(explanation, input=str(place))


def _lines(explanation: Explanation) -> Iterator[str]:
    if explanation.strategy is None:
        assert explanation.refusal is not None
        yield dataclasses.replace(explanation.refusal, subject=explanation.input).text(flag_with)
        return
    several = f", {explanation.segments} segments" if explanation.segments > 1 else ""
    yield f"{explanation.input}: {explanation.audio_s:.2f} s, {explanation.strategy}{several}"
    for reason in explanation.reasons:
        yield f"  {reason}"
    if explanation.refusal is not None:
        yield f"  refused: {explanation.refusal.text(flag_with)}"
