// Voices: import, fetch, blend, export, rename, remove with undo, another index.
import { $, call, pickFiles, send, showError, size, texts, toast } from "./app.js";

const form = $("#import-form"), page = $("#voice"), problem = $("#form-error");
const open = ({ name }) => location.assign(`/voices/${encodeURIComponent(name)}`);

// What takes long, with its button saying so; an error stands beside the field that is at fault, or at `place`.
async function busy(form, text, place, fields, act) {
  const button = $("button:not([type])", form), { textContent: before } = button;
  for (const [error, input] of [[place], ...Object.values(fields)]) { showError(error, null); input?.removeAttribute("aria-invalid"); }
  button.disabled = true;
  button.textContent = text;
  try {
    await act();
  } catch (error) {
    const [beside, input] = fields[error.option] ?? [place];
    showError(beside, error);
    input?.setAttribute("aria-invalid", "true");
    input?.focus();
  } finally {
    button.disabled = false;
    button.textContent = before;
  }
}
const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

if (form) {
  let files = [];
  const list = $("#files");
  const show = () => list.replaceChildren(...files.map((file) => {
    const row = document.createElement("li");
    row.className = "file";
    row.innerHTML = '<span class="file-name"></span><span class="file-facts"></span><progress max="1" value="0" hidden></progress>';
    $(".file-name", row).textContent = file.name;
    $(".file-facts", row).textContent = size(file.size);
    file.row = row;
    return row;
  }));
  pickFiles($("#drop"), [$("#pick")], (added) => { files = [...files, ...added]; show(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const voices = files.filter((file) => !/\.index$/i.test(file.name)), indexes = files.filter((file) => /\.index$/i.test(file.name));
    const url = $("#url")?.value.trim(), fields = { name: [$("#name-error"), $("#name")] };
    if (url !== undefined) fields.url = [$("#url-error"), $("#url")];
    if (!voices.length && !url) return showError(problem, new Error(texts.voice));
    if (!form.reportValidity()) return;
    await busy(form, voices.length ? texts.uploading : texts.fetching, problem, fields, async () => {
      for (const file of voices) {
        const bar = $("progress", file.row);
        bar.hidden = false;
        const values = { filename: file.name, rights: $("#rights").value, name: voices.length === 1 ? $("#name").value : "" };
        const answer = await send("POST", `/v1/voices?${query(values)}`, file, (share) => { bar.value = share; });
        const own = indexes.length === 1 ? indexes[0] : indexes.find((index) => index.name.includes(file.name.replace(/\.[^.]*$/, "")));
        if (own && answer.voices.length === 1) await send("PUT", `/v1/voices/${encodeURIComponent(answer.voices[0].name)}/index`, own, () => {});
      }
      if (voices.length) return location.reload();
      const json = { url, rights: $("#rights").value, name: $("#name").value || null };
      const fetched = await call("/v1/voices/fetch", { method: "POST", json });
      open(fetched.voices[0]);
    });
  });
}

const blend = $("#blend-form");
if (blend) {
  const parts = $("#parts");
  const show = () => {
    const rows = [...parts.children], total = rows.reduce((sum, row) => sum + $("input", row).valueAsNumber, 0);
    for (const row of rows) {
      const slider = $("input", row);
      $("output", row).textContent = slider.ariaValueText = `${Math.round(100 * slider.value / total)} %`;
      slider.style.setProperty("--at", `${100 * (slider.value - 1) / 99}%`);
      $("button", row).hidden = rows.length < 3;
    }
  };
  const add = () => {
    const row = $("#part-row").content.cloneNode(true).firstElementChild;
    $("select", row).selectedIndex = parts.childElementCount % $("select", row).length;
    $("input", row).addEventListener("input", show);
    $("button", row).onclick = () => { row.remove(); show(); $("#add-part").focus(); };
    parts.append(row);
    show();
    return row;
  };
  add();
  add();
  $("#add-part").onclick = () => $("select", add()).focus();
  blend.addEventListener("submit", (event) => {
    event.preventDefault();
    const json = {
      name: $("#blend-name").value,
      parts: [...parts.children].map((row) => ({ voice: $("select", row).value, share: $("input", row).valueAsNumber })),
    };
    const fields = { name: [$("#blend-name-error"), $("#blend-name")] };
    busy(blend, texts.blending, $("#parts-error"), fields, async () => open(await call("/v1/voices/blend", { method: "POST", json })));
  });
}

if (page) {
  const path = `/v1/voices/${encodeURIComponent(page.dataset.voice)}`, dialog = $("#rename-dialog");
  $("#rename")?.addEventListener("click", () => dialog.showModal());
  $("form", dialog).addEventListener("submit", async (event) => {
    if (event.submitter?.value !== "ok") return;
    event.preventDefault();
    try {
      const voice = await call(`${path}/rename`, { method: "POST", json: { name: $("#new-name").value } });
      location.assign(`/voices/${encodeURIComponent(voice.name)}`);
    } catch (error) {
      showError($(".error", dialog), error);
    }
  });
  $("#remove")?.addEventListener("click", () => {
    // It is removed when the time to undo has passed, or the page is left.
    const remove = () => fetch(path, { method: "DELETE", keepalive: true });
    const leave = () => remove();
    const timer = setTimeout(async () => { removeEventListener("pagehide", leave); await remove(); location.assign("/voices"); }, 6000);
    addEventListener("pagehide", leave, { once: true });
    toast(texts.removed, texts.undo, () => { clearTimeout(timer); removeEventListener("pagehide", leave); });
  });
  $("#export-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const place = `${path}/export?format=${$("#format").value}`;
    busy(event.target, texts.making, $("#export-error"), {}, async () => {
      await call(place, { headers: { Range: "bytes=0-0" } }); // it is made, or an error told; then the browser takes it
      location.assign(place);
    });
  });
  $("#index")?.addEventListener("change", async (event) => {
    try {
      await send("PUT", `${path}/index`, event.target.files[0], () => {});
      location.reload();
    } catch (error) {
      showError(problem, error);
    }
  });
}
