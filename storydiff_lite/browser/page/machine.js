// What a reader sees of the engine: a form, the pictures, and what one view adds. A view is one entry of VIEWS; the
// directive {story-machine} writes its name into the page.
(() => {
  "use strict";

  // ---------------------------------------------------------------- stories

  const EXAMPLES = {
    "The book that ends on the moon": `a bear waving in the forest # Good morning, forest!
a bear walking on the beach # A long way to the sea.
a bear reading a book in the snow # It starts to snow on page one.
a bear sitting on the moon # And that is how the book ends.`,
    "The balloon": `a girl holding a balloon in the city # A balloon, and nobody held it.
a girl jumping on the farm # It pulled a little.
a girl waving in the desert # Then it pulled more.
a girl sleeping in the bedroom # She told nobody.`,
    "An empty moon": `a robot walking in the city # Bolt had lost the way to the moon.
a robot reading a book in the desert # He looked it up.
[NC] an empty scene on the moon # It had been empty for so long.
a robot jumping on the moon # It was not any more.`,
    "A rabbit in a red outfit": `a white rabbit in a red outfit walking in the snow # Everything was white but the outfit.
a white rabbit in a red outfit reading a book in the forest # How to be found again.
a white rabbit in a red outfit sleeping on the beach # Nobody had looked.`,
    "Eight panels": `a cat sleeping in the bedroom
a cat walking in the city
a cat sitting on the farm
a cat jumping in the snow
a cat reading a book in the forest
a cat waving on the beach
a cat holding a balloon in the desert
a cat sleeping on the moon`,
  };
  const [FIRST] = Object.keys(EXAMPLES);
  const ONE = "a bear reading a book in the snow";
  const THREE = EXAMPLES[FIRST].split("\n").slice(0, 3).join("\n");

  const VIEWS = {
    tell: { name: "Tell your own story", story: FIRST, controls: ["rate", "seed"], both: true, fixed: { rate: 1, layers: "all", sameNoise: true } },
    guidance: { name: "Guidance and steps, live", text: ONE, controls: ["guidance", "steps", "seed", "live"], film: true, fixed: { rate: 0 } },
    attention: { name: "Consistent self-attention, live", text: THREE, controls: ["rate", "groups", "variant", "sameNoise", "seed"], both: true, keep: 4, fixed: { rate: 1, groups: ["down", "mid", "up"] } },
    maps: { name: "What your own story reads", text: THREE, controls: ["rate", "seed"], maps: true, fixed: { layers: "all" } },
    machine: { name: "Story machine", story: FIRST, controls: ["rate", "seed", "steps", "guidance", "layers", "solver", "sameNoise"], both: true, large: true, fixed: {} },
  };

  /** A story text -> {prompts, isolated, captions, offsets}; throws what is wrong with it, {message, at}. */
  function parseStory(text) {
    const story = { prompts: [], isolated: [], captions: [], offsets: [] };
    let at = 0;
    for (const line of text.split("\n")) {
      const begin = at;
      at += line.length + 1;
      if (!line.trim()) continue;
      const number = story.prompts.length + 1;
      const mark = line.search(/[#＃]/);
      const drawn = mark < 0 ? line : line.slice(0, mark);
      const alone = /^\s*\[\s*NC\s*\]\s*(?:(?::\s*|[–—-]\s+)+)?/.exec(drawn);
      const prompt = drawn.slice(alone ? alone[0].length : 0).split(/\s+/).filter(Boolean).join(" ");
      const bracket = /\[[^\]]*\]?|\]/.exec(prompt);
      if (bracket) {
        throw { message: `Panel ${number}: ${bracket[0]} cannot be drawn here. Say who it is, such as "a bear"; stories with named characters are told by Python's storydiff tell.`, at: [begin, begin + line.length] };
      }
      if (!prompt) throw { message: `Panel ${number} says nothing that could be drawn.`, at: [begin, begin + line.length] };
      story.prompts.push(prompt);
      story.isolated.push(Boolean(alone));
      story.captions.push(mark < 0 ? prompt : line.slice(mark + 1).trim());
      story.offsets.push(begin);
    }
    if (!story.prompts.length) throw { message: "The story is empty: write one panel a line.", at: [0, 0] };
    return story;
  }
  /** The same as `storydiff` reads it: every line has its caption, so that none is taken for a paragraph. */
  const asText = (s) => s.prompts.map((p, i) => `${s.isolated[i] ? "[NC] " : ""}${p} # ${s.captions[i]}`.trim()).join("\n");

  // ---------------------------------------------------------------- small things

  let made = 0; // machines so far, so that ids differ
  function element(tag, attributes = {}, ...children) {
    const e = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) e.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) e.setAttribute(name, value);
    }
    e.append(...children);
    return e;
  }
  const sequence = (n) => [...Array(n).keys()];
  const percent = (x) => (x > 0 && x < 0.01 ? "<1%" : `${Math.round(100 * x)}%`);
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  /** Writes RGBA pixels of side x side onto a canvas, as large as it is. */
  function paint(canvas, pixels, side) {
    const context = canvas.getContext("2d");
    if (canvas.width === side) return context.putImageData(new ImageData(pixels, side, side), 0, 0);
    const small = element("canvas", { width: side, height: side });
    small.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
  /** The i-th of several pictures in a row of RGBA pixels. */
  const pictureOf = (pixels, i, side) => pixels.slice(i * side * side * 4, (i + 1) * side * side * 4);

  // ---------------------------------------------------------------- PNG with its recipe

  const CRC = Int32Array.from({ length: 256 }, (_, n) => sequence(8).reduce((c) => (c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1), n));
  const crc = (bytes) => ~bytes.reduce((c, b) => CRC[(c ^ b) & 255] ^ (c >>> 8), -1) >>> 0;
  /** A PNG's bytes with an iTXt chunk more, behind its header (PNG specification, 11.3.3.4). */
  function withText(png, key, text) {
    const body = new TextEncoder().encode(`iTXt${key}\0\0\0\0\0${text}`);
    const chunk = new Uint8Array(body.length + 8);
    const view = new DataView(chunk.buffer);
    view.setUint32(0, body.length - 4);
    chunk.set(body, 4);
    view.setUint32(body.length + 4, crc(body));
    const header = 8 + 25; // the signature, and IHDR
    return [png.subarray(0, header), chunk, png.subarray(header)];
  }
  function wrapped(context, text, width) {
    const lines = [];
    let line = "";
    for (const word of text.split(" ")) {
      const longer = line ? `${line} ${word}` : word;
      if (line && context.measureText(longer).width > width) {
        lines.push(line);
        line = word;
      } else line = longer;
    }
    return [...lines, line];
  }
  /** Pictures and captions as a page of a comic, two in a row. */
  function comicCanvas({ pictures, captions, side }) {
    const [cell, edge, line] = [2 * side, 16, 22];
    const columns = Math.min(2, pictures.length);
    const canvas = element("canvas");
    const context = canvas.getContext("2d");
    const font = "16px 'DejaVu Sans', Verdana, sans-serif";
    context.font = font;
    const texts = captions.map((c) => wrapped(context, c, cell - 16));
    const rows = sequence(Math.ceil(pictures.length / columns)).map((r) =>
      cell + 12 + line * Math.max(...texts.slice(r * columns, (r + 1) * columns).map((t) => t.length)),
    );
    canvas.width = columns * (cell + edge) + edge;
    canvas.height = rows.reduce((a, b) => a + b + edge, edge);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    let y = edge;
    pictures.forEach((picture, i) => {
      const x = edge + (i % columns) * (cell + edge);
      const height = rows[Math.floor(i / columns)];
      context.fillStyle = "#fffae8";
      context.fillRect(x, y, cell, height);
      const canvasOf = element("canvas", { width: side, height: side });
      paint(canvasOf, picture, side);
      context.drawImage(canvasOf, x, y, cell, cell);
      context.strokeStyle = context.fillStyle = "#201a28";
      context.lineWidth = 2;
      context.strokeRect(x, y, cell, height);
      context.font = font;
      texts[i].forEach((text, k) => context.fillText(text, x + 8, y + cell + 20 + k * line));
      if (i % columns === columns - 1) y += height + edge;
    });
    return canvas;
  }
  /** What `storydiff retell` reads: tell/recipe.py. */
  function recipeOf(story, { rate, steps, guidance, sameNoise, layerNames, seed }) {
    const settings = {
      consistency: rate, num_inference_steps: steps, guidance_scale: guidance, same_noise: Boolean(sameNoise),
      layers: layerNames, generator: "portable",
    };
    return {
      version: 1,
      recipe: { story: asText(story), seed, model: "micro-int8", settings },
      made: { drawn_in: "browser", model: storyMachine.meta.weights },
    };
  }
  async function savePNG(row, options) {
    const canvas = comicCanvas(row);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    let pieces = [new Uint8Array(await blob.arrayBuffer())];
    if (options.retold) pieces = withText(pieces[0], "storydiff", JSON.stringify(recipeOf(row.story, options)));
    const link = element("a", { href: URL.createObjectURL(new Blob(pieces, { type: "image/png" })), download: "story.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---------------------------------------------------------------- the form

  /** Label and control, as one item; `value()` of what it gives. */
  function slider(id, label, { min, max, step, value, say = String }) {
    const input = element("input", { type: "range", id, min, max, step, value });
    const output = element("output", { for: id });
    const show = () => {
      output.textContent = say(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", show);
    show();
    return { input, row: element("div", { class: "sm-field" }, element("label", { for: id }, label), input, output), value: () => Number(input.value) };
  }
  function select(id, label, choices, value) {
    const options = choices.map(([v, text]) => element("option", { value: v, selected: v === value }, text));
    const input = element("select", { id }, ...options);
    return { input, row: element("div", { class: "sm-field" }, element("label", { for: id }, label), input), value: () => input.value };
  }
  function check(id, label, checked) {
    const input = element("input", { type: "checkbox", id });
    input.checked = checked;
    return { input, row: element("label", { for: id, class: "sm-check" }, input, ` ${label}`), value: () => input.checked };
  }
  /** Radios or checkboxes with one legend. */
  function choices(id, type, legend, items, on) {
    const inputs = items.map(([value, text]) => {
      const input = element("input", { type, name: id, id: `${id}-${value}`, value });
      input.checked = on.includes(value);
      return [input, element("label", { for: input.id, class: "sm-check" }, input, ` ${text}`)];
    });
    const row = element("fieldset", { class: "sm-choices" }, element("legend", {}, legend), ...inputs.map(([, label]) => label));
    return { input: row, row, value: () => inputs.filter(([input]) => input.checked).map(([input]) => input.value) };
  }
  function seedField(id) {
    const input = element("input", { type: "number", id, min: 0, max: 4294967295, step: 1, value: 0, inputmode: "numeric" });
    const again = element("button", { type: "button", class: "sm-small" }, "another");
    again.setAttribute("aria-label", "another seed");
    again.addEventListener("click", () => {
      input.value = Math.floor(Math.random() * 10000);
      input.dispatchEvent(new Event("change", { bubbles: true }));
    });
    const value = () => Math.min(4294967295, Math.max(0, Math.floor(Number(input.value)) || 0));
    return { input, row: element("div", { class: "sm-field" }, element("label", { for: id }, "Seed"), input, again), value };
  }
  const CONTROLS = {
    rate: (id, d) => slider(id, "Consistency", { min: 0, max: 1, step: 0.05, value: d.rate ?? 0.5, say: (v) => (v ? `rate ${v}` : "0, each panel for itself") }),
    seed: (id) => seedField(id),
    steps: (id) => slider(id, "Steps", { min: 1, max: 25, step: 1, value: 8 }),
    guidance: (id) => slider(id, "Guidance", { min: 1, max: 12, step: 0.5, value: 5, say: (v) => (v === 1 ? "1, none" : String(v)) }),
    layers: (id) => select(id, "Layers", [["up", "up-blocks, as released"], ["all", "all layers"], ["mid", "middle"], ["down", "down-blocks"]], "up"),
    solver: (id) => select(id, "Solver", [["unipc", "UniPC"], ["ddim", "DDIM"]], "unipc"),
    sameNoise: (id) => check(id, "all panels begin with the same noise", false),
    live: (id) => check(id, "draw again when a slider moves", true),
    groups: (id, d) => choices(id, "checkbox", "Layers in which panels read each other", [["down", "down"], ["mid", "middle"], ["up", "up"]], d.groups),
    variant: (id) =>
      choices(id, "radio", "Break it", [["right", "as it should be"], ["scale", "scale √d forgotten"], ["halves", "halves of guidance mixed"], ["others", "only the others' tokens, not its own"]], ["right"]),
  };

  /** Lists from which a panel is put together. */
  function pickLists(id, world, label, add) {
    const who = select(`${id}-who`, "Who", [...world.who, "an empty scene"].map((w) => [w, w]));
    const action = select(`${id}-action`, "does what", world.action.map((w) => [w, w]));
    const scene = select(`${id}-scene`, "where", world.scene.map((w) => [w, w]));
    const button = element("button", { type: "button", class: "sm-small" }, label);
    const nobody = () => who.value() === "an empty scene";
    who.input.addEventListener("change", () => (action.input.disabled = nobody()));
    button.addEventListener("click", () =>
      add(nobody() ? `[NC] an empty scene ${scene.value()}` : `${who.value()} ${action.value()} ${scene.value()}`),
    );
    return element("details", { class: "sm-pick" },
      element("summary", {}, "Pick a panel from lists"),
      element("div", { class: "sm-fields" }, who.row, action.row, scene.row, button));
  }

  // ---------------------------------------------------------------- pictures

  /** A row of pictures: a title, and a canvas for each. */
  function pictureRow(title, labels, captions, side, kind = "") {
    const canvases = labels.map((label) => element("canvas", { width: side, height: side, role: "img", "aria-label": label }));
    const heading = element("p", { class: "sm-title" }, title);
    const list = element("ol", { class: `sm-panels ${kind}` }, ...canvases.map((c, i) => element("li", {}, c, element("span", {}, captions[i]))));
    list.style.setProperty("--sm-count", labels.length);
    return { box: element("section", { class: "sm-row" }, heading, list), heading, list, canvases };
  }

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

  // ---------------------------------------------------------------- a machine

  function build(root) {
    const view = VIEWS[root.dataset.view];
    const settings = JSON.parse(root.dataset.settings);
    const id = `story-machine-${++made}`;
    const lasting = { rate: 0.5, steps: 8, guidance: 5, layers: "up", ...view.fixed };
    storyMachine.configure({ base: settings.base, version: settings.version });

    // --- the story
    const text = element("textarea", { id: `${id}-text`, rows: 5, maxlength: 2000, spellcheck: "false", "aria-describedby": `${id}-hint ${id}-error` });
    const examples = select(`${id}-example`, "Take a story", Object.keys(EXAMPLES).map((name) => [name, name]), view.story);
    const hint = element("p", { class: "sm-hint", id: `${id}-hint` },
      view.film
        ? "In words of the book's world; the lists below have the most useful ones."
        : "One panel a line, at most eight, in words of the book's world. What follows # is the caption. [NC] before a line: nobody of the story is in that panel.");
    const error = element("p", { class: "sm-error", id: `${id}-error`, role: "alert" });
    const write = (story) => {
      text.value = story;
      text.rows = Math.min(9, Math.max(2, story.split("\n").length + (view.film ? 0 : 1)));
      complain(null);
    };
    const lists = pickLists(`${id}-pick`, settings.world, view.film ? "Draw this" : "Add this panel", (line) => {
      if (view.film) return void (write(line), run([{}], null));
      write(`${text.value.trimEnd()}${text.value.trim() ? "\n" : ""}${line}`);
      say(`Added: ${line}`);
    });
    examples.input.addEventListener("change", () => write(EXAMPLES[examples.value()]));

    // --- controls, buttons, what is said
    const controls = Object.fromEntries(view.controls.map((name) => [name, CONTROLS[name](`${id}-${name}`, lasting)]));
    const button = (label, kind = "") => element("button", { type: "button", class: kind }, label);
    const load = storyMachine.ready ? "" : ` (loads ${megabytes(settings.bytes)})`;
    const drawButton = button(`Draw${load}`, "sm-main");
    const bothButton = button("Draw both: without and with");
    const cancelButton = button("Cancel");
    const saveButton = button("Save as PNG");
    const largeButton = button("Full screen");
    cancelButton.hidden = saveButton.hidden = true;
    bothButton.hidden = !view.both;
    largeButton.hidden = !(view.large && document.fullscreenEnabled);
    const progress = element("progress", { max: 1, value: 0, "aria-label": "progress of the drawing", hidden: true });
    const said = element("p", { class: "sm-said", role: "status" });
    const rows = element("div", { class: "sm-rows" });
    const maps = view.maps ? explorer(`${id}-map`) : null;
    const say = (message) => (said.textContent = message);

    root.setAttribute("role", "region");
    root.setAttribute("aria-label", view.name);
    const form = element("div", { class: "sm-form" },
      element("label", { for: text.id, class: "sm-label" }, view.film ? "What is drawn" : "The story"), text, error, hint,
      element("div", { class: "sm-fields" }, ...(view.film ? [] : [examples.row]), lists),
      element("div", { class: "sm-fields" }, ...Object.values(controls).map((c) => c.row)),
      element("div", { class: "sm-buttons" }, drawButton, bothButton, cancelButton, saveButton, largeButton));
    root.replaceChildren(form, element("div", { class: "sm-results" }, progress, said, rows, ...(maps ? [maps.box] : [])));
    write(view.text || EXAMPLES[view.story]);

    const lacks = storyMachine.missing();
    if (lacks) {
      error.textContent = lacks.message;
      drawButton.disabled = bothButton.disabled = true;
      return;
    }

    // --- what is wrong with the story
    function complain(problem) {
      error.replaceChildren(problem ? problem.message : "");
      text.toggleAttribute("aria-invalid", Boolean(problem && (problem.at || problem.word)));
      if (problem && problem.word && problem.nearest) {
        const mend = button(`Write "${problem.nearest}"`, "sm-small");
        mend.addEventListener("click", () => {
          const [from, to] = problem.at;
          write(text.value.slice(0, from) + problem.nearest + text.value.slice(to));
          text.focus();
        });
        error.append(" ", mend);
      }
    }
    /** Where a word of a panel stands in the text. */
    function placeOf({ panel, word }, story) {
      const from = text.value.toLowerCase().indexOf(word, story.offsets[panel]);
      return from < 0 ? null : [from, from + word.length];
    }

    // --- drawing
    let running = null;
    let again = false; // a slider has moved meanwhile
    let shown = []; // rows that stay
    let latest = null; // the row that is saved, and its options

    function optionsNow() {
      const value = (name) => (controls[name] ? controls[name].value() : lasting[name]);
      const options = Object.fromEntries(["rate", "steps", "guidance", "seed", "solver", "sameNoise", "layers"].map((n) => [n, value(n)]));
      options.layerNames = options.layers;
      if (controls.groups) {
        const groups = controls.groups.value();
        options.groups = groups;
        options.layerNames = options.layers = groups.length === 3 ? "all" : groups;
        if (!groups.length) Object.assign(options, { rate: 0, layerNames: "up" });
      }
      const variant = controls.variant ? controls.variant.value()[0] : "right";
      options.variant = variant === "right" ? null : variant;
      if (view.film) options.film = { panel: 0 };
      if (view.maps) options.record = { layer: "all", step: "all" };
      return options;
    }
    /** Groups of layers as the worker takes them: numbers. */
    function resolved(options) {
      const { layers, groups, layerNames, ...rest } = options;
      if (!Array.isArray(layers)) return { ...rest, layers };
      return { ...rest, layers: storyMachine.meta.layers.flatMap((l, i) => (layers.includes(l.group) ? [i] : [])) };
    }
    const VARIANTS = { scale: "scale forgotten", halves: "halves mixed", others: "only the others" };
    function describe(o, seconds) {
      const where = o.groups ? o.groups.join(", ") || "no layer" : o.layers;
      const parts = [
        view.film ? `guidance ${o.guidance}` : o.rate ? `rate ${o.rate}` : "rate 0: each panel for itself",
        ...(o.variant ? [VARIANTS[o.variant]] : []), ...(o.rate && !view.film ? [`layers: ${where}`] : []),
        `seed ${o.seed}`, ...(o.sameNoise ? ["same noise"] : []), `${o.steps} ${o.steps === 1 ? "step" : "steps"}`, ...(o.solver === "ddim" ? ["DDIM"] : []),
      ];
      return parts.join(" · ") + (seconds ? ` · ${seconds.toFixed(1)} s` : "");
    }

    async function drawRow(story, options, signal, told) {
      const { meta } = storyMachine;
      const side = meta.picture;
      const labels = story.prompts.map((p, i) => `Panel ${i + 1}, drawn for: ${p}`);
      const row = pictureRow(describe(options), labels, story.captions, side);
      row.box.setAttribute("aria-busy", "true");
      const before = shown;
      shown = view.keep ? [row, ...shown.slice(0, view.keep - 1)] : [...shown.filter((r) => r.fresh), row];
      row.fresh = true;
      let film = null;
      if (view.film) {
        const steps = sequence(options.steps).map((i) => `step ${i + 1}`);
        film = pictureRow("What is believed to be the finished picture, step by step", steps.map((s) => `Believed at ${s}`), steps, side, "sm-film");
      }
      row.all = film ? [film.box, row.box] : [row.box];
      const layOut = () => rows.replaceChildren(...shown.flatMap((r) => r.all));
      layOut();
      try {
        const result = await storyMachine.draw({ ...story, ...resolved(options) }, ({ step, steps, rough }) => {
          const small = meta.latent[2];
          row.canvases.forEach((canvas, i) => paint(canvas, pictureOf(rough, i, small), small));
          if (film) paint(film.canvases[step - 1], pictureOf(rough, 0, small), small);
          told(step / steps);
        }, signal);
        row.pictures = row.canvases.map((_, i) => pictureOf(result.pixels, i, side));
        row.canvases.forEach((canvas, i) => paint(canvas, row.pictures[i], side));
        if (film) film.canvases.forEach((canvas, i) => paint(canvas, pictureOf(result.film, i, side), side));
        row.heading.textContent = describe(options, result.seconds);
        return { row: { pictures: row.pictures, captions: story.captions, side, story }, options, seconds: result.seconds };
      } catch (problem) {
        shown = before;
        layOut();
        throw problem;
      } finally {
        row.box.removeAttribute("aria-busy");
      }
    }

    /** Draws the story once with each of these settings. */
    async function run(changes, trigger) {
      if (running) return;
      let story;
      complain(null);
      try {
        story = parseStory(text.value);
        if (story.prompts.length > 8) throw { message: `The story has ${story.prompts.length} panels; at most eight can be drawn here.` };
      } catch (problem) {
        complain(problem);
        if (problem.at && trigger) {
          text.focus();
          text.setSelectionRange(...problem.at);
        }
        return;
      }
      running = new AbortController();
      const options = optionsNow();
      const had = document.activeElement === trigger;
      busy(true);
      if (had) cancelButton.focus();
      try {
        if (!storyMachine.ready) {
          say("Loading the model ...");
          await storyMachine.load(({ share }) => (progress.value = share));
          drawButton.textContent = "Draw";
        }
        if (running.signal.aborted) throw { code: "cancelled" };
        say(`Drawing ${story.prompts.length === 1 ? "a picture" : `${story.prompts.length} panels`} ...`);
        shown.forEach((r) => (r.fresh = false));
        let took = 0;
        for (const [i, change] of changes.entries()) {
          latest = await drawRow(story, { ...options, ...change }, running.signal, (share) => (progress.value = (i + share) / changes.length));
          took += latest.seconds;
        }
        say(`Drawn in ${took.toFixed(1)} seconds.`);
        saveButton.hidden = false;
        if (maps) await maps.open(latest.row.pictures, latest.row.side, latest.options.steps);
      } catch (problem) {
        if (problem.code === "cancelled" || problem.code === "stopped") say("Cancelled.");
        else {
          say("");
          if (problem.word) problem.at = placeOf(problem, story);
          complain(problem);
          if (problem.at && had) {
            text.focus();
            text.setSelectionRange(...problem.at);
          }
        }
      } finally {
        const back = document.activeElement === cancelButton;
        running = null;
        busy(false);
        if (back && trigger) trigger.focus();
      }
      if (again) {
        again = false;
        run([{}], null);
      }
    }
    function busy(now) {
      drawButton.disabled = bothButton.disabled = saveButton.disabled = now;
      cancelButton.hidden = progress.hidden = !now;
      progress.value = 0;
    }

    drawButton.addEventListener("click", () => run([{}], drawButton));
    bothButton.addEventListener("click", () => run([{ rate: 0, variant: null }, {}], bothButton));
    cancelButton.addEventListener("click", () => {
      if (running) running.abort();
      say("Stopping after this step ...");
    });
    saveButton.addEventListener("click", async () => {
      const retold = !latest.options.variant && latest.options.solver !== "ddim";
      await savePNG(latest.row, { ...latest.options, retold });
      say(retold ? "Saved. The picture carries its recipe: storydiff retell story.png draws it again." : "Saved, without a recipe: storydiff draws neither broken variants nor with DDIM.");
    });
    largeButton.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()));
    root.addEventListener("fullscreenchange", () => {
      largeButton.textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
    });
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run([{}], drawButton);
    });
    text.addEventListener("input", () => {
      if (error.textContent) complain(null);
    });
    if (controls.live) {
      const redraw = () => {
        if (!latest || !controls.live.value()) return;
        again = Boolean(running); // then it is drawn when that one has stopped
        if (running) running.abort();
        else run([{}], null);
      };
      for (const name of ["guidance", "steps", "seed"]) controls[name].input.addEventListener("change", redraw);
    }
  }

  const start = () => document.querySelectorAll(".story-machine").forEach(build);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
