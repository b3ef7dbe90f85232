// Small things that the other files use.

let made = 0; // machines so far, so that ids differ
function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) e.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}
const sequence = (n) => [...Array(n).keys()];
const percent = (x) => (x > 0 && x < 0.01 ? "<1%" : `${Math.round(100 * x)}%`);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
/** Writes RGBA pixels of side x side onto a canvas, as large as it is. */
function paint(canvas, pixels, side) {
  const context = canvas.getContext("2d");
  if (canvas.width === side) return context.putImageData(new ImageData(pixels, side, side), 0, 0);
  const small = element("canvas", { width: side, height: side });
  small.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}
/** The i-th of several pictures in a row of RGBA pixels. */
const pictureOf = (pixels, i, side) => pixels.slice(i * side * side * 4, (i + 1) * side * side * 4);
