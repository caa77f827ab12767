"""The provider's signature: which notices are accepted, as what, and why the others are refused."""

import hmac
import json
import math
import random
import re
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.webhooks.signatures import (
    MAX_NUMBER_CHARACTERS,
    BadSignature,
    Malformed,
    NumberToken,
    WebhookRejected,
    canonical_json,
    ecmascript_number,
    verify,
)

SECRET = "ipn-secret-of-the-tests"
unhurried = settings(deadline=None)  # a busy machine is no failure
FIXTURES = Path(__file__).parent.parent / "fixtures"
ACCEPTED = json.loads((FIXTURES / "nowpayments_ipn_accept.json").read_text("utf-8"))
REJECTED = json.loads((FIXTURES / "nowpayments_ipn_reject.json").read_text("utf-8"))
REASONS = {
    "tampered_status": (BadSignature, "wrong_signature"),
    "wrong_secret": (BadSignature, "wrong_signature"),
    "truncated_signature": (BadSignature, "malformed_signature"),
    "empty_signature": (BadSignature, "missing_signature"),
    "non_ascii_signature": (BadSignature, "malformed_signature"),
    "duplicate_key_parser_differential": (Malformed, "duplicate_key"),
    "not_json": (Malformed, "not_json"),
    "array_top_level": (Malformed, "not_an_object"),
    "deep_nesting": (Malformed, "too_deep"),
}

# Made with node 20: token=JSON.stringify(JSON.parse(token)).
ECMASCRIPT_NUMBERS = """
    0=0 -0=0 0.0=0 -0.0=0 0e999999=0 1=1 -1=-1 10=10 10.0=10 100.50=100.5 2E0=2 0.1e1=1 1e0=1
    1e+2=100 123e-2=1.23 -123.456e-3=-0.123456 170=170 155.38559757=155.38559757
    0.00656612=0.00656612 0.000083=0.000083 0.000002=0.000002 0.000001=0.000001 0.0000010=0.000001
    9.999999e-7=9.999999e-7 1.5e-7=1.5e-7 1e-7=1e-7 0.0000001=1e-7 0.00000012=1.2e-7 1.2e-7=1.2e-7
    1E-10=1e-10 5e-324=5e-324 2.4703282292062327e-324=0 2.4703282292062328e-324=5e-324
    2.2250738585072014e-308=2.2250738585072014e-308 0.1=0.1 0.30000000000000004=0.30000000000000004
    0.1000000000000000055511151231257827=0.1 4.35=4.35 1.0000000000000002=1.0000000000000002
    1.00000000000000011=1 123456789012345.678=123456789012345.67 9007199254740991=9007199254740991
    9007199254740992=9007199254740992 9007199254740993=9007199254740992
    12345678901234567890=12345678901234567000 144115188075855870=144115188075855870
    1e15=1000000000000000 1e16=10000000000000000 1.5e16=15000000000000000 1e17=100000000000000000
    1e20=100000000000000000000 123456789012345680000=123456789012345680000
    999999999999999900000=999999999999999900000 999999999999999999999=1e+21 1e21=1e+21 1E21=1e+21
    1.2345e21=1.2345e+21 -1e21=-1e+21 1e22=1e+22 1.7976931348623157e308=1.7976931348623157e+308
    1.7976931348623159e308=null 1e309=null -1e309=null 1e999999=null 1765249461097=1765249461097
"""


def sign(text, secret=SECRET):
    signed = text if isinstance(text, bytes) else text.encode()
    return hmac.new(secret.encode(), signed, "sha512").hexdigest()


def refusal(body, signature, secrets=(SECRET,)):
    with pytest.raises(WebhookRejected) as raised:
        verify(body, signature, secrets)
    return type(raised.value), raised.value.reason


def read_json(text):
    return json.loads(text, parse_int=NumberToken, parse_float=NumberToken)


# The vectors, made with the provider's own code.


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: vector["name"])
def test_a_genuine_notice_is_read_as_it_was_signed(vector):
    notice = verify(vector["body"].encode(), vector["signature"], [vector["secret"]])
    assert canonical_json(notice) == canonical_json(read_json(vector["canonical"]))


@pytest.mark.parametrize("vector", REJECTED, ids=lambda vector: vector["name"])
def test_a_notice_that_is_not_genuine_is_refused_with_its_reason(vector):
    refused = refusal(vector["body"].encode(), vector["signature"], [vector["secret"]])
    assert refused == REASONS[vector["name"]]


def test_each_rejected_vector_has_a_reason_here():
    assert {vector["name"] for vector in REJECTED} == set(REASONS)


# The header and the secrets.


@pytest.mark.parametrize("header", [None, ""])
def test_a_notice_without_signature_is_refused(header):
    assert refusal(b"{}", header) == (BadSignature, "missing_signature")


@pytest.mark.parametrize(
    "header",
    [
        "0" * 127,
        "0" * 129,
        "g" * 128,
        "0" * 128 + "\n",
        " " + "0" * 128,
        "\uff10" * 128,  # a digit for Python, not for us
        "sha512=" + "0" * 121,
    ],
)
def test_a_header_of_another_shape_is_refused_before_the_body_is_read(header):
    assert refusal(b"not JSON", header) == (BadSignature, "malformed_signature")


def test_upper_case_hex_is_accepted():
    assert verify(b"{}", sign("{}").upper(), [SECRET]) == {}


@pytest.mark.parametrize(
    "secrets",
    [[SECRET, "previous"], ["next", SECRET], [f"  {SECRET}\n"], ["", SECRET]],
)
def test_the_current_and_the_previous_secret_are_tried_and_trimmed(secrets):
    spaced = b'{"b": 1, "a": 2}'
    assert verify(spaced, sign(spaced), secrets) == {"b": "1", "a": "2"}
    assert verify(spaced, sign('{"a":2,"b":1}'), secrets) == {"b": "1", "a": "2"}


@pytest.mark.parametrize("secrets", [[], [""], ["", " \t\n"]])
def test_an_empty_secret_never_opens_the_door(secrets):
    assert refusal(b"{}", sign("{}", secret=""), secrets) == (BadSignature, "no_secret")


def test_an_empty_secret_beside_a_real_one_signs_nothing():
    refused = refusal(b"{}", sign("{}", secret=""), ["", SECRET])
    assert refused == (BadSignature, "wrong_signature")


# What is no notice, though it is signed.

MALFORMED = {
    "empty": (b"", "not_json"),
    "form": (b"payment_id=5", "not_json"),
    "truncated": (b'{"a":1', "not_json"),
    "trailing text": (b"{}{}", "not_json"),
    "comment": (b"{}//", "not_json"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not_json"),
    "raw control character": (b'{"a":"\x01"}', "not_json"),
    "leading zero": (b'{"a":01}', "not_json"),
    "plus sign": (b'{"a":+1}', "not_json"),
    "digits of another script": ('{"a":\u0661}'.encode(), "not_json"),
    "NaN": (b'{"a":NaN}', "not_json"),
    "Infinity": (b'{"a":Infinity}', "not_json"),
    "minus Infinity": (b'{"a":-Infinity}', "not_json"),
    "UTF-16": ("{}".encode("utf-16-le"), "not_json"),
    "Latin-1": ('{"a":"é"}'.encode("latin-1"), "not_utf8"),
    "surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "not_utf8"),
    "overlong UTF-8": (b'{"a":"\xc0\xaf"}', "not_utf8"),
    "array": (b"[]", "not_an_object"),
    "string": (b'"{}"', "not_an_object"),
    "number": (b"5", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "duplicate key": (b'{"a":1,"a":1}', "duplicate_key"),
    "duplicate key, escaped": (b'{"a":1,"\\u0061":1}', "duplicate_key"),
    "duplicate key, nested": (b'{"a":[{"b":1,"b":2}]}', "duplicate_key"),
    "prototype": (b'{"__proto__":{}}', "forbidden_key"),
    "prototype, escaped": (b'{"a":{"\\u005f_proto__":1}}', "forbidden_key"),
    "endless number": (b'{"a":' + b"9" * 60_000 + b"}", "number_too_long"),
    "endless fraction": (b'{"a":0.' + b"1" * MAX_NUMBER_CHARACTERS + b"}", "number_too_long"),
    "30,000 arrays": (b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "too_deep"),
    "30,000 open objects": (b'{"a":' * 30_000, "too_deep"),
    "lone quotes": (b"{" * 17 + b'"\\' * 30_000, "too_deep"),
    "escaped quotes": (b"[]" * 17 + b'"\\"' * 20_000, "not_json"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_notice_is_malformed_signed_or_not(name):
    body, reason = MALFORMED[name]
    assert refusal(body, sign(body)) == (Malformed, reason)
    assert refusal(body, "0" * 128) == (Malformed, reason)


@pytest.mark.parametrize("siblings", [b"", b"[],{}," * 20])
def test_a_notice_nests_at_most_sixteen_levels(siblings):
    deepest = b'{"a":[' + siblings + b"[" * 14 + b"]" * 14 + b"]}"
    assert list(verify(deepest, sign(deepest), [SECRET])) == ["a"]
    too_deep = b'{"a":[' + siblings + b"[" * 15 + b"]" * 15 + b"]}"
    assert refusal(too_deep, sign(too_deep)) == (Malformed, "too_deep")


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"{}," * 50 + b"[]]}",
        b'{"a":"' + b"[{" * 50 + b'"}',
        b'{"a":"\\n' + b"[{" * 50 + b'"}',
        b'{"a":"\\"' + b"[{" * 50 + b'\\\\","b":[]}',
    ],
)
def test_neither_siblings_nor_brackets_in_text_count_as_depth(body):
    assert "a" in verify(body, sign(body), [SECRET])


# What the notice says.


def test_a_number_keeps_its_exact_text_and_is_told_from_text():
    body = b'{"amount":0.10000000000000000001,"id":12345678901234567891,"text":"5"}'
    notice = verify(body, sign(body), [SECRET])
    assert list(notice.values()) == ["0.10000000000000000001", "12345678901234567891", "5"]
    assert [type(value) for value in notice.values()] == [NumberToken, NumberToken, str]


def test_text_in_the_place_of_a_number_does_not_verify():
    assert refusal(b'{"a":"5"}', sign('{"a":5}')) == (BadSignature, "wrong_signature")


@pytest.mark.parametrize(
    ("wire", "signed", "notice"),
    [
        ('{"a":10.0}', '{"a":10}', {"a": "10"}),
        ('{"a":1E-7}', '{"a":1e-7}', {"a": "1e-7"}),
        ('{"a":-0}', '{"a":0}', {"a": "0"}),
        ('{"a":9007199254740993}', '{"a":9007199254740992}', {"a": "9007199254740992"}),
        ('{"a":1e999999}', '{"a":null}', {"a": None}),
        ('{"a":[7,8]}', '{"a":{"0":7,"1":8}}', {"a": {"0": "7", "1": "8"}}),
        ('{"a":[]}', '{"a":{}}', {"a": {}}),
        ('{"a":[1.0]}', '{"a":{"0":1}}', {"a": {"0": "1"}}),
    ],
)
def test_the_text_that_was_signed_counts_not_its_other_spelling_on_the_wire(wire, signed, notice):
    assert verify(wire.encode(), sign(signed), [SECRET]) == notice


def test_literals_and_nested_values_are_read():
    body = b'{"b":[true,false,null,{"z":"","y":[]}]}'
    signed = '{"b":[true,false,null,{"y":[],"z":""}]}'
    assert verify(body, sign(signed), [SECRET]) == {"b": [True, False, None, {"z": "", "y": []}]}


# The canonical text.


def test_keys_are_listed_as_javascript_lists_them():
    # Made with node 20, from these keys in another order.
    expected = (
        r'{"0":13,"9":8,"10":7,"4294967294":11,"":6,"-1":10,"01":9,"1.0":16,"4294967295":12,'
        r'"99999999999":17,"Z":5,"a":4,"é":14,"\ud800":15,"😀":2,'
        '"\ue000":1,"\uffff":3}'
    )
    members = list(read_json(expected).items())
    random.Random(1).shuffle(members)
    assert canonical_json(dict(members)) == expected


def test_text_is_escaped_as_javascript_escapes_it():
    text = '\b\f\n\r\t"\\/\x00\x1f\x7f\u2028é😀\ud800x\udc00'
    expected = r'"\b\f\n\r\t\"\\/\u0000\u001f' + "\x7f\u2028é😀" + r'\ud800x\udc00"'
    assert canonical_json(text) == expected


def test_lone_surrogates_come_through():
    body = rb'{ "\uDC00" : "\uD83D\uD83D\uDE00" }'
    notice = verify(body, sign('{"\\udc00":"\\ud83d😀"}'), [SECRET])
    assert notice == {"\udc00": "\ud83d😀"}


@pytest.mark.parametrize("pair", ECMASCRIPT_NUMBERS.split())
def test_a_number_is_printed_as_javascript_prints_it(pair):
    token, printed = pair.split("=")
    assert ecmascript_number(token) == printed


@unhurried
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_number_reads_back_as_the_same_double(number):
    printed = ecmascript_number(repr(number))
    assert float(printed) == number
    shape = r"0|-?(0\.\d*[1-9]|[1-9]\d*(\.\d*[1-9])?|[1-9](\.\d*[1-9])?e[-+][1-9]\d*)"
    assert re.fullmatch(shape, printed)
    is_fixed_point = number == 0 or 1e-6 <= math.fabs(number) < 1e21
    assert ("e" in printed) is not is_fixed_point


# Properties.

# Keys and numbers that json.dumps writes as JSON.stringify does: it is the judge here.
letters = st.sampled_from([*string.ascii_letters, *"_é漢\u2028\ue000\uffff😀"])
keys = st.text(letters, min_size=1, max_size=6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**53), 2**53) | st.floats(0.001, 1e12)
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(keys, values, max_size=8)
signatures = st.text("0123456789abcdefABCDEF", min_size=128, max_size=128)


def reordered(value, order):
    """Return *value* with the keys of each object in the order that *order* makes of them."""
    if isinstance(value, dict):
        return {key: reordered(value[key], order) for key in order(list(value))}
    if isinstance(value, list):
        return [reordered(item, order) for item in value]
    return value


def signed_text(document):
    ordered = reordered(
        document, lambda keys: sorted(keys, key=lambda key: key.encode("utf-16-be"))
    )
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


@unhurried
@given(documents, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([None, 2]))
def test_keys_in_any_order_are_accepted(document, dice, is_ascii, indent):
    shuffled = reordered(document, lambda keys: dice.sample(keys, len(keys)))
    wire = json.dumps(shuffled, ensure_ascii=is_ascii, indent=indent)
    signed = signed_text(document)
    notice = verify(wire.encode(), sign(signed), [SECRET])
    assert canonical_json(notice) == signed


@unhurried
@given(documents, st.integers(0, 127), st.characters())
def test_a_signature_with_one_changed_character_never_verifies(document, position, character):
    signed = signed_text(document)
    genuine = sign(signed)
    changed = genuine[:position] + character + genuine[position + 1 :]
    if changed.lower() == genuine:
        changed = genuine[:position] + format(int(character, 16) ^ 1, "x") + genuine[position + 1 :]
    assert refusal(signed.encode(), changed)[0] is BadSignature


@unhurried
@given(documents, st.data())
def test_a_changed_body_is_refused_or_says_what_was_signed(document, data):
    signed = signed_text(document)
    wire = bytearray(signed.encode())
    position = data.draw(st.integers(0, len(wire) - 1))
    wire[position : position + 1] = data.draw(st.binary(max_size=2))
    try:
        notice = verify(bytes(wire), sign(signed), [SECRET])
    except WebhookRejected:
        return
    assert canonical_json(notice) == signed


fragments = st.lists(
    st.sampled_from(
        [
            *(b'{ } [ ] , : " \\ - . e E 0 1 5e-7 1e999 true null NaN "a" "0" "a":'.split()),
            *(b'"__proto__": \\ud800 \\u0000 \xff \xef\xbb\xbf {"a":1} [1.0,2]'.split()),
            b"\x00",
            b"{" * 20,
            b"9" * 5000,
        ]
    ),
    max_size=20,
).map(b"".join)
bodies = st.binary() | fragments | fragments.map(lambda inner: b'{"a":[' + inner + b"]}")


def outcome(body, header):
    try:
        return verify(body, header, ["", SECRET])
    except (BadSignature, Malformed) as refused:
        return refused


@settings(unhurried, max_examples=500)
@given(bodies, st.none() | st.text() | signatures)
def test_no_bytes_and_no_header_raise_anything_but_a_refusal(body, header):
    assert isinstance(outcome(body, header), WebhookRejected)
    signed = outcome(body, sign(body))
    if isinstance(signed, WebhookRejected):
        assert type(signed) is Malformed
    else:
        assert outcome(body, sign(canonical_json(signed))) == signed
