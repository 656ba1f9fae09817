"""Ring (BailingMoeV2) on transformers 5, written for observation.

Module names are those of published checkpoints, ``query_key_value`` stays fused, and the router is
a module of its own whose output holds everything that is needed to say why an expert was chosen.
Mathematics: the published modelling code of the family; see docs/ring.md.

Shape letters: B batch, T tokens, N = B·T, D hidden size, H heads, G kv heads, C head dimension,
R rotated dimensions, V vocabulary.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ringlens.errors import CheckpointError
from ringlens.model.configuration import BailingMoeV2Config
from ringlens.model.conversion import check_checkpoint, prediction_layer_pattern
from ringlens.model.moe import (
    BailingMoeV2ExpertModules,
    BailingMoeV2Experts,
    BailingMoeV2Gate,
    BailingMoeV2MLP,
    BailingMoeV2SparseMoeBlock,
)

log = logging.getLogger(__name__)


class BailingMoeV2RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class BailingMoeV2RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotated part of a head (default, YaRN, …)."""

    inv_freq: Tensor

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        assert config.rope_parameters is not None
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        compute = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = compute(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(
        config: BailingMoeV2Config, *_: object, **__: object
    ) -> tuple[Tensor, float]:
        """Inverse frequencies [R/2] without scaling (transformers calls it under this name)."""
        assert config.rope_parameters is not None
        exponent = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponent, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, T, R] in x's dtype for positions [B, T]."""
        frequencies = self.inv_freq.to(device=x.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate(x_BHTC: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> Tensor:
    """Rotate the first R dimensions of every head, pass the rest through."""
    cos, sin = cos_BTR.unsqueeze(1), sin_BTR.unsqueeze(1)
    turned, passed = x_BHTC.split((cos.shape[-1], x_BHTC.shape[-1] - cos.shape[-1]), dim=-1)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, passed), dim=-1)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Plain attention that also returns the weights [B, H, T, S]; softmax in float32."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def flex_decode_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Flex attention without compiling it: for one query on the CPU, see attention_kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the memory it takes, which is O(n) here
        output = flex_attention(
            query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True
        )
    return output.transpose(1, 2).contiguous(), None


def attention_kernel(name: str, query: Tensor) -> Callable:
    """The function registered under ``name``, with one exception.

    torch 2.13's compiled flex attention reads unwritten memory when a single query decodes on the
    CPU: results are wrong, and differ between runs, from some cache lengths on.
    """
    if name == "flex_attention" and query.device.type == "cpu" and query.shape[2] == 1:
        return flex_decode_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)


class BailingMoeV2Attention(nn.Module):
    """Grouped-query attention with a fused projection and normalised queries and keys."""

    def __init__(self, config: BailingMoeV2Config, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None and config.num_key_value_heads is not None
        self.config = config
        self.layer_idx = layer_idx
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.num_key_value_groups = self.heads // self.kv_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, width, bias=config.use_qkv_bias)
        self.dense = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=config.use_bias)
        if config.use_qk_norm:
            self.query_layernorm = BailingMoeV2RMSNorm(self.head_dim, config.rms_norm_eps)
            self.key_layernorm = BailingMoeV2RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map [B, T, D] to [B, T, D]; the second value is the weights where the kernel has them."""
        B, T, _ = hidden_states.shape
        qkv = self.query_key_value(hidden_states).view(B, T, -1, self.head_dim)
        query, key, value = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.config.use_qk_norm:
            query, key = self.query_layernorm(query), self.key_layernorm(key)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        query, key = rotate(query, *position_embeddings), rotate(key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = attention_kernel(self.config._attn_implementation, query)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.dense(output.reshape(B, T, -1)), weights


class BailingMoeV2DecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward block with residual connections."""

    def __init__(self, config: BailingMoeV2Config, layer_idx: int, experts: type[nn.Module]) -> None:
        super().__init__()
        self.attention = BailingMoeV2Attention(config, layer_idx)
        self.mlp: nn.Module
        if layer_idx in config.sparse_layers:
            self.mlp = BailingMoeV2SparseMoeBlock(config, experts)
        else:
            self.mlp = BailingMoeV2MLP(config, config.intermediate_size)
        self.input_layernorm = BailingMoeV2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = BailingMoeV2RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Map the residual stream [B, T, D] to the next layer's."""
        attended, _ = self.attention(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class BailingMoeV2PreTrainedModel(PreTrainedModel):
    """What both model classes share: loading, checking and initialising."""

    config_class = BailingMoeV2Config
    config: BailingMoeV2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BailingMoeV2DecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "word_embeddings"
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": BailingMoeV2DecoderLayer,
        "attentions": BailingMoeV2Attention,
        "router_logits": OutputRecorder(BailingMoeV2Gate, index=0),
    }

    def __init__(self, config: BailingMoeV2Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        pattern = prediction_layer_pattern(config)
        if pattern is not None:
            self._keys_to_ignore_on_load_unexpected = [pattern]

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers looks for the decorator in this file; it stands in moe.py

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, BailingMoeV2Gate):
            init.normal_(module.weight, mean=0.0, std=std)
            init.zeros_(module.expert_bias)
        elif isinstance(module, BailingMoeV2Experts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a published checkpoint; transformers' method, but nothing missing is made up.

        Raises:
            CheckpointError: A tensor is missing or has another shape than the config says.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        if kwargs.get("config") is None:
            known = {k: kwargs[k] for k in ("revision", "subfolder", "cache_dir") if k in kwargs}
            kwargs["config"] = BailingMoeV2Config.from_pretrained(name, **known)
        config = kwargs["config"]
        if Path(str(name)).is_dir():
            check_checkpoint(Path(name) / kwargs.get("subfolder", ""), config)
        if config.num_nextn_predict_layers:
            log.warning(
                "skipping %d multi-token-prediction layer(s) after layer %d: they do not take part "
                "in ordinary generation",
                config.num_nextn_predict_layers,
                config.num_hidden_layers - 1,
            )
        model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        missing = [key for key in info["missing_keys"] if not key.endswith("gate.expert_bias")]
        if missing:
            raise CheckpointError(f"{name} lacks {sorted(missing)[:3]} ({len(missing)} in all).")
        return (model, info) if wants_info else model


class BailingMoeV2Model(BailingMoeV2PreTrainedModel):
    """The decoder without its head; experts in the fused layout."""

    experts_class: type[nn.Module] = BailingMoeV2Experts

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, config.pad_token_id
        )
        self.layers = nn.ModuleList(
            BailingMoeV2DecoderLayer(config, layer, self.experts_class)
            for layer in range(config.num_hidden_layers)
        )
        self.norm = BailingMoeV2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = BailingMoeV2RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """Final hidden states [B, T, D] of token ids [B, T] (or of embeddings [B, T, D])."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (steps + seen).unsqueeze(0)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=causal_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class BailingMoeV2ModulesModel(BailingMoeV2Model):
    """The decoder with one module an expert.

    A class of its own because transformers looks weight converters up by class name: this layout
    has none, its parameters already carry the checkpoint's names.
    """

    experts_class = BailingMoeV2ExpertModules


MODELS: dict[str, type[BailingMoeV2Model]] = {
    "fused": BailingMoeV2Model,
    "modules": BailingMoeV2ModulesModel,
}


class BailingMoeV2ForCausalLM(BailingMoeV2PreTrainedModel, GenerationMixin):
    """The language model: decoder and head. ``config.experts_layout`` picks the layout."""

    _tied_weights_keys = {"lm_head.weight": "model.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__(config)
        self.model = MODELS[config.experts_layout](config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Next-token logits [B, T, V]; ``logits_to_keep`` asks for the last positions only."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )
