// Random numbers, the same as storydiff_lite/portable.py.

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

/**
 * Tokens of a panel that the others may read (RandSample), Int32Array [K], rising.
 * subject: for each token whether it shows the subject, whose tokens come first; or null.
 */
function pickTokens(seed, panel, layer, step, n, k, subject = null) {
  const every = Int32Array.from({ length: n }, (_, t) => t);
  if (k === n) return every;
  const key = keyOf(seed);
  const keys = new Float64Array(n);
  for (let t = 0; t < n; t += 4) philox([t / 4, panel, 1 + layer, step], key).forEach((word, i) => (keys[t + i] = word));
  const later = (t) => Number(subject !== null && !subject[t]);
  return every.sort((s, t) => later(s) - later(t) || keys[s] - keys[t] || s - t).slice(0, k).sort();
}
