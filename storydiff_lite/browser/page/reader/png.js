// The pictures as a page of a comic: a PNG with the recipe that `storydiff retell` reads.

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
function recipeOf(story, { rate, steps, guidance, guided, sameNoise, layerNames, seed, apart, picks }) {
  const [from, to] = guided || storyMachine.meta.defaults.guided;
  const settings = {
    consistency: rate, num_inference_steps: steps, guidance_scale: guidance, guidance_start: from, guidance_stop: to,
    same_noise: Boolean(sameNoise),
    layers: layerNames, picks, apart, generator: "portable",
  };
  return {
    version: 1,
    recipe: { story: story.text, seed, model: "micro-int8", settings },
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
