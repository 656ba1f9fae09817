"""What a CUDA graph does, on the CPU: a step's operations, noted once and then run without Python.

Whatever else Python does in the step (counting, branching, making numbers of tensors) happens while
it is noted and never again, as in a graph.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# What a graph cannot hold: the host would have to look at the device, or shapes depend on numbers.
ASKING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "item")


class _Noting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.notes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ASKING, f"{func} asks the device"
        found = func(*args, **(kwargs or {}))
        self.notes.append((func, args, kwargs or {}, found))
        return found


class AsNoted:
    """Runs a step: the first time as it stands, then as its operations alone.

    Args:
        step: The step.
    """

    def __init__(self, step):
        self.step = step
        self.forget()

    def forget(self):
        self.notes, self.has_run = None, False

    def run(self):
        if not self.has_run:
            self.step.run()
            self.has_run = True
        elif self.notes is None:
            with _Noting() as noting:
                self.step.run()
            self.notes = noting.notes
        else:
            self._again()

    def _again(self):
        now = {}  # what was made in the step, by what it was when it was noted

        def of_now(x):
            return now.get(id(x), x) if isinstance(x, torch.Tensor) else x

        for func, args, kwargs, noted in self.notes:
            found = func(*tree_map(of_now, args), **tree_map(of_now, kwargs))
            for before, after in zip(tree_leaves(noted), tree_leaves(found), strict=True):
                if isinstance(before, torch.Tensor) and after is not before:
                    now[id(before)] = after
