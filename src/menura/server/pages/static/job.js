// A job's page: its rows follow the events; finished ones get a player.
import { $, $$, call, clock, explained, say, setState, texts, toast, watch } from "./app.js";
import { Player } from "./player.js";

const page = $("#job"), id = page.dataset.job, path = `/v1/jobs/${id}`;
const ended = (state) => ["done", "partly", "failed", "cancelled"].includes(state);
let said = 0;

function showItem(item) {
  const row = $(`.item[data-position="${item.position}"]`), bar = $("progress", row);
  row.dataset.state = item.state;
  row.dataset.seams = JSON.stringify(item.seams_s);
  setState($(".item-state", row), item.state);
  bar.hidden = item.state !== "running";
  bar.value = item.audio_s ? item.audio_done_s / item.audio_s : 0;
  const facts = [item.audio_s ? clock(item.audio_s) : "", item.left_s ? texts.left.replace("%s", clock(item.left_s)) : ""];
  $(".item-facts", row).textContent = facts.filter(Boolean).join(" · ");
  const error = $(".error", row);
  error.hidden = !item.error;
  if (item.error) error.textContent = explained(item.error);
  $(".notes", row).textContent = item.notes.map(say).join(" ");
  $(".get", row).hidden = !item.result;
  if (item.result) player(row);
}

function player(row) {
  const place = $(".player", row);
  place.hidden = false;
  if (!place.player) place.player = new Player(place, JSON.parse(row.dataset.seams || "[]"), row.dataset.name);
}

function showJob(job) {
  page.dataset.state = job.state;
  setState($("#job-state"), job.state);
  $("#job-progress").value = job.progress;
  $("#job-progress").hidden = ended(job.state);
  const before = job.waiting?.recordings_before, left = job.left_s ? texts.left.replace("%s", clock(job.left_s)) : "";
  $("#job-left").textContent = before ? texts.before.replace("%d", before) : left;
  $("#cancel").hidden = !["queued", "running"].includes(job.state);
  $("#retry").hidden = !["failed", "partly", "cancelled"].includes(job.state);
  $("#delete").hidden = !ended(job.state);
  $("#zip").hidden = job.items.length < 2 || !job.items.some((item) => item.result);
  job.items.forEach(showItem);
  follow();
  if (Date.now() - said > 5000 || ended(job.state)) {
    said = Date.now();
    $("#announce").textContent = `${texts[job.state]}, ${Math.round(job.progress * 100)} %`;
  }
}

let source = null;
function follow() {
  if (ended(page.dataset.state)) source = source?.close() ?? null;
  else source ??= watch(`${path}/events`, refresh, refresh);
}

let wanted = false, busy = false;
async function refresh() {
  wanted = true;
  if (busy) return;
  busy = true;
  while (wanted) {
    wanted = false;
    try { showJob(await call(path)); } catch (error) { if (error.status === 404) location.assign("/jobs"); }
    await new Promise((done) => setTimeout(done, 300));
  }
  busy = false;
}

async function act(action, method = "POST") {
  try {
    await call(action ? `${path}/${action}` : path, { method });
    if (method === "DELETE") location.assign("/jobs");
    else refresh();
  } catch (error) {
    toast(error.message);
  }
}
$("#cancel").onclick = () => act("cancel");
$("#retry").onclick = () => act("retry");
$("#delete").onclick = (event) => {
  const button = event.currentTarget;
  if (button.dataset.sure) return act("", "DELETE");
  button.dataset.sure = "1";
  const before = button.textContent;
  button.textContent = texts.sure;
  setTimeout(() => { delete button.dataset.sure; button.textContent = before; }, 4000);
};
$("#job-progress").hidden = ended(page.dataset.state);
$$(".item").filter((row) => !$(".player", row).hidden).forEach(player);
follow();
