// A slider over ready-made pictures. Native controls: the keyboard and screen readers know them.

function render({ model, el }) {
  const id = `consistency-slider-${++made}`;
  const labels = model.get("labels");
  const series = model.get("series");
  const slider = element("input", { type: "range", id, min: 0, max: labels.length - 1, step: 1 });
  const value = element("output", { for: id });
  const image = element("img", { width: model.get("width"), alt: "" });
  const note = element("figcaption", {});
  const choice = element("select", { id: `${id}-series` });
  series.forEach((name, i) => choice.append(element("option", { value: i }, name)));

  const controls = element("div", { class: "consistency-slider-controls" });
  controls.append(element("label", { for: id }, model.get("title")), slider, value);
  if (series.length > 1) {
    controls.append(element("label", { for: choice.id }, model.get("choice")), choice);
  }
  el.classList.add("consistency-slider");
  el.append(controls, element("figure", {}, image, note));

  function draw() {
    const i = model.get("index");
    const s = model.get("chosen");
    slider.value = i;
    slider.setAttribute("aria-valuetext", labels[i]);
    choice.value = s;
    value.textContent = labels[i];
    image.src = model.get("urls")[s][i];
    image.alt = model.get("alts")[s][i];
    note.textContent = model.get("notes")[s][i];
  }
  tie(model, { index: slider, chosen: choice }, draw);
}

export default { render };
