"""A prompt as chips: its tokens, and where its class token stands."""

import anywidget
import traitlets

from ..shared import complaint, script_and_style


class TokenExplorer(anywidget.AnyWidget):
    """A prompt as chips, before and after its class token was expanded.

    On a page without a kernel the reader chooses among ``prompts``; with one, any prompt can be typed.

    Parameters
    ----------
    prompts : list of str
        Prompts to choose from.
    explain : callable
        ``explain(prompt, count) -> {"rows": [(name, [(text, id, kind), ...]), ...]}`` or ``{"error":
        message}``; ``kind`` is ``"text"``, ``"special"``, ``"padding"``, ``"class"`` or ``"trigger"``.
    counts : list of int
        Numbers of reference pictures to choose from.

    Raises
    ------
    ValueError
        No prompts, or no counts.
    """

    _esm, _css = script_and_style(__file__)
    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    counts = traitlets.List(traitlets.Int()).tag(sync=True)
    table = traitlets.List().tag(sync=True)  # [prompt]{count: view}
    query = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, prompts, explain, counts=(1, 2, 3, 4)):
        prompts, counts = [str(p) for p in prompts], [int(n) for n in counts]
        if not prompts or not counts:
            raise ValueError("A token explorer needs at least one prompt and one number of pictures.")
        table = [{str(n): explain(p, n) for n in counts} for p in prompts]
        super().__init__(prompts=prompts, counts=counts, table=table)
        self._explain = explain

    @traitlets.observe("query")
    def _answer(self, change):
        query = change["new"]
        if "text" in query:
            try:
                view = self._explain(query["text"], query["count"])
            except Exception as error:  # without an answer the old view would stay
                view = {"error": complaint(error)}
            self.answer = {"rows": [], **view, "alive": True, "asked": query}
        elif query:
            self.answer = {"alive": True}
