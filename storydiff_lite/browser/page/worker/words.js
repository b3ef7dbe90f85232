// Words to ids, as CLIP's tokenizers give them in Python; a word that is not known is named, with the nearest one.

/** Words as CLIP's tokenizer parts them: letters, single digits, runs of other marks. */
const splitWords = (text) => text.toLowerCase().match(/\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu) || [];

/** How many letters must be typed, dropped, changed or swapped to make one word of another. */
function editDistance(a, b) {
  let before = null;
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) next[j] = Math.min(next[j], before[j - 2] + 1);
    }
    [before, row] = [row, next];
  }
  return row[b.length];
}

/** The known word that is spelt most like this one, or null where none is near. */
function nearestWord(word, words) {
  let best = null;
  let least = Math.max(1, Math.ceil(word.length / 2)) + 1;
  for (const known of Object.keys(words)) {
    const far = /\p{L}/u.test(known) ? editDistance(word, known) : Infinity;
    if (far < least) [best, least] = [known, far];
  }
  return best;
}

/** Words that no caption of the model has, and that say nothing to a picture: "he is walking". */
const SPARE = new Set(["is", "are", "was", "were"]);

/** What is wrong with the words of these prompts: null, or {panel (from 0), word, nearest}; nearest "": leave it out. */
function unknownWord(prompts, words) {
  for (const [panel, prompt] of prompts.entries()) {
    for (const word of splitWords(prompt)) {
      if (!Object.hasOwn(words, word)) return { panel, word, nearest: SPARE.has(word) ? "" : nearestWord(word, words) };
    }
  }
  return null;
}

/** Ids of the words of a text. */
const wordIds = (text, meta) => splitWords(text).flatMap((word) => meta.words[word]);

/** Ids of a prompt, Int32Array [length]: begin, words, end, padding. */
function promptIds(prompt, meta, pad) {
  const inner = wordIds(prompt, meta);
  const out = new Int32Array(meta.length).fill(pad);
  out.set([meta.bos, ...inner, meta.eos]);
  return out;
}

/**
 * Of several who are described in one prompt: for each of them which ids of it their region reads, without the words
 * that describe the others (regions.own_words). phrases: ids of each description.
 */
function ownWords(ids, phrases) {
  return phrases.map((_, mine) => {
    const keep = Array.from(ids, () => true);
    const others = phrases.map((_, k) => k).filter((k) => k !== mine);
    for (const k of [...others, mine]) { // its own last: they may be the same
      const size = phrases[k].length;
      for (let start = 0; start + size <= ids.length; start++) {
        if (phrases[k].every((id, i) => ids[start + i] === id)) keep.fill(k === mine, start, start + size);
      }
    }
    return keep;
  });
}
