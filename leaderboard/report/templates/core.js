"use strict";
// What all parts lean on: the data, elements, numbers, marks. Text reaches the page as text nodes only.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function h(name, attributes = {}, ...children) {
  const svg = name === "svg" || attributes.svg;
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "svg" || value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A text that may be broken after commas and semicolons. */
const breakable = (text) => text.split(/(?<=[,;])/).flatMap((part) => [part, h("wbr")]);

/** A figure of the data: a number, an unbounded one, or null. */
const value = (x) => (x === "inf" ? Infinity : x === "-inf" ? -Infinity : typeof x === "number" ? x : null);
const finite = (x) => Number.isFinite(value(x));

function show(x, digits = 3) {
  const number = value(x);
  if (number === null) return "–";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
  return number.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");
}
const whole = (x) => (finite(x) ? Math.round(x).toLocaleString("en") : "–");
const percent = (x) => (finite(x) ? `${Math.round(100 * x)} %` : "–");
const normName = (norm) => (norm === "linf" ? "l∞" : norm);
const threatName = (t) => `${t.text}${t.direction === "down" ? ", downwards" : ""}`;

/** Kinds of defence: a colour and a shape each, so that no colour has to be told from another. */
const KINDS = {
  undefended: { name: "undefended", symbol: "square" },
  certified: { name: "certified", symbol: "circle" },
  randomised: { name: "randomised", symbol: "triangle" },
  deterministic: { name: "deterministic", symbol: "diamond" },
};
const COLOURS = ["var(--c6)", "var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];
const SYMBOLS = ["square", "circle", "triangle", "diamond", "cross", "star", "wye"];
const SHAPES = { circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle, diamond: d3.symbolDiamond,
  star: d3.symbolStar, cross: d3.symbolCross, wye: d3.symbolWye, times: d3.symbolTimes };

function mark(symbol, colour, filled = true) {
  const times = symbol === "times";
  const path = h("path", { svg: true, d: d3.symbol(SHAPES[symbol], times ? 40 : 62)(), transform: "translate(6 6)",
    "stroke-width": times ? 2.4 : 1.4 });
  path.style.fill = filled && !times ? colour : "none";
  path.style.stroke = colour;
  return h("svg", { class: "mark", viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
}
const kindMark = (kind) => mark(KINDS[kind].symbol, `var(--${kind})`);

function line(colour, dash) {
  const path = h("path", { svg: true, d: "M0 6H26", "stroke-width": 2, "stroke-dasharray": dash });
  path.style.stroke = colour;
  const svg = h("svg", { class: "mark", viewBox: "0 0 26 12", "aria-hidden": "true" }, path);
  svg.style.width = "26px";
  return svg;
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([id, text]) => h("option", { value: id }, text)));
  const wanted = options.some(([id]) => id === chosen) ? chosen : options.length ? options[0][0] : "";
  select.value = wanted;
  return wanted;
}

/** A plain table of figures, for those who cannot or will not read a plot. */
function figures(label, columns, rows) {
  return h("details", { class: "data" }, h("summary", {}, "The figures as a table"),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
      h("table", {},
        h("thead", {}, h("tr", {}, columns.map((name, k) => h("th", { scope: "col", class: k ? null : "left" }, name)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, k) =>
          h(k ? "td" : "th", { scope: k ? null : "row" }, typeof cell === "number" ? show(cell) : cell))))))));
}

/** uint16 values in base64, as `points.py` packs them. */
function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, k) => view.getUint16(2 * k, true));
}

async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { "aria-hidden": "true" }, text);
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.dataset.text ?? button.textContent;
  button.dataset.text = before;
  button.textContent = done ? "Copied ✓" : "Press Ctrl+C";
  setTimeout(() => { button.textContent = before; }, 1600);
}

/** The state of the page. `block` is one metric on one data set. */
const state = { block: DATA.blocks[0] ?? null, track: "overall", budget: {}, sort: {}, hidden: new Set(), filter: "",
  open: new Set(), coloured: null };
const rowOf = (defense) => state.block.rows.find((row) => row.defense === defense);
const labelOf = (defense) => rowOf(defense)?.label ?? defense;
const kindOf = (defense) => rowOf(defense)?.kind ?? "deterministic";
