"""Ring (BailingMoeV2) on transformers 5, written for observation.

Module names are those of published checkpoints, ``query_key_value`` stays fused, and the router is
a module of its own whose output holds everything that is needed to say why an expert was chosen.
Mathematics: the published modelling code of the family; see docs/ring.md.

Shape letters: B batch, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ringlens.errors import CheckpointError
from ringlens.model.caching import CACHE, NEW, OLD, given
from ringlens.model.gate.checkpoint import check_checkpoint, check_folder
from ringlens.model.layout import choose_layout
from ringlens.model.parallel import splits_experts
from ringlens.model.quantization import (
    is_offloading,
    keep_head,
    keep_portable,
    quantization_method,
    warn_once,
)
from ringlens.model.ring.attention import (
    BailingMoeV2Attention,
    BailingMoeV2RMSNorm,
    BailingMoeV2RotaryEmbedding,
)
from ringlens.model.ring.configuration import BailingMoeV2Config
from ringlens.model.ring.conversion import checkpoint_tensors, prediction_layer_pattern
from ringlens.model.ring.moe import (
    BailingMoeV2ExpertModules,
    BailingMoeV2Experts,
    BailingMoeV2Gate,
    BailingMoeV2MLP,
    BailingMoeV2SparseMoeBlock,
)
from ringlens.model.ring.sharding import HEAD_TP_PLAN, number_cache, share_rows

log = logging.getLogger(__name__)


class BailingMoeV2DecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward block with residual connections."""

    def __init__(
        self, config: BailingMoeV2Config, layer_idx: int, experts: type[nn.Module]
    ) -> None:
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
    _skip_keys_device_placement = [OLD, NEW]  # noqa: RUF012
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
    def maybe_distribute_model(cls, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Distribute over processes as transformers does; caches are right, rows shared."""
        model = super().maybe_distribute_model(model, *args, **kwargs)
        number_cache(model)
        share_rows(model)
        return model

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers looks for the decorator in this file; it stands in moe.py

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # likewise: the kernel is looked up in attention.py

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

        Where ``experts_layout`` is not given, a quantiser that works on modules gets modules.

        Raises:
            CheckpointError: A tensor is missing or has another shape than the config says.
            ConfigError: The experts layout does not fit the quantiser.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        if kwargs.get("config") is None:
            known = {k: kwargs[k] for k in ("revision", "subfolder", "cache_dir") if k in kwargs}
            asked = kwargs.pop("experts_layout", None)
            kwargs["config"] = BailingMoeV2Config.from_pretrained(
                name, experts_layout=asked, **known
            )
        config = kwargs["config"] = copy.copy(kwargs["config"])
        given = kwargs.get("quantization_config")
        method = quantization_method(config, given)
        if method == "bitsandbytes":
            kwargs["quantization_config"] = keep_head(given)
            warn_once()
        config.experts_layout = choose_layout(
            config.experts_layout,
            method=method,
            offloads=is_offloading(kwargs.get("device_map"), kwargs.get("offload_folder")),
            sharded=splits_experts(kwargs.get("distributed_config")),
        )
        if cls is BailingMoeV2Model:
            cls = MODELS[config.experts_layout]
        if Path(str(name)).is_dir():
            folder = Path(name) / kwargs.get("subfolder", "")
            check_folder(folder)
            check_checkpoint(folder, config, checkpoint_tensors(config))
            kwargs["use_safetensors"] = True
        if config.num_nextn_predict_layers:
            log.warning(
                "skipping %d multi-token-prediction layer(s) after layer %d: they do not take part "
                "in ordinary generation",
                config.num_nextn_predict_layers,
                config.num_hidden_layers - 1,
            )
        load = PreTrainedModel.from_pretrained.__func__
        model, info = load(cls, name, *args, output_loading_info=True, **kwargs)
        missing = [key for key in info["missing_keys"] if not key.endswith("gate.expert_bias")]
        if missing:
            raise CheckpointError(f"{name} lacks {sorted(missing)[:3]} ({len(missing)} in all).")
        keep_portable(model)
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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """Final hidden states [B, T, D] of token ids [B, T] (or of embeddings [B, T, D])."""
        cache = given(cache, past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        # The mask looks for packed sequences in them and waits for the device: only if given.
        packed_ids = position_ids
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (steps + seen).unsqueeze(0)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=packed_ids,
            **{CACHE: cache},
        )
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=causal_mask,
                position_ids=position_ids,
                cache=cache,
                use_cache=use_cache,
                **kwargs,
            )
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})


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
    _tp_plan = HEAD_TP_PLAN
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # noqa: RUF012

    def __init__(self, config: BailingMoeV2Config) -> None:
        config.experts_layout = config.experts_layout or "fused"
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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Next-token logits [B, T, V]; ``logits_to_keep`` asks for the last positions only."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given(cache, past_key_values),
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
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            **{CACHE: outputs.get(CACHE)},
        )
