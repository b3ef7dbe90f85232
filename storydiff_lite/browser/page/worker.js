// Draws stories in a worker: text -> ids -> U-Net with consistent self-attention, step by step -> pictures.
// It runs behind the text of onnxruntime-web, in one blob (engine.js says why). The same story, seed and settings
// give the pictures that `storydiff_lite` draws with generator="portable".
"use strict";

// ---------------------------------------------------------------- text

/** Words as CLIP's tokenizer parts them: letters, single digits, runs of other marks. */
const splitWords = (text) => text.toLowerCase().match(/\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu) || [];

/** How many letters must be typed, dropped, changed or swapped to make one word of another. */
function editDistance(a, b) {
  let before = null;
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) next[j] = Math.min(next[j], before[j - 2] + 1);
    }
    [before, row] = [row, next];
  }
  return row[b.length];
}

/** The known word that is spelt most like this one, or null where none is near. */
function nearestWord(word, words) {
  let best = null;
  let least = Math.max(1, Math.ceil(word.length / 2)) + 1;
  for (const known of Object.keys(words)) {
    const far = /\p{L}/u.test(known) ? editDistance(word, known) : Infinity;
    if (far < least) [best, least] = [known, far];
  }
  return best;
}

/** What is wrong with the words of these prompts: null, or {panel (from 0), word, nearest}. */
function unknownWord(prompts, words) {
  for (const [panel, prompt] of prompts.entries()) {
    for (const word of splitWords(prompt)) {
      if (!Object.hasOwn(words, word)) return { panel, word, nearest: nearestWord(word, words) };
    }
  }
  return null;
}

/** Ids of a prompt, Int32Array [length]: begin, words, end, padding. */
function promptIds(prompt, meta, pad) {
  const inner = splitWords(prompt).flatMap((word) => meta.words[word]);
  const out = new Int32Array(meta.length).fill(pad);
  out.set([meta.bos, ...inner, meta.eos]);
  return out;
}

// ---------------------------------------------------------------- random numbers, the same as storydiff_lite/portable.py

/** Upper 32 bits of a product of two 32-bit numbers. */
function mulHigh(a, b) {
  const [ah, al, bh, bl] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const t = ah * bl + Math.floor((al * bl) / 65536);
  const u = al * bh + (t % 65536);
  return (ah * bh + Math.floor(t / 65536) + Math.floor(u / 65536)) >>> 0;
}

/** A block of four 32-bit words. Philox 4x32, 10 rounds: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). */
function philox(counter, key) {
  let [a, b, c, d] = counter;
  let [k, l] = key;
  for (let round = 0; round < 10; round++) {
    const [highA, lowA] = [mulHigh(0xd2511f53, a), Math.imul(0xd2511f53, a)];
    const [highC, lowC] = [mulHigh(0xcd9e8d57, c), Math.imul(0xcd9e8d57, c)];
    [a, b, c, d] = [highC ^ b ^ k, lowC, highA ^ d ^ l, lowA];
    k = (k + 0x9e3779b9) | 0;
    l = (l + 0xbb67ae85) | 0;
  }
  return [a >>> 0, b >>> 0, c >>> 0, d >>> 0];
}
const keyOf = (seed) => [seed % 2 ** 32 | 0, Math.floor(seed / 2 ** 32) % 2 ** 32 | 0];

/** Noise of deviation 1 of a panel, Float32Array [size]. */
function panelNoise(seed, panel, size) {
  const [key, out] = [keyOf(seed), new Float32Array(size)];
  for (let i = 0; i < size; i += 4) {
    const u = philox([i / 4, panel, 0, 0], key).map((word) => (word + 0.5) / 2 ** 32);
    for (const half of [0, 2]) {
      const r = Math.sqrt(-2 * Math.log(u[half]));
      out[i + half] = r * Math.cos(2 * Math.PI * u[half + 1]);
      out[i + half + 1] = r * Math.sin(2 * Math.PI * u[half + 1]);
    }
  }
  return out;
}

/** As Python rounds: halves to the even neighbour. */
function roundEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 ? below + 1 : below;
}

/** Tokens of a panel that the others may read (RandSample), Int32Array [K], rising. */
function pickTokens(seed, panel, layer, step, n, k) {
  const every = Int32Array.from({ length: n }, (_, t) => t);
  if (k === n) return every;
  const key = keyOf(seed);
  const keys = new Float64Array(n);
  for (let t = 0; t < n; t += 4) philox([t / 4, panel, 1 + layer, step], key).forEach((word, i) => (keys[t + i] = word));
  return every.sort((s, t) => keys[s] - keys[t] || s - t).slice(0, k).sort();
}

// ---------------------------------------------------------------- who reads what

/**
 * Which tokens each row of a U-Net call reads, {data: Int32Array [rows * width], width}.
 *
 * Rows are halves x panels, the unconditional half first; a token's number counts from the first row's first.
 * picks: of each panel, or null where the layer is plain. variant: null, or a mistake of chapter 05's "Break it".
 */
function readingLists(picks, n, panels, halves, variant) {
  const rows = halves * panels;
  const lists = [];
  for (let row = 0; row < rows; row++) {
    const half = Math.floor(row / panels);
    const list = [];
    if (variant !== "others" || !picks) for (let t = 0; t < n; t++) list.push(row * n + t);
    for (let other = 0; picks && other < rows; other++) {
      if (other === row || (variant !== "halves" && Math.floor(other / panels) !== half)) continue;
      for (const t of picks[other % panels]) list.push(other * n + t);
    }
    lists.push(list);
  }
  return { data: Int32Array.from(lists.flat()), width: lists[0].length };
}

// ---------------------------------------------------------------- solvers

/** Time steps of diffusers' "trailing" spacing, the noisiest first. */
const timeSteps = (steps) => Array.from({ length: steps }, (_, i) => roundEven(1000 - i * (1000 / steps)) - 1);

class DDIM {
  constructor(steps, alphas) {
    this.stride = Math.floor(1000 / steps);
    this.alphas = alphas;
  }
  /** Latents x and prediction v at time t -> the next latents, and what is believed to be the clean ones. */
  step(x, v, t) {
    const a = this.alphas[t];
    const before = t < this.stride ? 1 : this.alphas[t - this.stride];
    const [signal, noise, signalNext, noiseNext] = [a, 1 - a, before, 1 - before].map(Math.sqrt);
    const [clean, next] = [new Float32Array(x.length), new Float32Array(x.length)];
    for (let i = 0; i < x.length; i++) {
      clean[i] = signal * x[i] - noise * v[i];
      next[i] = signalNext * clean[i] + noiseNext * (signal * v[i] + noise * x[i]);
    }
    return [next, clean];
  }
}

/** UniPC of order 2, B2(h), predictor and corrector (Zhao et al. 2302.04867), as diffusers' UniPCMultistepScheduler. */
class UniPC {
  constructor(steps, alphas) {
    this.points = timeSteps(steps).map((t) => {
      const sigma = Math.fround(Math.sqrt((1 - alphas[t]) / alphas[t]));
      const alpha = 1 / Math.sqrt(1 + sigma * sigma);
      return { alpha, sigma: sigma * alpha, lambda: -Math.log(sigma) };
    });
    this.points.push({ alpha: 1, sigma: 0, lambda: Infinity });
    this.i = 0;
  }
  step(x, v) {
    const [i, n] = [this.i++, x.length];
    const here = this.points[i];
    const clean = new Float32Array(n);
    for (let j = 0; j < n; j++) clean[j] = here.alpha * x[j] - here.sigma * v[j];
    if (i > 0) x = this.correct(i, here, clean);
    const order = Math.min(2, this.points.length - 1 - i, i + 1);
    const next = this.points[i + 1];
    const h = next.lambda - here.lambda;
    const growth = Math.expm1(-h);
    const ratio = order === 2 ? (this.points[i - 1].lambda - here.lambda) / h : 1;
    const y = new Float32Array(n);
    for (let j = 0; j < n; j++) {
      const slope = order === 2 ? (0.5 * (this.clean[j] - clean[j])) / ratio : 0;
      y[j] = (next.sigma / here.sigma) * x[j] - next.alpha * growth * (clean[j] + slope);
    }
    Object.assign(this, { order, cleanBefore: this.clean, clean, x });
    return [y, clean];
  }
  /** The latents of this step again, now that the U-Net has said what it sees in them. */
  correct(i, here, clean) {
    const last = this.points[i - 1];
    const h = last.lambda - here.lambda;
    const growth = Math.expm1(h);
    let [older, newer, ratio] = [0, 0.5, 1];
    if (this.order === 2) {
      ratio = (this.points[i - 2].lambda - last.lambda) / -h;
      const phi = growth / h - 1;
      const [b1, b2] = [phi / growth, (2 * (phi / h - 0.5)) / growth];
      older = (b1 - b2) / (1 - ratio);
      newer = b1 - older;
    }
    const out = new Float32Array(clean.length);
    for (let j = 0; j < out.length; j++) {
      const before = this.order === 2 ? (older * (this.cleanBefore[j] - this.clean[j])) / ratio : 0;
      const step = this.clean[j] + before + newer * (clean[j] - this.clean[j]);
      out[j] = (here.sigma / last.sigma) * this.x[j] - here.alpha * growth * step;
    }
    return out;
  }
}
const SOLVERS = { unipc: UniPC, ddim: DDIM };

// ---------------------------------------------------------------- pictures

/** Rough colours of latents [panels, 4, h, w], RGBA [panels, h, w, 4]: a linear map, free of charge. */
function roughPicture(latents, meta) {
  const area = meta.latent[1] * meta.latent[2];
  const panels = latents.length / (4 * area);
  const { w, b } = meta.preview;
  const out = new Uint8ClampedArray(panels * area * 4).fill(255);
  for (let p = 0; p < panels; p++) {
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) {
        let sum = b[c];
        for (let k = 0; k < 4; k++) sum += w[k][c] * latents[(p * 4 + k) * area + i];
        out[(p * area + i) * 4 + c] = sum;
      }
    }
  }
  return out;
}

/** Pixels [panels, 3, side, side], 0..255, as RGBA [panels, side, side, 4]; halves round to even, as numpy's do. */
function rgba(pixels, side) {
  const area = side * side;
  const out = new Uint8ClampedArray((pixels.length / 3) * 4).fill(255);
  for (let i = 0; i < pixels.length; i++) {
    const [plane, at] = [Math.floor(i / area), i % area];
    out[(Math.floor(plane / 3) * area + at) * 4 + (plane % 3)] = pixels[i];
  }
  return out;
}

// ---------------------------------------------------------------- attention maps of what was recorded

/** What a token of a panel reads of all panels, mean over the heads, Float32Array [panels * n]; its sum is 1. */
function attentionMap({ q, k, lists, width, n, panels, heads, scale }, panel, token) {
  const c = q.length / (panels * n);
  const d = c / heads;
  const out = new Float32Array(panels * n);
  const list = lists.subarray(panel * width, (panel + 1) * width);
  const asks = (panel * n + token) * c;
  const factor = scale / Math.sqrt(d) + (1 - scale);
  for (let head = 0; head < heads; head++) {
    const scores = Float64Array.from(list, (key) => {
      let sum = 0;
      for (let i = head * d; i < (head + 1) * d; i++) sum += q[asks + i] * k[key * c + i];
      return sum * factor;
    });
    const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    const shares = scores.map((s) => Math.exp(s - top));
    const total = shares.reduce((a, b) => a + b, 0);
    list.forEach((key, i) => (out[key] += shares[i] / total / heads));
  }
  return out;
}

// ---------------------------------------------------------------- the worker

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

/** States [length, width] and pooled text [P] of the empty prompt and of all prompts, in this order. */
async function encodePrompts(prompts) {
  const { meta } = state;
  const every = ["", ...prompts];
  const ids = (pad) => ["int32", Int32Array.from(every.flatMap((p) => [...promptIds(p, meta, pad)])), [every.length, meta.length]];
  const { states, pooled } = await runGraph("text", { ids: ids(meta.pad_1), ids_2: ids(meta.pad_2) }, ["states", "pooled"]);
  const split = (data) => every.map((_, i) => data.slice((i * data.length) / every.length, ((i + 1) * data.length) / every.length));
  return { states: split(states), pooled: split(pooled) };
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
  const isolated = prompts.map((_, i) => Boolean(o.isolated && o.isolated[i]));
  if (!prompts.length) throw new PlainError("empty", "The story is empty: write one panel a line.");
  if (prompts.length > 8) throw new PlainError("long", `The story has ${prompts.length} panels; this page draws at most 8.`);
  const wrong = unknownWord(prompts, meta.words);
  if (wrong) throw new PlainError("word", wordComplaint(wrong), wrong);
  for (const [i, prompt] of prompts.entries()) {
    const many = splitWords(prompt).flatMap((word) => meta.words[word]).length;
    if (many > meta.length - 2) throw new PlainError("length", `Panel ${i + 1} is too long: ${many} tokens, and at most ${meta.length - 2} fit.`);
  }
  const names = meta.layers.map((_, l) => l);
  const chosen = new Set(
    Array.isArray(layers) ? layers : names.filter((l) => layers === "all" || meta.layers[l].group === layers),
  );
  if (variant === "others" && prompts.length - isolated.filter(Boolean).length > 1) {
    const least = Math.min(...[...chosen].map((l) => roundEven(rate * meta.layers[l].tokens)));
    if (!least) throw new PlainError("nothing", "With only the others' tokens there is nothing to read at rate 0: choose a higher rate.");
  }
  return { ...o, prompts, rate, steps, guidance, seed, solver, variant, sameNoise, isolated, chosen };
}
function wordComplaint({ panel, word, nearest }) {
  const hint = nearest ? ` Did you mean "${nearest}"?` : " Choose words from the lists.";
  return `Panel ${panel + 1}: this small model does not know the word "${word}".${hint}`;
}

/** Panels that go through the U-Net together: those that read each other, and those marked [NC], which read nobody. */
function groupsOf({ prompts, isolated, rate, chosen }) {
  const every = prompts.map((_, i) => i);
  if (!rate || !chosen.size) return [{ panels: every, reads: false }];
  const [together, alone] = [every.filter((i) => !isolated[i]), every.filter((i) => isolated[i])];
  return [
    { panels: together, reads: together.length > 1 },
    { panels: alone, reads: false },
  ].filter((g) => g.panels.length);
}

async function draw(args, tell, cancelled) {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  const o = checked(args);
  const { meta } = state;
  const [panels, size] = [o.prompts.length, meta.latent.reduce((a, b) => a * b)];
  const halves = o.guidance > 1 ? 2 : 1;
  const text = await encodePrompts(o.prompts);
  const groups = groupsOf(o).map((g) => ({ ...g, runs: runsOf(o, g.panels, halves, text) }));
  let x = new Float32Array(panels * size);
  for (let p = 0; p < panels; p++) x.set(panelNoise(o.seed, o.sameNoise ? 0 : p, size), p * size);
  const solver = new SOLVERS[o.solver](o.steps, meta.alphas);
  const took = [];
  const film = [];
  state.recorded = o.record ? { maps: [], panels } : null;
  for (const [step, t] of timeSteps(o.steps).entries()) {
    await breathe();
    if (cancelled()) throw new PlainError("cancelled", "Cancelled.");
    const began = performance.now();
    const v = new Float32Array(panels * size);
    for (const group of groups) await predict(o, group, x, step, t, v);
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
function runsOf({ variant }, panels, halves, text) {
  const nothing = panels.map(() => -1);
  if (halves === 1) return [{ halves: 1, text: textRows(text, panels) }];
  if (variant === "halves") return [{ halves: 2, text: textRows(text, [...nothing, ...panels]) }]; // they read each other
  return [nothing, panels].map((rows) => ({ halves: 1, text: textRows(text, rows) }));
}

/** The guided prediction of a group's panels at one step, written into v [panels, 4, h, w]. */
async function predict(o, group, x, step, t, v) {
  const { meta } = state;
  const { panels, runs } = group;
  const size = meta.latent.reduce((a, b) => a * b);
  const picks = meta.layers.map(({ tokens: n }, l) => {
    const k = roundEven(o.rate * n);
    return group.reads && k && o.chosen.has(l) ? panels.map((p) => pickTokens(o.seed, p, l, step, n, k)) : null;
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
      ...run.text,
    };
    const lists = meta.layers.map(({ tokens: n }, l) => readingLists(picks[l], n, panels.length, run.halves, wrong));
    lists.forEach((list, l) => (feed[`i${l}`] = ["int32", list.data, [rows, list.width]]));
    if (i < runs.length - 1 && state.helper) {
      results.push(state.helper("unet", feed, ["v"])); // meanwhile the other half is computed here
      continue;
    }
    const mapped = i === runs.length - 1 && run.halves === 1 ? kept : []; // halves mixed: no map of one half alone
    const out = await runGraph("unet", feed, ["v", ...mapped.flatMap((l) => [`q${l}`, `k${l}`])]);
    for (const l of mapped) keepMap(o, panels, step, l, lists[l], out[`q${l}`], out[`k${l}`]);
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
function keepMap(o, panels, step, layer, { data: lists, width }, q, k) {
  const { tokens: n, heads } = state.meta.layers[layer];
  const scale = o.variant === "scale" ? 0 : 1;
  state.recorded.maps.push({ layer, step, group: panels, panels: panels.length, n, heads, lists, width, q, k, scale });
}

/** What a token reads in a recorded layer and step: {shares Float32Array [panels * n], n}. */
function map({ layer, step, panel, token }) {
  const found = state.recorded && state.recorded.maps.find((m) => m.layer === layer && m.step === step && m.group.includes(panel));
  if (!found) throw new PlainError("map", "Nothing was recorded there: draw the story first.");
  const row = attentionMap(found, found.group.indexOf(panel), token);
  const shares = new Float32Array(state.recorded.panels * found.n);
  found.group.forEach((p, i) => shares.set(row.subarray(i * found.n, (i + 1) * found.n), p * found.n));
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
} else if (typeof module !== "undefined") {
  module.exports = { splitWords, nearestWord, unknownWord, philox, panelNoise, roundEven, pickTokens, readingLists, timeSteps, DDIM, UniPC, attentionMap };
}
