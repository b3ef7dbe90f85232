// Who "the bear", "he", "she" or "it" is at the beginning of a panel, by the rules of storydiff_lite/mentions.py.

const listOf = (words) => new Set(words.split(" "));
const LOOKS = listOf("in with without wearing dressed and of named called who that whose");
const BEING = listOf("is are was were has had will can");
const NO_VERBS = listOf("king ring thing string wing spring duckling sibling");
const NOBODY = listOf("scene view landscape picture photo photograph drawing painting");
const WHERE = listOf("in on at under near by from to into behind beside over through");
const WORD = /[\p{L}\p{N}_'’-]+/gu;

/** Whom a prompt introduces, "a grey bear in a red outfit", or null. */
function phraseOf(prompt) {
  if (!/^an? /i.test(prompt)) return null;
  const words = [...prompt.matchAll(WORD)].map((m) => ({ word: m[0].toLowerCase(), from: m.index, to: m.index + m[0].length }));
  let [article, since, end] = [true, 0, null]; // of this part of the phrase: whether it has one, its words so far
  for (let i = 1; i < words.length && end === null; i++) {
    const { word, from } = words[i];
    const [after, before] = [i + 1 < words.length ? words[i + 1].word : "", words[i - 1].to];
    const acts = word.endsWith("ing") && !LOOKS.has(word) && !NO_VERBS.has(word) && since;
    if (prompt.slice(before, from).trim() || BEING.has(word) || acts) end = before;
    else if (WHERE.has(word) && (after === "the" || !LOOKS.has(word))) end = before;
    else if (LOOKS.has(word)) {
      [article, since] = [after === "a" || after === "an", 0];
      const goesOn = words.slice(1, i).some((w) => LOOKS.has(w.word) && w.word !== "and");
      if (word === "and" && article && !goesOn) end = before; // somebody else
    } else if (word === "a" || word === "an") [article, since] = [true, 0];
    else if (/s$/.test(word) && !/[su]s$/.test(word)) {
      if (since >= (article ? 1 : 2)) end = before;
      since = 2; // "glasses": a noun, behind which the verb comes
    } else since++;
  }
  const phrase = prompt.slice(0, end ?? prompt.length).replace(/[ .!?…]+$/, "");
  return ["", ...NOBODY].includes(nounOf(phrase)) ? null : phrase;
}
/** Words before those that say how somebody looks, and before a comma, without the article. */
function firstPart(phrase) {
  const words = (phrase.split(",")[0].match(WORD) || []).map((w) => w.toLowerCase());
  if (["a", "an", "the"].includes(words[0])) words.shift();
  const until = words.findIndex((w) => LOOKS.has(w) || WHERE.has(w));
  return until < 0 ? words : words.slice(0, until);
}
const nounOf = (phrase) => firstPart(phrase).at(-1) || "";
const shortForm = (phrase) => `${"aeiou".includes(nounOf(phrase)[0]) ? "an" : "a"} ${nounOf(phrase)}`;

/** Who has been named so far, while the panels are read in order. cast: Map name -> description, maybe empty. */
class Mentions {
  constructor(cast) {
    Object.assign(this, { cast, order: [], called: new Map() });
  }
  /**
   * A panel's text, understood: {text, names, carried: [short, phrase] or null, unclear: what is to be told, said: the
   * words that [Name] stands for}.
   */
  read(text, nobody) {
    if (nobody) return { text, names: [], carried: null, unclear: [], said: [] };
    return this.cast.size ? this.inCast(text) : this.free(text);
  }
  inCast(text) {
    const [unclear, said] = [[], []];
    const there = [...text.matchAll(/\[([^[\]]*)\]/g)].map((m) => nameOf(m[1])); // nobody of these is "he" here too
    for (let at = 0; ; ) {
      const bracket = /^\[[^[\]]*\]/.exec(text.slice(at));
      let end = bracket && at + bracket[0].length;
      if (!bracket) {
        const { who, rest, doubt } = this.mention(text.slice(at), there);
        unclear.push(...doubt);
        if (who === null) break;
        there.push(who);
        said.push(text.slice(at, text.length - rest.length));
        text = `${text.slice(0, at)}[${who}]${rest}`;
        end = at + who.length + 2;
      }
      const joined = /^(?: (?:left|middle|right))? and /i.exec(text.slice(end));
      if (!joined) break;
      at = end + joined[0].length;
    }
    const names = [...new Set([...text.matchAll(/\[([^[\]]*)\]/g)].map((m) => nameOf(m[1])))];
    this.named(names);
    return { text, names, carried: null, unclear, said };
  }
  free(text) {
    const { who, rest, doubt } = this.mention(text);
    const introduced = who === null ? phraseOf(text) : who;
    if (introduced) this.named([introduced]);
    const late = !introduced && this.order.length && !doubt.length && /(?<=\s)(?:he|she)(?=\s)/i.exec(text);
    if (late) doubt.push(`"${late[0]}" is drawn as it stands: begin the panel with it, or with who it is.`);
    if (who === null) return { text, names: [], carried: null, unclear: doubt, said: [] };
    const short = shortForm(who);
    return { text: short + rest, names: [], carried: short === who.toLowerCase() ? null : [short, who], unclear: doubt, said: [] };
  }
  named(names) {
    this.order = [...this.order.filter((n) => !names.includes(n)), ...names];
  }
  /** Who stands at the beginning of a text, or null; the rest; and what is unclear. Nobody who is `there`. */
  mention(text, there = []) {
    text = text.replace(/^(he|she|it)['’]s(?=\s)/i, "$1 is");
    const pronoun = /^(he|she|it)(?=\s)/i.exec(text);
    if (pronoun) return this.byPronoun(pronoun[1].toLowerCase(), text.slice(pronoun[0].length), there);
    return /^the [\p{L}\p{N}_]/iu.test(text) ? this.byNoun(text, there) : { who: null, rest: text, doubt: [] };
  }
  byPronoun(pronoun, rest, there) {
    const known = this.order.filter((n) => !there.includes(n));
    if (!known.length) {
      // of a cast where nobody is named an error tells; "it is raining" may mean nobody
      if ((this.cast.size && !there.length) || pronoun === "it") return { who: null, rest, doubt: [] };
      const example = this.cast.size ? "[Name] in its place" : '"a bear"';
      return { who: null, rest, doubt: [`"${pronoun}" is nobody: no panel before says who, such as ${example}. It is drawn as it stands.`] };
    }
    const calledSo = known.filter((n) => (this.called.get(n) ?? pronoun) === pronoun);
    const fitting = calledSo.length ? calledSo : known;
    const who = fitting.at(-1);
    const clear = fitting.length === 1 || this.called.get(who) === pronoun;
    this.called.set(who, pronoun);
    return { who, rest, doubt: clear ? [] : [this.unclear(pronoun, who, fitting.slice(0, -1))] };
  }
  byNoun(text, there) {
    const fitting = new Map(); // name -> where the mention ends
    for (const [name, phrase] of this.cast.size ? this.cast : this.order.map((n) => [n, n])) {
      const words = there.includes(name) ? [] : firstPart(phrase);
      for (let at = 4; words.length; ) {
        const m = new RegExp(WORD.source, "yu");
        m.lastIndex = at;
        const [found] = m.exec(text) || [""];
        if (!words.includes(found.toLowerCase())) break;
        at += found.length;
        if (found.toLowerCase() === words.at(-1)) {
          fitting.set(name, at);
          break;
        }
        at++;
      }
    }
    if (!fitting.size) return { who: null, rest: text, doubt: [] };
    const names = [...fitting.keys()];
    const who = names.reduce((a, b) => (this.order.indexOf(b) > this.order.indexOf(a) ? b : a));
    const end = fitting.get(who);
    const others = names.filter((n) => n !== who);
    return { who, rest: text.slice(end), doubt: others.length ? [this.unclear(text.slice(0, end), who, others)] : [] };
  }
  unclear(said, who, others) {
    const say = (n) => (this.cast.size ? `[${n}]` : `"${n}"`);
    const why = this.order.includes(who) ? "was named last" : "is declared first";
    return `"${said}" may be ${[...others, who].map(say).join(" or ")}; it is taken as ${say(who)}, who ${why}. Write ${this.cast.size ? "the name" : "who it is"}, and it is clear.`;
  }
}
