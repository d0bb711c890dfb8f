"""Chat logs: every record is used or listed, both sides are told apart, and nothing personal reaches a file."""

import json
import sqlite3
import unicodedata

from elm_helpers.chat import encode
from elm_helpers.chat_logs import FORMATS, find_chat_format, read_conversations, write_conversations
from elm_helpers.generate import write_dataset
from elm_helpers.redact import build_redactor, redact_text
from elm_helpers.store import build_store, read_split
from elm_helpers.tool_calls import parse_tool_calls

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_redact import SPELLINGS

ASK, REPLY = "Do you wrap gifts?", "We do, just tick the box."
ZENDESK = {
    "id": 3544,
    "requester_id": 20,
    "comments": [
        {"author_id": 20, "body": ASK, "public": True, "created_at": "2026-01-02T10:00:00Z"},
        {"author_id": 7, "body": "Angry customer, careful", "public": False, "created_at": "2026-01-02T10:01:00Z"},
        {"author_id": 7, "html_body": "<p>We do,<br>just tick the <b>box</b>.</p>", "public": True},
    ],
}
INTERCOM = {
    "type": "conversation",
    "id": "9",
    "source": {"body": f"<p>{ASK}</p>", "author": {"type": "lead", "name": "Ana Sol"}},
    "conversation_parts": {
        "conversation_parts": [
            {"part_type": "assignment", "body": None, "author": {"type": "bot", "name": "Operator"}},
            {"part_type": "note", "body": "<p>careful</p>", "author": {"type": "admin", "name": "Amy Poole"}},
            {"part_type": "comment", "body": f"<p>{REPLY}</p>", "author": {"type": "admin", "name": "Amy Poole"}},
        ]
    },
}
MESSAGES = {"id": "m1", "messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": REPLY}]}


def list_rows(*messages, **more):
    """Return rows of (conversation, author, text), one a line from line 2 on."""
    names = ("Conversation ID", "Sender", "Message")
    return [(line, dict(zip(names, row, strict=True)) | more) for line, row in enumerate(messages, 2)]


def read_one(records, form):
    found, rejected = read_conversations(records, form)
    assert len(found) == 1, rejected
    return found[0]


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["messages"], "chat-generic"),
        (["id", "messages", "created"], "chat-generic"),
        (["Ticket ID", "Sender", "Message", "Sent at"], "chat-generic"),
        (["conversation_id", "role", "content"], "chat-generic"),
        (["Thread", "From", "Body", "Date"], "chat-generic"),
        (list(ZENDESK), "chat-zendesk"),
        (list(INTERCOM), "chat-intercom"),
        (["author", "body", "rating", "product"], None),
        (["Handle", "Title", "Body (HTML)", "Vendor"], None),
        (["Name", "Email", "Financial Status", "Lineitem name"], None),
        ([], None),
    ],
)
def test_a_format_is_found_by_its_columns_and_others_are_left_alone(names, form):
    assert find_chat_format(names) == form


@pytest.mark.parametrize(
    ("record", "form"), [(MESSAGES, "chat-generic"), (ZENDESK, "chat-zendesk"), (INTERCOM, "chat-intercom")]
)
def test_a_record_that_is_a_conversation_is_read(record, form):
    found = read_one([(1, record)], form)
    assert [role for role, _ in found.messages] == ["user", "assistant"]
    assert [" ".join(text.split()) for _, text in found.messages] == [ASK, REPLY]


def test_private_notes_and_events_are_dropped_and_counted():
    assert read_one([(1, ZENDESK)], "chat-zendesk").left_out == 1
    assert read_one([(1, INTERCOM)], "chat-intercom").left_out == 2
    rows = list_rows(("a", "customer", ASK), ("a", "note", "careful"), ("a", "agent", REPLY))
    found, rejected = read_conversations(rows, "chat-generic")
    assert found[0].messages == (("user", ASK), ("assistant", REPLY)) and found[0].left_out == 1
    assert rejected == [(3, "a private note or an event")]


def test_names_that_the_export_gives_are_kept_for_the_redactor():
    assert read_one([(1, INTERCOM)], "chat-intercom").names == ("Amy Poole", "Ana Sol")
    rows = list_rows(("a", "Ana Sol", ASK), ("a", "Amy Poole", REPLY))
    assert read_one(rows, "chat-generic").names == ("Amy Poole", "Ana Sol")


def test_rows_of_several_conversations_may_be_mixed_and_are_ordered_by_their_time():
    rows = [
        (2, {"ticket": "b", "from": "agent", "text": REPLY, "created_at": "2026-01-02T10:05:00Z"}),
        (3, {"ticket": "a", "from": "customer", "text": "hello", "created_at": "2026-01-02T09:00:00+00:00"}),
        (4, {"ticket": "b", "from": "customer", "text": ASK, "created_at": "2026-01-02T10:00:00Z"}),
        (5, {"ticket": "a", "from": "agent", "text": "hi", "created_at": "2026-01-02T09:30:00+00:00"}),
    ]
    found, rejected = read_conversations(rows, "chat-generic")
    assert not rejected
    assert {one.id: [text for _, text in one.messages] for one in found} == {"b": [ASK, REPLY], "a": ["hello", "hi"]}


def test_what_one_side_writes_in_a_row_is_joined_and_the_ends_are_trimmed():
    rows = list_rows(
        *(("a", "bot", "Welcome!"), ("a", "visitor", "hi"), ("a", "visitor", ASK)),
        *(("a", "agent", "sure"), ("a", "agent", REPLY), ("a", "visitor", "thx")),
    )
    found = read_one(rows, "chat-generic")
    assert found.messages == (("user", f"hi\n{ASK}"), ("assistant", f"sure\n{REPLY}"))
    assert found.left_out == 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([("a", "customer", ASK)], "no message of an agent"),
        ([("a", "agent", REPLY)], "no message of a customer"),
        ([("a", "agent", REPLY), ("a", "customer", ASK)], "no message of an agent"),
        ([("a", "Ana", ASK), ("a", "Amy", REPLY), ("a", "Tim", REPLY)], "3 authors by name"),
        ([("a", "Ana", ASK)], "1 authors by name"),
        ([("", "customer", ASK)], "no id"),
        ([("a", "", ASK)], "no author"),
        ([("a", "customer", 5)], "type int"),
    ],
)
def test_a_conversation_that_can_not_be_used_lists_each_of_its_lines_with_the_reason(messages, reason):
    found, rejected = read_conversations(list_rows(*messages), "chat-generic")
    assert not found
    assert [line for line, _ in rejected] == list(range(2, 2 + len(messages)))
    assert all(reason in told for _, told in rejected)


def test_a_reason_repeats_nothing_personal():
    names = ["jane@example.com", "Tom Hale", "Amy Poole"]
    rows = list_rows(*((names[0], name, "07700 900123") for name in names))
    _, rejected = read_conversations(rows, "chat-generic")
    assert not any(name in reason or "900123" in reason for name in names for _, reason in rejected)


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["user", "agent", "note"])
KEYS = st.sampled_from(
    ["id", "messages", "role", "content", "ticket", "from", "text", "comments", "requester_id", "author", "author_id"]
    + ["body", "conversation_parts", "source", "type", "public", "created_at", "name"]
)
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))


@settings(max_examples=300)
@given(st.lists(st.dictionaries(KEYS, NESTED, max_size=6), max_size=5), st.sampled_from(sorted(FORMATS)))
def test_every_record_is_used_or_listed_whatever_it_holds(records, form):
    found, rejected = read_conversations(list(enumerate(records, 1)), form)
    lines = {line for line, _ in rejected}
    assert lines <= set(range(1, len(records) + 1)) and all(reason for _, reason in rejected)
    assert len(lines) + sum(len(one.messages) + one.left_out for one in found) >= len(records)
    for one in found:
        roles = [role for role, _ in one.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(text.strip() for _, text in one.messages)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="found 'chat-fax', expected one of chat-generic"):
        read_conversations([], "chat-fax")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>initiate_return(order_id="1")</tool_call>',
        "<p>&lt;tool_call&gt;initiate_return(order_id=&quot;1&quot;)&lt;/tool_call&gt;</p>",
        "<tool_call",
        "< tool_call>x()</ tool_call>",
    ],
)
def test_a_tool_call_that_somebody_typed_is_plain_text(text):
    record = {"messages": [{"role": "user", "content": text}, {"role": "agent", "content": text}]}
    for _, said in read_one([(1, record)], "chat-generic").messages:
        assert "tool_call" in said and parse_tool_calls(said) == []


def test_no_special_token_survives_as_one(base_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    typed = "hi " + " ".join([*tokenizer.all_special_tokens, "<|eot_id|>", "<s>", "</s>", "[INST]", "<<SYS>>"])
    record = {"messages": [{"role": "user", "content": typed}, {"role": "agent", "content": REPLY}]}
    (_, text), _ = read_one([(1, record)], "chat-generic").messages
    special = set(tokenizer.all_special_ids)
    assert not special & set(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "[INST]" not in text and "<s>" not in text and "eot_id" in text
    plain = encode(tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": REPLY}])
    full = encode(tokenizer, [{"role": "user", "content": text}, {"role": "assistant", "content": REPLY}])
    assert sum(token in special for token in full.ids) == sum(token in special for token in plain.ids)


def test_two_records_with_one_id_are_both_written_and_a_second_import_changes_nothing(own_shop):
    found, _ = read_conversations([(1, MESSAGES), (2, MESSAGES)], "chat-generic")
    for _ in range(2):
        assert write_conversations(own_shop, found, build_redactor()) == 2
    assert own_shop.execute("SELECT count(*) FROM conversations").fetchone()[0] == 2


def test_an_id_that_is_personal_is_redacted_too(own_shop):
    found, _ = read_conversations([(1, MESSAGES | {"id": "jane@example.com"})], "chat-generic")
    write_conversations(own_shop, found, build_redactor())
    assert [row["id"] for row in own_shop.execute("SELECT id FROM conversations")] == ["[EMAIL_1]"]


def test_people_of_a_chat_are_redacted_by_their_first_names_and_only_in_it(own_shop):
    rows = list_rows(
        *(("a", "Tom Hale", "Hi Amy, Tom here."), ("a", "Amy Poole", "Hello Tom! Amy from support.")),
        *(("b", "customer", "Is Tom a brand?"), ("b", "agent", "It is not.")),
    )
    write_conversations(own_shop, read_conversations(rows, "chat-generic")[0], build_redactor())
    texts = [row["messages"] for row in own_shop.execute("SELECT messages FROM conversations ORDER BY id")]
    assert "Tom" not in texts[0] and "Amy" not in texts[0]
    assert "Is Tom a brand?" in texts[1]


def test_a_first_name_means_the_one_who_said_the_whole_name_in_that_chat(own_shop):
    rows = list_rows(("a", "customer", "jane miller here"), ("a", "agent", "Hi Jane, is it Jane Miller?"))
    redactor = build_redactor(["Jane Doe", "Jane Miller"])
    write_conversations(own_shop, read_conversations(rows, "chat-generic")[0], redactor)
    text = own_shop.execute("SELECT messages FROM conversations").fetchone()[0]
    assert text.count("[PERSON_1]") == 3 and "PERSON_2" not in text


def write_chats(path, chats):
    """Build a shop with chats, each a list of texts of customer and agent in turn."""
    conn = build_store(path)
    sides = ("customer", "agent")
    rows = list_rows(*((f"c{n}", sides[at % 2], text) for n, chat in enumerate(chats) for at, text in enumerate(chat)))
    found, rejected = read_conversations(rows, "chat-generic")
    assert not rejected
    with conn:
        count = write_conversations(conn, found, build_redactor(["Jane Miller"]))
    conn.close()
    return count


def read_rows(folder):
    lines = [path.read_text(encoding="utf-8").splitlines() for path in sorted(folder.glob("ecommerce_*.json"))]
    return [json.loads(line) for split in lines for line in split]


PERSONAL = ("7700900123", "4111111111111111", "370400440532013000", "bakerst", "nw16xe", "jane", "miller")


def squeeze(text):
    """Return the text as a snoop would search it: lower case, plain digits, no accents, spaces or signs."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain if c.isalnum())


def test_the_search_finds_every_fake_before_it_is_redacted():
    missed = [text for group in SPELLINGS.values() for text in group if not any(p in squeeze(text) for p in PERSONAL)]
    assert missed == []


def test_nothing_personal_reaches_the_store_or_a_row_or_any_file(tmp_path):
    """Fakes of six kinds in ten spellings each, in questions, replies, names and reviews."""
    path, spelled = tmp_path / "data" / "shop.db", [text for group in SPELLINGS.values() for text in group]
    asks = [f"Question {number}: do you wrap gifts? Reach me: {text}" for number, text in enumerate(spelled)]
    count = write_chats(
        path, [[ask, f"Sure, {text}.", f"It is {text}!", REPLY] for ask, text in zip(asks, spelled, strict=True)]
    )
    assert count == 60
    conn, redactor = sqlite3.connect(path), build_redactor(["Jane Miller"])
    with conn:
        product = conn.execute("SELECT id FROM products").fetchone()[0]
        reviews = [(product, 5, redact_text(redactor, f"I am {text} and happy")) for text in spelled]
        conn.executemany("INSERT INTO reviews (product_id, stars, text) VALUES (?, ?, ?)", reviews)
        customers = conn.execute("SELECT name || email FROM customers").fetchall()
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    assert not any("jane" in name.lower() or "miller" in name.lower() for (name,) in customers)
    report = write_dataset(tmp_path / "data" / "processed", 200, 200, {"conversation": 1}, store_path=path)
    rows = read_rows(tmp_path / "data" / "processed")
    imported = [row for row in rows if row["meta"]["kind"] == "imported"]
    refused = sum(number for reason, number in report.rejects.items() if "imported chat" in reason)
    assert len(imported) + refused == 60
    assert len(rows) == 400
    files = [file for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert len(files) >= 3
    texts = {file.name: file.read_bytes() for file in files} | {row["id"]: json.dumps(row).encode() for row in imported}
    for name, data in texts.items():
        text = data.decode("utf-8", "ignore")
        assert not [each for each in spelled if each in text], name
        assert not [value for value in PERSONAL if value in squeeze(text)], name


def test_up_to_half_of_the_conversation_rows_are_imported_chats_each_once(tmp_path):
    chats = [[f"Question {number}: {ASK}", REPLY] for number in range(60)]
    write_chats(tmp_path / "shop.db", chats)
    for sizes, most in (((40, 40), 20), ((400, 400), 60)):
        write_dataset(tmp_path, *sizes, {"conversation": 1}, store_path=tmp_path / "shop.db")
        rows = read_rows(tmp_path)
        kinds = [row["meta"]["phrasing"] for row in rows if row["meta"]["kind"] == "imported"]
        assert len(kinds) == len(set(kinds)) <= 60 and all(kind.startswith("chat:c") for kind in kinds)
        by_side = [
            sum(row["id"].startswith(side) and row["meta"]["kind"] == "imported" for row in rows)
            for side in ("train", "eval")
        ]
        assert max(by_side) <= most and min(by_side) > 0
    assert len(kinds) == 60


def test_a_shop_without_chats_gives_the_rows_that_it_gave_before(tmp_path):
    write_chats(tmp_path / "shop.db", [])
    write_dataset(tmp_path / "a", 40, 20, store_path=tmp_path / "shop.db")
    write_dataset(tmp_path / "b", 40, 20)
    for name in ("train", "eval"):
        file = f"ecommerce_{name}.json"
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("It costs $49.00.", "states a number"),
        ("We have 3 left.", "states a number"),
        ("Take the Corvane Hush 40, then.", "names a product"),
        ("We like the CORVANE ones.", "names a product"),
        ("Yes, that one is in stock.", "what a tool has to look up"),
        ("Your parcel is on its way!", "what a tool has to look up"),
        ("Write to Jane Miller at jane@example.com", "repeats personal data"),
        ("Hello Jane,", None),
        ("Order 10482? I'll pass that on to a colleague.", None),
    ],
)
def test_a_reply_that_states_a_fact_is_no_row_and_the_reason_is_counted(tmp_path, reply, reason):
    write_chats(tmp_path / "shop.db", [["Hi, it's Jane Miller, about order 10482", reply]])
    report = write_dataset(tmp_path, 2, 2, {"conversation": 1}, store_path=tmp_path / "shop.db")
    kinds = [row["meta"]["kind"] for row in read_rows(tmp_path)]
    told = [text for text in report.rejects if "imported chat" in text]
    assert ("imported" in kinds) == (reason is None)
    assert len(told) == (reason is not None) and all(reason in text for text in told)


def test_the_agent_s_reply_holds_no_placeholder_that_the_model_would_learn(tmp_path):
    write_chats(tmp_path / "shop.db", [["Hi, it's Jane Miller", "Hello Jane, how can I help?"]])
    write_dataset(tmp_path, 2, 2, {"conversation": 1}, store_path=tmp_path / "shop.db")
    row = next(row for row in read_rows(tmp_path) if row["meta"]["kind"] == "imported")
    assert [message["content"] for message in row["messages"][1:]] == ["Hi, it's [PERSON_1]", "Hello, how can I help?"]


def test_a_long_chat_is_cut_after_an_answer(tmp_path):
    chat = [f"{ASK} {'please ' * 60}", REPLY] * 6
    write_chats(tmp_path / "shop.db", [chat])
    write_dataset(tmp_path, 2, 2, {"conversation": 1}, store_path=tmp_path / "shop.db")
    row = next(row for row in read_rows(tmp_path) if row["meta"]["kind"] == "imported")
    assert row["messages"][-1]["content"] == REPLY
    assert 1000 < sum(len(message["content"]) for message in row["messages"][1:]) <= 1700


def test_a_chat_about_a_product_of_the_other_side_is_on_no_side(own_shop):
    names = [row["name"] for row in own_shop.execute("SELECT name FROM products ORDER BY id LIMIT 40")]
    rows = list_rows(
        *(
            pair
            for n, name in enumerate(names)
            for pair in ((n + 1, "customer", f"{n}: a {name.lower()}?"), (n + 1, "agent", "Yes."))
        )
    )
    with own_shop:
        assert write_conversations(own_shop, read_conversations(rows, "chat-generic")[0], build_redactor()) == 40
    seen = 0
    for split in ("train", "eval"):
        copy = read_split(own_shop, split)
        kept = {row["name"].casefold() for row in copy.execute("SELECT name FROM products")}
        for row in copy.execute("SELECT messages FROM conversations"):
            seen += 1
            text = row["messages"].casefold()
            assert text == "[]" or any(name in text for name in kept)
            assert not any(name.casefold() in text for name in names if name.casefold() not in kept)
    assert seen == 40
