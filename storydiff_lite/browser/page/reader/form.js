// The form: controls, each with its label and its value.

/** Label and control, as one item; `value()` of what it gives. */
function slider(id, label, { min, max, step, value, say = String }) {
  const input = element("input", { type: "range", id, min, max, step, value });
  const output = element("output", { for: id });
  const show = () => {
    output.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", show);
  show();
  return { input, row: element("div", { class: "sm-field" }, element("label", { for: id }, label), input, output), value: () => Number(input.value) };
}
function select(id, label, choices, value) {
  const options = choices.map(([v, text]) => element("option", { value: v, selected: v === value }, text));
  const input = element("select", { id }, ...options);
  return { input, row: element("div", { class: "sm-field" }, element("label", { for: id }, label), input), value: () => input.value };
}
function check(id, label, checked) {
  const input = element("input", { type: "checkbox", id });
  input.checked = checked;
  return { input, row: element("label", { for: id, class: "sm-check" }, input, ` ${label}`), value: () => input.checked };
}
/** Radios or checkboxes with one legend. */
function choices(id, type, legend, items, on) {
  const inputs = items.map(([value, text]) => {
    const input = element("input", { type, name: id, id: `${id}-${value}`, value });
    input.checked = on.includes(value);
    return [input, element("label", { for: input.id, class: "sm-check" }, input, ` ${text}`)];
  });
  const row = element("fieldset", { class: "sm-choices" }, element("legend", {}, legend), ...inputs.map(([, label]) => label));
  return { input: row, row, value: () => inputs.filter(([input]) => input.checked).map(([input]) => input.value) };
}
function seedField(id) {
  const input = element("input", { type: "number", id, min: 0, max: 4294967295, step: 1, value: 0, inputmode: "numeric" });
  const again = element("button", { type: "button", class: "sm-small" }, "another");
  again.setAttribute("aria-label", "another seed");
  again.addEventListener("click", () => {
    input.value = Math.floor(Math.random() * 10000);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
  const value = () => Math.min(4294967295, Math.max(0, Math.floor(Number(input.value)) || 0));
  return { input, row: element("div", { class: "sm-field" }, element("label", { for: id }, "Seed"), input, again), value };
}
/** What keeps the characters of one panel apart, in plain words. */
const APART = [
  ["words", "words alone keep them apart"],
  ["regions", "regions: each has a part of it"],
  ["isolated", "isolated: parts that do not read each other"],
];
const CONTROLS = {
  rate: (id, d) => slider(id, "Consistency", { min: 0, max: 1, step: 0.05, value: d.rate ?? 0.5, say: (v) => (v ? `rate ${v}` : "0, each panel for itself") }),
  seed: (id) => seedField(id),
  steps: (id) => slider(id, "Steps", { min: 1, max: 25, step: 1, value: 8 }),
  guidance: (id) => slider(id, "Guidance", { min: 1, max: 12, step: 0.5, value: 5, say: (v) => (v === 1 ? "1, none" : String(v)) }),
  layers: (id) => select(id, "Layers", [["up", "up-blocks, as released"], ["all", "all layers"], ["mid", "middle"], ["down", "down-blocks"]], "up"),
  solver: (id) => select(id, "Solver", [["unipc", "UniPC"], ["ddim", "DDIM"]], "unipc"),
  picks: (id) => select(id, "Picks", [["random", "random: tokens from anywhere"], ["subject", "subject: the character's tokens first"]], "random"),
  apart: (id) => {
    const control = select(id, "Two in one panel", APART, "words");
    const none = element("span", { class: "sm-none", id: `${id}-none` }, "(no panel of this story shows two)");
    control.input.setAttribute("aria-describedby", none.id);
    control.row.append(none);
    control.offer = (some) => {
      control.input.disabled = !some;
      none.hidden = some;
    };
    return control;
  },
  sameNoise: (id) => check(id, "all panels begin with the same noise", false),
  allSteps: (id) => check(id, "guided from beginning to end, not in the middle half alone", false),
  live: (id) => check(id, "draw again when a slider moves", true),
  groups: (id, d) => choices(id, "checkbox", "Layers in which panels read each other", [["down", "down"], ["mid", "middle"], ["up", "up"]], d.groups),
  variant: (id) =>
    choices(id, "radio", "Break it", [["right", "as it should be"], ["scale", "scale √d forgotten"], ["halves", "halves of guidance mixed"], ["others", "only the others' tokens, not its own"]], ["right"]),
};

/** Lists from which a panel is put together; names(): those who are declared. */
function pickLists(id, world, label, add, names) {
  const option = (w) => element("option", { value: w }, w);
  const who = select(`${id}-who`, "Who", []);
  const offer = () => {
    const cast = names();
    const pairs = cast.slice(1).map((name, i) => `[${cast[i]}] left and [${name}] right`);
    const before = who.value();
    const all = [...(cast.length ? [...cast.map((n) => `[${n}]`), ...pairs] : world.who), "an empty scene"];
    who.input.replaceChildren(...all.map(option));
    if (all.includes(before)) who.input.value = before;
  };
  const action = select(`${id}-action`, "does what", world.action.map((w) => [w, w]));
  const scene = select(`${id}-scene`, "where", world.scene.map((w) => [w, w]));
  const button = element("button", { type: "button", class: "sm-small" }, label);
  const nobody = () => who.value() === "an empty scene";
  who.input.addEventListener("change", () => (action.input.disabled = nobody()));
  button.addEventListener("click", () =>
    add(nobody() ? `[NC] an empty scene ${scene.value()}` : `${who.value()} ${action.value()} ${scene.value()}`),
  );
  const row = element("details", { class: "sm-pick" },
    element("summary", {}, "Pick a panel from lists"),
    element("div", { class: "sm-fields" }, who.row, action.row, scene.row, button));
  return { row, offer };
}
