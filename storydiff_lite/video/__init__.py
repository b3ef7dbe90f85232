"""From two pictures to a video: semantic tokens say, frame by frame, what moves between them.

The paper's second half (2405.01434, section 3.2), whose code was never released. A motion U-Net draws all
frames at once, each reads its own tokens (`decoder`, `sampling`). The first and the last frame, the *key
frames*, are known and leave the pipeline as they came in. The U-Net that drew a story's panels can redraw the
frames between them (`refine`).
"""

from .baselines import blend, sparse_control
from .checkpoint import (
    CHANGED,
    KEY_FRAME_LAYERS,
    load_decoder,
    load_parts,
    merge_lora,
    save_decoder,
    save_parts,
)
from .decoder import (
    Decoder,
    KeyFrameAttention,
    TokenAttention,
    TokenProjection,
    key_frame_mask,
    motion_adapter,
    motion_unet,
    per_frame_states,
    read_key_frames,
    read_tokens,
    reading_key_frames,
    spatial_self_attention,
)
from .files import GIF_FPS, check_fps, find_ffmpeg, gif_delays, play, player_html, save_video
from .pipeline import REFINE, TransitionOutput, TransitionPipeline, story_to_video
from .sampling import WINDOW, Conditions, interleaved_windows, noise_generators, sample
