"""The phrasebook: what learners edit is read strictly, and no slot is ever damaged."""

import random
import re

from elm_helpers.messages import NEAT, Slot, compose_message, expand, fill
from elm_helpers.paths import TEMPLATES
from elm_helpers.phrasebook import (
    Phrase,
    PhrasebookError,
    _read_intents,
    _read_requests,
    keep_split,
    read_answers,
    read_phrasebook,
)
from elm_helpers.tools import TOOLS
from elm_helpers.world import pluralise, say_price

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def book():
    return read_phrasebook()


def list_phrases(book):
    yield from (phrase for requests in book.requests.values() for phrase in requests.phrases)
    yield from (phrase for intent in book.intents for phrase in intent.asks + intent.replies)
    yield from (phrase for phrases in book.wordings.values() for phrase in phrases)


def test_every_phrase_file_loads_and_there_are_enough_of_them(book):
    assert set(book.requests) == set(TOOLS)
    assert len(book.intents) > 100
    assert sum(1 for _ in list_phrases(book)) > 3000


def test_every_tool_has_at_least_80_wordings_and_fixed_arguments_that_it_takes(book):
    for tool, requests in book.requests.items():
        assert len(requests.phrases) >= 80, tool
        names = TOOLS[tool].__annotations__
        assert all(set(phrase.arguments) <= set(names) for phrase in requests.phrases), tool


def test_the_flat_wordings_of_answers_are_those_that_the_agent_reads(book):
    same = {f"answers.{key}": [phrase.text for phrase in phrases] for key, phrases in read_answers().items()}
    assert same and same == {k: [p.text for p in v] for k, v in book.wordings.items() if k.startswith("answers.")}


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("tool: x\nphrases:\n  - fine\n  - what [a|b\n", 4, "do not close"),
        ("tool: x\nphrases:\n  - what [a|[b|c]]\n", 3, "nested"),
        ("tool: x\nphrases:\n  - is {produkt} here\n", 3, "unknown slot {produkt}"),
        ("tool: x\nphrases:\n  - same\n  - other\n  - same\n", 5, "stands twice"),
        ("tool: x\nphrases:\n  - yes\n", 1, "quote yes, no and numbers"),
        ("tool: x\nphrases: []\n", 1, "a list of wordings"),
        ("tool: x\nphrase:\n  - a\n", 2, "unknown key 'phrase'"),
        ("tool: x\n", 1, "'phrases' is missing"),
        ("tool: x\nphrases:\n  - a: b: c\n", 3, "not YAML"),
        ("- a\n", 1, "a mapping of keys"),
        ("tool: x\nphrases:\n  - text: a\n    arguments: [1]\n", 3, "a mapping is right"),
        ("tool: x\nmacros:\n  m: ['{nope}']\nphrases: [a]\n", 3, "unknown slot {nope}"),
    ],
)
def test_a_mistake_in_a_request_file_names_file_line_and_what_is_right(tmp_path, text, line, why):
    path = tmp_path / "requests.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PhrasebookError, match="(?s)" + re.escape(f"requests.yaml:{line}: ") + ".*" + re.escape(why)):
        _read_requests(path)


@pytest.mark.parametrize(("key", "value"), [("kind", "maybe"), ("signed_in", "perhaps"), ("typo", "x"), ("asks", [])])
def test_a_mistake_in_a_talk_file_names_the_intent(tmp_path, key, value):
    intent = {"intent": "hello", "kind": "no_call", "asks": ["hi"], "replies": ["Hi!"]} | {key: value}
    path = tmp_path / "talk.yaml"
    path.write_text(yaml.safe_dump({"intents": [intent]}), encoding="utf-8")
    with pytest.raises(PhrasebookError, match="hello"):
        _read_intents(path)


def test_a_bare_yes_in_signed_in_is_understood(tmp_path):
    path = tmp_path / "talk.yaml"
    path.write_text("intents:\n  - {intent: a, kind: no_call, signed_in: yes, asks: [b], replies: [c]}\n")
    assert _read_intents(path)[0].signed_in == "yes"


def test_train_and_eval_share_no_wording_and_together_hold_all(book):
    train, held_out = keep_split(book, "train"), keep_split(book, "eval")
    for tool, requests in book.requests.items():
        mine, theirs = set(train.requests[tool].phrases), set(held_out.requests[tool].phrases)
        assert not mine & theirs and mine | theirs == set(requests.phrases)
        assert 0.03 < len(theirs) / len(requests.phrases) < 0.3
    for key, phrases in book.wordings.items():
        if key.startswith(("answers.", "descriptions.answers", "descriptions.prompts", "categorization.prompts")):
            assert not set(train.wordings[key]) & set(held_out.wordings[key])
            assert len(phrases) < 2 or held_out.wordings[key], key


def test_editing_one_wording_moves_no_other_to_the_other_side(book):
    texts = [phrase.text for phrase in book.requests["search_products"].phrases]
    before = {phrase.text for phrase in keep_split(book, "eval").requests["search_products"].phrases}
    requests = book.requests["search_products"]
    less = type(requests)(requests.phrases[1:], requests.macros, requests.values)
    changed = type(book)(book.requests | {"search_products": less}, book.intents, book.wordings)
    after = {phrase.text for phrase in keep_split(changed, "eval").requests["search_products"].phrases}
    assert after == before - {texts[0]}


@settings(max_examples=150)
@given(value=st.text("abcÄé 42-/", min_size=1, max_size=20).map(str.strip).filter(bool), seed=st.integers(0, 10**6))
def test_noise_never_touches_a_slot_and_arguments_are_what_is_written(book, value, seed):
    phrase = Phrase("p", "Would you please tell me whether {product} from {order_id} is really available?")
    slots = {"product": Slot(value, value), "order_id": Slot("#W10482", "#W10482")}
    message = compose_message(book, phrase, phrase.text, slots, random.Random(seed))
    assert message.arguments["product"] in message.text
    assert message.arguments["product"] in (value, value.lower())
    assert message.arguments["order_id"] == "#W10482" and "#W10482" in message.text
    assert message.register in (*NEAT, "dictation")


def test_the_same_seed_writes_the_same_message_and_registers_differ(book):
    phrase = Phrase("p", "where is my order?")
    texts = {seed: compose_message(book, phrase, phrase.text, {}, random.Random(seed)).text for seed in range(40)}
    assert len(set(texts.values())) > 20
    assert texts[7] == compose_message(book, phrase, phrase.text, {}, random.Random(7)).text


def test_a_register_is_named_only_where_its_words_are_in_the_message(book):
    phrase = Phrase("p", "where is my order?")
    messages = [compose_message(book, phrase, phrase.text, {}, random.Random(seed)) for seed in range(300)]
    for register in ("chatty", "polite", "annoyed", "indirect", "nonnative"):
        named = [message.text for message in messages if message.register == register]
        assert named and all(len(text.split()) > 4 for text in named if text[-3:] != "!!!"), register


def test_brackets_inside_macros_are_expanded_too():
    assert expand("a {m} b [x|x]", {"m": ("[c|c] {max_price}",)}, random.Random(1)) == "a c {max_price} b x"


@pytest.mark.parametrize(
    ("text", "slots", "expected"),
    [
        ("order #{order_id}", {"order_id": Slot("#77", "#77")}, ("order #77", {"order_id": "#77"})),
        ("${max_price} tops", {"max_price": Slot("$50", 50)}, ("$50 tops", {"max_price": 50})),
        ("{max_price} dollars", {"max_price": Slot("50 bucks", 50)}, ("50 dollars", {"max_price": 50})),
        ("an {query}", {"query": Slot("desk", "desk")}, ("a desk", {"query": "desk"})),
    ],
)
def test_what_stands_around_a_slot_fits_its_value(text, slots, expected):
    assert fill(text, slots) == expected


def test_a_slot_without_a_value_is_an_error_that_names_the_wording():
    with pytest.raises(PhrasebookError, match="greeting-1.*{product}"):
        fill("is {product} here", {}, "greeting-1")


def test_prices_are_written_in_many_ways_but_mean_one_number():
    assert {say_price(50, style) for style in ("${}", "{} bucks", "word")} == {"$50", "50 bucks", "fifty dollars"}
    assert say_price(49.99, "word") == "49.99 dollars"


def test_plurals_of_masses_stay():
    assert [pluralise(word) for word in ("cat litter", "cat box", "mattress")] == [
        "cat litter",
        "cat boxes",
        "mattresses",
    ]


def test_every_file_of_wordings_is_plain_text():
    for path in sorted(TEMPLATES.rglob("*.yaml")):
        assert "\t" not in path.read_text(encoding="utf-8"), path.name
