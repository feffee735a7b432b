"use strict";
// Drawing when a plot comes into view, and names that do not lie on each other.
const drawers = new Map();
const seen = new Set();

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && !seen.has(entry.target.id)) draw(entry.target.id);
  }
}, { rootMargin: "300px" });

function lazily(id, drawer) {
  drawers.set(id, drawer);
  watcher.observe($(id));
}

function draw(id) {
  seen.add(id);
  $(id).replaceChildren(...[drawers.get(id)($(id))].flat().filter(Boolean));
}

/** Draw again what was drawn; what is out of view waits until it comes into view. */
function redraw() {
  for (const id of [...seen]) {
    seen.delete(id);
    const box = $(id).getBoundingClientRect();
    if (box.bottom > -600 && box.top < window.innerHeight + 600) draw(id);
    else { watcher.unobserve($(id)); watcher.observe($(id)); }
  }
}

const PLAIN = { className: "rq-plot", style: { overflow: "visible" } };

/** A drawing that is one picture to a screen reader: parts without a role may have no names, and its figures stand in a table. */
function plotted(options) {
  const chart = Plot.plot(options);
  chart.setAttribute("role", "img");
  for (const part of chart.querySelectorAll("g[aria-label]")) part.removeAttribute("aria-label");
  return chart;
}

const nothing = (text) => h("p", { class: "note" }, text);

const measure = document.createElement("canvas").getContext("2d");
function width(text) {
  measure.font = "12.5px system-ui, sans-serif";
  return measure.measureText(text).width;
}

const overlap = (a, b) => Math.max(0, Math.min(a.x1, b.x1) - Math.max(a.x0, b.x0)) * Math.max(0, Math.min(a.y1, b.y1) - Math.max(a.y0, b.y0));

/** Put names beside points, each where it covers least; a name that finds no free place is left out, and its tip tells it. */
function name(svg, points, frame) {
  const size = 9;
  const taken = points.map((p) => ({ x0: p.x - size, x1: p.x + size, y0: p.y - size, y1: p.y + size }));
  const bars = points.flatMap((p) => p.bars ?? []);
  for (const p of points) {
    const w = width(p.text) + 2;
    const places = [[10, -7], [10, 9], [-10 - w, -7], [-10 - w, 9], [-w / 2, -19], [-w / 2, 20], [14, -16], [14, 20], [-14 - w, -16], [-14 - w, 20],
      ...[32, 50, 70].flatMap((r) => [[r * 0.5, -r], [r * 0.5, r], [-r * 0.5 - w, -r], [-r * 0.5 - w, r]])];
    const boxes = places.map(([dx, dy]) => ({ x0: p.x + dx, x1: p.x + dx + w, y0: p.y + dy - 9, y1: p.y + dy + 7 }));
    const costs = boxes.map((box, k) => k * 0.5 + taken.reduce((sum, other) => sum + overlap(box, other), 0) * 4
      + bars.reduce((sum, bar) => sum + overlap(box, bar), 0)
      + (box.x0 < frame.x0 || box.x1 > frame.x1 || box.y0 < frame.y0 || box.y1 > frame.y1 ? 1e6 : 0));
    const best = costs.indexOf(Math.min(...costs));
    if (costs[best] > 260) continue;
    taken.push(boxes[best]);
    if (best > 9) {
      const lead = h("path", { svg: true, d: `M${p.x} ${p.y}L${Math.max(boxes[best].x0, Math.min(p.x, boxes[best].x1))} ${boxes[best].y0 > p.y ? boxes[best].y0 + 3 : boxes[best].y1 - 2}`, "stroke-width": 0.8 });
      lead.style.stroke = "var(--muted)";
      svg.append(lead);
    }
    svg.append(h("text", { svg: true, class: "name", x: boxes[best].x0, y: boxes[best].y1 - 4 }, p.text));
  }
}

/** Heights of names at the end of lines, pushed apart until none lies on another. */
function spread(ys, gap, low, high) {
  const order = ys.map((y, k) => k).sort((a, b) => ys[a] - ys[b]);
  const found = [...ys];
  for (let k = 1; k < order.length; k++) found[order[k]] = Math.max(found[order[k]], found[order[k - 1]] + gap);
  const over = order.length ? found[order[order.length - 1]] - high : 0;
  if (over > 0) {
    found[order[order.length - 1]] = high;
    for (let k = order.length - 2; k >= 0; k--) found[order[k]] = Math.min(found[order[k]], found[order[k + 1]] - gap);
  }
  return found.map((y) => Math.max(low, y));
}
