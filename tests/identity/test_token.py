from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import IdentityError
from edge_sdk.identity.token import Token, read_token, write_token

tokens = st.builds(
    Token,
    host=st.from_regex(r"[a-z0-9.:-]{1,40}", fullmatch=True),
    port=st.integers(1, 65535),
    pin=st.binary(min_size=20, max_size=20),
    secret=st.binary(min_size=16, max_size=16),
)
# The text of a released token: an old device must understand a new coordinator.
GOLDEN = "fe1_AAECAwQFBgcICQoLDA0ODxAREhPwkPCQ8JDwkPCQ8JDwkPCQIrQxMC4wLjAuMfc2k7A"


def test_a_tokens_text_is_golden() -> None:
    token = Token("10.0.0.1", 8884, bytes(range(20)), b"\xf0\x90" * 8)
    assert write_token(token) == GOLDEN
    assert read_token(GOLDEN) == token


@given(tokens)
def test_what_is_written_is_read_however_it_was_wrapped(token: Token) -> None:
    text = write_token(token)
    assert text.isascii()
    assert len(text) <= 115
    assert read_token(text) == token
    assert read_token(f"  {text[:30]}\n {text[30:]} \n") == token
    assert token.secret.hex() not in repr(token)


@given(tokens, st.data())
def test_a_sign_that_is_wrong_missing_or_too_many_is_noticed(
    token: Token, data: st.DataObject
) -> None:
    text = write_token(token)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("Aa0_-Zé=").filter(lambda c: c != text[place]))
    for wrong in (text[:place] + other + text[place + 1 :], text[:place], text + other):
        with pytest.raises(IdentityError, match="not a whole enrolment token"):
            read_token(wrong)


@given(st.text(max_size=100))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match="not a whole enrolment token"):
        read_token(text)
