// What all pages share: requests, texts, messages, and hearing a voice's sample.
const node = document.getElementById("texts");
export const texts = node ? JSON.parse(node.textContent) : {};
export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// The service's own words, in the page's language where they are known: # stands for each number and quotation.
export function say(text) {
  const variable = /'[^']*'|[+-]?\b\d+(?:\.\d+)?(?:e\+\d+)?/g, parts = text.match(variable) || [];
  return texts.said?.[text.replace(variable, "#")]?.replace(/#/g, () => parts.shift()) ?? text;
}

// An error's problem and advice.
export function explained({ problem, advice }) {
  const sentence = (text) => `${say(text)}${say(text) === text ? "." : "。"}`;
  return [problem, advice].filter(Boolean).map(sentence).join(" ");
}

export class Problem extends Error {
  constructor(document, status) {
    const about = document.subject ? `${document.subject}: ` : "";
    super(document.problem ? about + explained(document) : document.title || `HTTP ${status}`);
    this.option = document.option;
    this.status = status;
  }
}

export async function call(path, { method = "GET", json, body, headers = {} } = {}) {
  if (json !== undefined) {
    body = JSON.stringify(json);
    headers = { "Content-Type": "application/json", ...headers };
  }
  let answer;
  try {
    answer = await fetch(path, { method, body, headers });
  } catch {
    throw new Problem({ title: texts.offline }, 0);
  }
  const kind = answer.headers.get("Content-Type") || "";
  const document = kind.includes("json") && answer.status !== 204 ? await answer.json() : {};
  if (!answer.ok) throw new Problem(document, answer.status);
  return document;
}

// fetch can't tell how much was sent, so uploads use XMLHttpRequest.
export function send(method, path, body, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Problem({ title: texts.offline }, 0));
    request.onload = () => {
      const document = request.response || {};
      if (request.status < 300) resolve(document);
      else reject(new Problem(document, request.status));
    };
    request.send(body);
  });
}

export function showError(place, error) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

export function toast(text, action, onAction) {
  const box = document.createElement("div");
  box.className = "toast";
  box.textContent = text;
  if (action) {
    const button = document.createElement("button");
    button.textContent = action;
    button.onclick = () => { box.remove(); onAction(); };
    box.append(button);
  }
  $("#toasts").append(box);
  setTimeout(() => box.remove(), action ? 8000 : 4000);
  return box;
}

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds || 0));
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  while (bytes >= 1000 && unit < 3) { bytes /= 1000; unit += 1; }
  return `${unit > 1 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

export function setState(place, state) {
  const mark = $(".state", place);
  mark.dataset.state = state;
  mark.textContent = texts[state] || state;
}

// Calls `onEvent` for what happens to a job, or to all, and `onAgain` after an interruption; EventSource connects again
// by itself. Close it when nothing more can happen: browsers open six connections to a service, whatever the tabs.
export function watch(path, onEvent, onAgain) {
  const source = new EventSource(path), away = $("#away");
  for (const kind of ["job", "item"]) source.addEventListener(kind, (event) => onEvent(kind, JSON.parse(event.data)));
  let lost = false;
  source.onerror = () => { lost = true; away.hidden = false; };
  source.onopen = () => { away.hidden = true; if (lost) onAgain(); lost = false; };
  addEventListener("pagehide", () => source.close());
  return source;
}

export function localTimes(root = document) {
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
  for (const time of $$("time[datetime]", root)) time.textContent = format.format(new Date(time.dateTime));
}

// A drop zone with buttons to pick: both give files. What is dropped beside the zone is taken too.
export function pickFiles(zone, inputs, onFiles) {
  for (const input of inputs) input.addEventListener("change", () => { onFiles([...input.files]); input.value = ""; });
  const leave = () => zone.classList.remove("over");
  let timer;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
    clearTimeout(timer);
    timer = setTimeout(leave, 1000); // not every way to end a drag is told
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) leave(); });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    leave();
    onFiles(await dropped(event.dataTransfer));
  });
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) files.push(await new Promise((done, fail) => entry.file(done, fail)));
    else {
      const reader = entry.createReader();
      for (let batch; (batch = await new Promise((done, fail) => reader.readEntries(done, fail))).length;)
        for (const inner of batch) await walk(inner);
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

let heard = null;
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sample]");
  if (!button) return;
  event.preventDefault();
  const same = heard?.button === button;
  heard?.audio.pause();
  heard?.button.classList.remove("playing");
  heard = null;
  if (same) return;
  const audio = new Audio(button.dataset.sample);
  heard = { audio, button };
  button.setAttribute("aria-busy", "true");
  audio.onplaying = () => { button.removeAttribute("aria-busy"); button.classList.add("playing"); };
  audio.onended = () => { button.classList.remove("playing"); heard = null; };
  audio.onerror = () => { button.removeAttribute("aria-busy"); toast(texts.offline); };
  audio.play().catch(() => {});
});
localTimes();
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
