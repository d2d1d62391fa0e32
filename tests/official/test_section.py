import pytest

from rqjax.errors import InputError
from rqjax.official.section import AGREE, Section


def refused(read, message):
    with pytest.raises(InputError) as caught:
        read()
    assert str(caught.value) == message


def test_options_are_read_by_name_and_kind():
    top = Section({"a": 3, "b": 0.5, "c": True, "d": "text", "e": [1, 2], "f": None, "g": 4}, "top")
    assert (top.whole("a"), top.number("b"), top.flag("c", False), top.text("d")) == (3, 0.5, True, "text")
    assert top.wholes("e") == top.each("e", Section.whole, 2) == (1, 2)
    assert top.each("g", Section.number, 3) == (4.0, 4.0, 4.0)
    assert top.whole("f", 7) == top.whole("missing", 7) == 7  # an option without a value is missing
    assert not top.has("f")
    assert top.take(Section.whole, "a", ours="g") == {"a": 3, "ours": 4}
    top.finish()


def test_values_of_another_kind_are_refused_by_their_place():
    top = Section({"a": "x", "b": True, "list": [1, "y"], "nan": float("nan"), "huge": 10**5000}, "top")
    refused(lambda: top.whole("a"), "top.a is 'x': expected a whole number of at least 1")
    refused(lambda: top.whole("b"), "top.b is True: expected a whole number of at least 1")
    refused(lambda: top.number("nan"), "top.nan is nan: expected a number")
    refused(lambda: top.number("huge"), "top.huge is a huge number: expected a number")
    refused(lambda: top.flag("a", False), "top.a is 'x': expected true or false")
    refused(lambda: top.text("a", choices=("v1", "v2")), "top.a is 'x': expected one of v1, v2")
    refused(lambda: top.wholes("list"), "top.list.1 is 'y': expected a whole number of at least 1")
    refused(lambda: top.wholes("list", 3), "top.list is [1, 'y']: expected a list of 3 values")
    refused(lambda: top.whole("c"), "top.c is missing: copy it from the official config")
    refused(lambda: top.section("a"), "top.a is 'x': expected a section of options")


def test_options_that_nobody_read_are_named_wherever_they_are():
    inner = {"known": 1, "misspelt": 2}
    top = Section({"inner": inner, "other": {"x": 1}, "sample": {"top_k": 1, "top_q": 2}, "\x1b[2J": None}, "")
    top.section("inner").whole("known")
    top.ignore("sample.top_k", "sample.top_p")
    with pytest.raises(InputError, match=r"unknown keys other, \\x1b\[2J, inner\.misspelt, sample\.top_q: correct"):
        top.finish()


def test_expected_values_may_be_missing_unless_they_are_required():
    top = Section({"a": 0.0, "b": 2}, "top")
    top.expect(a=0, c=True)
    refused(lambda: top.expect(b=1), "top.b is 2: expected 1, as every published model has it")
    refused(lambda: top.expect(AGREE, b=1), "top.b is 2: expected 1, to agree with the rest of this file")
    refused(lambda: top.expect(AGREE, required=True, d=1), "top.d is missing: copy it from the official config")


def test_classes_are_known_by_the_ends_of_their_names():
    top = Section({"target": "models.stage1.Model", "params": {"a": 1}}, "top")
    kind, params = top.instance("stage1.Model", "stage2.Model")
    assert (kind, params.place) == ("stage1.Model", "top.params")
    refused(lambda: top.instance("x.Y"), "top.target is 'models.stage1.Model': expected one of x.Y")
