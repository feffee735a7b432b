"use strict";
// Wiring: choices, theme, drawing.
function chooseBlock() {
  const [metric, dataset] = [$("metric").value, $("dataset").value];
  const fits = DATA.blocks.filter((b) => b.metric === metric);
  state.block = fits.find((b) => b.dataset === dataset) ?? fits[0];
  fill($("dataset"), [...new Set(fits.map((b) => b.dataset))].map((d) => [d, d]), state.block.dataset);
  state.open.clear();
  state.coloured = null;
  const b = state.block;
  $("unit").textContent = `R = ${finite(b.unit) ? String(+b.unit.toPrecision(4)) : "unknown"} (${b.unit_source}); ground truth: ${b.truth ?? "none"}`;
  fill($("trade-threat"), tradeThreats(), $("trade-threat").value);
  fill($("scatter-kind"), scatterChoices(), $("scatter-kind").value || `l2|${b.headline.certified_eps}|population`);
  const heat = b.heat.map((t) => [`${t.norm}|${t.eps}|${t.direction}`, threatName(t)]);
  fill($("heat-threat"), heat, $("heat-threat").value || `${b.headline.norm}|${b.headline.eps}|up`);
  drawKinds();
  chooseTrack(state.track);
  drawChips();
  drawGallery();
  redraw();
}

function theme() {
  const names = ["auto", "light", "dark"];
  const label = () => {
    const now = document.documentElement.dataset.theme ?? "auto";
    $("theme").querySelector("span").textContent = now;
    $("theme").setAttribute("aria-label", `Colours: ${now}${now === "auto" ? ", as the system has them" : ""}. Press to change.`);
    return now;
  };
  $("theme").addEventListener("click", () => {
    const next = names[(names.indexOf(label()) + 1) % names.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("robustiqa-theme", next);
    } catch {} // a browser may refuse storage to a local file
    label();
  });
  label();
}

function follow() {
  const links = new Map([...document.querySelectorAll("#nav a")].map((a) => [a.hash.slice(1), a]));
  const at = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (entry.isIntersecting) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-25% 0px -70% 0px" });
  for (const id of links.keys()) if ($(id)) at.observe($(id));
}

function start() {
  theme();
  if (!state.block) {
    for (const element of document.querySelectorAll("#choose, #track, #tracks, .plot")) element.hidden = true;
    return;
  }
  const metrics = [...new Set(DATA.blocks.map((b) => b.metric))];
  fill($("metric"), metrics.map((m) => [m, m]), metrics[0]);
  fill($("dataset"), DATA.blocks.filter((b) => b.metric === metrics[0]).map((b) => [b.dataset, b.dataset]));
  $("metric").addEventListener("change", chooseBlock);
  $("dataset").addEventListener("change", chooseBlock);
  $("filter").addEventListener("input", () => { state.filter = $("filter").value; drawBoard(); });
  $("budget").addEventListener("change", () => { state.budget[state.track] = $("budget").value; drawBoard(); });
  const plots = { "trade-plot": drawTrade, "certified-plot": drawCertified, "scatter-plot": drawScatter, "gains-plot": drawGains, "heat-plot": drawHeat };
  if ($("transfer-plot")) plots["transfer-plot"] = drawTransfer;
  for (const [id, drawer] of Object.entries(plots)) lazily(id, drawer);
  for (const [select, plot] of [["trade-threat", "trade-plot"], ["scatter-kind", "scatter-plot"], ["heat-threat", "heat-plot"]]) $(select).addEventListener("change", () => draw(plot));
  for (const id of ["gallery-image", "gallery-view"]) $(id).addEventListener("change", drawGallery);
  drawTabs();
  chooseBlock();
  follow();
  let before = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === before) return;
    before = window.innerWidth;
    clearTimeout(start.waiting);
    start.waiting = setTimeout(redraw, 150);
  });
  window.addEventListener("beforeprint", () => { for (const id of drawers.keys()) if (!seen.has(id)) draw(id); });
  document.documentElement.dataset.ready = "true";
}
start();
