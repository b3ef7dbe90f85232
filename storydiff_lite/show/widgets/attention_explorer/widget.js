// What a patch of one panel reads in all panels, and where a word lands. Maps travel with the page, packed by
// __init__.py: rows of codes 0..levels, value = top / 65535 * (code / levels)^2, deflated, in base64.

// viridis: one ramp from dark to light, the same order for every kind of colour vision and in grey
const RAMP = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((h) =>
  [0, 2, 4].map((i) => parseInt(h.slice(i, i + 2), 16)),
);
function colour(v) {
  const x = Math.min(0.9999, Math.max(0, v)) * (RAMP.length - 1);
  const [a, b] = [RAMP[Math.floor(x)], RAMP[Math.floor(x) + 1]];
  return a.map((c, i) => Math.round(c + (b[i] - c) * (x % 1)));
}

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function percent(share) {
  const p = 100 * share;
  return p > 0 && p < 1 ? `${p.toFixed(1)}%` : `${Math.round(p)}%`;
}
const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length;
const sequence = (n) => [...Array(n).keys()];

function render({ model, el }) {
  const id = `attention-explorer-${++made}`;
  let view, cache, grids, canvases, captions, pictures;
  let chosen = { panel: 0, cell: 0 }; // the patch that was chosen, by click or keyboard
  let pointed = null; // the patch under the pointer
  let word = 0;
  let drawing = 0;

  // ---------------------------------------------------------------- controls
  const modes = ["patch", "word"].map((m, i) => {
    const radio = element("input", { type: "radio", name: `${id}-mode`, id: `${id}-${m}`, value: m });
    radio.checked = i === 0;
    const text = m === "patch" ? "a patch, and what it reads" : "a word, and where it lands";
    return element("label", { for: radio.id }, radio, ` ${text}`);
  });
  const mode = () => (modes[0].querySelector("input").checked ? "patch" : "word");
  function slider(name, label) {
    const input = element("input", { type: "range", id: `${id}-${name}`, min: 0, step: 1, value: 0 });
    const output = element("output", { for: input.id });
    return { input, output, row: element("span", { class: "ae-field" }, element("label", { for: input.id }, label), input, output) };
  }
  function select(name, label) {
    const input = element("select", { id: `${id}-${name}` });
    return { input, row: element("span", { class: "ae-field" }, element("label", { for: input.id }, label), input) };
  }
  const rate = slider("rate", "Rate");
  const step = slider("step", "Step");
  const layer = select("layer", "Layer");
  const head = select("head", "Head");
  const plain = element("input", { type: "checkbox", id: `${id}-plain` });
  const words = element("div", { class: "ae-words", role: "group", "aria-label": "Words of the prompts" });
  const hint = element("p", { class: "ae-hint", id: `${id}-hint` });
  const panels = element("div", { class: "ae-panels" });
  const low = element("span", {}, "0");
  const high = element("span", {}, "");
  const dots = element("span", { class: "ae-key" });
  const legend = element("div", { class: "ae-legend" }, low, element("span", { class: "ae-ramp", "aria-hidden": "true" }), high, dots);
  const summary = element("p", { class: "ae-said", role: "status", "aria-live": "polite" });

  // ---------------------------------------------------------------- a story of one's own, with a kernel
  const own = element("textarea", { id: `${id}-own`, rows: 4, maxlength: 2000, spellcheck: "false" });
  const seed = element("input", { id: `${id}-seed`, type: "number", min: 0, value: 0 });
  const go = element("button", { type: "button" }, "Draw and record");
  const status = element("p", { class: "ae-told", role: "status" });
  const form = element(
    "div",
    { class: "ae-own" },
    element("label", { for: own.id }, "Your own story, one panel a line:"),
    own,
    element("span", { class: "ae-field" }, element("label", { for: seed.id }, "Seed"), seed, go),
    status,
  );
  form.hidden = true; // until a kernel has answered

  el.classList.add("attention-explorer");
  el.append(
    element("fieldset", { class: "ae-modes" }, element("legend", {}, "Show"), ...modes),
    element("div", { class: "ae-controls" }, rate.row, step.row, layer.row, head.row,
      element("label", { for: plain.id, class: "ae-field" }, plain, " pictures alone")),
    words,
    hint,
    panels,
    legend,
    summary,
    form,
  );

  // ---------------------------------------------------------------- the panels of a view
  const place = (cell) => {
    const columns = view.grid[1];
    return `row ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}`;
  };
  function build(next) {
    view = next;
    cache = new Map();
    grids = [];
    canvases = [];
    captions = [];
    pictures = [];
    const [rows, columns] = view.grid;
    panels.replaceChildren();
    panels.style.setProperty("--panels", view.prompts.length);
    view.prompts.forEach((prompt, p) => {
      const picture = element("img", { alt: "", draggable: "false" });
      const canvas = element("canvas", { width: columns * 40, height: rows * 40, "aria-hidden": "true" });
      const grid = element("div", {
        class: "ae-grid", role: "grid", "aria-label": `Patches of panel ${p + 1}: ${prompt}`, "aria-describedby": hint.id,
      });
      grid.style.setProperty("--columns", columns);
      for (let r = 0; r < rows; r++) {
        const row = element("div", { class: "ae-row", role: "row" });
        for (let c = 0; c < columns; c++) {
          const cell = element("div", {
            role: "gridcell", tabindex: -1, "aria-label": `panel ${p + 1}, row ${r + 1}, column ${c + 1}`,
          });
          cell.place = { panel: p, cell: r * columns + c };
          row.append(cell);
        }
        grid.append(row);
      }
      const bar = element("span", { class: "ae-bar", "aria-hidden": "true" }, element("i", {}), element("b", {}));
      const share = element("span", { class: "ae-share" });
      panels.append(
        element("figure", {},
          element("div", { class: "ae-picture" }, picture, canvas, grid),
          element("figcaption", {}, bar, share, element("span", { class: "ae-prompt" }, `${p + 1}. ${prompt}`))),
      );
      pictures.push(picture);
      canvases.push(canvas);
      grids.push(grid);
      captions.push({ bar, share });
    });
    for (const [control, values, start] of [[rate, view.rates, view.start.rate], [step, view.steps, view.start.step]]) {
      control.input.max = values.length - 1;
      control.input.value = start;
    }
    layer.input.replaceChildren(...view.layers.map((l, i) => element("option", { value: i }, l.label)));
    layer.input.value = view.start.layer;
    offerHeads();
    chosen = { panel: view.start.panel, cell: view.start.cell };
    pointed = null;
    word = view.start.word;
    words.replaceChildren(
      ...view.words.map((w, i) => {
        const button = element("button", { type: "button", "aria-pressed": "false" }, w);
        button.addEventListener("click", () => {
          word = i;
          draw();
        });
        return button;
      }),
    );
    rove();
    draw();
  }
  function offerHeads() {
    const before = head.input.value;
    const heads = ["mean", ...sequence(view.layers[layer.input.value].heads)];
    head.input.replaceChildren(
      ...heads.map((h) => element("option", { value: h }, h === "mean" ? "mean of all" : String(h))),
    );
    head.input.value = heads.map(String).includes(before) ? before : "mean";
  }
  const cellOf = ({ panel, cell }) => grids[panel].querySelectorAll("[role=gridcell]")[cell];
  function rove() {
    for (const cell of panels.querySelectorAll('[tabindex="0"]')) {
      cell.tabIndex = -1;
      cell.removeAttribute("aria-selected");
    }
    cellOf(chosen).tabIndex = 0; // one stop of the Tab key; arrows move from here
    cellOf(chosen).setAttribute("aria-selected", "true");
  }

  // ---------------------------------------------------------------- numbers of a view
  const heads = () => (head.input.value === "mean" ? sequence(view.layers[layer.input.value].heads) : [Number(head.input.value)]);
  function load(name) {
    const key = [rate.input.value, step.input.value, layer.input.value, name].join("/");
    if (!cache.has(key)) {
      cache.set(key, inflate(view.maps[rate.input.value][step.input.value][layer.input.value][name]));
    }
    return cache.get(key);
  }
  /** One row of packed maps [head][row][column], mean over the heads that are shown. */
  function readRow(codes, tops, rows, columns, row, levels) {
    const out = new Float32Array(columns);
    for (const h of heads()) {
      const r = h * rows + row;
      const top = (tops[2 * r] + 256 * tops[2 * r + 1]) / 65535;
      for (let x = 0; x < columns; x++) out[x] += top * (codes[r * columns + x] / levels) ** 2;
    }
    return out.map((v) => v / heads().length);
  }

  async function patchView(at) {
    const [f, p] = [view.prompts.length, view.grid[0] * view.grid[1]];
    const [codes, tops, mass, marks, peaks] = await Promise.all(["codes", "tops", "mass", "marks", "peaks"].map(load));
    const row = at.panel * p + at.cell;
    const shares = sequence(f).map((j) => mean(heads().map((h) => mass[((h * f + at.panel) * p + at.cell) * f + j] / 255)));
    const [height, width] = view.layers[layer.input.value].tokens;
    const n = height * width;
    const sampled = sequence(f).map((j) =>
      sequence(n).map((t) => (marks[(j * n + t) >> 3] >> (7 - ((j * n + t) & 7))) & 1),
    );
    const counts = sampled.map((s, j) => (j === at.panel ? n : s.reduce((a, b) => a + b, 0)));
    const all = counts.reduce((a, b) => a + b, 0);
    const lonely = shares[at.panel] > 0.999;
    const name = (j) => (j === at.panel ? "its own panel" : `panel ${j + 1}`);
    let text = `Patch ${place(at.cell)} of panel ${at.panel + 1} reads `;
    if (lonely) text += "its own panel only: at this rate, step and layer nothing is shared.";
    else {
      const order = [at.panel, ...sequence(f).filter((j) => j !== at.panel)];
      text += order.map((j) => `${percent(shares[j])} from ${name(j)}`).join(", ") + ". ";
      text += `An even look at all it can read would take ${percent(n / all)} from its own. `;
      // the strongest patch elsewhere, as measured before packing: [head, or mean][row] -> patch, share
      const h = head.input.value === "mean" ? view.layers[layer.input.value].heads : Number(head.input.value);
      const k = 4 * (h * f * p + row);
      const [where, share] = [peaks[k] + 256 * peaks[k + 1], (peaks[k + 2] + 256 * peaks[k + 3]) / 65535];
      text += `Elsewhere it reads most in ${place(where % p)} of panel ${Math.floor(where / p) + 1} (${percent(share)}).`;
    }
    const values = readRow(codes, tops, f * p, f * p, row, view.levels);
    return {
      values: sequence(f).map((j) => values.slice(j * p, (j + 1) * p)),
      sampled: sampled.map((s, j) => (j === at.panel || counts[j] === 0 || counts[j] === n || lonely ? null : { s, width, height })),
      every: !lonely && counts.every((c) => c === n),
      share: shares.map((s, j) => (j === at.panel || !lonely ? `${percent(s)}` : "not read")),
      bar: shares,
      even: lonely ? null : counts.map((c) => c / all),
      text,
      dark: at,
    };
  }

  async function wordView() {
    const [f, p] = [view.prompts.length, view.grid[0] * view.grid[1]];
    const [codes, tops] = await Promise.all(["wordCodes", "wordTops"].map(load));
    const values = readRow(codes, tops, view.words.length, f * p, word, view.wordLevels);
    const each = sequence(f).map((j) => (view.has[word][j] ? values.slice(j * p, (j + 1) * p) : null));
    const peaks = each.map((v) => v && v.reduce((best, x, c) => (x > v[best] ? c : best), 0));
    const found = sequence(f).filter((j) => each[j]);
    const text = found
      .map((j) => `in panel ${j + 1} most on ${place(peaks[j])} (${percent(each[j][peaks[j]])})`)
      .join(", ");
    return {
      values: each,
      sampled: each.map(() => null),
      share: each.map((v) => (v ? `${percent(mean([...v]))} on average` : "not in this prompt")),
      bar: each.map((v) => (v ? mean([...v]) : 0)),
      even: null,
      text: `“${view.words[word]}” lands ${text}. The shares are of a patch's attention to its whole prompt.`,
      dark: null,
    };
  }

  // ---------------------------------------------------------------- drawing
  function paint(canvas, values, top, sampled, at) {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const [rows, columns] = view.grid;
    const [w, h] = [canvas.width / columns, canvas.height / rows];
    if (values) {
      values.forEach((x, c) => {
        const v = Math.sqrt(x / (top || 1));
        pen.fillStyle = `rgba(${colour(v).join()}, ${0.45 + 0.4 * v})`;
        pen.fillRect((c % columns) * w, Math.floor(c / columns) * h, w, h);
      });
    }
    if (sampled) {
      const [dx, dy] = [canvas.width / sampled.width, canvas.height / sampled.height];
      sampled.s.forEach((on, t) => {
        if (!on) return;
        pen.beginPath();
        pen.arc(((t % sampled.width) + 0.5) * dx, (Math.floor(t / sampled.width) + 0.5) * dy, Math.min(dx, dy) * 0.16, 0, 7);
        pen.fillStyle = "#fff";
        pen.strokeStyle = "#000";
        pen.lineWidth = 1.5;
        pen.fill();
        pen.stroke();
      });
    }
    if (at !== null) {
      const [x, y] = [(at % columns) * w, Math.floor(at / columns) * h];
      for (const [style, line, inset] of [["#000", 7, 0], ["#fff", 3, 0]]) {
        pen.strokeStyle = style;
        pen.lineWidth = line;
        pen.strokeRect(x + inset + 3, y + inset + 3, w - 6, h - 6);
      }
    }
  }
  async function draw() {
    const turn = ++drawing;
    rate.output.value = view.rates[rate.input.value];
    step.output.value = view.steps[step.input.value];
    rate.input.setAttribute("aria-valuetext", rate.output.value);
    step.input.setAttribute("aria-valuetext", step.output.value);
    const patch = mode() === "patch";
    words.hidden = patch;
    for (const grid of grids) grid.hidden = !patch;
    hint.textContent = patch
      ? "Point at a patch or tap it; with the keyboard, Tab to the panels and move with the arrow keys (Page Up and Page Down: other panel)."
      : "Choose a word. The brighter a patch, the more of its attention goes to the word.";
    [...words.children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === word)));
    pictures.forEach((picture, p) => {
      const [url, alt] = [view.pictures[rate.input.value][p], `Panel ${p + 1}: ${view.prompts[p]}. Drawn at rate ${view.rates[rate.input.value]}.`];
      if (picture.getAttribute("src") !== url) picture.setAttribute("src", url);
      picture.alt = alt;
    });
    let shown;
    try {
      shown = await (patch ? patchView(pointed || chosen) : wordView());
    } catch (error) {
      summary.textContent = `The maps could not be unpacked: ${error.message}. A browser of 2023 or later can.`;
      return;
    }
    if (turn !== drawing) return; // something newer is on its way
    const top = Math.max(...shown.values.map((v) => (v ? Math.max(...v) : 0)));
    el.classList.toggle("ae-plain", plain.checked);
    canvases.forEach((canvas, p) => {
      paint(canvas, plain.checked ? null : shown.values[p], top, plain.checked ? null : shown.sampled[p],
        shown.dark && shown.dark.panel === p ? shown.dark.cell : null);
      const { bar, share } = captions[p];
      bar.querySelector("i").style.width = `${100 * shown.bar[p]}%`;
      const even = bar.querySelector("b");
      even.hidden = !shown.even;
      if (shown.even) even.style.left = `${100 * shown.even[p]}%`;
      share.textContent = shown.share[p];
    });
    high.textContent = `${percent(top)} ${patch ? "of its attention in one patch" : "of a patch's attention"}`;
    dots.hidden = !patch;
    dots.textContent = shown.sampled.some((s) => s)
      ? "Dots: tokens that the other panels may read. Mark on a bar: an even look."
      : shown.every
        ? "All tokens may be read. Mark on a bar: an even look."
        : "No panel reads another one.";
    summary.textContent = shown.text;
  }

  // ---------------------------------------------------------------- answers
  for (const { input } of [rate, step, layer, head]) {
    input.addEventListener("input", () => {
      if (input === layer.input) offerHeads();
      draw();
    });
  }
  plain.addEventListener("change", draw);
  for (const label of modes) label.querySelector("input").addEventListener("change", draw);
  panels.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch" || !event.target.place) return;
    pointed = event.target.place;
    draw();
  });
  panels.addEventListener("pointerleave", () => {
    if (!pointed) return;
    pointed = null;
    draw();
  });
  function choose(place, focus) {
    chosen = place;
    pointed = null;
    rove();
    if (focus) cellOf(chosen).focus({ preventScroll: true });
    draw();
  }
  panels.addEventListener("click", (event) => event.target.place && choose(event.target.place, true));
  panels.addEventListener("keydown", (event) => {
    if (!event.target.place || event.ctrlKey || event.altKey || event.metaKey) return;
    const [[rows, columns], f] = [view.grid, view.prompts.length];
    let { panel, cell } = event.target.place;
    let [r, c] = [Math.floor(cell / columns), cell % columns];
    if (event.key === "ArrowUp") r = Math.max(0, r - 1);
    else if (event.key === "ArrowDown") r = Math.min(rows - 1, r + 1);
    else if (event.key === "ArrowLeft") c -= 1;
    else if (event.key === "ArrowRight") c += 1;
    else if (event.key === "Home") c = 0;
    else if (event.key === "End") c = columns - 1;
    else if (event.key === "PageUp") panel = Math.max(0, panel - 1);
    else if (event.key === "PageDown") panel = Math.min(f - 1, panel + 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
    if (c < 0) [panel, c] = panel > 0 ? [panel - 1, columns - 1] : [0, 0]; // over the edge: the next panel
    if (c >= columns) [panel, c] = panel < f - 1 ? [panel + 1, 0] : [f - 1, columns - 1];
    choose({ panel, cell: r * columns + c }, true);
  });

  go.addEventListener("click", () => {
    status.textContent = "Drawing and recording. This takes a while …";
    go.disabled = true;
    model.set("query", { text: own.value, seed: Number(seed.value), count: ++drawing });
    model.save_changes();
  });
  function answered() {
    const answer = model.get("answer");
    if (!answer.alive) return;
    form.hidden = !answer.can_tell; // somebody is there
    go.disabled = false; // first: whatever comes next may fail
    status.textContent = answer.error || "";
    try {
      if (answer.view) build(answer.view);
    } catch (error) {
      status.textContent = `The new maps cannot be shown: ${error.message}`;
    }
  }
  model.on("change:answer", answered);
  model.on("change:view", () => build(model.get("view")));

  own.value = model.get("view").prompts.join("\n");
  build(model.get("view"));
  answered();
  greet(model);
}

export default { render };
