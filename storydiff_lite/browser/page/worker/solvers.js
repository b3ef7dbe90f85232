// Solvers: from noise to latents, as diffusers' schedulers.

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
