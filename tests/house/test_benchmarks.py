"""The commands behind docs/results/peers.md and docs/results/policy_variants.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_comparison_runs_and_its_ratios_are_shown(tmp_path: Path) -> None:
    page = ROOT / "docs" / "results" / "peers.md"
    before = page.read_text(encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers.peers",
        "--quick",
        "--only",
        "environment",
        "--out",
        str(tmp_path),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))["rows"]
    assert {row["environment"] for row in rows} == {"naive", "SyncVectorEnv", "ours"}
    shown = ran.stdout.partition("Ours against other programs")[2]
    assert shown.count("x as fast") == 3
    assert "gymnasium" in shown
    assert page.read_text(encoding="utf-8") == before


def test_a_script_that_fails_is_named_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers import peers

    ran: list[str] = []

    def run(name: str, out: Path, quick: bool) -> int:
        ran.append(name)
        return int(name == "rewards")

    monkeypatch.setattr(peers, "run", run)
    monkeypatch.setattr(sys, "argv", ["peers.py", "--out", str(tmp_path), "--only", "encoder", "rewards", "sb3"])
    with pytest.raises(SystemExit, match="failed: rewards"):
        peers.main()
    assert ran == ["encoder", "rewards", "sb3"]


def test_the_results_page_is_what_its_command_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.results import benches

    written: dict[Path, str] = {}
    monkeypatch.setattr(benches, "write_text_atomic", written.__setitem__)
    monkeypatch.setattr(sys, "argv", ["benches.py"])
    benches.main()
    page = ROOT / "docs" / "results" / "policy_variants.md"
    assert sorted(path.stem for path in benches.KEPT.glob("*.json")) == [
        "policy_variants-full",
        "policy_variants-quick",
    ]
    assert written == {page: page.read_text(encoding="utf-8")}
