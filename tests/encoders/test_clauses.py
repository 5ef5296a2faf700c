import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instructrec_rl.encoders.clauses import split_clauses

# What the splitter may drop or replace; everything else must survive.
FUNCTION_WORDS = {*("and", "but", "also", "plus", "or", "nor", "neither", "as", "well", "then"), *"但是而且并以及或者"}


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("neither mushrooms nor olives", ["no mushrooms", "no olives"]),
        ("neither mushrooms, nor olives nor ham", ["no mushrooms", "no olives", "no ham"]),
        ("neither too spicy nor too dear", ["not too spicy", "not too dear"]),
        ("thin crust or pan, but not stuffed", ["thin crust or pan", "not stuffed"]),
        ("no mushrooms or olives", ["no mushrooms", "no olives"]),
        ("no mushrooms, olives or onions, thin crust", ["no mushrooms", "no olives", "no onions", "thin crust"]),
        (
            "without pork, beef, or ham for at most $13",
            ["without pork", "without beef", "without ham", "for at most $13"],
        ),
        ("I don't want ham or olives", ["I don't want ham", "I don't want olives"]),
        ("I don’t eat nuts or dairy", ["I don't eat nuts", "I don't eat dairy"]),
        ("The crust is neither thin nor pan", ["The crust is not thin", "The crust is not pan"]),
        ("size: small, any crust but pan", ["size: small", "any crust but pan"]),
        ("keep the beef off, the ham too, please", ["keep the beef off, the ham too", "please"]),
        ("hot, absolutely no ham", ["hot", "absolutely no ham"]),
        ("a pie with tuna skip the ham", ["a pie", "with tuna", "skip the ham"]),
        ("thin crust no onions", ["thin crust", "no onions"]),
        ("I don't like ham, nor olives", ["I don't like ham", "no olives"]),
        ("not too spicy or salty", ["not too spicy", "not too salty"]),
        ("with ham and pineapple but no onions", ["with ham", "pineapple", "no onions"]),
        ("a large pizza that's spicy for less than $10.50", ["a large pizza", "that's spicy", "for less than $10.50"]),
        ("something hot, e.g. chili, under $12.50.", ["something hot", "e.g. chili", "under $12.50"]),
        ("a gluten-free pizza, 1,000 calories", ["a gluten-free pizza", "1,000 calories"]),
        (
            "我想要披萨，不要蘑菇、洋葱或橄榄；便宜一点。",
            ["我想要披萨", "不要蘑菇", "不要洋葱", "不要橄榄", "便宜一点"],
        ),
    ],
)
def test_examples(text: str, clauses: list[str]) -> None:
    assert split_clauses(text) == clauses


@pytest.mark.parametrize(
    "text",
    [
        "anything but olives",
        "nothing with onions or garlic",
        "between $10 and $12",
        "no more than $12 or so",
        "no onions and peppers",
        "no onions, olives and peppers",
        "don't give me a pizza with onions that's spicy",
        "not only",
        "I want no mushrooms",
        "pizza in no time",
        "could you skip the ham",
        "thin or pan",
        "pizza(s)",
        "🍕!!",
        "and",
    ],
)
def test_what_is_one_requirement_or_ambiguous_stays_whole(text: str) -> None:
    assert split_clauses(text) == [text]


def test_blank_text_and_limits() -> None:
    assert split_clauses("") == split_clauses(" \n") == [""]
    assert split_clauses("a, b, c, d", max_clauses=2) == ["a", "b, c, d"]
    with pytest.raises(ValueError, match="at least 1"):
        split_clauses("a", max_clauses=0)


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+|[^\W_]", text.lower().replace("’", "'"))) - FUNCTION_WORDS


vocabulary = (
    "no not without neither nor or and but also plus with that's under $12.50 $9 , . ; : ! ? ， 、 。 不要 蘑菇 或 ( ) "
    "- — e.g. I don't want like mushrooms olives thin crust spicy on a for less than between nothing anything except "
    "hold the 10 is any crust: too either never skip in"
)
sentences = st.lists(st.sampled_from(vocabulary.split()), min_size=1, max_size=25).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(st.one_of(sentences, st.text(max_size=80)), st.integers(1, 10))
@example("no , or", 8)
@example("neither nor nor x", 8)
def test_no_word_is_lost_and_the_limit_holds(text: str, limit: int) -> None:
    clauses = split_clauses(text, limit)
    assert 1 <= len(clauses) <= limit
    assert words(text) <= words(" ".join(clauses))
    assert clauses == [text.strip()] or all(any(c.isalnum() for c in clause) for clause in clauses)


@settings(max_examples=200, deadline=None)
@given(sentences)
def test_it_ends_where_it_began(text: str) -> None:
    """Splitting clauses again changes nothing more after a few rounds: the rules do not feed themselves."""
    clauses = split_clauses(text, 100)
    for _ in range(4):
        again = [part for clause in clauses for part in split_clauses(clause, 100)]
        if again == clauses:
            return
        clauses = again
    pytest.fail(f"still changing: {clauses}")


def test_long_text_is_quick() -> None:
    import time

    text = "no onions and peppers, neither x nor y or z with a (b) " * 2000
    begin = time.process_time()
    split_clauses(text)
    assert time.process_time() - begin < 5
