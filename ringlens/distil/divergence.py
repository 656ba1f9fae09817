"""How far a student's next-token distributions are from a teacher's.

Shape letters: P positions, D hidden size (of either model), V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_LOGITS = 2**25
"""Logits of either model that are held at once: 128 MiB in float32."""


def divergence(
    student: tuple[Tensor, nn.Module],
    teacher: tuple[Tensor, nn.Module],
    vocabulary: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sum KL(teacher ‖ student) = Σ p_T (log p_T − log p_S) over positions, times temperature².

    The factor keeps gradients of one size at any temperature (Hinton, Vinyals and Dean,
    arXiv 1503.02531). Logits are made for a part of the positions at a time, and made again for
    the gradient, so that memory does not grow with the text.

    Args:
        student: Final hidden states [P, D], and the output projection behind them.
        teacher: The same of the teacher.
        vocabulary: V, the same for both.
        temperature: What logits are divided by.

    Returns:
        The sum in nats, and at how many positions both find the same token most likely.
    """
    (student_PD, student_head), (teacher_PD, teacher_head) = student, teacher
    rows = max(1, _LOGITS // vocabulary)
    total = torch.zeros((), device=student_PD.device)
    agreements = torch.zeros((), dtype=torch.int64, device=student_PD.device)
    for at in range(0, student_PD.shape[0], rows):
        with torch.no_grad():
            goal_PV = teacher_head(teacher_PD[at : at + rows]).float() / temperature
        part, same = checkpoint(
            _part, student_PD[at : at + rows], student_head, goal_PV, temperature,
            use_reentrant=False,
        )  # fmt: skip
        total, agreements = total + part, agreements + same
    return total * temperature**2, agreements


def _part(
    hidden_PD: Tensor, head: nn.Module, goal_PV: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_PV = head(hidden_PD).float() / temperature
    goal_PV = goal_PV.to(logits_PV.device)
    loss = F.kl_div(
        logits_PV.log_softmax(-1), goal_PV.log_softmax(-1), reduction="sum", log_target=True
    )
    return loss, (logits_PV.argmax(-1) == goal_PV.argmax(-1)).sum()
