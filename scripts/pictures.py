"""Pictures of the page for the documentation; with a folder, of every page, width, language and light.

usage: .venv/bin/python scripts/pictures.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from playwright.sync_api import Browser, Page  # noqa: E402

from support.browser import browser  # noqa: E402
from support.server import Service  # noqa: E402

CLIPS = sorted((ROOT / "src/menura/assets/demo").glob("*.flac")) + sorted((ROOT / "tests/data").glob("*.flac"))
DOCUMENTS = ROOT / "docs" / "pictures"
PAGES = ("/", "/jobs", "/jobs/{job}", "/voices", "/voices/wren", "/train", "/system", "/help", "/login", "/none")
WIDTHS = (320, 375, 1280, 1920)


def opened(chromium: Browser, service: Service, width: int, locale: str, scheme: str, height: int = 800) -> Page:
    context = chromium.new_context(
        base_url=service.address,
        locale=locale,
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": height},
        timezone_id="UTC",
    )
    return context.new_page()


def convert_page(page: Page, *, unfolded: bool = False) -> None:
    page.goto("/")
    page.set_input_files("#pick", CLIPS)
    page.wait_for_timeout(700)
    if unfolded:
        page.locator("summary").click()


def job_page(page: Page, job: str) -> None:
    page.goto(f"/jobs/{job}")
    for box in page.locator(".pitch input").all()[:1]:
        box.check()
    page.wait_for_timeout(700)


def documents(chromium: Browser, service: Service, job: str) -> None:
    page = opened(chromium, service, 1280, "en", "light")
    page.set_viewport_size({"width": 1280, "height": 880})
    convert_page(page)
    page.screenshot(path=DOCUMENTS / "page-convert.png")
    job_page(page, job)
    page.set_viewport_size({"width": 1280, "height": 620})
    page.screenshot(path=DOCUMENTS / "page-job.png")


def everything(chromium: Browser, service: Service, job: str, folder: Path) -> None:
    for width, locale, scheme in product(WIDTHS, ("en", "zh-CN"), ("light", "dark")):
        page = opened(chromium, service, width, locale, scheme)
        for path in PAGES:
            if path == "/":
                convert_page(page, unfolded=True)
            elif "job}" in path:
                job_page(page, job)
            else:
                page.goto(path)
            name = path.strip("/").replace("/{job}", "-one").replace("/", "-") or "convert"
            page.screenshot(path=folder / f"{name}-{width}-{locale[:2]}-{scheme}.png", full_page=True)
        page.context.close()


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as place,
        browser() as chromium,
        Service(Path(place, "data"), Path(place, "home")) as service,
    ):
        ids = [service.send(clip) for clip in CLIPS]
        job = service.ended(service.job(*ids, voice="heron")["id"])["id"]
        if not sys.argv[1:]:
            documents(chromium, service, job)
            return 0
        bad = service.client.put("/v1/audio", params={"name": "a_long_name_" * 8 + ".mp3"}, content=b"\xff\xfb")
        job = service.ended(service.job(*ids[:1], bad.json()["id"], voice="wren", seed=7)["id"])["id"]
        service.client.post(f"/v1/jobs/{service.job(ids[0], voice='wren')['id']}/cancel")
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        everything(chromium, service, job, Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
