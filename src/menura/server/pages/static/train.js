// Training: recordings are sent and checked; a training's page follows its run, draws its curves, plays its previews.
import { $, $$, call, clock, explained, pickFiles, say, send, showError, size, toast } from "./app.js";

const texts = JSON.parse($("#train-texts").textContent);
const fill = (text, ...values) => values.reduce((made, value) => made.replace("%s", () => value), text);
const form = $("#train-form"), page = $("#training"), problem = $("#form-error");

function mark(place, state) {
  const badge = $(".state", place);
  badge.dataset.state = state;
  badge.textContent = texts[state];
}

function follow(path, onChange) {
  const source = new EventSource(path);
  source.addEventListener("training", (event) => onChange(JSON.parse(event.data)));
  addEventListener("pagehide", () => source.close());
}

if (form) {
  const chosen = [], known = /\.(wav|flac|mp3|ogg|oga|opus|m4a|aac|mp4|webm|mkv|mov|wma|aiff?|au|caf|amr|ape|wv|3gp)$/i;
  const sum = () => {
    const seconds = chosen.reduce((all, entry) => all + (entry.audio_s || 0), 0);
    $("#sum").textContent = chosen.length ? fill(texts.sum, chosen.length, seconds ? clock(seconds) : size(chosen.reduce((all, entry) => all + entry.file.size, 0))) : "";
  };
  const add = (file) => {
    const row = document.createElement("li"), entry = { file, row };
    row.className = "file";
    row.innerHTML = '<span class="file-name"></span><span class="file-facts"></span><button type="button" class="icon"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4 4l8 8M12 4l-8 8"/></svg></button><progress max="1" value="0" hidden></progress><p class="error" role="alert" hidden></p>';
    $(".file-name", row).textContent = file.name;
    $(".file-facts", row).textContent = size(file.size);
    $("button", row).setAttribute("aria-label", `${texts.remove} ${file.name}`);
    $("button", row).onclick = () => { chosen.splice(chosen.indexOf(entry), 1); row.remove(); sum(); };
    chosen.push(entry);
    $("#files").append(row);
  };
  pickFiles($("#drop"), [$("#pick"), $("#pick-folder")], (files) => {
    const sound = files.filter((file) => known.test(file.name) || /^(audio|video)\//.test(file.type));
    sound.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })).forEach(add);
    if (files.length && !sound.length) toast(texts.nothing);
    sum();
  });
  for (const control of $$(".control[data-option]", form)) {
    const range = $("input[type=range]", control), output = $("output", control);
    if (range && output) range.addEventListener("input", () => { output.textContent = Number(range.value); });
  }

  const kind = () => $("input[name=kind]:checked", form).value;
  const showKind = () => { for (const part of $$("[data-kind]:not(.control)", form)) part.hidden = part.dataset.kind !== kind(); };
  for (const choice of $$("input[name=kind]", form)) choice.addEventListener("change", showKind);
  showKind();  // a browser may remember another choice
  const settings = () => {
    const options = {};
    if (kind() === "clone") return options;
    for (const control of $$(".control[data-option]", form)) {
      const { option, kind, default: standard } = control.dataset, input = $(`#o-${option}`);
      const value = kind === "bool" ? String(input.checked) : input.value;
      const always = option === "content" || option === "sample_rate";
      if (value === "" || (value === standard && !always)) continue;
      options[option] = kind === "bool" ? input.checked : kind === "int" || kind === "float" ? Number(value) : value;
    }
    return options;
  };
  const upload = async (entry) => {
    if (entry.id) return;
    const bar = $("progress", entry.row);
    bar.hidden = false;
    try {
      const audio = await send("PUT", `/v1/audio?name=${encodeURIComponent(entry.file.name)}`, entry.file, (share) => { bar.value = share; });
      entry.audio_s = audio.audio_s;
      if (audio.error) return showError($(".error", entry.row), new Error(`${texts.unread}: ${say(audio.error.problem)}`));
      entry.id = audio.id;
      if (audio.audio_s) $(".file-facts", entry.row).textContent = clock(audio.audio_s);
    } catch (error) {
      showError($(".error", entry.row), error);
    } finally {
      bar.hidden = true;
    }
  };
  const tell = (error) => {
    const place = (error.option && $(`#o-${error.option}-error`)) || problem, input = error.option && $(`#o-${error.option}`);
    showError(place, error);
    place.closest("details")?.setAttribute("open", "");
    input?.setAttribute("aria-invalid", "true");
    (input || place).scrollIntoView({ block: "center" });
    input?.focus();
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const place of $$(".error", form)) showError(place, null);
    for (const input of $$("[aria-invalid]", form)) input.removeAttribute("aria-invalid");
    if (!chosen.length) return tell(new Error(texts.choose));
    const empty = [$("#o-name"), $("#o-rights")].find((input) => !input.reportValidity());
    if (empty) return;
    const button = $("#go");
    button.disabled = true;
    try {
      for (const entry of chosen) { await upload(entry); sum(); }
      const inputs = chosen.filter((entry) => entry.id).map((entry) => entry.id);
      if (!inputs.length) return;
      const json = { name: $("#o-name").value, rights: $("#o-rights").value, inputs, clone: kind() === "clone", options: settings() };
      location.assign(`/train/${(await call("/v1/trainings", { method: "POST", json })).id}`);
    } catch (error) {
      tell(error);
    } finally {
      button.disabled = false;
    }
  });
  follow("/v1/events", (event) => {
    const row = $(`[data-training="${event.job}"]`);
    if (!row || event.state === "removed") return row?.remove();
    const bar = $("progress", row), running = ["running", "stopping"].includes(event.state);
    mark(row, event.state);
    bar.hidden = !running;
    if (event.stage === "training") {
      bar.value = event.done / event.total;
      $(".facts", row).textContent = `${event.done} / ${event.total}`;
    }
  });
}

if (page) {
  const path = `/v1/trainings/${page.dataset.training}`, dialog = $("#publish-dialog");
  let shown = null, said = "";

  const line = (pen, points, box, low, high, last) => {
    pen.beginPath();
    for (const [step, value] of points) pen.lineTo(box.x + box.width * step / last, box.y + box.height * (1 - (value - low) / (high - low || 1)));
    pen.stroke();
  };
  // Losses jump from batch to batch: the line is a running mean, what was measured lies behind it.
  const smooth = (points) => {
    let mean = points[0]?.[1];
    return points.map(([step, value]) => [step, (mean += (value - mean) * 0.2)]);
  };
  const draw = () => {
    const { step: steps = [], total = [], validation = [] } = shown?.curves || {};
    const pairs = (values) => steps.map((step, place) => [step, values[place]]).filter(([, value]) => value != null);
    const loss = pairs(total), valid = pairs(validation), figure = $("#curves"), canvas = $("canvas", figure);
    figure.hidden = loss.length < 2;
    $("#no-curves").hidden = !figure.hidden;
    if (figure.hidden) return;
    const scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name);
    pen.scale(scale, scale);
    pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    const last = steps.at(-1), both = valid.length > 1, boxes = (both ? [0, 1] : [0]).map((place) => ({ x: 46, y: 10 + place * (height - 20) / 2, width: width - 58, height: (height - 20) / (both ? 2 : 1) - 22 }));
    const panel = (points, box, parts) => {
      const values = points.map(([, value]) => value), low = Math.min(...values), high = Math.max(...values);
      pen.fillStyle = pen.strokeStyle = colour("--line");
      pen.fillRect(box.x, box.y + box.height + 3, box.width, 1);
      pen.fillStyle = colour("--soft");
      pen.textAlign = "right";
      pen.fillText(high.toPrecision(3), box.x - 6, box.y + 9);
      pen.fillText(low.toPrecision(3), box.x - 6, box.y + box.height);
      for (const [part, name, thick] of parts) { pen.strokeStyle = colour(name); pen.lineWidth = thick; line(pen, part, box, low, high, last); }
      return { low, high };
    };
    panel(loss, boxes[0], [[loss, "--line", 1], [smooth(loss), "--accent", 2]]);
    if (both) {
      const { low, high } = panel(valid, boxes[1], [[valid, "--copper", 2]]), best = valid.reduce((a, b) => b[1] < a[1] ? b : a), box = boxes[1];
      pen.fillStyle = colour("--copper");
      pen.beginPath();
      pen.arc(box.x + box.width * best[0] / last, box.y + box.height * (1 - (best[1] - low) / (high - low || 1)), 4, 0, 7);
      pen.fill();
      $("#validation").textContent = `${texts.validation}: ${valid.at(-1)[1].toPrecision(3)}, ${fill(texts.best, best[0])}`;
    }
    $("#validation").hidden = !both;
    pen.fillStyle = colour("--soft");
    pen.fillText(String(last), width - 12, height - 4);
    $("#loss").textContent = `${texts.loss}: ${loss.at(-1)[1].toPrecision(3)}`;
    canvas.setAttribute("aria-label", [$("#loss").textContent, both ? $("#validation").textContent : ""].join(" "));
  };
  new ResizeObserver(draw).observe($("#curves").parentElement);

  const heard = (label, about, url) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "hear";
    button.dataset.sample = url;
    button.innerHTML = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2.5v11l9-5.5z"/></svg> ';
    button.append(label);
    button.setAttribute("aria-label", `${label}: ${about}`);
    return button;
  };
  const showPreviews = (urls) => {
    const list = $("#previews"), key = urls.join();
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    $("#no-previews").hidden = urls.length > 0;
    list.replaceChildren(...urls.slice(0, 12).map((url) => {
      const row = document.createElement("li"), label = document.createElement("span"), [, step, number] = url.match(/(\d+)\.(\d+)\.flac$/);
      label.className = "file-name";
      label.textContent = `${fill(texts.preview, Number(step))} · ${Number(number) + 1}`;
      const parts = [[texts.hear, url], [texts.real, url.replace(/\d+(\.\d+\.flac)$/, "recording$1")]];
      row.append(label, ...parts.map(([text, from]) => heard(text, label.textContent, from)));
      return row;
    }));
  };
  const stageOf = (training) => {
    if (training.state === "queued") return fill(texts.waits, training.waits_for || "…");
    if (training.state === "stopping") return texts.finishing;
    if (training.stage === null || training.stage === "training") {
      const pace = training.step_s ? fill(texts.pace, training.step_s.toFixed(2)) : "";
      return [training.step || training.stage ? fill(texts.step, training.step, training.steps) : "", pace].filter(Boolean).join(" · ");
    }
    return `${texts[training.stage]} …${training.total ? ` ${training.done} / ${training.total}` : ""}`;
  };
  const show = (training) => {
    shown = training;
    const { state, step, steps, error } = training, active = ["queued", "running", "stopping"].includes(state);
    mark($("#state"), state);
    $("#start").hidden = active;
    $("#start").textContent = state === "new" ? texts.start : state === "done" ? texts.further : texts.goon;
    $("#stop").hidden = !["queued", "running"].includes(state);
    $("#publish").hidden = !training.previews.length;
    $("#publish").classList.toggle("primary", state === "done");
    $("#start").classList.toggle("primary", state !== "done");
    $("#delete").hidden = active;
    const preparing = ["slices", "features"].includes(training.stage);
    $("#bar").hidden = !active && !step;
    $("#bar").value = preparing ? training.done / (training.total || 1) : steps ? step / steps : 0;
    $("#stage").textContent = stageOf(training);
    $("#left").textContent = training.left_s ? fill(texts.left, clock(training.left_s)) : "";
    if (error) showError(problem, new Error((error.subject ? `${error.subject}: ` : "") + explained(error)));
    else if (active) showError(problem, null);
    const now = `${texts[state]}. ${training.stage ? texts[training.stage] : ""}`;
    if (now !== said) $("#announce").textContent = said = now;
    showPreviews(training.previews);
    draw();
  };

  let wanted = false, busy = false;
  const refresh = async () => {
    wanted = true;
    if (busy) return;
    busy = true;
    while (wanted) {
      wanted = false;
      try { show(await call(path)); } catch (error) { if (error.status === 404) location.assign("/train"); }
      await new Promise((done) => setTimeout(done, 500));
    }
    busy = false;
  };
  const act = async (action, json) => {
    try {
      show({ ...shown, ...await call(`${path}/${action}`, { method: "POST", json }), curves: shown.curves, previews: shown.previews });
    } catch (error) {
      showError(problem, error);
    }
  };
  $("#start").onclick = () => act("start", { options: shown.state === "done" ? { steps: shown.steps + Math.ceil(shown.steps / 2) } : {} });
  $("#stop").onclick = () => act("stop");
  $("#publish").onclick = () => dialog.showModal();
  $("form", dialog).addEventListener("submit", async (event) => {
    if (event.submitter?.value !== "ok") return;
    event.preventDefault();
    event.submitter.disabled = true;
    try {
      const voice = await call(`${path}/export`, { method: "POST", json: { name: $("#voice-name").value } });
      dialog.close();
      toast(fill(texts.added, voice.name), texts.use, () => location.assign(`/voices/${encodeURIComponent(voice.name)}`));
    } catch (error) {
      showError($(".error", dialog), error);
    } finally {
      event.submitter.disabled = false;
    }
  });
  $("#delete").onclick = async (event) => {
    const button = event.currentTarget, before = button.textContent;
    if (!button.dataset.sure) {
      button.dataset.sure = "1";
      button.textContent = texts.sure;
      return setTimeout(() => { delete button.dataset.sure; button.textContent = before; }, 4000);
    }
    try {
      await fetch(path, { method: "DELETE" });
      location.assign("/train");
    } catch (error) {
      showError(problem, error);
    }
  };
  refresh();
  follow(`${path}/events`, refresh);
  setInterval(() => { if (!$("#stop").hidden) refresh(); }, 10_000);
}
