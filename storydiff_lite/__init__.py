"""StoryDiffusion, taken apart: a small package beside a book (see README)."""

import logging

# torchvision is left out on purpose (see pyproject.toml). transformers then reads pictures with Pillow, which
# is what we want, and says so each time on the standard error of every chapter: that one message is dropped.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)
