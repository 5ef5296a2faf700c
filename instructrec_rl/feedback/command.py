"""`instructrec-rl feedback check|stats|merge|export|import|simulate|schema`."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from instructrec_rl.core import InputError, nearest
from instructrec_rl.core.command_line import DONE, WRONG_INPUT, Parser
from instructrec_rl.core.files import find_envs, write_jsonl_atomic
from instructrec_rl.core.inert import printable, shortened
from instructrec_rl.core.tables import console
from instructrec_rl.feedback import exports, imports, quality
from instructrec_rl.feedback.schema import MAX_LINE_BYTES, dump, json_schema
from instructrec_rl.feedback.store import Store

ACTIONS = {
    "check": "read all feedback and name every bad line (exit code 2 where there is one)",
    "stats": "agreement, annotators, coverage, drift, and how well a reward can be learned from it",
    "merge": "write what counts into one file",
    "export": f"write it in another format: {', '.join(exports.FORMATS)}",
    "import": f"read another format: {', '.join(imports.READERS)}",
    "simulate": "write ratings by simulated annotators, to plan how many are needed",
    "schema": "print the JSON Schema of a line",
}
EPILOG = "\n".join(
    [
        "commands:",
        *(f"  {name:<8} {about}" for name, about in ACTIONS.items()),
        "",
        "Without PATHs, feedback is every *.jsonl under rewards/ here and in $INSTRUCTREC_PATH. Examples:",
        "  instructrec-rl feedback check",
        "  instructrec-rl feedback stats --env pizza_rec",
        "  instructrec-rl feedback export --format trl-preference --out pairs.jsonl",
        "  instructrec-rl feedback import votes.json --format pandalm --out rewards/feedback/votes.jsonl",
    ]
)


def main(argv: list[str]) -> int:
    """Run one of ACTIONS. Raises InputError for wrong arguments."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: instructrec-rl feedback COMMAND [PATH ...]\n\n" + EPILOG)
        return DONE
    if argv[0] not in ACTIONS:
        raise InputError(f'feedback: there is no command "{argv[0]}".{nearest(argv[0], ACTIONS)}')
    commands: dict[str, Callable[[list[str]], int]] = {
        "check": _check,
        "stats": _stats,
        "merge": _merge,
        "export": _export,
        "import": _import,
        "simulate": _simulate,
        "schema": _schema,
    }
    return commands[argv[0]](argv[1:])


def _parser(action: str, paths: bool = True) -> Parser:
    parser = Parser(prog=f"instructrec-rl feedback {action}", description=ACTIONS[action].capitalize() + ".")
    if paths:
        parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders (default: rewards/)")
    return parser


def _store(paths: Sequence[Path]) -> Store:
    for path in paths:
        if not path.exists():
            raise InputError("there is no such file or folder", path)
    return Store(paths or None)


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    text = os.path.relpath(path)
    return str(path) if text.startswith("..") else text


def _check(argv: list[str]) -> int:
    store = _store(_parser("check").parse_args(argv).paths)
    for problem in store.problems:
        where = f"{_shown(problem.path)}:{problem.line}" if problem.line else _shown(problem.path)
        print(shortened(printable(f"{where}: {problem.reason}")), file=sys.stderr)
    kinds = Counter(record.kind for record in store.records)
    good = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
    print(f"{len(store.paths):,} files, {len(store.entries):,} good lines, {len(store.problems):,} bad")
    print(f"what counts: {good}")
    for words in quality.of_unknown_envs(store.records, find_envs()):
        print(printable(words))
    if store.num_duplicates:
        print(f"ids that were there twice: {store.num_duplicates:,}")
    for path in store.waiting:
        print(f"{printable(_shown(path))}: the last line has no newline yet; it waits for it")
    return WRONG_INPUT if store.problems else DONE


def _stats(argv: list[str]) -> int:
    # read the command line and the feedback
    parser = _parser("stats")
    parser.add_argument("--env", default="", help="an environment: its feedback alone, and coverage of its splits")
    parser.add_argument("--no-learned", action="store_true", help="leave out what needs the encoder")
    arguments = parser.parse_args(argv)
    store = _store(arguments.paths)
    records = [record for record in store.records if not arguments.env or record.env in ("", arguments.env)]
    if not records:
        raise InputError(f"there is no feedback in {', '.join(map(str, store.folders))}")
    env: Any = None
    if arguments.env:
        from instructrec_rl import load_env

        env = load_env(arguments.env)
    # fit the learned reward
    honest: dict[str, float] = {}
    validated: list[str] = []
    if not arguments.no_learned:
        honest, validated = _learned(records, arguments.env, env)
    # print agreement, coverage and duplicates
    ids = {record.id for record in records}
    entries = [entry for entry in store.entries if entry.record.id in ids]
    _print_annotators(quality.annotators(entries, honest))
    for name, alpha in quality.alphas(records).items():
        print(f"Krippendorff's alpha, {name}: {alpha:.3f}")
    if env is not None:
        asked = {split: [env.examples[row].instruction for row in rows] for split, rows in env.splits.items()}
        covered = quality.coverage(records, asked)
        print("coverage: " + ", ".join(f"{printable(split)} {has:,} of {of:,}" for split, (has, of) in covered.items()))
    from instructrec_rl.core.same_text import fold

    alike = quality.near_duplicates(records, fold)
    print(f"duplicates: {store.num_duplicates:,} by id, {alike:,} but for case and white space")
    print("\n".join(validated))
    return DONE


def _learned(records: Sequence[Any], name: str, env: Any) -> tuple[dict[str, float], list[str]]:
    """What the learned reward says of each annotator, and how well it does on held-out instructions."""
    from instructrec_rl.encoders.loading import load_encoder
    from instructrec_rl.feedback.learned.cross_validation import FOLDS, cross_validate
    from instructrec_rl.feedback.learned.judgements import collect
    from instructrec_rl.feedback.learned.model import MIN_JUDGEMENTS, learn

    items = [] if env is None else env.items
    judged = collect(records, name, items)
    if len(judged) < FOLDS * MIN_JUDGEMENTS:
        return {}, [
            f"learned reward: {len(judged)} judgements are too few to validate, {FOLDS * MIN_JUDGEMENTS} needed"
        ]
    encoder = load_encoder() if env is None else env.encoder
    fitted = learn(judged, encoder, items, interaction="never")
    honest = dict(zip(judged.annotators, fitted.trust.tolist()))
    try:
        found = cross_validate(judged, lambda part: learn(part, encoder, items))
    except InputError as error:  # of few instructions and responses a fold may hold nearly all
        return honest, [f"learned reward: it cannot be validated, as without a fold {error.reason}"]
    return honest, found.lines()


def _print_annotators(annotators: Iterable[quality.Annotator]) -> None:
    # make the cells
    header = ["annotator", "records", "ratings", "mean", "deviation", "agreement", "shared", "honest", ""]
    rows = [header]
    for one in annotators:
        notes = ["likely random"] if one.likely_random else []
        notes += [f"drift {one.drift:+.2f}"] if one.drift is not None else []
        figures = [_figure(value) for value in (one.mean, one.deviation, one.agreement)]
        rows.append(
            [
                printable(one.name),
                f"{one.count:,}",
                f"{one.ratings:,}",
                *figures,
                f"{one.shared:,}",
                _figure(one.honest),
                "; ".join(notes),
            ]
        )
    # a table on a terminal
    if sys.stdout.isatty():
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None)
        for column, name in enumerate(header):
            table.add_column(name, justify="left" if column in (0, len(header) - 1) else "right")
        for row in rows[1:]:
            table.add_row(*map(Text, row))
        console().print(table)
        return
    # aligned lines elsewhere
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1])), row[-1]]
        print("  ".join(cells).rstrip())


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _merge(argv: list[str]) -> int:
    parser = _parser("merge")
    parser.add_argument("--out", required=True, type=Path, help="the file to write; it must not be there yet")
    arguments = parser.parse_args(argv)
    store = _store(arguments.paths)
    lines, too_long = [], []
    for record in sorted(store.records, key=lambda record: (record.ts, record.id)):
        line = dump(record)
        size = len(json.dumps(line, ensure_ascii=False).encode())
        if size <= MAX_LINE_BYTES:
            lines.append(line)
        else:  # with its id and kind, which the line that was read need not have had
            too_long.append((record.id, size))
    _write(arguments.out, lines)
    places = {entry.record.id: entry.order for entry in store.entries} if too_long else {}
    for id, size in too_long:
        where = f"{_shown(Path(places[id][2]))}:{places[id][3]}"
        print(f"{where}: is not merged: it would be a line of {size:,} bytes, at most {MAX_LINE_BYTES:,} are read",
              file=sys.stderr)  # fmt: skip
    left = len(store.entries) - len(lines) - len(too_long)
    print(f"{arguments.out}: {len(lines):,} records; {left:,} that no longer count and {len(store.problems):,} bad "
          "lines were left out")  # fmt: skip
    return WRONG_INPUT if too_long else DONE


def _export(argv: list[str]) -> int:
    parser = _parser("export")
    parser.add_argument("--format", required=True, help=", ".join(exports.FORMATS))
    parser.add_argument("--out", required=True, type=Path, help="the JSONL file to write; it must not be there yet")
    parser.add_argument("--env", default="", help="the feedback of one environment")
    arguments = parser.parse_args(argv)
    _known(arguments.format, exports.FORMATS)
    records = [r for r in _store(arguments.paths).records if not arguments.env or r.env in ("", arguments.env)]
    rows = list(exports.export_rows(records, arguments.format))
    _write(arguments.out, rows)
    print(f"{arguments.out}: {len(rows):,} rows from {len(records):,} records")
    return DONE


def _import(argv: list[str]) -> int:
    # read the command line
    parser = _parser("import", paths=False)
    parser.add_argument("file", type=Path, help="a JSON list or JSONL")
    parser.add_argument("--format", required=True, help=", ".join(imports.READERS))
    parser.add_argument("--out", required=True, type=Path, help="the feedback file to write; it must not be there yet")
    parser.add_argument("--env", default="", help="the environment that the feedback is of (default: any)")
    parser.add_argument("--annotator", default="", help="who, for rows that name no one")
    parser.add_argument("--scale", action="append", default=[], metavar="[QUESTION=]LOW,HIGH",
                        help="the lowest and highest rating (default: 1,5), of one question or of all")  # fmt: skip
    for flag, meaning in (("question", "read its answers alone"), ("correction", "its answers are the right response")):
        parser.add_argument(f"--{flag}", action="append", default=[], metavar="NAME",
                            help=f"of argilla and label-studio: {meaning}; again for another")  # fmt: skip
    arguments = parser.parse_args(_joined(argv))
    _known(arguments.format, imports.READERS)
    for flag, given in (("question", arguments.question), ("correction", arguments.correction)):
        if given and arguments.format not in imports.BY_QUESTION:
            raise InputError(f"--{flag}: {arguments.format} has no questions; only {', '.join(imports.BY_QUESTION)}")
    # read the file
    imported = imports.read(
        arguments.file,
        arguments.format,
        arguments.env,
        arguments.annotator,
        dict(_scale(text) for text in arguments.scale),
        arguments.question,
        arguments.correction,
    )
    # say what was left out
    for index, reason in imported.broken:
        print(shortened(printable(f"{arguments.file}: row {index}: {reason}")), file=sys.stderr)
    for note in imported.notes:
        print(shortened(printable(f"{arguments.file}: {note}")), file=sys.stderr)
    if not imported.records:
        raise InputError(f"not one row could be read as {arguments.format}", arguments.file)
    # write the records
    _write(arguments.out, [dump(record) for record in imported.records])
    number, broken = len(imported.records), len(imported.broken)
    print(f"{arguments.out}: {number:,} records; {broken:,} broken rows or answers were left out")
    return DONE


def _joined(argv: list[str]) -> list[str]:
    """`--scale -1,1` as `--scale=-1,1`: argparse takes what begins with a dash for a flag."""
    joined: list[str] = []
    for text in argv:
        if joined and joined[-1] == "--scale":
            joined[-1] = f"--scale={text}"
        else:
            joined.append(text)
    return joined


def _scale(text: str) -> tuple[str, imports.Scale]:
    """`quality=0,10` as ("quality", (0.0, 10.0)); without a question under ""."""
    question, _, ends = text.rpartition("=")
    try:
        low, high = (float(end) for end in ends.split(","))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"--scale {text}: expected the lowest and the highest rating, such as 0,10 or quality=-1,1")
    return question, (low, high)


def _simulate(argv: list[str]) -> int:
    parser = _parser("simulate", paths=False)
    parser.add_argument("--env", required=True, help="the environment whose items are rated")
    parser.add_argument("--reward", default="", help="what an item is truly worth (default: the environment's reward)")
    parser.add_argument("--ratings", type=int, required=True, help="how many pairs of instruction and item are rated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the file; it must not be there yet")
    arguments = parser.parse_args(argv)
    from instructrec_rl import load_env
    from instructrec_rl.feedback.simulate import NUM_ANNOTATORS, simulate

    env = load_env(arguments.env, reward=arguments.reward)
    try:
        lines = simulate(env, arguments.ratings, arguments.seed)
    except ValueError as error:
        raise InputError(f"--ratings {arguments.ratings}: {error}") from error
    _write(arguments.out, lines)
    print(f"{arguments.out}: {len(lines):,} ratings by {NUM_ANNOTATORS} simulated annotators, one of them at random")
    return DONE


def _schema(argv: list[str]) -> int:
    _parser("schema", paths=False).parse_args(argv)
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return DONE


def _known(name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise InputError(f'--format: there is no format "{name}".{nearest(name, names)}')


def _write(path: Path, rows: Sequence[Any]) -> None:
    if path.exists():
        raise InputError("is there already; give another file", path)
    write_jsonl_atomic(path, rows)
