"use strict";
// The Pareto plots: one panel per cost, on a logarithmic axis.

const PANEL = { width: 520, height: 330, left: 62, right: 14, top: 14, bottom: 44 };
const COST_LABELS = { seconds: "seconds of the stage per video", nfe: "network passes (NFE)" };
// One more than the colours, so that the ninth arm is not like the first.
const SHAPES = [
  "M5,0A5,5 0 1 1 -5,0A5,5 0 1 1 5,0Z",
  "M-5,-5H5V5H-5Z",
  "M0,-6.5L5.5,0L0,6.5L-5.5,0Z",
  "M0,-6L6,5H-6Z",
  "M0,6L6,-5H-6Z",
  "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
  "M-6,-3.5L-3.5,-6L0,-2.5L3.5,-6L6,-3.5L2.5,0L6,3.5L3.5,6L0,2.5L-3.5,6L-6,3.5L-2.5,0Z",
  "M0,-7L1.8,-2.3L6.7,-2.2L2.8,.9L4.1,5.7L0,3L-4.1,5.7L-2.8,.9L-6.7,-2.2L-1.8,-2.3Z",
  "M-6,0L5,6V-6Z",
];

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Lighter on a dark page where a colour would be lost there. */
function ink(data, index) {
  const colour = data.colours[index % data.colours.length];
  return colour === "#000000" ? "light-dark(#000000, #e6e7ea)" : `light-dark(${colour}, color-mix(in oklab, ${colour} 75%, white))`;
}

function marker(data, index, hollow, title) {
  const path = svg("path", { d: SHAPES[index % SHAPES.length], class: hollow ? "point hollow" : "point" });
  const group = svg("g", { style: `--ink: ${ink(data, index)}` }, path);
  if (title) group.append(svg("title", {}, title));
  return group;
}

function swatch(data, index) {
  return svg("svg", { viewBox: "-9 -9 18 18", class: "swatch", "aria-hidden": "true" }, marker(data, index, false));
}

/** Round steps over a range: about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function doublings(low, high) {
  const found = [];
  for (let n = Math.floor(Math.log2(low)); n <= Math.ceil(Math.log2(high)); n++) found.push(2 ** n);
  return found.filter((n) => n >= low && n <= high);
}

function plot(data, cost) {
  const { width, height, left, right, top, bottom } = PANEL;
  const quality = data.quality;
  const points = data.arms.map((arm, index) => ({
    index, arm, x: arm.scores[cost].value, y: arm.scores[quality].value,
    low: arm.scores[quality].low, high: arm.scores[quality].high, hollow: arm.dominated[cost],
  }));
  const least = Math.min(...points.map((p) => p.x).filter((x) => x > 0));
  const place = (x) => (x > 0 ? Math.log2(x) : Number.isFinite(least) ? Math.log2(least) - 1 : 0); // enlarging costs no pass
  const xs = points.map((p) => place(p.x));
  const x0 = Math.min(...xs) - 0.4, x1 = Math.max(...xs) + 0.4;
  const y0 = Math.min(...points.map((p) => p.low)), y1 = Math.max(...points.map((p) => p.high));
  const pad = (y1 - y0 || 1) * 0.08;
  const X = (x) => left + ((place(x) - x0) / (x1 - x0)) * (width - left - right);
  const Y = (y) => height - bottom - ((y - y0 + pad) / (y1 - y0 + 2 * pad)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${quality} against ${COST_LABELS[cost]}` });
  for (const t of ticks(y0 - pad, y1 + pad, 5)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: Y(t), y2: Y(t) }));
    root.append(svg("text", { x: left - 8, y: Y(t) + 4, "text-anchor": "end" }, String(+t.toPrecision(3))));
  }
  const shown = doublings(Math.max(2 ** x0, least * 0.75), 2 ** x1);
  for (const t of points.some((p) => p.x === 0) ? [0, ...shown] : shown) {
    root.append(svg("line", { class: "grid", x1: X(t), x2: X(t), y1: top, y2: height - bottom }));
    root.append(svg("text", { x: X(t), y: height - bottom + 16, "text-anchor": "middle" }, String(+t.toPrecision(2))));
  }
  root.append(svg("text", { class: "name", x: (left + width) / 2, y: height - 8, "text-anchor": "middle" }, COST_LABELS[cost]));
  const better = points[0].arm.scores[quality].higher_is_better ? "higher" : "lower";
  root.append(svg("text", { class: "name", transform: `translate(14 ${height / 2}) rotate(-90)`, "text-anchor": "middle" }, `${quality} (${better} is better)`));
  const front = points.filter((p) => !p.hollow).sort((a, b) => a.x - b.x);
  root.append(svg("polyline", { class: "front", points: front.map((p) => `${X(p.x)},${Y(p.y)}`).join(" ") }));
  for (const p of points) {
    const group = marker(data, p.index, p.hollow, `${p.arm.name}: ${quality} ${p.y.toPrecision(4)}, ${cost} ${+p.x.toPrecision(4)}`);
    group.setAttribute("transform", `translate(${X(p.x)} ${Y(p.y)})`);
    group.prepend(svg("line", { class: "bar", x1: 0, x2: 0, y1: Y(p.low) - Y(p.y), y2: Y(p.high) - Y(p.y) }));
    root.append(group);
  }
  return root;
}
