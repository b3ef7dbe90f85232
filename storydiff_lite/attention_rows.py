"""What an attention layer reads: softmax rows, pooled to patches, a byte or two a number (`attention_maps`).

A layer never builds these rows: a fused kernel goes from queries and keys to the result.  Here they are built
beside it.
"""

from dataclasses import dataclass

import torch

#: probabilities that are held at once, 16 MiB
AT_ONCE = 2**22


def softmax_rows(attn, q, k):
    """What an attention layer reads: softmax(q k^T / sqrt(d)), head by head.

    Parameters
    ----------
    attn : diffusers Attention
        For its number of heads and its query/key norms.
    q : Tensor [N, C]
        Projected queries of one reader.
    k : Tensor [L, C]
        Projected keys of the tokens it reads.

    Returns
    -------
    Tensor [heads, N, L]
        Float32; 0 to 1, each row sums to 1.  StoryDiffusion (2405.01434), Eq. 1.
    """
    q, k = (x.unflatten(-1, (attn.heads, -1)).transpose(0, 1).float() for x in (q, k))  # [heads, N or L, d]
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)


def pooled_rows(attn, q, k, query_cells, key_cells, cells, columns, heads=None):
    """Softmax rows between patches: the mean over the queries of a patch, the sum over the keys of a patch.

    Parameters
    ----------
    attn, q, k
        As of `softmax_rows`.
    query_cells : LongTensor [N]
        Patch of each query, 0 to ``cells`` - 1.
    key_cells : LongTensor [L]
        Column of each key, 0 to ``columns`` - 1.
    cells, columns : int
    heads : list of int or "mean", optional
        Which heads; all of them by default; ``"mean"``: one map, the mean of all heads' rows.

    Returns
    -------
    Tensor [heads, cells, columns]
        Each row sums to 1, as the softmax rows do; that of a patch without a query is zero.  No more than
        2**22 probabilities are held at once.
    """
    several = attn.heads if heads is None else 1 if heads == "mean" else len(heads)
    total = torch.zeros(several, cells, columns, device=q.device)
    chunk = max(1, AT_ONCE // (attn.heads * max(len(k), columns)))
    for part in range(0, len(q), chunk):
        p = softmax_rows(attn, q[part : part + chunk], k)  # [all heads, n, L]
        if heads is not None:
            p = p.mean(0, keepdim=True) if heads == "mean" else p[list(heads)]
        wide = torch.zeros(several, p.shape[1], columns, device=q.device).index_add_(2, key_cells, p)
        total.index_add_(1, query_cells[part : part + chunk], wide)
    return total / query_cells.bincount(minlength=cells).clamp(min=1)[:, None]


@dataclass(frozen=True)
class Quantised:
    """Rows of numbers in 0..1, a byte or two each: ``codes / levels * top``, ``top`` being a row's largest.

    Parameters
    ----------
    codes : uint8 or uint16 Tensor [..., X]
    top : float Tensor [...]
    levels : int
        255 or 65535, the code of a row's largest number.
    """

    codes: torch.Tensor
    top: torch.Tensor
    levels: int = 255

    @classmethod
    def of(cls, x, levels=255):
        """Quantise ``x`` [..., X]."""
        top = x.amax(-1)
        codes = (x / top[..., None].clamp(min=1e-30) * levels).round()
        return cls(codes.to(torch.uint8 if levels == 255 else torch.uint16).cpu(), top.cpu(), levels)

    def values(self):
        """The numbers, float32 [..., X]; none is off by more than `error`."""
        return self.codes.float() / self.levels * self.top[..., None]

    def error(self):
        """The largest error that a number of a row can have, [...]: half a code, top / (2 levels)."""
        return self.top / (2 * self.levels)

    @property
    def nbytes(self):
        return self.codes.nbytes + self.top.nbytes


def patches(height, width, rows, columns):
    """Patch of each token of a layer, LongTensor [height * width]: the layer's tokens on a coarser grid."""
    down = torch.arange(height) * rows // height
    across = torch.arange(width) * columns // width
    return (down[:, None] * columns + across).flatten()
