"""The HTML of tokens and traces: everything is shown, nothing runs."""

import re
from html import unescape
from html.parser import HTMLParser

from elm_helpers import widgets
from elm_helpers.chat import Encoded, encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

EVIL = "\"><img src=x onerror=alert(1)><script>alert('x')</script>"
TALK = [{"role": "system", "content": "You are ELM."}, {"role": "user", "content": EVIL + " ☃🙂é"}]
TALK += [{"role": "assistant", "content": "No <b>problem</b>\nat all"}]


@pytest.fixture(scope="module")
def smol(base_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model)


class Tags(HTMLParser):
    """Collects tags and attributes, as a browser would see them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_every_token_is_a_span_with_its_id_and_its_side_of_the_mask(smol):
    encoded = encode(smol, TALK)
    found = re.findall(r'<span title="id (\d+), (trained|only read)', widgets.render_tokens_html(smol, encoded, TALK))
    assert [int(token) for token, _ in found] == list(encoded.ids)
    assert [side == "trained" for _, side in found] == [bool(bit) for bit in encoded.mask]
    assert 0 < sum(encoded.mask) < len(encoded.mask)


def test_special_tokens_are_marked_and_nothing_else_is(smol):
    encoded = encode(smol, TALK)
    page = widgets.render_tokens_html(smol, encoded)
    marked = [int(token) for token in re.findall(r'title="id (\d+)[^"]*special"', page)]
    assert marked == [token for token in encoded.ids if token in smol.all_special_ids]
    assert marked


def test_what_a_customer_typed_never_becomes_a_tag(smol):
    page = widgets.render_tokens_html(smol, encode(smol, TALK), [{"role": EVIL, "content": ""}])
    seen = Tags(page)
    assert seen.tags <= {"div", "p", "span"}
    assert seen.attributes <= {"title", "style"}
    assert "onerror" in re.sub(r"<[^>]*>", "", page)  # it is there, as text


def test_an_empty_conversation_has_no_tokens_and_no_division_by_zero(smol):
    assert "0 tokens" in widgets.render_tokens_html(smol, Encoded((), ()))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_of_a_trace_is_shown_and_escaped(text):
    page = widgets.render_trace_html([{"step": 1, "title": text, "text": text, "seconds": 0.5}])
    assert Tags(page).tags <= {"div", "p", "b", "small"}
    assert "1 steps, 0.50 s" in page


def test_direction_marks_and_controls_are_made_visible():
    page = widgets.render_trace_html([{"step": 4, "title": "t", "text": "a\u202eb\x00<", "seconds": 0.0}])
    assert "a⟨U+202E⟩b⟨U+0000⟩<" in unescape(page)


@pytest.mark.parametrize("step", [0, 8, "1"])
def test_a_step_outside_one_to_seven_is_refused(step):
    with pytest.raises(ValueError, match="1 to 7"):
        widgets.render_trace_html([{"step": step, "title": "", "text": "", "seconds": 0}])


def test_the_viewer_steps_through_rows_and_stops_at_the_ends(smol):
    rows = [{"messages": TALK}, {"messages": [*TALK[:2], {"role": "assistant", "content": "Second."}]}]
    controls, page = widgets.show_tokens(smol, rows).children
    back, on, slider = controls.children
    first = page.value
    on.click()
    assert slider.value == 1
    assert "Second" in page.value
    on.click()
    assert slider.value == 1
    back.click()
    back.click()
    assert (slider.value, page.value) == (0, first)


def test_without_ipywidgets_the_first_row_is_shown(smol, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    assert "only read" in widgets.show_tokens(smol, [{"messages": TALK}]).data


def test_a_viewer_of_no_rows_is_refused(smol):
    with pytest.raises(ValueError, match="no rows"):
        widgets.show_tokens(smol, [])
