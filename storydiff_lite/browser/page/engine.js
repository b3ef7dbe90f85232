// One engine for all story machines of a page: it fetches the parts when a reader asks, owns the worker, and says in
// plain words what went wrong. What follows it in the same script, from the folder reader/, is what a reader sees.
//
//   await storyMachine.load(progress)
//   const { pixels } = await storyMachine.draw({ prompts: ["a bear reading"], seed: 0 }, preview, abortSignal)
//   ... draw({ ...storyMachine.readStory("[Bo] a bear\n\n[Bo] reading"), apart: "regions" })
//
// Pages must work from a folder, where fetch() and workers from files are refused. So every part is a script that hands
// over text: storyMachine.part("unet", [bytes, "15 bits a character"]). The worker is a blob of two texts, the
// runtime's and that of the folder worker/; the runtime's own module is a blob too, made inside the worker.
"use strict";

const storyMachine = (() => {
  const SCRIPTS = ["meta", "worker-code", "ort", "wasm", "text", "unet", "decoder"];
  const parts = {};
  const waiting = new Map(); // number of a call -> what its promise waits for
  // Two workers draw a story in little more than half the time, and need twice the memory.
  const many = navigator.hardwareConcurrency >= 4 && (navigator.deviceMemory || 8) >= 4;
  let settings = { base: "", version: "", workers: many ? 2 : 1 };
  let [worker, helper, loading, meta] = [null, null, null, null];
  let started = false;
  let calls = 0;
  let last = Promise.resolve(); // one drawing after the other

  class StoryMachineError extends Error {
    /** code: "browser", "file", "memory", "word", "cancelled", ...; what more the worker said. */
    constructor({ message, ...more }) {
      super(message);
      Object.assign(this, more, { name: "StoryMachineError" });
    }
  }

  /** Called by the scripts that hold the parts. */
  function part(name, value) {
    parts[name] = value;
  }

  function configure(given) {
    settings = { ...settings, ...given };
  }

  /** Why this browser cannot draw, or null. */
  function missing() {
    const lacks =
      (typeof WebAssembly !== "object" && "WebAssembly") ||
      (typeof Worker !== "function" && "workers") ||
      (typeof DecompressionStream !== "function" && "DecompressionStream");
    if (!lacks) return null;
    return {
      code: "browser",
      message: `This browser cannot draw stories: it has no ${lacks}, or it is switched off. Use a newer one (Chrome, Edge, Firefox or Safari of 2023 or later), or draw with Python: storydiff tell.`,
    };
  }

  function addScript(name) {
    return new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = `${settings.base}${name}.js${settings.version ? `?v=${settings.version}` : ""}`;
      script.charset = "utf-8"; // those of 15 bits a character begin with a byte order mark, which weighs more
      script.onload = () => {
        script.remove();
        done();
      };
      script.onerror = () => {
        script.remove();
        fail(
          new StoryMachineError({
            code: "file",
            message: `The file ${name}.js could not be loaded. If this is a copy of the book, copy its folder _static too; on the web, check the connection and press the button again.`,
          }),
        );
      };
      document.head.append(script);
    });
  }

  function ask(call, args, { news, signal, of = worker, move = [] } = {}) {
    return new Promise((done, fail) => {
      const id = ++calls;
      const cancel = () => worker && worker.postMessage({ call: "cancel", args: { id } });
      waiting.set(id, { done, fail, news, after: () => signal && signal.removeEventListener("abort", cancel) });
      if (signal) signal.addEventListener("abort", cancel);
      of.postMessage({ id, call, args }, move);
    });
  }
  function settle(id, how, value) {
    const one = waiting.get(id);
    if (!one) return;
    waiting.delete(id);
    one.after();
    one[how](value);
  }
  function listen({ data: { id, news, result, error } }) {
    if (news) {
      const one = waiting.get(id);
      if (one && one.news) one.news(news);
    } else if (error) {
      const told = new StoryMachineError(error);
      settle(id, "fail", told);
      if (["memory", "failed"].includes(error.code)) stop(); // its memory may be broken: begin anew
      if (error.code === "memory") settings.workers = 1;
    } else {
      settle(id, "done", result);
    }
  }

  /** Ends the worker; the next drawing starts another. */
  function stop(reason = { code: "stopped", message: "The drawing was stopped." }) {
    for (const one of [worker, helper]) if (one) one.terminate();
    [worker, helper, loading, started] = [null, null, null, false];
    for (const id of [...waiting.keys()]) settle(id, "fail", new StoryMachineError(reason));
  }

  async function start(progress) {
    const lacks = missing();
    if (lacks) throw new StoryMachineError(lacks);
    for (const [i, name] of SCRIPTS.entries()) {
      progress({ share: i / (SCRIPTS.length + 3), what: name });
      if (name !== "meta" || !meta) await addScript(name);
      meta = parts.meta || meta;
    }
    const code = URL.createObjectURL(new Blob([parts.ort, "\n;", parts.worker], { type: "text/javascript" }));
    const given = { meta };
    for (const name of ["wasm", "text", "unet", "decoder"]) given[name] = parts[name];
    const isolated = self.crossOriginIsolated; // then the runtime's own threads do it
    const threads = isolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    const init = { parts: given, mjs: parts.mjs, threads, graphs: ["text", "unet", "decoder"] };
    for (const name of Object.keys(parts)) delete parts[name]; // the workers have them
    worker = startWorker(code);
    const ready = ask("init", init, {
      news: ({ ready: name }) => progress({ share: (SCRIPTS.length + init.graphs.indexOf(name)) / (SCRIPTS.length + 3), what: name }),
    });
    if (settings.workers > 1 && !isolated) {
      helper = startWorker(code);
      const helped = ask("init", { ...init, graphs: ["unet", "decoder"] }, { of: helper });
      await Promise.all([ready, helped]);
      const { port1, port2 } = new MessageChannel();
      await ask("serve", { port: port1 }, { of: helper, move: [port1] });
      await ask("helped", { port: port2 }, { move: [port2] });
    }
    await ready;
    URL.revokeObjectURL(code);
    started = true;
    progress({ share: 1, what: "ready" });
  }
  function startWorker(code) {
    const one = new Worker(code);
    one.onmessage = listen;
    one.onerror = (event) => {
      event.preventDefault();
      stop({ code: "browser", message: `The drawing could not be started here: ${event.message || "the worker failed"}.` });
    };
    return one;
  }

  /** Fetches the parts and starts the worker, once; progress({share 0..1, what}). */
  function load(progress = () => {}) {
    loading =
      loading ||
      start(progress).catch((error) => {
        stop();
        throw error;
      });
    return loading;
  }

  /** Draws a story (worker/worker.js, `draw`): {pixels, latents, film, seconds, ...}; preview({step, steps, rough}) after each step. */
  function draw(options, preview = () => {}, signal = undefined) {
    const one = async () => {
      await load();
      if (signal && signal.aborted) throw new StoryMachineError({ code: "cancelled", message: "Cancelled." });
      return ask("draw", options, { news: preview, signal });
    };
    const mine = last.then(one, one);
    last = mine.catch(() => {});
    return mine;
  }

  /** What a token of a recorded story reads: {shares, n}; only after a drawing with `record`. */
  const map = (where) => load().then(() => ask("map", where));

  // A page that is left keeps no worker; one that comes back from the browser's cache starts another.
  window.addEventListener("pagehide", () => stop());

  return {
    part, configure, load, draw, map, stop, missing, StoryMachineError,
    get meta() {
      return meta;
    },
    get ready() {
      return started;
    },
  };
})();
window.storyMachine = storyMachine;
