"""The HTML of tokens and traces: everything is shown, nothing runs."""

import re
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

from elm_helpers import widgets
from elm_helpers.chat import Encoded, encode, list_special, name_roles

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

EVIL = "\"><img src=x onerror=alert(1)><script>alert('x')</script>"
TALK = [{"role": "system", "content": "You are ELM."}, {"role": "user", "content": EVIL + " ☃🙂é"}]
TALK += [{"role": "assistant", "content": "No <b>problem</b>\nat all"}]


class Tags(HTMLParser):
    """Collects tags and attributes, as a browser would see them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def render_page(smol, talk=TALK, ids=True):
    return widgets.render_tokens_html(smol, encode(smol, talk), name_roles(smol, talk), ids=ids)


def test_every_token_is_an_element_with_its_id_its_side_of_the_mask_and_its_name(smol):
    encoded = encode(smol, TALK)
    found = re.findall(r'<(b|span) title="id (\d+), (trained|only read)([^"]*)"', render_page(smol))
    assert [int(token) for _, token, _, _ in found] == list(encoded.ids)
    assert [side == "trained" for _, _, side, _ in found] == [bool(bit) for bit in encoded.mask]
    assert [tag == "b" for tag, _, _, _ in found] == [bool(bit) for bit in encoded.mask], "readable without styles"
    assert 0 < sum(encoded.mask) < len(encoded.mask)
    named = {int(token): more for _, token, _, more in found if more}
    assert named == {smol.bos_token_id: ", special, BOS", smol.eos_token_id: ", special, EOS = PAD"}


def test_the_ids_can_be_shown_under_the_tokens_or_left_out(smol):
    shown = re.findall(r'<sub style="[^"]+">(\d+)', render_page(smol))
    assert [int(token) for token in shown] == list(encode(smol, TALK).ids)
    assert "<sub" not in render_page(smol, ids=False)


def test_each_turn_has_its_name_and_its_own_colour(smol):
    talk = [*TALK, {"role": "tool", "content": "{}"}, {"role": "assistant", "content": "Done."}]
    blocks = re.findall(
        r'<div style="[^"]*background-color:(rgba\([^)]+\))[^"]*"><i>(\w+)</i>', render_page(smol, talk)
    )
    assert [role for _, role in blocks] == ["system", "user", "assistant", "tool", "assistant"]
    assert len(set(blocks)) == 4
    assert len({colour for colour, _ in blocks}) == 4


def test_special_tokens_are_marked_and_nothing_else_is(smol):
    encoded = encode(smol, TALK)
    page = widgets.render_tokens_html(smol, encoded)
    marked = [int(token) for token in re.findall(r'title="id (\d+)[^"]*special', page)]
    assert marked == [token for token in encoded.ids if token in list_special(smol).values()]
    assert marked


def test_roles_that_do_not_fit_the_tokens_are_refused(smol):
    with pytest.raises(ValueError, match="shorter"):
        widgets.render_tokens_html(smol, encode(smol, TALK), ["user"])


def test_what_a_customer_typed_never_becomes_a_tag(smol):
    encoded = encode(smol, TALK)
    seen = Tags(page := widgets.render_tokens_html(smol, encoded, [EVIL] * len(encoded.ids)))
    assert seen.tags <= {"div", "p", "span", "b", "i", "sub"}
    assert seen.attributes <= {"title", "style"}
    assert "onerror" in re.sub(r"<[^>]*>", "", page)  # it is there, as text


@settings(max_examples=40)
@given(text=st.text(max_size=30))
def test_the_tokens_of_any_text_are_escaped_and_numbered(smol, text):
    talk = [{"role": "user", "content": text}]
    seen = Tags(page := render_page(smol, talk))
    assert seen.tags <= {"div", "p", "span", "b", "i", "sub"}
    assert seen.attributes <= {"title", "style"}
    assert len(re.findall(r'title="id ', page)) == len(encode(smol, talk).ids)


def test_an_empty_conversation_has_no_tokens_and_no_division_by_zero(smol):
    assert "0 tokens" in widgets.render_tokens_html(smol, Encoded((), ()))


def test_a_tokenizer_without_a_padding_token_is_shown_as_well():
    tokenizer = SimpleNamespace(bos_token_id=1, eos_token_id=2, pad_token_id=None)  # like Llama 3.1's
    assert widgets.name_special(tokenizer) == {1: "BOS", 2: "EOS"}


@settings(max_examples=60)
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


@pytest.fixture
def viewer(smol):
    """The viewer over a conversation, a category and another conversation, with its controls."""
    second, third = ([*TALK[:2], {"role": "assistant", "content": text}] for text in ("Category: Media", "Third."))
    tasks = ("conversation", "categorization", "conversation")
    rows = [
        {"id": n, "task": task, "messages": talk}
        for n, (task, talk) in enumerate(zip(tasks, (TALK, second, third), strict=True))
    ]
    return widgets.show_tokens(smol, rows)


def test_the_viewer_steps_through_rows_and_stops_at_the_ends(viewer):
    controls, page = viewer.children
    back, on, slider, _, _ = controls.children
    first = page.value
    on.click()
    assert slider.value == 1
    assert "row 1" in page.value and page.value != first
    on.click()
    on.click()
    assert slider.value == 2
    for _ in range(3):
        back.click()
    assert (slider.value, page.value) == (0, first)


def test_the_viewer_shows_the_rows_of_one_task(viewer):
    controls, page = viewer.children
    _, on, slider, task, _ = controls.children
    assert task.options == ("all tasks", "categorization", "conversation")
    slider.value = 2
    task.value = "categorization"
    assert (slider.value, slider.max) == (0, 0)
    assert "row 1" in page.value
    task.value = "conversation"
    on.click()
    assert "row 2" in page.value and slider.max == 1


def test_the_viewer_can_hide_the_ids(viewer):
    controls, page = viewer.children
    assert "<sub" in page.value
    controls.children[-1].value = False
    assert "<sub" not in page.value


def test_where_no_widget_runs_the_viewer_is_its_first_row_as_plain_html(viewer):
    bundle = viewer._repr_mimebundle_()
    assert bundle["text/html"] == viewer.children[1].value
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_rows_without_a_task_can_be_viewed(smol):
    assert "No" in widgets.show_tokens(smol, [{"messages": TALK}]).children[1].value


def test_without_ipywidgets_the_first_row_is_shown(smol, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    assert "only read" in widgets.show_tokens(smol, [{"messages": TALK}]).data


def test_a_viewer_of_no_rows_is_refused(smol):
    with pytest.raises(ValueError, match="no rows"):
        widgets.show_tokens(smol, [])
