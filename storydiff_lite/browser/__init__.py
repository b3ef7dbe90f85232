"""The page that draws: stories in a web page, with no Python and no server.

`modules` says the models so that ONNX can; `export` writes their graphs; `storage` makes these small; `site`
packs all into scripts that a page can load from a folder; `runtime` is onnxruntime-web, kept in ``vendor/``;
``page/`` is what runs in the browser. ``book/_ext/story_machine.py`` puts it into the book. By hand:
``python -m storydiff_lite.browser FOLDER``.
"""
