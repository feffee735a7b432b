"use strict";
// The gallery: one image behind every defence.
const shots = () => DATA.pictures.entries.filter((e) => e.metric === state.block.metric && e.dataset === state.block.dataset);

function drawGallery() {
  const mine = shots();
  $("gallery-tools").hidden = !mine.length;
  const images = [...new Set(mine.map((e) => e.image))];
  const chosen = fill($("gallery-image"), images.map((i) => [i, i]), $("gallery-image").value);
  const place = (e) => state.block.rows.findIndex((row) => row.defense === e.defense);
  $("gallery-grid").replaceChildren(...mine.filter((e) => e.image === chosen).sort((a, b) => place(a) - place(b)).map(shot));
}

function picture(place, text) {
  return h("img", { src: DATA.pictures.files[place], alt: text, loading: "lazy", decoding: "async" });
}

function shot(e) {
  const flip = $("gallery-view").value === "flip";
  const clean = picture(e.clean_file, `${e.image}, clean, score ${show(e.before, 1)}`);
  const attacked = picture(e.file, `${e.image}, attacked, score ${show(e.after, 1)}`);
  const scores = [h("figcaption", {}, "clean ", h("b", {}, show(e.before, 1))), h("figcaption", {}, "attacked ", h("b", {}, show(e.after, 1)))];
  const trio = h("div", { class: flip ? "trio one" : "trio" });
  if (flip) {
    const swap = (on) => { attacked.src = DATA.pictures.files[on ? e.file : e.clean_file]; caption.replaceChildren(on ? "attacked " : "clean ", h("b", {}, show(on ? e.after : e.before, 1))); button.setAttribute("aria-pressed", String(on)); };
    const caption = h("figcaption", { "aria-live": "polite" });
    const button = h("button", { type: "button", "aria-label": `${e.image} behind ${e.defense}: hold to see the attacked image`,
      onpointerdown: () => swap(true), onpointerup: () => swap(false), onpointerleave: () => swap(false), onblur: () => swap(false),
      onkeydown: (event) => { if (event.key === " " || event.key === "Enter") { event.preventDefault(); swap(true); } },
      onkeyup: () => swap(false) }, attacked);
    swap(false);
    trio.append(h("figure", {}, button, caption));
  } else {
    trio.append(h("figure", {}, clean, scores[0]), h("figure", {}, attacked, scores[1]),
      h("figure", {}, picture(e.difference_file, `difference around grey, times ${show(e.factor, 0)}`), h("figcaption", {}, `difference × ${show(e.factor, 0)}`)));
  }
  return h("article", { class: "shot" }, h("h3", {}, kindMark(kindOf(e.defense)), labelOf(e.defense)), trio,
    h("p", { class: "small" }, `gain ${show(e.gain)} · ${e.attack} · ${e.threat} · PSNR ${show(e.psnr, 1)} dB · SSIM ${show(e.ssim)} · ${e.width} × ${e.height}`, e.licence ? ` · ${e.licence}` : ""));
}
