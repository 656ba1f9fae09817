"""How dense weights are shared out; the plans themselves are transformers' own."""

from softmax_family.sizes import head_dim


def split_widths(config):
    """Widths that tensor parallelism splits."""
    C = head_dim(config)
    return {
        "queries": config.num_attention_heads * C,
        "keys, values": config.num_key_value_heads * C,
        "dense FFN": config.intermediate_size,
    }
