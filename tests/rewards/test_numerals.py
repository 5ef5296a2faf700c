"""The last number of a text: marks, signs, scripts, powers, and what is no answer; in linear time on any text."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_rl import load_reward
from instructrec_rl.core import InputError
from instructrec_rl.rewards.numerals import last_number

GROUPS = [
    ("The total is 1 000 000.", "1000000"),
    ("1\u00a0234", "1234"),
    ("1\u202f234\u202f567", "1234567"),
    ("1\u2009234,5", "1234.5"),
    ("1'234.50", "1234.5"),
    ("1’234", "1234"),
    ("1_234_567", "1234567"),
    (r"\boxed{1{,}234}", "1234"),
    (r"1,\!234,\!567", "1234567"),
    (r"1\,234", "1234"),
    ("1~234", "1234"),
    ("1，234", "1234"),
    ("12,34,567", "1234567"),
    ("1,00,000", "100000"),
    ("1.234.567", "1234567"),
    ("1.234,56", "1234.56"),
    ("0,75", "0.75"),
    ("5 1,234", "1234"),
    ("12 345", "12345"),
    # no groups
    ("1, 2, 3", "3"),
    ("1,2,3", "3"),
    ("1,2,345", "345"),
    ("2019 2020", "2020"),
    ("2024 100", "100"),
    ("12 1 234", "234"),
    ("(0,1)", "1"),
    ("1.2.3", "3"),
    ("1_2", "2"),
    ("100\n200", "200"),
    ("100\t200", "200"),
]
SIGNS = [
    *((f"{dash}5", "-5") for dash in "-−–—‐‑‒―﹣－﹘"),
    ("= - 5", "-5"),
    (r"-\$5", "-5"),
    ("- $5", "-5"),
    ("− € 1 234,50", "-1234.5"),
    ("-US$5", "-5"),
    ("US$ -5", "-5"),
    ("-CHF 5", "-5"),
    ("-₹5", "-5"),
    ("The result is – 5", "-5"),
    ("it is minus 5", "-5"),
    ("Negative 5", "-5"),
    ("\u200e-5", "-5"),
    (r"$-5$", "-5"),
    ("{-}5", "-5"),
    ("-(5)", "-5"),
    ("from -5 to -3", "-3"),
    # no signs
    ("16-3", "3"),
    ("16 - 3", "3"),
    ("10 minus 3", "3"),
    ("10–20", "20"),
    ("Final answer – 42", "42"),
    ("covid-19", "19"),
    ("2024-01-05", "5"),
    ("Costs:\n- 5\n- 6", "6"),
    ("$5-$3", "3"),
    ("(5)", "5"),
]
SCRIPTS = [
    ("３．５", "3.5"),
    ("１，２３４", "1234"),
    ("٣٫٥", "3.5"),
    ("١٬٢٣٤٫٥", "1234.5"),
    ("१,२३४.५", "1234.5"),
    ("১২৩", "123"),
    ("𝟓", "5"),
    ("5️⃣", "5"),
    ("一共12元", "12"),
    ("ราคา๑๒", "12"),
]
POWERS = [
    ("5 x 10^3", "5000"),
    ("5×10³", "5000"),
    ("5·10^{3}", "5000"),
    (r"-1.5 \times 10^{-3}", "-0.0015"),
    (r"5\cdot10^{3}", "5000"),
    ("5*10**3", "5000"),
    ("5 x 10<sup>3</sup>", "5000"),
    ("5e3", "5000"),
    ("5E-3", "0.005"),
    ("10^3", "1000"),
    ("10⁻²", "0.01"),
    ("2^10", "1024"),
    ("3 x 4", "4"),
]
NOT_ANSWERS = [
    ("25 m²", "25"),
    ("25 m2", "25"),
    ("25 m^2", "25"),
    ("25 m<sup>2</sup>", "25"),
    ("9 of CO2", "9"),
    ("x2", None),
    ("H2O", None),
    ("a_1", None),
    ("x_{12}", None),
    ("x^2 = 9", "9"),
    ("7 e^5", "7"),
    ("42 [1]", "42"),
    ("42[12].", "42"),
    ("42 apples [1, 2].", "42"),
    ("42[^1]", "42"),
    ("42¹", "42"),
    ("[7]", "7"),
    ("2 + 5 = [7]", "7"),
    ("10^(10^9)", None),
    ("10^{10^{9}}", None),
    ("1e" + "9" * 20, None),
    ("(-2)^2", None),
    ("√16", None),
    (r"\sqrt{16} = 4", "4"),
    ("1.5 million", "1.5"),
    ("50%", "50"),
    ("3/4", "4"),
    ("...5", "5"),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), [*GROUPS, *SIGNS, *SCRIPTS, *POWERS, *NOT_ANSWERS])
def test_last_number(text: str, expected: str | None) -> None:
    assert last_number(text) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("text", "expected"), [("3,5", "3.5"), ("1.234", "1234"), ("1.234.567,8", "1234567.8"), ("3{,}5", "3.5")]
)
def test_a_comma_is_the_decimal_mark_where_it_is_asked_for(text: str, expected: str) -> None:
    assert last_number(text, ",") == Decimal(expected)
    assert load_reward("numeric", decimal=",").score([""], [text], [[text]]) == [1]


digits = st.sampled_from(["0123456789", "٠١٢٣٤٥٦٧٨٩", "０１２３４５６７８９", "०१२३४५६७८९", "০১২৩৪৫৬৭৮৯"])
marks = st.sampled_from([",", " ", "\u00a0", "\u202f", "'", "’", "_", "{,}", r"\,", r",\!"])


@given(
    st.integers(0, 10**15), digits, st.sampled_from([",", " ", "\u00a0", "\u202f", "'", "’", "_", "{,}", r"\,", r",\!"])
)
def test_any_integer_with_any_group_mark_in_any_digits(number: int, script: str, mark: str) -> None:
    written = "".join(script[int(char)] if char.isdigit() else mark for char in f"{number:,}")
    assert last_number(f"it is {written}.") == number
    assert last_number(f"it is −{written}.") == -number


@given(st.decimals(-(10**9), 10**9, allow_nan=False, places=3), st.integers(-20, 20))
def test_any_decimal_with_a_power_of_ten(number: Decimal, power: int) -> None:
    expected = number.scaleb(power)
    for times in (" x 10^", "×10^", r" \times 10^"):
        assert last_number(f"{number:f}{times}{power}") == expected
        assert last_number(f"{number:f}{times}{{{power}}}") == expected
    assert last_number(f"{number:f}e{power}") == expected


PIECES = ["1", "234", "٣", "²", ",", ".", " ", "'", "-", "−", "$", "^", "10^", "(", ")", "{", "}", "x", "e", "[", "]"]
PIECES += ["\\", "\\times", "<sup>", "_", "#", "####", "\n", "\ud800", "*", "%", "NaN", "inf"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_any_text_has_a_finite_number_or_none(text: str) -> None:
    number = last_number(text)
    assert number is None or number.is_finite()
    assert load_reward("numeric", tolerance=1.0, relative=0.1).score([""], [text], [["10^99999999"]]) in (0, 1)


NASTY = ["11,", "11 ", "1.", "1'", "[1,", "[1]", "[^1]", "x1 ", "1e", "1e1", "-", "- 1\n", "$", "1-", "1 x ", "10^"]
NASTY += ["10^(", "^{", "^{^(", "1 ^ ", "10^3 x ", "\\", "{,}", "<sup>", "<sup>1</sup>", "1\u00a0", "x_1", "1**"]
NASTY += ["minus ", "\n", " ", "٣٫", "10³", "1√", "(", ".5", "1,111,", "1 111 ", "12,34,567,", "000,", "9", "####", "é"]


@pytest.mark.parametrize("piece", NASTY)
def test_time_is_linear_in_the_text(piece: str) -> None:
    reward = load_reward("numeric")
    for size, most in ((60_000, 2), (600_000, 20)):
        text = piece * (size // len(piece))
        started = time.process_time()
        reward.score(["", ""], [text, text + "x"], [["5"], ["#### 5 " + text + " 5 is 5; 6"]])
        assert time.process_time() - started < most


def test_huge_numbers_compare() -> None:
    cases = [("10^99999999", "1e99999999", 1), ("10^99999999", "5", 0), ("9" * 500_000, "9" * 500_000, 1)]
    cases += [("1e-99999999", "0", 0), ("2^9999999", "5", 0), ("0^0", "0", 0), ("0^-1", "0", 0)]
    for options in ({}, {"tolerance": 0.0, "relative": 1e-6}):
        reward = load_reward("numeric", **options)
        for response, reference, expected in cases:
            assert reward.score([""], [response], [[reference]]) == [expected]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_tolerance_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="tolerance"):
        load_reward("numeric", tolerance=value)
