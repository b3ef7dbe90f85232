"""From a story text to a comic, and a video: what ``storydiff tell`` does, for Python.

output = tell(Recipe(text), "comic.png")
again = retell("comic.png", "again.png")       # the same pixels
"""

from .produce import ComicOutput, retell, tell
from .recipe import Recipe, RecipeError, read_recipe, write_comic
