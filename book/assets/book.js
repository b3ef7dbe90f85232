// Small mends to other people's scripts, so that every control has a name and widgets find the formulas.
(function () {
  "use strict";

  // The theme names its buttons twice: an aria-label, and other text inside. A name must contain what is seen.
  function nameThemeButtons() {
    document.querySelectorAll(".search-button-field").forEach(function (b) {
      b.removeAttribute("aria-label"); // the text inside, "Search Ctrl+K", says it
    });
    document.querySelectorAll(".theme-switch-button").forEach(function (button) {
      function hush() {
        button.querySelectorAll("title").forEach(function (t) {
          t.remove(); // Font Awesome, when it comes first, has turned the attribute into text
        });
        button.querySelectorAll(".theme-switch").forEach(function (icon) {
          icon.removeAttribute("title");
          icon.removeAttribute("aria-labelledby");
          icon.setAttribute("aria-hidden", "true");
        });
      }
      hush();
      new MutationObserver(hush).observe(button, { childList: true, subtree: true });
    });
  }

  // A folded cell says "Show code cell source", and would be read out as "Toggle hidden content".
  function nameFolds() {
    document.querySelectorAll("details > summary[aria-label]").forEach(function (s) {
      if (s.textContent.trim()) s.removeAttribute("aria-label");
    });
  }

  // The fold of a chapter with pages below it shows an arrow alone.
  function nameChapterFolds() {
    document.querySelectorAll("nav li.has-children > details > summary").forEach(function (s) {
      var link = s.closest("li").querySelector("a");
      s.setAttribute("aria-label", "Pages below " + link.textContent.trim());
    });
  }

  // docutils calls a bibliography a list, but its entries are no list items.
  function mendBibliography() {
    document.querySelectorAll(".citation-list[role=list]").forEach(function (list) {
      list.removeAttribute("role");
    });
  }

  // ipywidgets 8 was written for MathJax 2 and calls its Hub; MathJax 3 has none.
  function bridgeMathJax() {
    if (window.MathJax && !window.MathJax.Hub) {
      window.MathJax.Hub = {
        Queue: function (job) {
          if (window.MathJax.typesetPromise) window.MathJax.typesetPromise([job[2]]);
        },
      };
    }
  }

  // ipywidgets draws sliders and icon buttons without names: take them from the label beside, or from the icon.
  var ICONS = { play: "Play", pause: "Pause", stop: "Stop", retweet: "Repeat" };
  function nameWidgets(root) {
    root.querySelectorAll(".noUi-handle:not([aria-label])").forEach(function (handle) {
      var widget = handle.closest(".jupyter-widgets");
      var label = widget && widget.querySelector(".widget-label");
      handle.setAttribute("aria-label", (label && label.textContent.trim()) || "value");
    });
    root.querySelectorAll(".jupyter-button:not([aria-label])").forEach(function (button) {
      if (button.textContent.trim()) return;
      var icon = button.querySelector("i");
      var match = icon && /fa-([a-z]+)/.exec(icon.className);
      if (match) button.setAttribute("aria-label", ICONS[match[1]] || match[1]);
    });
  }

  // A figure with small print is too small on a phone: a button shows it in its own size, to be scrolled.
  function enlargeFigures() {
    if (!window.matchMedia("(max-width: 575px)").matches) return;
    document.querySelectorAll(".bd-article figure img").forEach(function (img) {
      var own = Number(img.getAttribute("width")) || img.naturalWidth;
      if (own < 1.25 * img.clientWidth || img.closest("a, .figure-scroller")) return;
      var box = document.createElement("div");
      box.className = "figure-scroller";
      img.replaceWith(box);
      box.append(img);
      var button = document.createElement("button");
      button.type = "button";
      button.className = "figure-enlarge";
      button.textContent = "Enlarge the figure";
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", function () {
        var large = box.classList.toggle("enlarged");
        button.setAttribute("aria-pressed", String(large));
        box.tabIndex = large ? 0 : -1;
      });
      box.after(button);
    });
  }

  window.addEventListener("load", enlargeFigures);
  document.addEventListener("DOMContentLoaded", function () {
    nameThemeButtons();
    nameFolds();
    nameChapterFolds();
    mendBibliography();
    bridgeMathJax();
    document.querySelectorAll(".cell_output").forEach(function (output) {
      if (!output.querySelector('script[type="application/vnd.jupyter.widget-view+json"]')) return;
      new MutationObserver(function () {
        nameWidgets(output);
      }).observe(output, { childList: true, subtree: true });
    });
  });
})();
