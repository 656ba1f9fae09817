"""Texts that are looked into, and what of a model must stay as it was."""

import tiny_lens

TEXT = tiny_lens.prompt(74, 276, 166, 285, 103, 65)


SHORT = tiny_lens.prompt(9, 50, 173)


def state(model):
    """All that modules hold but weights, and bitsandbytes' working memory of a forward."""
    left_out = ("_parameters", "state")
    return [
        (name, {key: repr(value) for key, value in vars(module).items() if key not in left_out})
        for name, module in model.named_modules()
    ]
