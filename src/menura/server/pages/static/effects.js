// The list of effects. The option's text field keeps the truth: the list is made from it, and written back to it.
import { $, $$, showError, texts } from "./app.js";

const field = $("#o-effects"), list = $("#effects-list"), choice = $("#effect-choice");
const { effects: known, presets } = JSON.parse($("#effects-known").textContent);
const filled = (text, ...parts) => text.replace(/%s/g, () => parts.shift());
let count = 0;

// Of a text, as the service reads it; null if the list can't show it.
function parsed(text) {
  const found = [];
  for (const item of text.split(",")) {
    const [name, ...given] = item.split(/\s+/).filter(Boolean), values = {};
    if (!name) continue;
    if (Object.hasOwn(presets, name) && !given.length) found.push(...parsed(presets[name]));
    else {
      for (const pair of given) {
        const [key, value, more] = pair.split("=");
        if (!Object.hasOwn(known[name]?.properties ?? {}, key) || !value || more !== undefined || !Number.isFinite(Number(value))) return null;
        values[key] = Number(value);
      }
      if (!Object.hasOwn(known, name)) return null;
      found.push({ name, values });
    }
  }
  return found;
}

// Applio's names for effects, each with a switch, as a text.
export function effectsOfApplio(document) {
  const found = [];
  for (const [name, { applio }] of Object.entries(known)) {
    const given = Object.entries(applio).filter(([theirs]) => theirs in document);
    const pairs = given.map(([theirs, ours]) => `${ours}=${Number(document[theirs])}`);
    if (document[name.replaceAll("-", "_")] ?? given.length) found.push([name, ...pairs].join(" "));
  }
  return found.join(", ");
}

const changed = ({ name, values }) =>
  Object.entries(known[name].properties).filter(([key, about]) => key in values && values[key] !== about.default);

function keep() {
  const rows = $$(".effect", list);
  field.value = rows
    .map(({ effect }) => [effect.name, ...changed(effect).map(([key]) => `${key}=${effect.values[key]}`)].join(" ")).join(", ");
  for (const row of rows) {
    const shown = changed(row.effect).map(([key, { title, unit }]) => `${title} ${row.effect.values[key]}${unit ? ` ${unit}` : ""}`);
    $(".effect-name .voice-facts", row).textContent = shown.join(" · ");
    $(".up", row).ariaDisabled = row === rows[0];
    $(".down", row).ariaDisabled = row === rows.at(-1);
  }
  $("#effects-none").hidden = rows.length > 0;
  $("#effects-clear").hidden = rows.length < 2;
  $("#effects-odd").hidden = true;
}

function tellPlace(row) {
  const rows = $$(".effect", list);
  $("#effects-said").textContent = filled(texts.place, known[row.effect.name].title, rows.indexOf(row) + 1, rows.length);
}

function parameter(effect, key, { title, description, unit, minimum: low, maximum: high, default: standard }) {
  const control = $("#effect-parameter").content.cloneNode(true).firstElementChild, id = `e${count++}`;
  const [slider, number] = $$("input", control), label = $("label", control), step = 10 ** Math.floor(Math.log10((high - low) / 100));
  label.textContent = title;
  if (unit) label.insertAdjacentHTML("beforeend", ' <span class="unit"></span>');
  if (unit) $(".unit", label).textContent = unit;
  $(".help", control).textContent = `${description} ${filled(texts.range, low, high, standard)}`;
  Object.assign(label, { htmlFor: id, id: `${id}-name` });
  $(".help", control).id = `${id}-help`;
  number.id = id;
  slider.setAttribute("aria-labelledby", label.id);
  for (const input of [slider, number]) {
    Object.assign(input, { min: low, max: high, value: effect.values[key] ?? standard });
    input.setAttribute("aria-describedby", `${id}-help`);
  }
  const show = () => {
    const within = number.valueAsNumber >= low && number.valueAsNumber <= high;
    showError($(".error", control), within ? null : new Error(filled(texts.outside, low, high)));
    number.setAttribute("aria-invalid", String(!within));
    slider.ariaValueText = `${number.value} ${unit ?? ""}`.trim();
    slider.style.setProperty("--at", `${100 * (slider.value - low) / (high - low)}%`);
  };
  const take = (value) => { effect.values[key] = value; show(); keep(); };
  number.addEventListener("input", () => { slider.value = number.value; take(number.value === "" ? standard : number.valueAsNumber); });
  slider.addEventListener("input", () => {
    const rounded = Number((Math.round(slider.value / step) * step).toPrecision(6));
    number.value = Math.min(high, Math.max(low, rounded));
    take(number.valueAsNumber);
  });
  show();
  return control;
}

function rowOf(effect) {
  const row = $("#effect-row").content.cloneNode(true).firstElementChild, about = known[effect.name];
  const name = $(".effect-name", row), body = $(".effect-body", row), grip = $(".grip", row);
  row.effect = effect;
  $(".effect-title", row).textContent = about.title;
  $(".about", row).textContent = about.description;
  for (const button of $$(".icon", row)) button.ariaLabel = `${button.ariaLabel}: ${about.title}`;
  name.onclick = () => {
    body.hidden = !body.hidden;
    name.ariaExpanded = !body.hidden;
    if (!body.hidden && !$(".control", body))
      $(".folded", body).append(...Object.entries(about.properties).map(([key, property]) => parameter(effect, key, property)));
  };
  const move = (other, after) => {
    if (!other) return;
    if (after) row.before(other); else row.after(other); // the row itself stays, and so do focus and pointer
    keep();
    tellPlace(row);
  };
  $(".up", row).onclick = () => move(row.previousElementSibling, false);
  $(".down", row).onclick = () => move(row.nextElementSibling, true);
  $(".gone", row).onclick = () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    keep();
    (next ? $(".gone", next) : choice).focus();
  };
  grip.onpointerdown = (event) => { event.preventDefault(); grip.setPointerCapture(event.pointerId); row.classList.add("moved"); };
  grip.onlostpointercapture = () => row.classList.remove("moved");
  grip.onpointermove = ({ clientY: y }) => {
    if (!row.classList.contains("moved")) return;
    const { previousElementSibling: before, nextElementSibling: after } = row;
    const middle = (other) => { const box = other.getBoundingClientRect(); return box.top + box.height / 2; };
    if (before && y < middle(before)) move(before, false);
    else if (after && y > middle(after)) move(after, true);
  };
  return row;
}

function shown() {
  const effects = parsed(field.value), text = field.value;
  list.replaceChildren(...(effects ?? []).map(rowOf));
  keep();
  field.value = text; // as it was typed
  $("#effects-odd").hidden = effects !== null;
  $("#effects-none").hidden ||= effects === null;
}
field.addEventListener("input", shown);
choice.addEventListener("change", () => { $("#effect-about").textContent = known[choice.value]?.description ?? presets[choice.value]; });
choice.dispatchEvent(new Event("change"));
$("#effect-add").onclick = () => {
  if (!$("#effects-odd").hidden) { // what was written stays
    field.value += `, ${choice.value}`;
    return shown();
  }
  const rows = (parsed(choice.value) ?? []).map(rowOf);
  list.append(...rows);
  keep();
  tellPlace(rows.at(-1));
  if (rows.length === 1) $(".effect-name", rows[0]).click();
  $(".effect-name", rows[0]).focus();
};
$("#effects-clear").onclick = () => { list.replaceChildren(); keep(); choice.focus(); };
shown();
