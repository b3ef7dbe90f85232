"""Training of every part that the book uses: ``python -m storydiff_lite.training PART``."""
