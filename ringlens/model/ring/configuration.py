"""The configuration of a Ring model, in every spelling that published checkpoints use."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ringlens.errors import ConfigError, RinglensError
from ringlens.model.gate.values import require
from ringlens.model.layout import LAYOUTS
from ringlens.model.ring.fields import check_fields, check_size
from ringlens.model.ring.sharding import EP_PLAN, PP_PLAN, TP_PLAN

ARCHITECTURES = ("BailingMoeV2ForCausalLM", "BailingMoeV2Model")


class BailingMoeV2Config(PreTrainedConfig):
    """Configuration of the Ring family (Ling 2.0 architecture).

    Field names are those of the published ``config.json``. Rotary settings are accepted as
    ``rope_theta`` + ``rope_scaling`` (with ``type`` or ``rope_type``) or as transformers 5's
    ``rope_parameters``; the rotated share of a head as ``partial_rotary_factor`` or ``rotary_dim``.
    ``experts_layout`` says how the experts are held in memory ("fused": 3-D parameters, fast;
    "modules": one module an expert, for quantisers and offloading; None: loading chooses); it is
    never saved.

    Raises:
        ConfigError: The configuration is of another architecture or contradicts itself.
    """

    model_type = "bailing_moe"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012 (transformers' own spelling)
    base_model_tp_plan: ClassVar[dict[str, str]] = TP_PLAN
    base_model_ep_plan: ClassVar[dict[str, str]] = EP_PLAN
    base_model_pp_plan: ClassVar[dict[str, tuple[list[str], list[str]]]] = PP_PLAN

    vocab_size: int = 157184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    use_qkv_bias: bool = False
    use_bias: bool = False
    use_qk_norm: bool = True
    attention_dropout: float = 0.0
    rope_parameters: dict | None = None
    num_experts: int = 256
    num_shared_experts: int | None = 1
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    moe_intermediate_size: int = 512
    first_k_dense_replace: int = 1
    routed_scaling_factor: float = 1.0
    score_function: str = "sigmoid"
    # None: not stated; the tensors of the checkpoint decide.
    moe_router_enable_expert_bias: bool | None = None
    num_nextn_predict_layers: int | None = 0
    output_router_logits: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    experts_layout: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Bring every spelling to one form, then check it."""
        stated = {f.name: getattr(self, f.name) for f in fields(BailingMoeV2Config)}
        check_fields({**stated, **kwargs})
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if not self.num_key_value_heads:
            self.num_key_value_heads = self.num_attention_heads
        self.num_nextn_predict_layers = self.num_nextn_predict_layers or 0
        scaled = kwargs.pop("rope_scaling", None)
        both = bool(scaled and self.rope_parameters) and scaled != self.rope_parameters
        require(not both, "rope_scaling", scaled, "left out where rope_parameters says otherwise")
        scaling = scaled or self.rope_parameters or {}
        factor = self._rotary_factor(scaling, kwargs)
        self.rope_parameters = {
            **{key: value for key, value in scaling.items() if key != "type"},
            "rope_type": scaling.get("rope_type") or scaling.get("type") or "default",
            "rope_theta": scaling.get("rope_theta", kwargs.pop("rope_theta", 600000.0)),
            "partial_rotary_factor": factor,
        }
        kwargs.pop("rope_theta", None)
        super().__post_init__(**kwargs)
        self._check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the values of a ``config.json``; transformers' method.

        Raises:
            ConfigError: A value that its field cannot have, one of transformers' own included.
        """
        try:
            return super().from_dict(config_dict, **kwargs)
        except RinglensError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise ConfigError(f"the model's config.json is malformed: {error}.") from error

    def _rotary_factor(self, scaling: dict[str, Any], kwargs: dict[str, Any]) -> float:
        """Share of the head that is rotated; every place that states it must agree."""
        assert self.head_dim is not None
        rotary_dim = kwargs.pop("rotary_dim", None)
        stated = {
            "partial_rotary_factor": kwargs.pop("partial_rotary_factor", None),
            "rope_parameters.partial_rotary_factor": scaling.get("partial_rotary_factor"),
            "rotary_dim / head_dim": None if rotary_dim is None else rotary_dim / self.head_dim,
        }
        known = {place: float(value) for place, value in stated.items() if value is not None}
        if len(set(known.values())) > 1:
            raise ConfigError(
                f"config.json disagrees about how much of a head is rotated: {known}. "
                "Remove the wrong entry."
            )
        # The published modelling code rotates the whole head where nothing is stated.
        return next(iter(known.values()), 1.0)

    def _check(self) -> None:
        others = [name for name in self.architectures or [] if name not in ARCHITECTURES]
        if others:
            raise ConfigError(
                f"architecture {others[0]!r} is not Ring's: the older Ling models share model_type "
                f"'bailing_moe', and ringlens loads {ARCHITECTURES[0]!r} only. "
                "Load this checkpoint with its own code (trust_remote_code=True, without ringlens)."
            )
        require(
            self.experts_layout in (None, *LAYOUTS),
            "experts_layout",
            self.experts_layout,
            " or ".join(LAYOUTS),
        )
        require(
            self.num_attention_heads % (self.num_key_value_heads or 1) == 0,
            "num_key_value_heads",
            self.num_key_value_heads,
            f"a divisor of num_attention_heads = {self.num_attention_heads}",
        )
        require(
            0 <= self.first_k_dense_replace <= self.num_hidden_layers,
            "first_k_dense_replace",
            self.first_k_dense_replace,
            f"0 to num_hidden_layers = {self.num_hidden_layers}",
        )
        assert self.rope_parameters is not None
        rotary_dim = self.rotary_dim
        require(
            0 < rotary_dim <= (self.head_dim or 0) and rotary_dim % 2 == 0,
            "rotary_dim",
            rotary_dim,
            f"even, positive and at most head_dim = {self.head_dim}",
        )
        self._check_groups()
        check_size({**vars(self)})

    def _check_groups(self) -> None:
        require(
            self.n_group > 0 and self.num_experts % self.n_group == 0,
            "n_group",
            self.n_group,
            f"a divisor of num_experts = {self.num_experts}",
        )
        require(
            1 <= self.topk_group <= self.n_group,
            "topk_group",
            self.topk_group,
            f"1 to n_group = {self.n_group}",
        )
        size = self.num_experts // self.n_group
        require(
            size >= 2,
            "num_experts",
            self.num_experts,
            f"at least 2 experts in each of {self.n_group} groups (a group's score is the sum of "
            "its two best)",
        )
        require(
            1 <= self.num_experts_per_tok <= self.topk_group * size,
            "num_experts_per_tok",
            self.num_experts_per_tok,
            f"1 to {self.topk_group * size}, the experts in {self.topk_group} groups of {size}",
        )

    @property
    def rotary_dim(self) -> int:
        """Rotated dimensions of a head."""
        assert self.rope_parameters is not None and self.head_dim is not None
        return int(self.head_dim * self.rope_parameters["partial_rotary_factor"])

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """Layers that route to experts, ascending."""
        return tuple(range(self.first_k_dense_replace, self.num_hidden_layers))

    def to_dict(self) -> dict[str, Any]:
        """The published spelling, so that saved checkpoints open wherever published ones do."""
        output = super().to_dict()
        output.pop("experts_layout", None)
        if output.get("moe_router_enable_expert_bias") is None:
            output.pop("moe_router_enable_expert_bias", None)
        rope = dict(output.pop("rope_parameters", None) or {})
        output["rope_theta"] = rope.pop("rope_theta", None)
        output["partial_rotary_factor"] = rope.pop("partial_rotary_factor", None)
        scaled = rope.get("rope_type", "default") != "default"
        output["rope_scaling"] = {**rope, "type": rope["rope_type"]} if scaled else None
        return output
