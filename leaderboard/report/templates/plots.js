"use strict";
// The plots, each a function of the state that gives the elements of its figure.
const narrow = () => window.innerWidth < 640;
const across = (figure) => Math.max(280, Math.min(figure.clientWidth, 1200));
const isBroken = (row) => row.flags.includes("certificate-violated");

function tradeThreats() {
  const all = state.block.threats.filter((t) => t.direction === "up").map((t) => [`${t.norm}|${t.eps}`, t.text]);
  return [["headline", `${state.block.headline.text}, all attacks`], ...all.map(([id, text]) => [id, `${text}, adaptive attacks`])];
}

function tradePoints() {
  const chosen = $("trade-threat").value;
  const threat = state.block.threats.find((t) => `${t.norm}|${t.eps}` === chosen && t.direction === "up");
  const gains = threat
    ? new Map(threat.rows.map((r) => [r.defense, [r.adaptive_gain_mean, r.adaptive_gain_lo, r.adaptive_gain_hi]]))
    : new Map(state.block.rows.map((r) => [r.defense, [r.worst_gain_mean, r.worst_gain_lo, r.worst_gain_hi]]));
  return state.block.rows.flatMap((row) => {
    const [gain, lo, hi] = gains.get(row.defense) ?? [];
    return finite(gain) && finite(row.srocc_clean)
      ? [{ row, label: row.label, kind: row.kind, x: row.srocc_clean, x0: row.srocc_clean_lo ?? row.srocc_clean, x1: row.srocc_clean_hi ?? row.srocc_clean, y: gain, y0: finite(lo) ? lo : gain, y1: finite(hi) ? hi : gain }]
      : [];
  });
}

function drawTrade(figure) {
  const points = tradePoints();
  if (!points.length) return nothing("No defence has both a ground truth and a gain at this threat.");
  const kinds = Object.keys(KINDS).filter((kind) => points.some((p) => p.kind === kind));
  $("trade-key").replaceChildren(...kinds.map((kind) => h("span", {}, kindMark(kind), KINDS[kind].name)));
  const front = points.filter((p) => !points.some((q) => (q.x >= p.x && q.y < p.y) || (q.x > p.x && q.y <= p.y))).sort((a, b) => a.x - b.x);
  const least = Math.min(...points.map((p) => Math.min(p.y, p.y0)));
  const most = Math.max(...points.map((p) => p.y1));
  const log = least > 0 && most / least > 8;
  const w = across(figure);
  const height = narrow() ? 380 : 460;
  const steps = d3.range(-4, 5).flatMap((k) => [1, 2, 5].map((m) => +(m * 10 ** k).toPrecision(1))).filter((t) => t >= least * 0.8 && t <= most * 1.25);
  const small = narrow() || points.length > 12;
  const chart = plotted({
    ...PLAIN, width: w, height, marginLeft: 52, marginRight: 24, marginBottom: 44, marginTop: 28,
    x: { label: "clean SROCC, better →", nice: true, ticks: narrow() ? 4 : 8, inset: 12, labelAnchor: "right" },
    y: { label: `↓ better, mean worst gain / R${log ? " (log scale)" : ""}`, ...(log ? { type: "log", domain: [least * 0.8, most * 1.25], ticks: steps } : { nice: true, ticks: 6 }), grid: true, tickFormat: (d) => String(+d.toPrecision(3)), inset: 8, labelArrow: "none" },
    symbol: { domain: Object.keys(KINDS), range: Object.values(KINDS).map((k) => k.symbol) },
    marks: [
      Plot.line(front, { x: "x", y: "y", curve: "step-before", stroke: "var(--muted)", strokeDasharray: "2 4", strokeWidth: 1.4 }),
      Plot.ruleX(points, { x: "x", y1: "y0", y2: "y1", stroke: (p) => `var(--${p.kind})`, strokeOpacity: small ? 0.3 : 0.55, strokeWidth: 1.4 }),
      Plot.ruleY(points, { y: "y", x1: "x0", x2: "x1", stroke: (p) => `var(--${p.kind})`, strokeOpacity: small ? 0.3 : 0.55, strokeWidth: 1.4 }),
      Plot.dot(points, { x: "x", y: "y", symbol: "kind", fill: (p) => `var(--${p.kind})`, stroke: "var(--bg)", strokeWidth: 1, r: 6 }),
      Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: (p) => `${p.row.defense}\nSROCC ${show(p.x)} (${show(p.x0)} to ${show(p.x1)})\ngain ${show(p.y)} (${show(p.y0)} to ${show(p.y1)})`, lineWidth: 24 })),
    ],
    ariaLabel: "Accuracy against worst gain",
  });
  const [sx, sy] = [chart.scale("x"), chart.scale("y")];
  const placedPoints = points.map((p) => {
    const [x, y] = [sx.apply(p.x), sy.apply(p.y)];
    const bars = [{ x0: sx.apply(p.x0), x1: sx.apply(p.x1), y0: y - 1, y1: y + 1 }, { x0: x - 1, x1: x + 1, y0: sy.apply(p.y1), y1: sy.apply(Math.max(p.y0, log ? least : -Infinity)) }];
    return { x, y, text: p.label, bars, first: front.includes(p) || p.kind === "undefended" };
  });
  placedPoints.sort((a, b) => b.first - a.first);
  name(chart, placedPoints, { x0: 54, x1: w - 4, y0: 24, y1: height - 46 });
  return [chart, figures("Figures of accuracy and robustness", ["Defence", "SROCC", "from", "to", "Gain", "from", "to"], points.map((p) => [p.row.defense, p.x, p.x0, p.x1, p.y, p.y0, p.y1]))];
}

function panel(title, kind, text, ...rest) {
  return h("div", { class: "panel" }, h("h3", {}, kindMark(kind), title), text ? h("p", { class: "small" }, text) : null, ...rest);
}

const CURVES = {
  population: { name: "certified δ, population", colour: "var(--certified)", dash: null, symbol: "circle" },
  deployed: { name: "certified δ, deployed", colour: "var(--c3)", dash: "6 4", symbol: "square" },
  attack: { name: "largest shift found by attacks", colour: "var(--c1)", dash: "1 4", symbol: "triangle" },
};

function drawCertified(figure) {
  const curves = state.block.certified;
  if (!curves.length) return nothing("No defence of this metric and data set has a certificate.");
  $("certified-key").replaceChildren(...Object.values(CURVES).map((c) => h("span", {}, line(c.colour, c.dash), mark(c.symbol, c.colour), c.name)));
  const groups = d3.groups(curves, (c) => `${c.defense}|${c.norm}`);
  const rows = (c, kind, column) => c.eps.map((eps, k) => ({ eps, y: value(c[column][k]), kind })).filter((r) => Number.isFinite(r.y));
  const all = groups.map(([, part]) => {
    const first = part[0];
    return { first, lines: [...part.flatMap((c) => (CURVES[c.kind] ? rows(c, c.kind, "certified_delta_mean") : [])), ...rows(first, "attack", "empirical_shift_worst_mean")],
      open: part.flatMap((c) => c.eps.filter((eps, k) => value(c.certified_delta_mean[k]) === Infinity).map((eps) => ({ eps, kind: c.kind }))),
      broken: d3.max(part.flatMap((c) => c.violations.map((v) => v ?? 0))) };
  });
  const most = d3.max(all.flatMap((g) => g.lines.map((r) => r.y))) || 1;
  const w = Math.min(across(figure), narrow() ? figure.clientWidth : Math.max(280, figure.clientWidth / Math.max(1, Math.min(3, Math.floor(figure.clientWidth / 345))) - 20));
  const panels = all.map(({ first, lines, open, broken }) => {
    const scale = first.norm === "linf" ? 255 : 1;
    const chart = plotted({
      ...PLAIN, width: w, height: 240, marginLeft: 46, marginRight: 14, marginBottom: 38, marginTop: 22,
      x: { label: first.norm === "linf" ? "budget ε, 255ths (l∞)" : "budget ε (l2)", domain: [0, d3.max(first.eps) * scale * 1.04], ticks: 5, labelArrow: "none" },
      y: { label: "δ / R", domain: [0, most * 1.05], grid: true, ticks: 5, labelArrow: "none" },
      marks: [
        ...["population", "deployed", "attack"].flatMap((kind) => {
          const mine = lines.filter((r) => r.kind === kind);
          const from = kind === "attack" || !mine.length ? mine : mine;
          return [
            Plot.line(from, { x: (r) => r.eps * scale, y: "y", stroke: CURVES[kind].colour, strokeWidth: 2, strokeDasharray: CURVES[kind].dash ?? undefined, strokeLinecap: "round" }),
            Plot.dot(mine, { x: (r) => r.eps * scale, y: "y", symbol: CURVES[kind].symbol, fill: CURVES[kind].colour, r: 4 }),
          ];
        }),
        Plot.text(open, { x: (r) => r.eps * scale, y: most, text: () => "∞", fill: (r) => CURVES[r.kind].colour, fontSize: 15 }),
        Plot.tip(lines, Plot.pointer({ x: (r) => r.eps * scale, y: "y", title: (r) => `${CURVES[r.kind].name}\nε ${r.eps}: ${show(r.y, 4)}` })),
        Plot.ruleY([0], { stroke: "var(--line)" }),
      ],
      ariaLabel: `Certified curve of ${first.defense}`,
    });
    const facts = [first.sigma ? `σ ${first.sigma}` : null, first.n ? `${whole(first.n)} draws` : "no sampling", `α ${first.alpha}`, first.coverage === "pointwise" ? null : first.coverage];
    const text = h("span", {}, facts.filter(Boolean).join(" · "), broken ? h("span", { class: "alarm" }, ` · ✕ ${broken} violation${broken > 1 ? "s" : ""}`) : null);
    return panel(`${labelOf(first.defense)}`, kindOf(first.defense), text, chart);
  });
  const table = curves.flatMap((c) => c.eps.map((eps, k) => [c.defense, c.kind, `${normName(c.norm)} ${show(eps, 4)}`, c.certified_delta_mean[k] ?? "–", c.empirical_shift_worst_mean[k] ?? "–", whole(c.violations[k])]));
  return [...panels, figures("Figures of the certified curves", ["Defence", "Kind", "Budget", "δ", "Worst shift", "Violations"], table.map((r) => r.map((x) => (x === "inf" ? "∞" : x))))];
}

const scatterChoices = () => {
  const found = new Map(state.block.panels.map((p) => [`${p.norm}|${p.eps}|${p.kind}`, p]));
  return [...found].sort(([, a], [, b]) => (a.norm < b.norm ? -1 : a.norm > b.norm ? 1 : 0) || (a.kind === "population" ? 0 : 1) - (b.kind === "population" ? 0 : 1) || a.eps - b.eps)
    .map(([id, p]) => [id, `${p.kind}, ${normName(p.norm)} ${show(p.eps, 4).replace(/0+$/, "")}`]);
};

function drawScatter(figure) {
  const [norm, eps, kind] = $("scatter-kind").value.split("|");
  const panels = state.block.panels.filter((p) => p.norm === norm && String(p.eps) === eps && p.kind === kind);
  if (!panels.length) return nothing("No certificate was attacked at its own norm and budget.");
  const classes = [["circle", "var(--certified)", "within its bound"], ["triangle", "var(--c4)", "estimate above it, interval not"], ["times", "var(--c1)", "violation"]];
  $("scatter-key").replaceChildren(...classes.map(([symbol, colour, text], k) => h("span", {}, mark(symbol, colour, k === 0), text)));
  const fit = Math.max(1, Math.min(3, Math.floor(figure.clientWidth / 345)));
  const w = Math.min(across(figure), Math.max(280, figure.clientWidth / fit - 20));
  return panels.map((p) => {
    const raw = unpack(p.points);
    const bad = new Set(p.bad);
    const points = d3.range(p.shown).map((k) => {
      const [x, y] = [(raw[k] * p.scale) / 65535, (raw[k + p.shown] * p.scale) / 65535];
      return { x, y, group: bad.has(k) ? 2 : y > x ? 1 : 0 };
    });
    const top = p.scale * 1.04;
    const chart = plotted({
      ...PLAIN, width: w, height: w * 0.86, marginLeft: 50, marginRight: 12, marginBottom: 40, marginTop: 22,
      x: { label: "certified δ / R", domain: [0, top], ticks: 5, labelArrow: "none" },
      y: { label: "largest shift found / R", domain: [0, top], ticks: 5, grid: true, labelArrow: "none" },
      marks: [
        Plot.area([[0, 0], [top, top]], { x1: (d) => d[0], y1: (d) => d[1], y2: () => top, fill: "var(--c1)", fillOpacity: 0.07 }),
        Plot.line([[0, 0], [top, top]], { stroke: "var(--ink)", strokeWidth: 1.3 }),
        Plot.dot(points.filter((q) => q.group === 0), { x: "x", y: "y", r: 2.8, fill: "var(--certified)", fillOpacity: 0.5 }),
        Plot.dot(points.filter((q) => q.group === 1), { x: "x", y: "y", r: 4, symbol: "triangle", stroke: "var(--c4)", strokeWidth: 1.6 }),
        Plot.dot(points.filter((q) => q.group === 2), { x: "x", y: "y", r: 5, symbol: "times", stroke: "var(--c1)", strokeWidth: 2.4 }),
      ],
      ariaLabel: `Bound against shift, ${p.defense}: ${p.violations} violations on ${p.n} images`,
    });
    const text = h("span", {}, `${p.n} images${p.shown < p.n - p.unbounded ? ` (${p.shown} shown)` : ""}${p.unbounded ? `, ${p.unbounded} without a bound` : ""} · ${p.over} above · `,
      p.violations ? h("span", { class: "alarm" }, `✕ ${p.violations} violation${p.violations > 1 ? "s" : ""}`) : "no violation");
    return panel(labelOf(p.defense), kindOf(p.defense), text, chart);
  });
}

function coloured() {
  const known = state.block.rows.map((row) => row.defense);
  if (state.coloured === null || !state.coloured.every((d) => known.includes(d))) {
    state.coloured = [...new Set([...known.filter((d) => d === "none"), ...known])].slice(0, 7);
  }
  return state.coloured;
}

function drawChips() {
  const chosen = coloured();
  const legend = $("gains-chips").querySelector("legend");
  $("gains-chips").replaceChildren(legend, ...state.block.rows.map(({ defense, label }) => {
    const place = chosen.indexOf(defense);
    const picture = place < 0 ? mark("circle", "var(--grey)", false) : mark(SYMBOLS[place], COLOURS[place]);
    return h("button", { type: "button", "aria-pressed": String(place >= 0), "data-chip": defense, title: defense, onclick: () => {
      state.coloured = place >= 0 ? chosen.filter((d) => d !== defense) : [...chosen, defense].slice(-7);
      drawChips();
      if (seen.has("gains-plot")) draw("gains-plot");
      [...$("gains-chips").querySelectorAll("[data-chip]")].find((b) => b.dataset.chip === defense)?.focus();
    } }, picture, label);
  }));
}

function drawGains(figure) {
  const chosen = coloured();
  const plots = ["linf", "l2"].flatMap((norm) => {
    const threats = state.block.threats.filter((t) => t.norm === norm && t.direction === "up");
    const scale = norm === "linf" ? 255 : 1;
    const rows = threats.flatMap((t) => t.rows.filter((r) => finite(r.adaptive_gain_mean)).map((r) => ({ defense: r.defense, x: t.eps * scale, y: r.adaptive_gain_mean, lo: r.adaptive_gain_lo ?? r.adaptive_gain_mean, hi: r.adaptive_gain_hi ?? r.adaptive_gain_mean, place: chosen.indexOf(r.defense) })));
    if (!rows.length) return [];
    const front = rows.filter((r) => r.place >= 0);
    const columns = figure.clientWidth > 900 ? 2 : 1;
    const w = Math.max(280, figure.clientWidth / columns - (columns > 1 ? 14 : 0));
    const ends = chosen.flatMap((defense) => { const mine = front.filter((r) => r.defense === defense).sort((a, b) => b.x - a.x); return mine.length ? [mine[0]] : []; });
    const labels = ends.map((r) => labelOf(r.defense));
    const cut = (text, room) => { let t = text; while (t.length > 4 && width(t) > room) t = `${t.slice(0, -2)}…`; return t; };
    const room = Math.min(narrow() ? 92 : 170, 14 + Math.max(20, ...labels.map(width)));
    const height = narrow() ? 320 : 360;
    const chart = plotted({
      ...PLAIN, width: w, height, marginLeft: 46, marginRight: room + 10, marginBottom: 40, marginTop: 24,
      x: { label: norm === "linf" ? "budget ε, 255ths (l∞)" : "budget ε (l2)", domain: [0, d3.max(rows, (r) => r.x)], ticks: narrow() ? 3 : 6, labelArrow: "none", labelAnchor: "left" },
      y: { label: "mean gain / R", grid: true, ticks: 6, nice: true, zero: true, labelArrow: "none" },
      marks: [
        Plot.ruleY([0], { stroke: "var(--line)" }),
        Plot.line(rows.filter((r) => r.place < 0), { x: "x", y: "y", z: "defense", stroke: "var(--grey)", strokeWidth: 1, strokeOpacity: 0.7, sort: "x" }),
        Plot.area(front, { x1: "x", y1: "lo", y2: "hi", z: "defense", fill: (r) => COLOURS[r.place], fillOpacity: 0.12, sort: "x" }),
        Plot.line(front, { x: "x", y: "y", z: "defense", stroke: (r) => COLOURS[r.place], strokeWidth: 2, sort: "x" }),
        Plot.ruleX(front, { x: "x", y1: "lo", y2: "hi", stroke: (r) => COLOURS[r.place], strokeWidth: 1.2, strokeOpacity: 0.6 }),
        ...d3.range(chosen.length).map((k) => Plot.dot(front.filter((r) => r.place === k), { x: "x", y: "y", symbol: SYMBOLS[k], fill: COLOURS[k], r: 4.5, stroke: "var(--bg)", strokeWidth: 0.8 })),
        Plot.tip(rows, Plot.pointer({ x: "x", y: "y", title: (r) => `${r.defense}\ngain ${show(r.y)} (${show(r.lo)} to ${show(r.hi)})` })),
      ],
      ariaLabel: `Gain against budget, ${normName(norm)}`,
    });
    const y = chart.scale("y");
    const heights = spread(ends.map((r) => y.apply(r.y)), 15, 14, height - 36);
    ends.forEach((r, k) => {
      const x = chart.scale("x").apply(r.x);
      const text = h("text", { svg: true, class: "name", x: w - room + 4, y: heights[k] + 4 }, cut(labels[k], room - 6));
      const lead = h("path", { svg: true, d: `M${x + 7} ${y.apply(r.y)}L${w - room} ${heights[k]}`, fill: "none", "stroke-width": 1 });
      lead.style.stroke = COLOURS[r.place];
      lead.style.opacity = 0.6;
      chart.append(lead, text);
    });
    return [h("div", { class: "panel" }, h("h3", {}, normName(norm)), chart)];
  });
  if (!plots.length) return nothing("No adaptive attack has a result.");
  const table = state.block.threats.flatMap((t) => t.rows.map((r) => [r.defense, threatName(t), r.adaptive_gain_mean ?? "–", r.adaptive_gain_lo ?? "–", r.adaptive_gain_hi ?? "–", r.naive_gain_mean ?? "–"]));
  return [...plots, figures("Figures of gain and budget", ["Defence", "Threat", "Adaptive gain", "from", "to", "Naive gain"], table)];
}

const viridis = (t) => d3.interpolateViridis(0.06 + 0.94 * t);
/** Black or white, whichever has more contrast (WCAG 2.1): at least 4.5 on any colour. */
const inkOn = (colour) => {
  const { r, g, b } = d3.rgb(colour);
  const [x, y, z] = [r, g, b].map((v) => (v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z > 0.179 ? "#000000" : "#ffffff";
};

/** A matrix of figures as a table with coloured cells: it is read by eyes, keyboards and screen readers alike. */
function matrix(corner, rows, columns, cells, most) {
  const table = h("table", { class: "matrix" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "sticky left" }, corner), columns.map((c) => h("th", { scope: "col", title: c.full }, h("span", {}, c.label))))),
    h("tbody", {}, rows.map((row, i) => h("tr", {}, h("th", { scope: "row", class: "sticky left", title: row.full }, row.label), columns.map((c, j) => {
      const item = cells(i, j);
      if (!item || !finite(item.x)) return h("td", { class: "void", title: "not run" }, "·");
      const colour = viridis(Math.max(0, Math.min(1, Math.abs(item.x) / most)));
      const td = h("td", { title: item.title }, show(item.x, 2));
      td.style.background = colour;
      td.style.color = inkOn(colour);
      return td;
    })))));
  return table;
}

function ramp(most, text) {
  const strip = h("span", { class: "ramp", "aria-hidden": "true" });
  strip.style.background = `linear-gradient(90deg, ${d3.range(0, 1.01, 0.125).map(viridis).join(", ")})`;
  return [h("span", {}, "0 ", strip, ` ${show(most, 2)}`), h("span", {}, text)];
}

function drawHeat() {
  const heat = state.block.heat.find((t) => `${t.norm}|${t.eps}|${t.direction}` === $("heat-threat").value);
  if (!heat) return nothing("No attack has a result.");
  const most = d3.max(heat.gains.flat().map((x) => Math.abs(value(x) ?? 0))) || 1;
  $("heat-key").replaceChildren(...ramp(most, "mean gain / R, coloured by its size; · was not run"));
  return matrix("Attack", heat.attacks.map((label, k) => ({ label, full: heat.full[k] })), state.block.rows.map((row) => ({ label: row.label, full: row.defense })),
    (i, j) => ({ x: heat.gains[i][j], title: `${heat.full[i]} on ${state.block.rows[j].defense}: ${show(heat.gains[i][j], 4)}` }), most);
}

function drawTransfer() {
  return DATA.transfer.map((t) => {
    const most = d3.max(t.cells.flat().map((c) => Math.abs(value(c?.gain) ?? 0))) || 1;
    return [h("p", { class: "key" }, h("span", {}, t.file), ...ramp(most, "mean gain in units of the column's metric, coloured by its size")),
      matrix("attacked on", t.sources.map((label) => ({ label, full: label })), t.targets.map((label) => ({ label, full: label })),
        (i, j) => t.cells[i][j] && { x: t.cells[i][j].gain, title: `${t.sources[i]} on ${t.targets[j]}: ${show(t.cells[i][j].gain)} (${show(t.cells[i][j].lo)} to ${show(t.cells[i][j].hi)}), ${t.cells[i][j].n} images` }, most),
      figures(`Figures of ${t.file}`, ["Attacked on", "Scored by", "Gain", "from", "to", "Images"], t.cells.flatMap((row, i) => row.flatMap((c, j) => c ? [[t.sources[i], t.targets[j], c.gain ?? "–", c.lo ?? "–", c.hi ?? "–", whole(c.n)]] : [])))];
  }).flat();
}
