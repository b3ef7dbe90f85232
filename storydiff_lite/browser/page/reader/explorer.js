// Attention maps of the story that was just drawn.

const RAMP = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((h) =>
  [0, 2, 4].map((i) => parseInt(h.slice(i, i + 2), 16)));
function heat(v) {
  const x = Math.min(0.9999, Math.max(0, v)) * (RAMP.length - 1);
  const [a, b] = [RAMP[Math.floor(x)], RAMP[Math.floor(x) + 1]];
  return a.map((c, i) => c + (b[i] - c) * (x % 1));
}
/** Chapter 06: a token of the story just drawn, and what it reads. */
function explorer(id) {
  const layer = select(`${id}-layer`, "Layer", [["0", ""]]);
  const step = slider(`${id}-step`, "Step", { min: 1, max: 1, step: 1, value: 1 });
  const number = (name, label) => {
    const input = element("input", { type: "number", id: `${id}-${name}`, min: 1, max: 1, value: 1 });
    return { input, row: element("div", { class: "sm-field" }, element("label", { for: input.id }, label), input) };
  };
  const [panel, row, column] = [number("panel", "Token of panel"), number("row", "row"), number("column", "column")];
  const strip = element("div", {});
  const told = element("p", { class: "sm-said", role: "status" });
  const ramp = element("p", { class: "sm-legend" }, "0 ", element("span", { class: "sm-ramp", "aria-hidden": "true" }), " ", element("span", {}));
  const box = element("section", { class: "sm-explorer", hidden: true },
    element("p", { class: "sm-title" }, "What a token reads. Choose one by a click on a picture, or by numbers:"),
    element("div", { class: "sm-fields" }, layer.row, step.row, panel.row, row.row, column.row), strip, ramp, told);
  let story = null;
  const clamp = (input) => Math.min(Number(input.max), Math.max(1, Math.floor(Number(input.value)) || 1));
  const sideOf = () => Math.round(Math.sqrt(storyMachine.meta.layers[layer.value()].tokens));

  let wanted = 0;
  async function show() {
    const mine = ++wanted;
    const side = sideOf();
    [row, column].forEach(({ input }) => (input.max = side));
    const [p, r, c] = [panel, row, column].map(({ input }) => clamp(input) - 1);
    const { shares, n } = await storyMachine.map({ layer: Number(layer.value()), step: step.value() - 1, panel: p, token: r * side + c });
    if (mine !== wanted) return;
    const top = shares.reduce((a, b) => Math.max(a, b), 1e-9);
    const { pictures, side: large } = story;
    const cell = large / side;
    story.view.canvases.forEach((canvas, j) => {
      const pixels = new Uint8ClampedArray(pictures[j]);
      for (let i = 0; i < large * large; i++) {
        const token = Math.floor(Math.floor(i / large) / cell) * side + Math.floor((i % large) / cell);
        const grey = 0.299 * pixels[4 * i] + 0.587 * pixels[4 * i + 1] + 0.114 * pixels[4 * i + 2];
        heat(Math.sqrt(shares[j * n + token] / top)).forEach((v, k) => (pixels[4 * i + k] = 0.4 * grey + 0.6 * v));
      }
      paint(canvas, pixels, large);
      if (j === p) {
        const context = canvas.getContext("2d");
        for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
          context.strokeStyle = colour;
          context.lineWidth = width;
          context.strokeRect(c * cell, r * cell, cell, cell);
        }
      }
    });
    const parts = story.pictures.map((_, j) => percent(shares.subarray(j * n, (j + 1) * n).reduce((a, b) => a + b, 0)));
    story.view.list.querySelectorAll("span").forEach((span, j) => (span.textContent = `panel ${j + 1}: ${parts[j]}`));
    ramp.lastChild.textContent = percent(top);
    told.textContent = `The token in row ${r + 1}, column ${c + 1} of panel ${p + 1} reads ${parts.map((s, j) => `${s} from ${j === p ? "its own panel" : `panel ${j + 1}`}`).join(", ")}.`;
  }
  [layer, step, panel, row, column].forEach(({ input }) => input.addEventListener("change", show));

  return {
    box,
    async open(pictures, side, steps) {
      const { layers } = storyMachine.meta;
      const short = (name) => `${name.split("_")[0]} ${name.split(".transformer")[0].match(/\d+/g).join(".")}`;
      const before = box.hidden ? null : layer.value();
      const last = layers.map((l) => l.group).lastIndexOf("up");
      layer.input.replaceChildren(...layers.map((l, i) => element("option", { value: i, selected: i === Number(before ?? last) }, `${short(l.name)} (${Math.sqrt(l.tokens)} x ${Math.sqrt(l.tokens)} tokens)`)));
      step.input.max = steps;
      step.input.value = Math.ceil(steps / 2);
      step.input.dispatchEvent(new Event("input"));
      panel.input.max = pictures.length;
      [row, column].forEach(({ input }) => (input.value = Math.ceil(sideOf() / 2)));
      const labels = pictures.map((_, j) => `Attention that falls on panel ${j + 1}; the text below says how much`);
      const view = pictureRow("", labels, labels.map(() => ""), side, "sm-maps");
      view.heading.remove();
      view.canvases.forEach((canvas, j) =>
        canvas.addEventListener("click", (event) => {
          const place = canvas.getBoundingClientRect();
          panel.input.value = j + 1;
          row.input.value = 1 + Math.min(sideOf() - 1, Math.floor(((event.clientY - place.top) / place.height) * sideOf()));
          column.input.value = 1 + Math.min(sideOf() - 1, Math.floor(((event.clientX - place.left) / place.width) * sideOf()));
          show();
        }),
      );
      strip.replaceChildren(view.box);
      story = { pictures, side, view };
      box.hidden = false;
      await show();
    },
  };
}
