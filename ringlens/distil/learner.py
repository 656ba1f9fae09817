"""A student while it learns.

Shape letters: B texts, T tokens of the longest, N = B·T, P positions that are learnt at, D hidden
size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ringlens.distil.balance import Balancer
from ringlens.distil.divergence import divergence
from ringlens.distil.optimizer import Copies

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ringlens.distil.settings import Distillation
    from ringlens.distil.texts import Batch
    from ringlens.model.loaded import LoadedModel


class Learner:
    """A student, its teacher, and what turns their difference into a step.

    Args:
        student: The student, whose weights are changed.
        teacher: The teacher.
        settings: How it learns.
        accelerator: The processes that learn together.
    """

    def __init__(
        self,
        student: LoadedModel,
        teacher: LoadedModel,
        settings: Distillation,
        accelerator: Accelerator,
    ) -> None:
        self.student, self.teacher = student, teacher
        self._settings, self._accelerator = settings, accelerator
        self.balancer = Balancer(student)
        chosen = _learning(student, settings.parts)
        student.model.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        self._weights = Copies(chosen, settings.learning_rate, settings.weight_decay)

    def learn(self, batch: Batch, rate: float, bias_step: float) -> Tensor:
        """Take one step on a batch, shared out among the processes.

        Returns:
            Loss and agreement per position, and the greatest load of an expert over the mean one,
            the mean of the layers.
        """
        positions = int(batch.learnt_BT.sum())
        own = batch.part(self._accelerator.process_index, self._accelerator.num_processes)
        loss, agreed, load_LE = self._measured(own)
        if loss.requires_grad:
            (loss / positions).backward()
        self._weights.step(rate, self._sum)
        load_LE = self._sum(load_LE)
        self.balancer.move(load_LE, bias_step)
        peak = (load_LE.amax(dim=1) / load_LE.float().mean(dim=1)).mean()
        summed = self._sum(torch.stack([loss.detach(), agreed.float()])) / positions
        return torch.cat([summed, peak[None]])

    @torch.no_grad()
    def measure(self, batches: list[Batch]) -> tuple[float, float]:
        """Loss and agreement per position over batches; NaN for none."""
        found = torch.zeros(2, device=self._accelerator.device)
        for batch in batches:
            own = batch.part(self._accelerator.process_index, self._accelerator.num_processes)
            loss, agreed, _ = self._measured(own)
            found += torch.stack([loss, agreed.float()])
        positions = sum(int(batch.learnt_BT.sum()) for batch in batches)
        summed = self._sum(found).tolist()
        return tuple(each / positions if positions else math.nan for each in summed)  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        """All that a step changes."""
        return {
            "copies": self._weights.tensors,
            "biases": self.balancer.biases,
            "optimizer": self._weights.optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for copy, kept in zip(self._weights.tensors, state["copies"], strict=True):
            copy.copy_(kept)
        self._weights.publish()
        for bias_E, kept in zip(self.balancer.biases, state["biases"], strict=True):
            if bias_E is not None:
                bias_E.copy_(kept)
        self._weights.optimizer.load_state_dict(state["optimizer"])

    def _measured(self, batch: Batch | None) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss and agreements of a batch [], and the load of each expert [L, E]."""
        device = self._accelerator.device
        if batch is None:
            rule = self.student.sizes.router
            shape = (len(self.balancer.biases), rule.experts)
            zero = torch.zeros((), device=device)
            return zero, zero, torch.zeros(shape, dtype=torch.int64, device=device)
        ids_BT, inside_BT, learnt_BT = (
            torch.from_numpy(each).to(device)
            for each in (batch.ids_BT, batch.inside_BT, batch.learnt_BT)
        )
        with torch.no_grad():
            teacher_PD = _hidden(self.teacher, ids_BT)[learnt_BT]
        student_PD = _hidden(self.student, ids_BT)[learnt_BT]
        loss, agreed = divergence(
            (student_PD, self.student.model.get_output_embeddings()),
            (teacher_PD, self.teacher.model.get_output_embeddings()),
            self.student.sizes.vocabulary,
            self._settings.temperature,
        )
        return loss, agreed, self.balancer.loads(inside_BT.flatten())

    def _sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes."""
        summed: Tensor = self._accelerator.reduce(tensor, "sum")
        return summed


def _learning(student: LoadedModel, parts: str) -> list[nn.Parameter]:
    """The weights that learn."""
    if parts == "all":
        return list(student.model.parameters())
    path = student.family.locations["router_logits"].path
    routers = [student.model.get_submodule(path.format(n)) for n in student.sizes.sparse_layers]
    return [parameter for router in routers for parameter in router.parameters()]


def _hidden(lens: LoadedModel, ids_BT: Tensor) -> Tensor:
    """Final hidden states [B, T, D], behind the last norm."""
    output = lens.model.base_model(input_ids=ids_BT, use_cache=False)
    hidden_BTD: Tensor = output.last_hidden_state
    return hidden_BTD
