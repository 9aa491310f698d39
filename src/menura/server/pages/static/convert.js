// The first page: recordings, a voice, options; then a job.
import { $, $$, call, clock, explained, pickFiles, send, showError, size, texts, toast } from "./app.js";
import { effectsOfApplio } from "./effects.js";

const form = $("#convert"), list = $("#files"), mostBytes = Number(form.dataset.mostBytes);
const chosen = [];
const known = /\.(wav|flac|mp3|ogg|oga|opus|m4a|aac|mp4|webm|mkv|mov|wma|aiff?|au|caf|amr|ape|wv|3gp)$/i;
const KEPT = "menura.settings";

function addFile(file) {
  const row = $("#file-row").content.cloneNode(true).firstElementChild;
  const entry = { file, row, id: file.id };
  $(".file-name", row).textContent = file.name;
  $(".file-facts", row).textContent = file.size ? size(file.size) : "";
  $(".drop-file", row).onclick = () => { chosen.splice(chosen.indexOf(entry), 1); row.remove(); };
  chosen.push(entry);
  list.append(row);
  if (file.size > mostBytes) fail(entry, new Error(`${texts.large} (${size(mostBytes)})`));
  upload(entry);
}

function addFiles(files) {
  const sound = files.filter((file) => known.test(file.name) || /^(audio|video)\//.test(file.type));
  const taken = sound.length ? sound : files.length === 1 ? files : [];
  taken.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })).forEach(addFile);
  if (!taken.length && files.length) toast(texts.nothing);
  showError($("#form-error"), null);
}
pickFiles($("#drop"), [$("#pick"), $("#pick-folder")], addFiles);

let recorder = null;
$("#record").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    const pieces = [], label = button.lastChild, before = label.textContent;
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (piece) => pieces.push(piece.data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      const ending = recorder.mimeType.includes("mp4") ? "m4a" : "webm";
      addFile(new File(pieces, `${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`));
      recorder = null;
      button.classList.remove("recording");
      label.textContent = before;
    };
    recorder.start();
    button.classList.add("recording");
    label.textContent = texts.listening;
  } catch (error) {
    toast(error.message);
  }
});

// Controls: each knows its option's name, kind and default.
function read(control) {
  const { option, kind } = control.dataset, input = $(`#o-${option}`), word = $(`#o-${option}-word`);
  if (word && word.value !== "#") return word.value || undefined;
  if (kind === "bool") return input.checked;
  if (input.value === "") return undefined;
  return kind === "int" || kind === "float" || (word && word.value === "#") || input.type === "number" ? Number(input.value) : input.value;
}

function write(control, value) {
  const { option, kind } = control.dataset, input = $(`#o-${option}`), word = $(`#o-${option}-word`);
  if (word) {
    const isWord = [...word.options].some((choice) => choice.value === String(value ?? ""));
    word.value = isWord ? String(value ?? "") : "#";
    input.hidden = word.value !== "#";
    if (!isWord) input.value = value;
  } else if (kind === "bool") input.checked = value === true || value === "true" || value === "True";
  else input.value = value ?? "";
  input.dispatchEvent(new Event("input"));
}

function settings() {
  const options = {};
  for (const control of $$(".control[data-option]")) {
    const value = read(control), standard = control.dataset.default;
    const usual = typeof value === "number" && standard ? value === Number(standard) : String(value) === standard;
    if (value !== undefined && !usual) options[control.dataset.option] = value;
  }
  return { voice: $("input[name=voice]:checked")?.value, options };
}

function apply({ voice, options = {} }) {
  const radio = $$("input[name=voice]").find((input) => input.value === voice);
  if (radio) { radio.checked = true; radio.scrollIntoView({ block: "nearest" }); }
  for (const control of $$(".control[data-option]")) {
    const { option, default: standard } = control.dataset;
    write(control, option in options ? options[option] : standard);
    if (option in options) control.closest("details")?.setAttribute("open", "");
  }
}

for (const control of $$(".control[data-option]")) {
  const input = $("input[type=range]", control), output = $("output", control), word = $("select[id$=-word]", control);
  const show = () => {
    output.textContent = Number(input.value);
    input.style.setProperty("--at", `${100 * (input.value - input.min) / (input.max - input.min)}%`);
  };
  if (input && output) { input.addEventListener("input", show); show(); }
  if (word) word.addEventListener("change", () => { $("input", control).hidden = word.value !== "#"; });
}

for (const file of $$("input[data-fills]")) {
  file.addEventListener("change", async () => {
    if (file.files[0]) $(`#${file.dataset.fills}`).value = await file.files[0].text();
    file.value = "";
  });
}

const APPLIO = { pitch: "transpose", index_rate: "index_rate", rms_mix_rate: "rms_mix_rate", protect: "protect", split_audio: null };
function presetOf(document) {
  if (document && document.options) return document;
  const options = {};
  for (const [theirs, ours] of Object.entries(APPLIO)) if (ours && typeof document[theirs] === "number") options[ours] = document[theirs];
  const effects = effectsOfApplio(document);
  if (effects) options.effects = effects;
  if (!Object.keys(options).length) throw new Error(texts.preset);
  return { options };
}
$("#save-preset").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(settings(), null, 2)], { type: "application/json" }));
  link.download = "menura-settings.json";
  link.click();
  URL.revokeObjectURL(link.href);
};
$("#load-preset").addEventListener("change", async (event) => {
  try {
    const preset = presetOf(JSON.parse(await event.target.files[0].text()));
    apply({ voice: settings().voice, ...preset });
  } catch (error) {
    toast(error instanceof SyntaxError ? texts.preset : error.message);
  }
  event.target.value = "";
});
$("#reset").onclick = () => { const voice = settings().voice; apply({ voice }); localStorage.removeItem(KEPT); };

function clearErrors() {
  for (const place of $$(".settings .error", form)) showError(place, null);
  for (const input of $$("[aria-invalid]", form)) input.removeAttribute("aria-invalid");
}

function tell(error) {
  const input = error.option && $(`#o-${error.option}`), place = error.option && $(`#o-${error.option}-error`);
  showError(place || $("#form-error"), error);
  input?.setAttribute("aria-invalid", "true");
  for (const node of [place || $("#form-error"), input]) node?.closest("details")?.setAttribute("open", "");
  (input || $("#form-error")).scrollIntoView({ block: "center" });
  input?.focus();
}

// Recordings are sent one after the other as soon as they are chosen, so that what can't be read is known at once.
let sending = Promise.resolve();
function upload(entry) {
  entry.sent ??= (sending = sending.then(() => transfer(entry)));
  return entry.sent;
}

async function transfer(entry) {
  if (entry.id || entry.failed || !chosen.includes(entry)) return;
  const bar = $("progress", entry.row);
  bar.hidden = false;
  try {
    const path = `/v1/audio?name=${encodeURIComponent(entry.file.name)}`;
    const audio = await send("PUT", path, entry.file, (share) => { bar.value = share; });
    entry.id = audio.id;
    if (audio.audio_s) $(".file-facts", entry.row).textContent = clock(audio.audio_s);
    if (audio.error) throw new Error(explained(audio.error));
  } catch (error) {
    fail(entry, error);
    entry.lost = error.status === 0;
  } finally {
    bar.hidden = true;
  }
}

function fail(entry, error) {
  showError($(".error", entry.row), error);
  entry.failed = true;
}

let key = null;
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearErrors();
  if (!chosen.length) return tell(new Error(texts.choose));
  const button = $("#go"), { voice, options } = settings(), { textContent: before } = button;
  button.disabled = true;
  try {
    for (const entry of chosen) if (entry.lost) { entry.sent = null; entry.failed = false; showError($(".error", entry.row), null); }
    const known = chosen.filter((entry) => entry.failed).length;
    if (chosen.some((entry) => !entry.id && !entry.failed)) button.textContent = texts.uploading;
    await Promise.all(chosen.map(upload));
    const inputs = chosen.filter((entry) => !entry.failed).map((entry) => entry.id);
    if (!inputs.length) return tell(new Error(texts.unusable));
    if (chosen.length - inputs.length > known) return tell(new Error(texts.others));
    const { spans, speakers, outside, ...usual } = options; // these are of this recording
    localStorage.setItem(KEPT, JSON.stringify({ voice, options: usual }));
    key ??= crypto.randomUUID?.() ?? String(Math.random());
    const job = await call("/v1/jobs", { method: "POST", json: { inputs, voice, options }, headers: { "Idempotency-Key": key } });
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    if (error.status) key = null; // the service has answered; else the same job may be asked for again
    tell(error);
  } finally {
    button.disabled = false;
    button.textContent = before;
  }
});

const asked = new URLSearchParams(location.search);
if ([...asked].length) {
  const options = Object.fromEntries([...asked].filter(([name]) => name !== "voice" && name !== "input"));
  apply({ voice: asked.get("voice"), options });
  for (const id of asked.getAll("input"))
    call(`/v1/audio/${id}/info`).then((audio) => addFile({ name: audio.name, size: audio.size_bytes, id: audio.id })).catch(() => {});
} else if (localStorage.getItem(KEPT)) {
  try { apply(JSON.parse(localStorage.getItem(KEPT))); } catch { localStorage.removeItem(KEPT); }
}
