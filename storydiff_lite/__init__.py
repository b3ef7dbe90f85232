"""StoryDiffusion, taken apart: a small package beside a book (see README)."""
