"""The memory budget: each formula against what PyTorch, peft and bitsandbytes really keep, and the 8B numbers."""

from dataclasses import replace

from elm_helpers.budget import (
    ATTENTION,
    LINEAR,
    Setting,
    count_adapter,
    count_rest,
    list_matrices,
    measure_layer,
    measure_nf4,
    measure_states,
    measure_weights,
    predict_memory,
)

import pytest
from transformers import LlamaConfig

LLAMA = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
SMALL = LlamaConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
BATCH = Setting(tokens=40, keys=40, scored=10, rank=4)
GPU = Setting(
    tokens=4096,
    keys=1024,
    scored=1640,
    checkpointing=True,
    optimizer="paged_adamw_8bit",
    attention="sdpa",
)
FULL = replace(GPU, rank=0, quantized=False, optimizer="adamw_torch")


def build_adapted(config, setting, device="meta"):
    """The real Llama with real LoRA layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    with torch.device(device):
        lora = LoraConfig(r=setting.rank, target_modules=list(setting.targets), task_type="CAUSAL_LM")
        return get_peft_model(LlamaForCausalLM(config), lora)


@pytest.mark.parametrize("config", [LLAMA, SMALL], ids=["8B", "small"])
def test_the_parameters_are_those_of_the_model_on_the_meta_device(config):
    import torch
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = {key.split(".")[-2]: tuple(p.shape) for key, p in model.named_parameters() if "layers.1." in key}
    assert {name: shapes[name] for name in LINEAR} == list_matrices(config)
    linear = config.num_hidden_layers * sum(rows * columns for rows, columns in list_matrices(config).values())
    assert linear + count_rest(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("rank", "targets", "trained"),
    [
        (16, ("q_proj", "v_proj"), 6_815_744),  # the seed's "8M parameters, 0.1 %"
        (8, ATTENTION, 6_815_744),  # as many, spread over four matrices
        (16, LINEAR, 41_943_040),  # this course
    ],
)
def test_the_8b_adapter_has_as_many_parameters_as_peft_gives_it(rank, targets, trained):
    model = build_adapted(LLAMA, replace(BATCH, rank=rank, targets=targets))
    assert model.get_nb_trainable_parameters() == (trained, 8_030_261_248 + trained)
    assert count_adapter(LLAMA, rank, targets) == trained
    assert 0.0008 < count_adapter(LLAMA, 16, ("q_proj", "v_proj")) / 8_030_261_248 < 0.001


@pytest.mark.parametrize("shape", [(576, 576), (192, 576), (7, 64), (5, 13)], ids=str)
def test_a_matrix_in_nf4_takes_the_bytes_that_bitsandbytes_holds(shape):
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(shape), blocksize=64, quant_type="nf4", compress_statistics=True)
    tensors = [packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    assert measure_nf4(shape[0] * shape[1]) == sum(tensor.nbytes for tensor in tensors)


def test_only_the_linear_layers_of_the_blocks_are_quantised():
    """transformers' own replacement on the meta device: embeddings, head and norms stay as they are."""
    from elm_helpers.training import build_quantization

    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import LlamaForCausalLM
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    with torch.device("meta"):
        model = LlamaForCausalLM(SMALL)
    skipped = get_keys_to_not_convert(model)
    quantization = build_quantization(torch.bfloat16)
    model = replace_with_bnb_linear(model, modules_to_not_convert=skipped, quantization_config=quantization)
    found = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert found == set(LINEAR)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"compute_bytes": 4},
        {"attention": "sdpa"},
        {"quantized": False},
        {"targets": ("q_proj", "v_proj")},
        {"targets": ATTENTION, "rank": 16},
        {"tokens": 80, "keys": 20, "attention": "sdpa"},
        {"tokens": 80, "keys": 20},
    ],
    ids=str,
)
def test_a_block_keeps_what_autograd_keeps(change):
    """A real forward pass in autocast; every tensor that autograd saves is counted once, the weights left out."""
    import torch

    setting = replace(BATCH, **change)
    assert count_saved(setting) == pytest.approx(3 * measure_layer(SMALL, setting), rel=0.02), torch.__version__


def count_saved(setting) -> int:
    """Return the bytes that autograd holds after the blocks' forward pass, above the weights and their copies."""
    import torch
    from peft.helpers import disable_input_dtype_casting
    from torch.autograd.graph import saved_tensors_hooks

    model = build_adapted(SMALL, setting, "cpu")
    width = torch.bfloat16 if setting.compute_bytes == 2 else torch.float32
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else width)
    if setting.quantized:
        quantize(model, width)
    model.set_attn_implementation(setting.attention)
    ids = torch.arange(setting.tokens).reshape(-1, setting.keys)
    mask = torch.zeros(len(ids), 1, setting.keys, setting.keys, dtype=width).triu(1)
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    saved = {}
    keep = saved_tensors_hooks(lambda x: saved.setdefault(x.untyped_storage().data_ptr(), x) is None or x, lambda x: x)
    with (
        disable_input_dtype_casting(model),
        torch.autocast("cpu", torch.bfloat16, enabled=width != torch.float32),
        keep,
    ):
        states = model.get_base_model().model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
    adapters = {tuple(sorted(p.shape)) for p in model.parameters() if p.requires_grad}
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = [x for key, x in saved.items() if key not in owned and tuple(sorted(x.shape)) not in adapters]
    final = 4 * setting.tokens * SMALL.hidden_size  # the last norm's input
    assert states.last_hidden_state.requires_grad
    return sum(x.untyped_storage().nbytes() for x in kept) - final


def quantize(model, width) -> None:
    """Put real NF4 weights under the adapters."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in list(model.modules()):
        base = getattr(module, "base_layer", None)
        if base is not None:
            packed = Linear4bit(base.in_features, base.out_features, bias=False, compute_dtype=width, quant_type="nf4")
            packed.weight = Params4bit(base.weight.data, requires_grad=False, quant_type="nf4")
            module.base_layer = packed.to("cpu")


def test_with_checkpointing_each_block_keeps_its_input_alone():
    deep = LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 64})
    shallow, double = (predict_memory(config, replace(GPU, rank=0)).activations for config in (LLAMA, deep))
    assert double - shallow == 32 * GPU.tokens * 4096 * 2
    assert shallow < predict_memory(LLAMA, replace(GPU, rank=0, checkpointing=False)).activations / 20


@pytest.mark.parametrize("bits", ["adamw_torch", "paged_adamw_8bit"])
def test_the_optimizers_state_is_as_large_as_the_real_optimizers(bits):
    """One step of the real optimizer on the adapter of a small model."""
    import torch
    from bitsandbytes.optim import AdamW8bit

    setting = replace(BATCH, optimizer=bits, rank=32)
    parameters = [p for p in build_adapted(SMALL, setting, "cpu").parameters() if p.requires_grad]
    optimizer = (torch.optim.AdamW if bits == "adamw_torch" else AdamW8bit)(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    names = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
    held = sum(v.nbytes for state in optimizer.state.values() for k, v in state.items() if k in names)
    assert measure_states(SMALL, setting) == held


def test_another_optimizer_is_refused_by_name():
    with pytest.raises(ValueError, match="'lion'.* adamw_torch and paged_adamw_8bit"):
        predict_memory(LLAMA, replace(GPU, optimizer="lion"))


def test_training_every_weight_of_the_8b_model_takes_the_seeds_64_gb_before_any_activation():
    budget = predict_memory(LLAMA, FULL)
    assert 64.0e9 < budget.weights + budget.gradients + budget.optimizer < 64.5e9


def test_qlora_of_the_8b_model_fits_the_seeds_16_gb():
    budget = predict_memory(LLAMA, GPU)
    assert budget.total < 16e9
    assert 5.6e9 < budget.weights < 5.9e9
    assert measure_weights(LLAMA, replace(GPU, quantized=False)) == 2 * 8_030_261_248


def test_scoring_every_position_takes_gigabytes_more():
    ours, stock = (predict_memory(LLAMA, replace(GPU, scored=scored)).total for scored in (1640, 4096))
    assert stock - ours == pytest.approx(12 * 128256 * (4096 - 1640), rel=0.01)


@pytest.mark.parametrize("field", ["tokens", "rank", "scored"])
def test_more_of_anything_never_takes_less(field):
    sizes = [predict_memory(LLAMA, replace(GPU, **{field: n})).total for n in (1, 64, 512, 2048, 8192)]
    assert sizes == sorted(sizes)
