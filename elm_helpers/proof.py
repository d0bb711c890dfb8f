"""Proof that what was published works: downloaded into an empty folder, loaded, and scored again."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elm_helpers.base_model import read_base_model
from elm_helpers.card import read_base, read_card
from elm_helpers.cases import build_case, read_rows
from elm_helpers.chat import encode_prompt
from elm_helpers.engines import open_engine
from elm_helpers.evaluate import System, answer_cases
from elm_helpers.hub import explain_hub_errors
from elm_helpers.judge import score_answers
from elm_helpers.metrics import Metric
from elm_helpers.paths import OUTPUTS, PROCESSED, SAMPLE
from elm_helpers.prompts import GUEST
from elm_helpers.runtime import quiet_libraries

from huggingface_hub import HfApi

QUESTION = "Find wireless headphones under $100"


@dataclass(frozen=True)
class Proof:
    """What came back from the Hub.

    Attributes:
        repo_id: Which repository.
        commit: Its newest commit.
        files: How many files were downloaded, and their bytes.
        difference: Largest change that the adapter makes to a logit of `QUESTION`.
        claims: The card's figures.
        scores: The same metrics, measured again on fewer rows.
    """

    repo_id: str
    commit: str
    files: tuple[int, int]
    difference: float
    claims: Mapping[str, Metric]
    scores: Mapping[str, Metric]


def read_claims(folder: Path) -> dict[str, Metric]:
    """Return the figures that a model card claims, with their intervals.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    results = read_card(folder).data.eval_results or ()
    return {
        one.metric_name: Metric(one.metric_value, *one.metric_args["interval_95"], one.metric_args["n"])
        for one in results
    }


def measure_adapter(folder: Path) -> float:
    """Return the largest difference between a logit with and without the adapter; 0 means that it does nothing.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = read_base_model(read_base(folder), verbose=False)
    with quiet_libraries(), torch.no_grad():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), folder).eval()
        talk = [{"role": "system", "content": GUEST}, {"role": "user", "content": QUESTION}]
        ids = torch.tensor([encode_prompt(AutoTokenizer.from_pretrained(folder), talk)])
        tuned = model(ids).logits
        with model.disable_adapter():
            return float((tuned - model(ids).logits).abs().max())


def prove_push(
    repo_id: str, *, each: int = 10, rows: Path | None = None, endpoint: str | None = None, token: str | None = None
) -> Proof:
    """Download what was published into an empty folder, see that the adapter is active, and score it again.

    It is scored as the scoreboard was: by llama.cpp with 8-bit weights, with the published GGUF if there is one.

    Args:
        repo_id: ``owner/name``.
        each: Rows of each of the five kinds; 10 are 50 rows.
        rows: Held-out rows; None is the course's file, else its sample.
        endpoint: Address of the Hub; None takes ``HF_ENDPOINT``, else the public one.
        token: None takes ``HF_TOKEN`` or the one of `hf auth login`.

    Raises:
        ValueError: The adapter changes nothing, or the card is not valid.
        PermissionError, ConnectionError: As `explain_hub_errors` says.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    found = next((path for path in (PROCESSED, SAMPLE) if (path / "ecommerce_eval.json").is_file()), SAMPLE)
    OUTPUTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="proof-", dir=OUTPUTS, ignore_cleanup_errors=True) as name:
        folder, api = Path(name), HfApi(endpoint=endpoint, token=token)
        with explain_hub_errors(repo_id):
            commit = api.model_info(repo_id).sha
            api.snapshot_download(repo_id, revision=commit, local_dir=folder, ignore_patterns=["merged/*"])
        sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
        claims, difference = read_claims(folder), measure_adapter(folder)
        if not difference:
            raise ValueError(f"{repo_id}: the adapter changes no logit; was the wrong file published?")
        cases = [build_case(row) for row in read_rows(rows or found / "ecommerce_eval.json", each)]
        scores = score_answers(answer_cases(System("published", open_engine(folder)), cases, timed=0))
    return Proof(repo_id, commit, (len(sizes), sum(sizes)), difference, claims, scores)


def list_disagreements(proof: Proof) -> list[str]:
    """Return the metrics whose interval on the card and interval here don't overlap.

    Example:
        >>> claims, scores = {"a": Metric(0.9, 0.85, 0.94, 200)}, {"a": Metric(0.2, 0.06, 0.51, 10)}
        >>> list_disagreements(Proof("ann/elm", "0" * 40, (1, 1), 1.0, claims, scores))
        ['a']

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    both = [name for name in proof.claims if name in proof.scores]
    pairs = {name: (proof.claims[name], proof.scores[name]) for name in both}
    return [name for name, (card, here) in pairs.items() if card.high < here.low or here.high < card.low]


def describe_proof(proof: Proof) -> list[str]:
    """Return a proof as lines to read.

    Raises:
        ValueError: A figure of the card doesn't hold.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    count, size = proof.files
    lines = [
        f"{proof.repo_id} at {proof.commit[:12]}: {count} files, {size / 1e6:,.1f} MB, downloaded into an empty folder",
        f"the adapter moves a logit by up to {proof.difference:.1f}",
        f"{'metric':<22}{'card':>16}{'here':>18}{'rows':>6}",
    ]
    for name, card in proof.claims.items():
        if here := proof.scores.get(name):
            lines.append(f"{name:<22}{_format(card):>16}{_format(here):>18}{here.n:>6}")
    wrong = list_disagreements(proof)
    if wrong:
        raise ValueError("\n".join([*lines, f"the card's intervals don't meet what was measured: {', '.join(wrong)}"]))
    return [*lines, "each interval meets the card's" if proof.claims else "the card claims no figures"]


def _format(metric: Metric) -> str:
    return f"{100 * metric.value:.0f} % ({100 * metric.low:.0f}–{100 * metric.high:.0f})"
