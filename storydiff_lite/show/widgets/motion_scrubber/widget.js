// A motion, frame by frame: what happens, and what two sets of tokens are nearest to. Native controls.
const SVG = "http://www.w3.org/2000/svg";
const WIDE = 320;
const HIGH = 240;
const EDGE = 16;

function drawn(tag, attributes) {
  const e = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}

// Paths in units of the plane -> places in the drawing, all three with the same scale in both directions.
function fitted(paths) {
  const all = Object.values(paths).flat();
  const [xs, ys] = [0, 1].map((k) => all.map((p) => p[k]));
  const [x0, y0] = [Math.min(...xs), Math.min(...ys)];
  const spread = [Math.max(...xs) - x0, Math.max(...ys) - y0];
  const k = Math.min((WIDE - 2 * EDGE) / (spread[0] || 1), (HIGH - 2 * EDGE) / (spread[1] || 1));
  const left = (WIDE - k * spread[0]) / 2;
  const low = (HIGH + k * spread[1]) / 2;
  const put = ([x, y]) => [left + k * (x - x0), low - k * (y - y0)];
  return Object.fromEntries(Object.entries(paths).map(([name, points]) => [name, points.map(put)]));
}

function render({ model, el }) {
  const id = `motion-scrubber-${++made}`;
  const { clips, series } = model.get("view");
  const count = clips[0].shown.truth.length;
  const slider = element("input", { type: "range", id, min: 0, max: count - 1, step: 1 });
  const value = element("output", { for: id });
  const choice = element("select", { id: `${id}-clip` });
  clips.forEach((clip, i) => choice.append(element("option", { value: i }, clip.name)));
  const controls = element("div", { class: "motion-scrubber-controls" });
  controls.append(element("label", { for: choice.id }, "motion"), choice);
  controls.append(element("label", { for: id }, "frame"), slider, value);

  const images = {};
  const row = element("div", { class: "motion-scrubber-row" });
  for (const { key, label } of series) {
    images[key] = element("img", { alt: "" });
    const name = element("figcaption", { class: `motion-scrubber-${key}` }, label);
    row.append(element("figure", {}, images[key], name));
  }
  const plane = drawn("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "motion-scrubber-plane" });
  const figure = element("figure", {}, plane, element("figcaption", {}, model.get("view").plane));
  const note = element("p", { class: "motion-scrubber-note", "aria-live": "polite" });
  el.classList.add("motion-scrubber");
  el.append(controls, element("div", { class: "motion-scrubber-all" }, row, figure), note);

  let dots = {};
  let places = {};
  function drawPlane(clip) {
    places = fitted(clip.paths);
    plane.replaceChildren();
    plane.setAttribute("aria-label", clip.plane);
    for (const { key } of series) {
      const points = places[key].map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
      plane.append(drawn("polyline", { points, class: `motion-scrubber-path motion-scrubber-${key}` }));
    }
    for (const [k, text] of [[0, "start"], [count - 1, "end"]]) {
      const [x, y] = places.truth[k];
      plane.append(drawn("circle", { cx: x, cy: y, r: 3.5, class: "motion-scrubber-end" }));
      const label = drawn("text", { x: Math.min(WIDE - 34, x + 7), y: Math.max(12, y - 6) });
      label.textContent = text;
      plane.append(label);
    }
    dots = {};
    for (const { key } of series) {
      dots[key] = drawn("circle", { r: 6, class: `motion-scrubber-dot motion-scrubber-${key}` });
      plane.append(dots[key]);
    }
  }

  let chosen = -1;
  function draw() {
    const i = Math.min(model.get("index"), count - 1);
    const clip = clips[model.get("chosen")];
    if (chosen !== model.get("chosen")) {
      chosen = model.get("chosen");
      drawPlane(clip);
      for (const image of Object.values(images)) {
        image.src = clip.sprite;
        image.style.width = `${clip.side}px`;
        image.style.height = `${clip.side}px`;
      }
    }
    choice.value = chosen;
    slider.value = i;
    value.textContent = `${i + 1} of ${count}`;
    slider.setAttribute("aria-valuetext", `frame ${i + 1} of ${count}`);
    for (const { key } of series) {
      images[key].style.objectPosition = `-${clip.shown[key][i] * clip.side}px 0`;
      images[key].alt = clip.alts[key][i];
      dots[key].setAttribute("cx", places[key][i][0]);
      dots[key].setAttribute("cy", places[key][i][1]);
    }
    note.textContent = clip.notes[i];
  }
  tie(model, { index: slider, chosen: choice }, draw);
}

export default { render };
