"""Plain questions, before and after fine-tuning."""

from elm_helpers.engines import Completion, Engine
from elm_helpers.general import QUESTIONS, score_general


def open_echo(text):
    def complete(messages, **options):
        assert messages[0]["content"] == "You are a helpful AI assistant." and options["temperature"] == 0
        return Completion(text, 1, 1, 0.1, 0.1)

    return Engine("echo", complete)


def test_forty_questions_are_asked_and_only_right_words_count():
    everything, answers = score_general(open_echo("Paris, or so"))
    assert everything.n == len(answers) == len(QUESTIONS.read_text(encoding="utf-8").splitlines()) == 40
    assert [ask for ask, _, right in answers if right] == [
        "What is the capital of France?"
    ] and everything.value == 0.025


def test_a_call_to_a_tool_is_no_answer():
    assert score_general(open_echo('<tool_call>search_products(query="thing")</tool_call>'))[0].value == 0
