// Draws stories in a worker: text -> ids -> U-Net with consistent self-attention, step by step -> pictures.
// It runs behind the text of onnxruntime-web, in one blob (engine.js says why). The same story, seed and settings
// give the pictures that `storydiff_lite` draws with generator="portable".

const state = { meta: null, sessions: {}, memory: null, recorded: null, cancelled: new Set(), helper: null };

/** An error in words that a reader understands; `code` says to the page which one. */
class PlainError extends Error {
  constructor(code, message, more = {}) {
    super(message);
    Object.assign(this, { code, ...more });
  }
}

/** Bytes of a text of 15 bits a character, from U+0100 on, unpacked. */
async function unpack([length, text], packing = "gzip") {
  const bytes = new Uint8Array(length + 2);
  let [bits, held, at] = [0, 0, 0];
  for (let i = 0; i < text.length; i++) {
    bits = ((bits << 15) | (text.charCodeAt(i) - 256)) & 0x7fffff;
    for (held += 15; held >= 8; ) bytes[at++] = bits >> (held -= 8);
  }
  const stream = new Blob([bytes.subarray(0, length)]).stream().pipeThrough(new DecompressionStream(packing));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function init({ parts, mjs, threads, graphs }, tell) {
  const meta = (state.meta = parts.meta);
  const Memory = WebAssembly.Memory; // the runtime keeps its memory to itself: remember it, to say how large it is
  WebAssembly.Memory = function (size) {
    return (state.memory = new Memory(size));
  };
  WebAssembly.Memory.prototype = Memory.prototype;
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = (await unpack(parts.wasm, meta.packing)).buffer;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([mjs], { type: "text/javascript" })) };
  for (const name of graphs) {
    tell({ ready: name });
    const graph = await unpack(parts[name], meta.packing);
    parts[name] = null; // not beside the session
    state.sessions[name] = await ort.InferenceSession.create(graph, {
      executionProviders: ["wasm"],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
    });
  }
  return { heap: heap() };
}
const heap = () => (state.memory ? state.memory.buffer.byteLength : 0);

/** Runs a graph on {input: [type, data, dims]}; the outputs named by `wanted`, as {output: data}. */
async function runGraph(name, feed, wanted) {
  const inputs = Object.fromEntries(Object.entries(feed).map(([k, [type, data, dims]]) => [k, new ort.Tensor(type, data, dims)]));
  const outputs = await state.sessions[name].run(inputs, wanted);
  const found = Object.fromEntries(wanted.map((k) => [k, outputs[k].data.slice()]));
  for (const k of wanted) outputs[k].dispose();
  return found;
}

/**
 * A second worker takes a share, where there are cores for it: the half of guidance without the prompt, which no
 * other half reads. `serve` is its side of the channel, `helped` the first worker's.
 */
function serve({ port }) {
  port.onmessage = async ({ data: { id, args } }) => {
    try {
      const result = await runGraph(...args);
      port.postMessage({ id, result }, Object.values(result).map((data) => data.buffer));
    } catch (error) {
      port.postMessage({ id, error: inWords(error) });
    }
  };
}
function helped({ port }) {
  const waiting = new Map();
  let calls = 0;
  port.onmessage = ({ data: { id, result, error } }) => {
    const { done, fail } = waiting.get(id);
    waiting.delete(id);
    if (error) fail(new PlainError(error.code, error.message));
    else done(result);
  };
  state.helper = (...args) =>
    new Promise((done, fail) => {
      waiting.set(++calls, { done, fail });
      port.postMessage({ id: calls, args });
    });
}

/** Lets messages in: `cancel` is one. */
const breathe = () => new Promise((done) => setTimeout(done));

/**
 * States [length, width] and pooled text [P] of the empty prompt and of all prompts, in this order. carried: for each
 * prompt null, or [short, phrase]: what it begins with, and the phrase of an earlier panel that is read there instead.
 */
async function encodePrompts(prompts, carried) {
  const { meta } = state;
  const every = ["", ...prompts, ...carried.filter(Boolean).map(([, phrase]) => phrase)];
  const ids = (pad) => ["int32", Int32Array.from(every.flatMap((p) => [...promptIds(p, meta, pad)])), [every.length, meta.length]];
  const { states, pooled } = await runGraph("text", { ids: ids(meta.pad_1), ids_2: ids(meta.pad_2) }, ["states", "pooled"]);
  const split = (data) => every.map((_, i) => data.slice((i * data.length) / every.length, ((i + 1) * data.length) / every.length));
  const found = { states: split(states), pooled: split(pooled) };
  const phrases = found.states.splice(prompts.length + 1);
  carried.forEach((texts, i) => {
    if (texts) found.states[i + 1] = inItsPlace(found.states[i + 1], phrases.shift(), ...texts.map((t) => wordIds(t, meta).length));
  });
  return found;
}
/** States of a prompt, those of its first words replaced by a phrase's (neighbours/carried.py); the end is cut off. */
function inItsPlace(states, phrase, short, long) {
  const width = states.length / state.meta.length;
  const out = new Float32Array(states.length);
  for (let i = 0; i < state.meta.length; i++) {
    const moved = Math.min(i - long + short, state.meta.length - 1);
    const from = i === 0 ? states : i <= long ? phrase : states;
    const at = i === 0 || i <= long ? i : moved;
    out.set(from.subarray(at * width, (at + 1) * width), i * width);
  }
  return out;
}
/** Texts of some rows as inputs of the U-Net; a row is a prompt's number, or -1 for the empty one. */
function textRows({ states, pooled }, rows) {
  const { length } = state.meta;
  const join = (parts) => {
    const out = new Float32Array(rows.length * parts[0].length);
    rows.forEach((row, i) => out.set(parts[row + 1], i * parts[0].length));
    return out;
  };
  return {
    states: ["float32", join(states), [rows.length, length, states[0].length / length]],
    pooled: ["float32", join(pooled), [rows.length, pooled[0].length]],
  };
}

/** Settings as they were meant, or a reason why they cannot be drawn. */
function checked(o) {
  const { meta } = state;
  const { prompts, rate = meta.defaults.rate, steps = meta.defaults.steps, guidance = meta.defaults.guidance } = o;
  const { seed = 0, solver = "unipc", layers = "up", variant = null, sameNoise = false } = o;
  const { apart = "words", picks = "random", guided = meta.defaults.guided } = o;
  const of = (key, nothing) => prompts.map((_, i) => (o[key] && o[key][i]) || nothing); // for every panel
  const told = { noCharacter: of("noCharacter", false), carried: of("carried", null) };
  for (const key of ["characters", "places", "described"]) told[key] = of(key, []);
  if (!["random", "subject"].includes(picks)) throw new PlainError("picks", `picks is "${picks}"; it must be "random" or "subject".`);
  if (!["words", "regions", "isolated"].includes(apart)) throw new PlainError("apart", `apart is "${apart}"; it must be "words", "regions" or "isolated".`);
  if (!prompts.length) throw new PlainError("empty", "The story is empty: write one panel a line.");
  if (prompts.length > 8) throw new PlainError("long", `The story has ${prompts.length} panels; this page draws at most 8.`);
  const wrong = unknownWord(prompts, meta.words);
  if (wrong) throw new PlainError("word", wordComplaint(wrong), wrong);
  for (const [i, prompt] of prompts.entries()) {
    const [short, phrase] = told.carried[i] || ["", ""];
    const many = wordIds(phrase + prompt.slice(short.length), meta).length;
    if (many > meta.length - 2) throw new PlainError("length", `Panel ${i + 1} is too long: ${many} tokens, and at most ${meta.length - 2} fit.`);
  }
  const names = meta.layers.map((_, l) => l);
  const chosen = new Set(
    Array.isArray(layers) ? layers : names.filter((l) => layers === "all" || meta.layers[l].group === layers),
  );
  if (variant === "others" && prompts.length - told.noCharacter.filter(Boolean).length > 1) {
    const least = Math.min(...[...chosen].map((l) => roundEven(rate * meta.layers[l].tokens)));
    if (!least) throw new PlainError("nothing", "With only the others' tokens there is nothing to read at rate 0: choose a higher rate.");
  }
  return { ...o, ...told, prompts, rate, steps, guidance, seed, solver, variant, sameNoise, apart, picks, guided, chosen };
}
function wordComplaint({ panel, word, nearest }) {
  const near = nearest === null ? " Choose words from the lists." : ` Did you mean "${nearest}"?`;
  const hint = nearest === "" ? ' Leave it out: "he walking", not "he is walking".' : near;
  return `Panel ${panel + 1}: this small model does not know the word "${word}".${hint}`;
}

async function draw(args, tell, cancelled) {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  const o = checked(args);
  const { meta } = state;
  const [panels, size] = [o.prompts.length, meta.latent.reduce((a, b) => a * b)];
  const halves = o.guidance > 1 ? 2 : 1;
  const text = await encodePrompts(o.prompts, o.carried);
  const groups = groupsOf(o).map((g) => ({ ...g, guided: runsOf(o, g, halves, text), unguided: runsOf(o, g, 1, text) }));
  const [from, to] = o.guided.map((share) => roundEven(share * o.steps));
  let x = new Float32Array(panels * size);
  for (let p = 0; p < panels; p++) x.set(panelNoise(o.seed, o.sameNoise ? 0 : p, size), p * size);
  // how much of each place's cross-attention fell on words, in the steps before
  o.maps = o.picks === "subject" && o.rate > 0 && o.rate < 1 ? o.prompts.map(() => new Float64Array(GRID * GRID)) : null;
  const solver = new SOLVERS[o.solver](o.steps, meta.alphas);
  const took = [];
  const film = [];
  state.recorded = o.record ? { maps: [], panels } : null;
  for (const [step, t] of timeSteps(o.steps).entries()) {
    await breathe();
    if (cancelled()) throw new PlainError("cancelled", "Cancelled.");
    const began = performance.now();
    const v = new Float32Array(panels * size);
    for (const g of groups) await predict(o, { ...g, runs: from <= step && step < to ? g.guided : g.unguided }, x, step, t, v);
    let clean;
    [x, clean] = solver.step(x, v, t);
    if (o.film) film.push(clean.slice(o.film.panel * size, (o.film.panel + 1) * size));
    took.push((performance.now() - began) / 1000);
    if (o.preview !== false) tell({ step: step + 1, steps: o.steps, rough: roughPicture(clean, meta), seconds: seconds() });
  }
  await breathe();
  if (cancelled()) throw new PlainError("cancelled", "Cancelled.");
  const began = performance.now();
  const pixels = await decode(x);
  const decoding = (performance.now() - began) / 1000;
  const strip = film.length ? await decode(Float32Array.from(film.flatMap((f) => [...f]))) : null;
  return { pixels, latents: x, film: strip, seconds: seconds(), stepSeconds: took, decoding, heap: heap() };
}

/** The calls of the U-Net that a step of a group takes: one for each half, the unconditional one first. */
function runsOf(o, group, halves, text) {
  const { meta } = state;
  const { panels } = group;
  const nothing = panels.map(() => -1);
  const mixed = o.variant === "halves"; // they read each other
  const calls = halves === 1 ? [panels] : mixed ? [[...nothing, ...panels]] : [nothing, panels];
  return calls.map((rows) => {
    const own = rows.map((row) => (row < 0 ? null : regionWords(o, row)));
    const held = rows.length / panels.length;
    const words = ["float32", wordAnswers(group, own, meta.length), [rows.length, meta.length, group.parts]];
    const said = ["float32", saidWords(o, rows), [rows.length, meta.length]];
    const inputs = { ...textRows(text, rows), said, words };
    for (const n of new Set(meta.layers.map(({ tokens }) => tokens))) {
      inputs[`r${n}`] = ["float32", regionInput(group, held, n), [rows.length, n, group.parts]];
    }
    return { halves: held, inputs };
  });
}
/** Which tokens of each row's text are words, Float32Array [rows * length]: 1 between begin and end, and else 0. */
function saidWords({ prompts, carried }, rows) {
  const { meta } = state;
  const out = new Float32Array(rows.length * meta.length);
  rows.forEach((panel, i) => {
    if (panel < 0) return;
    const [short, phrase] = carried[panel] || ["", ""];
    const many = wordIds(phrase + prompts[panel].slice(short.length), meta).length;
    out.fill(1, i * meta.length + 1, i * meta.length + 1 + many);
  });
  return out;
}
/** Which words of its prompt each region of a panel reads, or null where it has no regions. */
function regionWords({ prompts, described, apart, rate }, panel) {
  if (apart === "words" || !rate || described[panel].length < 2) return null;
  const { meta } = state;
  return ownWords(promptIds(prompts[panel], meta, meta.pad_1), described[panel].map((text) => wordIds(text, meta)));
}

/** The guided prediction of a group's panels at one step, written into v [panels, 4, h, w]. */
async function predict(o, group, x, step, t, v) {
  const { meta } = state;
  const { panels, runs } = group;
  const size = meta.latent.reduce((a, b) => a * b);
  const picks = meta.layers.map(({ tokens: n }, l) => {
    const k = roundEven(o.rate * n);
    const subject = (p) => (o.maps ? subjectTokens(o.maps[p], n) : null);
    return group.reads && k && o.chosen.has(l) ? panels.map((p) => pickTokens(o.seed, p, l, step, n, k, subject(p))) : null;
  });
  const wrong = o.variant === "scale" ? null : o.variant;
  const kept = keptLayers(o, step);
  const results = [];
  for (const [i, run] of runs.entries()) {
    const rows = run.halves * panels.length;
    const input = new Float32Array(rows * size);
    for (let row = 0; row < rows; row++) {
      const p = panels[row % panels.length];
      input.set(x.subarray(p * size, (p + 1) * size), row * size);
    }
    const feed = {
      x: ["float32", input, [rows, ...meta.latent]],
      t: ["float32", Float32Array.of(t), [1]],
      scale: ["float32", Float32Array.of(o.variant === "scale" ? 0 : 1), [1]],
      ...run.inputs,
    };
    const lists = meta.layers.map(({ tokens: n }, l) => readingLists(picks[l], n, group, run.halves, wrong));
    lists.forEach(({ data, width, answers }, l) => {
      feed[`i${l}`] = ["int32", data, [rows, width]];
      feed[`a${l}`] = ["float32", answers, [rows, width, group.parts]];
    });
    if (i < runs.length - 1 && state.helper) {
      results.push(state.helper("unet", feed, ["v"])); // meanwhile the other half is computed here
      continue;
    }
    const last = i === runs.length - 1;
    const shares = last && o.maps ? state.sessions.unet.outputNames.filter((name) => /^s\d+$/.test(name)) : [];
    const mapped = last && run.halves === 1 ? kept : []; // halves mixed: no map of one half alone
    const out = await runGraph("unet", feed, ["v", ...shares, ...mapped.flatMap((l) => [`q${l}`, `k${l}`])]);
    for (const name of shares) {
      const n = out[name].length / rows;
      panels.forEach((p, j) => {
        const row = rows - panels.length + j; // of the half with the prompt
        onGrid(out[name].subarray(row * n, (row + 1) * n)).forEach((share, place) => (o.maps[p][place] += share));
      });
    }
    for (const l of mapped) keepMap(o, group, step, l, lists[l], out[`q${l}`], out[`k${l}`]);
    results.push(out);
  }
  const predicted = (await Promise.all(results)).map((out) => out.v);
  const [without, withPrompt] = runs[0].halves === 2 ? halvesOf(predicted[0]) : [predicted[0], predicted.at(-1)];
  const scale = o.guidance > 1 ? o.guidance : 0;
  panels.forEach((p, i) => {
    for (let j = i * size; j < (i + 1) * size; j++) {
      v[p * size + j - i * size] = without[j] + scale * (withPrompt[j] - without[j]);
    }
  });
}
const halvesOf = (data) => [data.subarray(0, data.length / 2), data.subarray(data.length / 2)];

/** Layers whose queries and keys are kept in this step. */
function keptLayers(o, step) {
  if (!o.record || (o.record.step !== "all" && o.record.step !== step)) return [];
  return o.record.layer === "all" ? state.meta.layers.map((_, l) => l) : [o.record.layer];
}
/** Keeps queries and keys of the half with the prompt. */
function keepMap(o, group, step, layer, { data: lists, width, answers }, q, k) {
  const { panels } = group;
  const { tokens: n, heads } = state.meta.layers[layer];
  const scale = o.variant === "scale" ? 0 : 1;
  state.recorded.maps.push({ layer, step, held: panels, panels: panels.length, n, heads, lists, answers, width, q, k, scale, group });
}

/** What a token reads in a recorded layer and step: {shares Float32Array [panels * n], n}. */
function map({ layer, step, panel, token }) {
  const found = state.recorded && state.recorded.maps.find((m) => m.layer === layer && m.step === step && m.held.includes(panel));
  if (!found) throw new PlainError("map", "Nothing was recorded there: draw the story first.");
  const row = attentionMap(found, found.held.indexOf(panel), token);
  const shares = new Float32Array(state.recorded.panels * found.n);
  found.held.forEach((p, i) => shares.set(row.subarray(i * found.n, (i + 1) * found.n), p * found.n));
  return { shares, n: found.n };
}

/** Latents -> RGBA; at most four at once, so that a long story needs no more memory than a short one. */
async function decode(latents) {
  const { meta } = state;
  const size = meta.latent.reduce((a, b) => a * b);
  const [count, each] = [latents.length / size, meta.picture ** 2 * 4];
  const out = new Uint8ClampedArray(count * each);
  const part = async (run, from, to) => {
    for (let p = from; p < to; p += 4) {
      const some = latents.slice(p * size, Math.min(p + 4, to) * size);
      const feed = { latents: ["float32", some, [some.length / size, ...meta.latent]] };
      out.set(rgba((await run("decoder", feed, ["pixels"])).pixels, meta.picture), p * each);
    }
  };
  const mine = state.helper ? Math.ceil(count / 2) : count;
  await Promise.all([...(mine < count ? [part(state.helper, mine, count)] : []), part(runGraph, 0, mine)]);
  return out;
}

const MEMORY = /out of memory|bad_alloc|allocat|OOM|memory access out of bounds|failed to grow/i;
function inWords(error) {
  if (error instanceof PlainError) return { ...error, code: error.code, message: error.message };
  const said = String((error && error.message) || error);
  if (error instanceof RangeError || MEMORY.test(said)) return { code: "memory", message: "The browser's memory does not suffice for this story. Close other tabs, or draw fewer panels." };
  return { code: "failed", message: `The drawing failed: ${said.slice(0, 300)}` };
}

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) {
  const calls = { init, draw, map, serve, helped };
  self.onmessage = async ({ data: { id, call, args } }) => {
    if (call === "cancel") return void state.cancelled.add(args.id);
    const tell = (news) => self.postMessage({ id, news });
    try {
      self.postMessage({ id, result: await calls[call](args, tell, () => state.cancelled.has(id)) });
    } catch (error) {
      self.postMessage({ id, error: inWords(error) });
    }
    state.cancelled.delete(id);
  };
}
