"""Interactive figures that work with a kernel and, from their saved state, on a page without one.

Each is an anywidget in a folder of its own, Python, script and style together. Its pictures are drawn
beforehand and travel with it, so that moving a slider needs neither Python nor a network.
"""

from .attention_explorer import AttentionExplorer, attention_view
from .consistency_slider import ConsistencySlider
from .motion_scrubber import MotionScrubber
from .token_explorer import TokenExplorer
