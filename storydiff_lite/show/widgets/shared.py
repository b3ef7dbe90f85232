"""What the widgets share; their scripts share `shared.js`."""

from pathlib import Path


def script_and_style(file):
    """``_esm`` and ``_css`` of the widget whose module is ``file``.

    An anywidget's script is one file, so what all scripts share stands before its own.
    """
    folder = Path(file).parent
    scripts = (folder.parent / "shared.js", folder / "widget.js")
    return "\n".join(s.read_text(encoding="utf-8") for s in scripts), folder / "widget.css"


def complaint(error: BaseException) -> str:
    """What a widget shows of an error: its message, and its kind unless it was written for readers."""
    if isinstance(error, (ValueError, TypeError)) and str(error):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted. Press the button to begin again."
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
