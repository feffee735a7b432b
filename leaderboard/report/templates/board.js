"use strict";
// The boards: one track at a time, sorted and filtered.
const interval = (r) => (finite(r.lo) && finite(r.hi) ? `${show(r.lo)} to ${show(r.hi)}` : null);

/** Columns: key, head, what it means, how a cell is shown, and whether a smaller figure is better (null: neither). */
const COLUMN = {
  cost: { head: "Cost of a score", title: "Forward passes of the metric for one defended score", small: true, cell: (r) => whole(r.cost) },
  rank: { head: "Rank", title: "Place by the track's own figure; “–”: not ranked", cell: (r) => rankCell(r), small: true },
  defense: { head: "Defence", title: "Name of the defence, and its parameters", left: true, small: null },
  srocc: { head: "SROCC", title: "Rank correlation of clean scores with the ground truth", small: false },
  attacked: { head: "SROCC attacked", title: "The same after the worst attack on every image", small: false },
  gain: { head: "Worst gain", title: "Mean over images of the strongest attack's gain, in units of R", small: true, range: true },
  naive: { head: "Naive gain", title: "Mean gain of the attack that does not know the defence", small: true },
  rscore: { head: "R-score", title: "Log of the room left above the score over how far it moved; larger is more robust", small: false },
  delta: { head: "Certified δ", title: "Mean bound on how far the score can move, in units of R", small: true },
  deployed: { head: "δ deployed", title: "Mean bound of the score from finitely many draws that is shipped", small: true },
  found: { head: "Worst shift found", title: "Mean over images of the largest shift that an attack reached", small: null },
  tight: { head: "Tightness", title: "Largest share of its bound that an image was driven to; 1 is the bound", small: null },
  violations: { head: "Violations", title: "Images whose whole interval lies outside their bound", small: true, digits: 0 },
  vacuous: { head: "Vacuous", title: "Share of images whose bound is infinite or as wide as the range", small: true, cell: (r) => percent(r.vacuous) },
  forwards: { head: "Forwards", title: "Forward passes for the certificate of one image", small: true, cell: (r) => whole(r.forwards) },
  pass: { head: "Time of a pass", title: "Seconds a forward or backward pass through the defence, over those of the undefended metric", small: true,
    cell: (r) => (finite(r.pass) ? `× ${show(r.pass, 1)}` : "–") },
  kept: { head: "Gain left", title: "Worst gain over that of the undefended metric", small: true, cell: (r) => percent(r.kept) },
  flags: { head: "Flags", title: "Why the figures may not mean what they seem to", left: true, small: null },
  done: { head: "ok / planned", title: "Results there are, of those planned", small: null, cell: (r) => `${whole(r.ok)} / ${whole(r.planned)}` },
  command: { head: "Again", title: "Copy the command that computes the row again", small: null },
};

const upward = (norm) => state.block.threats.filter((t) => t.norm === norm && t.direction === "up");
const l2Budgets = () => [...new Set(state.block.certified.filter((c) => c.norm === "l2").flatMap((c) => c.eps))].sort((a, b) => a - b);

const TRACKS = [
  { id: "overall", name: "Overall", columns: ["rank", "defense", "gain", "rscore", "srocc", "attacked", "delta", "flags", "done", "command"],
    note: () => `Ranked by the worst gain at ${state.block.headline.text}: per image the strongest attack of the run. A row with failures, or one that nothing but noise was tried on, has no rank.`,
    rows: overall },
  { id: "certified", name: "Certified l2", rule: "certified-l2", columns: ["rank", "defense", "delta", "deployed", "found", "tight", "violations", "vacuous", "srocc", "forwards", "flags", "done", "command"],
    budgets: () => l2Budgets().map((eps) => [String(eps), `l2 ${eps}`]), start: () => String(state.block.headline.certified_eps),
    note: () => "Ranked by the mean certified δ of the exact smoothed score: what no change of that length can pass. A certificate that an attack has broken has no rank.",
    rows: certifiedRows },
  ...["linf", "l2"].map((norm) => ({ id: norm, name: `Empirical ${normName(norm)}`, rule: `empirical-${norm}`,
    columns: ["rank", "defense", "gain", "naive", "rscore", "srocc", "flags", "done", "command"],
    budgets: () => upward(norm).map((t) => [String(t.eps), t.text]), start: () => String(state.block.headline.eps),
    note: () => "Ranked by the strongest adaptive attack per image at the chosen budget. Where the naive gain is far below it, the defence only looks robust to those who do not know it.",
    rows: () => empiricalRows(norm) })),
  { id: "efficiency", name: "Efficiency", columns: ["rank", "defense", "cost", "kept", "pass", "forwards", "gain", "srocc", "flags", "command"],
    rule: "efficiency", note: () => ruled("efficiency") ? `Ranked by the forwards of one score, among the defences that remove enough of the undefended gain and keep enough of its accuracy (the details of a row say why it has no place).` : `What the robustness costs: how much of the undefended gain is left at ${state.block.headline.text}, and how long a pass through the defence takes. Times are of the machine of the run.`,
    rows: efficiency },
];
const trackNow = () => TRACKS.find((track) => track.id === state.track);
const startOf = (track) => {
  const budgets = track.budgets();
  const chosen = state.budget[track.id] ?? track.start();
  return budgets.some(([id]) => id === chosen) ? chosen : budgets.length ? budgets[0][0] : "";
};

function common(row) {
  return { base: row, defense: row.defense, srocc: row.srocc_clean, attacked: row.srocc_attacked, rscore: row.rscore_mean,
    gain: row.worst_gain_mean, lo: row.worst_gain_lo, hi: row.worst_gain_hi, delta: row.certified_delta_mean,
    ok: row.n_ok, planned: row.n_planned, pass: row.pass_ratio, ranked: row.rank !== null };
}

function overall() {
  return state.block.rows.map((row) => ({ ...common(row), rank: row.rank, rankLo: row.rank_lo, rankHi: row.rank_hi }));
}

function certifiedRows() {
  const eps = Number(startOf(trackNow()));
  const at = (curve, column) => curve?.[column][curve.eps.indexOf(eps)] ?? null;
  const rows = state.block.rows.flatMap((row) => {
    const [population, deployed] = ["population", "deployed"].map((kind) =>
      state.block.certified.find((c) => c.defense === row.defense && c.norm === "l2" && c.kind === kind && c.eps.includes(eps)));
    if (!population) return [];
    const broken = row.flags.includes("certificate-violated");
    const ok = at(population, "n_ok");
    const planned = at(population, "n_planned");
    return [{ ...common(row), delta: at(population, "certified_delta_mean"), deployed: at(deployed, "certified_delta_mean"),
      found: at(population, "empirical_shift_worst_mean"), tight: at(population, "tightness_max"), violations: at(population, "violations"),
      vacuous: at(population, "vacuous_share"), forwards: population.n, ok, planned, ranked: !broken && ok === planned && ok > 0 }];
  });
  return placed(rows, "delta");
}

function empiricalRows(norm) {
  const eps = startOf(trackNow());
  const threat = upward(norm).find((t) => String(t.eps) === eps);
  const rows = (threat?.rows ?? []).map((r) => {
    const row = rowOf(r.defense);
    const whole = r.n_adaptive === r.n_planned_adaptive && r.n_adaptive > 0;
    return { ...common(row), gain: r.adaptive_gain_mean, lo: r.adaptive_gain_lo, hi: r.adaptive_gain_hi, naive: r.naive_gain_mean,
      rscore: r.rscore_mean, ok: r.n_adaptive, planned: r.n_planned_adaptive, ranked: whole && row.n_ok === row.n_planned };
  });
  return placed(rows, "gain");
}

function efficiency() {
  const plain = state.block.rows.find((row) => row.defense === "none")?.worst_gain_mean;
  const rows = state.block.rows.map((row) => ({ ...common(row), kept: finite(plain) && plain > 0 && finite(row.worst_gain_mean) ? row.worst_gain_mean / plain : null,
    forwards: state.block.certified.find((c) => c.defense === row.defense)?.n ?? null }));
  return placed(rows, "kept");
}

/** Places by a figure, smallest first; equal figures share one. */
function placed(rows, key) {
  const figures = rows.filter((r) => r.ranked && finite(r[key])).map((r) => r[key]);
  return rows.map((r) => ({ ...r, rank: r.ranked && finite(r[key]) ? 1 + figures.filter((x) => x < r[key]).length : null }));
}

const ruled = (name) => Object.keys(state.block.tracks[name]?.rows ?? {}).length > 0;

/** The places of the board's own rules, at the budget that they are for; other budgets keep those by their figures. */
function byRules(rows, track) {
  const rules = track.rule && state.block.tracks[track.rule];
  if (!rules || !ruled(track.rule) || (track.budgets && startOf(track) !== String(rules.eps))) return rows;
  return rows.flatMap((r) => {
    const mine = rules.rows[r.defense];
    if (!mine) return track.id === "efficiency" ? [] : [{ ...r, rank: null }];
    return [{ ...r, rank: mine.rank, rankLo: mine.rank_lo, rankHi: mine.rank_hi, reason: mine.reason, cost: track.id === "efficiency" ? mine.value : null }];
  });
}

function rankCell(r) {
  if (r.rank === null || r.rank === undefined) return r.reason ? h("span", { title: `no place: ${r.reason}` }, "–") : "–";
  return finite(r.rankLo) && finite(r.rankHi) && r.rankLo !== r.rankHi ? `${r.rank} (${r.rankLo}–${r.rankHi})` : String(r.rank);
}

function sorted(rows, track) {
  const by = state.sort[track.id] ?? { key: "rank", down: false };
  const figure = (r) => (by.key === "defense" ? r.defense : by.key === "flags" ? r.base.flags.length : by.key === "done" ? value(r.ok) / value(r.planned) : value(r[by.key]));
  const order = rows.map((row) => ({ row, x: figure(row) }));
  order.sort((a, b) => {
    const missing = (x) => x === null || x === undefined || Number.isNaN(x);
    if (missing(a.x) || missing(b.x)) return missing(a.x) - missing(b.x); // what is not there stays at the end
    const step = typeof a.x === "string" ? a.x.localeCompare(b.x, "en") : a.x - b.x || 0;
    return by.down ? -step : step;
  });
  return order.map((o) => o.row);
}

function passes(r) {
  if (state.hidden.has(r.base.kind)) return false;
  const text = [r.defense, r.base.kind, ...r.base.flags].join(" ").toLowerCase();
  return state.filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** An interval on the column's common scale. */
function range(r, most) {
  if (!finite(r.gain) || !finite(r.lo) || !finite(r.hi) || !(most > 0)) return null;
  const x = (v) => (118 * Math.max(0, Math.min(v, most))) / most;
  const rule = h("path", { svg: true, d: `M0 6H118`, "stroke-width": 1 });
  rule.style.stroke = "var(--line)";
  const bar = h("path", { svg: true, d: `M${x(r.lo)} 6H${Math.max(x(r.hi), x(r.lo) + 1)}`, "stroke-width": 4 });
  bar.style.stroke = `color-mix(in srgb, var(--${r.base.kind}) 45%, transparent)`;
  const dot = h("circle", { svg: true, cx: x(r.gain), cy: 6, r: 3.2 });
  dot.style.fill = `var(--${r.base.kind})`;
  return h("svg", { class: "range", viewBox: "0 0 118 12", "aria-hidden": "true" }, rule, bar, dot);
}

function cell(key, r, most) {
  const column = COLUMN[key];
  if (key === "defense") {
    const open = state.open.has(r.defense);
    const parameters = r.defense.startsWith(`${r.base.label}[`) ? r.defense.slice(r.base.label.length) : null;
    return h("th", { scope: "row", class: "sticky left" }, h("div", { class: "defense" },
      h("button", { type: "button", "aria-expanded": String(open), "aria-label": `Details of ${r.defense}`, "data-open": r.defense, onclick: () => toggle(r.defense) }, open ? "▾" : "▸"),
      kindMark(r.base.kind), h("b", {}, r.base.label), parameters ? h("small", {}, breakable(parameters)) : null));
  }
  if (key === "flags") {
    return h("td", { class: "flags-cell" }, r.base.flags.map((flag) => h("a", { class: "flag", href: `#flag-${flag.split(":")[0]}`, title: flag }, flag.split("@")[0])));
  }
  if (key === "command") {
    if (!r.base.command) return h("td", {}, "–");
    const button = h("button", { type: "button", class: "quiet", title: r.base.command, "aria-label": `Copy the command for ${r.defense}` }, "Copy");
    button.addEventListener("click", () => copy(r.base.command, button));
    return h("td", {}, button);
  }
  const text = column.cell ? column.cell(r) : show(r[key], column.digits ?? 3);
  const best = column.small !== null && key !== "rank" && finite(r[key]) && r[key] === r.best[key];
  return h("td", { class: best ? "best" : null, title: best ? "best of the column" : null }, text, column.range && interval(r) ? [h("span", { class: "small gain-range" }, `\u2002${interval(r)}`), range(r, most)] : null);
}

function details(r, width) {
  const row = r.base;
  const checked = state.block.checked[r.defense];
  const facts = [["PLCC", show(row.plcc_clean)], ["KROCC", show(row.krocc_clean)], ["RMSE", show(row.rmse_clean)],
    ["SROCC, 95 %", finite(row.srocc_clean_lo) ? `${show(row.srocc_clean_lo)} to ${show(row.srocc_clean_hi)}` : "–"],
    ["PLCC attacked", show(row.plcc_attacked)], ["Kind", KINDS[row.kind].name],
    ["auto-iqa, the standard attack", row.standard === null || row.standard === undefined ? "–" : row.standard ? "ran" : "did not run"],
    ["Reliability checks", checked ? `${checked.done} done${checked.left_out.length ? `, ${checked.left_out.length} could not be` : ""}` : "not done"]];
  if (r.reason) facts.push(["No place in this track", r.reason]);
  for (const name of ["claimed", "verified", "best_known", "authors", "paper", "code", "licence"]) if (row[name]) facts.push([name.replace("_", " "), String(row[name])]);
  const box = h("div", { class: "details-box" }, h("code", {}, r.defense),
    h("dl", {}, facts.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))),
    row.plcc_note ? h("p", { class: "small" }, `No logistic fit: ${row.plcc_note}.`) : null);
  if (row.command) {
    const button = h("button", { type: "button" }, "Copy");
    button.addEventListener("click", () => copy(row.command, button));
    box.append(h("div", { class: "command" }, h("code", {}, row.command), button));
  } else {
    box.append(h("p", { class: "small" }, "No command: a name in it could not be pasted into a terminal safely."));
  }
  return h("tr", { class: "details" }, h("td", { colspan: width }, box));
}

function toggle(defense) {
  if (!state.open.delete(defense)) state.open.add(defense);
  drawBoard();
  [...$("board").querySelectorAll("[data-open]")].find((b) => b.dataset.open === defense)?.focus();
}

function sortBy(key, track) {
  const by = state.sort[track.id] ?? { key: "rank", down: false };
  state.sort[track.id] = { key, down: by.key === key ? !by.down : COLUMN[key].small === false };
  drawBoard();
  $("board").querySelector(`[data-key="${key}"]`).focus();
}

function drawBoard() {
  const track = trackNow();
  const budgets = track.budgets ? track.budgets() : [];
  $("budget-box").hidden = !track.budgets;
  if (track.budgets) fill($("budget"), budgets, startOf(track));
  $("track-note").textContent = track.note();
  const all = byRules(track.rows(), track);
  const best = {};
  for (const key of track.columns) {
    const figures = all.map((r) => value(r[key])).filter(Number.isFinite);
    const first = COLUMN[key].small ? Math.min(...figures) : Math.max(...figures);
    if (figures.filter((x) => x === first).length * 2 < figures.length) best[key] = first; // what most of them reach is no distinction
  }
  const rows = sorted(all.filter(passes), track).map((r) => ({ ...r, best }));
  const most = Math.max(...all.map((r) => (finite(r.hi) ? r.hi : 0)));
  const by = state.sort[track.id] ?? { key: "rank", down: false };
  const columns = track.columns.filter((key) => ["rank", "defense", "done", "command"].includes(key) || (key === "flags" && all.some((r) => r.base.flags.length)) || all.some((r) => value(r[key]) !== null));
  const head = columns.map((key) => {
    const column = COLUMN[key];
    const mine = by.key === key;
    const sort = mine ? (by.down ? "descending" : "ascending") : "none";
    const inside = key === "command" ? h("span", { class: "hidden" }, "Command")
      : h("button", { type: "button", "data-key": key, title: column.title, onclick: () => sortBy(key, track) }, column.head, h("span", { class: "arrow", "aria-hidden": "true" }, mine ? (by.down ? " ↓" : " ↑") : ""));
    return h("th", { scope: "col", "aria-sort": key === "command" ? null : sort, class: [column.left ? "left" : "", key === "defense" ? "sticky" : ""].join(" ") }, inside);
  });
  const body = rows.flatMap((r) => [h("tr", { class: "row", "data-defense": r.defense }, columns.map((key) => cell(key, r, most))),
    ...(state.open.has(r.defense) ? [details(r, columns.length)] : [])]);
  const empty = h("tr", {}, h("td", { colspan: columns.length, class: "left" }, all.length ? "No defence fits the filter." : "The run has no results for this track."));
  $("board").replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body.length ? body : empty)));
  $("count").textContent = rows.length === all.length ? `${all.length} rows` : `${rows.length} of ${all.length} rows`;
}

function drawTabs() {
  const tabs = TRACKS.map((track) => h("button", { type: "button", role: "tab", id: `tab-${track.id}`, "aria-controls": "track",
    onclick: () => chooseTrack(track.id), onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const place = TRACKS.findIndex((t) => t.id === state.track);
      const next = step ? (place + step + TRACKS.length) % TRACKS.length : event.key === "Home" ? 0 : event.key === "End" ? TRACKS.length - 1 : null;
      if (next === null) return;
      event.preventDefault();
      chooseTrack(TRACKS[next].id);
      $(`tab-${TRACKS[next].id}`).focus();
    } }, track.name));
  $("tracks").replaceChildren(...tabs);
}

function chooseTrack(id) {
  state.track = id;
  for (const tab of $("tracks").children) {
    tab.setAttribute("aria-selected", String(tab.id === `tab-${id}`));
    tab.tabIndex = tab.id === `tab-${id}` ? 0 : -1;
  }
  $("track").setAttribute("aria-labelledby", `tab-${id}`);
  drawBoard();
}

function drawKinds() {
  const kinds = Object.keys(KINDS).filter((kind) => state.block.rows.some((row) => row.kind === kind));
  $("kinds").replaceChildren($("kinds").querySelector("legend"), ...kinds.map((kind) => h("button", { type: "button", "aria-pressed": String(!state.hidden.has(kind)),
    onclick: (event) => {
      if (!state.hidden.delete(kind)) state.hidden.add(kind);
      event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(kind)));
      drawBoard();
    } }, kindMark(kind), KINDS[kind].name)));
}
