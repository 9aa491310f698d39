"""The page, as people meet it: in a real browser, before a real service."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from e2e.test_train import CLIPS, shrink
from support.browser import Visit
from support.server import Service

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
EVIL = Path(__file__).parents[1] / "support" / "evil.html"
LONG_NAME = "a_very_long_name_without_any_place_to_break_it_" * 3
PAGES = (
    *("/", "/jobs", "/jobs/{job}", "/voices", "/voices/wren", "/voices/tiny"),
    *("/train", "/train/{training}", "/system", "/help", "/login", "/none"),
)

WIDER = """[...document.querySelectorAll("body *")]
  .filter((node) => !node.closest(".scroll *, .hidden, .visually-hidden, .skip"))
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 0.5)
  .map((node) => node.outerHTML.slice(0, 120))"""
"""What reaches beyond the window's edge."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: short.wav of 1.5 s, minute.flac, long.flac of ten, bad.mp3, and cut.flac, which lacks its end."""
    folder = tmp_path_factory.mktemp("recordings")
    samples, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(folder / "short.wav", samples[:24_000], rate)
    soundfile.write(folder / "minute.flac", np.tile(samples, 6), rate)
    soundfile.write(folder / "long.flac", np.tile(samples, 100), rate)
    (folder / "bad.mp3").write_bytes(b"\xff\xfb" + bytes(3000))
    (folder / "cut.flac").write_bytes(CLIP.read_bytes()[:60_000])
    return folder


def convert(page: Page, voice: str, *files: Path) -> None:
    page.set_input_files("#pick", list(files))
    page.get_by_role("radio", name=voice).check()
    page.get_by_role("button", name="Convert", exact=True).click()


def player(item: Locator, expression: str) -> Any:
    """Something of an item's player, `p`."""
    return item.locator(".player").evaluate(f"place => {{ const p = place.player; return {expression}; }}")


def until(page: Page, condition: str, argument: object = None) -> None:
    """Wait; Playwright's own way needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def test_two_recordings_are_converted_and_compared(visit: Visit, recordings: Path, tmp_path: Path) -> None:
    page = visit("/")
    convert(page, "tiny", CLIP, recordings / "short.wav")
    page.wait_for_url("**/jobs/*")
    expect(page.locator("#job-state")).to_have_text("Done")
    expect(page.locator(".item")).to_have_count(2)
    item = page.locator(".item", has_text=CLIP.name)
    until(page, "document.querySelector('.player').player.peaks.source")
    item.get_by_role("button", name="Play").click()
    until(page, "document.querySelector('.player').player.at > 0.4")
    result_at = player(item, "p.at")
    item.get_by_role("button", name="Original").click()
    until(page, "!document.querySelector('.player').player.sounds.source.paused")
    assert result_at <= player(item, "p.at") < result_at + 1
    assert player(item, "p.sounds.result.paused")
    source_db, result_db = player(
        item, "['source', 'result'].map(w => p.peaks[w].rms_db + 20 * Math.log10(p.sounds[w].volume))"
    )
    assert source_db == pytest.approx(result_db, abs=0.05)
    item.get_by_role("button", name="Pause").click()
    item.get_by_label("Show pitch").check()
    expect(item.locator(".with-pitch")).to_be_visible()
    assert any(player(item, "p.pitch.source.hz"))
    with page.expect_download() as download:
        item.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "result.wav")
    assert download.value.suggested_filename == f"{CLIP.stem}.wav"
    assert soundfile.info(tmp_path / "result.wav").duration == pytest.approx(soundfile.info(CLIP).duration)
    expect(page.get_by_role("link", name="Download all")).to_be_visible()


def test_an_error_stands_beside_what_is_at_fault(visit: Visit, recordings: Path) -> None:
    page = visit("/")
    page.set_input_files("#pick", [recordings / "bad.mp3", recordings / "cut.flac"])
    bad = page.locator(".file", has_text="bad.mp3").locator(".error")
    expect(bad).to_contain_text(re.compile("read|audio|sound"))
    page.get_by_text("More settings").click()
    page.get_by_label("Sample rate").fill("1")
    page.get_by_role("radio", name="tiny").check()
    page.get_by_role("button", name="Convert", exact=True).click()
    rate = page.get_by_label("Sample rate")
    expect(rate).to_be_focused()
    expect(rate).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#o-sample_rate-error")).to_contain_text("outside 4000 to 384000 Hz")
    expect(bad).to_be_visible()
    rate.fill("")
    page.get_by_role("button", name="Convert", exact=True).click()
    page.wait_for_url("**/jobs/*")
    item = page.locator(".item")
    expect(item.locator(".item-state")).to_have_text("Done, with a warning")
    expect(item.locator(".error")).to_contain_text("could be read")


def test_a_running_job_survives_a_reload_and_is_cancelled(visit: Visit, service: Service, recordings: Path) -> None:
    job = service.job(service.send(recordings / "long.flac"), voice="wren")
    page = visit(f"/jobs/{job['id']}")
    running = "least => document.querySelector('.item progress').value > least"
    until(page, running, 0)
    before = page.locator(".item progress").evaluate("bar => bar.value")
    page.reload()
    expect(page.locator("#job-state")).to_have_text("Converting")
    until(page, running, before)
    listed = visit("/jobs").locator(f"[data-job='{job['id']}']")
    expect(listed.locator(".job-state")).to_have_text("Converting")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job-state")).to_have_text("Cancelled")
    expect(listed.locator(".job-state")).to_have_text("Cancelled")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Really?").click()
    page.wait_for_url("**/jobs")
    expect(page.locator(f"[data-job='{job['id']}']")).to_have_count(0)


def test_the_page_goes_on_when_the_service_does(visit: Visit, service: Service, recordings: Path) -> None:
    job = service.job(service.send(recordings / "minute.flac"), voice="wren")
    page = visit(f"/jobs/{job['id']}")
    until(page, "document.querySelector('.item progress').value > 0")
    page.evaluate("window.same = true")
    service.kill()
    expect(page.get_by_text("The service doesn't answer")).to_be_visible()
    service.start()
    expect(page.get_by_text("The service doesn't answer")).to_be_hidden()
    expect(page.locator("#job-state")).to_have_text("Done", timeout=60_000)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert page.evaluate("window.same")


def test_the_language_is_the_browsers_until_another_is_chosen(visit: Visit) -> None:
    page = visit("/jobs?cursor=1000", locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.get_by_role("heading", level=1)).to_have_text("任务")
    page.get_by_role("button", name="English").click()
    page.wait_for_url(re.compile(r"/jobs\?cursor=1000$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    page.goto("/voices")
    expect(page.get_by_role("heading", level=1)).to_have_text("Voices")


def test_all_of_it_works_without_a_mouse(visit: Visit) -> None:
    page = visit("/")
    page.on("filechooser", lambda _: None)  # from now on they are caught, not opened
    press = page.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(60):
            press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"{selector} can't be reached")

    press("Tab")
    press("Enter")  # the link that skips to the content
    tab_to("#pick")
    with page.expect_file_chooser() as chooser:
        press("Enter")
    chooser.value.set_files(CLIP)
    tab_to("input[name=voice]")
    while page.locator("input[name=voice]:checked").get_attribute("value") != "tiny":
        press("ArrowDown")
    tab_to("#go")
    assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    press("Enter")
    page.wait_for_url("**/jobs/*")
    expect(page.locator("#job-state")).to_have_text("Done")
    until(page, "document.querySelector('.player').player.length > 5")
    item = page.locator(".item")
    tab_to(".waves")
    press("Space")
    until(page, "document.querySelector('.player').player.at > 0.1")
    press("ArrowRight")
    assert player(item, "p.at") > 5
    press("x")
    assert player(item, "p.which") == "source"
    press("Space")
    press("Home")
    assert player(item, "[p.at, p.audio.paused]") == [0, True]


def test_a_voice_is_imported_renamed_and_removed(visit: Visit, service: Service, home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "voices" / "tiny" / "voice.safetensors", tmp_path / "vireo.safetensors")
    index = faiss.index_factory(384, "IVF1,Flat")
    vectors = np.random.default_rng(1).standard_normal((64, 384)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "added_vireo.index"))
    page = visit("/voices")
    page.set_input_files("#pick", [tmp_path / "vireo.safetensors", tmp_path / "added_vireo.index"])
    page.get_by_label("Whose voice is it").fill("mine")
    page.get_by_role("button", name="Import").click()
    row = page.locator(".library li", has_text="vireo")
    expect(row).to_contain_text("with index")
    expect(row).to_contain_text("mine")
    row.get_by_role("link", name="vireo").click()
    page.get_by_role("button", name="Rename").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("New name").fill("wren")
    dialog.get_by_role("button", name="Rename").click()
    expect(dialog.locator(".error")).to_be_visible()
    dialog.get_by_label("New name").fill(LONG_NAME[:100])
    dialog.get_by_role("button", name="Rename").click()
    page.wait_for_url(f"**/voices/{LONG_NAME[:100]}")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Undo").click()
    page.goto("/voices")
    expect(page.get_by_role("link", name=LONG_NAME[:100])).to_be_visible()
    page.get_by_role("link", name=LONG_NAME[:100]).click()
    page.get_by_role("button", name="Remove").click()
    page.goto("/voices")  # who leaves the page has no more to undo
    until(page, "() => fetch('/v1/voices').then(a => a.text()).then(text => !text.includes('a_very_long_name'))")


def test_a_voice_is_trained(visit: Visit, service: Service) -> None:
    page = visit("/train")
    page.set_input_files("#pick", CLIPS)
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Whose voice is it").fill("read for LibriVox, in the public domain")
    expect(page.get_by_text("More settings")).to_be_hidden()
    page.get_by_label("Train: from more recordings").check()
    page.get_by_text("More settings").click()
    page.get_by_label("Start from").fill("none")
    page.get_by_label("Batch size").fill("2")
    page.get_by_label("Steps").fill("3")
    page.get_by_role("button", name="Check the recordings").click()
    page.wait_for_url("**/train/*")
    shrink(service.data / "trainings" / page.url.rpartition("/")[2])
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#state")).to_have_text("Done", timeout=60_000)
    expect(page.locator("#curves canvas")).to_be_visible()
    expect(page.locator("#previews li").first).to_be_visible()
    page.get_by_role("button", name="Put into the library").click()
    page.get_by_role("dialog").get_by_role("button", name="Put into the library").click()
    expect(page.get_by_text("reader is in the library.")).to_be_visible()
    page.goto("/voices/reader")
    expect(page.get_by_text("in the public domain")).to_be_visible()


def test_a_voice_is_heard_before_it_is_chosen(visit: Visit) -> None:
    page = visit("/")
    scripts = page.evaluate("performance.getEntriesByType('resource').map(r => r.name).filter(n => /[.]js/.test(n))")
    assert (
        len(scripts) == len({name.partition("?")[0] for name in scripts}) == 3
    )  # loaded twice, it would be heard twice
    hear, other = (page.get_by_role("button", name=f"Hear {name}") for name in ("wren", "heron"))
    hear.click()
    expect(hear).to_have_class(re.compile("playing"))
    other.click()
    expect(hear).not_to_have_class(re.compile("playing"))
    expect(other).to_have_class(re.compile("playing"))
    other.click()
    expect(other).not_to_have_class(re.compile("playing"))
    expect(page.get_by_role("radio", name="wren")).to_be_checked()


def test_settings_are_saved_and_applios_are_read(visit: Visit, tmp_path: Path) -> None:
    page = visit("/")
    preset = {"pitch": 3, "index_rate": 0.5, "rms_mix_rate": 0.25, "protect": 0.2, "clean_audio": True}
    (tmp_path / "applio.json").write_text(json.dumps(preset))
    page.set_input_files("#load-preset", tmp_path / "applio.json")
    page.get_by_role("radio", name="tiny").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save settings").click()
    saved = json.loads(Path(download.value.path()).read_text())
    options = {"transpose": 3, "index_rate": 0.5, "rms_mix_rate": 0.25, "protect": 0.2}
    assert saved == {"voice": "tiny", "options": options}
    page.get_by_role("button", name="Reset").click()
    rate, kind = page.locator("#o-index_rate"), page.locator("#o-index_rate-word")
    expect(kind).to_have_value("")
    expect(rate).to_be_hidden()
    page.locator(".control", has=rate).get_by_role("combobox").select_option("a number")
    rate.fill("0.75")
    expect(page.locator("output[for=o-index_rate]")).to_have_text("0.75")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save settings").click()
    assert json.loads(Path(download.value.path()).read_text())["options"] == {"index_rate": 0.75}
    kind.select_option("automatic")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save settings").click()
    assert json.loads(Path(download.value.path()).read_text())["options"] == {}
    (tmp_path / "none.json").write_text("[1]")
    page.set_input_files("#load-preset", tmp_path / "none.json")
    expect(page.get_by_text("This file holds no settings.")).to_be_visible()


def test_spans_come_from_a_file(visit: Visit, tmp_path: Path) -> None:
    page = visit("/")
    (tmp_path / "spans.csv").write_text("0,0.5,tiny\n0.4,1,tiny\n")
    page.set_input_files("input[data-fills=o-spans]", tmp_path / "spans.csv")
    convert(page, "tiny", CLIP)
    expect(page.locator("#o-spans-error")).to_contain_text("line 2, start: overlaps line 1")


def test_files_and_folders_are_dropped(visit: Visit, recordings: Path) -> None:
    page = visit("/")
    browser = page.context.new_cdp_session(page)

    def drag(kind: str, *paths: Path) -> None:
        place = {"x": 300, "y": 350} if paths[0].is_file() else {"x": 900, "y": 700}  # beside the zone it is taken too
        data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
        browser.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})

    drag("dragEnter", CLIP)
    drag("dragOver", CLIP)
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    expect(page.locator("#drop")).not_to_have_class(re.compile("over"))
    expect(page.locator(".file")).to_have_count(0)
    for paths in ([CLIP, recordings / "short.wav"], [recordings]):
        for kind in ("dragEnter", "dragOver", "drop"):
            drag(kind, *paths)
    names = [CLIP.name, "short.wav", "bad.mp3", "cut.flac", "long.flac", "minute.flac", "short.wav"]
    expect(page.locator(".file-name")).to_have_text(names)
    expect(page.locator(".file-facts").nth(1)).to_have_text("0:02")
    expect(page.locator(".file", has_text="bad.mp3").locator(".error")).to_be_visible()
    assert page.url.endswith("/")


def test_a_recording_is_made_with_the_microphone(visit: Visit) -> None:
    page = visit("/", permissions=["microphone"])
    page.get_by_role("button", name="Record").click()
    stop = page.get_by_role("button", name="Stop recording")
    expect(stop).to_be_visible()
    page.wait_for_timeout(700)
    stop.click()
    row = page.locator(".file")
    expect(row.locator(".file-name")).to_have_text(re.compile(r"^\d{4}-.*\.webm$"))
    until(page, "document.querySelector('.file progress').hidden")
    expect(row.locator(".error")).to_be_hidden()


@pytest.fixture(scope="module")
def crowded(service: Service, recordings: Path) -> list[str]:
    """The pages, with a job that has a long name, an error and a warning, and a training that hasn't begun."""
    names = {"short.wav": f"{LONG_NAME}.wav", "bad.mp3": "bad.mp3", "cut.flac": "cut.flac"}
    job = service.job(*(service.send(recordings / file, name) for file, name in names.items()), format="flac", seed=3)
    options = {"content": "menura-starter", "sample_rate": "24k"}
    body = {"name": LONG_NAME[:100], "inputs": list(map(service.send, CLIPS)), "rights": "mine", "options": options}
    training = service.client.post("/v1/trainings", json=body)
    assert training.status_code == 201, training.text
    return [path.format(job=service.ended(job["id"])["id"], training=training.json()["id"]) for path in PAGES]


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_nothing_is_wider_than_a_phone(visit: Visit, crowded: list[str], locale: str) -> None:
    page = visit("/", locale=locale, width=320)
    for path in crowded:
        page.goto(path)
        if path == "/":
            for summary in page.locator("summary").all():
                summary.click()
            page.locator("#o-effects").fill(
                "reverb room=0.123456789, compressor threshold=-24 ratio=3 attack=5 release=150"
            )
            for name in page.locator(".effect-name").all():
                name.click()
            page.set_input_files("#pick", {"name": f"{LONG_NAME}.wav", "mimeType": "audio/wav", "buffer": b"RIFF"})
        wide = page.evaluate(WIDER)
        assert not wide, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Visit, crowded: list[str], scheme: str) -> None:
    page, axe = visit("/", color_scheme=scheme), Axe()
    for path in crowded:
        page.goto(path)
        for kind in page.locator("input[name=kind]").all():
            kind.check()  # the last has all settings
        for summary in page.locator("summary").all():
            summary.click()
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [(path, v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious


class Evil(BaseHTTPRequestHandler):
    """Another web site: its page tries all that a page can."""

    target = ""

    def do_GET(self) -> None:
        page = EVIL.read_text().replace("TARGET", self.target).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def evil(service: Service) -> Iterator[str]:
    """The address of a page on evil.example that attacks the service."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Evil,), {"target": service.address}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://evil.example:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_site_can_do_nothing(chromium: Browser, service: Service, evil: str) -> None:
    def state() -> list[Any]:
        paths = ("/v1/jobs?limit=200", "/v1/voices", "/params")
        return [service.client.get(path).json() for path in paths] + [service.client.get("/v1/system").json()["disk"]]

    before = state()
    context = chromium.new_context()
    page = context.new_page()
    page.goto(service.address)  # a user of the service is lured away from it
    page.goto(evil)
    answers: list[tuple[str, int]] = []
    page.on("response", lambda answer: answers.append((answer.request.method, answer.status)))
    assert page.evaluate("all()") == []
    assert {status for method, status in answers if method not in ("GET", "OPTIONS")} == {403}
    assert context.cookies(service.address) == []
    # Its name resolves to this machine now, so that for the browser both are one site.
    rebound = page.goto(service.address.replace("127.0.0.1", "evil.example"))
    assert rebound is not None
    assert rebound.status == 421
    assert page.evaluate("fetch('/v1/jobs').then(answer => answer.status)") == 421
    assert state() == before
    context.close()
