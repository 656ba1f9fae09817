"""Which values the fields of a configuration may have."""

from ringlens.model.gate.values import check_count, check_each, check_rope, check_types, require

COUNTS = dict.fromkeys(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
        *(
            "num_experts",
            "num_local_experts",
            "num_experts_per_tok",
            "moe_intermediate_size",
            "decoder_sparse_step",
        ),
    ),
    (1, 2**31),
)


def check_fields(values):
    """Refuse what no field can have, and sliding windows, whose attention is another."""
    check_each(values, COUNTS, check_count)
    check_types(values)
    sliding = values.get("use_sliding_window", False)
    require(sliding is False, "use_sliding_window", sliding, "false")
    if values.get("rope_parameters") is not None:
        check_rope(values["rope_parameters"], "rope_parameters")
