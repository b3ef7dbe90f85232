// Pictures in a row.

/** Who stands where in a panel with regions, from left to right; none in another one. */
function standing({ characters, places }, panel, apart) {
  const names = characters[panel];
  if (apart === "words" || names.length < 2) return [];
  const order = places[panel].length ? SIDES[names.length].map((side) => places[panel].indexOf(side)) : sequence(names.length);
  return order.map((k) => names[k]);
}
/** Names below a panel, each below its part. */
const nameTags = (names) => element("span", { class: "sm-tags" }, ...names.map((name) => element("b", {}, name)));

/** A row of pictures: a title, and a canvas for each; tags: of each the names that stand below it. */
function pictureRow(title, labels, captions, side, kind = "", tags = []) {
  const canvases = labels.map((label) => element("canvas", { width: side, height: side, role: "img", "aria-label": label }));
  const heading = element("p", { class: "sm-title" }, title);
  const list = element("ol", { class: `sm-panels ${kind}` }, ...canvases.map((c, i) => element("li", {}, c, ...(tags[i] && tags[i].length ? [nameTags(tags[i])] : []), element("span", {}, captions[i]))));
  list.style.setProperty("--sm-count", labels.length);
  return { box: element("section", { class: "sm-row" }, heading, list), heading, list, canvases };
}
