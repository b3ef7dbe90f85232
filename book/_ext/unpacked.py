"""Scripts that lie compressed in the repository are unpacked into the site: `x.js.gz` is served as `x.js`."""

import gzip
from pathlib import Path


def unpack(app) -> None:
    """Unpack every .gz file of the static folders into one more static folder."""
    into = Path(app.doctreedir).parent / ".unpacked"
    for folder in [Path(app.confdir, p) for p in app.config.html_static_path]:
        for packed in folder.rglob("*.gz"):
            plain = into / packed.relative_to(folder).with_suffix("")
            plain.parent.mkdir(parents=True, exist_ok=True)
            plain.write_bytes(gzip.decompress(packed.read_bytes()))
    if into.exists():
        app.config.html_static_path.append(str(into))


def setup(app):
    app.connect("builder-inited", unpack, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
