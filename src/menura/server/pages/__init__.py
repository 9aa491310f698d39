"""The page: a client of the public API, rendered here and brought to life by small modules of our own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, select_autoescape

from menura import __version__
from menura.content.registry import STARTER
from menura.effects.definitions import PRESETS, effects_schema
from menura.errors import ErrorDetails, VoiceNotFoundError
from menura.option_spec import GROUPS, OptionSpec
from menura.options import DEFAULT_VOICE, CloneOptions, TrainingOptions
from menura.server.api.jobs import JobDocument, job_document
from menura.server.api.system import get_system
from menura.server.api.trainings import get_trainings, training_document
from menura.server.api.voices import get_voice, voice_document
from menura.server.asked import offered
from menura.server.fetching import refusal
from menura.server.locales import LANGUAGES, Language, message, messages, preferred, sentence, translated
from menura.server.problems import problem
from menura.server.security import COOKIE, LONGEST_BACK, Access, address_of
from menura.server.service import Current
from menura.server.store import NotFoundError
from menura.voices.library import list_voices

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_HERE = Path(__file__).resolve().parent
_LANGUAGE_COOKIE = "menura_language"
_YEAR_S = 365 * 86_400
_PAGE_JOBS = 30
_MAIN = ("transpose", "index_rate", "format")
"""Controls that aren't folded away."""
_OF_ONE = ("spans", "speakers", "outside")
"""Options that suit a single recording."""
_TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "content": {"default": STARTER, "choices": (STARTER, "contentvec")},
    "sample_rate": {"default": "24k"},
    "steps": {},
}
"""Those of a training, with what suits a machine without a GPU."""


@cache
def _templates() -> Jinja2Templates:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "size": size, "moment": moment, "said": message}
    environment.policies["json.dumps_kwargs"] = {}  # in their own order
    environment.globals |= {"version": __version__, "languages": LANGUAGES}
    return Jinja2Templates(env=environment)


def install(app: FastAPI, access: Access) -> None:
    """Add the pages and their files."""
    app.state.access = access
    app.mount("/static", _Static(directory=_HERE / "static"), name="static")
    app.include_router(router)
    app.add_exception_handler(404, _nowhere)


class _Static(StaticFiles):
    def file_response(self, *given: Any, **further: Any) -> Response:
        answer = super().file_response(*given, **further)
        answer.headers["Cache-Control"] = "no-cache"  # asked for again each time; unchanged, nothing is sent
        return answer


def _nowhere(request: Request, _error: Exception) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return _missing(request, "There is no such page.")
    return problem(ErrorDetails(kind="http", problem="Not Found"), 404)


@router.get("/")
def convert_page(request: Request, service: Current) -> Response:
    voices = [voice_document(voice) for voice in list_voices(service.home)]
    main, folded = _controls(offered(), _MAIN)
    return _page(
        request,
        "convert.html",
        voices=voices,
        main=main,
        folded=folded,
        options=service.options,
        default_voice=DEFAULT_VOICE,
        effects=translated(effects_schema(), language_of(request)),
        presets=PRESETS,
    )


@router.get("/jobs")
def jobs_page(
    request: Request, service: Current, cursor: Annotated[int | None, Query(ge=0, le=2**31)] = None
) -> Response:
    jobs = service.store.jobs(before=cursor, limit=_PAGE_JOBS)
    return _page(
        request,
        "jobs.html",
        jobs=[job_document(job) for job in jobs],
        older=jobs[-1].number if len(jobs) == _PAGE_JOBS else None,
    )


@router.get("/jobs/{id}")
def job_page(request: Request, service: Current, id: str) -> Response:
    try:
        job = job_document(service.store.job(id))
    except NotFoundError:
        return _missing(request, "This job doesn't exist, or was deleted.")
    return _page(request, "job.html", job=job, again=f"/?{_again(job)}", labels=_labels())


@router.get("/voices")
def voices_page(request: Request, service: Current) -> Response:
    voices = [voice_document(voice) for voice in list_voices(service.home)]
    return _page(request, "voices.html", voices=voices, fetches=refusal(service) is None)


@router.get("/voices/{name}")
def voice_page(request: Request, service: Current, name: str) -> Response:
    try:
        voice = get_voice(service, name)
    except VoiceNotFoundError:
        return _missing(request, "There is no voice of this name.")
    return _page(request, "voice.html", voice=voice)


@router.get("/train")
def train_page(request: Request, service: Current) -> Response:
    specs = [replace(spec, **_TRAINING_DEFAULTS.get(spec.name, {})) for spec in offered(TrainingOptions)]
    main, folded = _controls(specs, tuple(_TRAINING_DEFAULTS))
    trainings = get_trainings(service).trainings
    return _page(request, "train.html", main=main, folded=folded, options=service.options, trainings=trainings)


@router.get("/train/{id}")
def training_page(request: Request, service: Current, id: str) -> Response:
    try:
        training = training_document(service, service.trainings.record(id))
    except NotFoundError:
        return _missing(request, "This training doesn't exist, or was deleted.")
    labels = {spec.name: spec.label for kind in (CloneOptions, TrainingOptions) for spec in offered(kind)}
    return _page(request, "training.html", training=training, labels=labels)


@router.get("/system")
def system_page(request: Request, service: Current) -> Response:
    return _page(request, "system.html", system=get_system(service), folder=str(service.folder.path))


@router.get("/help")
def help_page(request: Request) -> Response:
    effects = translated(effects_schema(), language_of(request))
    return _page(request, "help.html", groups=_grouped(offered()), labels=_labels(), effects=effects)


@router.get("/login")
def login_page(request: Request, back: Annotated[str, Query(max_length=LONGEST_BACK)] = "/") -> Response:
    return _page(request, "login.html", wrong=False, back=back)


@router.post("/login")
def login(
    request: Request,
    token: Annotated[str, Form(max_length=500)],
    back: Annotated[str, Form(max_length=LONGEST_BACK)] = "/",
) -> Response:
    access: Access = request.app.state.access
    if status := access.refusal(token.encode(), address_of(request.scope)):
        return _page(request, "login.html", status=status, wrong=True if status == 401 else None, back=back)
    answer = RedirectResponse(_own(back), 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, access.session, max_age=_YEAR_S, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/language")
def choose_language(
    language: Annotated[Language, Form()], back: Annotated[str, Form(max_length=300)] = "/"
) -> Response:
    answer = RedirectResponse(_own(back), 303)
    answer.set_cookie(_LANGUAGE_COOKIE, language, max_age=_YEAR_S, samesite="lax")
    return answer


def _own(place: str) -> str:
    """A place of the service's; the first page instead of any other."""
    return place if place.startswith("/") and not place.startswith(("//", "/\\")) else "/"


def clock(seconds: float | None) -> str:
    """75 -> 1:15, 3700 -> 1:01:40."""
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def size(bytes: float) -> str:
    """1234567 -> 1.2 MB."""
    for unit in ("bytes", "kB", "MB"):
        if bytes < 1000:
            return f"{bytes:.0f} {unit}" if unit != "MB" else f"{bytes:.1f} {unit}"
        bytes /= 1000
    return f"{bytes:.1f} GB"


def moment(seconds: float) -> str:
    """In ISO 8601, for <time>; the browser shows it in the user's own zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def language_of(request: Request) -> Language:
    return preferred(request.headers.get("accept-language", ""), request.cookies.get(_LANGUAGE_COOKIE))


def _page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    language = language_of(request)
    texts: dict[str, Any] = {"t": partial(translated, language=language), "say": partial(message, language=language)}
    texts |= {"sentence": partial(sentence, language=language)}
    texts |= {"language": language, "messages": messages(language)}
    answer = _templates().TemplateResponse(request, template, {**texts, **context}, status)
    answer.headers["Vary"] = "Accept-Language, Cookie"
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _missing(request: Request, text: str) -> Response:
    return _page(request, "missing.html", 404, text=text)


def _controls(
    specs: Sequence[OptionSpec], main: Sequence[str]
) -> tuple[list[OptionSpec], list[tuple[str, list[OptionSpec]]]]:
    named = {spec.name: spec for spec in specs}
    return [named.pop(name) for name in main], _grouped(list(named.values()))


def _labels() -> dict[str, str]:
    return {spec.name: spec.label for spec in offered()}


def _grouped(specs: Sequence[OptionSpec]) -> list[tuple[str, list[OptionSpec]]]:
    groups: dict[str, list[OptionSpec]] = {title: [] for title in GROUPS.values()}
    for spec in sorted(specs, key=lambda spec: spec.advanced):
        groups[GROUPS[spec.group]].append(spec)
    return [(title, members) for title, members in groups.items() if members]


def _again(job: JobDocument) -> str:
    inputs = [item.input for item in job.items][:200]
    options = {k: str(v) for k, v in job.options.items() if v is not None and k not in _OF_ONE}
    return urlencode({"voice": job.voice, **options, "input": inputs}, doseq=True)
