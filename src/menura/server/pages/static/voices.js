// Voices: import, rename, remove with undo, another index.
import { $, call, pickFiles, send, showError, size, texts, toast } from "./app.js";

const form = $("#import-form"), page = $("#voice"), problem = $("#form-error");
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
    showError(problem, null);
    const voices = files.filter((file) => !/\.index$/i.test(file.name)), indexes = files.filter((file) => /\.index$/i.test(file.name));
    if (!voices.length) return showError(problem, new Error(texts.voice));
    if (!form.reportValidity()) return;
    const button = $("button.primary", form);
    button.disabled = true;
    try {
      for (const file of voices) {
        const bar = $("progress", file.row);
        bar.hidden = false;
        const values = { filename: file.name, rights: $("#rights").value, name: voices.length === 1 ? $("#name").value : "" };
        const answer = await send("POST", `/v1/voices?${query(values)}`, file, (share) => { bar.value = share; });
        const own = indexes.length === 1 ? indexes[0] : indexes.find((index) => index.name.includes(file.name.replace(/\.[^.]*$/, "")));
        if (own && answer.voices.length === 1) await send("PUT", `/v1/voices/${encodeURIComponent(answer.voices[0].name)}/index`, own, () => {});
      }
      location.reload();
    } catch (error) {
      showError(problem, error);
    } finally {
      button.disabled = false;
    }
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
  $("#index")?.addEventListener("change", async (event) => {
    try {
      await send("PUT", `${path}/index`, event.target.files[0], () => {});
      location.reload();
    } catch (error) {
      showError(problem, error);
    }
  });
}
