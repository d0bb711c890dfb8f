"""Personal data leaves texts in every spelling, one placeholder a value; order numbers, prices and goods stay."""

import json
import random
import re
import sys

from elm_helpers.paths import ROOT, SAMPLE
from elm_helpers.redact import add_people, build_redactor, list_people, redact_text
from elm_helpers.shop import _draw_order_id

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PEOPLE = ["Jane Miller", "Søren Lindqvist", "Zoë Müller", "Lars Van den Berg", "Niamh O'Brien", "Amara Brown"]
# Ten spellings of one value each, and what must not be left of any of them once case and signs are taken away.
SPELLINGS = {
    "EMAIL": (
        "jane.miller@example.com",
        "JANE.MILLER@EXAMPLE.COM",
        "jane.miller (at) example (dot) com",
        "jane.miller[at]example[dot]com",
        "jane.miller at example dot com",
        "jane dot miller at example dot com",
        "jane.miller ＠ example．com",
        "jane\u200b.miller@exam\u00adple.com",
        "<mailto:jane.miller@example.com>",
        "ｊａｎｅ.miller@example.com",
    ),
    "PHONE": (
        "+44 7700 900123",
        "0044 7700 900123",
        "07700 900123",
        "07700-900-123",
        "+44 (0)7700 900123",
        "07700.900.123",
        "０７７００ ９００１２３",
        "0 7 7 0 0 9 0 0 1 2 3",
        "+447700900123",
        "07700\u2013900\u2013123",
    ),
    "CARD": (
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111\u20131111\u20131111\u20131111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "４１１１ １１１１ １１１１ １１１１",
        "4111\u200b1111\u200b1111\u200b1111",
        "٤١١١ ١١١١ ١١١١ ١١١١",
    ),
    "IBAN": (
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "de89 3704 0044 0532 0130 00",
        "DE89-3704-0044-0532-0130-00",
        "DE89.3704.0044.0532.0130.00",
        "DE 89 3704 0044 0532 0130 00",
        "ＤＥ８９ ３７０４ ００４４ ０５３２ ０１３０ ００",
        "DE89\u200b3704\u200b0044\u200b0532\u200b0130\u200b00",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
        "IBAN:DE89370400440532013000",
    ),
    "ADDRESS": (
        "12 Baker Street",
        "12 baker street",
        "12 BAKER STREET",
        "12 Baker St.",
        "12, Baker Street",
        "12  Baker  Street",
        "Flat 3, 12 Baker Street, London NW1 6XE",
        "12 Baker Street, Springfield, IL 62704",
        "12 Ba\u200bker Street",
        "１２ Baker Street",
    ),
    "PERSON": (
        "Jane Miller",
        "jane miller",
        "JANE MILLER",
        "Miller, Jane",
        "Jané Millér",
        "Ja\u200bne Miller",
        "J. Miller",
        "Jane A. Miller",
        "Ｊａｎｅ Ｍｉｌｌｅｒ",
        "JaneMiller",
    ),
}
LEFT = {
    "EMAIL": r"jane|miller",
    "PHONE": r"7700|900123|90",
    "CARD": r"1{3}",
    "IBAN": r"3704|0532|89",
    "ADDRESS": r"baker|12|nw1|62704",
    "PERSON": r"jane|miller",
}
CASES = [(kind, spelled) for kind, group in SPELLINGS.items() for spelled in group]
OTHERS = {  # other values of each kind, in forms of other countries
    "EMAIL": (
        "o.brien+shop@mail.example.co.uk",
        "jane_77@gmail.com",
        "jane77 at gmail.com",
        "zoë@müller.example",
        "a%40b.org",
    ),
    "PHONE": (
        *("(212) 555-0123", "212-555-0123", "2125550123", "1-212-555-0123", "+1 212 555 0123", "030 901820"),
        *("06 12 34 56 78", "+49 171 1234567", "(11) 91234-5678", "612 345 678", "98765 43210", "call me on 5550199"),
    ),
    "CARD": ("3782 822463 10005", "5555-5555-5555-4444", "6011 0009 9013 9424", "3056 930902 5904"),
    "IBAN": ("GB82 WEST 1234 5698 7654 32", "FR14 2004 1010 0505 0001 3M02 606", "NL91ABNA0417164300"),
    "ADDRESS": (
        *(
            "350 5th Ave",
            "1600 Pennsylvania Avenue NW",
            "742 Evergreen Terrace",
            "10 Downing St, London",
            "8 Oak Drive",
        ),
        *(
            "Hauptstraße 5, 10115 Berlin",
            "Berliner Straße 12",
            "Keizersgracht 123",
            "12 bis rue de Rivoli, 75001 Paris",
        ),
        *("Calle Mayor 12", "Via Roma 10, 00184 Roma", "P.O. Box 123", "Postfach 4711", "SW1A 1AA", "V6B 1A1"),
        "Fresno, CA 93701",
    ),
    "PERSON": (
        *("Soeren Lindqvist", "soren lindqvist", "Zoe Mueller", "Müller, Zoë", "lars van den berg", "Niamh O’Brien"),
        *("this is Jane", "I'm jane", "Hi Jane,", "my name is jane", "My name is Tom Hale", "Best regards,\nTom Hale"),
        *("Ms Miller", "Dear Mr Hale,", "Thanks, Amara"),
    ),
}


def test_there_are_ten_spellings_of_each_kind():
    assert {kind: len(set(group)) for kind, group in SPELLINGS.items()} == dict.fromkeys(LEFT, 10)


@pytest.mark.parametrize(("kind", "spelled"), CASES)
@pytest.mark.parametrize("text", ["{}", "Hello! It is {} as I said.", "a\n{}\nb", "({}), order #1001"])
def test_a_spelling_becomes_its_placeholder_and_the_rest_stays(kind, spelled, text):
    done = redact_text(build_redactor(PEOPLE), text.format(spelled))
    around = "<{}>" if spelled.startswith("<mailto:") else "IBAN:{}" if spelled.startswith("IBAN:") else "{}"
    expected = text.format(around.format(f"[{kind}_1]"))
    assert done.replace("mailto:", "") == expected


@pytest.mark.parametrize("kind", SPELLINGS)
def test_all_spellings_of_a_value_get_one_placeholder(kind):
    redactor = build_redactor(PEOPLE)
    done = [redact_text(redactor, f"so {spelled}, yes") for spelled in SPELLINGS[kind]]
    assert {re.search(r"\[.*?\]", text)[0] for text in done} == {f"[{kind}_1]"}
    assert not re.search(LEFT[kind], " ".join(done).casefold())
    assert len(redactor.seen[kind]) == 1


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, group in OTHERS.items() for text in group])
def test_other_forms_are_found_too(kind, text):
    done = redact_text(build_redactor(PEOPLE), f"Well: {text}\n")
    assert f"[{kind}_1]" in done
    assert not re.search(r"\d{3}|[jJ]ane|Hale|iller|ueller|erg|Straße|gmail", re.sub(r"\[.*?\]", "", done)), done


def test_two_people_and_two_values_get_two_placeholders():
    redactor = build_redactor(PEOPLE)
    text = "Jane Miller and Zoë Müller: a@b.example, c@b.example, 07700 900123, 07700 900124. Jane Miller again."
    expected = "[PERSON_1] and [PERSON_2]: [EMAIL_1], [EMAIL_2], [PHONE_1], [PHONE_2]. [PERSON_1] again."
    assert redact_text(redactor, text) == expected


def test_a_first_name_alone_is_the_one_customer_who_bears_it_or_its_own_person():
    assert redact_text(build_redactor(PEOPLE), "Jane Miller. This is Jane.") == "[PERSON_1]. This is [PERSON_1]."
    both = build_redactor([*PEOPLE, "Jane Doe"])
    assert redact_text(both, "Jane Miller. This is Jane.") == "[PERSON_1]. This is [PERSON_2]."


def test_a_first_name_is_a_word_until_somebody_is_introduced_by_it():
    redactor = build_redactor(["Amber Rose", "Grace Park"])
    text = "An amber mug, the rose one, a grace period, and a park bench."
    assert redact_text(redactor, text) == text
    assert redact_text(redactor, "hi grace, thanks Amber") == "hi [PERSON_1], thanks [PERSON_2]"


def test_people_of_one_conversation_count_alone_and_only_there():
    redactor = build_redactor()
    local = add_people(redactor, ["Tom Hale"])
    assert redact_text(local, "Ask Tom, or Hale, Tom") == "Ask [PERSON_1], or [PERSON_1]"
    assert redact_text(redactor, "Ask Tom, a tom cat") == "Ask Tom, a tom cat"
    assert redact_text(add_people(redactor, ["Ana Sol"]), "Ana Sol") == "[PERSON_2]", "numbers are shared"


@pytest.mark.parametrize(
    "text", ["My name is Tom Hale", "Cheers,\nTom Hale", "Dear Tom Hale,", "This is Tom Hale speaking"]
)
def test_a_name_that_people_give_is_heard(text):
    assert list_people(build_redactor(), text) == ["Tom Hale"]


@pytest.mark.parametrize(
    "text",
    [
        "my name is on the order",
        "this is great, thanks",
        "Hi there, hello Team, dear Sir",
        "I'm looking for the Corvane Hush 40",
        "10 minutes down the road; 4 wheel drive; 24 piece place setting; 32 GB Flash Drive",
        "120 x 60 x 75 cm, 1920-1080, size 42 1/2, 18V, M2 2TB, A4 80 gsm, 3 for 2",
        "It was $1,299.00, then 12.99 24.99 35.50, on 2026-11-02 10:30, or 02.11.2026 at 9-18",
        "tracking TRK1234567890, 1Z999AA10123456784, 9400111899223197428490, parcel 0340 4341 2345",
        "EAN 4006381333931, ISBN 978-3-16-148410-0, SKU AB-1234-XL, model WH1000XM5, serial 5551234567",
        "order 5551234567, order number is 07700900123, ref. 2125550123, order 123-4567890-1234567",
        "look at shop.example and meet at noon. dot matters",
        "shipped via DHL Express 24 to 94110 or 10115 Berlin",
    ],
)
def test_what_is_no_personal_data_stays(text):
    assert redact_text(build_redactor(PEOPLE), text) == text


def test_a_card_number_needs_its_check_digit():
    text = "4111 1111 1111 1112 and DE89370400440532013001"
    assert redact_text(build_redactor(), text) == text


def test_order_numbers_of_every_shape_stay():
    redactor, rng = build_redactor(PEOPLE), random.Random(0)
    for _ in range(500):
        one, two = _draw_order_id(2026, rng), _draw_order_id(2025, rng)
        text = f"{one}: where is #{one}, {one} or {two}, and order {two}? It cost $45.99 on 2026-11-02, 10:30."
        assert redact_text(redactor, text) == text


def test_the_course_s_own_products_reviews_and_policies_stay(shop):
    redactor = build_redactor(row[0] for row in shop.execute("SELECT name FROM customers"))
    queries = [f"SELECT {column} FROM products" for column in ("name", "description", "sku", "name || ' ' || price")]
    queries += ["SELECT text FROM reviews WHERE text IS NOT NULL", "SELECT name || ': ' || value FROM specifications"]
    queries += ["SELECT sku FROM variants", "SELECT tracking FROM orders WHERE tracking IS NOT NULL"]
    texts = {row[0] for query in queries for row in shop.execute(query)}
    assert len(texts) > 5000
    assert [text for text in texts if redact_text(redactor, text) != text] == []


def test_of_the_course_s_rows_and_requests_only_addresses_change(shop):
    redactor = build_redactor(row[0] for row in shop.execute("SELECT name FROM customers"))
    rows = (SAMPLE / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()
    texts = [message["content"] for row in rows for message in json.loads(row)["messages"]]
    lines = (ROOT / "tests" / "data" / "customer_requests.jsonl").read_text(encoding="utf-8").splitlines()
    texts += [json.loads(line)["text"] for line in lines]
    changed = [text for text in texts if redact_text(redactor, text) != text]
    assert len(texts) > 700
    assert not [text for text in changed if not re.search(r"@|\b[A-Z]{1,2}\d", text)], (
        "an e-mail or a postcode is in it"
    )


@settings(max_examples=150)
@given(st.text(max_size=300) | st.text("0123456789 +-().@aJMXx\n,#[]_", max_size=300))
def test_any_text_is_taken_and_what_is_done_is_done(text):
    redactor = build_redactor(PEOPLE)
    once = redact_text(redactor, text)
    assert redact_text(redactor, once) == once


@settings(max_examples=100)
@given(
    st.sampled_from(CASES), st.text(" .,;:!?\nßé\u0301\u200bÅ", max_size=8), st.text(" .,;:!?\nßé\u0301Å", max_size=8)
)
def test_signs_around_a_value_do_not_hide_it(case, before, after):
    kind, spelled = case
    done = redact_text(build_redactor(PEOPLE), f"{before} {spelled} {after}")
    assert f"[{kind}_1]" in done


@pytest.mark.parametrize(
    "piece", ["1 ", "a@", "12 Oak ", "DE89 ", "jane miller ", " at dot ", "A ", "+1", "my name is ", "(at)"]
)
def test_time_grows_with_the_text_not_with_its_square(piece):
    """Counts calls, not seconds, so that a busy machine can't fail it."""

    def count(text):
        steps = 0

        def trace(*_):
            nonlocal steps
            steps += 1

        sys.setprofile(trace)
        try:
            redact_text(build_redactor(PEOPLE), text)
        finally:
            sys.setprofile(None)
        return steps

    short, long = count(piece * 200), count(piece * 800)
    assert long < 5 * short + 2000
