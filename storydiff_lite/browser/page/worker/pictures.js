// Latents and pixels as colours.

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
