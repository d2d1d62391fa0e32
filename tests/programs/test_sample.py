import pytest

from rqjax.errors import InputError
from rqjax.flags.sample import FLAGS
from rqjax.nets.condition import ClassCondition, TextCondition
from rqjax.nets.sampling import Draw
from rqjax.programs import sample

DEPTHS, STREAMS = ("depth 1", "depth 2", "depth 3"), ("contents", "positions")


@pytest.fixture
def flags():
    """Parses the words of a command line into the program's flags, which know no earlier ones."""

    def parse(*words: str) -> None:
        FLAGS.unparse_flags()
        for name in FLAGS:
            FLAGS[name].unparse()
        FLAGS(["sample", *words])

    yield parse
    parse()


def test_one_value_serves_all_depths_and_several_are_theirs(flags):
    flags("--temperature=0.5", "--top_k=4,8,16")
    assert sample._draws(DEPTHS, Draw()) == [Draw(temperature=0.5, top_k=k) for k in (4, 8, 16)]


def test_what_no_flag_says_is_the_runs_own(flags):
    own = Draw(temperature=0.9, top_k=64, top_p=0.8)
    flags()
    assert sample._draws(DEPTHS, own) == [own] * 3
    flags("--top_k=0", "--position_top_p=1")
    assert sample._draws(STREAMS, own) == [Draw(temperature=0.9, top_p=0.8), Draw(temperature=0.9)]


def test_positions_draw_as_contents_unless_they_have_flags_of_their_own(flags):
    flags("--top_k=300", "--top_p=0.9")
    assert sample._draws(STREAMS, Draw()) == [Draw(top_k=300, top_p=0.9)] * 2
    flags("--top_k=300", "--position_top_k=0", "--position_temperature=0.5")
    assert sample._draws(STREAMS, Draw()) == [Draw(top_k=300), Draw(temperature=0.5)]


@pytest.mark.parametrize(
    ("streams", "words", "message"),
    [
        (STREAMS, ["--top_k=4,4"], "--top_k has 2 values: give one, and that of positions as --position_top_k"),
        (STREAMS, ["--temperature=1,0.9"], "--temperature has 2 values: give one, and that of positions"),
        (DEPTHS, ["--top_p=1,0.9"], "--top_p has 2 values: give one, or one for each of 3 depths"),
        (DEPTHS, ["--position_top_p=0.9"], "--position_top_p is for DQ priors: this one has depth 1"),
        (DEPTHS, ["--top_k=many"], "--top_k has 'many': expected a whole number"),
    ],
)
def test_settings_that_the_streams_do_not_have_are_refused(flags, streams, words, message):
    flags(*words)
    with pytest.raises(InputError, match=message):
        sample._draws(streams, Draw())


def test_captions_and_classes_are_for_the_priors_that_they_lead(flags):
    texts, classes = TextCondition(100, 8), ClassCondition(3)
    flags("--text=a red, ripe apple", "--text=a pear")
    assert sample._labels(texts, ()) is None
    assert sample.TEXT.value == ["a red, ripe apple", "a pear"]
    with pytest.raises(InputError, match="--text is for priors that are led by texts"):
        sample._labels(classes, ())
    flags("--label=2")
    assert sample._labels(classes, ()) == [2]
    with pytest.raises(InputError, match="--label gives classes: say it with --text"):
        sample._labels(texts, ())
    flags()
    assert sample._labels(classes, ()) is None
    with pytest.raises(InputError, match="this prior is led by a text: say one with --text"):
        sample._labels(texts, ())


def test_several_processes_draw_shards_alone(flags, monkeypatch):
    for name, value in {"COORDINATOR": "a:1", "PROCESSES": "2", "PROCESS_ID": "1"}.items():
        monkeypatch.setenv(f"RQJAX_{name}", value)
    flags("--prior=nowhere", "--out=x.png")
    with pytest.raises(InputError, match=r"2 processes draw shards of their own, .* x.png: let that end in /"):
        sample.main([])
