"""`instructrec-rl score`: what it prints and writes, in what memory, and what it says of wrong files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from instructrec_rl import load_reward
from instructrec_rl.commands import score
from instructrec_rl.core import command_line as cli
from tests.run.test_run import ROOT, environment

PREDICTIONS = ["a b", "a c", "", "in all 7"]
REFERENCES = ["a b", "a b", "x", "7"]


def write(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


def outcome(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run_command(cli.dispatch, ["score", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


FILES = ("--predictions", "p.jsonl", "--references", "r.jsonl")


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        (PREDICTIONS, REFERENCES),
        ([{"response": text} for text in PREDICTIONS], [{"references": [text]} for text in REFERENCES]),
        ([{"id": k, "text": text} for k, text in enumerate(PREDICTIONS)], [[text] for text in REFERENCES]),
        (PREDICTIONS, [{"id": k, "reference": text} for k, text in enumerate(REFERENCES)]),
        ([{"prediction": text} for text in PREDICTIONS], [{"output": [text, text]} for text in REFERENCES]),
    ],
)
def test_lines_are_texts_or_objects(
    here: Path, capsys: pytest.CaptureFixture[str], predictions: list[Any], references: list[Any]
) -> None:
    write(here / "p.jsonl", predictions)
    write(here / "r.jsonl", references)
    code, said, _ = outcome(capsys, "--reward", "rouge", *FILES)
    assert (code, said) == (0, "rouge 0.500000 (4 rows)\n")


def test_the_corpus_score_over_all_chunks_is_sacrebleus(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "CHUNK_ROWS", 3)
    responses = [f"the {'good ' * (k % 3)}pizza number {k} of the day" for k in range(10)]
    references = [[f"the pizza number {k} of a day", f"pizza {k}"] for k in range(10)]
    write(here / "p.jsonl", responses)
    write(here / "r.jsonl", references)
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        corpus = metric.corpus_score(responses, [list(stream) for stream in zip(*references)]).score / 100
        code, said, _ = outcome(capsys, "--reward", name, *FILES)
        assert code == 0
        assert said.splitlines()[1:] == [f"  corpus {1 - corpus if name == 'ter' else corpus:.6f}"]
        mean = load_reward(name).score([""] * 10, responses, references).mean()
        assert said.splitlines()[0] == f"{name} {mean:.6f} (10 rows)"


def test_options_out_and_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "p.jsonl", [{"id": f"n{k}", "answer": text} for k, text in enumerate(PREDICTIONS)])
    write(here / "r.jsonl", [{"id": f"n{k}", "gold": text} for k, text in enumerate(REFERENCES)])
    fields = ("--field", "answer", "--reference-field", "gold", "--out", "scores.jsonl")
    options = (
        "--option",
        "parts.rouge=1",
        "--option",
        "parts.exact_match=3",
        "--option",
        "options.rouge.variant=rouge1",
    )
    code, said, err = outcome(capsys, "--reward", "weighted", *FILES, *fields, *options)
    assert code == 0, err
    assert said.splitlines() == ["weighted 0.312500 (4 rows)", "  rouge 0.500000", "  exact_match 0.250000"]
    lines = [json.loads(line) for line in (here / "scores.jsonl").open()]
    mix = load_reward("weighted", parts={"rouge": 1, "exact_match": 3}, options={"rouge": {"variant": "rouge1"}})
    expected = mix.score([""] * 4, PREDICTIONS, [[text] for text in REFERENCES]).tolist()
    assert [line["score"] for line in lines] == expected
    assert [line["id"] for line in lines] == ["n0", "n1", "n2", "n3"]
    assert lines[0]["parts"] == {"rouge": 1.0, "exact_match": 1.0}
    assert sorted(path.name for path in here.iterdir()) == ["p.jsonl", "r.jsonl", "scores.jsonl"]


def test_masked_rows_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "p.jsonl", PREDICTIONS)
    write(here / "r.jsonl", REFERENCES)
    options = ("--option", "parts.rouge=1", "--option", "parts.numeric=1", "--option", "on_error=mask")
    code, said, err = outcome(capsys, "--reward", "weighted", *FILES, *options)
    assert code == 0, err
    assert "  numeric.masked 3 rows\n" in said
    assert "  rouge.masked 0 rows\n" in said


def test_a_reward_without_references_and_one_that_needs_an_environment(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "p.jsonl", PREDICTIONS)
    code, said, _ = outcome(capsys, "--reward", "format", "--predictions", "p.jsonl", "--option", "max_chars=3")
    assert (code, said) == (0, "format 0.750000 (4 rows)\n  max_chars 0.750000\n")
    code, _, err = outcome(capsys, "--reward", "rouge", "--predictions", "p.jsonl")
    assert (code, err.splitlines()[-1]) == (2, "p.jsonl:1: reward rouge: has no references to compare with")


def test_chunks_give_what_one_batch_gives(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = [f"a b {k % 7} c {k % 3}" for k in range(100)]
    references = [f"b a {k % 5} c {k % 2}" for k in range(100)]
    write(here / "p.jsonl", predictions)
    write(here / "r.jsonl", references)
    expected = load_reward("rouge").score([""] * 100, predictions, [[text] for text in references])
    for name, value in (("CHUNK_ROWS", 7), ("CHUNK_CHARS", 1)):
        monkeypatch.setattr(score, name, value)
        code, said, err = outcome(capsys, "--reward", "rouge", *FILES, "--out", "s.jsonl")
        assert (code, said) == (0, f"rouge {expected.mean():.6f} (100 rows)\n")
        assert [json.loads(line)["score"] for line in (here / "s.jsonl").open()] == expected.tolist()
        assert "score by rouge: 100 of 100 (100 %)" in err


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ('"a"\n"b"\n"c"\n', '"a"\n"b"\n', "r.jsonl:3: ends before p.jsonl, which has a line 3"),
        ('"a"\n', '"a"\n"b"\n', "p.jsonl:2: ends before r.jsonl, which has a line 2"),
        ('"a"\n{"respons": "b"}\n', '"a"\n"b"\n', 'p.jsonl:2: has no field "response" or "prediction" or "text" or'),
        ('"a"\n"b"\n', '"a"\n{"id": 1}\n', 'r.jsonl:2: has no field "references" or "reference" or "text" or "output"'),
        ('"a"\n{"text": 5}\n', '"a"\n"b"\n', "p.jsonl:2: expected the response as text, found a number"),
        ('"a"\nnull\n', '"a"\n"b"\n', "p.jsonl:2: expected the response as text, found null"),
        ('"a"\n["b"]\n', '"a"\n"b"\n', "p.jsonl:2: expected the response as text, found a list"),
        (
            '"a"\n"b"\n',
            '"a"\n{"text": true}\n',
            "r.jsonl:2: expected the references as a text or a list of texts, found",
        ),
        ('"a"\n"b"\n', '"a"\n["b", 3]\n', "r.jsonl:2: expected every reference as text, found a number"),
        ('"a"\n"b"\n', '"a"\n[]\n', "r.jsonl:2: the list of references is empty"),
        ('"a"\nb\n', '"a"\n"b"\n', "p.jsonl:2: broken JSON: Expecting value (column 1)"),
        ('"a"\nNaN\n', '"a"\n"b"\n', "p.jsonl:2: broken JSON: NaN is not a JSON number"),
        ('"a"\n"\\ud800"\n', '"a"\n"b"\n', "p.jsonl:2: broken JSON: half of a surrogate pair"),
        ('"a"\n\n"b"\n', '"a"\n"b"\n', 'p.jsonl:2: a blank line; write an empty response as ""'),
        (
            '{"id": 1, "text": "a"}\n',
            '{"id": 2, "text": "a"}\n',
            "r.jsonl:1: the id is 2, but p.jsonl has 1 on this line",
        ),
        *(
            (
                f'{{"id": {ours}, "text": "a"}}\n',
                f'{{"id": {theirs}, "text": "a"}}\n',
                f"r.jsonl:1: the id is {theirs}, but p.jsonl has {ours} on this line",
            )
            for ours, theirs in [
                ("1", "true"),
                ("true", "1"),
                ("0", "false"),
                ("1", "1.0"),
                ("1", '"1"'),
                ("0", "-0.0"),
                ("[1]", "[true]"),
                ('{"a": 1}', '{"a": 1.0}'),
                ("null", "0"),
                ('"a"', '"A"'),
            ]
        ),
        ('{"id": 1e400, "text": "a"}\n', '"a"\n', "p.jsonl:1: broken JSON: 1e400 is larger than any number"),
        ('{"id": [-1e999], "text": "a"}\n', '"a"\n', "p.jsonl:1: broken JSON: -1e999 is larger than any number"),
        ('"a"\n', '{"id": 1e400, "text": "a"}\n', "r.jsonl:1: broken JSON: 1e400 is larger than any number"),
        ('{"text": "a", "instruction": 3}\n', '"a"\n', "p.jsonl:1: expected the instruction as text, found a number"),
        ("", "", "p.jsonl: is empty: there is nothing to score"),
    ],
)
def test_wrong_files_exit_2_with_the_line(
    here: Path, capsys: pytest.CaptureFixture[str], predictions: str, references: str, message: str
) -> None:
    (here / "p.jsonl").write_text(predictions)
    (here / "r.jsonl").write_text(references)
    code, said, err = outcome(capsys, "--reward", "rouge", *FILES, "--out", "s.jsonl")
    assert (code, said) == (2, "")
    assert err.splitlines()[-1].startswith(message)
    assert sorted(path.name for path in here.iterdir()) == ["p.jsonl", "r.jsonl"]


@pytest.mark.parametrize("id", ["1", "true", "1.5", '"1"', "null", '{"b": 1, "a": [true]}'])
def test_ids_that_are_written_alike_agree(here: Path, capsys: pytest.CaptureFixture[str], id: str) -> None:
    (here / "p.jsonl").write_text(f'{{"id": {id}, "text": "a"}}\n')
    (here / "r.jsonl").write_text(f'{{"text": "a", "id": {id}}}\n')
    code, _, _ = outcome(capsys, "--reward", "exact_match", *FILES, "--out", "s.jsonl")
    assert (code, json.loads((here / "s.jsonl").read_text())) == (0, {"id": json.loads(id), "score": 1.0})


def test_not_utf8_and_a_byte_order_mark(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "p.jsonl").write_bytes(b'\xef\xbb\xbf"a"\n"b"\n\n\n')
    (here / "r.jsonl").write_text('"a"\r\n"b"')
    assert outcome(capsys, "--reward", "rouge", *FILES)[:2] == (0, "rouge 1.000000 (2 rows)\n")
    (here / "p.jsonl").write_bytes(b'"a"\n"\xff"\n')
    code, _, err = outcome(capsys, "--reward", "rouge", *FILES)
    assert (code, err.splitlines()[-1]) == (2, "p.jsonl:2: not UTF-8 text")


def test_a_row_that_cannot_be_scored_is_named_by_its_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "CHUNK_ROWS", 2)
    write(here / "p.jsonl", ["1"] * 6)
    write(here / "r.jsonl", ["1", "1", "1", "none", "1", "1"])
    code, _, err = outcome(capsys, "--reward", "numeric", *FILES)
    assert (code, err.splitlines()[-1]) == (2, 'p.jsonl:4: reward numeric: the reference "none" has no number')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reward", "rogue", *FILES), 'unknown reward "rogue". Did you mean "rouge"?'),
        (
            ("--reward", "rouge", *FILES, "--option", "varient=rouge1"),
            'unknown option "varient" of reward=rouge. Did you',
        ),
        (("--reward", "rouge", *FILES, "--option", "variant"), 'malformed override "variant": expected key=value'),
        (("--reward", "rouge", "--predictions", "q.jsonl", "--references", "r.jsonl"), "q.jsonl: cannot read: no such"),
        (
            ("--reward", "rouge", "--predictions", "p.jsonl", "--references", "q.jsonl", "--field", "answer"),
            "q.jsonl: cannot read: no such",
        ),
        (("--reward", "rouge", *FILES, "--out", "no/where/s.jsonl"), "no/where/s.jsonl: cannot write: no such file"),
        (("--reward", "rouge", *FILES, "--field", "anser"), 'p.jsonl:1: has no field "anser". Did you mean "answer"?'),
        (("--reward", "rouge", "--prediction", "p.jsonl"), "instructrec-rl score: "),
        (("--reward", "constraints", *FILES), "reward constraints: needs an environment with items"),
    ],
)
def test_wrong_arguments_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    write(here / "p.jsonl", [{"answer": "a"}])
    write(here / "r.jsonl", ["a"])
    code, said, err = outcome(capsys, *arguments)
    assert (code, said) == (2, "")
    assert message in err.splitlines()[-1]


def test_a_pipe_can_be_scored(here: Path) -> None:
    write(here / "p.jsonl", PREDICTIONS)
    write(here / "r.jsonl", REFERENCES)
    command = (
        f"{sys.executable} -m instructrec_rl score --reward rouge --predictions <(cat p.jsonl) --references r.jsonl"
    )
    done = subprocess.run(["bash", "-c", command], env=environment(), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "rouge 0.500000 (4 rows)\n"), done.stderr


def test_memory_does_not_grow_with_the_files() -> None:
    def peak_mb(pairs: int) -> float:
        # the benchmark is the parent of the process that it measures: a child's peak starts at its parent's size
        command = [sys.executable, "-m", "benchmarks.speed.score_million", "--pairs", str(pairs)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["scores"] == pairs
        return float(found["peak_rss_mb"])

    small, large = peak_mb(20_000), peak_mb(80_000)
    assert large < 400
    assert large - small < 30  # the 120,000 texts more are 13 MB on disk, and twice that as Python objects


def test_help_shows_an_example(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.run_command(cli.dispatch, ["score", "--help"])
    assert left.value.code == 0
    assert "instructrec-rl score --reward rouge --predictions p.jsonl" in capsys.readouterr().out
