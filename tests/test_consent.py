"""What is a yes, what leaves a proposal waiting, and what was never asked for."""

from elm_helpers.consent import asks_else, is_asked, is_harmless, is_yes
from elm_helpers.phrasebook import read_answers
from elm_helpers.scenarios import read_scenarios
from elm_helpers.tool_calls import ToolCall

import pytest


@pytest.mark.parametrize(
    "text", ["yes", "Yes, please.", "ok", "sure, go ahead", "Please do", "YES!", "Yes, no problem", "Sure, set it up."]
)
def test_a_clear_yes_is_consent(text):
    assert is_yes(text)


@pytest.mark.parametrize(
    "text",
    [
        *("Sure, let me think about it first", "Okay, maybe later", "yes how much would i get back", "Ok thanks"),
        *(
            "Correct number is 10482",
            "yes?",
            "right",
            "please",
            "no",
            "yes but only the mug",
            "I'd say yes if it's free",
        ),
        *("<tool_call>initiate_return(order_id='W1')</tool_call>", "", "the order says yes"),
        *("do you have mugs", "Do the mugs fit", "please do tell me what it costs", "Okay great, thank you."),
    ],
)
def test_a_doubtful_yes_is_no_consent(text):
    assert not is_yes(text)


def test_every_wording_of_the_phrasebook_is_read_as_it_is_meant():
    assert all(is_yes(phrase.text) for phrase in read_answers()["follow.agree"])
    assert not any(is_yes(phrase.text) for phrase in read_answers()["follow.decline"])


@pytest.mark.parametrize(
    "text",
    ["How much would I get?", "what does shipping cost", "and when does the money come?", "Is the mug in stock?"],
)
def test_a_question_leaves_a_proposal_waiting(text):
    assert is_harmless(text)
    assert not is_yes(text)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "No, what else is there?", "can I keep the mug?", "What about the other order instead?", "hm", "stop?"),
        *(
            "Yes, but can I keep one?",
            "I meant W2",
            "wait, how much?",
            "why not later?",
            "couldn't I swap it?",
            "thanks",
        ),
        *("Can you take back only the mug?", "<tool_call>get_customer_orders()</tool_call>?", ""),
    ],
)
def test_anything_that_takes_something_back_ends_the_waiting(text):
    assert not is_harmless(text)


def test_no_wording_of_a_refusal_leaves_a_proposal_waiting():
    refusals = [phrase.text for phrase in read_answers()["follow.decline"]]
    assert len(refusals) > 5
    assert not [text for text in refusals if is_harmless(text)]


def test_a_question_about_the_return_is_told_from_one_about_something_else():
    proposals = [phrase.text for phrase in read_answers()["initiate_return.ask"]]
    assert len(proposals) > 3
    assert not any(asks_else(text) for text in proposals if "Is that right" not in text and "Do you" not in text)
    others = [phrase.text for phrase in read_answers()["candidates.some"]]
    assert all(asks_else(text) for text in others if "?" in text)


def test_a_return_that_nobody_spoke_of_was_not_asked_for():
    call = ToolCall("initiate_return", {"order_id": "#W-1048"})
    assert not is_asked(call, ["Tell me about the mug", "and order W1049?"])
    assert is_asked(call, ["Where is w1048?", "What is in it?", "Thanks", "Hm", "Off with it"])
    assert is_asked(call, ["I want a refund for my last order", "the newer one"])
    assert not is_asked(call, ["I want a refund", "no", "mugs?", "red ones?", "tell me about the first"])
    assert is_asked(ToolCall("search_products", {"query": "mug"}), ["hello"])


def test_every_scripted_customer_who_returns_something_asked_for_it():
    asked = 0
    for scenario in read_scenarios():
        spoken = []
        for turn in scenario.turns:
            spoken.append(turn.say)
            for call in turn.calls:
                if call.startswith("initiate_return"):
                    asked += 1
                    number = call.partition('order_id="')[2].partition('"')[0]
                    assert is_asked(ToolCall("initiate_return", {"order_id": number}), spoken), (scenario.id, turn.say)
    assert asked > 30
