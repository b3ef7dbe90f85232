// Attention maps of what was recorded.

/** What a token of a panel reads of all panels, mean over the heads, Float32Array [panels * n]; its sum is 1. */
function attentionMap({ q, k, lists, answers, width, n, panels, heads, scale, group }, panel, token) {
  const { regions, parts } = group;
  const region = parts ? regionOfTokens(regions[panel], n)[token] : 0;
  const c = q.length / (panels * n);
  const d = c / heads;
  const out = new Float32Array(panels * n);
  const list = lists.subarray(panel * width, (panel + 1) * width);
  const asks = (panel * n + token) * c;
  const factor = scale / Math.sqrt(d) + (1 - scale);
  for (let head = 0; head < heads; head++) {
    const scores = Float64Array.from(list, (key, i) => {
      const answer = parts ? answers[(panel * width + i) * parts + region] : 0;
      let sum = 0;
      for (let j = head * d; j < (head + 1) * d; j++) sum += q[asks + j] * k[key * c + j];
      return sum * factor + answer;
    });
    const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    const shares = scores.map((s) => Math.exp(s - top));
    const total = shares.reduce((a, b) => a + b, 0);
    list.forEach((key, i) => (out[key] += shares[i] / total / heads));
  }
  return out;
}
