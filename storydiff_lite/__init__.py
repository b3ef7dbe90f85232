"""StoryDiffusion, taken apart: a small package beside a book (see README)."""

import logging
from importlib import import_module

__version__ = "0.1.0"
#: what the package gives, and its modules; they bring torch, so they are imported when asked for
_MODULES = {"StoryPipeline": "pipeline", "TransitionPipeline": "video", "StoryJudge": "judge"}
__all__ = ["StoryJudge", "StoryPipeline", "TransitionPipeline", "__version__"]

# torchvision is left out on purpose (see pyproject.toml). transformers then reads pictures with Pillow, which
# is what we want, and says so each time on the standard error of every chapter: that one message is dropped.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *_MODULES})
