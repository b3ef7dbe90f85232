// Stands before the script of every widget: an anywidget's script is one file (shared.py).
let made = 0; // widgets of this kind so far, so that their ids differ

function element(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

// Ties controls to numbers of the model, {name: control}: either changes the other, and all is drawn again.
function tie(model, controls, draw) {
  for (const [name, control] of Object.entries(controls)) {
    control.addEventListener("input", () => {
      model.set(name, Number(control.value));
      model.save_changes(); // without a kernel nobody listens, and that is fine
      draw();
    });
    model.on(`change:${name}`, draw);
  }
  draw();
}

// Asks for a kernel. Without one nobody answers, and what travels along is all there is.
function greet(model) {
  model.set("query", { hello: made });
  model.save_changes();
}
