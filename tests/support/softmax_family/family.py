"""What this family answers to the questions of the seam."""

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_moe.modeling_qwen3_moe import eager_attention_forward

from ringlens.model.family import ExpertPlaces, WeightPlace
from ringlens.model.gate.checkpoint import check_checkpoint
from softmax_family.conversion import checkpoint_tensors, expert_names
from softmax_family.fields import check_fields
from softmax_family.points import LOCATIONS
from softmax_family.sharding import split_widths
from softmax_family.sizes import KINDS, UNITS, buffers, sizes


class SoftmaxFamily:
    """Qwen3-MoE."""

    locations, units, kinds, layouts = LOCATIONS, UNITS, KINDS, ("fused",)
    in_place = False
    check_values = staticmethod(check_fields)
    config = staticmethod(Qwen3MoeConfig.from_dict)
    sizes = staticmethod(sizes)
    tensors = staticmethod(checkpoint_tensors)
    expert_names = staticmethod(expert_names)
    buffers = staticmethod(buffers)
    split_widths = staticmethod(split_widths)

    def stated(self):
        """Keys of a config.json that describe such a model."""
        return frozenset(Qwen3MoeConfig.__annotations__)

    def load(self, folder, config, layout, **options):
        """Check the weights, then load them."""
        check_checkpoint(folder, config, checkpoint_tensors(config))
        return Qwen3MoeForCausalLM.from_pretrained(
            folder, config=config, use_safetensors=True, **options
        )

    def layout_of(self, config):
        """The only one."""
        return "fused"

    def selection_bias(self, router):
        """None."""
        return

    def router_weight(self, router):
        """Of the router itself."""
        return router.weight

    def expert_places(self, experts, expert):
        """In two parameters for all experts."""
        read, write = (WeightPlace(experts, name, expert) for name in ("gate_up_proj", "down_proj"))
        return ExpertPlaces((read,), (write,))

    def route(self, router, logits_NE):
        """What the router does after its product."""
        weights_Nk, ids_Nk = logits_NE.softmax(dim=-1).topk(router.top_k, dim=-1)
        if router.norm_topk_prob:
            weights_Nk = weights_Nk / weights_Nk.sum(dim=-1, keepdim=True)
        return logits_NE, weights_Nk, ids_Nk

    def routing_weights(self, router, logits_NE, ids_Nk):
        """Shares of the softmax."""
        weights_Nk = logits_NE.softmax(dim=-1).gather(1, ids_Nk)
        if router.norm_topk_prob:
            weights_Nk = weights_Nk / weights_Nk.sum(dim=-1, keepdim=True)
        return weights_Nk

    def attention_kernel(self, name, query):
        """As the model looks it up."""
        return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)


FAMILY = SoftmaxFamily()
