"""Attention statistics the long way: the whole matrix, in float64."""

import torch


def explicit(query, key, first_B, scaling, rows=None):
    """Statistics [B, T, H], weights p [B, T, H, S], under a causal mask aligned at the last key.

    ``rows`` picks queries, so that long texts can be checked at a few.
    """
    repeats = query.shape[1] // key.shape[1]
    S, device = key.shape[2], query.device
    own = torch.arange(S - query.shape[2], S, device=device)
    if rows is not None:
        query, own = query[:, :, rows], own[rows]
    keys = key.double().repeat_interleave(repeats, dim=1)
    scores = query.double() @ keys.transpose(2, 3) * scaling
    position = torch.arange(S, device=device)
    first_B = first_B.to(device=device, dtype=torch.long)
    seen = (position <= own[:, None])[None] & (position >= first_B[:, None, None])
    scores = scores.masked_fill(~seen[:, None], -torch.inf)
    p = scores.softmax(-1).transpose(1, 2)
    B, T, H, _ = p.shape

    def at(positions_BT):
        index = positions_BT.clamp(min=0, max=S - 1)[..., None, None].expand(B, T, H, 1)
        return p.gather(3, index)[..., 0]

    previous = (own - 1).expand(B, -1)
    none = (previous < first_B[:, None])[..., None]
    padded = (own < first_B[:, None])[..., None]
    found = {
        "entropy": torch.special.entr(p).sum(-1),
        "first_weight": at(first_B[:, None].expand(B, T)),
        "previous_weight": at(previous).masked_fill(none, 0.0),
        "logsumexp": scores.logsumexp(-1).transpose(1, 2),
    }
    found = {name: x.masked_fill(padded, torch.nan) for name, x in found.items()}
    return found | {"p": p}
