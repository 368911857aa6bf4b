// The page: what is asked of the server, and where its answers go. No library, no build step.

import { Chart } from "./chart.js";
import * as server from "./server.js";
import { Stage } from "./stage.js";

const find = (id) => document.getElementById(id);
const stage = new Stage(find("stage"));
const chart = new Chart(find("chart"), find("figures"), find("legend"));
const AGAIN = 150; // ms after a slider's last move
const PAUSE = 1500; // ms before a frame is asked for again after an error

let task = null;
let wanted = null; // the image that is asked about: { file: Blob, picture: the same decoded, or null }
let shown = null; // the one on the stage
let asking = null; // AbortController of the request at hand
let watching = false;
let limits = null;

start();

async function start() {
  try {
    const about = await server.info();
    say("");
    describe(about);
  } catch (error) {
    if (error.status === 401) askToken();
    else fail(error);
  }
}

function describe(about) {
  find("engine").textContent = [about.engine, about.backend, about.precision].join(" · ");
  limits = about.limits;
  task = about.default_task;
  find("tasks").replaceChildren(
    ...about.tasks.map((name) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "task", value: name });
      input.checked = name === task;
      input.addEventListener("change", () => chooseTask(name));
      const text = document.createElement("span");
      text.textContent = name;
      label.append(input, text);
      return label;
    }),
  );
  find("object-threshold").value = Math.round(100 * about.object_threshold);
  find("overlap-threshold").value = Math.round(100 * about.overlap_threshold);
  document.querySelectorAll(".slider input").forEach(showValue);
  chooseTask(task);
  find("live").hidden = about.source === null;
  if (about.source !== null) watch(true);
}

// ---- Asking

function query() {
  const asked = new URLSearchParams({ task });
  const part = (id) => Number(find(id).value) / 100;
  if (task === "panoptic") {
    asked.set("object_threshold", part("object-threshold"));
    asked.set("overlap_threshold", part("overlap-threshold"));
  }
  if (task === "instance") asked.set("min_score", part("min-score"));
  return asked;
}

async function take(file) {
  watch(false);
  if (limits && file.size > limits.bytes) {
    fail(new Error(`The file has ${megabytes(file.size)}; this server takes up to ${megabytes(limits.bytes)}.`));
    return;
  }
  wanted = { file, picture: null };
  await askAboutImage();
}

async function askAboutImage() {
  if (!wanted) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  const asked = wanted;
  say("working");
  const begun = performance.now();
  try {
    const answer = await server.segment(asked.file, query(), mine.signal);
    const total = performance.now() - begun;
    asked.picture ??= await createImageBitmap(asked.file);
    if (mine !== asking) return;
    shown = asked;
    show(asked.picture, answer, total);
  } catch (error) {
    if (error.name === "AbortError" || mine !== asking) return;
    if (error.status >= 400 && error.status < 500 && error.status !== 401) wanted = shown; // it will never do
    fail(error);
  }
}

async function watch(on) {
  if (on === watching) return;
  watching = on;
  const button = find("live");
  button.setAttribute("aria-pressed", on);
  button.textContent = on ? "Stop watching" : "Watch the device";
  document.body.classList.toggle("watching", on);
  asking?.abort();
  say("");
  if (!on) return;
  wanted = shown = null;
  let after = 0;
  while (watching) {
    const mine = (asking = new AbortController());
    const begun = performance.now();
    try {
      const asked = query();
      asked.set("after", after);
      const answer = await server.frame(asked, mine.signal);
      after = answer.frame;
      const total = performance.now() - begun;
      const picture = await decoded(answer.image);
      if (mine !== asking || !watching) return;
      show(picture, answer, total);
      say(`live · frame ${answer.frame}`, "live");
    } catch (error) {
      if (error.name === "AbortError" || mine !== asking) return;
      fail(error);
      if (error.status !== 503 && error.status !== 0) {
        await watch(false);
        return;
      }
      await new Promise((resume) => setTimeout(resume, PAUSE));
    }
    if (document.hidden) await new Promise((resume) => document.addEventListener("visibilitychange", resume, { once: true }));
  }
}

function decoded(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
}

function askToken() {
  const dialog = find("token-dialog");
  if (dialog.open) return;
  find("token").value = "";
  dialog.showModal();
}

// ---- Showing

function show(picture, answer, total) {
  find("error").hidden = true;
  stage.show(picture, answer);
  list(answer);
  chart.add(answer.times, total);
  find("picture").setAttribute("aria-label", `The image under ${answer.segments.length} segments`);
  if (!watching) say(`${answer.width} × ${answer.height}`);
}

function list(answer) {
  const pixels = answer.width * answer.height;
  const entries = answer.segments.map((segment, index) => ({ segment, place: index + 1 }));
  entries.sort((one, other) => other.segment.area - one.segment.area);
  const focused = document.activeElement?.dataset?.place;
  find("segments").replaceChildren(...entries.map(({ segment, place }) => entry(segment, place, pixels)));
  find("count").textContent = entries.length;
  find("nothing").hidden = entries.length > 0;
  if (focused) find("segments").querySelector(`[data-place="${focused}"]`)?.focus({ preventScroll: true });
}

function entry(segment, place, pixels) {
  const part = segment.area / pixels;
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.place = place;
  button.classList.toggle("chosen", place === stage.chosen);
  const swatch = span("swatch", "");
  swatch.style.background = `rgb(${segment.color.join(" ")})`;
  const area = span("area", part < 0.001 ? "< 0.1 %" : `${(100 * part).toFixed(1)} %`);
  area.title = `${segment.area} pixels`;
  const bar = span("part", "");
  bar.style.setProperty("--part", part);
  bar.style.setProperty("--color", `rgb(${segment.color.join(" ")})`);
  button.append(swatch, span("name", segment.label), span("score", segment.score.toFixed(2)), area, bar);
  button.addEventListener("pointerenter", () => choose(place));
  button.addEventListener("focus", () => choose(place));
  button.addEventListener("pointerleave", () => choose(0));
  button.addEventListener("blur", () => choose(0));
  item.append(button);
  return item;
}

function span(kind, text) {
  return Object.assign(document.createElement("span"), { className: kind, textContent: text });
}

function choose(place) {
  stage.choose(place);
  mark(place);
}

function mark(place) {
  find("segments").querySelectorAll("button").forEach((button) => {
    button.classList.toggle("chosen", Number(button.dataset.place) === place);
  });
}

stage.addEventListener("choose", (event) => mark(event.detail));

function chooseTask(name) {
  task = name;
  document.querySelectorAll("[data-for]").forEach((part) => {
    part.hidden = part.dataset.for !== name;
  });
  askAboutImage();
}

function fail(error) {
  if (error.status === 401) askToken();
  say("");
  find("error").textContent = sentence(error.message);
  find("error").hidden = false;
}

function say(text, kind = "") {
  const state = find("state");
  if (state.textContent !== text) state.textContent = text;
  state.dataset.kind = kind || (text === "working" ? "working" : "");
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;

// ---- Controls

let timer = 0;

function showValue(input) {
  input.parentElement.querySelector("output").textContent =
    input.id === "opacity" ? `${input.value} %` : (input.value / 100).toFixed(2);
}

function setOpacity() {
  stage.opacity = find("opacity").value / 100;
  showValue(find("opacity"));
}

document.querySelectorAll(".thresholds input").forEach((input) => {
  input.addEventListener("input", () => {
    showValue(input);
    clearTimeout(timer);
    timer = setTimeout(askAboutImage, AGAIN);
  });
});
find("opacity").addEventListener("input", setOpacity);
find("views").addEventListener("change", (event) => (stage.view = event.target.value));
find("live").addEventListener("click", () => watch(!watching));
find("file").addEventListener("change", (event) => {
  if (event.target.files[0]) take(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
find("token-dialog").addEventListener("close", () => {
  server.keepToken(find("token").value.trim());
  find("error").hidden = true;
  start();
});
find("invitation").addEventListener("click", () => find("file").click());
setOpacity();

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragover");
    const file = event.dataTransfer?.files[0];
    if (kind === "drop" && file) take(file);
  });
}
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) take(file);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("token-dialog").open) return;
  const key = event.key.toLowerCase();
  if (key === "o") find("file").click();
  else if (key === "l" && !find("live").hidden) watch(!watching);
  else if (key === "s") {
    const views = [...document.querySelectorAll("[name=view]")];
    const next = views.find((view) => !view.checked);
    next.checked = true;
    stage.view = next.value;
  } else if (key === "[" || key === "]") {
    find("opacity").value = Number(find("opacity").value) + (key === "[" ? -5 : 5);
    setOpacity();
  } else if ("123".includes(key)) find("tasks").querySelectorAll("input")[Number(key) - 1]?.click();
  else if ((key === "arrowdown" || key === "arrowup") && event.target.dataset?.place) {
    const item = event.target.parentElement;
    const next = key === "arrowdown" ? item.nextElementSibling : item.previousElementSibling;
    next?.firstElementChild.focus();
    event.preventDefault();
  }
});
