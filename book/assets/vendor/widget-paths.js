// Loaded after require.js and before embed-amd.js. Every address is built from this script's own,
// so the site works under any prefix and from file://.
(function () {
  var me = document.currentScript;
  var base = me.src.replace(/[^\/]*$/, "");
  requirejs.config({
    waitSeconds: 60,
    paths: {
      anywidget: base + "anywidget/index",
      // These modules are defined inside embed-amd.js. A path here only moves their module.uri,
      // from which their loader takes the address of the icon fonts.
      "@jupyter-widgets/html-manager": base + "html-manager",
      "@jupyter-widgets/html-manager/dist": base.replace(/\/$/, ""),
      "@jupyter-widgets/controls": base + "controls",
      "@jupyter-widgets/base": base + "base",
    },
  });
  // embed-amd.js reads this from any script tag; without it, it asks a public CDN.
  me.setAttribute("data-jupyter-widgets-cdn", base + "npm/");
  // The theme's icons would replace <i> by <svg> inside widgets and so kill ipywidgets' Play button.
  window.FontAwesomeConfig = Object.assign({}, window.FontAwesomeConfig, { observeMutations: false });
})();
