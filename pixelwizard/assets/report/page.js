"use strict";
// The page: reads its data, fills the sections, connects the controls.

const data = JSON.parse(document.getElementById("data").textContent);
const player = new Player(data.fps, data.frames);
window.player = player;
const byId = (id) => document.getElementById(id);
const SIGNS = { better: "+ better", worse: "− worse", unclear: "? unclear", equal: "= equal" };

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const figure = (value, digits = 4) =>
  value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(digits - 2) : String(+value.toPrecision(digits));
const signed = (value) => (value > 0 ? "+" : "") + figure(value, 3);

function fillScores() {
  const names = Object.keys(data.arms[0].scores);
  const arrow = (name) => (data.arms[0].scores[name].higher_is_better ? " ↑" : " ↓");
  const heads = names.map((name) => node("th", { scope: "col", title: data.arms[0].scores[name].recipe }, name + arrow(name)));
  byId("scores").append(node("thead", {}, node("tr", {}, node("th", { scope: "col" }, "variant"), ...heads, node("th", { scope: "col" }, "dominated in"))));
  const body = node("tbody");
  data.arms.forEach((arm, index) => {
    const roles = [arm.name === data.baseline && "baseline", arm.name === data.target && "target"].filter(Boolean);
    const head = node("th", { scope: "row" }, swatch(data, index), arm.name);
    if (roles.length) head.append(node("small", { class: "hint" }, ` (${roles.join(", ")})`));
    const cells = names.map((name) => cell(arm, name));
    const lost = Object.keys(arm.dominated).filter((cost) => arm.dominated[cost]);
    body.append(node("tr", {}, head, ...cells, node("td", {}, lost.join(", ") || "–")));
  });
  byId("scores").append(body);
}

function cell(arm, name) {
  const made = node("td", {}, figure(arm.scores[name].value));
  if (arm.name !== data.baseline) made.append(difference(arm.differences[name]));
  return made;
}

function difference(d) {
  const range = d.low === d.high ? "" : `, ${signed(d.low)} to ${signed(d.high)}`;
  return node("small", { class: d.sign }, `${signed(d.value)}${range} ${SIGNS[d.sign]}`);
}

function fillSets() {
  const names = Object.keys(data.sets);
  byId("of-sets").hidden = !names.length;
  const heads = names.map((name) => {
    const [one] = Object.values(data.sets[name]);
    return node("th", { scope: "col", title: one.recipe }, name + (one.higher_is_better ? " ↑" : " ↓"));
  });
  const body = node("tbody");
  data.arms.forEach((arm, index) => {
    const cells = names.map((name) => setCell(data.sets[name][arm.name]));
    body.append(node("tr", {}, node("th", { scope: "row" }, swatch(data, index), arm.name), ...cells));
  });
  byId("sets").append(node("thead", {}, node("tr", {}, node("th", { scope: "col" }, "variant"), ...heads)), body);
  byId("sets-legend").textContent = data.sets_legend;
}

function setCell(score) {
  if (!score) return node("td", {}, "–");
  const made = node("td", {}, figure(score.value), node("small", {}, `${figure(score.low, 3)} to ${figure(score.high, 3)}`));
  if (score.difference) made.append(difference(score.difference));
  return made;
}

function fillSettings() {
  const base = data.arms.findIndex((arm) => arm.name === data.baseline);
  const heads = data.arms.map((arm) => node("th", { scope: "col" }, arm.name));
  byId("settings").append(node("thead", {}, node("tr", {}, node("th", { scope: "col" }, "key"), ...heads)));
  const body = node("tbody");
  for (const row of data.settings) {
    const cells = row.values.map((value) => node("td", value === row.values[base] ? {} : { class: "marked" }, value === "null" || value === "" ? "–" : value));
    body.append(node("tr", {}, node("th", { scope: "row" }, row.key), ...cells));
  }
  byId("settings").append(body);
}

function film(path, label) {
  const video = node("video", { muted: "", playsinline: "", preload: "auto", "aria-label": label, tabindex: "-1" });
  video.muted = true;
  video.addEventListener("error", () => video.replaceWith(absent()), { once: true });
  video.src = path;
  return video;
}

/** What a video begins with; its box is that of a video, so that the rows align. */
function picture(path) {
  const place = node("div", { class: "picture" });
  place.append(node("img", { src: path, alt: "the picture that the videos begin with", loading: "lazy" }), node("figcaption", {}, "picture"));
  return place;
}

const absent = () => node("div", { class: "absent" }, "video missing");
const described = (number) => `${data.titles[number]} (seed ${data.samples[number].seed})`;

/** A row holds its videos only while it is near the viewport. */
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) (isIntersecting ? enter : leave)(target);
}, { rootMargin: "150px" });

function enter(row) {
  row.querySelectorAll("figure").forEach((place) => {
    const path = place.dataset.path;
    const shown = path ? film(path, place.dataset.label) : absent();
    place.firstElementChild.replaceWith(shown);
    if (path) player.add(shown);
  });
}

function leave(row) {
  row.querySelectorAll("video").forEach((video) => {
    player.remove(video);
    video.removeAttribute("src");
    video.load();
    video.replaceWith(node("div", { class: "absent" }));
  });
}

function fillRows() {
  data.samples.forEach((_, number) => {
    const films = data.arms.map((arm, index) => {
      const place = node("figure", { "data-path": data.files[number][index], "data-label": `${arm.name}: ${described(number)}` });
      place.append(node("div", { class: "absent" }), node("figcaption", {}, swatch(data, index), arm.name));
      return place;
    });
    if (data.pictures[number]) films.unshift(picture(data.pictures[number]));
    const row = node("div", { class: "row" }, node("h3", {}, described(number)), node("div", { class: "films" }, ...films));
    byId("rows").append(row);
    near.observe(row);
  });
}

function fillSplit() {
  for (const id of ["left", "right"]) byId(id).append(...data.arms.map((arm, index) => new Option(arm.name, index)));
  byId("sample").append(...data.samples.map((_, number) => new Option(described(number), number)));
  byId("left").value = Math.max(0, data.arms.findIndex((arm) => arm.name === data.baseline));
  byId("right").value = data.arms.findIndex((_, index) => String(index) !== byId("left").value);
  for (const id of ["left", "right", "sample"]) byId(id).addEventListener("change", showSplit);
  const view = byId("split");
  view.style.aspectRatio = `${data.size[0]} / ${data.size[1]}`;
  const place = (percent) => {
    byId("divider").value = percent;
    view.style.setProperty("--at", `${byId("divider").value}%`);
  };
  byId("divider").addEventListener("input", (event) => place(event.target.value));
  const drag = (event) => {
    const box = view.getBoundingClientRect();
    place((100 * (event.clientX - box.left)) / box.width);
  };
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    drag(event);
  });
  view.addEventListener("pointermove", (event) => event.buttons && drag(event));
  showSplit();
}

function showSplit() {
  const view = byId("split");
  view.querySelectorAll("video, .absent").forEach((old) => {
    if (old.tagName === "VIDEO") player.remove(old);
    old.remove();
  });
  const made = ["left", "right"].map((id) => {
    const path = data.files[byId("sample").value][byId(id).value];
    return path ? film(path, data.arms[byId(id).value].name) : absent();
  });
  view.prepend(...made);
  made.filter((one) => one.tagName === "VIDEO").forEach((video) => player.add(video));
}

function connect() {
  byId("scrub").max = data.frames - 1;
  byId("play").addEventListener("click", () => player.toggle());
  byId("back").addEventListener("click", () => player.show(player.frame - 1));
  byId("next").addEventListener("click", () => player.show(player.frame + 1));
  byId("scrub").addEventListener("input", (event) => player.show(Number(event.target.value)));
  player.listeners.push(() => {
    byId("scrub").value = player.frame;
    byId("frame").textContent = `${player.frame + 1} of ${data.frames}`;
    byId("play").textContent = player.playing ? "pause" : "play";
    byId("play").setAttribute("aria-pressed", player.playing);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("button, input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { " ": () => player.toggle(), ArrowLeft: () => player.show(player.frame - 1), ArrowRight: () => player.show(player.frame + 1) };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  player.tell();
}

byId("summary").textContent = `${data.arms.length} variants on ${data.samples.length} pair${data.samples.length === 1 ? "" : "s"} of prompt and seed; baseline ${data.baseline}, ${data.target ? `distance to ${data.target}` : "no distance"}.`;
byId("legend").textContent = data.legend;
byId("plots").append(...["seconds", "nfe"].filter((cost) => cost in data.arms[0].scores).map((cost) => plot(data, cost)));
byId("names").append(...data.arms.map((arm, index) => node("li", {}, swatch(data, index), arm.name)));
byId("notes").append(...(data.notes.length ? data.notes : ["None."]).map((note) => node("li", {}, note)));
document.documentElement.style.setProperty("--shape", `${data.size[0]} / ${data.size[1]}`);
fillScores();
fillSets();
fillSettings();
fillSplit();
fillRows();
connect();
