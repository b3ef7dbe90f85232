// Who reads what: attention.py, cast.py, regions.py and places.py of the package.

/** What is added to a score so that a token is not read. */
const NEVER = -10000;
/** How often a token of another panel counts in a story with regions. */
const TIMES = 3;
/** Words for places, by how many stand side by side. */
const PLACES = { 2: ["left", "right"], 3: ["left", "middle", "right"] };

/** Whether somebody reads somebody else, by the names in both: one that shows nobody but the reader's. */
const mayRead = (reader, other) => other.length > 0 && other.every((name) => reader.includes(name));

/** The regions of each panel, [{names, left, right}]; left and right are fractions of its width. */
function regionsOf({ prompts, characters, noCharacter, places, apart }) {
  return prompts.map((_, i) => {
    const names = noCharacter[i] ? [] : characters[i].length ? characters[i] : [""];
    if (apart === "words" || names.length < 2) return [{ names, left: 0, right: 1 }];
    return names.map((name, k) => {
      const at = places[i].length ? PLACES[names.length].indexOf(places[i][k]) : k;
      return { names: [name], left: at / names.length, right: (at + 1) / names.length };
    });
  });
}

/** The number of the region that each of n tokens is in. */
function regionOfTokens(regions, n) {
  const side = Math.sqrt(n);
  return Uint8Array.from({ length: n }, (_, t) => {
    const x = ((t % side) + 0.5) / side;
    return regions.findIndex(({ left, right }) => left <= x && x < right);
  });
}

/**
 * Panels that go through the U-Net together: those that read each other, and those that read nobody.
 *
 * Each group is {panels, reads, regions, parts, may, times, isolated}. regions: of each of its panels; null, and
 * parts 0, where each panel reads every other, all of it. may[i][p][j][q]: region p of the i-th panel reads region q
 * of the j-th.
 */
function groupsOf(o) {
  const regions = regionsOf(o);
  const every = o.prompts.map((_, i) => i);
  const several = regions.some((of) => of.length > 1);
  const shares = Boolean(o.rate && o.chosen.size && every.length > 1);
  const reads = (i, j) => i !== j && regions[i].some((p) => regions[j].some((q) => mayRead(p.names, q.names)));
  const linked = (i) => shares && (regions[i].length > 1 || every.some((j) => reads(i, j) || reads(j, i)));
  return [true, false].flatMap((together) => {
    const panels = every.filter((i) => linked(i) === together);
    const mine = panels.map((i) => regions[i]);
    const all = panels.every((i) => panels.every((j) => i === j || reads(i, j)));
    const plain = several ? mine.every((of) => of.length === 1) && !together : all || !together;
    if (!panels.length) return [];
    const group = { panels, reads: together, regions: null, parts: 0, may: null, times: several ? TIMES : 1 };
    if (!plain) {
      group.regions = mine;
      group.parts = Math.max(...mine.map((of) => of.length));
      group.may = mine.map((of) => of.map((p) => mine.map((others) => others.map((q) => mayRead(p.names, q.names)))));
    }
    return [{ ...group, isolated: o.apart === "isolated" }];
  });
}

/**
 * Which tokens each row of a U-Net call reads, {data: Int32Array [rows * width], width}, and what each of them
 * answers to each region of the row, {answers: Float32Array [rows * width * parts]}.
 *
 * Rows are halves x panels, the unconditional half first; a token's number counts from the first row's first.
 * picks: of each panel, or null where the layer is plain. variant: null, or a mistake of chapter 05's "Break it".
 */
function readingLists(picks, n, group, halves, variant) {
  const { regions, parts, may, times, isolated } = group;
  const count = group.panels.length;
  const rows = halves * count;
  const where = regions && picks && regions.map((of) => regionOfTokens(of, n));
  const lists = [];
  for (let row = 0; row < rows; row++) {
    const [half, i] = [Math.floor(row / count), row % count];
    const others = [];
    for (let other = 0; picks && other < rows; other++) {
      if (other === row || (variant !== "halves" && Math.floor(other / count) !== half)) continue;
      const j = other % count;
      for (const t of picks[j]) {
        if (!regions || may[i].some((region) => region[j][where[j][t]])) others.push(other * n + t);
      }
    }
    const own = variant === "others" && others.length ? [] : Array.from({ length: n }, (_, t) => row * n + t);
    lists.push(own.concat(others));
  }
  const width = Math.max(...lists.map((list) => list.length));
  const data = new Int32Array(rows * width);
  const answers = new Float32Array(rows * width * parts).fill(NEVER); // as what fills a short list up does
  lists.forEach((list, row) => {
    data.fill(row * n, row * width, (row + 1) * width);
    data.set(list, row * width);
    if (!parts) return;
    const i = row % count;
    list.forEach((token, l) => {
      const [other, t] = [Math.floor(token / n), token % n];
      may[i].forEach((region, p) => {
        let read = true;
        if (other !== row) read = region[other % count][where[other % count][t]];
        else if (where && isolated) read = where[i][t] === p;
        if (read) answers[(row * width + l) * parts + p] = other === row ? 0 : Math.log(times);
      });
    });
  });
  return { data, width, answers };
}

/** Which region each token of each row is in: Float32Array [rows * n * parts], 1 there and else 0. */
function regionInput({ regions, parts }, halves, n) {
  if (!parts) return new Float32Array(0);
  const out = new Float32Array(halves * regions.length * n * parts);
  for (let row = 0; row < halves * regions.length; row++) {
    regionOfTokens(regions[row % regions.length], n).forEach((p, t) => (out[(row * n + t) * parts + p] = 1));
  }
  return out;
}

/**
 * What each word of each row's text answers to each region: Float32Array [rows * length * parts].
 * own: for each row null, or for each of its regions which words it reads (words.js, `ownWords`).
 */
function wordAnswers({ parts }, own, length) {
  const out = new Float32Array(own.length * length * parts);
  own.forEach((keeps, row) => {
    if (!keeps || !parts) return;
    keeps.forEach((keep, p) => keep.forEach((kept, w) => (out[(row * length + w) * parts + p] = kept ? 0 : NEVER)));
  });
  return out;
}
