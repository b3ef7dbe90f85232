"""Print the address under which a built site opens: `site_address.py FOLDER`."""

import sys
from pathlib import Path

index = Path(sys.argv[1]).resolve() / "index.html"
if not index.exists():
    sys.exit(f"No site at {index.parent}: expected index.html there. Run `make book`.")
print(f"\nThe book is built. Open it in a browser:\n\n    {index.as_uri()}\n")
