"""How much memory training takes, worked out before a weight is loaded: bytes a part, from a model's shape alone."""

from dataclasses import asdict, dataclass
from math import ceil

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")  # what peft calls "all-linear" in a Llama
CUDA_CONTEXT = 500_000_000  # bytes that CUDA and its libraries take before the first tensor; a rule of thumb
CPU_SCRATCH = 150_000_000  # bytes that a CPU's kernels and threads hold beside the tensors; measured, small model


@dataclass(frozen=True)
class Setting:
    """A way to train: what besides the model decides the memory.

    Attributes:
        tokens: Tokens that the largest batch computes, padding included.
        keys: Tokens that each of them is compared with: the whole of a packed batch, the longest row of a padded one.
        scored: Positions that are projected onto the vocabulary: those that bear loss here, all of them in most
            trainers.
        rank: Rank of the LoRA matrices; 0 trains all weights.
        targets: Linear layers that get an adapter.
        quantized: NF4 with double quantisation in place of 16 or 32 bits.
        compute_bytes: Bytes of a number in computing: 2 for bf16 and fp16, 4 for fp32.
        checkpointing: Keep only each layer's input, and compute the rest again in the backward pass.
        optimizer: ``adamw_torch`` (two moments, each as wide as its parameter) or ``paged_adamw_8bit``.
        attention: ``eager`` keeps every token's scores; ``sdpa`` computes them in blocks and keeps none.
        mapped: The weights' file stays mapped into memory, as on a CPU.
    """

    tokens: int
    keys: int
    scored: int
    rank: int = 16
    targets: tuple[str, ...] = LINEAR
    quantized: bool = True
    compute_bytes: int = 2
    checkpointing: bool = False
    optimizer: str = "adamw_torch"
    attention: str = "eager"
    mapped: bool = False


@dataclass(frozen=True)
class Budget:
    """Bytes of each part at the moment that takes the most."""

    process: int
    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int

    @property
    def total(self) -> int:
        """The peak, in bytes."""
        return sum(asdict(self).values())


def list_matrices(config) -> dict[str, tuple[int, int]]:
    """Return the linear layers of one block of a Llama: name -> (outputs, inputs).

    Args:
        config: A ``LlamaConfig``, or one with its fields.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = size * config.num_attention_heads, size * config.num_key_value_heads
    shapes = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    return dict(zip(LINEAR, [*shapes, (wide, hidden), (wide, hidden), (hidden, wide)], strict=True))


def count_rest(config) -> int:
    """Return the parameters outside the blocks' linear layers, which are never quantised: embeddings, head, norms.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    tables = 1 if config.tie_word_embeddings else 2
    return config.hidden_size * (tables * config.vocab_size + 2 * config.num_hidden_layers + 1)


def count_adapter(config, rank: int, targets: tuple[str, ...] = LINEAR) -> int:
    """Return the parameters that LoRA trains: r x (inputs + outputs) for each adapted layer (Hu et al. 2021).

    Example:
        >>> from types import SimpleNamespace
        >>> shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
        >>> llama = SimpleNamespace(**shape, num_key_value_heads=8, num_hidden_layers=32)
        >>> count_adapter(llama, 16, ("q_proj", "v_proj")), count_adapter(llama, 16)
        (6815744, 41943040)

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return config.num_hidden_layers * rank * sum(sum(list_matrices(config)[name]) for name in targets)


def measure_nf4(weights: int) -> int:
    """Return the bytes of a matrix in NF4 with double quantisation, as bitsandbytes stores it.

    Half a byte a weight; an 8-bit scale for each 64 of them; a 32-bit scale for each 256 scales (Dettmers et al. 2023,
    section 3); and in each matrix both code books, of 16 and of 256 numbers, and one offset.

    Example:
        >>> measure_nf4(576 * 1536)
        457500

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    scales = ceil(weights / 64)
    return ceil(weights / 2) + scales + 4 * ceil(scales / 256) + 4 * (16 + 256 + 1)


def measure_weights(config, setting: Setting) -> int:
    """Return the bytes of the base model's weights.

    Only the blocks' linear layers are quantised. On a CPU the embeddings are not copied: they lie in the mapped file,
    and the file is resident as far as it has been read, which loading does to the end. So its bytes count in place of
    theirs.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    matrices, layers = list_matrices(config).values(), config.num_hidden_layers
    rest, linear = count_rest(config), _count_linear(config)
    if not setting.quantized:
        return setting.compute_bytes * (linear + rest)
    packed = layers * sum(measure_nf4(rows * columns) for rows, columns in matrices)
    return packed + setting.compute_bytes * (rest + (linear if setting.mapped else 0))


def measure_states(config, setting: Setting) -> int:
    """Return the bytes of AdamW's two moments (Loshchilov & Hutter 2019), after the first step.

    In 8 bits each number takes one byte, and each block of 256 shares a 32-bit scale (Dettmers et al. 2022); tensors of
    fewer than 4,096 numbers stay in 32 bits.

    Raises:
        ValueError: Another optimizer than these two.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if not setting.rank:
        trained, width = count_rest(config) + _count_linear(config), setting.compute_bytes
        tensors = [(trained, 1)]
    else:
        shapes = [list_matrices(config)[name] for name in setting.targets]
        tensors = [(setting.rank * side, config.num_hidden_layers) for shape in shapes for side in shape]
        width = 4
    if setting.optimizer == "adamw_torch":
        return 2 * width * sum(size * times for size, times in tensors)
    if setting.optimizer == "paged_adamw_8bit":
        return 2 * sum(times * (size + 4 * ceil(size / 256) if size >= 4096 else 4 * size) for size, times in tensors)
    raise ValueError(f"optimizer {setting.optimizer!r}: the budget knows adamw_torch and paged_adamw_8bit")


def _count_linear(config) -> int:
    """Return the parameters of the linear layers of all blocks."""
    return config.num_hidden_layers * sum(rows * columns for rows, columns in list_matrices(config).values())


def measure_layer(config, setting: Setting) -> int:
    """Return the bytes that one block keeps for its backward pass: what PyTorch's autograd saves, tensor by tensor.

    Every token leaves behind: two norms' inputs in fp32; the inputs of trained or adapted layers, one for those that
    share it; queries, and keys and values repeated for each query head; gate, its SiLU and the other factor; and r
    numbers for each adapter. Eager attention adds a softmax in fp32 and its copy in the compute format for each key and
    head. Korthikanti et al. 2022, section 4.1, count the same way; test_budget.py compares with what autograd holds.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    hidden, wide, width = config.hidden_size, config.intermediate_size, setting.compute_bytes
    targets = set(setting.targets if setting.rank else LINEAR)
    heads, queries = config.num_attention_heads, list_matrices(config)["q_proj"][0]
    shared = [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]
    numbers = hidden * sum(bool(targets & group) for group in shared) + 3 * queries + 3 * wide
    numbers += wide * ("down_proj" in targets) + setting.rank * len(targets)
    if setting.attention == "eager":
        numbers += queries * ("o_proj" in targets)
        scores = heads * setting.keys * (4 + (width if width < 4 else 0))
    else:
        numbers += queries  # the output, which the blockwise backward pass needs, and
        scores = 4 * heads  # the logarithm of each softmax's sum (Dao 2023)
    return setting.tokens * (8 * hidden + numbers * width + scores)


def predict_memory(config, setting: Setting, process: int = CUDA_CONTEXT) -> Budget:
    """Return what training takes at its peak, part by part.

    Two moments compete. When the loss is computed, all that the backward pass needs is there, and the scored logits
    three times in fp32: their log-softmax, and the gradients of both. In a block's backward pass the logits are gone,
    but a matrix is unpacked, three gradients of the widest activations or of eager attention's scores are held, and
    with checkpointing the block's activations are back. Gradients count whole, though the first moment precedes them.

    Args:
        config: Shape of the model, a ``LlamaConfig``.
        setting: How it is trained.
        process: Bytes that are taken before the model comes: resident memory after the imports on a CPU (its kernels'
            scratch memory, `CPU_SCRATCH`, is added), the context of CUDA on a GPU.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    width, layers, layer = setting.compute_bytes, config.num_hidden_layers, measure_layer(config, setting)
    trained = count_adapter(config, setting.rank, setting.targets)
    kept = layers * (setting.tokens * config.hidden_size * width if setting.checkpointing else layer)
    kept += width * trained if width < 4 else 0  # autocast's copies of the adapters
    logits = 3 * 4 * setting.scored * config.vocab_size
    spread = 3 * config.intermediate_size * width
    if setting.attention == "eager":
        spread = max(spread, setting.keys * config.num_attention_heads * (8 + width))
    matrix = max(rows * columns for rows, columns in list_matrices(config).values())
    work = setting.tokens * spread + width * matrix * setting.quantized
    block = layer if setting.checkpointing else 0
    kept, logits, work = (kept, logits, 0) if logits >= block + work else (kept + block, 0, work)
    everything = _count_linear(config) + count_rest(config)
    gradients = 4 * trained if setting.rank else width * everything
    states = measure_states(config, setting)
    process += CPU_SCRATCH if setting.mapped else 0
    return Budget(process, measure_weights(config, setting), 4 * trained, gradients, states, kept, logits, work)
