"""llama.cpp's tokenizer, read from the real GGUF, against transformers': 1,000 strings, and whole conversations.

Our engine sends ids, so it can't disagree with training. Ollama, LM Studio and llama-server are sent text.
"""

import json
import random
import re

from elm_helpers.chat import encode_prompt, list_special, render_text
from elm_helpers.export import find_tokenizer, write_gguf
from elm_helpers.paths import SAMPLE
from elm_helpers.phrasebook import read_phrasebook
from elm_helpers.tool_calls import ToolCall, format_tool_call

import httpx
import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

COUNT = 1_000
EMOJI = ("😀", "👍🏽", "👩‍👩‍👧", "🇩🇪", "❤️", "🛒📦", "™", "☕️")
LETTERS = (
    "Käse",
    "naïve",
    "Łódź",
    "привет",
    "你好",
    "こんにちは",
    "مرحبا",
    "שלום",
    "한국어",
    "é",
    "½",
    "²",
    "№",
    "€",
    "₹",
)
SPACES = ("", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u3000", "\r\n")
LIKE_SPECIAL = ("<|im_end", "|im_end|>", "< |im_end|>", "<|im_end |>", "<im_start>", "<|user|>", "</s>", "<|IM_END|>")
# What a tokenizer that doesn't set digits apart splits otherwise: "  5" as two spaces, not as one token.
SPACED_NUMBER = re.compile(r"\s\s[\d½²]| [½²]")


def make_words(rng: random.Random, phrases: list[str]) -> str:
    """Return something of each kind that a customer, a shop or an attacker writes."""
    number, price = rng.randrange(10 ** rng.randint(1, 9)), rng.randrange(1, 500_000) / 100
    arguments = {"query": rng.choice((*LETTERS, *EMOJI, 'a "quoted" mug')), "max_price": price}
    return rng.choice(
        (
            rng.choice(phrases),
            rng.choice(EMOJI) * rng.randint(1, 3),
            rng.choice(LETTERS),
            rng.choice((f"{number}", f"{number:,}", f"{number / 7:.3f}", f"-{number}e{number % 9}")),
            rng.choice((f"${price:,.2f}", f"{price:.2f} €", f"£{price:.0f}", f"{price:,.2f}".replace(",", "\u202f"))),
            rng.choice((f"#ELM-{number}", f"order {number:08d}", f"BX-{number}/{number % 7}", f"SKU{number}A")),
            format_tool_call(ToolCall("search_products", arguments)),
            rng.choice(LIKE_SPECIAL),
        )
    )


def make_strings(phrases: list[str], special: list[str]) -> list[str]:
    """Return 1,000 strings, the same ones every time; some hold a real special token."""
    rng, strings = random.Random(0), []
    for index in range(COUNT):
        words = [make_words(rng, phrases) for _ in range(rng.randint(1, 5))]
        words += rng.sample(special, 1) if index % 5 == 0 else []
        rng.shuffle(words)
        gaps = [rng.choice(SPACES) if rng.random() < 0.3 else " " for _ in words]
        text = "".join(gap + word for gap, word in zip(gaps, words, strict=True)) + rng.choice(SPACES)
        strings.append(text if rng.random() < 0.8 else text.upper())
    return strings


@pytest.fixture(scope="module")
def read_ids(reference):
    """Return the function that gives llama.cpp's ids of a text, from its own /tokenize."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(write_gguf(reference))
    params.n_ctx, params.n_parallel, params.port, params.verbosity, params.warmup = 256, 1, 0, -1, False
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=30) as client:

        def read(text: str) -> list[int]:
            asked = {"content": text, "add_special": False, "parse_special": True}
            answer = client.post("/tokenize", json=asked)
            answer.raise_for_status()
            return answer.json()["tokens"]

        yield read


@pytest.fixture(scope="module")
def own(reference):
    """The tokenizer that training, data and engines use."""
    return Tokenizer.from_file(str(find_tokenizer(reference) / "tokenizer.json"))


@pytest.fixture(scope="module")
def strings(smol):
    book = read_phrasebook()
    phrases = [phrase.text for requests in book.requests.values() for phrase in requests.phrases]
    phrases += [phrase.text for intent in book.intents for phrase in (*intent.asks, *intent.replies)]
    assert len(phrases) > 200
    return make_strings(phrases, list(list_special(smol)))


@pytest.fixture(scope="module")
def told(read_ids, strings):
    """What llama.cpp makes of each string."""
    return [read_ids(text) for text in strings]


def find_other(tokenizer: Tokenizer, strings: list[str], told: list[list[int]]) -> list[str]:
    """Return the strings that a tokenizer splits otherwise than llama.cpp."""
    pairs = zip(strings, told, strict=True)
    return [text for text, ids in pairs if tokenizer.encode(text, add_special_tokens=False).ids != ids]


def test_the_strings_hold_what_breaks_tokenizers(strings):
    assert len(strings) == COUNT
    assert len(set(strings)) > 0.95 * COUNT
    asked = (
        r"\d{5}",
        r"\$\d",
        "<tool_call>",
        "[\U0001f300-\U0001faff]",
        r"^\s",
        r"\s$",
        r"\n",
        "<\\|im_end\\|>",
        "你好",
    )
    for pattern in asked:
        assert sum(bool(re.search(pattern, text)) for text in strings) >= 5, pattern
    assert 5 <= sum(bool(SPACED_NUMBER.search(text)) for text in strings) <= 0.2 * COUNT


def test_llama_cpp_gives_our_ids_for_every_string(own, strings, told):
    other = find_other(own, strings, told)
    assert not other, f"{len(other)} of {COUNT}, such as {other[:3]}"


def test_a_tokenizer_that_does_not_set_digits_apart_is_found_out(own, strings, told):
    joined = Tokenizer.from_str(own.to_str())
    joined.pre_tokenizer = ByteLevel(add_prefix_space=False)
    assert find_other(joined, strings, told)


def test_a_conversation_sent_as_text_has_the_ids_of_training(read_ids, smol):
    """What Ollama, LM Studio and llama-server do: render the chat template, then tokenise the whole text."""
    lines = (SAMPLE / "ecommerce_eval.json").read_text(encoding="utf-8").splitlines()
    conversations = [json.loads(line)["messages"][:-1] for line in lines]
    assert len(conversations) == 100
    for messages in conversations:
        text = render_text(smol, messages, add_generation_prompt=True)
        assert read_ids(text) == encode_prompt(smol, messages)
