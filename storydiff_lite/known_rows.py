"""A token embedding of which most rows are zero, stored as the rows that are not.

CLIP's vocabulary has 49,408 pieces. The captions of the small world hold some 70 of them, and the rows of all
others are zero (`training.clip`): 9.4 MB of zeros in the two text encoders. The shipped files hold the known
rows and their ids; `expanded` gives the whole table back, equal in every number.
"""

import torch

IDS, COUNT = ".known_rows", ".rows"


def compact(state):
    """Weights as they are stored: of each token embedding the rows that are not zero.

    Parameters
    ----------
    state : dict
        Name -> Tensor. What ends in ``token_embedding.weight`` [V, D] is cut.

    Returns
    -------
    dict
        Of an embedding: its K known rows [K, D] under its own name, their ids, int32 [K], and V, int32 [].
    """
    out = {}
    for name, v in state.items():
        if name.endswith("token_embedding.weight"):
            ids = v.abs().sum(1).nonzero()[:, 0]
            out[name + IDS], out[name + COUNT] = ids.int(), torch.tensor(len(v), dtype=torch.int32)
            v = v[ids]
        out[name] = v.contiguous()
    return out


def expanded(stored):
    """What `compact` stored, whole: name -> Tensor."""
    out = {k: v for k, v in stored.items() if not k.endswith((IDS, COUNT))}
    for name in [k.removesuffix(IDS) for k in stored if k.endswith(IDS)]:
        rows = out[name]
        out[name] = rows.new_zeros(int(stored[name + COUNT]), rows.shape[1])
        out[name][stored[name + IDS].long()] = rows
    return out
