// Where the subject is, found in the steps before: neighbours/subject.py and neighbours/picks.py.

/** Rows and columns of a map. */
const GRID = 16;

/** Numbers of side x side tokens on the grid of all maps, bilinear: Float64Array [GRID * GRID]. */
function onGrid(share) {
  const side = Math.sqrt(share.length);
  const between = (i) => {
    const x = Math.max(0, ((i + 0.5) * side) / GRID - 0.5);
    const first = Math.floor(x);
    return [first, Math.min(first + 1, side - 1), x - first];
  };
  return Float64Array.from({ length: GRID * GRID }, (_, i) => {
    const [[top, bottom, y], [left, right, x]] = [between(Math.floor(i / GRID)), between(i % GRID)];
    const row = (r) => (1 - x) * share[r * side + left] + x * share[r * side + right];
    return (1 - y) * row(top) + y * row(bottom);
  });
}

/** Otsu's threshold: between the two sides, the variance of their means is largest. */
function otsu(numbers) {
  const [x, n] = [Float64Array.from(numbers).sort(), numbers.length];
  const all = x.reduce((a, b) => a + b, 0);
  let [sum, best, most] = [0, 0, -1];
  for (let below = 1; below < n; below++) {
    sum += x[below - 1];
    const apart = (all - sum) / (n - below) - sum / below;
    const variance = below * (n - below) * apart * apart;
    if (variance > most) [best, most] = [below, variance];
  }
  return (x[best - 1] + x[best]) / 2;
}

/** Which of n tokens show the subject, by its map of the steps before; null in the first step. */
function subjectTokens(map, n) {
  if (!map.some(Boolean)) return null;
  const threshold = otsu(map);
  const side = Math.sqrt(n);
  const block = GRID / side;
  return Array.from({ length: n }, (_, t) => {
    let inside = 0;
    for (let i = 0; i < block * block; i++) {
      const row = Math.floor(t / side) * block + Math.floor(i / block);
      inside += map[row * GRID + (t % side) * block + (i % block)] > threshold;
    }
    return inside / (block * block) >= 0.5;
  });
}
