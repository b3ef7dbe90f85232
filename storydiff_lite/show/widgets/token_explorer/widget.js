// A prompt as chips: which ids it becomes, and where the class tokens stand. Native controls throughout.

function render({ model, el }) {
  const id = `token-explorer-${++made}`;
  const choice = element("select", { id: `${id}-prompt` });
  model.get("prompts").forEach((p, i) => choice.append(element("option", { value: i }, p)));
  const count = element("select", { id: `${id}-count` });
  model.get("counts").forEach((n) => count.append(element("option", { value: n }, String(n))));
  const own = element("input", { id: `${id}-own`, type: "text", maxlength: 400 });
  const ownLabel = element("label", { for: own.id }, "Your own prompt:");
  const ownRow = element("div", { class: "token-explorer-row" }, ownLabel, own);
  ownRow.hidden = true; // until a kernel has answered

  const rows = element("div", { class: "token-explorer-rows", "aria-live": "polite" });
  el.classList.add("token-explorer");
  el.append(
    element(
      "div",
      { class: "token-explorer-row" },
      element("label", { for: choice.id }, "Prompt:"),
      choice,
      element("label", { for: count.id }, "Reference pictures:"),
      count,
    ),
    ownRow,
    rows,
  );

  function draw() {
    const typed = model.get("answer");
    const view = typed.rows ? typed : model.get("table")[choice.value][count.value];
    rows.replaceChildren();
    if (view.error) {
      rows.append(element("p", { class: "token-explorer-error" }, view.error));
      return;
    }
    for (const [name, chips] of view.rows) {
      const list = element("ol", { class: "token-explorer-chips", "aria-label": name });
      for (const [text, number, kind] of chips) {
        const words = kind === "text" ? "" : ` (${kind})`;
        const chip = element("li", { class: `chip chip-${kind}`, title: `id ${number}${words}` });
        chip.append(element("b", {}, text), element("span", {}, String(number)));
        list.append(chip);
      }
      rows.append(element("p", { class: "token-explorer-name" }, name), list);
    }
  }
  function ask() {
    if (ownRow.hidden || !own.value.trim()) {
      model.set("answer", {});
      draw();
      return;
    }
    model.set("query", { text: own.value, count: Number(count.value) });
    model.save_changes();
  }
  choice.addEventListener("change", () => {
    own.value = "";
    ask();
  });
  count.addEventListener("change", ask);
  own.addEventListener("input", ask);
  model.on("change:answer", () => {
    if (model.get("answer").alive) ownRow.hidden = false; // somebody is there
    draw();
  });
  if (model.get("answer").alive) ownRow.hidden = false;
  draw();
  greet(model);
}

export default { render };
