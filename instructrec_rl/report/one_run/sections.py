"""The sections of the report's page, each from the parts of a run folder that it shows; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from instructrec_rl.core.files import flattened
from instructrec_rl.report.one_run.figures import bars_svg, curves_svg
from instructrec_rl.run.screen import answerers, figure, main_metric, share, values_of

Result = dict[str, Any]

# A control character would be dropped or break the page; U+FFFD shows that one was there.
CONTROLS = {code: "�" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}
SAMPLES = 20
SHOWN_REFERENCES = 3
OPS = {"has": "has", "lacks": "lacks", "is": "is", "is_not": "is not", "any_of": "is one of", "none_of": "is none of",
       "at_most": "at most", "at_least": "at least"}  # fmt: skip


def text(value: Any) -> str:
    """A value as inert HTML text."""
    return escape(str(value))


def document(title: str, body: str) -> str:
    """A whole page that fetches nothing and runs nothing. title: a text; body: HTML."""
    css = Path(__file__).parents[1].joinpath("page.css").read_text(encoding="utf-8")
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return html.translate(CONTROLS)


def header(eyebrow: str, heading: str, facts: Mapping[str, Any], lead: str) -> str:
    """The page's head: what it is, its title, facts (an empty one is left out) and what the figures say; all texts."""
    listed = "".join(
        f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items() if v not in (None, "")
    )
    said = text(lead).replace(" %", "&nbsp;%")
    return (
        f'<header>\n<p class="eyebrow">{text(eyebrow)}</p>\n<h1>{text(heading)}</h1>\n'
        f'<dl class="facts">{listed}</dl>\n<p class="lead">{said}</p>\n</header>'
    )


def section(heading: str, note: str, *parts: str) -> str:
    """A section under an h2. `heading` and `note` are texts, `parts` HTML."""
    note = f'<p class="note">{text(note)}</p>' if note else ""
    return "\n".join([f"<section>\n<h2>{text(heading)}</h2>", note, *parts, "</section>"])


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "compare") -> str:
    """A table in a box that scrolls by itself. `caption` and `head` are texts, cells HTML; a row's first its head."""
    name, colon, rest = caption.partition(": ")
    shown = f"<b>{text(name)}</b> {text(rest)}" if colon else text(caption)
    return framed(caption, shown, head, [[row[0], *(f"<td>{cell}</td>" for cell in row[1:])] for row in rows], kind)


def framed(label: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """The same with `caption` as HTML and whole <td> elements; `label` is the text that a screen reader says."""
    columns = "".join(f'<th scope="col">{text(h)}</th>' for h in head)
    body = "\n".join(f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>' for first, *cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}"><table class="{kind}">'
        f"<caption><span>{caption}</span></caption>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def cell(values: tuple[float | None, float | None]) -> str:
    """A cell with (normalised, raw)."""
    return f"<span>{share(values[0])}</span><small>{figure(values[1])}</small>"


def compared(result: Result) -> str:
    """A table for each task metric: splits down, the policy and every baseline across."""
    who = answerers(result)
    metrics = [name for name in next(iter(result["splits"].values()))["metrics"] if name != "valid"] or ["valid"]
    tables = [
        table(
            f"{metric}: per cent of the way from random to oracle, and the raw mean",
            ["split", *who],
            [
                *([text(s), *(cell(values_of(found, s, metric)) for found in who.values())] for s in result["splits"]),
                *_train_row(result, metric, len(who)),
            ],
            _width(who),
        )
        for metric in metrics
    ]
    note = (
        "Per cent of the way from random (0 %) to oracle (100 %): (x - random) / (oracle - random). Metrics are "
        "computed apart from the training reward. The splits are held out of training; validation, where listed, "
        "chose which policy to keep; train is there to be held against them."
    )
    return section("The policy beside every baseline", note, *tables, _reward_table(result))


def _train_row(result: Result, metric: str, columns: int) -> list[list[str]]:
    """What was learned from: far above the test splits means learned by heart. Runs of before have no such row."""
    score = result.get("train", {}).get("metrics", {}).get(metric)
    if score is None:
        return []
    return [["train (learned from)", cell((None, score)), *[cell((None, None))] * (columns - 1)]]


def _width(who: Mapping[str, Any]) -> str:
    return "compare many" if len(who) > 7 else "compare"  # many: the raw mean goes below, to keep columns narrow


def _reward_table(result: Result) -> str:
    splits = result["splits"]
    parts = list(dict.fromkeys(name for split in splits.values() for name in split.get("reward_parts", {})))
    valid = any("valid" in split["metrics"] for split in splits.values())
    rows = []
    for name, split in splits.items():
        row = [text(name), f"{split['n']:,}" if "n" in split else "–", figure(split.get("reward"))]
        row += [figure(split.get("reward_parts", {}).get(part)) for part in parts]
        rows.append(row + ([share(split["metrics"].get("valid"))] if valid else []))
    head = ["split", "instructions", f"reward ({result['reward']})", *parts, *(["valid answers"] if valid else [])]
    name = "Training reward and its parts" if parts else "Training reward"
    return table(f"{name}: means over each split, for the policy", head, rows, "plain")


def bars(result: Result) -> str:
    """A bar figure for each split, on the main metric."""
    metric, who = main_metric(result), answerers(result)
    raw = all(values_of(result["splits"], split, metric)[0] is None for split in result["splits"])
    figures = []
    for number, (split, found) in enumerate(result["splits"].items()):
        values = [values_of(splits, split, metric)[1 if raw else 0] for splits in who.values()]
        said = ", ".join(f"{name} {figure(v) if raw else share(v)}" for name, v in zip(who, values))
        svg = bars_svg(["policy", *list(who)[1:]], values, f"{metric} on {split}: {said}", f"bar{number}", raw)
        count = f"{found['n']:,} instructions" if "n" in found else ""
        figures.append(f"<figure><figcaption><b>{text(split)}</b> {count}</figcaption>{svg}</figure>")
    note = f"{metric}, {'raw means' if raw else 'normalised'}: the policy and each baseline, one figure a split."
    return section("Every split", note, f'<div class="plots">{"".join(figures)}</div>')


def curves(lines: Sequence[dict[str, Any]], best_step: int | None, monitor: dict[str, Any] | None = None) -> str:
    """The learning curves, from the lines of metrics.jsonl, and where the monitor saw reward and task metric part."""
    parted_step = monitor["parted_step"] if monitor else None
    keys = list(dict.fromkeys(key for line in lines for key, value in line.items() if value is not None))
    validated = [key for key in keys if key.startswith("validation/")]
    figures = []
    for number, (title, shown) in enumerate({"Training reward": ["reward"], "Validation": validated}.items()):
        if shown and all(key in keys for key in shown):
            ends = ", ".join(f"{k.removeprefix('validation/')} {figure(_last(lines, k))}" for k in shown)
            label = f"{title} against interactions; last values: {ends}"
            label += f"; reward and metric part at {parted_step:,}" if parted_step is not None else ""
            svg = curves_svg(lines, shown, best_step, label, f"curve{number}", parted_step)
            figures.append(f"<figure><figcaption><b>{title}</b> last: {text(ends)}</figcaption>{svg}</figure>")
    if not figures:
        return section("Learning curves", "None: metrics.jsonl logged no reward, as with a policy that does not learn.")
    note = "Training reward includes exploration; validation is greedy, on instructions the policy does not train on."
    if monitor:
        note += f" The monitor saw {parting_words(monitor)}: from there on the reward paid for something else."
        note += " Learning was stopped." if monitor.get("stopped") else ""
    return section("Learning curves", note, f'<div class="plots wide">{"".join(figures)}</div>')


def parting_words(monitor: Mapping[str, Any]) -> str:
    """How the training reward and the task metric parted, from result.json's `monitor`."""
    reward, metric = ([monitor.get(f"{name}_{when}") for when in ("before", "after")] for name in ("reward", "metric"))
    return (
        f"reward and metric part at {monitor['parted_step']:,} interactions: by {monitor['noticed_step']:,} the "
        f"training reward had risen from {figure(reward[0])} to {figure(reward[1])} and validation {monitor['metric']} "
        f"fallen from {figure(metric[0])} to {figure(metric[1])}"
    )


def _last(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)


def wordings(result: Result) -> str:
    """The main metric for simple and crossing instructions apart; nothing where the data does not tell them."""
    metric = main_metric(result)
    who = {n: found for n, found in answerers(result).items() if any(_wording(found, s) for s in result["splits"])}
    names = list(dict.fromkeys(w for found in who.values() for s in result["splits"] for w in _wording(found, s)))
    rows = []
    for split in result["splits"]:
        for wording in names:
            if wording in (own := _wording(result["splits"], split)):
                cells = (cell(values_of(_wording(found, split), wording, metric)) for found in who.values())
                rows.append([f"{text(split)}, {text(wording)} <small>({own[wording].get('n', 0):,})</small>", *cells])
    if not rows:
        return ""
    note = "Crossing instructions join or share clauses, as in “neither mushrooms nor olives”; simple ones do not."
    body = table(
        f"{metric} by wording: per cent of the way, and the raw mean", ["split, wording", *who], rows, _width(who)
    )
    return section("By wording", note if "crossing" in names else "", body)


def _wording(splits: dict[str, Any], split: str) -> dict[str, Any]:
    return splits.get(split, {}).get("by", {}).get("wording", {})


def kinds(result: Result, records: Sequence[dict[str, Any]]) -> str:
    """How often each kind of constraint is satisfied; nothing where there are no constraints."""
    found = {s: split["by"]["kind"] for s, split in result["splits"].items() if split.get("by", {}).get("kind")}
    note = "Share of the constraints of each kind that the policy's answers satisfy, with how many there were."
    if not found:
        found = _kinds_of_samples(records)
        note += " Counted over the rows of samples.jsonl only."
    if not found:
        return ""
    names = {kind for by_kind in found.values() for kind in by_kind}
    means = {kind: _mean_share([by_kind[kind] for by_kind in found.values() if kind in by_kind]) for kind in names}
    rows = [
        [text(kind), f"<span>{share(mean)}</span>", *(_kind_cell(by_kind.get(kind)) for by_kind in found.values())]
        for kind, mean in sorted(means.items(), key=lambda pair: (pair[1], pair[0]))
    ]
    body = table("Satisfied: by kind of constraint, the kind that fails most first", ["kind", "all", *found], rows)
    return section("Where it fails", note, body)


def _mean_share(counts: Sequence[Mapping[str, float]]) -> float:
    return sum(c["n"] * c["satisfied"] for c in counts) / sum(c["n"] for c in counts)


def _kind_cell(count: Mapping[str, float] | None) -> str:
    return f"<span>{share(count['satisfied'])}</span><small>of {count['n']:,}</small>" if count else "–"


def _kinds_of_samples(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    seen: dict[str, dict[str, list[bool]]] = {}
    for sample in records:
        for constraint in sample.get("constraints") or ():
            kinds = seen.setdefault(str(sample.get("split", "")), {})
            kind = str(constraint.get("kind") or constraint.get("attribute"))
            kinds.setdefault(kind, []).append(bool(constraint.get("satisfied")))
    return {
        split: {kind: {"n": len(hits), "satisfied": sum(hits) / len(hits)} for kind, hits in kinds.items()}
        for split, kinds in seen.items()
    }


def samples(records: Sequence[dict[str, Any]]) -> str:
    """Up to twenty samples, spread evenly over the splits and over each split's rows."""
    chosen = spread(records, SAMPLES)
    if not chosen:
        return section("Samples", "None: the folder has no samples.jsonl, or it is empty.")
    note = "Taken at even distances from samples.jsonl, right and wrong answers alike."
    return section("Samples", note, f'<div class="samples">{"".join(map(_sample, chosen))}</div>')


def spread(records: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """`number` records at most, in order of split: as many from each split as can be, at even distances within it."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_split.setdefault(str(record.get("split", "")), []).append(record)
    quota = dict.fromkeys(by_split, 0)
    for _ in range(min(number, len(records))):
        open_still = [split for split in quota if quota[split] < len(by_split[split])]
        quota[min(open_still, key=lambda split: quota[split])] += 1
    return [by_split[split][i * len(by_split[split]) // n] for split, n in quota.items() for i in range(n)]


def _sample(record: dict[str, Any]) -> str:
    about = [f"<span>{text(record[key])}</span>" for key in ("split", "wording", "id") if record.get(key)]
    best, references = record.get("best_response"), list(record.get("references") or ())
    others = [reference for reference in references if reference != best]
    response = record.get("response", "")
    right = '<div class="met">✓ one of the right answers</div>' if response and response in [best, *references] else ""
    fields = {
        "Answer": f'<dd class="answer" dir="auto">{text(response)}{right}</dd>',
        "Right answers": _right_answers(([best] if best else []) + others),
        "Baseline": f"<dd>{_lines([baseline])}</dd>" if (baseline := record.get("baseline_response")) else "",
        "Constraints": _constraints(record.get("constraints") or ()),
        "Reward parts": _values(record.get("reward_parts") or {}),
        "Metrics": _values(record.get("metrics") or {}),
    }
    listed = "\n".join(f"<dt>{name}</dt>{value}" for name, value in fields.items() if value)
    reward = f"<b>reward {figure(record.get('reward'))}</b>"
    return (
        f'<article>\n<header>{"".join(about)}{reward}</header>\n<h3 dir="auto">{text(record["instruction"])}</h3>\n'
        f"<dl>{listed}</dl>\n</article>\n"
    )


def _right_answers(answers: Sequence[str]) -> str:
    if not answers:
        return "<dd>none given</dd>"
    shown, rest = answers[:SHOWN_REFERENCES], answers[SHOWN_REFERENCES:]
    more = f"<details><summary>{len(rest)} more</summary>{_lines(rest)}</details>" if rest else ""
    return f"<dd>{_lines(shown)}{more}</dd>"


def _lines(answers: Iterable[str]) -> str:
    return "".join(f'<div dir="auto">{text(answer)}</div>' for answer in answers)


def _values(values: Mapping[str, float | None]) -> str:
    shown = ", ".join(f"{text(name)} {figure(value)}" for name, value in values.items())
    return f"<dd>{shown}</dd>" if values else ""


def _constraints(constraints: Iterable[dict[str, Any]]) -> str:
    marks = [
        f'<li class="met">✓ {text(constraint_words(one))}</li>' if one.get("satisfied")
        else f'<li class="missed">✗ {text(constraint_words(one))} (missed)</li>'
        for one in constraints
    ]  # fmt: skip
    return f"<dd><ul>{''.join(marks)}</ul></dd>" if marks else ""


def constraint_words(constraint: dict[str, Any]) -> str:
    """A constraint as people say it: `toppings lacks mushrooms`, `price at most 12`."""
    value, op = constraint.get("value"), str(constraint.get("op", ""))
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{constraint.get('attribute')} {OPS.get(op, op)} {shown}"


def repeat(manifest: dict[str, Any], config: str, result: Result) -> str:
    """How to repeat the run, and which rows of the data were left out."""
    command = f"<pre><code>{text(manifest.get('command', 'not recorded'))}</code></pre>"
    times = {key: f"{result[key]:,.1f} s" for key in ("wall_s", "cpu_s") if key in result}
    steps = {key: f"{result[key]:,}" for key in ("interactions", "best_step") if result.get(key) is not None}
    about = {key: manifest.get(key) for key in ("commit", "device", "threads", "started")}
    facts: dict[str, Any] = {"seed": result["seed"], **about} | steps | times
    tables = {
        "The run": facts,
        "Versions": manifest.get("versions"),
        "SHA-256 of what it read": manifest.get("sha256"),
        "Monitor": result.get("monitor"),
    }
    listed = [_pairs(caption, found) for caption, found in tables.items() if found]
    left_out = manifest.get("left_out")
    rows = _pairs("Rows of the data that were left out", left_out) if left_out else "<p>No row was left out.</p>"
    settings = f"<details><summary>config.yaml: every setting</summary><pre><code>{text(config)}</code></pre></details>"
    return "\n".join(
        [
            section("How to repeat it", "The same command, data and versions give the same figures; times vary.",
                    command, *listed, settings if config else ""),
            section("Left-out rows", "", rows if "left_out" in manifest else "<p>Not recorded.</p>"),
        ]
    )  # fmt: skip


def _pairs(caption: str, content: Mapping[str, Any]) -> str:
    known = [(key, value) for key, value in flattened(content, " / ") if value not in ("", None)]
    return table(caption, ["what", "value"], [[text(k), f"<code>{text(v)}</code>"] for k, v in known], "words")
