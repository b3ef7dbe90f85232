// What a reader sees of the engine: a form, the pictures, and what one view adds. A view is one entry of VIEWS
// (examples.js); the directive {story-machine} writes its name into the page.

function build(root) {
  const view = VIEWS[root.dataset.view];
  const settings = JSON.parse(root.dataset.settings);
  const id = `story-machine-${++made}`;
  const lasting = { rate: 0.5, steps: 8, guidance: 5, layers: "up", apart: "words", picks: "random", ...view.fixed };
  storyMachine.configure({ base: settings.base, version: settings.version });

  // --- the story
  const text = element("textarea", { id: `${id}-text`, rows: 5, maxlength: 2000, spellcheck: "false", "aria-describedby": `${id}-hint ${id}-error` });
  const examples = select(`${id}-example`, "Take a story", Object.keys(EXAMPLES).map((name) => [name, name]), view.story);
  const hints = view.film
    ? ["In words of the book's world; the lists below have the most useful ones."]
    : [
        "One panel a line, at most eight, in words of the book's world. What follows # is the caption. [NC] before a line: nobody of the story is in that panel.",
        "Several characters have names: begin with a line for each, such as [Bo] a bear, then an empty line. In a panel write [Bo], or for two [Bo] left and [Mia] right.",
      ];
  const hint = element("p", { class: "sm-hint", id: `${id}-hint` }, ...hints.map((line) => element("span", {}, line)));
  const error = element("p", { class: "sm-error", id: `${id}-error`, role: "alert" });
  const write = (story) => {
    text.value = story;
    text.rows = Math.min(9, Math.max(2, story.split("\n").length + (view.film ? 0 : 1)));
    complain(null);
    follow();
  };
  const lists = pickLists(`${id}-pick`, settings.world, view.film ? "Draw this" : "Add this panel", (line) => {
    if (view.film) return void (write(line), run([{}], null));
    const before = text.value.trimEnd();
    const first = declared().length && !/\n\s*\n/.test(before); // behind the cast stands an empty line
    write(`${before}${before ? "\n" : ""}${first ? "\n" : ""}${line}`);
    say(`Added: ${line}`);
  }, declared);
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
    element("div", { class: "sm-fields" }, ...(view.film ? [] : [examples.row]), lists.row),
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

  /** Names that the story declares. */
  function declared() {
    const names = text.value.trimStart().split(/\n\s*\n/)[0].matchAll(/^\s*\[([^[\]#]+)\][^[\]#]*$/gm);
    return [...names].map((m) => nameOf(m[1])).filter((name) => name !== "NC");
  }
  /** Who can be picked follows the story, and whether there are two in a panel to be kept apart. */
  function follow() {
    lists.offer();
    if (!controls.apart) return;
    try {
      controls.apart.offer(readStory(text.value).characters.some((names) => names.length > 1));
    } catch {} // while it is being written
  }

  // --- what is wrong with the story
  function complain(problem) {
    error.replaceChildren(problem ? problem.message : "");
    text.toggleAttribute("aria-invalid", Boolean(problem && (problem.at || problem.word)));
    if (problem && problem.word && problem.at && problem.nearest !== null) {
      const mend = button(problem.nearest ? `Write "${problem.nearest}"` : `Leave out "${problem.word}"`, "sm-small");
      mend.addEventListener("click", () => {
        const [from, to] = problem.at;
        const rest = text.value.slice(to);
        write(text.value.slice(0, from) + problem.nearest + (problem.nearest ? rest : rest.trimStart()));
        text.focus();
      });
      error.append(" ", mend);
    }
  }
  /** Where a word of a panel stands in the text: in its line, or where it is said who somebody is. */
  function placeOf({ panel, word }, story) {
    const all = text.value.toLowerCase();
    const [begin, end] = story.at[panel];
    const inLine = all.slice(begin, end).indexOf(word);
    const from = inLine < 0 ? all.indexOf(word) : begin + inLine;
    return from < 0 ? null : [from, from + word.length];
  }

  // --- drawing
  let running = null;
  let again = false; // a slider has moved meanwhile
  let shown = []; // rows that stay
  let latest = null; // the row that is saved, and its options

  function optionsNow() {
    const value = (name) => (controls[name] ? controls[name].value() : lasting[name]);
    const options = Object.fromEntries(["rate", "steps", "guidance", "seed", "solver", "sameNoise", "layers", "apart", "picks"].map((n) => [n, value(n)]));
    options.layerNames = options.layers;
    options.guided = controls.allSteps && controls.allSteps.value() ? [0, 1] : undefined; // the model's own, which is not loaded yet
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
  const REGIONS = { regions: "regions", isolated: "isolated regions" };
  const VARIANTS = { scale: "scale forgotten", halves: "halves mixed", others: "only the others" };
  function describe(o, seconds) {
    const where = o.groups ? o.groups.join(", ") || "no layer" : o.layers;
    const parts = [
      view.film ? `guidance ${o.guidance}` : o.rate ? `rate ${o.rate}` : "rate 0: each panel for itself",
      ...(o.variant ? [VARIANTS[o.variant]] : []), ...(o.rate && !view.film ? [`layers: ${where}`] : []),
      ...(o.picks === "subject" && o.rate && o.rate < 1 ? ["picks of the subject"] : []), ...(o.regions ? [REGIONS[o.regions]] : []), `seed ${o.seed}`, ...(o.sameNoise ? ["same noise"] : []), ...(o.guided && o.guidance > 1 ? ["guided from beginning to end"] : []), `${o.steps} ${o.steps === 1 ? "step" : "steps"}`, ...(o.solver === "ddim" ? ["DDIM"] : []),
    ];
    return parts.join(" · ") + (seconds ? ` · ${seconds.toFixed(1)} s` : "");
  }

  async function drawRow(story, options, signal, told) {
    const { meta } = storyMachine;
    const side = meta.picture;
    const tags = story.prompts.map((_, i) => (options.rate ? standing(story, i, options.apart) : []));
    const where = (i) => (tags[i].length ? `; from left to right: ${tags[i].join(", ")}` : "");
    const labels = story.prompts.map((p, i) => `Panel ${i + 1}, drawn for: ${p}${where(i)}`);
    const title = (seconds) => describe({ ...options, regions: tags.some((t) => t.length) && options.apart }, seconds);
    const row = pictureRow(title(), labels, story.captions, side, "", tags);
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
      row.heading.textContent = title(result.seconds);
      return { row: { pictures: row.pictures, captions: story.captions, side, story }, options, seconds: result.seconds };
    } catch (problem) {
      shown = before;
      layOut();
      throw problem;
    } finally {
      row.box.removeAttribute("aria-busy");
    }
  }

  /** What a reader should know of a story that was drawn. */
  function notesOn(story, options) {
    const placed = options.apart === "words" && story.places.some((words) => words.length);
    const how = controls.apart ? ' Choose "regions" at "Two in one panel".' : "";
    return [...story.notes, ...(placed ? [`Words for places count only where each character has a part of the panel.${how}`] : [])];
  }

  /** Draws the story once with each of these settings. */
  async function run(changes, trigger) {
    if (running) return;
    let story;
    complain(null);
    try {
      story = readStory(text.value);
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
      say([`Drawn in ${took.toFixed(1)} seconds.`, ...notesOn(story, options)].join(" "));
      saveButton.hidden = false;
      if (maps) await maps.open(latest.row.pictures, latest.row.side, latest.options.steps);
    } catch (problem) {
      if (problem.code === "cancelled" || problem.code === "stopped") say("Cancelled.");
      else {
        say("");
        if (problem.word) {
          problem.at = placeOf(problem, story);
          const meant = story.notes.filter((note) => note.includes(`"${problem.word}" behind`)); // a place, perhaps
          problem.message = [problem.message, ...meant].join(" ");
        }
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
    follow();
  });
  if (controls.live) {
    const redraw = () => {
      if (!latest || !controls.live.value()) return;
      again = Boolean(running); // then it is drawn when that one has stopped
      if (running) running.abort();
      else run([{}], null);
    };
    for (const name of ["guidance", "steps", "seed", "allSteps"]) controls[name].input.addEventListener("change", redraw);
  }
}

storyMachine.readStory = readStory;
const start = () => document.querySelectorAll(".story-machine").forEach(build);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
