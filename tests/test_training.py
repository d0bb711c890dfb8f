"""QLoRA on the real base model, in real NF4, for two steps: what must be true of every run."""

import json

from elm_helpers.curves import read_history
from elm_helpers.paths import SAMPLE
from elm_helpers.profiles import PROFILES

import pytest

CPU = PROFILES["cpu"]
CONTRACT = (
    "rows tokens tokens_per_second seconds peak_memory_bytes final_loss eval_loss trainable_parameters versions config"
)


def read_rows(name, count):
    lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line) for line in lines]


def build_model(base_model, quantized=True):
    from elm_helpers import training

    dtype = training.choose_compute_dtype()
    quantization = training.build_quantization(dtype) if quantized else None
    return (*training.load_for_training(base_model, quantization, dtype, CPU.attention), dtype)


@pytest.fixture(scope="module")
def run(base_model, tmp_path_factory):
    """A real run of two steps: (folder of the adapter, summary, adapter modules of the base model)."""
    from elm_helpers import training

    folder = tmp_path_factory.mktemp("run")
    model, tokenizer, dtype = build_model(base_model)
    linears = {type(m).__name__ for m in model.modules()}
    arguments = training.build_arguments(
        CPU, folder / "steps", dtype, {"max_steps": 2, "logging_steps": 1, "disable_tqdm": True}
    )
    summary = training.train_adapter(
        model,
        tokenizer,
        read_rows("ecommerce_train.json", 24),
        read_rows("ecommerce_eval.json", 4),
        training.build_lora(CPU),
        arguments,
        out=folder / "elm",
        hub_id=CPU.base_model,
        batch_tokens=512,
    )
    return folder / "elm", summary, linears, model


def test_the_base_model_is_really_in_four_bits(run):
    assert "Linear4bit" in run[2]


def test_the_summary_holds_what_the_contract_names(run):
    folder, summary, _, _ = run
    assert json.loads((folder / "training_summary.json").read_text(encoding="utf-8")) == summary
    assert set(CONTRACT.split()) <= set(summary)
    assert summary["trainable_parameters"] == 4_884_480
    assert summary["rows"] == 24
    assert 0 < summary["final_loss"] < 20
    assert 0 < summary["eval_loss"] < 20
    assert summary["peak_memory_bytes"] > 500e6


def test_the_adapters_folder_is_whole(run):
    names = {path.name for path in run[0].iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "generation_config.json"} <= names
    assert {"tokenizer.json", "chat_template.jinja", "training_summary.json", "README.md"} <= names
    config = json.loads((run[0] / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == CPU.base_model
    assert {path.stat().st_mode & 0o777 for path in run[0].iterdir()} == {0o644}  # others may read them, too


def test_the_curves_are_kept_with_the_adapter_and_the_run(run):
    for folder in (run[0], run[0].parent / "steps"):
        history = read_history(folder)
        assert [line["step"] for line in history] == [1, 2]
        assert history[-1]["tokens"] == run[1]["tokens"]
        assert set(history[-1]) >= {"loss", "eval_loss", "learning_rate", "grad_norm", "seconds", "memory_bytes"}


def test_evaluating_takes_no_time_from_the_tokens_a_second(run):
    """The clock stands still while held-out rows are read, in the middle of a run as at its end."""
    assert run[1]["tokens_per_second"] == pytest.approx(run[1]["tokens"] / run[1]["seconds"], rel=0.05)
    assert run[1]["seconds"] == pytest.approx(read_history(run[0])[-1]["seconds"], rel=0.1, abs=0.5)


def test_no_half_written_folder_stays_beside_the_adapter(run):
    assert [path.name for path in run[0].parent.iterdir() if path.name.startswith(".")] == []


def test_the_adapter_changes_the_models_logits(run, base_model):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    ids = torch.arange(100, 130)[None]
    with torch.no_grad():
        before = model(ids).logits
        tuned = PeftModel.from_pretrained(model, run[0])
        after = tuned(ids).logits
    assert (before - after).abs().max() > 1e-3


def test_the_adapter_reloads_to_the_same_outputs(run, base_model):
    """What lies in memory after training, rounded to the file's bf16, and what the folder gives, on the same base."""
    from elm_helpers import training

    import torch
    from peft import PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    trained = {name: weight for name, weight in run[3].named_parameters() if "lora_" in name}
    ids, outputs = torch.arange(100, 130)[None], []
    for place in (None, run[0]):
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, place) if place else get_peft_model(base, training.build_lora(CPU))
        weights = {name.removeprefix("base_model.model."): weight for name, weight in model.named_parameters()}
        for name, weight in trained.items() if place is None else ():
            weights[name].data.copy_(weight.to(torch.bfloat16))
        with torch.no_grad():
            outputs.append(model(ids).logits)
    assert len(trained) == 2 * 7 * 30
    assert torch.equal(*outputs)


@pytest.fixture(scope="module")
def fast_and_stock(base_model, tmp_path_factory):
    """Loss and gradients of one batch on the same fp32 weights: ours, TRL's; the tokens shared; gradients by hand."""
    from elm_helpers import batches, chat, trainer, training

    import torch
    from trl import SFTTrainer

    model, tokenizer, _ = build_model(base_model, quantized=False)
    arguments = training.build_arguments(CPU, tmp_path_factory.mktemp("fast"), torch.float32, {"disable_tqdm": True})
    encoded = chat.run_preflight(tokenizer, read_rows("ecommerce_train.json", 6), 1024)
    ours = trainer.CompletionTrainer(
        model=model.float(),
        args=arguments,
        train_dataset=batches.build_dataset(encoded),
        processing_class=tokenizer,
        peft_config=training.build_lora(CPU),
    )
    batch = ours.data_collator([ours.train_dataset[i] for i in range(len(encoded))])
    found = []
    for compute_loss in (trainer.CompletionTrainer.compute_loss, SFTTrainer.compute_loss):
        ours.model.zero_grad()
        loss = compute_loss(ours, ours.model, dict(batch))
        loss.backward()
        grads = [p.grad.flatten() for p in ours.model.parameters() if p.requires_grad]
        found.append((loss.item(), torch.cat(grads)))
    logits, by_hand = ours.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, []
    for labels in (batch["labels"], torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)):
        ours.model.zero_grad()
        chosen = labels[:, 1:] != -100
        scores = logits[:, :-1][chosen].log_softmax(-1)
        (-scores.gather(1, labels[:, 1:][chosen][:, None]).mean()).backward(retain_graph=True)
        by_hand.append(torch.cat([p.grad.flatten() for p in ours.model.parameters() if p.requires_grad]))
    return *found, batches.count_shared(batch["input_ids"], batch["labels"]), by_hand


def test_the_fast_loss_is_trls_own_loss(fast_and_stock):
    """Only the trained positions projected and the system prompt read once, or everything as TRL does."""
    (fast, _), (stock, _), shared, _ = fast_and_stock
    assert shared >= 15, "the batch has no prompt in common, so nothing was tested"
    assert fast == pytest.approx(stock, abs=1e-3)


def test_the_fast_gradients_are_trls_own_gradients(fast_and_stock):
    (_, fast), (_, stock), _, _ = fast_and_stock
    assert stock.norm() > 0
    assert (fast - stock).norm() / stock.norm() < 1e-3


def test_no_gradient_comes_from_predicting_the_prompt(fast_and_stock):
    """The gradient is that of the answers' tokens, written out by hand, and far from that of all tokens."""
    (_, fast), _, _, (answers, everything) = fast_and_stock
    assert (fast - answers).norm() / answers.norm() < 1e-3
    assert (fast - everything).norm() / everything.norm() > 0.3


def test_the_loss_does_not_depend_on_what_the_prompt_would_be_labelled(base_model):
    from elm_helpers import batches, chat

    from transformers import AutoTokenizer

    encoded = chat.encode(
        AutoTokenizer.from_pretrained(base_model), read_rows("ecommerce_train.json", 1)[0]["messages"]
    )
    row = batches.build_dataset([encoded])[0]
    assert [label != -100 for label in row["labels"]] == [bit == 1 for bit in encoded.mask]
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


def test_batches_hold_every_row_once_and_stay_inside_the_token_budget():
    from elm_helpers.batches import TokenBudgetSampler

    lengths = [20 + (i * 37) % 300 for i in range(1000)]
    packed = list(TokenBudgetSampler(lengths, 1024, seed=0))
    assert sorted(i for batch in packed for i in batch) == list(range(1000))
    assert max(sum(lengths[i] for i in batch) for batch in packed) <= 1024
    assert sum(lengths) / (1024 * len(packed)) > 0.8  # nearly full
    batches = list(TokenBudgetSampler(lengths, 1024, seed=0, padded=True))
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    assert max(max(lengths[i] for i in batch) * len(batch) for batch in batches) <= 1024
    assert sum(lengths) / sum(max(lengths[i] for i in b) * len(b) for b in batches) > 0.85  # little padding


def test_a_row_that_is_longer_than_the_budget_gets_a_batch_of_its_own():
    from elm_helpers.batches import TokenBudgetSampler

    for padded in (False, True):
        batches = list(TokenBudgetSampler([40, 900, 40], 256, seed=0, padded=padded))
        assert [1] in batches and sorted(i for batch in batches for i in batch) == [0, 1, 2]


def test_packed_tokens_see_the_prompt_and_their_own_row_and_nothing_else():
    from elm_helpers.batches import pack_rows

    import torch

    ids = torch.tensor([[5, 6, 1, 2, 3], [5, 6, 7, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    labels = torch.tensor([[-100, -100, -100, 2, 3], [-100, -100, -100, 8, -100]])
    packed, targets = pack_rows(ids, mask, labels, torch.float32)
    assert packed["input_ids"][0, :7].tolist() == [5, 6, 1, 2, 3, 7, 8]
    assert packed["position_ids"][0, :7].tolist() == [0, 1, 2, 3, 4, 2, 3]
    assert targets[0, :7].tolist() == [-100, -100, 2, 3, -100, 8, -100]
    seen = (packed["attention_mask"][0, 0] == 0).int()
    first = seen[:, :7].tolist()
    assert first[4] == [1, 1, 1, 1, 1, 0, 0] and first[6] == [1, 1, 0, 0, 0, 1, 1] and first[1] == [1, 1, 0, 0, 0, 0, 0]
    assert len(seen) == 32 and (targets[0, 7:] == -100).all()  # rounded up, for nothing to learn
    assert not seen[:7, 7:].any() and seen.diagonal().all()  # no token sees what was added, and each sees itself


def test_the_scored_positions_are_the_trained_ones_and_few_others():
    from elm_helpers.batches import pick_trained

    import torch

    torch.manual_seed(0)
    for rows, length in ((1, 352), (3, 70), (1, 40)):
        targets = torch.where(torch.rand(rows, length) < 0.4, 7, -100)
        row, column = pick_trained(targets)
        picked = targets[row, column]
        assert (picked != -100).sum() == (targets != -100).sum()  # every one of them, once
        assert len({*zip(row.tolist(), column.tolist(), strict=True)}) == len(row)
        assert len(row) % 32 == 0 or len(row) == targets.numel()
        assert len(row) - int((targets != -100).sum()) < 32


def test_a_batch_holds_rows_of_one_system_prompt():
    from elm_helpers.batches import TokenBudgetSampler

    groups = ["signed in", "not"] * 200
    batches = list(TokenBudgetSampler([40] * 400, 400, seed=0, groups=groups))
    assert sorted(row for batch in batches for row in batch) == list(range(400))
    assert all(len({groups[row] for row in batch}) == 1 for batch in batches)


@pytest.mark.parametrize(
    ("rows", "untrained", "shared"),
    [
        ([[5, 6, 7, 1, 2]], 4, 0),  # one row: nothing to share
        ([[5, 6, 7, 1, 2], [5, 6, 7, 3, 4]], 4, 3),
        ([[5, 6, 7, 1, 2], [5, 6, 7, 1, 2]], 3, 2),  # the first trained token is predicted from the token before it
        ([[5, 6, 7, 1, 2], [4, 6, 7, 3, 4]], 4, 0),
        ([[5, 6, 7, 1, 2], [5, 6, 7, 3, 4]], 0, 0),
    ],
)
def test_what_a_batch_shares_ends_before_the_first_trained_token(rows, untrained, shared):
    from elm_helpers.batches import count_shared

    import torch

    labels = [[-100] * untrained + row[untrained:] for row in rows]
    assert count_shared(torch.tensor(rows), torch.tensor(labels)) == shared


def test_the_compute_dtype_is_the_faster_one(monkeypatch):
    from elm_helpers import training

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for seconds, dtype in ((1.0, torch.bfloat16), (2.9, torch.float32), (6.0, torch.float32)):
        monkeypatch.setattr(training, "time_product", lambda kind, s=seconds: s if kind == torch.bfloat16 else 3.0)
        training.choose_compute_dtype.cache_clear()
        assert training.choose_compute_dtype() == dtype
    training.choose_compute_dtype.cache_clear()


def test_every_epoch_has_its_own_order_and_the_same_seed_repeats_it():
    from elm_helpers.batches import TokenBudgetSampler

    first, second = (TokenBudgetSampler([50] * 400, 500, seed=3) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)


def test_an_unknown_training_argument_is_refused(tmp_path):
    from elm_helpers import training

    import torch

    with pytest.raises(TypeError, match="learning_rat"):
        training.build_arguments(CPU, tmp_path, torch.float32, {"learning_rat": 1})


def test_preflight_stops_a_run_before_it_starts(base_model, tmp_path):
    from elm_helpers import chat, training

    model, tokenizer, dtype = build_model(base_model)
    arguments = training.build_arguments(CPU, tmp_path / "steps", dtype, {"max_length": 20})
    with pytest.raises(chat.PreflightError, match="truncated_answer"):
        training.train_adapter(
            model,
            tokenizer,
            read_rows("ecommerce_train.json", 3),
            read_rows("ecommerce_eval.json", 3),
            training.build_lora(CPU),
            arguments,
            out=tmp_path / "elm",
            hub_id=CPU.base_model,
            batch_tokens=512,
        )
    assert not (tmp_path / "elm").exists()
    assert not (tmp_path / "steps").exists()


def test_the_8b_adapter_of_the_seed_has_6_815_744_parameters():
    import torch
    from peft import LoraConfig, get_peft_model
    from test_budget import LLAMA
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = get_peft_model(
            LlamaForCausalLM(LLAMA), LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 6_815_744


def test_the_lesson_builds_the_same_configurations_as_the_command():
    """Lesson 03 shows the three configurations in the open, `elm train` builds them from the profile: one recipe."""
    import ast

    from elm_helpers import training
    from elm_helpers.paths import OUTPUTS

    import nbformat
    import torch
    from peft import LoraConfig
    from style import ROOT
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    book = nbformat.read(ROOT / "notebooks" / "03_train_qlora.ipynb", as_version=4)
    cells = ["".join(cell.source) for cell in book.cells if cell.cell_type == "code" and "!git" not in cell.source]
    out, dtype = OUTPUTS / "elm", torch.float32
    names = {"quantization": BitsAndBytesConfig, "lora": LoraConfig, "arguments": SFTConfig}
    space = {"profile": CPU, "dtype": dtype, "run": out, "MAX_STEPS": -1, "torch": torch}
    space |= {kind.__name__: kind for kind in names.values()}
    for node in (node for cell in cells for node in ast.parse(cell).body):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names and isinstance(node.value, ast.Call):
            exec(compile(ast.Module([node], []), "lesson 03", "exec"), space)  # our own notebook's code
    assert space["quantization"].to_dict() == training.build_quantization(dtype).to_dict()
    assert space["lora"].to_dict() == training.build_lora(CPU).to_dict()
    expected = training.build_arguments(CPU, out, dtype)
    assert space["arguments"].to_dict() == expected.to_dict()
