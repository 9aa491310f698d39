"""The page's lists and forms: effects, blending, export, addresses, signing in."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Route, expect

from support.browser import FAILED_LOAD, Visit, watched
from support.server import Service

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


def test_voices_are_blended_and_exported(visit: Visit, service: Service, tmp_path: Path) -> None:
    page = visit("/voices")
    form = page.get_by_role("region", name="Blend")
    voices, shares, name = (
        form.get_by_role("combobox"),
        form.get_by_role("slider"),
        form.get_by_label("Name of the new"),
    )
    form.get_by_role("button", name="Another voice").click()
    expect(voices.nth(2)).to_be_focused()
    form.get_by_role("button", name="Remove").nth(2).press("Enter")
    expect(voices).to_have_count(2)
    for number, (voice, share) in enumerate((("wren", "70"), ("heron", "30"))):
        voices.nth(number).select_option(voice)
        shares.nth(number).fill(share)
    expect(form.get_by_role("status")).to_have_text(["70 %", "30 %"])
    name.fill("tiny")
    name.press("Enter")
    expect(page.locator("#blend-name-error")).to_contain_text("exists already")
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")
    name.fill("finch")
    voices.nth(1).select_option("tiny")
    form.get_by_role("button", name="Blend").click()
    expect(page.locator("#parts-error")).to_contain_text("don't match")
    expect(page.locator("#blend-name-error")).to_be_hidden()
    voices.nth(1).select_option("heron")
    form.get_by_role("button", name="Blend").click()
    page.wait_for_url("**/voices/finch")
    expect(page.get_by_text("blend of wren 70%, heron 30%")).to_be_visible()
    export = page.get_by_role("region", name="For other programs")
    export.get_by_role("button", name="Download").click()
    expect(export.get_by_role("alert")).to_contain_text("can't run this voice's vocoder")
    export.get_by_role("combobox").select_option("safetensors")
    with page.expect_download() as download:
        export.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "finch.zip"
    download.value.save_as(tmp_path / "finch.zip")
    with zipfile.ZipFile(tmp_path / "finch.zip") as archive:
        assert json.loads(archive.read("card.json"))["rights"] == "wren: Apache-2.0; heron: Apache-2.0"
    expect(export.get_by_role("alert")).to_be_hidden()
    assert service.client.delete("/v1/voices/finch").status_code == 204


def test_a_voice_is_imported_by_its_address(visit: Visit) -> None:
    page = visit("/voices")
    address = page.get_by_label("Or its address")
    address.fill("https://127.0.0.1/guest.pth")
    page.get_by_label("Whose voice is it").fill("mine")
    page.get_by_role("button", name="Import").click()
    expect(page.locator("#url-error")).to_contain_text("is an address of this machine or its own network")
    expect(address).to_be_focused()
    sent: list[Any] = []
    made = {"voices": [{"name": "tiny"}], "errors": []}

    def answer(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(json=made)

    page.route("**/v1/voices/fetch", answer)
    address.fill("owner/guest")
    page.get_by_role("button", name="Import").click()
    page.wait_for_url("**/voices/tiny")
    assert sent == [{"url": "owner/guest", "rights": "mine", "name": None}]


def test_effects_are_added_and_changed(visit: Visit) -> None:
    page = visit("/")
    page.get_by_text("More settings").click()
    group, text = page.get_by_role("group", name="Effects"), page.locator("#o-effects")
    choice, add = group.get_by_role("combobox"), group.get_by_role("button", name="Add")
    choice.select_option("Reverb")
    expect(group.locator("#effect-about")).to_contain_text("A room")
    add.click()
    expect(group.get_by_role("button", name="Reverb", exact=True)).to_be_focused()
    room = group.get_by_role("spinbutton", name="Room")
    expect(room).to_have_accessible_description("Size of the room. 0 to 1; default 0.5.")
    room.fill("0.3")
    group.get_by_role("slider", name="Wet").focus()
    page.keyboard.press("End")
    assert text.input_value() == "reverb room=0.3 wet=1"
    room.fill("7")
    expect(group.get_by_text("Outside 0 to 1.")).to_be_visible()
    expect(room).to_have_attribute("aria-invalid", "true")
    room.fill("")
    assert text.input_value() == "reverb wet=1"


def test_effects_are_ordered_by_keys_and_pointer(visit: Visit) -> None:
    page = visit("/")
    page.get_by_text("More settings").click()
    group, text = page.get_by_role("group", name="Effects"), page.locator("#o-effects")
    choice, add = group.get_by_role("combobox"), group.get_by_role("button", name="Add")
    names = group.locator(".effect-title")
    group.get_by_text("As text").click()
    text.fill("reverb wet=1")
    choice.select_option("room")  # a preset: one effect
    add.click()
    choice.select_option("Gain")
    add.press("Enter")
    expect(names).to_have_text(["Reverb", "Reverb", "Gain"])
    up = group.get_by_role("button", name="Move up: Gain")
    for place, state in (("2", "false"), ("1", "true"), ("1", "true")):
        up.press("Enter")
        expect(group.locator("#effects-said")).to_have_text(f"Gain: place {place} of 3")
        expect(up).to_be_focused()
        expect(up).to_have_attribute("aria-disabled", state)
    assert text.input_value() == "gain, reverb wet=1, reverb room=0.3 damping=0.6 wet=0.15 dry=0.5"
    grips = group.locator(".grip")
    grips.nth(0).scroll_into_view_if_needed()
    grips.nth(0).hover()
    page.mouse.down()
    box = group.locator(".effect").nth(2).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] + 30, steps=20)
    page.mouse.up()
    expect(names).to_have_text(["Reverb", "Reverb", "Gain"])
    page.mouse.move(box["x"] + 20, box["y"] - 400, steps=5)  # nothing is dragged any more
    expect(names).to_have_text(["Reverb", "Reverb", "Gain"])
    group.get_by_role("button", name="Remove: Reverb").nth(1).click()
    expect(group.get_by_role("button", name="Remove: Gain")).to_be_focused()
    group.get_by_role("button", name="Remove all").click()
    assert text.input_value() == ""
    expect(names).to_have_count(0)


def test_effects_as_text_are_checked_and_applied(visit: Visit, service: Service) -> None:
    page = visit("/")
    page.get_by_text("More settings").click()
    group, text = page.get_by_role("group", name="Effects"), page.locator("#o-effects")
    names = group.locator(".effect-title")
    group.get_by_text("As text").click()
    text.fill("limiter threshold=-3,  robot")
    expect(names).to_have_text(["Limiter", "Chorus", "Bitcrush", "Limiter"])
    text.fill("reverb rum=1")
    expect(group.get_by_text("The list can't show this text")).to_be_visible()
    group.get_by_role("combobox").select_option("gain")
    group.get_by_role("button", name="Add").click()
    expect(text).to_have_value("reverb rum=1, gain")
    page.set_input_files("#pick", CLIP)
    page.get_by_role("radio", name="tiny").check()
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator("#o-effects-error")).to_contain_text("reverb has no 'rum'")
    expect(text).to_be_focused()
    text.fill("limiter threshold=-3, gain")
    page.get_by_role("button", name="Convert", exact=True).click()
    page.wait_for_url("**/jobs/*")
    job = service.client.get(f"/v1/jobs/{page.url.rpartition('/')[2]}").json()
    assert job["options"] == {"effects": "limiter threshold=-3, gain"}
    page.get_by_role("link", name="Convert again with").click()
    expect(names).to_have_text(["Limiter", "Gain"])


def test_effects_in_chinese_and_from_applios_preset(visit: Visit, tmp_path: Path) -> None:
    page = visit("/", locale="zh-CN")
    preset = {"pitch": 2, "reverb": True, "reverb_room_size": 0.8, "reverb_freeze_mode": False, "gain": False}
    (tmp_path / "applio.json").write_text(json.dumps(preset | {"delay": True, "delay_seconds": 0.25, "gain_db": 3}))
    page.set_input_files("#load-preset", tmp_path / "applio.json")
    expect(page.locator(".effect-title")).to_have_text(["混响", "延迟"])
    assert page.locator("#o-effects").input_value() == "reverb room=0.8 freeze=0, delay seconds=0.25"
    page.get_by_role("button", name="混响", exact=False).first.click()
    expect(page.get_by_role("spinbutton", name="房间大小")).to_have_value("0.8")
    expect(page.get_by_text("房间的大小。 0 至 1；默认 0.5。")).to_be_visible()


def test_who_has_the_token_signs_in_and_comes_back(chromium: Browser, home: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "data", home, "--token", "correct horse") as service:
        context = chromium.new_context(base_url=service.address, locale="en-GB")
        page, wrong = watched(context, service.address)
        page.goto("/voices/tiny?from=%2F")
        assert page.url.startswith(f"{service.address}/login?")
        page.get_by_label("Token").fill("wrong horse")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This token is not the service's.")
        expect(page.get_by_label("Token")).to_have_attribute("aria-invalid", "true")
        assert context.cookies() == []
        page.get_by_label("Token").fill("correct horse")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("tiny")
        assert page.url == f"{service.address}/voices/tiny?from=%2F"
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
        assert "horse" not in cookie["value"]
        assert page.evaluate("document.cookie") == ""
        page.goto("/jobs")
        expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
        page.goto("/login?back=//evil.example/")
        page.get_by_label("Token").fill("correct horse")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Keep what is said"))
        assert page.url == f"{service.address}/"
        context.close()
        assert not [what for what in wrong if FAILED_LOAD not in what]
