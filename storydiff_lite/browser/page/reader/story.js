// A story text, read as storydiff_lite/story.py reads it; but each line is a panel, even where it holds two sentences.

const MARKS = { "【": "[", "】": "]", "［": "[", "］": "]", "＃": "#" }; // of an East Asian keyboard
const SIDES = { 2: ["left", "right"], 3: ["left", "middle", "right"] };
const PLACED = /(\[[^[\]]*\])\s+(left\b|middle\b|right\b|at(?:,? -?\d+(?:\.\d+)?%?){2,}(?![\w%]|\.\d)),?/g; // "[Bo] left, waving"
const LIST_MARK = /^\s*(?:(\d+)[.)]|([-*•]))\s+/; // "1. a bear reads", "- a bear reads"
const BRACKETS = /\[([^[\]]*)\]/g;

const nameOf = (text) => text.split(/\s+/).filter(Boolean).join(" ").normalize("NFC");
/** A text as a regular expression that matches it. */
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
/** Single spaces, and one where a word or a name touches a name. */
const spaced = (text) => text.replace(/\](?=[[\p{L}\p{N}])/gu, "] ").replace(/(?<=[\p{L}\p{N}])\[/gu, " [").split(/\s+/).filter(Boolean).join(" ");

/**
 * What `draw` wants to know of a story: {prompts, captions, noCharacter, characters, places, described, carried}, each
 * a list with an entry for every panel; at: from where to where each stands; cast: Map name -> description; text: the
 * story for `storydiff`; notes: what is unclear. Throws what is wrong with it, {message, at}.
 */
function readStory(given) {
  const text = given.replace(/[【】［］＃]/g, (c) => MARKS[c]);
  let end = -1;
  const lines = text.split("\n").map((line) => ({ line, from: end + 1, to: (end += line.length + 1) }));
  const { cast, rest } = readCast(lines);
  const mentions = new Mentions(cast);
  const panels = withoutListMarks(rest.filter(({ line }) => line.trim())).map((place, i) => readPanel(place, i + 1, cast, mentions));
  if (!panels.length) {
    const [name] = cast.keys();
    const after = name ? `The story says who is in it, and has no panels. Leave an empty line, then write one panel a line, such as "[${name}] reading a book".` : "The story is empty: write one panel a line.";
    throw { message: after, at: [0, 0] };
  }
  const story = { cast, notes: panels.flatMap((p) => p.notes) };
  for (const key of ["prompts", "captions", "noCharacter", "characters", "places", "described", "carried", "at"]) {
    story[key] = panels.map((p) => p[key]);
  }
  const names = [...cast].map(([name, description]) => `[${name}] ${description}`);
  story.text = [...names, ...(names.length ? [""] : []), ...panels.map((p) => p.written)].join("\n");
  return story;
}

/** Lines of panels without "1.", "2.", ..., or "-" before each, as a list of them may come. */
function withoutListMarks(lines) {
  const marks = lines.map(({ line }) => LIST_MARK.exec(line));
  const counted = marks.every((m, i) => m && m[1] === String(i + 1));
  const alike = marks.every((m) => m && m[2] && m[2] === marks[0][2]);
  if (lines.length < 2 || !(counted || alike)) return lines;
  return lines.map(({ line, from, to }, i) => ({ line: line.slice(marks[i][0].length), from: from + marks[i][0].length, to }));
}

/** The lines that say who is who, up to an empty one: {cast, rest}. */
function readCast(lines) {
  const cast = new Map();
  for (const [i, { line, from, to }] of lines.entries()) {
    const fault = (message) => ({ message, at: [from, to] });
    const declared = /^\s*\[([^[\]#]*)\]([^[\]#]*)$/.exec(line);
    if (!line.trim() && !cast.size) continue;
    if (!declared || nameOf(declared[1]) === "NC") return { cast, rest: lines.slice(i) };
    const name = nameOf(declared[1]);
    const description = declared[2].replace(/^[\s:：=|,，;；>→–—-]+|[\s.,;]+$/g, "").split(/\s+/).join(" ");
    if (!name) throw fault("There is no name in these brackets. Write [Name], then who that is.");
    if (cast.has(name)) throw fault(`[${name}] is declared twice. If this line is a panel, leave an empty line between those that say who is who and the panels.`);
    if (!description) throw fault(`[${name}] has no description: say who that is, such as "[${name}] a bear".`);
    cast.set(name, description);
  }
  return { cast, rest: [] };
}

function readPanel({ line, from, to }, number, cast, mentions) {
  const fault = (message) => ({ message: `Panel ${number}: ${message}`, at: [from, to] });
  const mark = line.indexOf("#");
  const before = mark < 0 ? line : line.slice(0, mark);
  const alone = /^\s*\[\s*NC\s*\]\s*(?:(?:[:：]\s*|[–—-]\s+)+)?/.exec(before);
  const body = before.slice(alone ? alone[0].length : 0);
  checkNames(body, cast, alone, fault);
  const written = spaced(body);
  if (!written) throw fault("there is nothing that could be drawn.");
  const { text, names, carried, unclear, said } = mentions.read(written, Boolean(alone));
  const all = [...cast.keys()].map((n) => `[${n}]`).join(", ");
  if (cast.size && !names.length && !alone) throw fault(`it names nobody of ${all}. Say who is in it, or begin it with [NC].`);
  const { places, doubt } = placesOf(text, names, fault);
  const [whole, drawn] = [written, text].map((t) => (places.length ? withoutPlaces(t, said) : t));
  const caption = mark < 0 ? whole : line.slice(mark + 1).split(/\s+/).filter(Boolean).join(" ");
  const captions = caption.replace(BRACKETS, (typed, name) => (cast.has(nameOf(name)) ? nameOf(name) : typed));
  return {
    prompts: drawn.replace(BRACKETS, (_, name) => cast.get(nameOf(name))), captions,
    noCharacter: Boolean(alone), characters: names, places, carried,
    described: names.length > 1 ? names.map((name) => cast.get(name)) : [],
    at: [from, to], notes: [...unclear, ...doubt].map((note) => `Panel ${number}: ${note}`),
    // every line has its caption, so that `storydiff` takes none for a paragraph
    written: `${alone ? "[NC] " : ""}${written} # ${captions}`.trim(),
  };
}

/** A text without the words for places behind its names, and behind those who are said otherwise, such as "he". */
function withoutPlaces(text, said) {
  const words = said.map((s) => `(?<![\\p{L}\\p{N}_])${escaped(s)}`);
  return text.replace(new RegExp(`(${["\\[[^[\\]]*\\]", ...words].join("|")})\\s+(?:left|middle|right)(?![\\p{L}\\p{N}_]),?`, "gu"), "$1");
}

/** Throws what is wrong with the names of a panel. */
function checkNames(body, cast, alone, fault) {
  for (const [, inside] of body.matchAll(BRACKETS)) {
    const name = nameOf(inside);
    if (name === "NC") throw fault("[NC] stands at the beginning of a line, and says that nobody is in that panel.");
    if (alone) throw fault(`[NC] says that nobody is in this panel, and [${name}] is. Drop one of them.`);
    if (!cast.has(name)) {
      throw fault(`nobody said who [${name}] is. Begin the story with a line such as "[${name || "Bo"}] a bear" for each, then an empty line.`);
    }
  }
  const rest = body.replace(BRACKETS, " ");
  if (/[[\]]/.test(rest)) throw fault("a bracket is not closed, or was not opened: write [Name].");
  for (const name of cast.keys()) {
    if (new RegExp(`(?<![\\p{L}\\p{N}\\p{M}_])${escaped(name)}(?![\\p{L}\\p{N}\\p{M}_])`, "u").test(rest.normalize("NFC"))) {
      throw fault(`${name} stands here without brackets: write [${name}].`);
    }
  }
}

/** {places: the words for places behind the names of a panel of several, in their order, if each has one; doubt}. */
function placesOf(text, names, fault) {
  const found = new Map();
  for (const [, bracket, word] of text.matchAll(PLACED)) {
    const name = nameOf(bracket.slice(1, -1));
    if (!found.has(name)) found.set(name, word);
  }
  const box = [...found.values()].find((said) => said.startsWith("at"));
  if (box) throw fault(`"${box}" is a box, which only Python can draw. Here write ${SIDES[3].join(", ")}, or nothing: they stand side by side as they are named.`);
  if (!found.size || names.length < 2) return { places: [], doubt: [] }; // "[Bo] left the house"
  const missing = names.find((name) => !found.has(name));
  if (missing) {
    const [[name, word]] = found;
    const meant = `If it is one, say where everybody stands: "[${missing}] ${word === "right" ? "left" : "right"}".`;
    return { places: [], doubt: [`"${word}" behind [${name}] is drawn as a word, for [${missing}] has no place. ${meant}`] };
  }
  const places = names.map((name) => found.get(name));
  const known = SIDES[names.length] || [];
  if (!known.length) throw fault("words for places are for two or three in a panel. Leave them out: they stand side by side as they are named.");
  if (new Set(places).size < places.length || !places.every((p) => known.includes(p))) {
    throw fault(`of ${names.length} in a panel each stands at another place: ${known.join(", ")}.`);
  }
  return { places, doubt: [] };
}
